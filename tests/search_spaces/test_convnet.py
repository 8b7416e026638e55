import itertools
import math
from collections import Counter

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from nas_proxy.errors import UserError
from nas_proxy.networks.convnet import ACTIVATIONS, NORMS, POOLINGS
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import Architecture

SPACE = ConvNetSpace()
WIDTHS, DEPTHS = (32, 64, 128, 256), (1, 2, 3, 4)
USUAL = {"width": 128, "depth": 3, "norm": "instance", "activation": "relu", "pooling": "avg"}


def all_architectures():
    for values in itertools.product(WIDTHS, DEPTHS, NORMS, ACTIVATIONS, POOLINGS):
        yield Architecture("convnet", dict(zip(USUAL, values, strict=True)))


def expected_num_params(genotype, channels, size, num_classes):
    """Counted layer by layer on paper, not read from the network."""
    width, total = genotype["width"], 0
    for _ in range(genotype["depth"]):
        total += channels * 9 * width + width
        norms = {"none": 0, "layer": 2 * width * size * size}
        total += norms.get(genotype["norm"], 2 * width)
        if genotype["pooling"] != "none" and size > 1:
            size //= 2
        channels = width
    return total + (width * size * size + 1) * num_classes


def test_there_are_720_and_each_has_the_parameters_counted_on_paper():
    spec = tiny_dataset(num_classes=10, image_shape=(3, 32, 32)).spec
    texts = set()
    for architecture in all_architectures():
        with torch.device("meta"):
            network = SPACE.build(architecture, spec)
        counted = sum(weight.numel() for weight in network.parameters())
        assert counted == expected_num_params(architecture.genotype, 3, 32, 10)
        text = SPACE.to_string(architecture)
        assert SPACE.from_string(text) == architecture
        texts.add(text)
    assert len(texts) == 720


def test_the_usual_matching_network_has_its_published_size_and_name():
    architecture = Architecture("convnet", USUAL)
    network = SPACE.build(architecture, tiny_dataset(num_classes=10, image_shape=(3, 32, 32)).spec)
    assert sum(weight.numel() for weight in network.parameters()) == 320_010
    assert SPACE.to_string(architecture) == "ConvNet-W128-D3-NIN-AR-PA"
    assert SPACE.describe(architecture) == (
        "3 blocks of width 128, instance norm, ReLU, average pooling"
    )


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("ConvNet-W32-D1-NN-AS-PN", (32, 1, "none", "sigmoid", "none")),
        ("ConvNet-W64-D2-NBN-AR-PM", (64, 2, "batch", "relu", "max")),
        ("ConvNet-W128-D3-NLN-AL-PA", (128, 3, "layer", "leaky_relu", "avg")),
        ("ConvNet-W256-D4-NIN-AR-PA", (256, 4, "instance", "relu", "avg")),
        ("ConvNet-W256-D4-NGN-AR-PA", (256, 4, "group", "relu", "avg")),
    ],
)
def test_the_letters_are_the_fields(text, choices):
    assert SPACE.from_string(text).genotype == dict(zip(USUAL, choices, strict=True))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("image_shape", [(1, 4, 4), (3, 7, 7)])
def test_the_deepest_network_works_on_tiny_images(norm, pooling, image_shape):
    architecture = Architecture(
        "convnet", {**USUAL, "width": 32, "depth": 4, "norm": norm, "pooling": pooling}
    )
    network = SPACE.build(architecture, tiny_dataset(num_classes=5, image_shape=image_shape).spec)
    logits = network(torch.randn(2, *image_shape, generator=make_generator(0)))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


def test_samples_are_uniform_over_every_choice():
    generator = make_generator(0)
    samples = [SPACE.sample(generator).genotype for _ in range(3000)]
    for key, values in zip(USUAL, (WIDTHS, DEPTHS, NORMS, ACTIVATIONS, POOLINGS), strict=True):
        counts = Counter(genotype[key] for genotype in samples)
        assert set(counts) == set(values)
        expected = len(samples) / len(values)
        chi_squared = sum((counts[value] - expected) ** 2 / expected for value in values)
        assert chi_squared < 20  # 99.9 % of uniform samples lie below 18.5


@given(seed=st.integers(0, 2**32))
def test_a_neighbour_differs_in_exactly_one_choice(seed):
    architecture = SPACE.sample(make_generator(seed))
    neighbour = SPACE.mutate(architecture, make_generator(seed + 1))
    before, after = architecture.genotype, neighbour.genotype
    assert sum(before[key] != after[key] for key in USUAL) == 1


def test_mutating_reaches_every_neighbour():
    architecture = Architecture("convnet", USUAL)
    generator = make_generator(0)
    neighbours = {SPACE.mutate(architecture, generator) for _ in range(600)}
    assert len(neighbours) == 3 + 3 + 4 + 2 + 2


def test_options_restrict_the_space():
    space = ConvNetSpace(widths=(8,), norms=("none", "batch"), pooling=("max",))
    generator = make_generator(0)
    for _ in range(50):
        architecture = space.mutate(space.sample(generator), generator)
        genotype = architecture.genotype
        assert (genotype["width"], genotype["pooling"]) == (8, "max")
        assert genotype["norm"] in ("none", "batch")
    trial = optuna.create_study().ask()
    assert space.suggest(trial).genotype["width"] == 8


def test_a_space_of_one_architecture_has_no_neighbours():
    space = ConvNetSpace(
        widths=(32,), depths=(1,), norms=("none",), activations=("relu",), pooling=("avg",)
    )
    only = space.sample(make_generator(0))
    with pytest.raises(UserError, match="single architecture"):
        space.mutate(only, make_generator(0))


@pytest.mark.parametrize("option", ["widths", "depths", "norms", "activations", "pooling"])
def test_empty_options_and_repeated_values_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} is empty"):
        ConvNetSpace(**{option: ()})
    first = getattr(SPACE, option)[0]
    with pytest.raises(ValueError, match=f"{option} names a value twice"):
        ConvNetSpace(**{option: (first, first)})


def test_widths_that_group_norm_cannot_divide_are_refused():
    with pytest.raises(ValueError, match="width 30 cannot be built"):
        ConvNetSpace(widths=(32, 30))
    space = ConvNetSpace(widths=(30,), norms=("batch", "instance"))
    assert space.sample(make_generator(0)).genotype["width"] == 30


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"widths": [0]}, "greater than or equal to 1"),
        ({"widths": []}, "widths is empty"),
        ({"norms": ["btach"]}, "Input should be 'none', 'batch'"),
        ({"depths": [True]}, "expected a number, got true"),
        ({"width": [32]}, "Unexpected keyword argument"),
    ],
)
def test_a_configuration_with_wrong_options_is_refused(options, fault):
    with pytest.raises(ValidationError, match=fault):
        TypeAdapter(ConvNetSpace).validate_python(options)


def test_a_configuration_gives_lists():
    space = TypeAdapter(ConvNetSpace).validate_python({"widths": [32, 64], "norms": ["group"]})
    assert space == ConvNetSpace(widths=(32, 64), norms=("group",))
    assert space.fingerprint() != SPACE.fingerprint()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ConvNet",
        "ConvNet-W128-D3-NIN-AR-PA\n",
        "ConvNet-W0128-D3-NIN-AR-PA",
        "ConvNet-D3-W128-NIN-AR-PA",
        "ConvNet-W128-D3-NXN-AR-PA",
        "ConvNet-W-128-D3-NIN-AR-PA",
    ],
)
def test_a_malformed_name_is_refused(text):
    with pytest.raises(ValueError, match="is no ConvNet"):
        SPACE.from_string(text)


def test_a_name_outside_the_options_is_refused():
    with pytest.raises(ValueError, match="its width is 48, not one of 32, 64, 128, 256"):
        SPACE.from_string("ConvNet-W48-D3-NIN-AR-PA")


@given(text=st.from_regex(r"ConvNet-W[0-9]{1,4}-D[0-9]-N[A-Z]{1,2}-A[A-Z]-P[A-Z]", fullmatch=True))
def test_any_text_is_an_architecture_or_a_value_error(text):
    try:
        architecture = SPACE.from_string(text)
    except ValueError:
        return
    assert SPACE.to_string(architecture) == text


def test_the_encoding_is_what_it_says():
    features = SPACE.encode(Architecture("convnet", USUAL))
    assert features.tolist() == [7, 3, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1]
    narrow = ConvNetSpace(widths=(24,), norms=("none",))
    odd = narrow.encode(narrow.sample(make_generator(0)))
    assert odd.shape == features.shape
    assert odd[0].item() == pytest.approx(math.log2(24))
