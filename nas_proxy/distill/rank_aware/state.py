"""What the trainings of a rank-aware distillation have given so far; it survives a kill."""

from __future__ import annotations

import torch

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.distill.common.recording import Recording
from nas_proxy.distill.rank_aware.training import Outcome


class TrainingState:
    """The results of all short trainings, entered one by one.

    Args:
        num_architectures: In the calibration sample, n.
        num_sets: That are raced.
        num_candidates: Images of the pool.
        checkpointer: Where results are kept; what it holds is taken up again.
        recording: Whose seconds go on.

    Attributes:
        losses: Of each image of the pool after a training on the stream, float32
            `(n, num_candidates)`; NaN until it has ended, and where it failed.
        stream_signals: What these trainings say of the architectures, float64 `(n,)`.
        observed: Which of them have ended, bool `(n,)`.
        signals: What trainings on the sets say, float64 `(num_sets, n)`.
        raced: Which of these have ended, bool `(num_sets, n)`.
    """

    def __init__(
        self,
        num_architectures: int,
        num_sets: int,
        *,
        num_candidates: int,
        checkpointer: Checkpointer,
        recording: Recording,
    ) -> None:
        race = (num_sets, num_architectures)
        self.losses = torch.full((num_architectures, num_candidates), torch.nan)
        self.stream_signals = torch.full((num_architectures,), torch.nan, dtype=torch.float64)
        self.observed = torch.zeros(num_architectures, dtype=torch.bool)
        self.signals = torch.full(race, torch.nan, dtype=torch.float64)
        self.raced = torch.zeros(race, dtype=torch.bool)
        self._checkpointer = checkpointer
        self._recording = recording
        found = checkpointer.load()
        if found is not None:
            recording.earlier_seconds = found.seconds
            for name, tensor in found.tensors.items():
                setattr(self, name, tensor)

    @property
    def num_done(self) -> int:
        """Trainings that have ended."""
        return int(self.observed.sum()) + int(self.raced.sum())

    @property
    def usable(self) -> list[int]:
        """Architectures whose training on the stream ended well."""
        good = self.losses.isfinite().all(dim=1) & self.stream_signals.isfinite()
        return torch.nonzero(good).flatten().tolist()

    def enter_stream(self, architecture: int, outcome: Outcome) -> None:
        """Enter a training on the stream, and save if it is time to."""
        self.losses[architecture] = outcome.losses
        self.stream_signals[architecture] = outcome.signal
        self.observed[architecture] = True
        self._save_if_due()

    def enter_race(self, number: int, architecture: int, outcome: Outcome) -> None:
        """Enter a training on set `number`, and save if it is time to."""
        self.signals[number, architecture] = outcome.signal
        self.raced[number, architecture] = True
        self._save_if_due()

    def forget(self) -> None:
        """Remove the checkpoint: the set is made."""
        self._checkpointer.remove()

    def _save_if_due(self) -> None:
        names = ("losses", "stream_signals", "observed", "signals", "raced")
        self._checkpointer.save_if_due(
            self.num_done, self._recording.seconds, {name: getattr(self, name) for name in names}
        )
