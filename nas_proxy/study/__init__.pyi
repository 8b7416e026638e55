from .all_stages import STAGES
from .config import StudyConfig, check_config, load_config
from .layout import StudyLayout
from .pipeline import open_study, run_pipeline
from .planning import plan_study
from .stage import Section, Source, Stage

__all__ = [
    "STAGES",
    "Section",
    "Source",
    "Stage",
    "StudyConfig",
    "StudyLayout",
    "check_config",
    "load_config",
    "open_study",
    "plan_study",
    "run_pipeline",
]
