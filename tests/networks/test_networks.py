"""The fixed networks: their sizes, and that they compute what others' do."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from nas_proxy.networks.base import NORMS, Network
from nas_proxy.networks.catalogue import NETWORKS
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng
from tests.networks.helpers import WIDTHS, build, count, make_images, make_spec


def copy_state(source, target):
    """Copy by order: two implementations of one network name its layers differently."""
    state = target.state_dict()
    values = source.state_dict().values()
    assert [value.shape for value in values] == [value.shape for value in state.values()]
    target.load_state_dict(dict(zip(state, values, strict=True)))


def randomise_norms(network):
    """Statistics and affine parameters that differ from layer to layer and channel to channel."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for value in (layer.weight, layer.running_var):
                    value.uniform_(0.5, 1.5)
                for value in (layer.bias, layer.running_mean):
                    value.normal_(std=0.3)


# --- parameter counts ---


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("convnet", 320_010),  # the field's matching network
        ("resnet18", 11_173_962),  # ResNet-18 with a 3x3 stem
        ("vgg11", 9_231_114),
        ("alexnet", 1_872_202),
        ("mlp", 411_146),
        ("wrn16_2", 691_674),
    ],
)
def test_the_published_networks_have_their_size_on_cifar10(name, num_params):
    assert count(name, make_spec()) == num_params


def test_alexnet_and_mlp_have_the_published_sizes_on_mnist():
    spec = make_spec(size=28, channels=1)
    assert count("alexnet", spec) == (
        (25 * 128 + 128)
        + (25 * 128 * 192 + 192)
        + (9 * 192 * 256 + 256)
        + (9 * 256 * 192 + 192)
        + (9 * 192 * 192 + 192)
        + (192 * 4 * 4 + 1) * 10
    )
    assert count("mlp", spec) == 785 * 128 + 129 * 128 + 129 * 10


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1),
        ("mobilenet_v2", torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1),
        ("shufflenet_v2", torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1),
    ],
)
def test_the_sizes_on_imagenet_are_those_of_torchvisions_model_cards(name, weights):
    assert count(name, make_spec(size=224, num_classes=1000)) == weights.meta["num_params"]


def wide_resnet_convolutions(width, channels=3):
    """Counted on paper: stem, three stages of four 3x3 convolutions, three 1x1 shortcuts."""
    total = 9 * channels * 16
    inputs = 16
    for outputs in (width, 2 * width, 4 * width):
        total += 9 * inputs * outputs + 3 * 9 * outputs**2 + inputs * outputs
        inputs = outputs
    return total


@pytest.mark.parametrize("norm", NORMS)
def test_a_wide_resnet_has_one_norm_before_each_convolution_but_the_stem_and_one_at_the_end(norm):
    width, size = 8, 16
    shapes = [(16, size), *[(width, size)] * 4, *[(2 * width, size // 2)] * 4]
    shapes += [(4 * width, size // 4)] * 4
    assert len(shapes) == 13
    per_norm = {
        "none": lambda channels, side: 0,
        "layer": lambda channels, side: 2 * channels * side**2,
    }.get(norm, lambda channels, side: 2 * channels)
    expected = (
        wide_resnet_convolutions(width)
        + sum(per_norm(channels, side) for channels, side in shapes)
        + (4 * width + 1) * 10
    )
    assert count("wrn16_2", make_spec(size), width=width, norm=norm) == expected


# --- the same function as other people's implementations ---


def torchvision_resnet18(small):
    network = torchvision.models.resnet18(num_classes=10)
    if small:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network


@pytest.mark.parametrize("size", [16, 32, 127, 128, 224])
def test_resnet18_with_batch_norm_computes_what_torchvisions_does(size):
    with isolated_rng(0):
        theirs = torchvision_resnet18(small=size < 128).eval()
        randomise_norms(theirs)
    ours = build("resnet18", make_spec(size), norm="batch").eval()
    copy_state(theirs, ours)
    with torch.no_grad():
        images = make_images(1, size)
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("size", [32, pytest.param(64, marks=pytest.mark.exhaustive)])
def test_vgg11_with_batch_norm_has_the_features_of_torchvisions(size):
    with isolated_rng(0):
        theirs = torchvision.models.vgg11_bn(num_classes=1, init_weights=False).features.eval()
        randomise_norms(theirs)
    ours = build("vgg11", make_spec(size), norm="batch").eval()
    copy_state(theirs, ours.features)
    with torch.no_grad():
        images = make_images(2, size)
        torch.testing.assert_close(ours.embed(images), theirs(images).mean(dim=(2, 3)))


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2"])
def test_the_mobile_networks_compute_what_torchvisions_do_but_for_a_small_stem(name, size):
    ours = build(name, make_spec(size)).eval()
    builder = {
        "mobilenet_v2": torchvision.models.mobilenet_v2,
        "shufflenet_v2": torchvision.models.shufflenet_v2_x0_5,
    }[name]
    with isolated_rng(1):
        theirs = builder(num_classes=10).eval()
        randomise_norms(theirs)
    if size < 64 and name == "mobilenet_v2":
        theirs.features[0][0].stride = (1, 1)
    if size < 64 and name == "shufflenet_v2":
        theirs.conv1[0].stride = (1, 1)
        theirs.maxpool = nn.Identity()
    copy_state(theirs, ours)
    with torch.no_grad():
        images = make_images(2, size)
        torch.testing.assert_close(ours(images), theirs(images))


def test_alexnet_computes_the_published_sequence_of_layers():
    network = build("alexnet", make_spec(32), width=8)
    weights = iter(network.parameters())
    maps = images = make_images(2)
    for pooled in (True, True, False, False, True):
        weight, bias = next(weights), next(weights)
        maps = F.relu(F.conv2d(maps, weight, bias, padding="same"))
        maps = F.max_pool2d(maps, 2) if pooled else maps
    expected = F.linear(maps.flatten(1), next(weights), next(weights))
    torch.testing.assert_close(network(images), expected)


def test_a_wide_resnet_without_residuals_is_its_shortcuts():
    network = build("wrn16_2", make_spec(16), width=4).eval()
    stem, *blocks, _, _ = network.features
    maps = stem(make_images(2, 16))
    for index, block in enumerate(blocks):
        nn.init.zeros_(block.residual[-1].weight)
        if index % 2 == 0:  # the first of a stage changes the channels
            stride = 1 if index == 0 else 2
            norm = block.preactivation[0]
            activated = F.relu(F.batch_norm(maps, norm.running_mean, norm.running_var))
            maps = F.conv2d(activated, block.shortcut.weight, stride=stride)
    images = make_images(2, 16)
    end = network.features[-2]
    expected = F.relu(F.batch_norm(maps, end.running_mean, end.running_var)).mean(dim=(2, 3))
    torch.testing.assert_close(network.embed(images), expected)


# --- every network, every image size ---


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 32, 64])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_training_step_moves_every_layer_and_lowers_the_loss(name, size, channels):
    network = build(name, make_spec(size, channels), width=WIDTHS.get(name))
    images, labels = make_images(6, size, channels), torch.arange(6)
    loss = F.cross_entropy(network(images), labels)
    loss.backward()
    for parameter_name, weight in network.named_parameters():
        assert weight.grad is not None, parameter_name
        assert weight.grad.isfinite().all(), parameter_name
        # The bias of a convolution before a norm has no effect; every matrix and filter has.
        assert weight.ndim == 1 or weight.grad.abs().max() > 0, parameter_name
    squared = sum(weight.grad.square().sum() for weight in network.parameters())
    with torch.no_grad():
        for weight in network.parameters():
            weight -= 0.01 * loss / squared * weight.grad  # to first order a hundredth less
        after = F.cross_entropy(network(images), labels)
    assert after < loss


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["convnet", "resnet18", "vgg11", "alexnet", "wrn16_2"])
def test_every_norm_leaves_the_logits_of_8x8_images_dependent_on_the_image(name, norm):
    network = build(name, make_spec(8), width=8, norm=norm)
    images = make_images(4, 8).requires_grad_()
    network(images)[:, 0].sum().backward()
    assert images.grad.flatten(1).norm(dim=1).min() > 0


@pytest.mark.parametrize("name", ["convnet", "resnet18", "shufflenet_v2"])
def test_images_of_224_pixels_are_classified(name):
    network = build(name, make_spec(224), width=WIDTHS.get(name)).eval()
    with torch.no_grad():
        logits = network(make_images(2, 224))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_classifier_is_the_last_layer_and_embed_its_input_in_training_too(name):
    network = build(name, make_spec(16), width=WIDTHS.get(name))
    assert isinstance(network, Network)
    assert isinstance(network.classifier, nn.Linear)
    seen = []
    network.classifier.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    images = make_images(3, 16)
    logits = network(images)
    embedded = network.embed(images)
    torch.testing.assert_close(embedded, seen[0])
    torch.testing.assert_close(logits, F.linear(embedded, *network.classifier.parameters()))
    assert logits.shape == (3, 10)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2", "resnet18", "wrn16_2"])
def test_what_a_norm_hands_on_is_not_overwritten(name):
    network = build(name, make_spec(16)).train()
    outputs = []
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            layer.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    network(make_images(4, 16))
    assert len(outputs) > 12
    assert all(output.min() < 0 for output in outputs)


# --- ConvNet's blocks ---


@pytest.mark.parametrize(("pooling", "side"), [("none", 8), ("max", 1), ("avg", 1)])
def test_blocks_pool_until_a_single_pixel_is_left(pooling, side):
    network = ConvNet((3, 8, 8), 10, width=4, depth=4, norm="none", pooling=pooling)
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.features) == 4
    assert tuple(network.features(make_images(2, 8)).shape) == (2, 4, side, side)
