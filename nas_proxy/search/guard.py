"""Watching the ranking while the search runs, by training a few candidates on full data.

After every k trials the best candidates so far and some drawn at random are trained on the full
search-training images and measured on the search-validation images, never on the test split. The
running Spearman between their scores and that accuracy says whether the score still ranks.

How to read it: it is a *conditional* sample, and no estimate of the correlation over the space,
which the validation gives. Candidates are those that the sampler proposed, and a sampler that works
proposes good ones: among them the range is narrower, so the correlation is usually lower. The best
ones are chosen by the very score that is judged, which spreads or narrows the range once more. So
the verdict looks at the random candidates alone as soon as there are enough for an interval. They
are drawn from the trials since the last check, as many each time, so that all trials are about
equally likely to be among them.

Whoever looks often is more often misled. Simulated on normal values, with a threshold of .5 and two
random candidates at each of ten checks, a ranking whose correlation is just .5 was taken for fallen
at some check in 3 % of 1,000 searches, one of .7 in .2 %, a worthless one in 56 %: an alarm can be
believed, silence over few candidates proves little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from nas_proxy.core.results import StoredResult
from nas_proxy.errors import StudyError, required
from nas_proxy.evaluate.executors import EvaluatorFactory, Executor, evaluate_all
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.search.settings import GuardSettings
from nas_proxy.statistics.ranks import MIN_FOR_INTERVAL, Estimate, estimate, spearman
from nas_proxy.statistics.words import decimal
from nas_proxy.types import Architecture, Evaluation, Progress

REFERENCE_SIGNAL = "val_accuracy"

# Optuna's number, evaluation and score (None: failed) of a trial.
TrialRecord = tuple[int, Evaluation, float | None]
Verdict = Literal["open", "holds", "below", "fell"]


class RecalibrationNeeded(StudyError):  # noqa: N818 - a request; an error only if nobody meets it
    """The ranking fell below the threshold beyond doubt, and the settings ask to recalibrate.

    Attributes:
        check: The check that found it.
    """

    def __init__(self, check: GuardCheck) -> None:
        super().__init__(f"{check.sentence}; the recipe has to be calibrated again")
        self.check = check


@dataclass(frozen=True)
class GuardCheck:
    """What one check found.

    Attributes:
        num_trials: Trials at the time.
        everyone: Spearman over all candidates checked so far, the best and the random ones.
        n: How many these are.
        random: Spearman over the random ones alone.
        n_random: How many these are.
        num_failed: Candidates whose full-data training failed; they are left out.
        basis: Which of the two the verdict is about.
        verdict: `holds`: at the threshold or above. `below`: below it, but the interval is not.
            `fell`: the interval too. `open`: there is no interval yet.
        threshold: What was asked for.
        action: What follows from `fell`.
    """

    num_trials: int
    everyone: Estimate | None
    n: int
    random: Estimate | None
    n_random: int
    num_failed: int
    basis: Literal["random", "everyone"]
    verdict: Verdict
    threshold: float
    action: Literal["warn", "stop", "recalibrate"]

    @property
    def found(self) -> Estimate | None:
        """The estimate that the verdict is about."""
        return self.random if self.basis == "random" else self.everyone

    @property
    def sentence(self) -> str:
        """The check in words."""
        who = "random candidates" if self.basis == "random" else "candidates, the best among them"
        n = self.n_random if self.basis == "random" else self.n
        head = f"guard, {self.num_trials} trials: "
        if self.found is None:
            return f"{head}no correlation yet over {n} {who}"
        agreement = f"Spearman {self.found} with full-data training over {n} {who}"
        threshold = decimal(self.threshold)
        return (
            head
            + {
                "open": f"{agreement}, too few for a verdict",
                "holds": f"{agreement}, threshold {threshold}",
                "below": f"{agreement}, below the threshold {threshold}, but not beyond doubt",
                "fell": f"{agreement}: it fell below the threshold {threshold} beyond doubt",
            }[self.verdict]
        )

    @property
    def stops(self) -> bool:
        """Whether the search ends here."""
        return self.verdict == "fell" and self.action == "stop"


@dataclass(frozen=True)
class GuardPoint:
    """A candidate that was trained on full data.

    Attributes:
        trial: Optuna's number.
        architecture_id: Which one.
        picked_as: One that is among the best and drawn at random too has two points.
        score: Of the search.
        val_accuracy: After full-data training, on the search-validation images; None if it failed.
        reason: Why it failed; empty if it did not.
    """

    trial: int
    architecture_id: str
    picked_as: Literal["best", "random"]
    score: float
    val_accuracy: float | None
    reason: str


@dataclass(frozen=True)
class GuardResult(StoredResult):
    """All that a guard has found so far, as `guard.json` holds it.

    Attributes:
        threshold: What was asked for.
        action: What follows from `fell`.
        checks: In order.
        points: Every candidate that was picked.
        seconds: What their full-data trainings cost, of one process.
    """

    FORMAT: ClassVar[int] = 1

    threshold: float
    action: Literal["warn", "stop", "recalibrate"]
    checks: tuple[GuardCheck, ...]
    points: tuple[GuardPoint, ...]
    seconds: float


@dataclass(frozen=True)
class _Pick:
    """A candidate that is trained on full data."""

    trial: int
    architecture: Architecture
    score: float
    by: Literal["best", "random"]


class Guard:
    """Checks the ranking after every `settings.every` trials.

    Which candidates a check takes depends on the trials until then and on the seed alone. So a
    search that is continued finds its earlier checks again, whose trainings are in the log.

    Args:
        settings: When to check, and what follows.
        factory: Trains on full data and measures on the search-validation images.
        executor: Where.
        log: Keeps the full-data evaluations.
        file: Keeps the checks.
        seed: Of the draws and of the trainings.
        on_check: Told each check, and whether it cost any training just now.
    """

    def __init__(
        self,
        settings: GuardSettings,
        factory: EvaluatorFactory,
        executor: Executor,
        log: EvaluationLog,
        file: Path,
        *,
        seed: int,
        on_check: Callable[[GuardCheck, bool], None],
    ) -> None:
        self._settings = settings
        self._evaluate = partial(evaluate_all, executor, factory)
        self._log = log
        self._file = file
        self._seed = seed
        self._on_check = on_check
        self._picks: dict[tuple[Architecture, str], _Pick] = {}
        self._checks: list[GuardCheck] = []

    def is_due(self, num_trials: int) -> bool:
        """Whether there are enough trials for the next check."""
        return num_trials >= self._next

    @property
    def _next(self) -> int:
        """The number of trials at which the next check looks."""
        return (len(self._checks) + 1) * required(self._settings.every, "search.guard.every")

    def check(self, trials: Sequence[TrialRecord], progress: Progress) -> GuardCheck:
        """Make the check that is due.

        Args:
            trials: All trials so far, in order; those after the check's own number do not count.
            progress: Told after every full-data training.

        Raises:
            RecalibrationNeeded: If the ranking fell and the settings ask for it.
        """
        num_trials = self._next
        for pick in self._pick(trials[:num_trials]):
            self._picks.setdefault((pick.architecture, pick.by), pick)
        architectures = list(dict.fromkeys(pick.architecture for pick in self._picks.values()))
        num_known = len(self._log)
        done = self._evaluate(architectures, self._seed, self._log, progress)
        found = self._judge(num_trials, dict(zip(architectures, done, strict=True)))
        self._checks.append(found)
        self.result().write(self._file)
        self._on_check(found, len(self._log) > num_known)
        if found.verdict == "fell" and found.action == "recalibrate":
            raise RecalibrationNeeded(found)
        return found

    def _pick(self, trials: Sequence[TrialRecord]) -> list[_Pick]:
        """The best of `trials`, and random ones since the last check; each network once."""
        since = len(trials) - (self._settings.every or 0)
        scored, recent = _scored(trials), _scored(trials[since:])
        best = sorted(scored, key=lambda trial: -trial[2])[: self._settings.num_best]
        generator = make_generator(derive_seed("guard", self._seed, len(trials)))
        order = torch.randperm(len(recent), generator=generator).tolist()
        drawn = [recent[index] for index in order[: self._settings.num_random]]
        return [_Pick(n, a, score, "best") for n, a, score in best] + [
            _Pick(n, a, score, "random") for n, a, score in drawn
        ]

    def _judge(self, num_trials: int, done: dict[Architecture, Evaluation]) -> GuardCheck:
        complete = [pick for pick in self._picks.values() if done[pick.architecture].complete]
        everyone = {pick.architecture: pick.score for pick in complete}
        random = {pick.architecture: pick.score for pick in complete if pick.by == "random"}
        basis: Literal["random", "everyone"] = (
            "random" if len(random) >= MIN_FOR_INTERVAL else "everyone"
        )
        estimates = {
            name: self._estimate(scores, done)
            for name, scores in (("random", random), ("everyone", everyone))
        }
        return GuardCheck(
            num_trials=num_trials,
            everyone=estimates["everyone"],
            n=len(everyone),
            random=estimates["random"],
            n_random=len(random),
            num_failed=sum(not evaluation.complete for evaluation in done.values()),
            basis=basis,
            verdict=_verdict(estimates[basis], self._settings.threshold),
            threshold=self._settings.threshold,
            action=self._settings.action,
        )

    @staticmethod
    def _estimate(
        scores: dict[Architecture, float], done: dict[Architecture, Evaluation]
    ) -> Estimate | None:
        return estimate(
            spearman,
            np.array(list(scores.values())),
            np.array([done[a].signals[REFERENCE_SIGNAL] for a in scores]),
        )

    def result(self) -> GuardResult:
        """All checks, and a point for each candidate: what the report shows."""
        known = {evaluation.architecture: evaluation for evaluation in self._log}
        return GuardResult(
            threshold=self._settings.threshold,
            action=self._settings.action,
            checks=tuple(self._checks),
            points=tuple(
                GuardPoint(
                    trial=pick.trial,
                    architecture_id=pick.architecture.id,
                    picked_as=pick.by,
                    score=pick.score,
                    val_accuracy=known[pick.architecture].signals.get(REFERENCE_SIGNAL),
                    reason=known[pick.architecture].reason,
                )
                for pick in self._picks.values()
            ),
            seconds=sum(evaluation.seconds for evaluation in known.values()),
        )


def _scored(trials: Sequence[TrialRecord]) -> list[tuple[int, Architecture, float]]:
    return [(n, e.architecture, s) for n, e, s in trials if s is not None and not e.same_as]


def _verdict(found: Estimate | None, threshold: float) -> Verdict:
    if found is None or found.high is None:
        return "open"
    if found.high < threshold:
        return "fell"
    return "below" if found.value < threshold else "holds"
