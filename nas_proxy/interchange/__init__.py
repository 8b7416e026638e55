"""Formats that others published: reading them safely, and writing ours for them."""
