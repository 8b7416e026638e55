"""Zero-cost scores: numbers that rank untrained networks in seconds; one file, one score."""
