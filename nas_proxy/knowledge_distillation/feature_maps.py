"""What a network computes on the way to its answer, read through hooks from any network.

Of each resolution the last feature map counts. Resolutions count in octaves below the images that
the network is given: 0 is their own, 1 half of it, 2 a quarter. So networks for images of other
sizes, and networks that enlarge their images themselves, have feature maps that match.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_proxy.errors import ConfigError
from nas_proxy.networks.wrapped import is_same
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.train.measuring import evaluating

_NUM_IMAGES = 2  # that a network is asked about: group norm refuses one with a single pixel


@dataclass(frozen=True)
class Place:
    """One use of a layer in a network.

    Attributes:
        layer: Its name among the network's modules.
        use: How often it has been used before, in the same pass.
        num_uses: How often it is used in the whole pass.
    """

    layer: str
    use: int
    num_uses: int = 1


@dataclass(frozen=True)
class FeatureMap:
    """The last feature map of a resolution.

    Attributes:
        place: Which layer gives it.
        shape: Channels, height and width, `(c, h, w)`.
        octave: How often the side of the images is halved, rounded; negative if it is enlarged.
    """

    place: Place
    shape: tuple[int, int, int]
    octave: int

    def __str__(self) -> str:
        """Such as `16x16 (layer2)`."""
        return f"{self.shape[1]}x{self.shape[2]} ({self.place.layer})"


@dataclass(frozen=True)
class FeatureLayout:
    """Where a network's feature maps and its embedding are.

    Attributes:
        name: Of the network, for messages.
        feature_maps: From the finest to the coarsest; those of a single pixel are none.
        embedding: The layer whose input is the embedding: the linear layer or the convolution
            that gives the answer. None if there is no such layer.
    """

    name: str
    feature_maps: tuple[FeatureMap, ...]
    embedding: Place | None

    @property
    def listed(self) -> str:
        """The feature maps in words."""
        return ", ".join(map(str, self.feature_maps)) or "none"


@dataclass(frozen=True, eq=False)
class Record:
    """What a network computed in one pass.

    Attributes:
        maps: `(n, c, h, w)` in float32, of each feature map that was asked for.
        embedding: `(n, d)` in float32; None if it was not asked for.
    """

    maps: dict[FeatureMap, Tensor]
    embedding: Tensor | None


@torch.no_grad()
def examine(network: nn.Module, image_shape: tuple[int, int, int], name: str) -> FeatureLayout:
    """Find the feature maps and the embedding by asking the network about two black images.

    The network is left as it was.

    Args:
        network: Maps images to logits.
        image_shape: Of images that it accepts, `(c, h, w)`.
        name: What it is called in messages.
    """
    passes: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            passes.append((module, output))

    hooks = [module.register_forward_hook(keep) for module in network.modules()]
    try:
        with evaluating(network), isolated_rng(0):
            like = next(network.parameters())
            logits = network(torch.zeros(_NUM_IMAGES, *image_shape, device=like.device))
    finally:
        for hook in hooks:
            hook.remove()
    places = _places(network, [module for module, _ in passes])
    feature_maps: dict[int, FeatureMap] = {}
    for place, (_, output) in zip(places, passes, strict=True):
        octave = _octave(output, image_shape)
        # What is enlarged again after the last reduction holds nothing new.
        if octave is not None and octave >= max(feature_maps, default=octave):
            shape = (output.shape[1], output.shape[2], output.shape[3])
            feature_maps[octave] = FeatureMap(place, shape, octave)
    return FeatureLayout(name, tuple(feature_maps.values()), _embedding(places, passes, logits))


def match_feature_maps(
    student: FeatureLayout, teacher: FeatureLayout
) -> tuple[tuple[FeatureMap, FeatureMap], ...]:
    """The feature maps of equal resolution in both, the student's first.

    Raises:
        ConfigError: If there are none.
    """
    theirs = {feature_map.octave: feature_map for feature_map in teacher.feature_maps}
    pairs = [
        (feature_map, theirs[feature_map.octave])
        for feature_map in student.feature_maps
        if feature_map.octave in theirs
    ]
    if not pairs:
        raise ConfigError(
            f"no feature maps of {student.name} and {teacher.name} have the same resolution: "
            f"those of the first are {student.listed}, those of the second {teacher.listed}; "
            "choose another teacher, or a kind that looks at answers or embeddings alone"
        )
    return tuple(pairs)


class Recorder:
    """Keeps what a network computes in each pass until it is taken; `close` removes all traces.

    Args:
        network: To be watched.
        feature_maps: Which are kept.
        embedding: Where the embedding is the input; None: it is not kept.
        training: Passes in training mode are kept, those in evaluation mode are not; the other
            way round if False.
    """

    def __init__(
        self,
        network: nn.Module,
        feature_maps: Sequence[FeatureMap],
        embedding: Place | None,
        *,
        training: bool,
    ) -> None:
        self._network = network
        self._feature_maps = {feature_map.place: feature_map for feature_map in feature_maps}
        self._embedding_place = embedding
        self._training = training
        self._num_images = 0
        self._uses = Counter[str]()
        # Maps by where they come from, the embedding by its place: one layer may give both.
        self._kept: dict[FeatureMap | Place, list[Tensor]] = {}
        self._hooks = [network.register_forward_pre_hook(self._begin)]
        places = [*self._feature_maps, *filter(None, [embedding])]
        watched = {place.layer: place.num_uses for place in places}
        for name, module in network.named_modules():
            if name in watched:
                keeper = self._keeper(name, watched[name])
                self._hooks.append(module.register_forward_hook(keeper, with_kwargs=True))

    def take(self) -> Record:
        """What the last pass computed; it is forgotten here.

        Raises:
            ConfigError: If a layer was not used in it.
        """
        wanted: dict[FeatureMap | Place, str] = {
            s: s.place.layer for s in self._feature_maps.values()
        }
        if self._embedding_place is not None:
            wanted[self._embedding_place] = self._embedding_place.layer
        missing = [layer for what, layer in wanted.items() if self._num_left(what)]
        if missing:
            raise ConfigError(
                f"the layer {missing[0]} of {type(self._network).__name__} is not used in every "
                "pass, so nothing can be learned from it; choose a kind that looks at answers alone"
            )
        found = {what: _joined(self._kept[what]) for what in wanted}
        self._forget()
        embedding = None if self._embedding_place is None else found.pop(self._embedding_place)
        return Record(
            {feature_map: found[feature_map] for feature_map in self._feature_maps.values()},
            embedding,
        )

    def close(self) -> None:
        """Remove the hooks, and forget what they kept."""
        for hook in self._hooks:
            hook.remove()
        self._forget()

    def _begin(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._forget()
        self._num_images = len(inputs[0])

    def _forget(self) -> None:
        self._uses, self._kept = Counter(), {}

    def _num_left(self, what: FeatureMap | Place) -> int:
        """Of how many images it has not been seen in this pass."""
        return self._num_images - sum(map(len, self._kept.get(what, [])))

    def _keep(self, what: FeatureMap | Place, part: Tensor) -> None:
        if self._num_left(what) > 0:
            self._kept.setdefault(what, []).append(part)

    def _keeper(self, name: str, num_uses: int) -> Any:
        def keep(
            module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            if self._network.training != self._training or not isinstance(output, Tensor):
                return
            # A network that takes a large batch in parts begins again with each of them.
            place = Place(name, self._uses[name] % num_uses, num_uses)
            self._uses[name] += 1
            if place in self._feature_maps:
                self._keep(self._feature_maps[place], output.float())
            if place == self._embedding_place:
                self._keep(place, as_embedding([*inputs, *named.values()][0]))

        return keep


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def as_embedding(given: Tensor) -> Tensor:
    """The input of the last layer as vectors, float32 `(n, d)`; of maps, the mean over pixels."""
    return given.float().mean(dim=(2, 3)) if given.ndim == 4 else given.float().flatten(1)


def _places(network: nn.Module, used: Sequence[nn.Module]) -> list[Place]:
    names = {module: name for name, module in network.named_modules()}
    num_uses, uses = Counter(used), Counter[nn.Module]()
    places = []
    for module in used:
        places.append(Place(names[module], uses[module], num_uses[module]))
        uses[module] += 1
    return places


def _octave(output: Tensor, image_shape: tuple[int, int, int]) -> int | None:
    """How often the images' side was halved; None if this is no map of more than one pixel."""
    if output.ndim != 4 or output.shape[2:].numel() == 1 or not output.is_floating_point():
        return None
    if 0 in output.shape or len(output) != _NUM_IMAGES:
        return None  # such as patches of an image, each for itself
    down, across = (
        math.log2(a / b) for a, b in zip(image_shape[1:], output.shape[2:], strict=True)
    )
    if abs(down - across) >= 1:
        return None  # not a picture: transformers have their channels last
    return round((down + across) / 2)


def _embedding(
    places: Sequence[Place], passes: Sequence[tuple[nn.Module, Tensor]], logits: Tensor
) -> Place | None:
    """The layer that gives the logits, or else the last one with as many outputs as classes."""
    found = None
    for place, (module, output) in zip(places, passes, strict=True):
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if is_same(output, logits):
            return place
        if output.shape[:2] == logits.shape[:2]:
            found = place
    return found
