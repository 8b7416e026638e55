"""The state from which killed work continues to the identical result."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import StudyError
from nas_proxy.reproducibility import canonical_json, content_hash


@dataclass(frozen=True)
class State:
    """Everything that the next step depends on.

    Attributes:
        step: Steps done.
        seconds: Wall-clock seconds they took, over all runs; 0 where others count them.
        tensors: Images or weights, optimiser buffers and the state of the generator.
    """

    step: int
    seconds: float
    tensors: dict[str, Tensor]


class Checkpointer:
    """Saves and restores one distillation or training.

    Args:
        path: The file; None saves nothing.
        key: Identifies the work: options, data, seed.
        work: What it is, for messages.
        again: What has to be done anew if the file is lost, for messages.
        instead: What else can be done about a file of other work, for messages.
    """

    def __init__(
        self,
        path: Path | None,
        key: str,
        work: str = "distillation",
        again: str = "distil",
        instead: str = "choose another study_name",
    ) -> None:
        self._path = path
        self._key = key
        self._work = work
        self._again = again
        self._instead = instead
        self._parts: list[Checkpointer] = []
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0

    def part(self, name: str) -> Checkpointer:
        """Of a part of the work, with a file of its own, which `remove` removes too."""
        path = None if self._path is None else self._path.with_suffix(f".{name}.safetensors")
        key = content_hash(self._key, name)
        part = Checkpointer(path, key, self._work, self._again, self._instead)
        self._parts.append(part)
        return part

    def load(self) -> State | None:
        """The last saved state; None if there is none.

        Raises:
            StudyError: If the file is damaged or belongs to other work.
        """
        if self._path is None or not self._path.is_file():
            return None
        try:
            with safe_open(str(self._path), framework="pt") as file:
                header = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            key, step, seconds = header["key"], header["step"], header["seconds"]
            if header["hash"] != _hash(key, step, seconds, tensors):
                raise ValueError("its content is not what was written")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise StudyError(
                f"the checkpoint {self._path} is damaged ({error}); delete it to {self._again} anew"
            ) from error
        if key != self._key:
            raise StudyError(
                f"the checkpoint {self._path} belongs to a {self._work} with other options, data "
                f"or seed; delete it to {self._again} anew, or {self._instead}"
            )
        return State(step, seconds, tensors)

    def save_if_due(self, step: int, tensors: dict[str, Tensor], seconds: float = 0.0) -> None:
        """Save, unless that would take more than about two per cent of the time.

        Raises:
            OSError: If the disk is full or the folder cannot be written.
        """
        if self.is_due:
            self.save(step, tensors, seconds)

    @property
    def is_due(self) -> bool:
        """Whether saving now keeps it to about two per cent of the time."""
        return time.monotonic() - self._saved_at >= max(1.0, 50 * self._save_seconds)

    def save(self, step: int, tensors: dict[str, Tensor], seconds: float = 0.0) -> None:
        """Save now.

        Raises:
            OSError: If the disk is full or the folder cannot be written.
        """
        if self._path is None:
            return
        started = time.monotonic()
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # Rounded: two texts of all seventeen digits can be the same number, and damage unnoticed.
        seconds = round(seconds, 6)
        state = {"key": self._key, "step": step, "seconds": seconds}
        header = canonical_json({**state, "hash": _hash(self._key, step, seconds, contiguous)})
        write_atomically(self._path, to_safetensors(contiguous, {"state": header}))
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - started

    def remove(self) -> None:
        """Forget the state, once the result is safe elsewhere."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        for part in self._parts:
            part.remove()


def _hash(key: str, step: int, seconds: float, tensors: Mapping[str, Tensor]) -> str:
    """Of everything that is saved; safetensors itself notices a wrong length alone."""
    names = sorted(tensors)
    return content_hash([key, step, seconds], names, *(tensors[name] for name in names))
