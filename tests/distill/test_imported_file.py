"""A set of unknown source enters a study on its user's word alone."""

from dataclasses import replace

import pytest
import torch

from nas_proxy.data.proxy_dataset import Labelling, ProxyDataset
from nas_proxy.distill.file import ProxyDatasetFile
from nas_proxy.errors import ProxyFileError
from nas_proxy.interfaces import DistillContext
from nas_proxy.reproducibility import make_generator
from nas_proxy.teachers.labelling import label
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.testing._common import tiny_dataset
from tests.distill.helpers import distill

DATASET = tiny_dataset()


def imported(**changes):
    """A set that `import-proxy` made for a study with slightly other statistics."""
    spec = replace(DATASET.spec, source_hash="", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    values = {
        "images": torch.randn(6, 3, 8, 8, generator=make_generator(0)) * 0.5,
        "labels": torch.tensor([0, 0, 1, 1, 2, 2]),
        "spec": spec,
        "method": "imported:dc",
        "parameters": {"file": "res.pt"},
        "images_per_class": 2,
        "seed": 0,
    }
    return ProxyDataset(**{**values, **changes})


def read(path, images_per_class=2, **options):
    return distill(ProxyDatasetFile(path=str(path), **options), images_per_class, dataset=DATASET)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "set.safetensors"

    def save(**changes):
        made = imported(**changes)
        made.save(path)
        return made, path

    return save


def test_an_unknown_source_is_refused_and_the_reason_is_clear(saved):
    _, path = saved()
    with pytest.raises(ProxyFileError) as caught:
        read(path)
    for words in ("nobody recorded", str(path), "validation", "allow_unknown_source: true"):
        assert words in str(caught.value)


def test_the_study_s_copy_is_of_the_study_and_says_so(saved):
    made, path = saved()
    copy = read(path, allow_unknown_source=True)
    assert copy.spec == DATASET.spec
    copy.check_source(DATASET.spec)
    assert copy.parameters == {"file": "res.pt", "original_id": made.id, "unknown_source": True}
    assert copy.id != made.id
    assert copy.method == "imported:dc"


def test_the_copy_shows_the_same_pixels(saved):
    made, path = saved()
    copy = read(path, allow_unknown_source=True)
    shown = [
        image.images * torch.tensor(image.spec.std).view(3, 1, 1)
        + torch.tensor(image.spec.mean).view(3, 1, 1)
        for image in (made, copy)
    ]
    torch.testing.assert_close(*shown)
    assert not torch.equal(made.images, copy.images)


def test_whitened_images_stay_as_they_are(saved):
    made, path = saved(zca=1.5)
    copy = read(path, allow_unknown_source=True)
    assert torch.equal(copy.images, made.images)
    assert copy.zca == 1.5


def test_other_classes_shapes_and_numbers_are_refused_all_the_same(saved):
    _, path = saved(spec=replace(imported().spec, class_names=("a", "b", "c")))
    with pytest.raises(ProxyFileError, match="whose classes"):
        read(path, allow_unknown_source=True)
    _, path = saved()
    with pytest.raises(ProxyFileError, match="holds 2 images per class"):
        read(path, images_per_class=3, allow_unknown_source=True)


def test_a_known_source_is_not_adopted(saved):
    """The permission is for sets of unknown source, not for those of another study."""
    _, path = saved(spec=replace(DATASET.spec, source_hash="another"))
    with pytest.raises(ProxyFileError, match="another"):
        read(path, allow_unknown_source=True)
    made, path = saved(spec=DATASET.spec)
    assert read(path, allow_unknown_source=True).id == made.id


def test_hard_labels_asked_for_keep_what_the_file_has(saved):
    probabilities = torch.full((6, 3), 1 / 3)
    _, path = saved(labels=probabilities, labelling=Labelling(kind="learned"))
    copy = label(read(path, allow_unknown_source=True), LabelSettings(), DATASET, DistillContext())
    assert torch.equal(copy.labels, probabilities)
    assert copy.labelling.kind == "learned"
