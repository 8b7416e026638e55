"""What the numbers of published sets mean: kinds, labels, statistics, and words about them."""

import re
from dataclasses import replace

import pytest
import torch

from nas_proxy.data.transforms import renormalise
from nas_proxy.errors import ConfigError
from nas_proxy.interchange.published_meaning import Assumptions
from tests.interchange.helpers import (
    CLASSES,
    FIELD_MEAN,
    FIELD_STD,
    SPEC,
    load,
    refused,
    save_dc,
    save_mtt,
)


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (torch.zeros(6, 3, 16, 16), "(6, 3, 16, 16)"),
        (torch.zeros(6, 1, 8, 8), "(6, 1, 8, 8)"),
        (torch.zeros(6, 8, 8, 3), "(6, 8, 8, 3)"),
        (torch.zeros(0, 3, 8, 8), "(0, 3, 8, 8)"),
        (torch.full((6, 3, 8, 8), float("nan")), "not finite"),
        (torch.rand(6, 3, 8, 8) * 255, "range from"),
        (torch.randn(6, 3, 8, 8) * 30, "deviations"),
        (torch.randn(6, 3, 8, 8) + 3, "channel means up to"),
    ],
)
def test_images_that_are_of_no_known_kind_are_refused(folder, images, word):
    refused(save_dc(folder / "res.pt", (images, CLASSES)), word)


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (CLASSES + 97, "97 to 99"),
        (CLASSES - 1, "-1 to 1"),
        (torch.tensor([0, 0, 0, 1, 1, 2]), "cat 3, dog 2, frog 1"),
        (torch.tensor([0, 0, 0, 1, 1, 1]), "frog 0"),
        (CLASSES[:5], "5 labels for 6 images"),
        (CLASSES + 0.5, "fractions"),
        (torch.eye(4).repeat(2, 1)[:6], "(number, 3)"),
        (torch.full((6, 3), 0.5), "sums to 1.5"),
        (torch.full((6, 3), float("nan")), "not finite"),
    ],
)
def test_labels_that_do_not_fit_are_refused(folder, published, labels, word):
    refused(save_dc(folder / "res.pt", (published, labels)), word)


def test_whole_numbers_as_floats_are_classes(folder, published):
    imported = load(save_dc(folder / "res.pt", (published, CLASSES.float())))
    assert imported.labels.tolist() == [0, 0, 1, 1, 2, 2]
    refused(folder / "res.pt", "one class", soft_labels="logits")
    refused(folder / "res.pt", "one class", temperature=2.0)


def test_statistics_that_nobody_knows_must_be_said(folder, published):
    spec = replace(SPEC, name="digits")
    path = save_dc(folder / "res.pt", (published, CLASSES))
    refused(path, "--mean and --std", "digits", spec=spec)
    assert len(load(path, spec=spec, mean=FIELD_MEAN, std=FIELD_STD)) == 6
    refused(path, "3 number(s)", mean=(0.5,), std=(0.5,))


def test_cifar100_is_normalised_in_two_ways(folder, published):
    spec = replace(SPEC, name="cifar100")
    dc = load(save_dc(folder / "res.pt", (published, CLASSES)), spec=spec)
    mtt = load(save_mtt(folder, published, CLASSES), spec=spec, normalised=True)
    assert dc.parameters["published_mean"] == (0.5071, 0.4866, 0.4409)
    assert mtt.parameters["published_mean"] == FIELD_MEAN


@pytest.mark.parametrize(
    "words",
    [
        {"zca": 0.1, "normalised": True},
        {"mean": (0.1,)},
        {"std": (0.1,)},
        {"mean": (0.0,), "std": (0.0,)},
        {"zca": float("nan")},
        {"zca": 0.0},
        {"temperature": -1.0},
        {"learning_rate": float("inf")},
    ],
)
def test_words_that_mean_nothing_are_refused(words):
    with pytest.raises(ConfigError):
        Assumptions(**words)


def test_a_form_that_it_is_not_is_refused(folder, published):
    path = save_dc(folder / "res.pt", (published, CLASSES))
    refused(path, "to be read as idc", "form dc", format="idc")
    assert len(load(path, format="dc")) == 6
    refused(path, "--labels", labels=path)


def test_renormalising_there_and_back_is_nothing(published):
    old, new = (FIELD_MEAN, FIELD_STD), ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    there = renormalise(published, old, new)
    torch.testing.assert_close(renormalise(there, new, old), published, rtol=1e-5, atol=1e-5)
    assert renormalise(published, old, old) is published


def test_equal_files_have_equal_ids(folder, published):
    one = load(save_dc(folder / "a.pt", (published, CLASSES)))
    two = load(save_dc(folder / "a.pt", (published, CLASSES)))
    assert one.id == two.id
    assert re.fullmatch(r"[0-9a-f]{16}", one.parameters["content"])
