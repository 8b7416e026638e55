from .loop import TrainResult, train
from .measuring import Measurement, measure
from .objective import Objective
from .phases import Phase
from .settings import TrainSettings
from .teacher_settings import TeacherSettings
from .training_set import TrainingSet

__all__ = [
    "Measurement",
    "Objective",
    "Phase",
    "TeacherSettings",
    "TrainResult",
    "TrainSettings",
    "TrainingSet",
    "measure",
    "train",
]
