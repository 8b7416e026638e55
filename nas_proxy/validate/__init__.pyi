from .rank_report import Ranking, RankReport, Sample, judge
from .settings import ValidateSettings

__all__ = ["RankReport", "Ranking", "Sample", "ValidateSettings", "judge"]
