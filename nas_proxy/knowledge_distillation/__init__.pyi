from .objective import make_objective
from .prepared import KnowledgeDistillation, prepare_distillation, train_student
from .settings import KnowledgeDistillationSettings, TermSettings

__all__ = [
    "KnowledgeDistillation",
    "KnowledgeDistillationSettings",
    "TermSettings",
    "make_objective",
    "prepare_distillation",
    "train_student",
]
