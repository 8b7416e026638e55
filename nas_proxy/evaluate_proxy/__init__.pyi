from .replay import ReplayResult, run_replay
from .settings import ReplaySettings

__all__ = ["ReplayResult", "ReplaySettings", "run_replay"]
