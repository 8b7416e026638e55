"""Knowledge distillation: what a network learns from teachers beside the labels."""
