from .backbone import build_backbone
from .catalogue import BackboneFacts, list_backbones
from .pretrain_settings import PretrainSettings
from .pretraining import make_weights
from .weights import identify_weights, load_weights

__all__ = [
    "BackboneFacts",
    "PretrainSettings",
    "build_backbone",
    "identify_weights",
    "list_backbones",
    "load_weights",
    "make_weights",
]
