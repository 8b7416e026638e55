"""A study from its configuration to its report, in one straight line.

config -> distill -> ProxyDataset -> calibrate -> Recipe -> search -> evaluations -> validate
       -> RankReport -> retrain -> models -> report
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.core.environment import check_device, hardware
from nas_proxy.core.files import write_atomically
from nas_proxy.core.locks import sole_user
from nas_proxy.core.plugin_source import source_files
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.sources import load_splits
from nas_proxy.errors import ConfigError, StudyError, did_you_mean
from nas_proxy.evaluate.executors import Workplace, open_executor, start_workers
from nas_proxy.evaluate_proxy.result import ProxyAccuracy, ProxyReplay
from nas_proxy.interfaces import TransferSpace
from nas_proxy.report.values import StudyReport
from nas_proxy.search.guard import RecalibrationNeeded
from nas_proxy.study.all_stages import STAGES
from nas_proxy.study.announcing import announce
from nas_proxy.study.budgeting import within_budget
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.consistency import recipe_words
from nas_proxy.study.context import StudyContext
from nas_proxy.study.display import Display
from nas_proxy.study.evaluate_proxy import Task, run_evaluate_proxy
from nas_proxy.study.in_flight import note_lost
from nas_proxy.study.logged_datasets import real_images
from nas_proxy.study.logs import StudyLogs
from nas_proxy.study.parameters import used_parameters
from nas_proxy.study.samples import check_samples
from nas_proxy.study.stage import (
    Stage,
    StageName,
    plan_stages,
    refuse_other_configuration,
    run_stage,
)
from nas_proxy.study.stages.report import Report
from nas_proxy.tracking import open_tracker


def run_pipeline(
    config: StudyConfig,
    display: Display,
    *,
    last: StageName = "report",
    force: bool = False,
    stages: Sequence[Stage] = STAGES,
) -> None:
    """Run the stages up to `last`; those whose inputs have not changed are skipped.

    Args:
        config: The study.
        display: Shows progress.
        last: Where to stop.
        force: Discard what `last` has written and repeat it; with `report`, repeat everything.
        stages: Those that there are, in their order.

    Raises:
        StudyError: If the study's folder was written by another configuration; nothing is changed.
        UserError: If something is wrong that the user can mend.

    >>> import nas_proxy as nas
    >>> from nas_proxy.study.console import console_display
    >>> train = {"num_steps": 5, "batch_size": 8, "learning_rate": 0.02}
    >>> study = nas.Study("s", space="convnet", distill="herding", train=train)
    >>> run_pipeline(study.config, console_display(), last="calibrate")
    Traceback (most recent call last):
    nas_proxy.errors.ConfigError: there is nothing to calibrate, for the config has no section...
    """
    names = [stage.name for stage in stages]
    if last not in names:
        raise ConfigError(f"there is no step {last!r} to stop after; {did_you_mean(last, names)}")
    config = within_budget(config, display, anew=force and last == "report")
    if last == "calibrate":
        _refuse_nothing_to_calibrate(config)
    logs = StudyLogs()
    check_samples(config, logs, display.say)
    asked = stages[: names.index(last) + 1]
    repeated = {stage.name for stage in asked if force and last in (stage.name, "report")}
    kept = [stage for stage in asked if stage.name not in repeated]
    refuse_other_configuration(kept, config, config.layout)
    with open_study(config, display, logs) as study:
        say_notices(study)
        for notice in config.notices:
            display.say(notice)
        write_atomically(config.layout.config, config.to_yaml())
        left = announce(plan_stages(asked, study, repeated), study)
        if left.seconds:
            start_workers(study.executor)
        study.forget()  # what calibrate finds now may be another recipe
        wanted = [stage for stage in asked if stage.is_wanted(config)]
        for stage in asked:
            if stage in wanted:
                place = f"stage {wanted.index(stage) + 1} of {len(wanted)}: {stage.name}"
                display.say(f"{place}{left.words_before(stage.name)}")
            try:
                run_stage(stage, study, force=stage.name in repeated)
            except RecalibrationNeeded as request:
                display.say(f"search: {request}")
                _calibrate_again(study, request)


def say_notices(study: StudyContext) -> None:
    """Say what of a study's networks and their training a user might not expect.

    Raises:
        UserError: If no network of the space could do with the images.
    """
    config, display = study.config, study.display
    config.space.check_images(study.splits)
    if isinstance(config.space, TransferSpace):
        for notice in config.space.notices():
            display.say(f"{config.space.name}: {notice}")
    if reductions := _reductions(config):
        reduced = ", ".join(f"{k}: {v}" for k, v in reductions.items())
        display.say(
            f"train: candidates are smaller than the space's own networks ({reduced}; "
            "train.space_fidelity: {} trains them at full size)"
        )


def _reductions(config: StudyConfig) -> Mapping[str, int]:
    """By what candidates are smaller, where it is known how they are trained."""
    if not isinstance(config.recipe, Recipe):
        return config.train.space_fidelity if config.recipe == "configured" else {}
    trained = [part.train for part in config.recipe.parts if part.train_on != "nothing"]
    return trained[-1].space_fidelity if trained and trained[-1] is not None else {}


def _calibrate_again(study: StudyContext, request: RecalibrationNeeded) -> None:
    """Find another recipe on a larger sample, and search anew with it; once in a study.

    Raises:
        StudyError: If that was done before.
    """
    search, set_aside = study.layout.stage("search"), study.layout.before_recalibration
    if set_aside.exists():
        raise _fallen_again(request)
    # What the guard checked is part of the calibration sample from here on, killed or not.
    search.rename(set_aside)
    study.forget(search, set_aside)
    try:
        for stage in STAGES:
            if stage.name in ("calibrate", "search"):
                run_stage(stage, study, force=False)
    except RecalibrationNeeded as again:
        raise _fallen_again(again) from again


def _fallen_again(request: RecalibrationNeeded) -> StudyError:
    return StudyError(
        f"{request.check.sentence}, although the recipe was calibrated again before; the ranking "
        "cannot be trusted here: offer other recipes under another study_name"
    )


def evaluate_proxy(
    config: StudyConfig, display: Display, file: Path, task: Task, *, force: bool = False
) -> ProxyAccuracy | ProxyReplay:
    """Find out what the proxy data set `file` is worth on the data of `config`.

    It lies in the study's folder `evaluate_proxy`; what was finished is not done again.

    Args:
        config: Its sections data, evaluate_proxy, search (the executor) and tracking count.
        display: Shows progress.
        file: The proxy data set, from any study or imported.
        task: What to try it on.
        force: Discard an earlier result and repeat it.

    Returns:
        The result, as it is written.

    Raises:
        UserError: If something is wrong that the user can mend.
    """
    ProxyDataset.load(file)  # before images are loaded: a wrong path shows at once
    with open_study(config, display) as study:
        result = run_evaluate_proxy(study, file, task, force=force)
        try:
            if _is_reported(study.layout.report, result.proxy_dataset.id):
                run_stage(Report(), study, force=False)
        except StudyError as error:  # what was asked for is done all the same
            display.say(f"report: not written again, for {error}")
        return result


def _is_reported(report: Path, proxy_id: str) -> bool:
    """Whether the study has a report, on this very proxy data set."""
    return report.is_file() and StudyReport.read(report).proxy_dataset.id == proxy_id


@contextmanager
def open_study(
    config: StudyConfig, display: Display, logs: StudyLogs | None = None
) -> Iterator[StudyContext]:
    """A study with its images, executor and tracker, which end with the block.

    Args:
        config: The study.
        display: Shows progress.
        logs: What was read of its logs before; None: nothing.

    Raises:
        UserError: If something is wrong that the user can mend.
    """
    _prepare_device(config)
    with display.progress("loading images") as progress:
        splits = load_splits(config.data, progress=progress, say=display.say)
    with sole_user(config.layout.folder):
        note_lost(config.layout)
        tracker = open_tracker(
            config.tracking,
            config.results,
            config.layout.folder,
            config.study_name,
            code=source_files(config.space, config.distiller),
        )
        workplace = Workplace(config.search.ray, config.data, splits, display.say)
        executor = open_executor(config.search.executor, config.search.num_workers, workplace)
        with tracker, executor as running:
            tracker.study.params(used_parameters(config, STAGES))
            tracker.study.tags({"hardware": hardware(torch.device(config.device))})
            tracker.study.dataset(real_images(config, splits), "real images")
            yield StudyContext(config, splits, running, tracker, display, logs or StudyLogs())


def _refuse_nothing_to_calibrate(config: StudyConfig) -> None:
    if config.calibration is None:
        raise ConfigError(
            "there is nothing to calibrate, for the config has no section calibrate; add one, such "
            "as calibrate: {reference: {train: {num_epochs: 50}}}"
        )
    if config.recipe != "calibrated":
        raise ConfigError(
            f"there is nothing to calibrate, for recipe is {recipe_words(config.recipe)}; set "
            "recipe: calibrated"
        )


def _prepare_device(config: StudyConfig) -> None:
    torch.set_num_threads(config.num_threads)
    check_device(config.device)
