"""The score of a cascade: who goes on to the next stage, and how all of them rank as one number."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from nas_proxy.reproducibility import content_hash
from nas_proxy.scores.calibrated import CalibratedScore, Encode
from nas_proxy.scores.combine import Score, ScoreSettings, make_score
from nas_proxy.scores.signals import is_trained, own_signal, signal_in_stage, stage_of
from nas_proxy.statistics.cuts import NO_CUT, Cut, learn_cut
from nas_proxy.statistics.intervals import Values
from nas_proxy.types import Architecture, Evaluation


@dataclass(frozen=True)
class CascadeSettings:
    """What makes a cascade's score.

    Attributes:
        scores: Of each stage, at least two.
        shares: For each stage, the upper part of all architectures by the score of the stage before
            it that goes on to it; None: it follows from the sample. That of the first is not read.
        keep: The part of the best tenth by reference that all cuts together may be expected to
            keep.
    """

    scores: tuple[ScoreSettings, ...]
    shares: tuple[float | None, ...]
    keep: float


@dataclass(frozen=True)
class Place:
    """Where a cascade puts an architecture.

    Attributes:
        score: What ranks; see `CascadeScore`.
        num_stages: The stage that it reaches, from 1.
    """

    score: float
    num_stages: int


class CascadeScore:
    """Ranks by the stage reached, and then by the score there.

    Both are one number: the stages passed, plus the position of the stage's score z, in units of
    the sample's interquartile range from its median, in (0, 1):

        position = 1/2 + y / (2 (2 + |y|)),  y = asinh(z)

    It grows strictly with the score over the whole range of floating-point numbers, for the inverse
    hyperbolic sine grows as a logarithm does: two scores tie only if they differ by less than a
    billionth of the larger of their distance from the median and the range. So whatever goes on
    ranks above whatever does not, and within a stage nothing changes places.

    Cuts are learned from a sample that went through all stages, each on all of the sample, whatever
    the cuts before it would do. With several of them each may lose its part of what may be lost in
    all, so that by the union bound `keep` holds for all together. A given share holds of all
    architectures as well.

    Args:
        settings: Of the stages.
        sample: Evaluations with the signals of all stages; failed ones are left out.
        truth: What full training, or the last stage, reached on its architectures.
        encode: The space's encoding, for calibrated stages.

    Raises:
        StudyError: If the sample is too small for a stage, or tells nothing apart.
    """

    def __init__(
        self,
        settings: CascadeSettings,
        sample: Sequence[Evaluation],
        truth: Mapping[Architecture, float],
        encode: Encode | None,
    ) -> None:
        known = [e for e in sample if e.complete and e.architecture in truth]
        # Left out, but counted where the sample turns out to be too small.
        failed = [e for e in sample if not e.complete]
        self._settings = settings
        self._architectures = [e.architecture for e in known]
        self._reference = np.array([truth[a] for a in self._architectures])
        self._scores: list[Score] = []
        self._known: list[Values] = []  # of the sample, in each stage, `(n,)`
        for number, each in enumerate(settings.scores, start=1):
            views = [_as_of(e, number) for e in known]
            score = make_score(each, [*views, *failed], truth, encode)
            self._scores.append(score)
            self._known.append(_unseen(score, views))
        self._scales = [_Scale.of(known) for known in self._known]
        self.cuts = self._learned(self._known, self._reference)
        self.id = content_hash(
            [asdict(each) for each in settings.scores],
            [list(settings.shares[1:]), settings.keep],
            [[e.architecture.id, dict(e.signals)] for e in known],
            [truth[e.architecture] for e in known],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CascadeScore) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def signals(self) -> tuple[str, ...]:
        """Those of all stages; trained ones with the number of their stage before them."""
        return _signals(self._settings.scores)

    @property
    def num_stages(self) -> int:
        """How many there are."""
        return len(self._scores)

    @property
    def combines_in_first(self) -> bool:
        """Whether the first stage's score is more than one signal."""
        return self._settings.scores[0].combine != "single"

    @property
    def words(self) -> str:
        """Who goes on, in words."""
        parts = [
            f"everything goes on to stage {number}"
            if cut.score is None
            else f"the upper {100 * cut.share:.0f} % of all by stage {number - 1} may go on to "
            f"stage {number}"
            for number, cut in enumerate(self.cuts[1:], start=2)
        ]
        return "; ".join(parts)

    def of(self, evaluation: Evaluation) -> float:
        """The score of a complete evaluation; higher is better."""
        return self.place(evaluation).score

    def place(self, evaluation: Evaluation) -> Place:
        """Where an evaluation stands that went through some of the stages, or all.

        What went further than the cuts allow, as the sample did, stands where it would have ended.
        """
        scores: list[float] = []
        for number in range(1, min(len(self._scores), evaluation.num_stages) + 1):
            if scores and not self.cuts[number - 1].passes(scores[-1]):
                break
            scores.append(self._in_stage(evaluation, number))
        return self._place(scores, self.cuts)

    def goes_on(self, evaluation: Evaluation) -> bool:
        """Whether what was measured in some stages, and passed all cuts before, passes the next."""
        number = evaluation.num_stages
        return number < len(self._scores) and self.cuts[number].passes(
            self._in_stage(evaluation, number)
        )

    @cached_property
    def of_sample(self) -> dict[Architecture, Place]:
        """Every architecture of the sample as if it had had no part in models and cuts."""
        found = {}
        for index, architecture in enumerate(self._architectures):
            others = [np.delete(scores, index) for scores in self._known]
            cuts = self._learned(others, np.delete(self._reference, index))
            scores = [float(known[index]) for known in self._known]
            found[architecture] = self._place(scores, cuts)
        return found

    def first_stage(self, evaluation: Evaluation) -> float:
        """The score of the first stage alone, which every complete evaluation has."""
        return self._in_stage(evaluation, 1)

    def _in_stage(self, evaluation: Evaluation, number: int) -> float:
        return self._scores[number - 1].of(_as_of(evaluation, number))

    def _place(self, scores: Sequence[float], cuts: Sequence[Cut]) -> Place:
        reached = 1
        while reached < len(scores) and cuts[reached].passes(scores[reached - 1]):
            reached += 1
        position = self._scales[reached - 1].position(scores[reached - 1])
        return Place(reached - 1 + position, reached)

    def _learned(self, scores: Sequence[Values], reference: Values) -> tuple[Cut, ...]:
        """The cut before each stage; none before the first."""
        num_auto = sum(share is None for share in self._settings.shares[1:])
        keep = 1 - (1 - self._settings.keep) / max(1, num_auto)
        pairs = zip(scores, self._settings.shares[1:], strict=False)  # the last stage cuts nothing
        return (NO_CUT, *(learn_cut(known, reference, share, keep) for known, share in pairs))


@dataclass(frozen=True)
class FirstStage:
    """The first stage of a cascade as a score of its own."""

    cascade: CascadeScore

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that it reads, as the cascade calls them."""
        return self.cascade.signals

    def of(self, evaluation: Evaluation) -> float:
        """The score of a complete evaluation; higher is better."""
        return self.cascade.first_stage(evaluation)


def own_labels(
    scores: Sequence[ScoreSettings], sample: Sequence[Evaluation]
) -> dict[Architecture, float]:
    """The last stage's score of a sample that went through all stages: labels for earlier ones.

    Raises:
        StudyError: If the sample is too small for it.
    """
    number, complete = len(scores), [e for e in sample if e.complete]
    score = make_score(scores[-1], [_as_of(e, number) for e in complete])
    return {e.architecture: score.of(_as_of(e, number)) for e in complete}


def _signals(scores: Sequence[ScoreSettings]) -> tuple[str, ...]:
    names = [
        signal_in_stage(signal, number)
        if is_trained(signal) and stage_of(signal) is None
        else signal
        for number, score in enumerate(scores, start=1)
        for signal in score.signals
    ]
    return tuple(dict.fromkeys(names))


def _as_of(evaluation: Evaluation, number: int) -> Evaluation:
    """The evaluation with the signals of a stage's own training under their plain names."""
    own = {
        own_signal(name): value
        for name, value in evaluation.signals.items()
        if stage_of(name) == number
    }
    return replace(evaluation, signals={**evaluation.signals, **own})


def _unseen(score: Score, sample: Sequence[Evaluation]) -> Values:
    """Scores of the sample that a score was made from; of a model out of fold."""
    if isinstance(score, CalibratedScore):
        found = score.out_of_fold()
        return np.array([found[e.architecture].mean for e in sample])
    return np.array([score.of(e) for e in sample])


@dataclass(frozen=True)
class _Scale:
    """The median of a sample's scores, and their unit: the interquartile range."""

    centre: float
    unit: float

    @classmethod
    def of(cls, known: Values) -> _Scale:
        """Of scores `(n,)`; where the quartiles are the same, the range is the unit."""
        lower, centre, upper = np.percentile(known, [25, 50, 75])
        return cls(float(centre), float(upper - lower) or float(np.ptp(known)) or 1.0)

    def position(self, score: float) -> float:
        """Strictly between 0 and 1, and strictly increasing; see `CascadeScore`."""
        largest = sys.float_info.max
        z = min(max((score - self.centre) / self.unit, -largest), largest)  # may be infinite
        y = math.asinh(z)
        return 0.5 + y / (2 * (2 + abs(y)))
