"""The search loop where a pruner may end candidates at rungs.

Each way from one rung to the next is a job. Jobs are answered for in the order in which they were
asked for, whichever worker finishes first, and whoever goes on stands at the end of the queue with
the next job. So what is compared with what depends on the config and the seed alone, also after a
kill; see `_loop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from itertools import count

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_proxy.errors import StudyError, required
from nas_proxy.evaluate.executors import EvaluatorFactory, Executor
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search._loop import ARCHITECTURE, ATTEMPTS, Question, Search
from nas_proxy.search._pruners import Judge, attach_pruner
from nas_proxy.search.task import Rung, SearchOutcome, SearchTask
from nas_proxy.types import Architecture, Evaluation, Status

_TURNS = "turns"  # user attribute of a trial: places of its jobs among all jobs
_REACHED = "rung_reached"  # of one that was pruned


class PrunedSearch(Search):
    """One search, whose candidates are each evaluated in as many jobs as the pruner allows.

    Args:
        task: What is searched, with its `pruning`.
        executor: As of `Search`, as what follows.
        log: See there.
        study: See there.
        num_workers: See there.
    """

    def __init__(
        self,
        task: SearchTask,
        executor: Executor,
        log: EvaluationLog,
        study: optuna.Study,
        num_workers: int,
    ) -> None:
        super().__init__(task, executor, log, study, num_workers)
        self._pruning = required(task.pruning, "pruning")
        settings = required(task.settings.pruner, "search.pruner")
        first_step = self._pruning.rungs[0].step
        attach_pruner(study, settings, first_step)  # for samplers that follow Hyperband's brackets
        self._judge = Judge(settings, first_step, study)
        self._turns = count()
        self._reported: set[tuple[int, int]] = set()  # trial and step

    def run(self) -> SearchOutcome:
        """As of `Search`; also refuses an end at which nothing is complete."""
        outcome = super().run()
        statuses = [evaluation.status for _, evaluation, _ in outcome.trials]
        if statuses and Status.COMPLETE not in statuses:
            num_pruned = statuses.count(Status.PARTIAL)
            raise StudyError(
                f"none of {len(statuses)} architectures was trained to its end: the pruner ended "
                f"{num_pruned}, {len(statuses) - num_pruned} failed; raise search.n_trials, or "
                "choose another search.pruner"
            )
        return outcome

    # Asking

    def _enter(self, trial: Trial, architecture: Architecture) -> None:
        """Ask for the next job of an architecture, and queue it."""
        turns = [*trial.user_attrs.get(_TURNS, ()), next(self._turns)]
        trial.set_user_attr(_TURNS, turns)
        self._queue(trial, architecture, len(turns))

    def _queue(self, trial: Trial, architecture: Architecture, job: int) -> None:
        rung = self._rung_of(job)
        answer = (
            self._unmeasurable(architecture)
            or self._same_network(architecture)
            or self._known_at(rung, architecture)
            or self._given_up(trial, architecture)
            or self._submit_job(self._task.factory if rung is None else rung.factory, architecture)
        )
        self._open.append(Question(trial, architecture, answer))

    def _rung_of(self, job: int) -> Rung | None:
        """Where the job of this number, from 1, ends; None: at the end."""
        rungs = self._pruning.rungs
        return rungs[job - 1] if job <= len(rungs) else None

    def _known_at(self, rung: Rung | None, architecture: Architecture) -> Evaluation | None:
        known = self._log.get(architecture, self._task.seed)
        if known is None or known.status is not Status.PARTIAL:
            return known
        return known if rung is not None and known.rung >= rung.step else None

    def _submit_job(
        self, factory: EvaluatorFactory, architecture: Architecture
    ) -> Future[Evaluation]:
        answer = self._executor.submit(factory, architecture, self._task.seed)
        if answer.done():  # where submitting is evaluating, others would come before its turn
            self._keep(answer.result())
        return answer

    # Telling

    def _keep(self, evaluation: Evaluation) -> None:
        """Log a job's answer together with those of the jobs before it."""
        known = self._log.get(evaluation.architecture, self._task.seed)
        if known is None:
            self._log.append(evaluation)
        elif known.status is Status.PARTIAL and (
            evaluation.status is not Status.PARTIAL or evaluation.rung > known.rung
        ):
            self._log.append(self._pruning.joined(known, evaluation))

    def _take(self, question: Question) -> None:
        if any(other.architecture == question.answer for other in self._open):
            self._wait_again(question)
            return
        self._keep(self._await(question))  # first the result, then the trial: see _recall
        trial, architecture = question.trial, question.architecture
        evaluation = required(self._log.get(architecture, self._task.seed), "evaluation")
        rung = self._rung_of(len(trial.user_attrs[_TURNS]))
        if evaluation.same_as:  # it costs nothing, so it is not judged, but ends as the other did
            self._end_alike(question, evaluation)
        elif rung is None or evaluation.status is Status.FAILED:
            self._tell(question, evaluation)
        elif self._ends(trial, rung, rung.score.of(evaluation)):
            self._prune(question, evaluation, rung.step)
        else:
            self._enter(trial, architecture)

    def _wait_again(self, question: Question) -> None:
        """Whoever takes the evaluation of another has its turn after the other's last job."""
        trial = question.trial
        trial.set_user_attr(_TURNS, [*trial.user_attrs[_TURNS][:-1], next(self._turns)])
        self._open.append(question)

    def _end_alike(self, question: Question, evaluation: Evaluation) -> None:
        if evaluation.status is Status.PARTIAL:
            self._prune(question, evaluation, evaluation.rung)
        else:
            self._tell(question, evaluation)

    def _ends(self, trial: Trial, rung: Rung, value: float) -> bool:
        if (trial.number, rung.step) not in self._reported:
            trial.report(value, rung.step)
        return self._judge.ends(trial.number, rung.step, value)

    def _tell(self, question: Question, evaluation: Evaluation) -> None:
        super()._tell(question, evaluation)
        score = self._told[question.architecture.id]
        state = TrialState.FAIL if score is None else TrialState.COMPLETE
        self._finish(question, state, score)

    def _prune(self, question: Question, evaluation: Evaluation, step: int) -> None:
        """A pruned trial has a rung that it reached; one that was ruled out has a reason."""
        question.trial.set_user_attr(_REACHED, step)
        self._describe(question.trial, evaluation)
        self._study.tell(question.trial, state=TrialState.PRUNED)
        self._finished(question.trial, evaluation, None)
        self._finish(question, TrialState.PRUNED, None)

    def _finish(self, question: Question, state: TrialState, score: float | None) -> None:
        self._judge.told(question.trial.number, state, score)
        self._pruning.discard_state(question.architecture)

    # Going on after a kill

    def _recall(self) -> None:
        """Take up what an earlier process left: trials that are open stay what they are."""
        trials = self._study.get_trials(deepcopy=False)
        if not all(map(self._is_ours, trials)):
            raise StudyError(
                "search.pruner compares the trials of one driver, but those of another one are in "
                "search.storage too; choose another study_name, or leave pruner out"
            )
        entered = [trial for trial in trials if _TURNS in trial.user_attrs]
        self._reported = {(t.number, step) for t in trials for step in t.intermediate_values}
        self._turns = count(1 + max((t.user_attrs[_TURNS][-1] for t in entered), default=-1))
        for trial in trials:
            if _TURNS not in trial.user_attrs:
                self._recall_idle(trial, is_last=trial.number == len(trials) - 1)
        self._count_idle(trial.number for trial in entered)
        running = [trial for trial in entered if trial.state is TrialState.RUNNING]
        self._to_resume = sorted(running, key=lambda trial: trial.user_attrs[_TURNS][-1])
        self._replay(entered)

    def _recall_idle(self, trial: FrozenTrial, *, is_last: bool) -> None:
        """A proposal that was not evaluated, or had not been entered when the kill came."""
        if trial.state is TrialState.RUNNING and is_last:
            self._proposer.finish_asking(trial)
        elif trial.state is TrialState.RUNNING:  # of a search without a pruner
            self._study.tell(trial.number, state=TrialState.FAIL)
        elif trial.state is TrialState.PRUNED:
            self._outcome.num_infeasible += 1
        else:
            self._outcome.num_duplicates += 1

    def _replay(self, entered: Sequence[FrozenTrial]) -> None:
        """Tell the pruner again what it was told, in the same order, and remember the results."""
        logged = {evaluation.architecture.id: evaluation for evaluation in self._log}
        taken = sorted(
            (turn, job, trial.number, trial)
            for trial in entered
            for job, turn in enumerate(trial.user_attrs[_TURNS], start=1)
            if trial.state.is_finished() or job < len(trial.user_attrs[_TURNS])
        )
        for _, job, number, trial in taken:
            rung = self._rung_of(job)
            if rung is not None and rung.step in trial.intermediate_values:
                self._judge.ends(number, rung.step, trial.intermediate_values[rung.step])
            if job < len(trial.user_attrs[_TURNS]):
                continue
            score = trial.value if trial.state is TrialState.COMPLETE else None
            self._judge.told(number, trial.state, score)
            evaluation = logged.get(trial.user_attrs[ARCHITECTURE])
            if evaluation is not None:
                self._remember(trial, evaluation, score)

    def _resume(self) -> None:
        asked = {}
        for trial in sorted(self._to_resume, key=lambda trial: trial.number):
            resumed = self._proposer.taken_up(trial)
            architecture = self._task.space.suggest(resumed)
            self._first_like(architecture)  # in the order in which they were asked for
            asked[trial.number] = resumed, architecture
        for trial in self._to_resume:
            resumed, architecture = asked[trial.number]
            job = len(trial.user_attrs[_TURNS])
            if self._known_at(self._rung_of(job), architecture) is None:
                resumed.set_user_attr(ATTEMPTS, trial.user_attrs.get(ATTEMPTS, 0) + 1)
            self._queue(resumed, architecture, job)
