"""Files, locks, checkpoints, and what a result says of the machine it was made on."""
