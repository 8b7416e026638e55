"""The best architectures trained fully: which ones, against what, and how good they are."""
