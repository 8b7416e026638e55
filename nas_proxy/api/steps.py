"""Steps of a study that stand alone: distilling, and judging what was distilled elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nas_proxy.api.calls import one_sentence
from nas_proxy.api.images import ArrayImages
from nas_proxy.api.sections import (
    DataLike,
    DistillerLike,
    GivenProxyDataset,
    SpaceLike,
    data_section,
    executor_section,
    plugin_section,
)
from nas_proxy.api.study import Study, run_stages
from nas_proxy.core.environment import check_device
from nas_proxy.data.folder import cache_folder
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.errors import ConfigError, DivergedError, StudyError
from nas_proxy.interfaces import DistillContext, DistillTask
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.study.all_stages import JUDGING
from nas_proxy.study.config import Distillation, check_distill
from nas_proxy.study.console import console_display
from nas_proxy.study.display import Display
from nas_proxy.study.distilling import distill_images
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.plain_values import read_options
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.tracking import TrackingSettings
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Splits
from nas_proxy.validate.settings import ValidateSettings
from nas_proxy.validate.values import RankReport


@one_sentence
def distill(
    data: DataLike,
    method: DistillerLike,
    *,
    images_per_class: int | None = None,
    labels: str | LabelSettings | Mapping[str, Any] | None = None,
    num_workers: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    display: Display | None = None,
) -> ProxyDataset:
    """Condense images into a few, as the step `distill` of a study does; the same seed, the same.

    Args:
        data: From `image_folder`, `dataset` or `arrays`, or the name of a data set.
        method: A distiller's name, `FILE.py:CLASS`, an object, a class, or a mapping with `name`
            and options.
        images_per_class: How many images it makes for each class; None: 10.
        labels: `hard`, `soft`, `learned`, or a mapping with the section's options.
        num_workers: Processes that work on classes side by side where the method allows it.
        seed: Of everything random but the data split, which has its own.
        device: `cpu`, `cuda` or `cuda:1`.
        display: Shows progress; None: bars in a terminal, lines elsewhere.

    Returns:
        The set; `save` writes it to a file, which the distiller `file` of a study reads.

    Raises:
        ConfigError: If an option is wrong, or the method needs a study.
        UserError: If something else is wrong that the user can mend.

    >>> import nas_proxy as nas
    >>> made = nas.distill("digits", "random_subset", images_per_class=2)
    >>> len(made), made.method
    (20, 'random_subset')
    """
    common = {"images_per_class": images_per_class, "labels": labels, "num_workers": num_workers}
    given = {name: value for name, value in common.items() if value is not None}
    asked = check_distill({**plugin_section(DISTILLERS, method), **given})
    _refuse_what_needs_a_study(asked)
    check_device(device)
    shown = display or console_display()
    splits = load(data, shown)
    with shown.progress(f"distilling: {asked.distiller.name}") as progress:
        context = DistillContext(
            device=torch.device(device),
            progress=progress,
            labels=asked.labels.kind,
            num_workers=asked.num_workers,
        )
        real = splits.search_train
        task = DistillTask(
            dataset=replace(
                real, images=real.images.to(context.device), labels=real.labels.to(context.device)
            ),
            images_per_class=asked.images_per_class,
            generator=make_generator(derive_seed("distill", seed)),
            context=context,
        )
        try:
            made, _ = distill_images(asked.distiller, asked.labels, splits, task)
        except DivergedError as error:  # its sentence says what to change
            raise StudyError(str(error)) from error
    return made


@one_sentence
def validate(
    proxy_dataset: ProxyDataset | Path | str,
    *,
    data: DataLike,
    space: SpaceLike,
    train: TrainSettings | Mapping[str, Any],
    validate: ValidateSettings | Mapping[str, Any],
    score: ScoreSettings | Mapping[str, Any] | None = None,
    num_workers: int = 1,
    name: str | None = None,
    results: Path | str = "results",
    seed: int = 0,
    device: str = "cpu",
    tracking: TrackingSettings | Mapping[str, Any] | None = None,
    display: Display | None = None,
) -> RankReport:
    """Judge how a proxy data set ranks architectures, as the step `validate` of a study does.

    It is a study that reads the set from a file and searches nothing; a killed call continues
    where it was.

    Args:
        proxy_dataset: The set, or its file.
        data: The images that it was distilled from.
        space: Where the architectures that judge come from, in the forms that `Study` takes.
        train: How networks are trained on the set.
        validate: The reference and how many architectures judge, as the section of that name.
        score: How the trained networks are ranked; None: by their validation loss.
        num_workers: Processes that train networks.
        name: Of the study; None: `validate_` and the id of the set.
        results: Folder that holds the study's folder.
        seed: Of everything random but the data split, which has its own.
        device: `cpu`, `cuda` or `cuda:1`.
        tracking: Where the study is logged.
        display: Shows progress; None: bars in a terminal, lines elsewhere.

    Raises:
        ConfigError: With every fault that was found, one per line.
        UserError: If something else is wrong that the user can mend.

    >>> import nas_proxy as nas
    >>> nas.validate("no.safetensors", data="digits", space="convnet", train={}, validate={})
    Traceback (most recent call last):
    nas_proxy.errors.ProxyFileError: the proxy data set file no.safetensors does not exist
    """
    given = GivenProxyDataset.of(proxy_dataset)
    study_name = name or f"validate_{given.content.id}"
    folder = StudyLayout(Path(results), study_name).given("")
    study = Study(
        study_name,
        data=data,
        space=space,
        distill=given.section(folder),
        train=train,
        score=score,
        search=executor_section(num_workers),
        validate=validate,
        tracking=tracking,
        results=results,
        seed=seed,
        device=device,
    )
    given.save(folder)
    run_stages(study, JUDGING, last="validate", display=display)
    return study.verdict.report


def load(data: DataLike, display: Display) -> Splits:
    """The images of whatever names them; those in memory are kept in the user's cache folder."""
    if isinstance(data, ArrayImages):
        settings = data.save(cache_folder("arrays"))
    else:
        settings = read_options(DataSettings, data_section(data, cache_folder("arrays")))
    with display.progress("loading images") as progress:
        return load_splits(settings, progress=progress, say=display.say)


def _refuse_what_needs_a_study(asked: Distillation) -> None:
    name = asked.distiller.name
    if asked.distiller.needs_calibration or asked.distiller.draws_from_space:
        raise ConfigError(
            f"{name} learns from architectures of a search space: use "
            f"Study(..., distill={name!r}).run(last='distill')"
        )
    if asked.labels.kind == "soft" and asked.labels.per == "view":
        raise ConfigError(
            "labels for each view need their teachers beside the set's file: use "
            "Study(...).run(last='distill'), or labels for each image"
        )
