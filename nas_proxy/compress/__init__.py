"""Smaller and faster versions of a trained network: pruning, int8, and their combinations."""

import logging

import torch  # noqa: F401 - first, for its import sets all levels anew
from lazy_loader import attach_stub

# At its import torchao says that a library of its own is not there, and torch says that torchao
# registers something in an old way: nothing that a user could mend.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
