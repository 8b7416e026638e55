from .rank_report import judge
from .settings import ValidateSettings
from .values import Ranking, RankReport, Sample

__all__ = ["RankReport", "Ranking", "Sample", "ValidateSettings", "judge"]
