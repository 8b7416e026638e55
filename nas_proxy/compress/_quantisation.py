"""int8 by torchao's PT2E: where a network is rounded, calibration, and training with rounding.

Weights are symmetric int8 with a scale for each output channel; activations are uint8 with one
scale and zero point. Convolutions, linear layers and sums are computed in int8, with the ReLU
after them; everything else stays float32. These are the places that ONNX Runtime has integer
kernels for: torchao's own quantisers are made for other runtimes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    HistogramObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

from nas_proxy.errors import CompressionError, instance_of
from nas_proxy.export.tracing import traced, why

_ATEN = torch.ops.aten
_WEIGHTED = {_ATEN.conv2d.default, _ATEN.linear.default}
_SUMS = {_ATEN.add.Tensor, _ATEN.add_.Tensor}
# Clamps that rounding to uint8 does for nothing.
_CLAMPS = {
    _ATEN.relu.default,
    _ATEN.relu_.default,
    _ATEN.hardtanh.default,
    _ATEN.hardtanh_.default,
}
_KEY = "quantization_annotation"  # where torchao looks for what a node is to be rounded to
_SMALLEST_SCALE = 2**-20


class QuantisedTraining(nn.Module):
    """A network whose weights and activations are rounded in every forward pass.

    Gradients go through the rounding as if it were not there (straight-through estimator). Batch
    norms are folded into the convolutions before them, and stay folded (Nagel et al., arXiv
    2106.08295, section 5.2), which needs a small learning rate. Dropout is
    off, and other batch norms become a scale and a shift, which are trained.

    In training mode the ranges of weights follow them and those of activations a moving average; in
    evaluation mode they stand still.

    Args:
        program: As `prepare_pt2e` leaves it.
    """

    def __init__(self, program: GraphModule) -> None:
        super().__init__()
        self.program = program
        self.train(False)

    def train(self, mode: bool = True) -> QuantisedTraining:
        """Let ranges follow, or stand still; the graph itself knows no modes."""
        self.training = mode
        for module in self.program.modules():
            if isinstance(module, FakeQuantize):
                module.enable_observer(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `(n, c, h, w)` to logits `(n, num_classes)`."""
        return self.program(images)  # type: ignore[no-any-return]


class QuantisedNetwork(nn.Module):
    """The network in int8, computed by torch: rounded numbers in float32 arithmetic.

    Args:
        program: As `convert_pt2e` leaves it: int8 weights, and rounding between the operators.
    """

    def __init__(self, program: GraphModule) -> None:
        super().__init__()
        self.program = program
        self.train(False)

    def train(self, mode: bool = True) -> QuantisedNetwork:
        """It has one mode; the graph refuses to be asked."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `(n, c, h, w)` to logits `(n, num_classes)`."""
        return self.program(images)  # type: ignore[no-any-return]


def quantise(network: nn.Module, batches: Sequence[Tensor]) -> QuantisedNetwork:
    """Post-training quantisation: round a trained network as it is.

    Args:
        network: On the CPU; it is not altered.
        batches: Normalised training images `(n, c, h, w)`, n >= 2, from which the ranges of the
            activations are taken: those with the smallest squared error.

    Raises:
        CompressionError: If the network cannot be traced, or nothing in it can be int8.
    """
    graph = _prepared(network, batches[0], trained=False)
    return _converted(graph, batches)


def prepare_training(network: nn.Module, batches: Sequence[Tensor]) -> QuantisedTraining:
    """The network with rounding in every forward pass, ready for quantisation-aware training.

    Args:
        network: On the device of the images; it is not altered.
        batches: As for `quantise`; the ranges start from them.

    Raises:
        CompressionError: As `quantise`.
    """
    training = QuantisedTraining(_prepared(network, batches[0], trained=True))
    training.train()
    with torch.no_grad():
        for images in batches:
            training(images)
    return training


def finish_training(training: QuantisedTraining) -> QuantisedNetwork:
    """The trained network in int8, on the CPU; `training` is used up."""
    return _converted(training.cpu().eval().program, ())


class _Quantiser(Quantizer):  # type: ignore[misc]
    """Marks what is rounded, for torchao.

    Args:
        trained: Whether rounding takes part in the forward pass.
    """

    def __init__(self, *, trained: bool) -> None:
        super().__init__()
        self.activation = QuantizationSpec(
            dtype=torch.uint8,
            observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
                observer=MovingAverageMinMaxObserver, eps=_SMALLEST_SCALE
            )
            if trained
            else HistogramObserver.with_args(eps=_SMALLEST_SCALE),
            quant_min=0,
            quant_max=255,
            qscheme=torch.per_tensor_affine,
        )
        self.weight = QuantizationSpec(
            dtype=torch.int8,
            # Not the fused one: for weights its scale is 127/127.5 of what is converted with. The
            # range is that of the weights as they are.
            observer_or_fake_quant_ctr=FakeQuantize.with_args(
                observer=MovingAveragePerChannelMinMaxObserver,
                averaging_constant=1.0,
                eps=_SMALLEST_SCALE,
            )
            if trained
            else PerChannelMinMaxObserver.with_args(eps=_SMALLEST_SCALE),
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Write the batch norms that were not folded as a product and a sum.

        torchao looks for folded norms as long as it sees any norm, which takes minutes.
        """
        for node in list(model.graph.nodes):
            if node.target == _ATEN.batch_norm.default:
                _replace_norm(model, node)
        model.graph.eliminate_dead_code()
        model.recompile()
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark the inputs and the outcome of each operator that has an integer kernel."""
        for node in model.graph.nodes:
            if node.target in _WEIGHTED:
                inputs = {node.args[0]: self.activation, node.args[1]: self.weight}
            elif node.target in _SUMS and all(map(_is_activation, node.args[:2])):
                inputs = dict.fromkeys(node.args[:2], self.activation)
            else:
                continue
            _annotation(node).input_qspec_map.update(inputs)
            self._annotate_outcome(node)
        return model

    def _annotate_outcome(self, node: Node) -> None:
        users = list(node.users)
        last = users[0] if len(users) == 1 and users[0].target in _CLAMPS else node
        if not all(user.op == "output" for user in last.users):  # logits are not rounded
            _annotation(last).output_qspec = self.activation

    def validate(self, model: GraphModule) -> None:
        """Weights must be parameters: nothing else has one range for good.

        Raises:
            CompressionError: If there is nothing to be int8, or a weight is computed.
        """
        weighted = [node for node in model.graph.nodes if node.target in _WEIGHTED]
        if not weighted:
            raise CompressionError(
                "int8 needs a two-dimensional convolution or a linear layer, and this network has "
                "none; leave the int8 variants out"
            )
        computed = [node.name for node in weighted if node.args[1].op != "get_attr"]
        if computed:
            raise CompressionError(
                f"the weight of {', '.join(computed)} is computed in the forward pass, so it "
                "cannot be int8; leave the int8 variants out, or make it a plain parameter"
            )


def _annotation(node: Node) -> QuantizationAnnotation:
    return node.meta.setdefault(_KEY, QuantizationAnnotation(_annotated=True))


def _is_activation(term: object) -> bool:
    return isinstance(term, Node) and term.op == "call_function"


def _replace_norm(model: GraphModule, node: Node) -> None:
    given, weight, bias, mean, variance, _, _, epsilon, _ = node.args
    images = instance_of(given, Node)
    scale = (_value(model, variance) + instance_of(epsilon, float)).rsqrt()
    if weight is not None:
        scale = scale * _value(model, weight)
    shift = -_value(model, mean) * scale
    if bias is not None:
        shift = shift + _value(model, bias)
    shape = (-1, *[1] * (images.meta["val"].ndim - 2))  # channels come second
    result = images
    with model.graph.inserting_before(node):
        for operator, value in ((_ATEN.mul.Tensor, scale), (_ATEN.add.Tensor, shift)):
            name = f"{node.name}_{'scale' if result is images else 'shift'}"
            model.register_parameter(name, nn.Parameter(value.detach().view(shape)))
            result = model.graph.call_function(operator, (result, model.graph.get_attr(name)))
            result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    model.graph.erase_node(node)


def _value(model: GraphModule, node: object) -> Tensor:
    """A parameter or buffer that a node stands for."""
    found: object = model
    for part in str(instance_of(node, Node).target).split("."):
        found = getattr(found, part)
    return instance_of(found, Tensor)


def _prepared(network: nn.Module, images: Tensor, *, trained: bool) -> GraphModule:
    own = copy.deepcopy(network).eval()  # a program shares its parameters with what it came from
    own.requires_grad_(True)
    try:
        program = traced(own, images)
    except Exception as error:
        raise CompressionError(
            f"this network cannot be traced by torch.export, so it cannot be int8 "
            f"({why(error)}); leave the int8 variants out"
        ) from error
    graph: GraphModule = prepare_pt2e(program.module(), _Quantiser(trained=trained))
    return graph


def _converted(graph: GraphModule, batches: Sequence[Tensor]) -> QuantisedNetwork:
    with torch.no_grad():
        for images in batches:
            graph(images)
    return QuantisedNetwork(convert_pt2e(graph))
