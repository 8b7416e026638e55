"""Search spaces with mistakes that no error shows, and one that only looks like that."""

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.types import Architecture


@dataclass(frozen=True, kw_only=True)
class GrowingSpace(ConvNetSpace):
    """Its size decides which genotypes there are."""

    size: int = 4
    fidelity_options = ("size",)

    def sample(self, generator):
        return Architecture(self.name, {**super().sample(generator).genotype, "width": self.size})


@dataclass(frozen=True, kw_only=True)
class DeepSpace(ConvNetSpace):
    """Its networks have so many further layers, which search with fewer."""

    layers: int = 4
    fidelity_options = ("layers",)
    reduced_fidelity = MappingProxyType({"layers": 1})

    def build(self, architecture, spec):
        further = [nn.Conv2d(spec.image_shape[0], spec.image_shape[0], 1) for _ in range(self.more)]
        return nn.Sequential(*further, super().build(architecture, spec))

    @property
    def more(self):
        return self.layers


class Residual(nn.Module):
    """Adds a branch, which may alter in place what it is added to."""

    def __init__(self, inplace):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(1, 1, 1), nn.SiLU(), nn.ReLU(inplace=inplace))

    def forward(self, images):
        entered = self.branch[0](images)
        return entered + self.branch[2](entered)


class HalfDrawn(ConvNetSpace):
    """Forgets one of the norms when it draws."""

    def sample(self, generator):
        found = super().sample(generator)
        return found if found.genotype["norm"] != "none" else self.sample(generator)


class Conditional(ConvNetSpace):
    """Of a few shallow genotypes and many deep ones, which `sample` draws alike."""

    def suggest(self, trial):
        depth = trial.suggest_int("depth", 1, 9)
        kernels = [trial.suggest_categorical(f"kernel_{at}", (1, 3, 5)) for at in range(depth)]
        return Architecture(self.name, {"kernels": kernels, "depth": depth})

    def sample(self, generator):
        weights = torch.tensor([3.0**depth for depth in range(1, 10)])
        depth = 1 + int(torch.multinomial(weights, 1, generator=generator))
        drawn = torch.randint(3, (depth,), generator=generator).tolist()
        return Architecture(self.name, {"kernels": [1 + 2 * x for x in drawn], "depth": depth})
