from .distribution_matching import DistributionMatching
from .file import ProxyDatasetFile
from .forgetting import Forgetting
from .gradient_matching import GradientMatching
from .herding import Herding
from .k_center import KCenter
from .k_means import KMeans
from .kernel_ridge import KernelRidge
from .layerwise_matching import LayerwiseMatching
from .meta_learning import MetaLearning
from .patch_selection import PatchSelection
from .random_subset import RandomSubset
from .rank_aware.distiller import RankAware
from .statistical_matching import StatisticalMatching
from .trajectory_matching.distiller import TrajectoryMatching

__all__ = [
    "DistributionMatching",
    "Forgetting",
    "GradientMatching",
    "Herding",
    "KCenter",
    "KMeans",
    "KernelRidge",
    "LayerwiseMatching",
    "MetaLearning",
    "PatchSelection",
    "ProxyDatasetFile",
    "RandomSubset",
    "RankAware",
    "StatisticalMatching",
    "TrajectoryMatching",
]
