"""Slots on the nodes of a Ray cluster, and what they are sent before they work.

`SlotPool` decides who works on what, and what follows from a loss; it speaks to a `Cluster`. The
one that is real is in `ray_cluster.py`, which alone imports ray.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
