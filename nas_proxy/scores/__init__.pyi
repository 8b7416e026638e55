from .calibrated import CalibratedScore
from .combine import RankMean, ScoreSettings, SingleSignal, make_score
from .fisher import Fisher
from .flops import Flops
from .grad_norm import GradNorm
from .grasp import GraSP
from .jacobian_covariance import JacobianCovariance
from .log_synflow import LogSynFlow
from .meco import MeCo
from .naswot import NASWOT
from .num_layers import NumLayers
from .num_params import NumParams
from .regressors import GaussianProcess, Regressor, SingleKernel, make_regressor
from .snip import SNIP
from .synflow import SynFlow
from .zen import Zen
from .zico import ZiCo

__all__ = [
    "CalibratedScore",
    "Fisher",
    "Flops",
    "GaussianProcess",
    "GraSP",
    "GradNorm",
    "JacobianCovariance",
    "LogSynFlow",
    "MeCo",
    "NASWOT",
    "NumLayers",
    "NumParams",
    "RankMean",
    "Regressor",
    "SNIP",
    "ScoreSettings",
    "SingleKernel",
    "SingleSignal",
    "SynFlow",
    "Zen",
    "ZiCo",
    "make_regressor",
    "make_score",
]
