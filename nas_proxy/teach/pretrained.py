"""Networks of torchvision, with published weights and a new last layer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nas_proxy.data.transforms import resize
from nas_proxy.errors import ConfigError, DataError, did_you_mean
from nas_proxy.networks.wrapped import WrappedNetwork
from nas_proxy.teach.settings import PretrainedSettings
from nas_proxy.train.measuring import num_parts
from nas_proxy.types import DatasetSpec

LICENCE = (
    "torchvision's weights: trained on ImageNet-1K, whose terms are non-commercial research and "
    "education only; see the weights' own page for more"
)
_FILE_ENDINGS = (".pth", ".pt", ".safetensors")
# Of these the published weights expect another scale, and have a second head for training.
_INCEPTION = {"aux_logits": False, "transform_input": True, "init_weights": True}
_OPTIONS: dict[str, dict[str, bool]] = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
_SECOND_HEAD = re.compile(r"(aux1|aux2|AuxLogits)\.")
# The published weights of DenseNets have the names that their layers had in 2017.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


class PretrainedNetwork(WrappedNetwork):
    """A torchvision network for other classes, other sizes and another normalisation.

    Args:
        settings: Which one.
        spec: Of the images it is given, of one or three channels, and the classes it must tell.
        network: Of torchvision, without weights, its last layer replaced.

    Raises:
        ConfigError: If the network cannot take images of that size, or its last layer is not
            linear.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, settings: PretrainedSettings, spec: DatasetSpec, network: nn.Module) -> None:
        try:
            super().__init__(network, (3, settings.image_size, settings.image_size))
        except (AssertionError, RuntimeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{settings.name} of torchvision cannot take images of {settings.image_size} "
                f"pixels ({_first_line(error)}); set image_size to what it was made for, such as "
                "224"
            ) from error
        self._settings = settings
        weights = _published_weights(settings)
        self.licence = "; ".join([LICENCE, *filter(None, [weights.meta.get("license")])])
        # (x * std + mean) is what the spec's normalisation came from; then that of the weights.
        published = weights.transforms()
        mean, std, goal_mean, goal_std = (
            torch.tensor(values).expand(3).reshape(1, 3, 1, 1)  # a grey image has three equal ones
            for values in (spec.mean, spec.std, published.mean, published.std)
        )
        self.register_buffer("scale", std / goal_std, persistent=False)
        self.register_buffer("offset", (mean - goal_mean) / goal_std, persistent=False)
        if settings.train == "head":
            network.requires_grad_(False)
            self.classifier.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> PretrainedNetwork:
        """Training mode; a body that is not trained stays in evaluation mode."""
        super().train(mode and self._settings.train == "all")
        return self

    def embed(self, images: Tensor) -> Tensor:
        """What the last linear layer is given, `(n, d)`."""
        return self._in_parts(super().embed, images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, `(n, num_classes)`."""
        return self._in_parts(super().forward, images)

    def _in_parts(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """`function` of the enlarged images, of which only a part is in memory if possible."""
        if self.training:  # batch statistics are those of the whole batch
            return function(self._enlarge(images))
        size = self._settings.image_size
        parts = images.tensor_split(num_parts(len(images), (size, size)))
        return torch.cat([function(self._enlarge(part)) for part in parts])

    def _enlarge(self, images: Tensor) -> Tensor:
        enlarged = resize(images.expand(-1, 3, -1, -1), self._settings.image_size)
        return enlarged * self.scale + self.offset

    def load_published_weights(self, weights: str) -> None:
        """Fill in published weights; the last layer keeps its own.

        Args:
            weights: As in `PretrainedSettings`.

        Raises:
            ConfigError: If torchvision knows no weights of that name.
            DataError: If they cannot be downloaded, or the local file is missing, damaged or of
                another network.
        """
        name = self._settings.name
        state = _published_state(PretrainedSettings(name=name, weights=weights))
        last = next(n for n, module in self.network.named_modules() if module is self.classifier)
        for key in list(state):  # in place: some networks need the mapping's own attributes
            value = state.pop(key)
            if not key.startswith(f"{last}.") and not _SECOND_HEAD.match(key):
                state[_OLD_NAME.sub(r"\1\2", key)] = value
        try:
            missing, unexpected = self.network.load_state_dict(state, strict=False)
        except (RuntimeError, ValueError) as error:
            detail = str(error).splitlines()[-1].strip()
            raise _of_another(name, weights, detail) from error
        lacking = [key for key in missing if not key.startswith(f"{last}.")]
        if lacking or unexpected:
            raise _of_another(name, weights, f"{(lacking + unexpected)[0]} does not match")


def build_pretrained(settings: PretrainedSettings, spec: DatasetSpec) -> PretrainedNetwork:
    """The network with random weights.

    Raises:
        ConfigError: If torchvision has no such network, its last layer is not linear, or it
            cannot take images of the size.
    """
    _check_name(settings)
    from torchvision import models

    options = _OPTIONS.get(settings.name, {})
    network = models.get_model(settings.name, weights=None, num_classes=spec.num_classes, **options)
    return PretrainedNetwork(settings, spec, network)


def identify_weights(settings: PretrainedSettings) -> str:
    """Weights by what they are: torchvision's name, or a file's name and a hash of its content.

    Raises:
        ConfigError: If torchvision has no such network, or knows no weights of that name.
        DataError: If the local file is missing.
    """
    _check_name(settings)
    path = Path(settings.weights).expanduser()
    if path.suffix in _FILE_ENDINGS:
        _check_file(path)
        with path.open("rb") as file:
            return f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    choices = _choices(settings)
    if settings.weights not in choices.__members__:
        raise ConfigError(
            f"torchvision has no weights {settings.weights!r} for {settings.name}; "
            f"{did_you_mean(settings.weights, choices.__members__)} (or name a local .pth file)"
        )
    name: str = choices[settings.weights].name  # DEFAULT changes with torchvision's version
    return name


def _check_name(settings: PretrainedSettings) -> None:
    from torchvision import models

    known = models.list_models(module=models)
    if settings.name not in known:
        raise ConfigError(
            f"torchvision has no network {settings.name!r}; {did_you_mean(settings.name, known)}"
        )


def _choices(settings: PretrainedSettings) -> Any:
    from torchvision import models

    return models.get_model_weights(settings.name)


def _published_weights(settings: PretrainedSettings) -> Any:
    """The member of torchvision's enumeration; for a local file, that of the network's own."""
    choices = _choices(settings)
    return choices.__members__.get(settings.weights, choices.DEFAULT)


def _published_state(settings: PretrainedSettings) -> dict[str, Tensor]:
    path = Path(settings.weights).expanduser()
    if path.suffix in _FILE_ENDINGS:
        return _local_state(path)
    try:
        state: dict[str, Tensor] = _published_weights(settings).get_state_dict(
            progress=False, check_hash=True
        )
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"the weights {settings.weights} of {settings.name} cannot be downloaded "
            f"({_first_line(error)}); put the file somewhere and name its path in weights"
        ) from error
    return state


def _local_state(path: Path) -> dict[str, Tensor]:
    _check_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - the unpickler raises what its input makes it
        raise DataError(
            f"the weights file {path} cannot be read ({_first_line(error)}); "
            "get it again, or save its state_dict alone"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise DataError(f"the weights file {path} holds no state_dict; save that alone")
    return state


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"the weights file {path} does not exist; get it, or name another")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _of_another(name: str, weights: str, detail: str) -> DataError:
    return DataError(
        f"the weights {weights} are not of {name} ({detail}); name the network that they belong to"
    )
