from .card import ModelCard
from .contenders import Contender
from .settings import RetrainSettings

__all__ = ["Contender", "ModelCard", "RetrainSettings"]
