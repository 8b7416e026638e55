"""A study: its configuration, where its files lie, what a stage is, and the line of stages."""
