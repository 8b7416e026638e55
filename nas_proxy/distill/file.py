"""A proxy data set that exists already, as a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import renormalise
from nas_proxy.errors import ProxyFileError
from nas_proxy.interfaces import Distiller, DistillTask
from nas_proxy.registry import DISTILLERS
from nas_proxy.teachers.labelling import teachers_beside
from nas_proxy.train.teacher_settings import TeacherSettings
from nas_proxy.types import DatasetSpec


@DISTILLERS.register("file")
@dataclass(frozen=True, kw_only=True)
class ProxyDatasetFile(Distiller):
    """Reads a file that an earlier study or `import-proxy` wrote, and makes sure that it fits.

    Attributes:
        path: The `.safetensors` file.
        allow_unknown_source: Take a set although nobody recorded which images it was distilled
            from; the study's copy of it says so.
    """

    summary = "a proxy data set file that exists already"
    typical_cost = "seconds"

    path: str
    allow_unknown_source: bool = False

    @property
    def teachers(self) -> tuple[TeacherSettings, ...]:
        """Those that labelled the set and lie beside its file: they may leak held-out images."""
        file = Path(self.path).expanduser()
        return teachers_beside(ProxyDataset.load(file), file) if file.is_file() else ()

    def own_images_per_class(self) -> int | None:
        """How many the file holds; None without a file that can be read.

        `distill` says what is wrong with it; `import-proxy` writes it, or another in its place.
        """
        file = Path(self.path).expanduser()
        try:
            return ProxyDataset.load(file).images_per_class
        except ProxyFileError:
            return None

    def distill(self, task: DistillTask) -> ProxyDataset:
        """Load the set; see `Distiller.distill`.

        Raises:
            ProxyFileError: If the file is missing or damaged, was made from other images than the
                task's or from nobody knows which, or has another number of images per class.
        """
        spec, images_per_class = task.dataset.spec, task.images_per_class
        loaded = ProxyDataset.load(Path(self.path).expanduser())
        if not loaded.spec.source_hash:
            loaded = self._adopted(loaded, spec)
        loaded.check_source(spec)
        if loaded.images_per_class != images_per_class:
            raise ProxyFileError(
                f"{self.path} holds {loaded.images_per_class} images per class, but "
                f"distill.images_per_class is {images_per_class}; "
                f"set it to {loaded.images_per_class}"
            )
        task.context.progress(1, 1)
        return loaded.to(task.context.device)

    def _adopted(self, loaded: ProxyDataset, spec: DatasetSpec) -> ProxyDataset:
        """A copy that may be used with the images of `spec`, and says on whose word."""
        loaded.check_fits(spec)
        if not self.allow_unknown_source:
            raise ProxyFileError(
                f"nobody recorded which images {self.path} was distilled from, so it may have seen "
                "the validation images that measure candidates in this study, and what is "
                "measured would flatter it; set distill.allow_unknown_source: true to use it "
                "all the same"
            )
        images = loaded.images
        if loaded.zca is None:
            own, new = loaded.spec, spec
            images = renormalise(images, (own.mean, own.std), (new.mean, new.std))
        return replace(
            loaded,
            images=images,
            spec=spec,
            parameters={**loaded.parameters, "original_id": loaded.id, "unknown_source": True},
        )
