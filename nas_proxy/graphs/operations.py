"""What kind of operation a call of torch is, and its output's shape where that is cheap to say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

CONSTANT = "constant"
OTHER = "other"  # views, dropout and whatever else changes no feature

# Kind, and the functions of torch that do it, without underscores around their names.
_NAMES: dict[str, str] = {
    "conv": "conv1d conv2d conv3d",
    "transposed_conv": "conv_transpose1d conv_transpose2d conv_transpose3d",
    "linear": "linear bilinear",
    "product": "matmul rmatmul bmm mm einsum baddbmm addmm scaled_dot_product_attention "
    "multi_head_attention_forward",
    "max_pool": "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "max_pool2d_with_indices fractional_max_pool2d amax",
    "avg_pool": "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "lp_pool1d lp_pool2d mean",
    "batch_norm": "batch_norm",
    "layer_norm": "layer_norm rms_norm normalize local_response_norm",
    "group_norm": "group_norm",
    "instance_norm": "instance_norm",
    "rectifier": "relu relu6 hardtanh clamp",
    "leaky": "leaky_relu prelu rrelu elu selu celu",
    "smooth": "gelu silu mish hardswish softplus",
    "saturating": "sigmoid tanh hardsigmoid softsign logsigmoid",
    "softmax": "softmax log_softmax softmin",
    "add": "add iadd radd sub isub rsub",
    "multiply": "mul imul rmul multiply div truediv itruediv rtruediv",
    "concat": "cat concat concatenate stack hstack",
    "resize": "interpolate upsample pixel_shuffle pixel_unshuffle grid_sample",
    CONSTANT: "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones "
    "new_empty new_full new_tensor",
}
_KIND = {name: kind for kind, names in _NAMES.items() for name in names.split()}
# Their output has the shape of their input; torch's own answer without numbers takes milliseconds.
_SAME_SHAPE = (
    *("batch_norm", "layer_norm", "group_norm", "instance_norm"),
    *("rectifier", "leaky", "smooth", "saturating"),
)

_MODULES: dict[type[nn.Module], str] = {
    nn.modules.conv._ConvTransposeNd: "transposed_conv",
    nn.modules.conv._ConvNd: "conv",
    nn.Linear: "linear",
    nn.Bilinear: "linear",
    nn.MultiheadAttention: "product",
    nn.modules.pooling._MaxPoolNd: "max_pool",
    nn.modules.pooling._AdaptiveMaxPoolNd: "max_pool",
    nn.modules.pooling._AvgPoolNd: "avg_pool",
    nn.modules.pooling._AdaptiveAvgPoolNd: "avg_pool",
    nn.modules.instancenorm._InstanceNorm: "instance_norm",
    nn.modules.batchnorm._NormBase: "batch_norm",
    nn.GroupNorm: "group_norm",
    nn.LayerNorm: "layer_norm",
    nn.RMSNorm: "layer_norm",
    nn.ReLU: "rectifier",
    nn.Hardtanh: "rectifier",
    nn.LeakyReLU: "leaky",
    nn.PReLU: "leaky",
    nn.ELU: "leaky",
    nn.SELU: "leaky",
    nn.CELU: "leaky",
    nn.GELU: "smooth",
    nn.SiLU: "smooth",
    nn.Mish: "smooth",
    nn.Hardswish: "smooth",
    nn.Softplus: "smooth",
    nn.Sigmoid: "saturating",
    nn.Tanh: "saturating",
    nn.Hardsigmoid: "saturating",
    nn.Softmax: "softmax",
    nn.Upsample: "resize",
}


def kind_of_call(name: str) -> str:
    """The kind of a function of torch by its name, such as `add` of `__iadd__`."""
    return _KIND.get(name.strip("_"), OTHER)


def kind_of_module(module: nn.Module) -> str:
    """The kind of a layer by its class."""
    for known, kind in _MODULES.items():
        if isinstance(module, known):
            return kind
    return OTHER


def shape_given(kind: str, name: str, args: Sequence[Any]) -> torch.Size | None:
    """The output's shape where it follows from the inputs' at once; None: ask torch.

    Calls that change their input in place are left to torch.
    """
    first = args[0] if args else None
    if name.endswith("_") or not isinstance(first, Tensor):
        return None
    if kind in _SAME_SHAPE:
        return first.shape
    if kind == "add" and len(args) > 1 and isinstance(args[1], Tensor):
        return first.shape if first.shape == args[1].shape else None
    return None


def convolution(
    kind: str, weight: Tensor, inputs: Sequence[int], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[int, int, int, int]:
    """Longest side of the kernel, groups, stride and dilation of a convolution.

    Args:
        kind: `conv` or `transposed_conv`.
        weight: `(out, in / groups, ...)`, of a transposed one `(in, out / groups, ...)`.
        inputs: Shape of what it is applied to, `(n, in, ...)`.
        args: Of the call.
        kwargs: Of the call.
    """
    if kind == "transposed_conv":
        groups = _largest(_argument(args, kwargs, 6, "groups"))
        dilation = _largest(_argument(args, kwargs, 7, "dilation"))
    else:
        groups = inputs[1] // weight.shape[1] if len(inputs) == weight.ndim else 1
        dilation = _largest(_argument(args, kwargs, 5, "dilation"))
    stride = _largest(_argument(args, kwargs, 3, "stride"))
    return max(weight.shape[2:]), groups, stride, dilation


def multiply_adds(
    kind: str, weight: Tensor | None, inputs: Sequence[int], outputs: Sequence[int]
) -> int:
    """Multiply-adds for one image; 0 of what is neither a convolution nor a matrix product."""
    per_image = math.prod(outputs[1:])
    if weight is not None and kind == "conv":
        return per_image * math.prod(weight.shape[1:])
    if weight is not None and kind == "transposed_conv":
        return math.prod(inputs[1:]) * math.prod(weight.shape[1:])
    if kind in ("linear", "product"):
        return per_image * inputs[-1]
    return 0


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, 1)


def _largest(value: Any) -> int:
    return int(max(value)) if isinstance(value, tuple | list) else int(value)
