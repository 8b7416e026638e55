"""Search spaces that are functions: of every form that tests need."""

import optuna
from torch import nn

WIDTHS = (4, 6, 8)


def head(channels, spec):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, spec.num_classes)]


def plain(trial, spec, max_width: int = 8):
    """One convolution of some width."""
    width = trial.suggest_int("width", 2, max_width, step=2)
    kernel = trial.suggest_categorical("kernel", [1, 3])
    activation = trial.suggest_categorical("activation", ["relu", "tanh"])
    layers = [
        nn.Conv2d(spec.image_shape[0], width, kernel, padding=kernel // 2),
        {"relu": nn.ReLU, "tanh": nn.Tanh}[activation](),
    ]
    return nn.Sequential(*layers, *head(width, spec))


def conditional(trial, spec):
    """Either a convolution, which has a kernel, or a linear layer, which has hidden units."""
    if trial.suggest_categorical("kind", ["conv", "mlp"]) == "conv":
        kernel = trial.suggest_categorical("kernel", [1, 3, 5])
        layers = [nn.Conv2d(spec.image_shape[0], 4, kernel, padding=kernel // 2), nn.ReLU()]
        return nn.Sequential(*layers, *head(4, spec))
    channels, height, width = spec.image_shape
    units = trial.suggest_int("units", 2, 16, log=True)
    first = nn.Linear(channels * height * width, units)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(units, spec.num_classes))


def layers(trial, spec):
    """So many layers as were chosen, each of its own; a range that depends on an earlier choice."""
    channels, found = spec.image_shape[0], []
    depth = trial.suggest_int("depth", 1, 3)
    for number in range(depth):
        width = trial.suggest_categorical(f"width_{number}", WIDTHS)
        found += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    groups = trial.suggest_int("bottleneck", 1, depth)
    found += [nn.Conv2d(channels, 2 * groups, 1), nn.ReLU()]
    return nn.Sequential(*found, *head(2 * groups, spec))


def floats(trial, spec):
    """Numbers of each kind; None, truth values and texts of any form among the choices."""
    dropout = trial.suggest_float("dropout", 0.01, 0.5, log=True)
    slope = trial.suggest_float("slope", 0, 0.3, step=0.1)
    scale = trial.suggest_float("scale", 0.5, 2.0)
    bias = trial.suggest_categorical("bias", [True, False, None, 1.0])
    note = trial.suggest_categorical("a note", ["a,b=c d", "32", "None", "", "é\n", "x"])
    network = nn.Sequential(
        nn.Conv2d(spec.image_shape[0], 4 + len(note), 3, padding=1, bias=bool(bias)),
        nn.LeakyReLU(slope),
        nn.Dropout(dropout),
        *head(4 + len(note), spec),
    )
    nn.init.constant_(network[-1].bias, scale)
    return network


def pruned(trial, spec):
    """A corner of it is ruled out."""
    width = trial.suggest_categorical("width", WIDTHS)
    depth = trial.suggest_int("depth", 1, 3)
    if width * depth > 12:
        raise optuna.TrialPruned("too large")
    channels, found = spec.image_shape[0], []
    for _ in range(depth):
        found += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*found, *head(width, spec))


def measured(trial, spec):
    """Finds a size by trying an image, which takes weights with numbers."""
    import torch

    kernel = trial.suggest_categorical("kernel", [1, 3])
    body = nn.Sequential(
        nn.Conv2d(spec.image_shape[0], 3, kernel, stride=2), nn.ReLU(), nn.Flatten()
    )
    body.eval()
    with torch.no_grad():
        size = body(torch.zeros(1, *spec.image_shape)).shape[1]
    return nn.Sequential(body, nn.Linear(size, spec.num_classes))


def lazy(trial, spec):
    """Leaves sizes to the first images."""
    first = nn.LazyConv2d(trial.suggest_categorical("width", WIDTHS), 3, padding=1)
    body = nn.Sequential(first, nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten())
    return nn.Sequential(body, nn.LazyLinear(spec.num_classes))


GOOD = (plain, conditional, layers, floats, pruned, measured, lazy)
