"""The first stage: real images in, a proxy data set out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from nas_proxy.data.pictures import write_image_grid
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import denormalise
from nas_proxy.errors import DivergedError, StudyError
from nas_proxy.interfaces import CalibrationSample, DistillContext, DistillTask
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.study.calibration_sample import SampleReferences
from nas_proxy.study.context import StudyContext
from nas_proxy.study.stage import StageFolder
from nas_proxy.study.trust import fetch_trusted
from nas_proxy.teachers.labelling import label, save_teachers
from nas_proxy.teachers.leakage import check_leakage, with_leaked_images
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.teachers.training import obtain_teachers
from nas_proxy.types import ImageDataset

VERSION = 2


def run_distill(study: StudyContext, *, force: bool) -> None:
    """Write `proxy.safetensors`, and pictures of the images before and after.

    Where the recipe is `trusted`, the proxy data set comes with it from the registry.
    """
    config = study.config
    if config.recipe == "trusted":
        _take_trusted(study, force=force)
        return
    folder = StageFolder(
        config.folder / "distill",
        VERSION,
        {
            **_learned_from(study),
            "distill": {k: v for k, v in config.resolved["distill"].items() if k != "num_workers"},
            "data": study.splits.spec.source_hash,
            "seed": config.seed,
        },
    )
    if not folder.open(force=force):
        study.display.say("distill: the proxy data set is there already")
        return
    device = torch.device(config.device)
    real = study.splits.search_train  # the distiller is given nothing else to look at
    dataset = replace(real, images=real.images.to(device), labels=real.labels.to(device))
    seed = derive_seed("distill", config.seed)
    sample = _calibration_sample(study)
    with study.display.progress(f"distilling: {config.distiller.name}") as progress:
        context = DistillContext(
            device=device,
            progress=progress,
            checkpoint=folder.path / "checkpoint.safetensors",
            cache=study.cache_folder,
            labels=config.labels.kind,
            num_workers=config.distill_workers,
            calibration=sample,
        )
        try:
            teachers, seen = _teachers(study, dataset, context)
            task = DistillTask(
                dataset=dataset,
                images_per_class=config.images_per_class,
                generator=make_generator(seed),
                context=context,
            )
            proxy_dataset = config.distiller.distill(task)
            proxy_dataset = label(proxy_dataset, config.labels, dataset, context)
        except DivergedError as error:  # its sentence says what to change
            raise StudyError(str(error)) from error
    proxy_dataset = with_leaked_images(proxy_dataset, seen)
    if proxy_dataset.labelling.kind == "soft":  # they label views, and agreement is a signal
        save_teachers(teachers, study.proxy_file)
    proxy_dataset.save(study.proxy_file)
    _write_pictures(study, dataset, proxy_dataset, seed)
    folder.finish()
    study.display.say(
        f"distill: {len(proxy_dataset)} images in {proxy_dataset.cost_seconds:.1f} s, "
        f"{study.proxy_file}"
    )


def _take_trusted(study: StudyContext, *, force: bool) -> None:
    inputs = {"recipe": "trusted", "data": study.splits.spec.source_hash}
    folder = StageFolder(study.config.folder / "distill", VERSION, inputs)
    if not folder.open(force=force):
        study.display.say("distill: the trusted recipe is there already, with its proxy data set")
        return
    fetch_trusted(study)
    proxy_dataset = study.load_proxy_dataset()
    path = folder.path / "after.png"
    write_image_grid(path, proxy_dataset.pixels(), proxy_dataset.images_per_class)
    study.tracker.study.artifact(path, "images")
    folder.finish()


def _calibration_sample(study: StudyContext) -> CalibrationSample | None:
    """Architectures with full-data references, if the method learns from them."""
    settings = study.config.calibration
    if settings is None or not study.config.distiller.needs_calibration:
        return None
    return SampleReferences(study, settings).whole()


def _learned_from(study: StudyContext) -> dict[str, Any]:
    """What the method is given beside the images, for the stage's key."""
    if not study.config.distiller.needs_calibration:
        return {}
    calibrate, resolved = study.config.calibration, study.config.resolved["calibrate"]
    return {
        "space": study.config.space.fingerprint(),
        "calibration_sample": {
            "num_architectures": calibrate.num_architectures if calibrate else 0,
            "reference": resolved["reference"],
        },
    }


def _teachers(
    study: StudyContext, dataset: ImageDataset, context: DistillContext
) -> tuple[list[Teacher], dict[str, int]]:
    """All trained networks of the stage, and how many held-out images each has seen.

    Before anything is distilled: hours would be lost on a teacher that knows the answers.
    """
    labels = study.config.labels
    needed = [*study.config.distiller.teachers, *(labels.teachers if labels.kind != "hard" else ())]
    once = [each for index, each in enumerate(needed) if each not in needed[:index]]
    teachers = obtain_teachers(once, dataset, context)
    return teachers, check_leakage(teachers, study.splits, allow=labels.allow_leakage)


def _write_pictures(
    study: StudyContext, dataset: ImageDataset, proxy_dataset: ProxyDataset, seed: int
) -> None:
    folder = study.proxy_file.parent
    per_class = proxy_dataset.images_per_class
    # The same seed draws the same images that the distiller started from.
    initial, _ = study.config.distiller.initialise(dataset, per_class, make_generator(seed))
    write_image_grid(folder / "before.png", denormalise(initial, dataset.spec), per_class)
    write_image_grid(folder / "after.png", proxy_dataset.pixels(), per_class)
    for name in ("before.png", "after.png"):
        study.tracker.study.artifact(folder / name, "images")
    study.tracker.study.artifact(study.proxy_file, "proxy_dataset")
