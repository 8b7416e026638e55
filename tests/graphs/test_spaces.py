"""Graph features of every registered space, whether or not it has an encoding of its own."""

import pytest
import torch

from nas_proxy.graphs.features import feature_names
from nas_proxy.interfaces import SearchSpace
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import make_generator


@pytest.mark.parametrize("name", SEARCH_SPACES.names())
def test_every_space_has_graph_features(name):
    space = SEARCH_SPACES.get(name)()
    generator = make_generator(0)
    architectures = list(dict.fromkeys(space.sample(generator) for _ in range(3)))
    found = [SearchSpace.encode(space, architecture) for architecture in architectures]
    assert {vector.shape for vector in found} == {(len(feature_names()),)}
    assert all(vector.isfinite().all() and vector[0] == 1 for vector in found)  # paths are known
    assert len({tuple(vector.tolist()) for vector in found}) > len(found) / 2
    for architecture, vector in zip(architectures, found, strict=True):
        own = [] if type(space).encode is SearchSpace.encode else [space.encode(architecture)]
        assert torch.equal(space.features(architecture), torch.cat([vector, *own]))
