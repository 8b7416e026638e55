"""Measuring architectures: by training them, or by looking them up in a benchmark's table."""
