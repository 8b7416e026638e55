"""The proxy data set: what its id depends on, what it fits, what a person sees of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import (
    Labelling,
    LearningRateRule,
    TeacherRecord,
)
from nas_proxy.data.transforms import denormalise, normalise
from nas_proxy.errors import NasProxyError, ProxyFileError
from tests.data.helpers_proxy import SPEC, make_proxy, soft, soft_proxy

# The id


@pytest.mark.parametrize(
    "change",
    [
        {"costs": {"distilling": 99.0}},
        {"costs": {}},
        {"peak_memory_mib": 7.0},
        {"hardware": "another processor"},
        {"versions": {"torch": "1.0", "numpy": "1.0"}},
    ],
)
def test_the_id_ignores_what_it_cost_and_where_it_was_made(change):
    assert make_proxy(**change).id == make_proxy().id
    assert make_proxy(**change) != make_proxy()


def test_the_id_is_the_same_on_every_machine_and_for_every_version():
    # Written down once. Where it changes, `load` takes every file that exists for an altered one.
    proxy = make_proxy(images=torch.arange(240.0).view(4, 3, 4, 5))
    assert proxy.id == "cc11f9c9fa893379"


@pytest.mark.parametrize(
    "change",
    [
        {"labels": torch.tensor([0, 0, 1, 0])},
        {"labels": torch.tensor([0, 0, 1, 1], dtype=torch.int32)},
        {"labels": soft([[1, 0], [1, 0], [0, 1], [0, 1]])},
        {"labelling": Labelling(kind="learned")},
        {"labelling": Labelling(temperature=2.0)},
        {"labelling": Labelling(per="view")},
        {"labelling": Labelling(teachers=(TeacherRecord("a1", "ConvNet"),))},
        {"networks": ()},
        {"networks": (TeacherRecord("a1", "ConvNet"),)},
        {"decode_factor": 2},
        {"spec": replace(SPEC, mean=(0.5, 0.25, 0.2))},
        {"spec": replace(SPEC, source_hash="f")},
        {"spec": replace(SPEC, class_names=("dög", "cat"))},
        {"method": "other"},
        {"parameters": {"num_steps": 4}},
        {"images_per_class": 4},
        {"seed": 2**62},
        {"augmentation": Augmentation(crop=0.125, flip=True, dsa="crop_color")},
        {"augmentation": Augmentation(crop=0.125, dsa="color_crop")},
        {"learning_rate_rule": LearningRateRule()},
        {"batchnorm_policy": "batch"},
        {"zca": 0.1},
        {"zca": 0.0},
    ],
    ids=lambda change: ",".join(change),
)
def test_the_id_depends_on_all_that_shapes_training(change):
    assert make_proxy(**change).id != make_proxy().id
    assert make_proxy(**change) != make_proxy()


def test_the_id_depends_on_every_pixel():
    ids = {make_proxy().id}
    pixels = make_proxy().images
    places = range(0, pixels.numel(), 17)
    for place in places:
        images = pixels.clone()
        images.view(-1)[place] = torch.nextafter(images.view(-1)[place], torch.tensor(9.0))
        ids.add(make_proxy(images=images).id)
    assert len(ids) == len(places) + 1
    assert make_proxy(images=pixels.view(4, 3, 5, 4)).id not in ids


# The study's data


def test_a_set_fits_the_data_that_it_was_made_from():
    make_proxy().check_source(SPEC)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            replace(SPEC, class_names=("cat", "cow")),
            r"whose classes is cat, dög, but the study uses other with cat, cow",
        ),
        (
            replace(SPEC, image_shape=(3, 8, 8)),
            r"whose image shape is 3, 4, 5, but the study uses other with 3, 8, 8",
        ),
        (
            replace(SPEC, source_hash="fedc"),
            r"whose search-training split is 0123456789abcdef, but the study uses other with fedc",
        ),
    ],
)
def test_a_set_of_other_data_is_refused_and_the_difference_is_named(asked, said):
    proxy = make_proxy()
    with pytest.raises(ProxyFileError, match=rf"{proxy.id} was made from made_up, {said}; "):
        proxy.check_source(replace(asked, name="other"))


# What a person sees


@given(
    st.lists(
        st.tuples(st.floats(0, 1, width=32), st.floats(2**-10, 0.5, width=32)),
        min_size=1,
        max_size=3,
    )
)
@example([(0.0, 2**-10), (1.0, 2**-10)])
def test_pixels_undoes_normalising_for_every_value(statistics):
    channels = len(statistics)
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    every_value = every_value.expand(1, channels, 16, 16)
    mean, std = zip(*statistics, strict=True)
    spec = replace(SPEC, image_shape=(channels, 16, 16), mean=mean, std=std)
    normalised = normalise(every_value, spec)
    expected = (np.arange(256) / 255 - mean[-1]) / std[-1]
    np.testing.assert_allclose(normalised[0, -1].flatten(), expected, rtol=1e-5, atol=1e-4)
    proxy = make_proxy(images=normalised, labels=torch.tensor([0]), spec=spec)
    assert torch.equal(proxy.pixels(), every_value)


def test_pixels_clips_what_no_screen_can_show():
    beyond = torch.tensor([-1e6, -1.0, 2.0, 1e6]).view(1, 1, 2, 2)
    spec = replace(SPEC, image_shape=(1, 2, 2), mean=(0.0,), std=(1.0,))
    assert denormalise(beyond, spec).flatten().tolist() == [0, 0, 255, 255]


def test_whitened_images_are_shown_with_their_contrast_stretched():
    proxy = make_proxy(zca=0.1)
    shown = proxy.pixels().double()
    for image, picture in zip(proxy.images.double(), shown, strict=True):
        scaled = (image - image.mean()) / image.std() / 5 + 0.5  # 2.5 deviations to each side
        np.testing.assert_allclose(picture, (scaled * 255).clamp(0, 255), atol=0.51)
    assert make_proxy(images=proxy.images * 3 - 7, zca=0.1).pixels().equal(proxy.pixels())


def test_the_card_tells_all_but_the_pixels_in_json():
    card = json.loads(json.dumps(make_proxy().card()))
    assert card["id"] == make_proxy().id
    for fact in ("4 ", "(3, 4, 5)", "hard labels"):
        assert fact in card["images"]
    assert card["source licence"] == "none"
    assert card["source source_hash"] == SPEC.source_hash
    assert card["cost_seconds"] == 1.5
    assert card["costs"] == {"distilling": 1.25, "teaching ConvNet [a1]": 0.25}
    assert card["networks"][0]["has_seen_judges"] == 3
    assert card["hardware"] == "a processor"
    assert card["augmentation"]["dsa"] == "color_crop"
    soft_card = soft_proxy().card()
    assert "soft labels" in soft_card["images"]
    assert soft_card["labelling"]["teachers"][1]["licence"] == "some terms"


def test_classes_are_what_the_images_were_made_for_whatever_the_labels_say():
    assert make_proxy().classes.tolist() == [0, 0, 1, 1]
    assert make_proxy(labels=soft([[0, 1]] * 4)).classes.tolist() == [0, 0, 1, 1]
    assert make_proxy(decode_factor=2).classes.tolist() == [0] * 8 + [1] * 8


def test_a_refusal_is_the_users_to_mend():
    assert issubclass(ProxyFileError, NasProxyError)
    with pytest.raises(TypeError):
        hash(make_proxy())
