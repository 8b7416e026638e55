from .augment import Augmentation
from .pictures import write_image_grid
from .proxy_dataset import Labelling, LearningRateRule, ProxyDataset
from .sources import DataSettings, load_splits
from .transforms import denormalise, normalise, resize
from .whitening import Whitening

__all__ = [
    "Augmentation",
    "DataSettings",
    "Labelling",
    "LearningRateRule",
    "ProxyDataset",
    "Whitening",
    "denormalise",
    "load_splits",
    "normalise",
    "resize",
    "write_image_grid",
]
