"""The search loop: ask Optuna for an architecture, evaluate it, tell what its score was.

Results are told in the order in which they were asked for, whichever worker finishes first, and
the number of open questions is fixed. So the same config and seed make the same search on the same
machine, with any number of workers that is kept the same.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_proxy.errors import EvaluationError, PluginError, StudyError, first_line
from nas_proxy.evaluate.executors import Executor, place_words
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search.importance import choice_importances
from nas_proxy.search.pareto import SCORE
from nas_proxy.search.storage import sampler_seed
from nas_proxy.search.task import SearchOutcome, SearchTask
from nas_proxy.types import Architecture, Evaluation, Status

logger = logging.getLogger("nas_proxy")

_MAX_IDLE_DRAWS = 300  # consecutive draws that are known or too large before the search gives up
_STUCK = 10  # so many of them, and every other proposal is left to chance
_MAX_FIRST_FAILURES = 8  # failures with no success at all: the mistake is not the candidates'
_MAX_ATTEMPTS = 3  # a candidate that was in flight at so many kills is taken for their cause

ARCHITECTURE = "architecture_id"  # user attributes of Optuna's trials
REASON = "reason"
_DESCRIPTION = "description"
_STAGE = "stage_reached"  # of a cascade
ATTEMPTS = "attempts"


@dataclass
class Question:
    """A trial that waits for its turn to be told."""

    trial: Trial
    architecture: Architecture
    answer: Future[Evaluation] | Evaluation


class Search:
    """One search, whose candidates are each evaluated in one job.

    Args:
        task: What is searched.
        executor: Where.
        log: Keeps the evaluations.
        study: Optuna's.
        num_workers: How many candidates are evaluated at the same time.
    """

    def __init__(
        self,
        task: SearchTask,
        executor: Executor,
        log: EvaluationLog,
        study: optuna.Study,
        num_workers: int,
    ) -> None:
        self._task = task
        self._executor = executor
        # Twice the workers: nobody waits for the slowest while a result is told in its turn.
        self._window = 1 if num_workers == 1 else 2 * num_workers
        self._log = log
        self._study = study
        self._outcome = SearchOutcome()
        self._told: dict[str, float | None] = {}  # score by architecture id
        self._open: deque[Question] = deque()  # in the order in which they will be told
        self._idle_draws = 0
        self._seen_sizes: dict[str, float] = {}
        self._chance = RandomSampler(sampler_seed("chance", task.seed, study))

    def run(self) -> SearchOutcome:
        """Search until there are as many trials as are wanted; errors as of `run_search`."""
        num_wanted = self._task.settings.n_trials
        self._recall()
        self._task.progress(len(self._told), num_wanted)
        self._resume()
        while self._holds() and len(self._told) < num_wanted:
            while len(self._open) < min(self._window, num_wanted - len(self._told)):
                if not self._ask():
                    break
            if not self._open:
                logger.warning(
                    "the last %d proposals were known or ruled out: the search ends with %d of %d "
                    "trials", _MAX_IDLE_DRAWS, len(self._told), num_wanted,
                )  # fmt: skip
                break
            self._take(self._open.popleft())
            self._task.progress(len(self._told), num_wanted, self._note())
        self._refuse_hopeless(1)
        index = self._task.settings.objectives.index(SCORE)
        self._outcome.importances = choice_importances(self._study, index)
        trials = self._study.get_trials(deepcopy=False)
        self._outcome.choices = {trial.number: trial.params for trial in trials}
        return self._outcome

    def _holds(self) -> bool:
        """Let the guard look if it is its turn; False if it ends the search."""
        guard = self._task.guard
        while guard is not None and guard.is_due(len(self._told)):
            for question in self._open:  # a check takes long: what runs must not be lost meanwhile
                self._keep(self._await(question))
            check = guard.check(self._outcome.trials, self._show_check)
            if check.stops:
                self._outcome.stopped = check.sentence
                while self._open:  # paid for
                    self._take(self._open.popleft())
                return False
        return True

    def _show_check(self, done: int, total: int, note: str = "") -> None:
        words = f"guard: {done} of {total} trained on full data {note}".strip()
        self._task.progress(len(self._told), self._task.settings.n_trials, words)

    def _ask(self) -> bool:
        """Open one question; False if the space seems to hold nothing new."""
        while self._idle_draws < _MAX_IDLE_DRAWS:
            trial, architecture = self._propose()
            if architecture is None:
                self._idle_draws += 1
                continue
            trial.set_user_attr(ARCHITECTURE, architecture.id)
            trial.set_user_attr(_DESCRIPTION, self._task.space.describe(architecture))
            if self._is_known(trial, architecture) or self._is_infeasible(trial, architecture):
                self._idle_draws += 1
                continue
            self._idle_draws = 0
            self._enter(trial, architecture)
            return True
        if not self._told and not self._open:
            if not self._seen_sizes:
                raise StudyError(
                    f"the space {self._task.space.name!r} ruled out all of {_MAX_IDLE_DRAWS} "
                    "proposals by optuna.TrialPruned; let suggest choose among what it allows"
                )
            raise StudyError(
                f"none of {_MAX_IDLE_DRAWS} architectures satisfies search.constraints; the "
                f"smallest seen had {_in_words(self._seen_sizes)}; raise the limits"
            )
        return False

    def _propose(self) -> tuple[Trial, Architecture | None]:
        """The sampler's next proposal; one that is stuck on what is known is helped by chance.

        TPE with several objectives models each parameter for itself, from a tenth of few trials;
        on a space of 360 networks it proposed the same ones 300 times in a row after 16 trials.

        Returns:
            Optuna's trial, and its architecture; None where the space rules it out, which has been
            told.
        """
        study = self._study
        own = study.sampler
        if self._idle_draws >= _STUCK and self._idle_draws % 2:
            study.sampler = self._chance
        trial = self._next_trial()
        try:
            architecture = self._task.space.suggest(trial)
        except optuna.TrialPruned as error:
            reason = f"ruled out by the search space: {first_line(error)}"
            self._turn_down(trial, reason)
            return trial, None
        finally:
            study.sampler = own
        if architecture.space != self._task.space.name:  # else no model of it could be read back
            raise PluginError(
                f"the search space {self._task.space.name!r} suggests an architecture of "
                f"{architecture.space!r}; make it with Architecture(self.name, ...)"
            )
        return trial, architecture

    def _next_trial(self) -> Trial:
        return self._study.ask()

    def _enter(self, trial: Trial, architecture: Architecture) -> None:
        """Ask what an architecture is worth, and queue the question."""
        answer = (
            self._unmeasurable(architecture)
            or self._log.get(architecture, self._task.seed)
            or self._given_up(trial, architecture)
            or self._submit(architecture)
        )
        self._open.append(Question(trial, architecture, answer))

    def _submit(self, architecture: Architecture) -> Future[Evaluation]:
        return self._executor.submit(self._task.factory, architecture, self._task.seed)

    def _is_known(self, trial: Trial, architecture: Architecture) -> bool:
        """Answer a question that was asked before from memory."""
        if architecture.id in self._told:
            score = self._told[architecture.id]
            if score is None:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, self._values(architecture, score))
        elif any(question.architecture == architecture for question in self._open):
            # Its score is not there yet; the first question will teach it to the sampler.
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            return False
        self._outcome.num_duplicates += 1
        return True

    def _is_infeasible(self, trial: Trial, architecture: Architecture) -> bool:
        """Turn down what exceeds a limit."""
        constraints = self._task.settings.constraints
        if not constraints.limits:
            return False
        try:
            sizes = self._task.sizes(architecture)
        except EvaluationError:
            return False  # see _unmeasurable
        for name in sizes.keys() & constraints.limits.keys():
            self._seen_sizes[name] = min(sizes[name], self._seen_sizes.get(name, sizes[name]))
        exceeded = constraints.exceeded(sizes)
        if not exceeded:
            return False
        self._turn_down(trial, f"exceeds search.constraints: {_in_words(exceeded)}")
        return True

    def _turn_down(self, trial: Trial, reason: str) -> None:
        """A pruned trial tells the sampler that it was bad."""
        trial.set_user_attr(REASON, reason)
        self._study.tell(trial, state=TrialState.PRUNED)
        self._outcome.num_infeasible += 1

    def _unmeasurable(self, architecture: Architecture) -> Evaluation | None:
        """A failure for what has no value to compare or to limit: it is not worth training."""
        if not (self._task.settings.costs or self._task.settings.constraints.limits):
            return None
        try:
            self._task.sizes(architecture)
        except EvaluationError as error:
            return self._failed(architecture, str(error))
        return None

    def _values(self, architecture: Architecture, score: float) -> list[float]:
        """What Optuna is told, in the order of the objectives."""
        costs = self._task.settings.costs
        values = {SCORE: score, **(self._task.sizes(architecture) if costs else {})}
        return [values[name] for name in self._task.settings.objectives]

    def _given_up(self, trial: Trial, architecture: Architecture) -> Evaluation | None:
        attempts = trial.user_attrs.get(ATTEMPTS, 0)
        if attempts < _MAX_ATTEMPTS:
            return None
        return self._failed(
            architecture, f"the program was killed {attempts} times while this was evaluated"
        )

    def _failed(self, architecture: Architecture, reason: str) -> Evaluation:
        fidelity = self._task.factory.fidelity
        return Evaluation(architecture, fidelity, self._task.seed, Status.FAILED, reason=reason)

    def _take(self, question: Question) -> None:
        """Wait for the answer of a question whose turn it is, and do what follows from it."""
        evaluation = self._await(question)
        self._keep(evaluation)  # first the result, then the trial: see _recall
        self._tell(question, evaluation)

    def _tell(self, question: Question, evaluation: Evaluation) -> None:
        score = self._task.score.of(evaluation) if evaluation.complete else None
        self._describe(question.trial, evaluation)
        if score is None:
            question.trial.set_user_attr(REASON, evaluation.reason)
            self._study.tell(question.trial, state=TrialState.FAIL)
        else:
            self._study.tell(question.trial, self._values(question.architecture, score))
        self._finished(question.trial, evaluation, score)
        self._refuse_hopeless(_MAX_FIRST_FAILURES)

    def _describe(self, trial: Trial, evaluation: Evaluation) -> None:
        """What Optuna keeps of an evaluation beside its score, before the trial is told."""
        if evaluation.num_stages:
            trial.set_user_attr(_STAGE, evaluation.num_stages)
        for name, value in self._task.facts(evaluation).items():
            trial.set_user_attr(name, value)

    def _finished(self, trial: Trial, evaluation: Evaluation, score: float | None) -> None:
        self._remember(trial, evaluation, score)
        self._task.on_trial((trial.number, evaluation, score), trial.user_attrs)

    def _await(self, question: Question) -> Evaluation:
        """Wait for an answer, and keep what else arrives in the meantime: a kill may come."""
        if isinstance(question.answer, Evaluation):
            return question.answer
        answers = [question.answer, *(other.answer for other in self._open)]
        running = {answer for answer in answers if isinstance(answer, Future)}
        while not question.answer.done():
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for answer in finished:
                self._keep(answer.result())
        return question.answer.result()

    def _keep(self, evaluation: Evaluation) -> None:
        if self._log.get(evaluation.architecture, self._task.seed) is None:
            self._log.append(evaluation)

    def _remember(
        self, trial: Trial | FrozenTrial, evaluation: Evaluation, score: float | None
    ) -> None:
        self._told[evaluation.architecture.id] = score
        self._outcome.attributes[trial.number] = trial.user_attrs
        self._outcome.trials.append((trial.number, evaluation, score))

    def _refuse_hopeless(self, num_enough: int) -> None:
        trials = self._outcome.trials
        if len(trials) >= num_enough and all(e.status is Status.FAILED for _, e, _ in trials):
            reason, count = Counter(e.reason for _, e, _ in trials).most_common(1)[0]
            raise StudyError(
                f"all {len(trials)} architectures so far failed, {count} of them because: {reason}"
            )

    def _recall(self) -> None:
        """Take up what an earlier process left: finished trials count, others are asked again.

        A result is logged before its trial is told, so a kill in between leaves a running trial
        whose result is known: its parameters are asked again and answered from the log.
        """
        logged = {evaluation.architecture.id: evaluation for evaluation in self._log}
        for trial in self._study.get_trials(deepcopy=False):
            evaluation = logged.get(trial.user_attrs.get(ARCHITECTURE, ""))
            if trial.state == TrialState.RUNNING:
                self._requeue(trial)
            elif trial.state == TrialState.PRUNED:
                self._outcome.num_infeasible += 1
            elif evaluation is None:
                continue  # asked again before, and still waiting
            elif evaluation.architecture.id in self._told:
                self._outcome.num_duplicates += 1
            elif trial.state == TrialState.COMPLETE or REASON in trial.user_attrs:
                index = self._task.settings.objectives.index(SCORE)
                score = trial.values[index] if trial.values else None
                self._remember(trial, evaluation, score)

    def _resume(self) -> None:
        """Ask again what was open; here that waits in Optuna's queue."""

    def _requeue(self, trial: FrozenTrial) -> None:
        attempts = trial.user_attrs.get(ATTEMPTS, 0) + 1
        if trial.params:  # first: asked for twice is a duplicate, forgotten is forgotten
            self._study.enqueue_trial(trial.params, user_attrs={ATTEMPTS: attempts})
        self._study.tell(trial.number, state=TrialState.FAIL)

    def _note(self) -> str:
        scores = [score for _, _, score in self._outcome.trials if score is not None]
        best = f"best score {max(scores):.4g}" if scores else "no success yet"
        return ", ".join(filter(None, [best, place_words(self._executor)]))


def _in_words(sizes: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {1000 * value:.3g} ms" if name == "latency" else f"{name} {value:,.0f}"
        for name, value in sizes.items()
    )
