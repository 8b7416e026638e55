"""Trajectory matching (MTT, TESLA, DATM)."""
