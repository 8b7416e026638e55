from .rank_report import judge, points_of
from .settings import ValidateSettings
from .values import Point, Points, Ranking, RankReport, RankRow, Sample

__all__ = [
    "Point",
    "Points",
    "RankReport",
    "RankRow",
    "Ranking",
    "Sample",
    "ValidateSettings",
    "judge",
    "points_of",
]
