"""Trainings whose weights stay: the networks that are to be used, not only ranked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.core.files import write_atomically
from nas_proxy.errors import EvaluationError, StudyError
from nas_proxy.reproducibility import content_hash
from nas_proxy.train.measuring import evaluating
from nas_proxy.types import Architecture

_UNFINISHED = "unfinished"  # folder within that of the weights
_TOLERANCE = 1e-3  # of the largest logit: layouts of memory round otherwise


@dataclass(frozen=True)
class KeptTraining:
    """The files of one training.

    Attributes:
        weights_file: The weights at its end.
        measurements_file: What was measured on the way.
        checkpoint_file: Where it continues after a kill.
    """

    weights_file: Path
    measurements_file: Path
    checkpoint_file: Path

    @classmethod
    def of(cls, folder: Path, architecture: Architecture, training_seed: int) -> KeptTraining:
        """The files of an architecture's training with a seed."""
        name = f"{architecture.id}_{training_seed:016x}"
        unfinished = folder / _UNFINISHED
        return cls(
            folder / f"{name}.safetensors",
            unfinished / f"{name}.json",
            unfinished / f"{name}.safetensors",
        )

    @classmethod
    def state_files(cls, folder: Path, architecture: Architecture) -> list[Path]:
        """Where the trainings of an architecture continue; measurements beside the checkpoints."""
        return sorted((folder / _UNFINISHED).glob(f"{architecture.id}_*"))

    def checkpoint(self, identity: str) -> Checkpointer:
        """Where the training continues.

        Args:
            identity: What its weights depend on.
        """
        key = content_hash(self.weights_file.name, identity)
        return Checkpointer(self.checkpoint_file, key, work="training", again="train")

    def save(self, network: nn.Module) -> None:
        """Keep the weights.

        Raises:
            OSError: If the folder cannot be written or the disk is full.
        """
        state = network.state_dict()
        # Copies: the format refuses weights that two layers share.
        tensors = {name: value.cpu().contiguous().clone() for name, value in state.items()}
        write_atomically(self.weights_file, to_safetensors(tensors))

    def restore(self, network: nn.Module) -> None:
        """Give a fresh network of the architecture the weights that were kept.

        Raises:
            StudyError: If they are missing, damaged, or of another network.
        """
        try:
            network.load_state_dict(load_file(self.weights_file))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StudyError(
                f"the trained weights {self.weights_file} are missing or damaged ({reason}); pass "
                "--force to train anew"
            ) from error

    def verify(self, network: nn.Module, fresh: nn.Module, images: Tensor) -> None:
        """Make sure that the weights alone bring a network back: it is what will be used.

        Args:
            network: The trained one, whose weights were kept.
            fresh: Another of its architecture with other weights, which are replaced.
            images: Normalised, `(n, c, h, w)`, on the device of both.

        Raises:
            EvaluationError: If it answers otherwise: a part of it is drawn when it is built, and
                is neither a parameter nor a buffer that is saved.
            StudyError: As `restore`.
        """
        self.restore(fresh)
        with torch.no_grad(), evaluating(network), evaluating(fresh):
            expected, found = network(images), fresh(images)
        difference, largest = (float(x.abs().max()) for x in (found - expected, expected))
        if not difference <= _TOLERANCE * max(1.0, largest):
            raise EvaluationError(
                "its weights do not bring the trained network back: a logit differs by "
                f"{difference:.2g}; what its search space draws when it builds a network has to be "
                "a parameter or a persistent buffer"
            )
