"""Dataset distillation: one file is one method."""
