"""Torchvision's data sets for classification by name, with their authors' own parts.

What they hold is read through torchvision's own classes; only what differs between them is said
here. Decoded images are kept as those of folders are, under a name that depends on the files'
sizes and times.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas_proxy.data._decoded import keep_decoded, read_decoded
from nas_proxy.data._found import (
    DatasetSource,
    DataSettings,
    FoundImages,
    not_fetched,
    not_found,
    required_image_size,
)
from nas_proxy.data._torchvision_labels import (
    as_it_is,
    label_by_folder,
    read_labels,
    read_pcam_labels,
    sort_by_path,
)
from nas_proxy.data.folder import cache_folder, data_root, square, to_rgb
from nas_proxy.errors import DataError, first_line
from nas_proxy.reproducibility import content_hash
from nas_proxy.types import Progress

_VERSION = 1  # raised by hand when decoding changes, so that older cache files are not read
_IMAGES_AT_ONCE = 256  # in memory while they are decoded
_RESEARCH = "No formal licence; collected from the web, for research. Cite "
_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE_PARTS = {**_TRAIN_TEST, "val": {"split": "val"}}
_FLAGS = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: dict[str, dict[str, Any]] = {"train": {}}


@dataclass(frozen=True)
class TorchvisionSet:
    """How one data set of torchvision differs from the others.

    Attributes:
        class_name: In `torchvision.datasets`.
        summary: For `nas-proxy list datasets`.
        licence: The terms under which the images may be used, in words.
        files: Patterns below the root of the files that it is read from; the first names it.
        parts: Arguments of the class for each of `train`, `val` and `test` that the authors made;
            `train` alone for a set that they did not divide.
        image_size: That all images have; None for sets of many sizes, which need data.image_size.
        num_channels: 1 for grey images.
        can_download: Whether torchvision can fetch it.
        complete: Adds to what torchvision opened, in place, what its class leaves out.
    """

    class_name: str
    summary: str
    licence: str
    files: tuple[str, ...]
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _TRAIN_TEST)
    image_size: int | None = None
    num_channels: int = 3
    can_download: bool = True
    complete: Callable[[Any], None] = as_it_is

    @property
    def folder(self) -> str:
        """What has to be put below the root."""
        return self.files[0].partition("/")[0]


def _find(described: TorchvisionSet, settings: DataSettings, progress: Progress) -> FoundImages:
    size = settings.image_size or described.image_size or required_image_size(settings)
    root, _ = data_root(settings.root)
    opened = {name: _open(described, name, settings) for name in described.parts}
    sets = list(opened.values())
    try:
        names, labels = read_labels(opened)
    except ValueError as error:
        raise DataError(
            f"{described.class_name} in {root} cannot be used: {error}; put a whole copy of "
            f"{described.folder} there"
        ) from error
    lengths = [len(part) for part in sets]
    of_part = torch.repeat_interleave(torch.arange(len(sets)), torch.tensor(lengths))
    masks = {name: of_part == number for number, name in enumerate(opened)}
    read = partial(
        _read, sets, size, described.num_channels, _identity(described, root), progress=progress
    )
    return FoundImages(names, labels, masks.get("test"), read, masks.get("val"))


def _open(described: TorchvisionSet, part: str, settings: DataSettings) -> Any:
    from torchvision import datasets

    root, origin = data_root(settings.root)
    name = f"{described.class_name} ({part})"
    folder = described.folder
    fetches = {"download": True} if settings.download else {}
    if fetches and not described.can_download:
        raise DataError(
            f"torchvision cannot download {described.class_name}: put {folder} into {root}, as the "
            "page of that class says, and leave data.download out"
        )
    try:
        if fetches:
            root.mkdir(parents=True, exist_ok=True)
        opened = getattr(datasets, described.class_name)(root, **fetches, **described.parts[part])
        described.complete(opened)
        return opened
    except Exception as error:  # of damaged files torchvision's classes raise anything
        if not _identity(described, root):
            if fetches:
                raise not_fetched(name, root, error) from error
            raise not_found(name, root, origin, folder, "it") from error
        reason = first_line(error).rstrip(".")
        raise DataError(
            f"{name} in {root} cannot be read ({reason}): put a whole copy of {folder} there, or "
            "delete it and pass data.download=true to fetch one"
        ) from error


def _identity(described: TorchvisionSet, root: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file that the set is read from."""
    files = {path for pattern in described.files for path in root.glob(pattern) if path.is_file()}
    return [
        (str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(files)
    ]


def _read(
    sets: Sequence[Any],
    image_size: int,
    num_channels: int,
    identity: list[tuple[str, int, int]],
    parts: Sequence[Tensor],
    *,
    progress: Progress,
) -> list[Tensor]:
    """The images at the indices of each part, decoded once and then mapped from a file."""
    order = torch.cat(list(parts))
    maker = ["torchvision", _VERSION, PIL.__version__, image_size, num_channels]
    path = cache_folder() / f"{content_hash(maker, identity, order, length=32)}.images"
    shape = (len(order), num_channels, image_size, image_size)
    kept = read_decoded(path, shape)
    images = (
        kept[1]
        if kept is not None
        else keep_decoded(
            path,
            shape,
            rows=order.numpy(),
            pixels=partial(_decode, sets, order.tolist(), image_size, num_channels, progress),
        )
    )
    starts = np.cumsum([len(part) for part in parts])[:-1]
    return [torch.from_numpy(part) for part in np.split(images, starts)]


def _decode(
    sets: Sequence[Any],
    order: Sequence[int],
    image_size: int,
    num_channels: int,
    progress: Progress,
) -> Iterator[NDArray[np.uint8]]:
    """Images one after the other, uint8 `(c, image_size, image_size)`.

    Raises:
        DataError: If one is damaged; the message gives its place.
    """
    starts = np.cumsum([0, *(len(part) for part in sets)])

    def work(index: int) -> NDArray[np.uint8]:
        number = int(np.searchsorted(starts, index, side="right")) - 1
        place = index - int(starts[number])
        try:
            image = sets[number][place][0]
            image = image.convert("L") if num_channels == 1 else to_rgb(image)
        except Exception as error:  # Pillow's decoders raise anything
            kind = type(sets[number]).__name__
            raise DataError(
                f"image {place} of part {number + 1} of {kind} cannot be read ({error}); put a "
                "whole copy of the data set there"
            ) from error
        if image.size != (image_size, image_size):
            image = square(image, image_size)
        pixels = np.asarray(image).reshape(image_size, image_size, num_channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    with ThreadPoolExecutor(os.cpu_count() or 1) as executor:
        for start in range(0, len(order), _IMAGES_AT_ONCE):
            yield from executor.map(work, order[start : start + _IMAGES_AT_ONCE])
            progress(min(start + _IMAGES_AT_ONCE, len(order)), len(order), "decoding")


def _source(described: TorchvisionSet) -> DatasetSource:
    return DatasetSource(described.summary, described.licence, partial(_find, described))


def _mnist(name: str, what: str, licence: str) -> TorchvisionSet:
    summary = f"70,000 grey 28x28 {what}"
    return TorchvisionSet(name, summary, licence, (f"{name}/raw/*",), _FLAGS, 28, 1)


TORCHVISION_SETS: Mapping[str, DatasetSource] = {
    described.class_name.lower(): _source(described)
    for described in (
        TorchvisionSet(
            "Flowers102",
            "8,189 photographs of 102 flowers: 10 of each to train, 10 to validate",
            _RESEARCH + "Nilsback and Zisserman, ICVGIP 2008.",
            ("flowers-102/**/*",),
            _THREE_PARTS,
        ),
        TorchvisionSet(
            "OxfordIIITPet",
            "7,349 photographs of 37 breeds of cats and dogs",
            "CC BY-SA 4.0: Parkhi et al., Cats and Dogs, CVPR 2012.",
            ("oxford-iiit-pet/**/*",),
            {"train": {"split": "trainval"}, "test": {"split": "test"}},
        ),
        TorchvisionSet(
            "SVHN",
            "99,289 colour 32x32 photographs of house numbers' digits",
            "For non-commercial use only. Netzer et al., NIPS workshop 2011.",
            ("*_32x32.mat",),
            _TRAIN_TEST,
            32,
        ),
        TorchvisionSet(
            "STL10",
            "13,000 colour 96x96 photographs of 10 things, of which 5,000 to train",
            _RESEARCH + "Coates, Lee and Ng, AISTATS 2011; the images are ImageNet's.",
            ("stl10_binary/*",),
            _TRAIN_TEST,
            96,
        ),
        TorchvisionSet(
            "GTSRB",
            "39,270 photographs of 43 German traffic signs",
            _RESEARCH + "Stallkamp et al., Neural Networks 2012.",
            ("gtsrb/**/*",),
            complete=label_by_folder,
        ),
        TorchvisionSet(
            "EuroSAT",
            "27,000 colour 64x64 satellite images of 10 kinds of land use",
            "MIT; Helber et al., JSTARS 2019, from Copernicus Sentinel data.",
            ("eurosat/**/*",),
            _WHOLE,
            64,
        ),
        TorchvisionSet(
            "Food101",
            "101,000 photographs of 101 dishes; the training part is noisy",
            _RESEARCH + "Bossard et al., Mining Discriminative Components, ECCV 2014.",
            ("food-101/**/*",),
        ),
        TorchvisionSet(
            "DTD",
            "5,640 photographs of 47 textures, the first of ten divisions",
            _RESEARCH + "Cimpoi et al., Describing Textures in the Wild, CVPR 2014.",
            ("dtd/**/*",),
            _THREE_PARTS,
        ),
        TorchvisionSet(
            "FGVCAircraft",
            "10,000 photographs of 100 variants of aircraft",
            "For non-commercial research only. Maji et al., arXiv 1306.5151, 2013.",
            ("fgvc-aircraft-2013b/**/*",),
            _THREE_PARTS,
        ),
        TorchvisionSet(
            "StanfordCars",
            "16,185 photographs of 196 cars; torchvision cannot download it any more",
            "For non-commercial research only. Krause et al., 3DRR 2013.",
            ("stanford_cars/**/*",),
            can_download=False,
        ),
        TorchvisionSet(
            "Country211",
            "63,300 photographs taken in 211 countries",
            _RESEARCH + "Radford et al., CLIP, ICML 2021; each image has its own CC licence.",
            ("country211/**/*",),
            {**_TRAIN_TEST, "val": {"split": "valid"}},
        ),
        TorchvisionSet(
            "RenderedSST2",
            "9,613 pictures of sentences, positive or negative",
            _RESEARCH + "Radford et al., CLIP, ICML 2021; Socher et al., EMNLP 2013.",
            ("rendered-sst2/**/*",),
            _THREE_PARTS,
        ),
        TorchvisionSet(
            "PCAM",
            "327,680 colour 96x96 patches of tissue, with a tumour or without; needs h5py",
            "CC0: Veeling et al., MICCAI 2018.",
            ("pcam/*",),
            _THREE_PARTS,
            96,
            complete=read_pcam_labels,
        ),
        TorchvisionSet(
            "SUN397",
            "108,753 photographs of 397 scenes",
            _RESEARCH + "Xiao et al., SUN Database, CVPR 2010.",
            ("SUN397/**/*",),
            _WHOLE,
            complete=sort_by_path,
        ),
        TorchvisionSet(
            "Caltech101",
            "8,677 photographs of 101 things",
            "CC BY 4.0: Li, Andreeto, Ranzato and Perona, CaltechDATA 2022.",
            ("caltech101/**/*",),
            _WHOLE,
        ),
        TorchvisionSet(
            "Caltech256",
            "30,607 photographs of 257 things",
            "CC BY 4.0: Griffin, Holub and Perona, CaltechDATA 2022.",
            ("caltech256/**/*",),
            _WHOLE,
        ),
        TorchvisionSet(
            "FER2013",
            "35,887 grey 48x48 faces of 7 expressions",
            _RESEARCH + "Goodfellow et al., ICONIP 2013.",
            ("fer2013/*",),
            _TRAIN_TEST,
            48,
            1,
            can_download=False,
        ),
        TorchvisionSet(
            "USPS",
            "9,298 grey 16x16 handwritten digits",
            _RESEARCH + "Hull, PAMI 1994.",
            ("usps*",),
            _FLAGS,
            16,
            1,
        ),
        TorchvisionSet(
            "EMNIST",
            "131,600 grey 28x28 handwritten digits and letters of 47 kinds: the balanced division",
            _RESEARCH + "Cohen et al., EMNIST, IJCNN 2017; from NIST's Special Database 19.",
            ("EMNIST/raw/*",),
            {name: {"split": "balanced", **flags} for name, flags in _FLAGS.items()},
            28,
            1,
        ),
        TorchvisionSet(
            "SEMEION",
            "1,593 black and white 16x16 handwritten digits",
            "CC BY 4.0: Semeion Handwritten Digit, UCI, 1998.",
            ("semeion.data",),
            _WHOLE,
            16,
            1,
        ),
        _mnist("MNIST", "handwritten digits", "CC BY-SA 3.0: LeCun, Cortes and Burges, 1998."),
        _mnist("FashionMNIST", "pictures of clothing", "MIT: Xiao, Rasul and Vollgraf, 2017."),
        _mnist(
            "KMNIST", "cursive Japanese characters", "CC BY-SA 4.0: CODH, Clanuwat et al. 2018."
        ),
    )
}
"""By the lower-case name of torchvision's class."""
