"""What a person sees of a study in MLflow; the only package that imports it.

Every call appends one JSON line to `<study folder>/tracking/outbox.jsonl` and returns. A thread
carries the lines to the store in order and notes in `state.json` how far it came. So a store that
is slow, down or gone costs the study nothing, and the next run uploads what is left. Sending a
line twice is harmless: a run is looked up by its key before it is created again, and a metric
keeps its value, step and time.

`runs` is what the stages see, `outbox` the file, `uploader` the thread, `store` the MLflow side.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
