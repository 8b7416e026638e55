"""Smaller versions of the recommended network, as `retrain.compress` asks for."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from nas_proxy.compress.result import CompressedVersion, CompressionResult
from nas_proxy.compress.settings import CompressSettings
from nas_proxy.data.transforms import resize_dataset
from nas_proxy.errors import CompressionError, NasProxyError
from nas_proxy.reproducibility import derive_seed
from nas_proxy.statistics.accuracy import over_images
from nas_proxy.study.context import StudyContext
from nas_proxy.train.measuring import measure
from nas_proxy.train.training_set import TrainingSet


def compress_recommended(
    study: StudyContext, settings: CompressSettings, network: nn.Module, image_size: int
) -> CompressionResult:
    """Make smaller versions of `network`, and meet the test images with each of them once.

    A variant that cannot be made costs nothing but itself. A finished folder is read, so a study
    that was killed later measures nothing again.

    Args:
        study: Whose images are used.
        settings: With `fine_tuning` said.
        network: Fully trained, on the study's device.
        image_size: Of the images it was trained on.

    Raises:
        StudyError: If what was finished earlier was written by another version of nas_proxy.
    """
    # torchao and ONNX take seconds to import, which a study without this section need not wait for.
    from nas_proxy.compress.compressing import compress
    from nas_proxy.compress.measurements import EXACT
    from nas_proxy.compress.self_distillation import DistilFromItself

    path, finished = study.layout.compressed, study.layout.compression
    if finished.is_file():
        found = CompressionResult.read(finished)
        if all((path / version.file).is_file() for version in found.versions):
            return found
    splits = study.splits
    search_train = resize_dataset(splits.search_train, image_size)
    training_set = TrainingSet.of(
        replace(
            search_train,
            images=search_train.images.to(study.device),
            labels=search_train.labels.to(study.device),
        )
    )
    test = resize_dataset(splits.test, image_size)
    path.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []
    rows = []

    def leave_out(name: str, error: NasProxyError) -> None:
        reasons.append(f"{name}: {error}")

    try:
        models = compress(
            network,
            training_set,
            resize_dataset(splits.search_val, image_size),
            settings,
            folder=path,
            seed=derive_seed("compress", study.config.seed) % 2**31,
            make_objective=DistilFromItself(network, training_set),
            on_failure=leave_out,
        )
    except CompressionError as error:
        reasons.append(str(error))
    else:
        for model in models:  # made, all of them: nothing is chosen after this
            right = measure(model.runtime, test, EXACT).confusion
            accuracy = over_images(int(right.trace()), int(right.sum()))
            file = str(model.onnx.relative_to(path))
            rows.append(CompressedVersion(**vars(model.row), test_accuracy=accuracy, file=file))
    for reason in reasons:
        study.display.say(f"compress: {reason}; the model files are complete without it")
    result = CompressionResult(tuple(rows), "; ".join(reasons))
    result.write(finished)
    return result
