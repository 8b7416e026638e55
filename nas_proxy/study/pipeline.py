"""A study from its configuration to its report, in one straight line.

config -> distill -> ProxyDataset -> calibrate -> Recipe -> search -> evaluations -> validate
       -> RankReport -> retrain -> models -> report
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import yaml

from nas_proxy.core.environment import check_device
from nas_proxy.core.files import write_atomically
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.sources import load_splits
from nas_proxy.errors import ConfigError, StudyError
from nas_proxy.evaluate.executors import open_executor
from nas_proxy.evaluate_proxy.result import ProxyAccuracy, ProxyReplay
from nas_proxy.search.guard import RecalibrationNeeded
from nas_proxy.study.calibration_sample import BEFORE_RECALIBRATION
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import Display, StudyContext
from nas_proxy.study.evaluate_proxy import Task, run_evaluate_proxy
from nas_proxy.study.samples import check_samples
from nas_proxy.study.stage import differences, released_on_user_error, sole_user
from nas_proxy.study.stages.calibrate import run_calibrate
from nas_proxy.study.stages.distill import run_distill
from nas_proxy.study.stages.report import run_report
from nas_proxy.study.stages.retrain import run_retrain
from nas_proxy.study.stages.search import run_search_stage
from nas_proxy.study.stages.validate import run_validate
from nas_proxy.tracking import open_tracker

StageName = Literal["distill", "calibrate", "search", "validate", "retrain", "report"]
STAGES: dict[StageName, Callable[..., None]] = {
    "distill": run_distill,
    "calibrate": run_calibrate,
    "search": run_search_stage,
    "validate": run_validate,
    "retrain": run_retrain,
    "report": run_report,
}
assert tuple(STAGES) == get_args(StageName)


def run_pipeline(
    config: StudyConfig, display: Display, *, last: StageName = "report", force: bool = False
) -> None:
    """Run the stages up to `last`; those whose inputs have not changed are skipped.

    Args:
        config: The study.
        display: Shows progress.
        last: Where to stop.
        force: Discard what `last` has written and repeat it; with `report`, repeat everything.

    Raises:
        StudyError: If the study's folder was written by another configuration; nothing is changed.
        UserError: If something is wrong that the user can mend.
    """
    if last == "calibrate":
        _refuse_nothing_to_calibrate(config)
    check_samples(config)
    _refuse_foreign_folder(config, repeated=_repeated(last) if force else ())
    with open_study(config, display) as study:
        config.space.check_images(study.splits)
        write_atomically(config.folder / "config.yaml", config.to_yaml())
        for notice in config.space.notices():
            display.say(f"{config.space.name}: {notice}")
        for name, stage in STAGES.items():
            repeat = force and name in _repeated(last)
            try:
                with released_on_user_error(config.folder / name):
                    stage(study, force=repeat)
            except RecalibrationNeeded as request:
                study.display.say(f"search: {request}")
                _calibrate_again(study, request)
            if name == last:
                return


def _calibrate_again(study: StudyContext, request: RecalibrationNeeded) -> None:
    """Find another recipe on a larger sample, and search anew with it; once in a study.

    Raises:
        StudyError: If that was done before.
    """
    folder = study.config.folder
    if (folder / BEFORE_RECALIBRATION).exists():
        raise _fallen_again(request)
    # What the guard checked is part of the calibration sample from here on, killed or not.
    (folder / "search").rename(folder / BEFORE_RECALIBRATION)
    run_calibrate(study, force=False)
    try:
        run_search_stage(study, force=False)
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

    What is written lies in the study's folder `worth`; what was finished is not done again.

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
        if _is_reported(study, result.proxy_dataset.id):
            run_report(study, force=False)
        return result


def _is_reported(study: StudyContext, proxy_id: str) -> bool:
    """Whether the study has a report, on this very proxy data set."""
    report = study.config.folder / "report.json"
    return report.is_file() and json.loads(report.read_text())["proxy_dataset"]["id"] == proxy_id


@contextmanager
def open_study(config: StudyConfig, display: Display) -> Iterator[StudyContext]:
    """A study with its images, executor and tracker, which end with the block.

    Raises:
        UserError: If something is wrong that the user can mend.
    """
    _prepare_device(config)
    with display.progress("loading images") as progress:
        splits = load_splits(config.data, progress=progress, say=display.say)
    with sole_user(config.folder):
        tracker = open_tracker(config.tracking, config.results, config.folder, config.study_name)
        executor = open_executor(config.search.executor, config.search.num_workers)
        with tracker, executor as running:
            yield StudyContext(config, splits, running, tracker, display)


def _repeated(last: StageName) -> tuple[StageName, ...]:
    """The stages that `--force` repeats: the one that is asked for, or all of them."""
    return tuple(STAGES) if last == "report" else (last,)


def _refuse_nothing_to_calibrate(config: StudyConfig) -> None:
    if config.calibration is None:
        raise ConfigError(
            "there is nothing to calibrate, for the config has no section calibrate; add one, such "
            "as calibrate: {reference: {train: {num_epochs: 50}}}"
        )
    if config.recipe != "calibrated":
        raise ConfigError(
            f"there is nothing to calibrate, for recipe is {config.recipe}; set recipe: calibrated"
        )


def _refuse_foreign_folder(config: StudyConfig, *, repeated: tuple[StageName, ...]) -> None:
    """Compare with the configuration that wrote the folder, before anything is touched."""
    stored_file = config.folder / "config.yaml"
    if not stored_file.is_file():
        return
    try:
        stored = yaml.safe_load(stored_file.read_text())
    except yaml.YAMLError as error:
        raise StudyError(
            f"{stored_file} is damaged; delete it, or choose another study_name"
        ) from error
    sections: set[str] = set()
    for name, read in _READ_SECTIONS.items():
        if name not in repeated and (config.folder / name / "stage.json").is_file():
            sections.update(read)
    before, now = (
        {name: _comparable(name, mapping.get(name)) for name in sections}
        for mapping in (stored, config.resolved)
    )
    found = differences(before, now)
    if found:
        raise StudyError(
            f"{config.folder} was written by a different config ({'; '.join(found)}); choose "
            "another study_name, or pass --force to discard that work and repeat it"
        )


_READ_SECTIONS: dict[str, tuple[str, ...]] = {
    "distill": ("seed", "data", "distill"),
    "calibrate": ("space", "train", "calibrate", "recipe"),
    "search": ("space", "train", "knowledge_distillation", "score", "search", "recipe"),
    "validate": ("validate",),
    "retrain": ("space", "train", "knowledge_distillation", "score", "search", "recipe", "retrain"),
}
# Where things are and how fast they go, not what comes out; and what the same evaluations answer.
_FREE_TO_CHANGE = {
    "data": ("root", "download"),
    "distill": ("num_workers",),
    "calibrate": ("threshold", "num_architectures", "budget_seconds", "when_none", "recipes"),
    "search": ("n_trials", "executor", "num_workers"),
}


def _comparable(name: str, section: Any) -> Any:
    if not isinstance(section, dict):
        return section
    return {key: v for key, v in section.items() if key not in _FREE_TO_CHANGE.get(name, ())}


def _prepare_device(config: StudyConfig) -> None:
    torch.set_num_threads(config.num_threads)
    check_device(config.device)
