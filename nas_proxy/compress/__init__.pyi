from .compressing import compress
from .onnx_file import OnnxNetwork, write_onnx
from .result import CompressionResult
from .settings import CompressSettings

__all__ = ["CompressSettings", "CompressionResult", "OnnxNetwork", "compress", "write_onnx"]
