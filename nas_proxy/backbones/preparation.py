"""From a data set's images to what a network with published weights expects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nas_proxy.data.transforms import resize
from nas_proxy.train.measuring import num_parts
from nas_proxy.types import DatasetSpec


class Preparation(nn.Module):
    """Enlarges images and normalises them as the weights' authors did.

    Args:
        spec: Of the images that it is given, normalised and of one or three channels; a grey image
            becomes three equal ones.
        image_size: Height and width in pixels of what it gives.
        mean: Per channel, that the authors subtracted from pixels in [0, 1].
        std: That they divided by.
        persistent: Whether both are part of the state of the network.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        spec: DatasetSpec,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        persistent: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        # (x * std + mean) is what the spec's normalisation came from; then that of the weights.
        own_mean, own_std, goal_mean, goal_std = (
            torch.tensor(values).expand(3).reshape(1, 3, 1, 1)
            for values in (spec.mean, spec.std, mean, std)
        )
        self.register_buffer("scale", own_std / goal_std, persistent=persistent)
        offset = (own_mean - goal_mean) / goal_std
        self.register_buffer("offset", offset, persistent=persistent)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `(n, c, h, w)` to `(n, 3, image_size, image_size)`."""
        enlarged = resize(images.expand(-1, 3, -1, -1), self.image_size)
        return enlarged * self.scale + self.offset

    def in_parts(
        self, function: Callable[[Tensor], Tensor], images: Tensor, *, training: bool
    ) -> Tensor:
        """`function` of the prepared images, of which only a part is in memory if possible."""
        # Batch statistics are those of the whole batch; an exported program takes any batch whole.
        num = 1
        if not training and not torch.compiler.is_compiling():
            num = num_parts(len(images), (self.image_size, self.image_size))
        if num == 1:
            return function(self(images))
        return torch.cat([function(self(part)) for part in images.tensor_split(num)])
