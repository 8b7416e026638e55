"""Distilling for rank: images that rank architectures as full training does."""
