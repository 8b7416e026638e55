"""Neural architecture search on distilled proxy data sets, with proof of their ranking."""

__version__ = "0.1.0"
