"""Networks of torchvision as backbones: their heads, layers, weights and figures."""
