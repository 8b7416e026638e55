"""A trained network in, its smaller versions out: files, networks and a table."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nas_proxy.compress._pruning import holding_zeros, num_parameters, prune_channels, prune_weights
from nas_proxy.compress._quantisation import (
    QuantisedNetwork,
    QuantisedTraining,
    finish_training,
    prepare_training,
    quantise,
)
from nas_proxy.compress.measurements import compare, measure_file
from nas_proxy.compress.onnx_file import OnnxNetwork, write_onnx
from nas_proxy.compress.result import CompressionRow
from nas_proxy.compress.settings import CompressSettings, in_order, variant_name
from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.errors import CompressionError, DivergedError, NasProxyError, required
from nas_proxy.reproducibility import content_hash, derive_seed, isolated_rng, make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import num_parts, recalibrate_norms
from nas_proxy.train.objective import Objective
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset

UNCOMPRESSED = "float32"
"""Name of the network as it came."""

# Share of the rate of fine-tuning with which a network is trained in int8. Without norms between
# them, weights bear no larger one: of 1, 0.3 and 0.1, ResNet-18 on CIFAR-10 learnt best with 0.3.
_ROUNDED_LEARNING_RATE = 0.3

ObjectiveFactory = Callable[[nn.Module, TrainSettings], AbstractContextManager[Objective]]
"""From a student, on its device, and how it is fine-tuned to what that minimises.

It is entered for the length of the training: objectives may watch the student through hooks.
"""


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """One version of the network.

    Attributes:
        name: As in its row.
        network: In torch, on the CPU, in evaluation mode; int8 is computed in rounded float32.
        runtime: The file in ONNX Runtime, one thread, in the shape of a network on the CPU: for
            `measure(model.runtime, test, figures.EXACT)` on the test split.
        onnx: The file `<name>.onnx`; takes float32 `images` in [0, 1], `(n, c, h, w)`, any n, and
            gives `logits` `(n, num_classes)`.
        row: Its figures.
    """

    name: str
    network: nn.Module
    runtime: nn.Module
    onnx: Path
    row: CompressionRow


def compress(
    network: nn.Module,
    training_set: TrainingSet,
    search_val: ImageDataset,
    settings: CompressSettings,
    *,
    folder: Path,
    seed: int,
    make_objective: ObjectiveFactory | None = None,
    on_failure: Callable[[str, NasProxyError], None] | None = None,
) -> tuple[CompressedModel, ...]:
    """Make every variant of `settings`, and measure it beside the network as it came.

    Variants that begin alike share the training of that part.

    Args:
        network: Trained; on the device of the images; it is not altered.
        training_set: What fine-tuning learns and calibration sees; never what is tested on.
        search_val: Measures accuracy; images of the same size.
        settings: With `fine_tuning` said: see `CompressSettings.after`.
        folder: Gets `<name>.onnx` for each version. States of trainings are kept here until all
            variants are done, so that a killed call continues when it is repeated; they do not
            know `make_objective`: with another one, take another folder.
        seed: Of batches and augmentation.
        make_objective: What fine-tuning minimises in variants with `distillation`. Of a network
            that is trained in int8 it can read logits alone: its stages are not there to hook.
        on_failure: Told the name of each variant that cannot be made, and why; the others are
            made. None: the first one is raised.

    Returns:
        The network as it came under the name `float32`, then the variants in their order.

    Raises:
        CompressionError: If the network cannot be changed or exported so; the message says where.
            With `on_failure` only if it cannot be exported as it came.
        DivergedError: If the loss of a fine-tuning is not finite; never with `on_failure`.
        StudyError: If a saved state is damaged or belongs to other work.
        OSError: If the folder cannot be written or the disk is full.
        ValueError: If `settings` lack `fine_tuning`, or distil and there is no `make_objective`.
    """
    fine_tuning = required(settings.fine_tuning, "settings.fine_tuning")
    if settings.distils:
        required(make_objective, "make_objective, for a variant with distillation,")
    state = network.state_dict()
    key = content_hash(
        asdict(settings), training_set.spec.source_hash, seed, sorted(state), *_ordered(state)
    )
    maker = _Maker(training_set, settings, fine_tuning, folder, seed, key, make_objective)
    models = [_finished(UNCOMPRESSED, maker.unchanged(network), search_val, maker)]
    for variant in settings.variants:
        name = variant_name(variant)
        try:
            models.append(_finished(name, maker.make(network, variant), search_val, maker))
        except (CompressionError, DivergedError) as error:
            if on_failure is None:
                raise
            on_failure(name, error)
    maker.forget_states()
    return tuple(models)


@dataclass(frozen=True)
class _Made:
    network: nn.Module
    num_parameters: int
    train_seconds: float
    paid_seconds: float


@dataclass(frozen=True, eq=False)
class _Maker:
    """Makes one variant after the other."""

    training_set: TrainingSet
    settings: CompressSettings
    fine_tuning: TrainSettings
    folder: Path
    seed: int
    key: str
    make_objective: ObjectiveFactory | None
    checkpoints: dict[str, Checkpointer] = field(default_factory=dict)

    def unchanged(self, network: nn.Module) -> _Made:
        """The network as it came."""
        return _Made(copy.deepcopy(network), num_parameters(network), 0.0, 0.0)

    def make(self, network: nn.Module, variant: Sequence[str]) -> _Made:
        """Apply the methods of a variant in their order to a copy."""
        student = copy.deepcopy(network)
        seconds, paid = 0.0, 0.0
        methods = [method for method in in_order(variant) if method != "distillation"]
        for number, method in enumerate(methods, start=1):
            # What int8 rounds to zero is no pruned weight: it is counted before.
            remaining = num_parameters(student)
            student = self._changed(student, method)
            if method != "post_training_quantisation":
                zeros_stay = "unstructured_pruning" in methods[:number]
                with holding_zeros(student) if zeros_stay else nullcontext():
                    took, is_new = self._fine_tune(student, methods[:number], variant)
                    seconds, paid = seconds + took, paid + is_new * took
        if isinstance(student, QuantisedTraining):
            student = finish_training(student)
        if not isinstance(student, QuantisedNetwork):
            remaining = num_parameters(student)
        return _Made(student, remaining, seconds, paid)

    def _changed(self, student: nn.Module, method: str) -> nn.Module:
        """The network after one method, before it is trained again; it may be another object."""
        batches = self._calibration()
        if method == "structured_pruning":
            prune_channels(student, self.settings.channel_amount, batches[0][:2])
        elif method == "unstructured_pruning":
            prune_weights(student, self.settings.weight_amount)
        elif method == "post_training_quantisation":
            return quantise(student.cpu(), [images.cpu() for images in batches])
        else:
            return prepare_training(student, batches)
        return student

    def _fine_tune(
        self, student: nn.Module, done: Sequence[str], variant: Sequence[str]
    ) -> tuple[float, bool]:
        """Train `student` in place after the methods `done` of `variant`.

        Returns:
            The seconds, and whether no variant before this one had begun in the same way.
        """
        distils = "distillation" in variant
        name = variant_name([*done, "distillation"] if distils else done)
        settings = self.fine_tuning
        if done[-1] == "quantisation_aware_training":
            settings = replace(
                settings,
                learning_rate=_ROUNDED_LEARNING_RATE * settings.learning_rate,
                precision="float32",  # rounding to int8 is defined for nothing else
                channels_last=False,
            )
        checkpoint = Checkpointer(
            self.folder / f"{name}.safetensors",
            content_hash(self.key, name),
            "compression",
            "compress",
        )
        is_new = name not in self.checkpoints
        self.checkpoints[name] = checkpoint
        seed = derive_seed(self.seed, "compress", name)
        generator = make_generator(seed, self.training_set.images.device)
        with isolated_rng(seed), self._objective(student, settings, distils) as objective:
            result = train(
                student,
                self.training_set,
                settings,
                generator,
                objective=objective,
                checkpoint=checkpoint,
            )
        if settings.norm_statistics == "recalibrated":
            recalibrate_norms(student, self.training_set, settings, generator)
        student.eval()
        return result.train_seconds, is_new

    def _objective(
        self, student: nn.Module, settings: TrainSettings, distils: bool
    ) -> AbstractContextManager[Objective | None]:
        if not distils:
            return nullcontext()
        return required(self.make_objective, "make_objective")(student, settings)

    def _calibration(self) -> list[Tensor]:
        """Normalised training images, always the same, in batches of two at least."""
        wanted = min(self.settings.num_calibration_images, len(self.training_set))
        generator = make_generator(derive_seed(self.seed, "calibration"))
        chosen = torch.randperm(len(self.training_set), generator=generator)[: max(2, wanted)]
        parts = chosen.tensor_split(num_parts(len(chosen), self.training_set.images.shape, 128))
        device = self.training_set.images.device
        return [self.training_set.batch(indices.to(device))[0] for indices in parts]

    def forget_states(self) -> None:
        """Remove the states of all trainings."""
        for checkpoint in self.checkpoints.values():
            checkpoint.remove()


def _finished(name: str, made: _Made, search_val: ImageDataset, maker: _Maker) -> CompressedModel:
    """The version with its file, measured."""
    spec = maker.training_set.spec
    network = made.network.cpu().eval().to(memory_format=torch.contiguous_format)
    network.requires_grad_(False)
    path = maker.folder / f"{name}.onnx"
    write_onnx(network, spec, path)
    runtime = OnnxNetwork(path, spec)
    row = CompressionRow(
        name=name,
        num_parameters=made.num_parameters,
        train_seconds=made.train_seconds,
        paid_seconds=made.paid_seconds,
        **compare(runtime, network, search_val, name),
        **measure_file(path, runtime, search_val),
    )
    return CompressedModel(name, network, runtime, path, row)


def _ordered(state: dict[str, Tensor]) -> list[Tensor]:
    return [state[name] for name in sorted(state)]
