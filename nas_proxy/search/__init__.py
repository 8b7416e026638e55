"""The search: an Optuna study over a search space."""
