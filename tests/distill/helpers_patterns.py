"""Images from which networks with instance norm can learn."""

from dataclasses import replace

import torch

from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from tests.distill.helpers import NUM_CLASSES


def patterned_dataset(images_per_class=40):
    """Classes that differ in what an instance norm leaves: a pattern each, in noise."""
    tiny = tiny_dataset(images_per_class=images_per_class)
    generator = make_generator(1)
    patterns = torch.randn(NUM_CLASSES, 3, 8, 8, generator=generator)
    noise = torch.randn(tiny.images.shape, generator=generator)
    pixels = 128 + 25 * (patterns[tiny.labels] + 1.5 * noise)
    spec = replace(tiny.spec, mean=(0.5,) * 3, std=(0.18,) * 3)
    return replace(tiny, images=pixels.clamp(0, 255).to(torch.uint8), spec=spec)
