"""Recipes, proxy data sets and models in MLflow's model registry."""
