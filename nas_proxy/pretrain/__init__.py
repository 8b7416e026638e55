"""Weights made here: pre-training backbones, with labels or without."""
