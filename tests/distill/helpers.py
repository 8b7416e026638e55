"""What the tests of distillers share: small runs, and the ConvNet written out by hand."""

import torch

from nas_proxy.data.transforms import normalise
from nas_proxy.distill.common import random_networks
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.interfaces import DistillContext, DistillTask
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset

SMALL = {"network_width": 4, "network_depth": 2}
NUM_CLASSES = 3


def make_task(images_per_class=2, seed=0, dataset=None, context=None):
    return DistillTask(
        dataset=dataset or tiny_dataset(),
        images_per_class=images_per_class,
        generator=make_generator(seed),
        context=context or DistillContext(),
    )


def distill(distiller, images_per_class=2, seed=0, dataset=None, **context):
    task = make_task(images_per_class, seed, dataset, DistillContext(**context))
    return distill_and_label(distiller, task)


class Log:
    """A progress display that keeps what it is told, and stops the work after a given step."""

    def __init__(self, stop_after=None):
        self.steps, self.losses, self._stop_after = [], [], stop_after

    def __call__(self, done, total, note=""):
        self.steps.append((done, total))
        self.losses.append(float(note.removeprefix("loss ")))
        if done == self._stop_after:
            raise KeyboardInterrupt


def small_network(seed=0, image_shape=(3, 8, 8), norm="instance", depth=2):
    with isolated_rng(seed):
        return ConvNet(image_shape, NUM_CLASSES, width=4, depth=depth, norm=norm)


def weights_of(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def remember_networks(monkeypatch):
    """The weights that each network of the distillations to come starts from."""
    seen = []
    build = random_networks.build_network

    def remembered(settings, spec):
        network = build(settings, spec)
        seen.append(weights_of(network))
        return network

    monkeypatch.setattr(random_networks, "build_network", remembered)
    return seen


def blocks_by_hand(weights, images, norm="instance"):
    """The rectified maps of two blocks, and what is left after the second one's pooling.

    Convolution, norm, rectifier and average pooling; the norm is over each image's pixels, or
    over those of all images.
    """
    x, activations = images, []
    for block, norm_layer in (("features.0", "features.1"), ("features.4", "features.5")):
        num, _, height, width = x.shape
        columns = torch.nn.functional.unfold(x, kernel_size=3, padding=1)
        kernel = weights[f"{block}.weight"].flatten(1)
        x = (kernel @ columns).view(num, len(kernel), height, width)
        x = x + weights[f"{block}.bias"].view(1, -1, 1, 1)
        over = (2, 3) if norm == "instance" else (0, 2, 3)
        mean = x.mean(dim=over, keepdim=True)
        variance = (x - mean).square().mean(dim=over, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt()
        x = x * weights[f"{norm_layer}.weight"].view(1, -1, 1, 1)
        x = (x + weights[f"{norm_layer}.bias"].view(1, -1, 1, 1)).clamp(min=0)
        activations.append(x)
        x = (
            x[:, :, :-1:2, :-1:2]
            + x[:, :, 1::2, :-1:2]
            + x[:, :, :-1:2, 1::2]
            + x[:, :, 1::2, 1::2]
        ) / 4
    return [*activations, x]


def embed_by_hand(weights, images):
    return blocks_by_hand(weights, images)[-1].flatten(1)


def loss_by_hand(weights, images, labels):
    """Mean cross-entropy; `labels` are classes, or probabilities."""
    logits = embed_by_hand(weights, images) @ weights["classifier.weight"].T
    logits = logits + weights["classifier.bias"]
    if labels.ndim == 1:
        labels = torch.eye(NUM_CLASSES, dtype=logits.dtype)[labels]
    return (logits.logsumexp(dim=1) - (labels * logits).sum(dim=1)).mean()


def real_images(dataset, label):
    """All images of a class, normalised."""
    return normalise(dataset.images[dataset.labels == label], dataset.spec)
