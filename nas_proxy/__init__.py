"""Neural architecture search on distilled proxy data sets, with proof that the ranking can be trusted."""

__version__ = "0.1.0"
