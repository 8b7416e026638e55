"""What lies in a folder of images and is not read is counted and said.

Endings, folders within classes and parts are in `tests/data/test_folder.py`.
"""

import numpy as np
import pytest
from PIL import Image

from nas_proxy.data.folder import left_out_words, list_folder
from tests.cases.helpers import python, write_config


def save(path, index=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(index).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def make(root, part=""):
    for name in ("a", "b"):
        for index in range(10):
            save(root / part / name / f"{index}.png", index)


@pytest.mark.parametrize(
    ("beside", "counted"),
    [
        ("validation/a/0.png", "1 validation/a"),
        ("valid/a/0.png", "1 valid/a"),
        ("dev/0.png", "1 dev"),
        ("Test/a/deep/0.png", "1 Test/a/deep"),
        ("unlabelled/0.png", "1 unlabelled"),
        ("0.png", "1 ."),
    ],
)
@pytest.mark.parametrize("tested", [False, True])
def test_folders_beside_the_parts_are_counted(tmp_path, beside, counted, tested):
    make(tmp_path, "train")
    if tested:
        make(tmp_path, "test")
    listing = list_folder(tmp_path)
    assert left_out_words(tmp_path, listing.left_out, listing.unread) == ""
    save(tmp_path / beside)
    (tmp_path / "README.md").write_text("no image")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "0.xml").write_text("<no_image/>")
    listing = list_folder(tmp_path)
    words = left_out_words(tmp_path, listing.left_out, listing.unread)
    assert words.startswith(f"1 of the files in {tmp_path} are left out")
    assert f"({counted})" in words


def test_a_study_says_so_in_one_line_and_in_its_report(nas_proxy, tmp_path):
    make(tmp_path / "imgs", "train")
    make(tmp_path / "imgs", "validation")
    write_config(tmp_path, data={"name": "image_folder", "root": "imgs", "image_size": 8})
    outcome = nas_proxy("run", "c.yaml")
    assert outcome.status == 0, outcome.errors
    (line,) = [line for line in outcome.errors.splitlines() if "left out" in line]
    assert "20 lie outside the class folders" in line
    assert "10 validation/a, 10 validation/b" in line
    assert "10 validation/a, 10 validation/b" in (tmp_path / "results/s/report.html").read_text()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("kind", "said"), [((), "10 .gif, 1 .jfif"), (("nested",), "20 a/more")])
def test_the_case_as_it_is_written(case, nas_proxy, kind, said):
    folder = case("folder_left_aside")
    assert python("make.py", *kind, cwd=folder).returncode == 0
    outcome = nas_proxy("search", "c.yaml")
    assert (outcome.status, said in outcome.errors) == (0, True)
