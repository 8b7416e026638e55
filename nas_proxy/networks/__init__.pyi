from .base import Network
from .catalogue import NetworkSettings, build_network
from .convnet import ConvNet
from .wrapped import WrappedNetwork

__all__ = ["ConvNet", "Network", "NetworkSettings", "WrappedNetwork", "build_network"]
