from .compressing import compress
from .onnx_file import OnnxNetwork, write_onnx
from .settings import CompressSettings

__all__ = ["CompressSettings", "OnnxNetwork", "compress", "write_onnx"]
