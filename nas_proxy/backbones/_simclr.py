"""SimCLR: embeddings in which two views of one image lie closer than those of others.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.errors import required
from nas_proxy.train.objective import Batch, Objective


def nt_xent(embeddings: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy of equation 1, averaged over all views.

    Args:
        embeddings: `(2 * n, d)`: one view of each image, then the other in the same order.
        temperature: tau, above 0.

    Returns:
        A scalar; with one image it is 0, since there is nothing to tell it from.
    """
    num_views = len(embeddings)
    unit = F.normalize(embeddings, dim=1)
    similarity = unit @ unit.T / temperature
    itself = torch.eye(num_views, dtype=torch.bool, device=embeddings.device)
    positive = torch.arange(num_views, device=embeddings.device).roll(num_views // 2)
    return F.cross_entropy(similarity.masked_fill(itself, float("-inf")), positive)


class SimCLR(Objective):
    """NT-Xent of a projection of what a network's head is given; the head itself learns nothing.

    For a `TrainingSet` with two views. The projection is thrown away afterwards.

    Args:
        head: Of the network: its input is what is learned.
        width: Of that input, d.
        projection_size: Of the projection.
        temperature: Of `nt_xent`.
    """

    def __init__(
        self, head: nn.Module, width: int, *, projection_size: int, temperature: float
    ) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection_size)
        )
        self._temperature = temperature
        self._given: Tensor | None = None
        self._hook = head.register_forward_pre_hook(self._keep)

    def forward(self, batch: Batch) -> Tensor:
        """The loss of the batch's two views of each image."""
        given, self._given = required(self._given, "the head's input"), None
        if given.ndim == 4:  # the head is a convolution, before the mean over the positions
            given = given.mean(dim=(2, 3))
        return nt_xent(self.projection(given.float()), self._temperature)

    def close(self) -> None:
        """Stop watching the network."""
        self._hook.remove()

    def _keep(self, head: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._given = inputs[0]
