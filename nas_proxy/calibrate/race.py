"""Racing recipes on a growing calibration sample, until a cheap trustworthy one is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.calibrate.result import CalibrationPoint, Outcome
from nas_proxy.calibrate.settings import CalibrateSettings, bound_confidence, round_sizes
from nas_proxy.errors import StudyError
from nas_proxy.evaluate.cascade import cost_until
from nas_proxy.evaluate.log import Failures
from nas_proxy.scores.calibrated import CalibratedScore, Encode
from nas_proxy.scores.cascade import CascadeScore
from nas_proxy.scores.combine import make_score
from nas_proxy.statistics import ranks
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.statistics.words import decimal
from nas_proxy.types import Architecture, Evaluation

_SAME_COST = 1.1  # seconds are measured with noise: a tenth more counts as the same cost
_FREE = 1.0  # seconds for each architecture, beside which a full training costs hundreds of times
_WORTH = 1.5  # times the cost of the cheapest that can be trusted, which a better ranking may cost

Evaluations = Mapping[Architecture, Evaluation]


@dataclass(frozen=True)
class Standing:
    """Where a recipe stands when the race is over.

    Attributes:
        recipe: The recipe.
        outcome: `chosen`; `trusted`: its bound reaches the threshold too, and it costs more or
            ranks worse; `open`: neither its bound reaches the threshold nor does its interval end
            below it; `below`: it does; `beaten`: dropped, for a recipe that costs no more ranks
            better beyond doubt; `failed`: it ranks nothing.
        reason: The same in words.
        n: Architectures that it was judged on.
        spearman: Against the references; predictions of a calibrated score are out of fold. None
            if it ranks nothing.
        seconds_per_architecture: Mean cost.
        num_failed: Evaluations that failed.
        bound: The lower bound that was held against the threshold, at `bound_confidence`; None
            where there is no interval.
        bound_confidence: Higher than that of `spearman`, for every recipe and every round is a
            chance to pass by luck.
        difference: Rho of the best recipe minus rho of this one, on the architectures that both
            were judged on; None for the best one itself and where one of them ranks nothing.
    """

    recipe: Recipe
    outcome: Outcome
    reason: str
    n: int
    spearman: Estimate | None
    seconds_per_architecture: float
    num_failed: int
    bound: float | None
    bound_confidence: float
    difference: Estimate | None = None


@dataclass
class _Runner:
    """A recipe in the race, with what it has measured so far."""

    recipe: Recipe
    evaluations: dict[Architecture, Evaluation] = field(default_factory=dict)
    scores: dict[Architecture, float] = field(default_factory=dict)
    spearman: Estimate | None = None
    bound: float | None = None
    seconds: float = 0.0
    dropped: tuple[Outcome, str] | None = None
    problem: str = ""

    @property
    def low(self) -> float:
        return -1.0 if self.bound is None else self.bound

    @property
    def high(self) -> float:
        if self.spearman is None or self.spearman.high is None:
            return 1.0
        return self.spearman.high


class Race:
    """Recipes that are judged on the same architectures, a batch at a time.

    After every batch a recipe is dropped if its interval ends below the threshold, or if one that
    costs no more ranks better by an interval of their difference above zero. A tenth more counts as
    the same cost, for seconds are measured with noise. The race ends when the cheapest recipe that
    is left can be trusted, or when nothing is left to learn from. A recipe is trusted when its
    lower bound reaches the threshold at a confidence of 1 - .05 / (recipes times rounds), so that
    in all, the chance that one below the threshold passes by luck stays that of a single look.
    Chosen is the one that ranks best of those that can be trusted and cost up to half as much again
    as the cheapest of them, or less than a second, beside which nothing is cheap. It looks a little
    better than it is, for it was chosen by these figures: the validation judges it on architectures
    that had no part in them.

    Args:
        settings: The recipes and the threshold.
        num_architectures: Size of the whole sample.
        encode: The space's encoding; None if it has none.
        cost: Seconds of an evaluation.
    """

    def __init__(
        self,
        settings: CalibrateSettings,
        num_architectures: int,
        encode: Encode | None,
        cost: Callable[[Evaluation], float],
    ) -> None:
        self._settings = settings
        self._encode = encode
        self._cost = cost
        self._runners = [_Runner(recipe) for recipe in settings.recipes]
        self._sizes = round_sizes(num_architectures)
        self._confidence = bound_confidence(len(settings.recipes), len(self._sizes))
        self._references: dict[Architecture, float] = {}

    def rounds(self) -> Iterator[int]:
        """Sizes of the sample at which recipes are compared; see `settings.round_sizes`."""
        yield from self._sizes

    @property
    def running(self) -> tuple[Recipe, ...]:
        """What is still in the race."""
        return tuple(r.recipe for r in self._runners if r.dropped is None)

    def judge(
        self,
        references: Mapping[Architecture, float],
        evaluations: Mapping[str, Evaluations],
    ) -> bool:
        """Compare all that still run, and drop what is beaten.

        Args:
            references: Of the sample so far, higher is better.
            evaluations: Of every running recipe, by its name, on the same architectures.

        Returns:
            Whether the race is decided.
        """
        self._references = dict(references)
        for runner in self._runners:
            if runner.dropped is None:
                runner.evaluations = dict(evaluations[runner.recipe.name])
                self._measure(runner)
        self._drop_low()
        self._drop_beaten()
        left = [runner for runner in self._runners if runner.dropped is None]
        cheapest = _cheapest(left)
        return cheapest is None or cheapest.low >= self._settings.threshold

    def standings(self) -> list[Standing]:
        """Every recipe's outcome, the cheapest first; at most one is `chosen`."""
        threshold = self._settings.threshold
        trusted = [r for r in self._runners if r.dropped is None and r.low >= threshold]
        chosen = _best_within_reach(trusted)
        found = [(runner, self._standing(runner, chosen)) for runner in self._runners]
        best = best_standing([standing for _, standing in found])
        rival = next((r for r in self._runners if best and r.recipe == best.recipe), None)
        if rival is not None:
            found = [
                (runner, replace(standing, difference=self._difference(rival, runner)))
                if runner is not rival and runner.spearman is not None
                else (runner, standing)
                for runner, standing in found
            ]
        return sorted((s for _, s in found), key=lambda s: s.seconds_per_architecture)

    def points(self) -> tuple[CalibrationPoint, ...]:
        """Every architecture's reference and scores, for whoever wants to recompute the figures."""
        return tuple(
            CalibrationPoint(
                architecture=architecture,
                architecture_id=architecture.id,
                reference=reference,
                scores={r.recipe.name: r.scores.get(architecture) for r in self._runners},
            )
            for architecture, reference in self._references.items()
        )

    def _standing(self, runner: _Runner, chosen: _Runner | None) -> Standing:
        outcome, reason = runner.dropped or self._undropped(runner, chosen)
        return Standing(
            recipe=runner.recipe,
            outcome=outcome,
            reason=reason,
            n=len(runner.scores),
            spearman=runner.spearman,
            seconds_per_architecture=runner.seconds,
            num_failed=sum(not e.complete for e in runner.evaluations.values()),
            bound=runner.bound,
            bound_confidence=self._confidence,
        )

    def _undropped(self, runner: _Runner, chosen: _Runner | None) -> tuple[Outcome, str]:
        threshold = decimal(self._settings.threshold)
        bound = "" if runner.bound is None else f"its bound {decimal(runner.bound)}"
        if runner is chosen:
            reason = f"{bound} reaches {threshold}, and none that does ranks better at up to"
            return "chosen", f"{reason} {_WORTH:g} times the cost of the cheapest, or a second"
        if runner.spearman is None:
            nothing = "it ranks nothing: every signal of the score, or the reference, is constant"
            return "failed", runner.problem or nothing
        if runner.low >= self._settings.threshold:
            return "trusted", f"{bound} reaches {threshold} too, but it costs more or ranks worse"
        return "open", f"{bound} does not reach {threshold}" if bound else "it has no interval yet"

    def _measure(self, runner: _Runner) -> None:
        runner.spearman, runner.bound, runner.problem = None, None, ""
        runner.seconds = self._mean_cost(runner.evaluations)
        try:
            runner.scores = self._scores(runner)
        except StudyError as error:
            runner.scores, runner.problem = {}, str(error)
            return
        shared = list(runner.scores)
        sides = (
            np.array([runner.scores[a] for a in shared]),
            np.array([self._references[a] for a in shared]),
        )
        runner.spearman = ranks.estimate(ranks.spearman, *sides)
        surer = ranks.estimate(ranks.spearman, *sides, confidence=self._confidence)
        runner.bound = None if surer is None else surer.low

    def _scores(self, runner: _Runner) -> dict[Architecture, float]:
        """The recipe's scores of the sample; a model's are out of fold.

        Raises:
            StudyError: If the sample is too small for it, as it may be in the first rounds, or
                tells nothing apart, or every evaluation failed.
        """
        failures = Failures.among(runner.evaluations.values())
        if failures.num == failures.total:
            raise StudyError(str(failures))
        complete = [
            e for a, e in runner.evaluations.items() if e.complete and a in self._references
        ]
        if runner.recipe.stages:
            return self._scores_in_stages(runner, complete)
        score = make_score(runner.recipe.score, complete, self._references, self._encode)
        if isinstance(score, CalibratedScore):
            return {a: p.mean for a, p in score.out_of_fold().items()}
        return {e.architecture: score.of(e) for e in complete}

    def _scores_in_stages(
        self, runner: _Runner, complete: Sequence[Evaluation]
    ) -> dict[Architecture, float]:
        """A cascade's; it costs the stages that it would pass, and the sample passed all."""
        settings = runner.recipe.cascade
        score = CascadeScore(settings, complete, self._references, self._encode)
        places = score.of_sample
        runner.seconds = self._mean_cost(
            {
                a: cost_until(e, places[a].num_stages) if a in places else e
                for a, e in runner.evaluations.items()
            }
        )
        return {architecture: place.score for architecture, place in places.items()}

    def _mean_cost(self, evaluations: Evaluations) -> float:
        costs = [self._cost(evaluation) for evaluation in evaluations.values()]
        return sum(costs) / len(costs)

    def _drop_low(self) -> None:
        threshold = self._settings.threshold
        for runner in self._runners:
            if runner.dropped is None and runner.high < threshold:
                reason = f"its interval lies below {decimal(threshold)}"
                runner.dropped = ("below", reason)

    def _drop_beaten(self) -> None:
        left = [r for r in self._runners if r.dropped is None and r.spearman is not None]
        for runner in left:
            for rival in left:
                if rival is not runner and rival.seconds <= _SAME_COST * runner.seconds:
                    difference = self._difference(rival, runner)
                    if difference is not None and (difference.low or 0.0) > 0:
                        reason = f"{rival.recipe.name} ranks better at no higher cost"
                        runner.dropped = ("beaten", f"{reason} (difference {difference})")
                        break

    def _difference(self, first: _Runner, second: _Runner) -> Estimate | None:
        shared = [a for a in first.scores if a in second.scores]
        scores = np.array([[r.scores[a] for a in shared] for r in (first, second)])
        reference = np.array([self._references[a] for a in shared])
        return ranks.estimate(ranks.spearman_difference, scores, reference)


def _cheapest(runners: Sequence[_Runner]) -> _Runner | None:
    """The cheapest; of those that cost the same, the one whose interval begins highest."""
    least = min((runner.seconds for runner in runners), default=0.0)
    alike = [runner for runner in runners if runner.seconds <= _SAME_COST * least]
    return max(alike, key=lambda runner: runner.low, default=None)


def _best_within_reach(trusted: Sequence[_Runner]) -> _Runner | None:
    """The one that ranks best of those that cost little more than the cheapest."""
    least = min((runner.seconds for runner in trusted), default=0.0)
    near = [runner for runner in trusted if runner.seconds <= max(_FREE, _WORTH * least)]
    return max(near, key=lambda r: r.spearman.value if r.spearman else -1.0, default=None)


def best_standing(standings: Sequence[Standing]) -> Standing | None:
    """The chosen recipe; if there is none, the one whose interval has the highest lower end.

    One that was beaten does not come back because its interval is that of an early round.
    """
    chosen = [s for s in standings if s.outcome == "chosen"]
    if chosen:
        return chosen[0]
    unbeaten = [s for s in standings if s.outcome != "beaten"]
    ranked = [s for s in unbeaten if s.spearman is not None and s.spearman.low is not None]
    return max(ranked, key=lambda s: s.spearman.low, default=None)  # type: ignore[union-attr,arg-type,return-value]
