"""A trained network as files that are used elsewhere: weights, ONNX, torch.export."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
