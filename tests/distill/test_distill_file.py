"""A proxy data set that was made before, taken from its file."""

from pathlib import Path

import pytest

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.distill.file import ProxyDatasetFile
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import ConfigError, ProxyFileError
from nas_proxy.study.config import check_config
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


# --- in a configuration -----------------------------------------------------------------------


def config(path, **options):
    return check_config(
        {
            "study_name": "taken",
            "distill": {"name": "file", "path": str(path), **options},
            "space": {"name": "convnet"},
            "train": {"num_steps": 1},
        }
    )


def test_the_file_says_how_many_images_it_has_when_the_config_is_read(saved):
    for options in ({}, {"images_per_class": 2}):
        taken = config(saved, **options)
        assert taken.images_per_class == taken.resolved["distill"]["images_per_class"] == 2
    with pytest.raises(ConfigError, match=r"distill.images_per_class: is 5, but 'file' has 2 .*"):
        config(saved, images_per_class=5)


def test_a_file_that_cannot_be_read_has_no_say_before_it_is_distilled(saved):
    assert config(f"{saved}.not", images_per_class=5).images_per_class == 5
    saved.write_bytes(saved.read_bytes()[:-5])
    assert config(saved).images_per_class == 10
