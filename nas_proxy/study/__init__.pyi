from .config import StudyConfig, check_config, load_config
from .pipeline import open_study, run_pipeline

__all__ = ["StudyConfig", "check_config", "load_config", "open_study", "run_pipeline"]
