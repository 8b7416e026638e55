import csv
import itertools
import math
import random
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from nas_proxy.processes import pack, unpack
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.scores.flops import Flops
from nas_proxy.search_spaces.nasbench201 import (
    EDGES,
    OPERATIONS,
    Cell,
    NASBench201Space,
)
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import Architecture

SPACE = NASBench201Space()
SMALL = NASBench201Space(num_cells=1, channels=4)
PUBLISHED = (
    "|nor_conv_1x1~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|none~1|avg_pool_3x3~2|"
)
DISCONNECTED = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|none~2|"
genotypes = st.lists(st.sampled_from(OPERATIONS), min_size=6, max_size=6)
sparse_genotypes = st.lists(
    st.sampled_from(["none", "none", "none", *OPERATIONS[1:]]), min_size=6, max_size=6
)


def num_params(space, architecture, spec):
    with torch.device("meta"):
        return sum(weight.numel() for weight in space.build(architecture, spec).parameters())


def expected_num_params(genotype, num_classes=10, num_cells=5, channels=16):
    """Counted layer by layer on paper."""
    stages = [channels, 2 * channels, 4 * channels]
    total = 3 * 9 * channels + 2 * channels
    for wide in stages:
        kernel = 9 * genotype.count("nor_conv_3x3") + genotype.count("nor_conv_1x1")
        num_norms = genotype.count("nor_conv_3x3") + genotype.count("nor_conv_1x1")
        total += num_cells * (kernel * wide * wide + 2 * wide * num_norms)
    for narrow, wide in itertools.pairwise(stages):
        total += 9 * narrow * wide + 9 * wide * wide + narrow * wide + 4 * wide
    return total + 2 * stages[2] + (stages[2] + 1) * num_classes


@pytest.mark.exhaustive
def test_every_one_of_the_15625_strings_leads_back():
    architectures = {
        Architecture("nasbench201", list(genotype))
        for genotype in itertools.product(OPERATIONS, repeat=6)
    }
    texts = {SPACE.to_string(architecture) for architecture in architectures}
    assert len(texts) == 15_625
    assert all(SPACE.to_string(SPACE.from_string(text)) == text for text in texts)


def test_the_string_orders_the_edges_as_the_benchmark_does():
    assert SPACE.from_string(PUBLISHED).genotype == [
        "nor_conv_1x1",
        "skip_connect",
        "nor_conv_1x1",
        "nor_conv_3x3",
        "none",
        "avg_pool_3x3",
    ]
    assert SPACE.describe(SPACE.from_string(PUBLISHED)) == (
        "0-1 1x1 convolution, 0-2 skip, 1-2 1x1 convolution, 0-3 3x3 convolution, "
        "2-3 average pooling"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|",
        "nor_conv_3x3",
        PUBLISHED[:-1],
        PUBLISHED + "\n",
        PUBLISHED + "+|none~0|",
        PUBLISHED.replace("~2", "~1"),
        PUBLISHED.replace("nor_conv_1x1", "nor_conv_5x5"),
        PUBLISHED.replace("+", ""),
        PUBLISHED.replace("|+|", "|+||"),
        PUBLISHED.replace("|skip", "|~|skip"),
        PUBLISHED.upper(),
    ],
)
def test_a_malformed_string_is_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match="is no cell of NAS-Bench-201") as caught:
        SPACE.from_string(text)
    assert len(str(caught.value).splitlines()) == 1


@given(genotype=genotypes, position=st.integers(0, 60), character=st.characters())
def test_a_changed_string_is_another_cell_or_a_value_error(genotype, position, character):
    text = SPACE.to_string(Architecture("nasbench201", genotype))
    changed = text[:position] + character + text[position + 1 :]
    try:
        assert SPACE.to_string(SPACE.from_string(changed)) == changed
    except ValueError:
        assert changed != text


@settings(max_examples=25)
@given(genotype=genotypes)
def test_the_number_of_parameters_is_the_one_counted_on_paper(genotype):
    architecture = Architecture("nasbench201", genotype)
    spec = tiny_dataset(num_classes=10, image_shape=(3, 32, 32)).spec
    assert num_params(SPACE, architecture, spec) == expected_num_params(genotype)


def test_the_number_of_parameters_is_the_published_one(shared_folder):
    with (shared_folder / "truth" / "nb201_cifar10_dev.csv").open() as file:
        rows = random.Random(0).sample(list(csv.DictReader(file)), 40)
    spec = tiny_dataset(num_classes=10, image_shape=(3, 32, 32)).spec
    for row in rows:
        counted = num_params(SPACE, SPACE.from_string(row["arch_str"]), spec)
        assert counted == round(float(row["params_m"]) * 1e6), row["arch_str"]


def run_every_edge(cell, features, genotype):
    """The official forward pass: all edges, whether or not they lead to the output."""
    nodes = [features]
    for node in range(1, 4):
        total = torch.zeros_like(features)
        for index, (source, target) in enumerate(EDGES):
            if target == node and genotype[index] != "none":
                total = total + cell.edges[index](nodes[source])
        nodes.append(total)
    return nodes[-1]


@given(genotype=sparse_genotypes)
def test_leaving_edges_out_changes_no_output(genotype):
    generator = make_generator(0)
    with isolated_rng(0):
        cell = Cell(genotype, 4)
    features = torch.randn(2, 4, 6, 6, generator=generator)
    # One computes more than the other; what both compute may be rounded otherwise.
    torch.testing.assert_close(cell(features), run_every_edge(cell, features, genotype))


def official_logits(network, images, genotype, num_cells):
    """Dong and Yang's network in training mode, written with functions alone."""
    weights = iter(network.parameters())

    def norm(features):
        return F.batch_norm(features, None, None, next(weights), next(weights), training=True)

    def relu_conv_norm(features, stride=1):
        kernel = next(weights)
        return norm(F.conv2d(features.relu(), kernel, stride=stride, padding=kernel.shape[-1] // 2))

    operations = {
        "none": torch.zeros_like,
        "skip_connect": lambda features: features,
        "avg_pool_3x3": lambda features: F.avg_pool2d(features, 3, 1, 1, count_include_pad=False),
        "nor_conv_1x1": relu_conv_norm,
        "nor_conv_3x3": relu_conv_norm,
    }

    def cell(first):
        nodes = [first, 0, 0, 0]
        for operation, (source, target) in zip(genotype, EDGES, strict=True):
            nodes[target] = nodes[target] + operations[operation](nodes[source])
        return nodes[3]

    features = norm(F.conv2d(images, next(weights), padding=1))
    for stage in range(3):
        if stage > 0:
            residual = relu_conv_norm(relu_conv_norm(features, stride=2))
            features = F.conv2d(F.avg_pool2d(features, 2), next(weights)) + residual
        for _ in range(num_cells):
            features = cell(features)
    return F.linear(norm(features).relu().mean((2, 3)), next(weights), next(weights))


@pytest.mark.parametrize(
    "text",
    [
        PUBLISHED,
        "|avg_pool_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|none~2|",
        "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_3x3~1|+|none~0|none~1|avg_pool_3x3~2|",
    ],
)
def test_the_network_computes_what_the_official_one_does(text):
    space = NASBench201Space(num_cells=2, channels=4)
    architecture = space.from_string(text)
    with isolated_rng(0):
        network = space.build(architecture, tiny_dataset(num_classes=5).spec)
    images = torch.randn(3, 3, 8, 8, generator=make_generator(0))
    expected = official_logits(network, images, architecture.genotype, num_cells=2)
    assert torch.allclose(network(images), expected, atol=1e-5)


def test_edges_that_lead_nowhere_are_not_computed():
    computed = []
    cell = Cell(SPACE.from_string(DISCONNECTED).genotype, 4)
    for edge in cell.edges:
        edge.register_forward_hook(lambda *_: computed.append(1))
    output = cell(torch.ones(2, 4, 8, 8))
    assert not computed
    assert not output.any()


def test_none_is_zero_even_where_the_features_are_infinite():
    cell = Cell(["none"] * 6, 4)
    assert not cell(torch.full((1, 4, 8, 8), torch.inf)).any()


@pytest.mark.parametrize("connections", [f"{pattern:06b}" for pattern in range(64)])
def test_gradients_are_finite_however_the_cell_is_connected(connections):
    generator = make_generator(int(connections, base=2))
    drawn = torch.randint(1, 5, (6,), generator=generator).tolist()
    genotype = [
        OPERATIONS[index] if bit == "1" else "none"
        for index, bit in zip(drawn, connections, strict=True)
    ]
    architecture = Architecture("nasbench201", genotype)
    network = SMALL.build(architecture, tiny_dataset().spec)
    logits = network(torch.randn(3, 3, 8, 8, generator=generator))
    logits.square().sum().backward()
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    assert logits.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert network.classifier.bias.grad.any()


@pytest.mark.parametrize("image_shape", [(3, 64, 64), (1, 28, 28), (3, 7, 9), (1, 1, 1)])
def test_every_image_size_works(image_shape):
    spec = tiny_dataset(num_classes=4, image_shape=image_shape).spec
    network = SMALL.build(SPACE.from_string(PUBLISHED), spec)
    logits = network(torch.randn(2, *image_shape, generator=make_generator(0)))
    assert logits.shape == (2, 4)
    assert network.embed(torch.zeros(2, *image_shape)).shape == (2, 16)


def test_networks_can_be_pickled():
    network = SMALL.build(SPACE.from_string(PUBLISHED), tiny_dataset().spec).eval()
    images = torch.randn(2, 3, 8, 8, generator=make_generator(0))
    copy = unpack(pack(network))
    assert torch.equal(copy(images), network(images))


def test_every_relu_is_a_module_that_leaves_its_input_alone():
    network = SPACE.build(SPACE.from_string(PUBLISHED), tiny_dataset().spec)
    relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    assert len(relus) == 15 * 3 + 2 * 2 + 1
    assert not any(relu.inplace for relu in relus)


@given(seed=st.integers(0, 2**32))
def test_a_neighbour_differs_on_exactly_one_edge(seed):
    architecture = SPACE.sample(make_generator(seed))
    neighbour = SPACE.mutate(architecture, make_generator(seed + 1))
    pairs = zip(architecture.genotype, neighbour.genotype, strict=True)
    assert sum(before != after for before, after in pairs) == 1


def test_samples_are_uniform_on_every_edge():
    generator = make_generator(0)
    samples = [SPACE.sample(generator).genotype for _ in range(3000)]
    for edge in range(6):
        counts = Counter(genotype[edge] for genotype in samples)
        assert sum((counts[name] - 600) ** 2 / 600 for name in OPERATIONS) < 20


def test_mutating_reaches_every_neighbour():
    generator = make_generator(0)
    architecture = SPACE.from_string(PUBLISHED)
    assert len({SPACE.mutate(architecture, generator) for _ in range(600)}) == 24


def test_fidelity_options_make_the_network_smaller_and_nothing_else():
    genotype = SPACE.from_string(PUBLISHED).genotype
    spec = tiny_dataset(num_classes=10).spec
    small = num_params(SMALL, Architecture("nasbench201", genotype), spec)
    assert small == expected_num_params(genotype, num_cells=1, channels=4)
    assert SMALL.from_string(PUBLISHED) == SPACE.from_string(PUBLISHED)
    assert SMALL.fingerprint() != SPACE.fingerprint()


@pytest.mark.parametrize("options", [{"num_cells": 0}, {"channels": True}, {"cells": 3}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        TypeAdapter(NASBench201Space).validate_python(options)


# --- genotypes of one network -----------------------------------------------------------------


def form(genotype):
    return SPACE.canonical_form(Architecture("nasbench201", list(genotype)))


def value(genotype):
    """The cell as a function of one number, with some function that is 0 at 0 for each operation.

    Cells that agree here agree whatever the operations are, up to an accident.
    """
    functions = {
        "none": lambda x: 0.0,
        "skip_connect": lambda x: x,
        "nor_conv_1x1": lambda x: math.sin(1.3 * x) + 0.31 * x * x,
        "nor_conv_3x3": lambda x: math.tanh(0.7 * x) + 0.21 * x * x,
        "avg_pool_3x3": lambda x: 0.37 * x * math.cos(x),
    }
    nodes = [0.7391, 0.0, 0.0, 0.0]
    for operation, (source, target) in zip(genotype, EDGES, strict=True):
        nodes[target] += functions[operation](nodes[source])
    return round(nodes[3], 9)


def test_forms_are_the_same_exactly_where_cells_compute_the_same():
    everything = list(itertools.product(OPERATIONS, repeat=6))
    forms, values = [form(g) for g in everything], [value(g) for g in everything]
    assert len(set(forms)) == len(set(values)) == len(set(zip(forms, values, strict=True))) == 4930


def tied_logits(genotype, images):
    """Logits of a network in which equal operations of a stage have equal weights."""
    network = SMALL.build(Architecture("nasbench201", list(genotype)), tiny_dataset().spec)
    network = network.double().eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:  # norms are all alike as they are
                place = name.split(".edges.")[0] if ".edges." in name else name
                generator = make_generator(derive_seed(place, tuple(weight.shape)))
                weight.normal_(generator=generator).div_(weight[0].numel() ** 0.5)
        network.classifier.bias.zero_()
        return network(images)


def test_networks_of_one_form_give_equal_logits_and_others_do_not():
    members = {}
    for genotype in itertools.product(OPERATIONS, repeat=6):
        members.setdefault(form(genotype), []).append(genotype)
    drawn = random.Random(0).sample(sorted(k for k, v in members.items() if len(v) > 1), 12)
    images = torch.randn(2, 3, 8, 8, generator=make_generator(0), dtype=torch.float64)
    found = []
    for name in drawn:
        logits = [tied_logits(g, images) for g in random.Random(1).sample(members[name], 2)]
        torch.testing.assert_close(logits[1], logits[0], rtol=1e-9, atol=1e-9)
        found.append(logits[0])
    for first, second in itertools.combinations(found, 2):
        assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("genotypes", "expected"),
    [
        # A skip renames a node.
        ([{"0-1": "skip_connect", "1-3": "nor_conv_3x3"}, {"0-3": "nor_conv_3x3"}],
         "nor_conv_3x3(x)"),
        # Whatever leads nowhere, and whatever comes from nothing.
        ([{"0-3": "skip_connect", "0-1": "nor_conv_1x1"}, {"0-3": "skip_connect"},
          {"0-3": "skip_connect", "1-3": "nor_conv_3x3", "1-2": "avg_pool_3x3"}], "x"),
        ([{}, {"0-1": "nor_conv_3x3", "0-2": "skip_connect"}, {"1-2": "nor_conv_3x3"}], "0"),
        # Twice the same is not once.
        ([{"0-3": "skip_connect", "0-1": "skip_connect", "1-3": "skip_connect"}], "x+x"),
    ],
)  # fmt: skip
def test_forms_by_hand(genotypes, expected):
    for given_edges in genotypes:
        names = [f"{source}-{target}" for source, target in EDGES]
        assert form([given_edges.get(name, "none") for name in names]) == expected


@given(genotype=genotypes)
def test_exchanging_the_inner_nodes_changes_no_form(genotype):
    # 0-1, 0-2, 1-2, 0-3, 1-3, 2-3
    genotype[2] = "none"
    first, second, _, direct, third, fourth = genotype
    assert form(genotype) == form([second, first, "none", direct, fourth, third])


@settings(max_examples=15)
@given(genotype=genotypes, other=st.sampled_from(OPERATIONS))
def test_an_edge_that_leads_nowhere_changes_neither_form_nor_flops(genotype, other):
    genotype[2] = genotype[4] = "none"  # nothing leaves node 1
    changed = [other, *genotype[1:]]
    assert form(genotype) == form(changed)
    spec = tiny_dataset().spec
    flops = [
        Flops().measure(SMALL.build(Architecture("nasbench201", g), spec), torch.zeros(1, 3, 8, 8))
        for g in (genotype, changed)
    ]
    assert flops[0] == flops[1]
