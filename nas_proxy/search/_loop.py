"""The search loop: ask Optuna for an architecture, evaluate it, tell what its score was.

Results are told in the order in which they were asked for, whichever worker finishes first, the
number of open questions is fixed, and each proposal is drawn with a seed of its trial's number. So
the same config and seed make the same search on the same machine, with any number of workers that
is kept the same; and a killed search, whose trials go on in Optuna as they are, ends as it would
have ended.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_proxy.errors import EvaluationError, PluginError, StudyError, first_line, required
from nas_proxy.evaluate.executors import Executor, place_words
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search._proposals import Proposer
from nas_proxy.search.importance import choice_importances
from nas_proxy.search.pareto import SCORE
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
_SAME_AS = "same_network_as"  # id of the architecture that was evaluated in its place
ATTEMPTS = "attempts"
_DRIVER = "driver"


@dataclass
class Question:
    """A trial that waits for its turn to be told.

    Attributes:
        trial: Optuna's.
        architecture: What it asks about.
        answer: Known, on its way, or that of another architecture, which was asked for before.
    """

    trial: Trial
    architecture: Architecture
    answer: Future[Evaluation] | Evaluation | Architecture


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
        # By canonical form the architecture that was asked for first: it is evaluated for all.
        self._first_of: dict[str, Architecture] = {}
        self._open: deque[Question] = deque()  # in the order in which they will be told
        self._best: float | None = None  # score so far
        self._idle_draws = 0
        self._seen_sizes: dict[str, float] = {}
        self._proposer = Proposer(study, task.settings, task.seed, num_workers, task.driver)
        self._to_resume: list[FrozenTrial] = []

    def run(self) -> SearchOutcome:
        """Search until there are as many trials as are wanted; errors as of `run_search`."""
        num_wanted = self._task.settings.n_trials
        self._recall()
        self._task.progress(len(self._told), num_wanted)
        self._resume()
        for evaluation in self._log:  # last: the order of the log is that in which workers finished
            if evaluation.status is not Status.PARTIAL:
                self._first_like(evaluation.architecture)
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
                if isinstance(question.answer, Future):
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
            if self._consider(trial, architecture):
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

    def _consider(self, trial: Trial, architecture: Architecture) -> bool:
        """Open a question unless its answer is known or it is ruled out; False if it is."""
        trial.set_user_attr(ARCHITECTURE, architecture.id)
        trial.set_user_attr(_DESCRIPTION, self._task.space.describe(architecture))
        if self._is_known(trial, architecture) or self._is_infeasible(trial, architecture):
            self._idle_draws += 1
            return False
        self._idle_draws = 0
        self._enter(trial, architecture)
        return True

    def _propose(self) -> tuple[Trial, Architecture | None]:
        """The sampler's next proposal; one that is stuck on what is known is helped by chance.

        TPE with several objectives models each parameter for itself, from a tenth of few trials;
        on a space of 360 networks it proposed the same ones 300 times in a row after 16 trials.

        Returns:
            Optuna's trial, and its architecture; None where the space rules it out, which has been
            told.
        """
        is_stuck = self._idle_draws >= _STUCK and self._idle_draws % 2 == 1
        trial = self._proposer.propose(by_chance=is_stuck)
        if self._task.driver:
            trial.set_user_attr(_DRIVER, self._task.driver)
        try:
            architecture = self._task.space.suggest(trial)
        except optuna.TrialPruned as error:
            reason = f"ruled out by the search space: {first_line(error)}"
            self._turn_down(trial, reason)
            return trial, None
        if architecture.space != self._task.space.name:  # else no model of it could be read back
            raise PluginError(
                f"the search space {self._task.space.name!r} suggests an architecture of "
                f"{architecture.space!r}; make it with Architecture(self.name, ...)"
            )
        return trial, architecture

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Whether this driver asked for a trial; one that says nothing was just made by another."""
        own = self._task.driver
        return not own or trial.user_attrs.get(_DRIVER, "") == own

    def _enter(self, trial: Trial, architecture: Architecture) -> None:
        """Ask what an architecture is worth, and queue the question."""
        answer = (
            self._unmeasurable(architecture)
            or self._same_network(architecture)
            or self._log.get(architecture, self._task.seed)
            or self._given_up(trial, architecture)
            or self._submit(architecture)
        )
        self._open.append(Question(trial, architecture, answer))

    def _submit(self, architecture: Architecture) -> Future[Evaluation]:
        return self._executor.submit(self._task.factory, architecture, self._task.seed)

    def _first_like(self, architecture: Architecture) -> Architecture:
        """Of those that are the same network, the one that was asked for first."""
        form = self._task.space.canonical_form(architecture)
        return self._first_of.setdefault(form, architecture)

    def _same_network(self, architecture: Architecture) -> Architecture | None:
        """Another that is the same network and has its turn before; None if there is none.

        That follows from what was asked for, in which order, not from what is finished already.
        """
        first, known = self._first_like(architecture), self._log.get(architecture, self._task.seed)
        has_own = known is not None and not known.same_as  # as in a log from before forms counted
        return None if has_own or first == architecture else first

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
        if evaluation.same_as:
            trial.set_user_attr(_SAME_AS, evaluation.same_as)
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
        if isinstance(question.answer, Architecture):
            known = self._log.get(question.answer, self._task.seed)
            return required(known, "evaluation").taken_by(question.architecture)
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
        if score is not None:
            self._best = score if self._best is None else max(self._best, score)
        self._first_like(evaluation.architecture)
        self._outcome.attributes[trial.number] = trial.user_attrs
        self._outcome.trials.append((trial.number, evaluation, score))

    def _refuse_hopeless(self, num_enough: int) -> None:
        if self._best is not None:
            return
        tried = [evaluation for _, evaluation, _ in self._outcome.trials if not evaluation.same_as]
        if len(tried) >= num_enough and all(e.status is Status.FAILED for e in tried):
            reason, count = Counter(e.reason for e in tried).most_common(1)[0]
            raise StudyError(
                f"all {len(tried)} architectures so far failed, {count} of them because: {reason}"
            )

    def _recall(self) -> None:
        """Take up what an earlier process left: finished trials count, open ones go on.

        A result is logged before its trial is told, so a kill in between leaves a running trial
        whose result is known: it is answered from the log.
        """
        logged = {evaluation.architecture.id: evaluation for evaluation in self._log}
        for trial in filter(self._is_ours, self._study.get_trials(deepcopy=False)):
            evaluation = logged.get(trial.user_attrs.get(ARCHITECTURE, ""))
            if trial.state is TrialState.RUNNING:
                self._recall_running(trial)
            elif trial.state is TrialState.PRUNED:
                self._outcome.num_infeasible += 1
            else:
                self._recall_finished(trial, evaluation)

    def _recall_finished(self, trial: FrozenTrial, evaluation: Evaluation | None) -> None:
        """A result whose evaluation is there, or a proposal that was known."""
        is_result = trial.state is TrialState.COMPLETE or REASON in trial.user_attrs
        is_first = evaluation is not None and evaluation.architecture.id not in self._told
        if is_result and is_first and evaluation is not None:
            index = self._task.settings.objectives.index(SCORE)
            self._remember(trial, evaluation, trial.values[index] if trial.values else None)
        elif not is_result or evaluation is not None:
            self._outcome.num_duplicates += 1

    def _recall_running(self, trial: FrozenTrial) -> None:
        if ARCHITECTURE in trial.user_attrs:
            self._to_resume.append(trial)
        else:
            self._proposer.finish_asking(trial)

    def _resume(self) -> None:
        """Open again what was open."""
        for trial in self._to_resume:
            resumed = self._proposer.taken_up(trial)
            architecture = self._task.space.suggest(resumed)
            if self._log.get(architecture, self._task.seed) is None:
                resumed.set_user_attr(ATTEMPTS, trial.user_attrs.get(ATTEMPTS, 0) + 1)
            self._consider(resumed, architecture)
        opened = [question.trial.number for question in self._open]
        self._count_idle([*(number for number, _, _ in self._outcome.trials), *opened])

    def _count_idle(self, entered: Iterable[int]) -> None:
        """Find out how many proposals since the last one that was entered came to nothing."""
        last = max(entered, default=-1)
        trials = filter(self._is_ours, self._study.get_trials(deepcopy=False))
        self._idle_draws = sum(t.number > last and t.state.is_finished() for t in trials)

    def _note(self) -> str:
        best = "no success yet" if self._best is None else f"best score {self._best:.4g}"
        return ", ".join(filter(None, [best, place_words(self._executor)]))


def _in_words(sizes: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {1000 * value:.3g} ms" if name == "latency" else f"{name} {value:,.0f}"
        for name, value in sizes.items()
    )
