"""The stage `distill`: real images in, a proxy data set out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from nas_proxy.core.costs import CostMeter
from nas_proxy.data.pictures import write_image_grid
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import denormalise
from nas_proxy.errors import DivergedError, StudyError, UserError
from nas_proxy.evaluate.executors import pool_of
from nas_proxy.interfaces import CalibrationSample, DistillContext, DistillTask
from nas_proxy.report.values import Cost
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.study.announcing import ForeseenDistilling
from nas_proxy.study.context import StudyContext
from nas_proxy.study.distilling import distill_images, needed_teachers
from nas_proxy.study.history import add_discarded
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.logged_datasets import distilled_images
from nas_proxy.study.plan import (
    DistillUnit,
    Saving,
    StagePlan,
    Task,
    teacher_tasks,
    training_unit,
)
from nas_proxy.study.sources import IMAGES, SPACE
from nas_proxy.study.stage import Condition, Section, Stage
from nas_proxy.study.trust import fetch_trusted
from nas_proxy.teachers.labelling import save_teachers
from nas_proxy.tracking import Tracker

_DISTILS = Condition("unless the recipe is trusted", lambda config: config.recipe != "trusted")
_ITS_WORD = Condition("its word, nothing of one that is written out", lambda _: True)
_LEARNS_FROM_ARCHITECTURES = Condition(
    "if the method learns from architectures",
    lambda config: config.recipe != "trusted" and config.distiller.needs_calibration,
)
_LOOKS_AT_THE_SPACE = Condition(
    "if the method learns from architectures, or draws networks of the space",
    lambda config: (
        config.recipe != "trusted"
        and (config.distiller.needs_calibration or config.distiller.draws_from_space)
    ),
)
_DRAWS_FROM_THE_SPACE = Condition(
    "if the method draws networks of it",
    lambda config: config.recipe != "trusted" and config.distiller.draws_from_space,
)


class Distill(Stage):
    """Writes `proxy.safetensors`, and pictures of the images before and after.

    Where the recipe is `trusted`, the proxy data set comes with it from the registry. A method that
    learns from architectures is given the calibration sample.
    """

    name = "distill"
    version = 3
    reads = (
        Section(name="seed", when=_DISTILS),
        Section(name="data", free=("root", "download", "ship")),
        Section(name="distill", free=("num_workers",), when=_DISTILS),
        Section(name="recipe", keys=(), when=_ITS_WORD),
        Section(name="space", when=_LOOKS_AT_THE_SPACE),
        Section(
            name="calibrate",
            keys=("num_architectures", "reference"),
            when=_LEARNS_FROM_ARCHITECTURES,
        ),
    )
    sources = (IMAGES, replace(SPACE, when=_DRAWS_FROM_THE_SPACE))

    def writes(self, layout: StudyLayout) -> Iterable[Path]:
        """The set and its pictures."""
        return (layout.proxy_dataset, layout.images_before, layout.images_after)

    def plan(self, study: StudyContext) -> StagePlan:
        """Full trainings for a method that learns from them, teachers, and the distillation."""
        config, sample, distiller = study.config, study.calibration_sample, study.config.distiller
        if config.recipe == "trusted":
            return StagePlan(stage=self.name, notes=("the set comes with the recipe",))
        tasks = []
        if sample is not None and sample.training is not None and distiller.needs_calibration:
            unit = training_unit(study, sample.training)
            total = len(sample.architectures)
            what = "full trainings to learn from"
            tasks.append(Task(what=what, units=(unit,), total=total, done=sample.num_known))
        tasks += teacher_tasks(study, needed_teachers(config.distiller, config.labels))
        own = Task(what=distiller.name, units=(DistillUnit(),), total=1, in_driver=True)
        num_steps = getattr(distiller, "num_steps", None)
        savings = []
        if isinstance(num_steps, int) and num_steps >= 10:
            option = f"distill.num_steps={num_steps // 10}"
            savings.append(Saving(option, 0.1, "the set is distilled less far", (own.what,)))
        return StagePlan(stage=self.name, tasks=(*tasks, own), savings=tuple(savings))

    def run(self, study: StudyContext, folder: Path) -> None:
        """Distil, or fetch what an earlier study distilled."""
        if study.config.recipe == "trusted":
            _take_trusted(study)
        else:
            _distill(study)


def _distill(study: StudyContext) -> None:
    config, layout, splits = study.config, study.layout, study.splits
    real = splits.search_train  # the distiller is given nothing else to look at
    dataset = replace(
        real, images=real.images.to(study.device), labels=real.labels.to(study.device)
    )
    seed = derive_seed("distill", config.seed)
    sample = _calibration_sample(study)
    with study.display.progress(f"distilling: {config.distiller.name}") as progress:
        costs = CostMeter(layout.distill_costs)
        context = DistillContext(
            device=study.device,
            progress=ForeseenDistilling(progress, study.display, config.distiller),
            checkpoint=layout.distill_checkpoint,
            cache=layout.cache,
            labels=config.labels.kind,
            num_workers=config.distill_workers,
            calibration=sample,
            space=config.space if config.distiller.draws_from_space else None,
            costs=costs,
            open_pool=pool_of(study.executor),
        )
        try:
            task = DistillTask(
                dataset=dataset,
                images_per_class=config.images_per_class,
                generator=make_generator(seed),
                context=context,
            )
            proxy_dataset, teachers = distill_images(config.distiller, config.labels, splits, task)
        except (UserError, DivergedError) as error:
            # Where no checkpoint is left, nothing is: the config may change.
            if not layout.distill_checkpoint.is_file():
                _came_to_nothing(layout, costs)
            if isinstance(error, DivergedError):  # its sentence says what to change
                raise StudyError(str(error)) from error
            raise
    if proxy_dataset.labelling.kind == "soft":  # they label views, and agreement is a signal
        save_teachers(teachers, layout.proxy_dataset)
    # The same seed draws the same images that the distiller started from.
    initial, _ = config.distiller.initialise(
        dataset, proxy_dataset.images_per_class, make_generator(seed)
    )
    _write(proxy_dataset, denormalise(initial, dataset.spec), layout, study.tracker)
    costs.forget()
    study.display.say(
        f"distill: {len(proxy_dataset)} images in {proxy_dataset.cost_seconds:.1f} s, "
        f"{layout.proxy_dataset}"
    )


def _came_to_nothing(layout: StudyLayout, costs: CostMeter) -> None:
    """Leave what was spent to the study's history."""
    spent = [Cost(what, 1, seconds) for what, seconds in costs.seconds.items()]
    add_discarded(layout, "came to nothing", spent)
    costs.forget()


def _write(
    proxy_dataset: ProxyDataset, initial: Tensor, layout: StudyLayout, tracker: Tracker
) -> None:
    """The set and pictures of it; `initial` is `(n, c, h, w)` in [0, 1], class by class."""
    proxy_dataset.save(layout.proxy_dataset)
    per_class = proxy_dataset.images_per_class
    names = proxy_dataset.spec.class_names
    write_image_grid(layout.images_before, initial.cpu(), per_class, names)
    write_image_grid(layout.images_after, proxy_dataset.pixels().cpu(), per_class, names)
    for picture in (layout.images_before, layout.images_after):
        tracker.study.artifact(picture, "images")
    tracker.study.artifact(layout.proxy_dataset, "proxy_dataset")
    tracker.study.dataset(distilled_images(proxy_dataset), "proxy data set")


def _take_trusted(study: StudyContext) -> None:
    fetch_trusted(study)
    proxy_dataset, picture = study.proxy_dataset, study.layout.images_after
    write_image_grid(
        picture,
        proxy_dataset.pixels().cpu(),
        proxy_dataset.images_per_class,
        proxy_dataset.spec.class_names,
    )
    study.tracker.study.artifact(picture, "images")
    study.tracker.study.dataset(distilled_images(proxy_dataset), "proxy data set")


def _calibration_sample(study: StudyContext) -> CalibrationSample | None:
    """Architectures with full-data references, if the method learns from them."""
    sample = study.calibration_sample
    if sample is None or not study.config.distiller.needs_calibration:
        return None
    return sample.whole()
