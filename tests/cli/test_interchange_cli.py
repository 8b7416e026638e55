"""import-proxy and export-proxy as their user meets them."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.sources import DataSettings, load_splits
from tests.helpers.cli import command_line

CLASSES = ("0", "1", "2")
CONFIG: dict[str, Any] = {
    "study_name": "tiny",
    "data": {"name": "digits", "classes": [0, 1, 2]},
    "distill": {"name": "file", "path": "set.safetensors", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [32], "depths": [1]},
    "train": {"num_steps": 3, "learning_rate": 0.02},
    "search": {"n_trials": 2},
    "tracking": {"enabled": False},
}
STATISTICS = ("--mean", "0.3", "--std", "0.4")


@pytest.fixture
def nas_proxy(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command line in a folder of its own with `tiny.yaml` in it."""
    home = tmp_path / "work" / "here" / "now"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    return command_line(capsys)


def images(seed: int = 0, shape: tuple[int, ...] = (6, 1, 8, 8)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def save_dc(name: str = "res_DM_digits.pt", **changes: Any) -> str:
    values = {"images": images(), "labels": torch.tensor([0, 1, 2, 0, 1, 2]), **changes}
    accuracies = {"ConvNet": [np.float64(0.5)]}
    pair = [values["images"], values["labels"]]
    torch.save({"data": [pair], "accs_all_exps": accuracies}, name)
    return name


def import_words(source: str, *more: str) -> tuple[str, ...]:
    return ("import-proxy", source, "tiny.yaml", "--out", "set.safetensors", *more)


def tree() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_a_published_set_enters_a_study_on_its_user_s_word(nas_proxy) -> None:
    done = nas_proxy(*import_words(save_dc(), *STATISTICS))
    assert done.status == 0, done.errors
    assert "assumed: normalised and not whitened" in done.output
    assert "assumed: learning rate 0.01" in done.output
    imported = ProxyDataset.load(Path("set.safetensors"))
    assert imported.id in done.output
    assert imported.spec.class_names == CLASSES
    assert imported.spec.source_hash == ""
    refused = nas_proxy("distill", "tiny.yaml")
    assert refused.status == 2
    assert "nobody recorded" in refused.errors
    found = nas_proxy("distill", "tiny.yaml", "distill.allow_unknown_source=true", "--force")
    assert found.status == 0, found.errors
    copy = ProxyDataset.load(Path("results/tiny/distill/proxy.safetensors"))
    assert copy.parameters["original_id"] == imported.id
    spec = load_splits(DataSettings(name="digits", classes=(0, 1, 2))).spec
    assert copy.spec.source_hash == spec.source_hash


@pytest.mark.exhaustive
def test_a_whitened_set_goes_through_a_study(nas_proxy) -> None:
    torch.save(images(), "images_best.pt")
    torch.save(torch.tensor([0, 0, 1, 1, 2, 2]), "labels_best.pt")
    done = nas_proxy(*import_words("images_best.pt", "--zca", "0.1", "--learning-rate", "0.02"))
    assert done.status == 0, done.errors
    imported = ProxyDataset.load(Path("set.safetensors"))
    (std,) = imported.spec.std
    assert imported.zca == pytest.approx(0.1 / std**2)
    assert imported.learning_rate_rule.learning_rate == 0.02
    found = nas_proxy("search", "tiny.yaml", "distill.allow_unknown_source=true")
    assert found.status == 0, found.errors
    shown = nas_proxy("inspect", "set.safetensors")
    assert shown.status == 0
    assert Image.open("set.png").width > 48


def test_overrides_choose_the_data_set(nas_proxy) -> None:
    source = save_dc(images=images(shape=(4, 1, 8, 8)), labels=torch.tensor([0, 1, 0, 1]))
    assert nas_proxy(*import_words(source, *STATISTICS)).status == 2
    done = nas_proxy(*import_words(source, "data.classes=[5, 7]", *STATISTICS))
    assert done.status == 0, done.errors
    assert ProxyDataset.load(Path("set.safetensors")).spec.class_names == ("5", "7")


def test_export_and_back(nas_proxy) -> None:
    assert nas_proxy(*import_words(save_dc(), *STATISTICS)).status == 0
    first = ProxyDataset.load(Path("set.safetensors"))
    done = nas_proxy("export-proxy", "set.safetensors", "--to", "out")
    assert done.status == 0, done.errors
    assert len(list(Path("out").glob("*_*/*.png"))) == 6
    again = nas_proxy(*import_words("out", "--force"))
    assert again.status == 0, again.errors
    second = ProxyDataset.load(Path("set.safetensors"))
    assert torch.equal(first.images, second.images)
    assert second.method == "imported:tensors"
    for form, absent in (("folder", "images.pt"), ("tensors", "labels.csv")):
        assert nas_proxy("export-proxy", "set.safetensors", "--to", form, "--as", form).status == 0
        assert not (Path(form) / absent).exists()
    full = nas_proxy("export-proxy", "set.safetensors", "--to", "out")
    assert full.status == 2
    assert "holds something already" in full.errors
    missing = nas_proxy("export-proxy", "none.safetensors", "--to", "new")
    assert missing.status == 2
    assert not Path("new").exists()


class Call:
    def __reduce__(self):
        return os.system, ("touch was_run",)


def hostile() -> str:
    torch.save({"data": [[images(), torch.arange(6)]], "accs_all_exps": Call()}, "hostile.pt")
    return "hostile.pt"


def raw_pickle() -> str:
    Path("raw.pt").write_bytes(pickle.dumps(Call(), protocol=2))
    return "raw.pt"


def truncated() -> str:
    path = Path(save_dc())
    path.write_bytes(path.read_bytes()[:-200])
    return str(path)


def unknown() -> str:
    torch.save(torch.nn.Linear(2, 2).state_dict(), "weights.pt")
    return "weights.pt"


SOFT = torch.full((6, 3), 0.4)


@pytest.mark.parametrize(
    ("make", "more", "expected"),
    [
        (lambda: "missing.pt", (), "does not exist"),
        (truncated, (), "truncated or damaged"),
        (hostile, (), "would run posix.system"),
        (raw_pickle, (), "would run posix.system"),
        (unknown, (), "no published form"),
        (lambda: save_dc(images=images(shape=(6, 1, 9, 9))), (), "(6, 1, 9, 9)"),
        (lambda: save_dc(images=images(shape=(6, 3, 8, 8))), (), "(6, 3, 8, 8)"),
        (lambda: save_dc(labels=SOFT), STATISTICS, "sums to 1.2"),
        (lambda: save_dc(labels=torch.arange(6)), STATISTICS, "range from 0 to 5"),
        (lambda: save_dc(labels=torch.zeros(6)), STATISTICS, "0 6, 1 0, 2 0"),
        (lambda: save_dc(images=images() * 99), STATISTICS, "neither in [0, 1] nor like"),
        (save_dc, (), "say --mean and --std"),
        (save_dc, ("--mean", "0.3"), "both --mean and --std"),
        (save_dc, ("--mean", "0.3,0.1", "--std", "1,1"), "1 number(s)"),
        (save_dc, ("--mean", "a"), "0.49,0.48,0.45"),
        (save_dc, ("--zca", "0.1", "--normalised", "yes"), "leave one out"),
        (save_dc, ("--zca", "nan"), "above 0"),
        (save_dc, ("--format", "idc"), "to be read as idc"),
        (save_dc, ("--format", "npz"), "npz"),
        (save_dc, ("--index", "1", *STATISTICS), "below 1"),
        (save_dc, ("data.name=cifar11",), "cifar11"),
    ],
)
def test_wrong_input_is_one_sentence_and_nothing_is_written(
    nas_proxy, make, more: tuple[str, ...], expected: str
) -> None:
    source = make()
    before = tree()
    outcome = nas_proxy(*import_words(source, *more))
    assert outcome.status == 2, outcome.errors
    assert expected in outcome.errors
    assert "Traceback" not in outcome.errors + outcome.output
    assert tree() == before


def test_a_file_that_is_there_is_kept(nas_proxy) -> None:
    source = save_dc()
    Path("set.safetensors").write_text("mine")
    refused = nas_proxy(*import_words(source, *STATISTICS))
    assert refused.status == 2
    assert "--force" in refused.errors
    assert Path("set.safetensors").read_text() == "mine"
    assert nas_proxy(*import_words(source, *STATISTICS, "--force")).status == 0
    assert len(ProxyDataset.load(Path("set.safetensors"))) == 6
    for name in ("set.pt", "folder.safetensors"):
        if name.startswith("folder"):
            Path(name).mkdir()
        words = ("import-proxy", source, "tiny.yaml", "--out", name, "--force", *STATISTICS)
        refused = nas_proxy(*words)
        assert refused.status == 2
        assert ".safetensors" in refused.errors
