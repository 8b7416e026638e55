"""No accuracy without what it must be read against, whichever part has classes that differ in size.

The arithmetic is in `tests/statistics/test_base_rate.py`.
"""

import json

import numpy as np
import pytest
from PIL import Image

from tests.cases.helpers import RETRAINED, python, write_config

# Images of a and b in each part of a folder.
PARTS = {
    "all": {"": (60, 6)},
    "test": {"train": (20, 20), "test": (60, 6)},
    "training": {"train": (60, 6), "test": (20, 20)},
}


def make(root, parts):
    for part, sizes in parts.items():
        for label, (name, count) in enumerate(zip("ab", sizes, strict=True)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng(index).integers(0, 80, (8, 8, 3), dtype=np.uint8)
                pixels[..., label] += 120
                Image.fromarray(pixels).save(folder / f"{index}.png")


@pytest.mark.exhaustive
@pytest.mark.parametrize("uneven", PARTS)
def test_the_headline_has_its_base_rate(nas_proxy, tmp_path, uneven):
    make(tmp_path / "imgs", PARTS[uneven])
    data = {"name": "image_folder", "root": "imgs", "image_size": 8}
    write_config(tmp_path, data=data, retrain=RETRAINED)
    outcome = nas_proxy("run", "c.yaml")
    assert outcome.status == 0, outcome.errors
    report = json.loads((tmp_path / "results/s/report.json").read_text())
    card = (tmp_path / "results/s/retrain/champion/card.md").read_text()
    page = (tmp_path / "results/s/report.html").read_text()
    assert "Images of each class" in page
    places = (outcome.errors, outcome.output, report["retrain"]["verdict"], card, page)
    for place in places:
        assert ("Always answering a reaches" in place) == (uneven != "training"), place[-300:]
        assert ("balanced accuracy" in place) == (uneven != "training")


EVALUATED = {"short_steps": 2, "num_seeds": 2, "networks": ["mlp"]}


@pytest.mark.exhaustive
@pytest.mark.parametrize("uneven", ["test", "training"])
def test_a_table_of_accuracies_has_its_base_rate(nas_proxy, tmp_path, uneven):
    make(tmp_path / "imgs", PARTS[uneven])
    data = {"name": "image_folder", "root": "imgs", "image_size": 8}
    write_config(tmp_path, data=data, evaluate_proxy=EVALUATED)
    assert nas_proxy("distill", "c.yaml").status == 0
    outcome = nas_proxy("evaluate-proxy", "results/s/distill/proxy.safetensors", "c.yaml")
    assert outcome.status == 0, outcome.errors
    said = " ".join(outcome.output.split())
    assert ("Always answering a reaches 90.9 %." in said) == (uneven == "test"), said


@pytest.mark.exhaustive
def test_the_case_as_it_is_written(case, nas_proxy):
    folder = case("imbalance_headline")
    assert python("make.py", cwd=folder).returncode == 0
    outcome = nas_proxy("run", "c.yaml")
    assert outcome.status == 0, outcome.errors
    for words in ("Always answering a reaches 99.2 %", "not shown to beat", "balanced accuracy"):
        assert words in outcome.output
