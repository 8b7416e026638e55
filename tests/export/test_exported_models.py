"""What is exported answers as the network does, also where nas_proxy is not known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import nas_proxy
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.data.transforms import normalise
from nas_proxy.errors import ExportError, ModelFileError
from nas_proxy.export.folder import export_model
from nas_proxy.export.model_file import ModelOrigin
from nas_proxy.export.programs import TOLERANCE
from nas_proxy.interfaces import SearchSpace
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.train.loop import train
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, DatasetSpec, ImageDataset, Splits

# Run in a process of its own, where importing nas_proxy or a search space would fail.
STRANGER = """
import sys
sys.modules["nas_proxy"] = None
import numpy as np, onnxruntime, torch
for folder in sys.argv[1:]:
    images = np.load(folder + "/images.npy")
    onnx = onnxruntime.InferenceSession(folder + "/model.onnx")
    program = torch.export.load(folder + "/model.pt2").module()
    for size in (1, len(images)):  # any batch size
        (by_onnx,) = onnx.run(None, {onnx.get_inputs()[0].name: images[:size]})
        by_torch = program(torch.from_numpy(images[:size])).detach().numpy()
    np.savez(folder + "/answers.npz", onnx=by_onnx, torch=by_torch)
"""


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_splits(DataSettings())


def trained(
    space: SearchSpace, architecture: Architecture, dataset: ImageDataset, **options: object
) -> nn.Module:
    """A network whose batch norms have seen images, in the precision and layout of a training."""
    with isolated_rng(1):
        network = space.build(architecture, dataset.spec)
        settings = TrainSettings(num_steps=5, batch_size=32, learning_rate=0.02, **options)  # type: ignore[arg-type]
        train(network, TrainingSet.of(dataset), settings, make_generator(0))
    return network


def exported(
    space: SearchSpace, architecture: Architecture, splits: Splits, folder: Path, **options: object
) -> nn.Module:
    """A trained network that lies in every format in a folder, and was left as it was."""
    network = trained(space, architecture, splits.search_train, **options)
    origin = ModelOrigin.of(space, architecture, splits.spec)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    files = export_model(network, origin, splits.search_val.images, folder)
    assert [file.name for file in files] == ["model.safetensors", "model.onnx", "model.pt2"]
    assert all(not file.reason and file.num_images == 100 for file in files), files
    assert nas_proxy.load_model(folder / "model.safetensors").origin == origin
    for name, value in network.state_dict().items():
        assert value.equal(before[name])
    return network.eval()


def check(networks: dict[Path, nn.Module], splits: Splits) -> None:
    """Compare every format in these folders with its network, on 100 test images."""
    images = splits.test.images[:100]
    for folder in networks:
        np.save(folder / "images.npy", images.float().numpy() / 255)
    command = [sys.executable, "-c", STRANGER, *map(str, networks)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=next(iter(networks)))
    assert done.returncode == 0, done.stderr
    for folder, network in networks.items():
        with torch.no_grad():
            expected = network(normalise(images, splits.spec))
        largest = TOLERANCE * max(1.0, float(expected.abs().max()))
        for name, logits in np.load(folder / "answers.npz").items():
            assert np.abs(logits - expected.numpy()).max() <= largest, name
        model = nas_proxy.load_model(folder / "model.safetensors")
        assert (model(images.float() / 255) - expected).abs().max() <= largest
        assert model.class_names == splits.spec.class_names
        assert not model.training


@pytest.mark.exhaustive
@pytest.mark.parametrize("norm", ["batch", pytest.param("instance", marks=pytest.mark.exhaustive)])
def test_strangers_get_the_same_answers(norm: str, digits: Splits, tmp_path: Path) -> None:
    space = ConvNetSpace()
    choices = {"width": 32, "depth": 4, "activation": "leaky_relu", "pooling": "avg"}
    # The last block sees a single pixel; bfloat16 and channels_last are the training's alone.
    options = {"precision": "bfloat16", "channels_last": True}
    architecture = Architecture("convnet", {**choices, "norm": norm})
    folder = tmp_path / "a b#c é"
    check({folder: exported(space, architecture, digits, folder, **options)}, digits)


@pytest.mark.exhaustive
def test_strangers_get_the_same_answers_on_cifar10(shared_folder: Path, tmp_path: Path) -> None:
    data = DataSettings(name="cifar10", root=str(shared_folder / "data"), images_per_class=60)
    splits = load_splits(data)
    space = NASBench201Space(num_cells=1)
    check({tmp_path: exported(space, space.sample(make_generator(3)), splits, tmp_path)}, splits)


def test_the_file_says_what_the_network_is(digits: Splits, tmp_path: Path) -> None:
    space = ConvNetSpace(widths=(32, 64))
    architecture = space.sample(make_generator(0))
    origin = ModelOrigin.of(space, architecture, digits.spec)
    network = space.build(architecture, digits.spec)
    export_model(network, origin, digits.search_val.images, tmp_path, formats=())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "architecture.json",
        "model.safetensors",
    ]
    described = json.loads((tmp_path / "architecture.json").read_text())
    assert described["genotype"] == architecture.genotype
    assert described["space_options"]["widths"] == [32, 64]
    assert described["id"] == architecture.id
    assert described["dataset"]["class_names"] == list(map(str, range(10)))
    with safe_open(str(tmp_path / "model.safetensors"), framework="pt") as file:
        header = json.loads(file.metadata()["nas_proxy"])
    assert header["dataset"]["mean"] == pytest.approx(digits.spec.mean)


@dataclass(frozen=True, kw_only=True)
class AwkwardSpace(SearchSpace):
    """Networks of which some format cannot hold a part."""

    summary: ClassVar[str] = "for tests"
    scale: float = 1.0

    def suggest(self, trial: object) -> Architecture:
        raise NotImplementedError

    def sample(self, generator: torch.Generator) -> Architecture:
        raise NotImplementedError

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        return Awkward(architecture.genotype, spec.num_classes)


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    """During these tests alone: the contracts are for spaces that anyone may search."""
    with patch.dict(SEARCH_SPACES._classes):
        SEARCH_SPACES.register("awkward")(AwkwardSpace)
        yield


class Awkward(nn.Module):
    def __init__(self, trait: str, num_classes: int) -> None:
        super().__init__()
        self.trait = trait
        self.classifier = nn.Linear(8, num_classes)
        self.outside = torch.rand(()) if trait == "outside" else torch.zeros(())

    def forward(self, images: Tensor) -> Tensor:
        rows = images[:, 0]
        if self.trait == "bessel":
            rows = torch.special.bessel_j0(rows)
        if self.trait == "branch" and rows.sum() > 0:
            rows = -rows
        logits: Tensor = self.classifier(rows.mean(dim=1))
        if self.trait == "length":
            logits = logits + torch.zeros(1, 1).expand(len(images), 1)
        return logits + self.outside


def awkward(trait: str, spec: DatasetSpec) -> tuple[nn.Module, ModelOrigin]:
    space, architecture = AwkwardSpace(), Architecture("awkward", trait)
    return space.build(architecture, spec), ModelOrigin.of(space, architecture, spec)


def test_what_a_format_cannot_hold_is_left_out_and_said(
    digits: Splits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.onnx").write_text("of an earlier network")
    network, origin = awkward("bessel", digits.spec)
    model, onnx, program = export_model(network, origin, digits.search_val.images, tmp_path)
    assert not model.reason
    assert not program.reason
    assert onnx.reason == (
        "it cannot be exported to ONNX: the operator prims.bessel_j0 has no form there"
    )
    assert onnx.reason in caplog.text
    assert not (tmp_path / "model.onnx").exists()
    assert (tmp_path / "model.pt2").exists()


@pytest.mark.parametrize(
    ("trait", "reason"), [("branch", "data-dependent"), ("length", r"write images.shape[0]")]
)
def test_a_network_that_cannot_be_traced_keeps_its_weights(
    trait: str, reason: str, digits: Splits, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network, origin = awkward(trait, digits.spec)
    model, *programs = export_model(network, origin, digits.search_val.images, tmp_path)
    assert not model.reason
    assert len(programs) == 2
    assert all(reason in file.reason for file in programs)
    assert "TORCH_LOGS" not in str(programs)
    assert capfd.readouterr().err == ""
    assert nas_proxy.load_model(tmp_path / "model.safetensors").origin == origin


def test_a_network_that_hides_a_part_of_itself_is_refused(digits: Splits, tmp_path: Path) -> None:
    network, origin = awkward("outside", digits.spec)
    with pytest.raises(ExportError, match="does not answer as the network does: a logit differs"):
        export_model(network, origin, digits.search_val.images, tmp_path, formats=())


@pytest.fixture
def model_file(digits: Splits, tmp_path: Path) -> Path:
    network, origin = awkward("none", digits.spec)
    export_model(network, origin, digits.search_val.images, tmp_path, formats=())
    return tmp_path / "model.safetensors"


def rewritten(path: Path, **changes: object) -> None:
    """The same weights under an altered header."""
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()["nas_proxy"])
    save_file(load_file(path), path, {"nas_proxy": json.dumps({**header, **changes})})


def test_damage_is_refused(model_file: Path) -> None:
    whole = model_file.read_bytes()
    model_file.write_bytes(whole[:-5])
    with pytest.raises(ModelFileError, match=r"is damaged \(.*\); copy or export it again"):
        nas_proxy.load_model(model_file)
    model_file.write_bytes(whole[:-5] + b"\0\1\2\3\4")  # a weight
    with pytest.raises(ModelFileError, match="its content is not what was written"):
        nas_proxy.load_model(str(model_file))
    model_file.write_bytes(whole)
    rewritten(model_file, genotype="branch")
    with pytest.raises(ModelFileError, match="its content is not what was written"):
        nas_proxy.load_model(model_file)


def test_other_files_are_refused(model_file: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere does not exist"):
        nas_proxy.load_model("nowhere")
    save_file(load_file(model_file), model_file)
    with pytest.raises(ModelFileError, match=r"is not a model of this program \(nas_proxy.model/1"):
        nas_proxy.load_model(model_file)
    rewritten_as_list = {"nas_proxy": "[]"}
    save_file(load_file(model_file), model_file, rewritten_as_list)
    with pytest.raises(ModelFileError, match="is not a model of this program"):
        nas_proxy.load_model(model_file)


def test_another_search_space_is_said(digits: Splits, model_file: Path) -> None:
    origin = nas_proxy.load_model(model_file).origin
    away = replace(origin, architecture=Architecture("awkwart", "none"))
    with pytest.raises(ModelFileError, match=r"'awkwart', which is not there: .*did you mean 'awk"):
        away.build()
    newer = replace(origin, space_options={"scale": 1.0, "colour": 3})
    with pytest.raises(ModelFileError, match=r"does not know the options .*'colour': 3"):
        newer.build()


SPACE = """
from dataclasses import dataclass
from torch import nn
from nas_proxy.interfaces import SearchSpace
from nas_proxy.types import Architecture

@dataclass(frozen=True, kw_only=True)
class Linear(SearchSpace):
    def suggest(self, trial):
        return Architecture(self.name, 1)

    def sample(self, generator):
        return Architecture(self.name, 1)

    def build(self, architecture, spec):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, spec.num_classes))
"""


def test_a_space_of_one_file_may_lie_elsewhere(digits: Splits, tmp_path: Path) -> None:
    old, new = tmp_path / "there.py", tmp_path / "here.py"
    old.write_text(SPACE)
    space = SEARCH_SPACES.get(f"{old}:Linear")()
    architecture = space.sample(make_generator(0))
    network = space.build(architecture, digits.spec)
    origin = ModelOrigin.of(space, architecture, digits.spec)
    export_model(network, origin, digits.search_val.images, tmp_path, formats=())
    old.rename(new)
    model_file = tmp_path / "model.safetensors"
    try:
        with pytest.raises(ModelFileError, match=r"space='FILE.py:NAME'"):
            nas_proxy.load_model(model_file)
    finally:
        old.write_text(SPACE)  # workers of later tests import all plug-ins of their parent
    model = nas_proxy.load_model(model_file, space=f"{new}:Linear")
    images = digits.test.images[:5]
    with torch.no_grad():
        expected = network(normalise(images, digits.spec))
    assert (model(images.float() / 255) - expected).abs().max() < 1e-5


def test_weights_of_another_version_are_said(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AwkwardSpace, "build", lambda self, architecture, spec: nn.Linear(8, 3))
    with pytest.raises(ModelFileError, match="do not fit the network that the installed search"):
        nas_proxy.load_model(model_file)
