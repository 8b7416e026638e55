"""A proxy data set that was made before, taken from its file."""

from pathlib import Path

import pytest

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.distill.file import ProxyDatasetFile
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import ProxyFileError
from nas_proxy.testing import tiny_dataset
from tests.distill.helpers import distill, make_task


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "proxy.safetensors"
    distill(RandomSubset()).save(path)
    return path


def test_a_file_is_taken_as_it_is(saved, monkeypatch):
    task = make_task(seed=9)
    assert ProxyDatasetFile(path=str(saved)).distill(task) == ProxyDataset.load(saved)
    monkeypatch.setenv("HOME", str(saved.parent))
    assert ProxyDatasetFile(path=f"~/{saved.name}").distill(task) == ProxyDataset.load(saved)


def test_a_file_of_other_images_is_refused(saved):
    with pytest.raises(ProxyFileError, match="made from tiny, whose search-training split is"):
        distill(ProxyDatasetFile(path=str(saved)), dataset=tiny_dataset(images_per_class=9))


def test_a_file_with_another_number_of_images_is_refused_and_both_are_named(saved):
    with pytest.raises(ProxyFileError, match=r"holds 2 images per class.* is 5; set it to 2"):
        distill(ProxyDatasetFile(path=str(saved)), images_per_class=5)


def test_a_file_that_is_missing_or_damaged_is_refused(saved):
    missing = Path(f"{saved}.not")
    with pytest.raises(ProxyFileError, match=r"\.not does not exist"):
        distill(ProxyDatasetFile(path=str(missing)))
    saved.write_bytes(saved.read_bytes()[:-5])
    with pytest.raises(ProxyFileError, match="truncated or damaged"):
        distill(ProxyDatasetFile(path=str(saved)))
