"""A trained network as files that are used elsewhere: weights, ONNX, torch.export."""
