from ._later import track_study
from ._runs import LoggedDataset, Period, RunLog, Tracker, TrackingSettings, open_tracker
from ._ui import launch_ui

__all__ = [
    "LoggedDataset",
    "Period",
    "RunLog",
    "Tracker",
    "TrackingSettings",
    "launch_ui",
    "open_tracker",
    "track_study",
]
