"""What SynFlow and its variants share: the signal that arrives when nothing can cancel out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_proxy.scores.layers import bypass_norms


def positive_flow(network: nn.Module, images: Tensor) -> Tensor:
    """The sum of the logits of one image of ones, when every weight is positive.

    Alters the network: its weights become their absolute values in float64, and every norm is
    bypassed. float64, because gradients of some 1e40 are common and float32 ends at 3e38.

    Args:
        network: Freshly initialised.
        images: `(n, c, h, w)`; only the shape and the device matter.

    Returns:
        A scalar that can be differentiated with respect to the network's parameters.
    """
    network.double().eval()
    bypass_norms(network)
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()
    with torch.enable_grad():
        flow: Tensor = network(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    return flow
