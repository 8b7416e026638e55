from .replay import ReplayResult, run_replay
from .result import ProxyAccuracy, ProxyReplay
from .settings import EvaluateProxySettings, ReplaySettings

__all__ = [
    "EvaluateProxySettings",
    "ProxyAccuracy",
    "ProxyReplay",
    "ReplayResult",
    "ReplaySettings",
    "run_replay",
]
