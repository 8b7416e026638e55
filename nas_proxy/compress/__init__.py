"""Smaller and faster versions of a trained network: pruning, int8, and their combinations."""
