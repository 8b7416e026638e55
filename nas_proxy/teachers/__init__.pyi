from .label_solve import solve_labels
from .labelling import label
from .leakage import check_leakage
from .settings import LabelSettings
from .teacher import Ensemble, Teacher
from .training import obtain_teachers

__all__ = [
    "Ensemble",
    "LabelSettings",
    "Teacher",
    "check_leakage",
    "label",
    "obtain_teachers",
    "solve_labels",
]
