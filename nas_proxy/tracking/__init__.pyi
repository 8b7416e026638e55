from ._runs import RunLog, Tracker, TrackingSettings, open_tracker
from ._ui import launch_ui

__all__ = ["RunLog", "Tracker", "TrackingSettings", "launch_ui", "open_tracker"]
