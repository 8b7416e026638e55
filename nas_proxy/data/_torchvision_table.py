"""How torchvision's data sets for classification differ from one another.

Nothing here imports torch: `nas-proxy list` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def as_it_is(part: Any) -> None:
    """Leave what torchvision opened: it is complete."""


def read_pcam_labels(part: Any) -> None:
    """Read all labels of PCAM, which torchvision reads one by one, each with its image."""
    path = part._base_folder / part._FILES[part._split]["targets"][0]
    with part.h5py.File(path) as file:
        part.targets = file["y"][()].reshape(-1)


def label_by_folder(part: Any) -> None:
    """Take the labels that folders are called by; torchvision numbers those that are there."""
    part._samples = [
        (path, int(folder) if (folder := Path(path).parent.name).isdigit() else label)
        for path, label in part._samples
    ]


def sort_by_path(part: Any) -> None:
    """Sort what is in the file system's order: other images would be held out elsewhere."""
    pairs = sorted(zip(part._image_files, part._labels, strict=True))
    part._image_files, part._labels = map(list, zip(*pairs, strict=True))


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


def _mnist(name: str, what: str, licence: str) -> TorchvisionSet:
    summary = f"70,000 grey 28x28 {what}"
    return TorchvisionSet(name, summary, licence, (f"{name}/raw/*",), _FLAGS, 28, 1)


DESCRIBED_SETS: Mapping[str, TorchvisionSet] = {
    described.class_name.lower(): described
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
