"""Memory that runs out where a test wants it to."""

import torch

MESSAGE = "CUDA out of memory. Tried to allocate 20.00 GiB."


def too_large():
    return torch.OutOfMemoryError(f"{MESSAGE}\nSee documentation for Memory Management")


class TooLargeGradient(torch.autograd.Function):
    """Passes logits on; there is no memory for their gradient."""

    @staticmethod
    def forward(context, logits):
        return logits.clone()

    @staticmethod
    def backward(context, gradient):
        raise too_large()
