from .encoding import NetworkFeatures, encode_architecture, network_features
from .features import feature_names, graph_features
from .graph import Graph, Node
from .tracing import trace

__all__ = [
    "Graph",
    "NetworkFeatures",
    "Node",
    "encode_architecture",
    "feature_names",
    "graph_features",
    "network_features",
    "trace",
]
