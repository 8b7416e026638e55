from .card import ModelCard
from .contenders import Contender
from .result import RetrainResult, RetrainRow
from .settings import RetrainSettings

__all__ = ["Contender", "ModelCard", "RetrainResult", "RetrainRow", "RetrainSettings"]
