"""Imported last by the process that workers are forked from, and by no other.

Python's garbage collection writes into every object that it looks at, and memory that a worker
writes into is its own from then on. What is frozen is not looked at, so that workers go on sharing
what was imported for them.
"""

import gc

gc.collect()
gc.freeze()
