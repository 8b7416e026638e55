"""The stages of a study, in their order."""

from __future__ import annotations

from nas_proxy.study.stage import Stage
from nas_proxy.study.stages.calibrate import Calibrate
from nas_proxy.study.stages.distill import Distill
from nas_proxy.study.stages.report import Report
from nas_proxy.study.stages.retrain import Retrain
from nas_proxy.study.stages.search import Search
from nas_proxy.study.stages.validate import Validate

STAGES: tuple[Stage, ...] = (
    Distill(),
    Calibrate(),
    Search(),
    Validate(),
    Retrain(),
    Report(),
)

# A ranking that is judged for itself: nothing is searched by it.
JUDGING: tuple[Stage, ...] = (Distill(), Calibrate(), Validate(after_search=False))
