"""What the tests of the stage `calibrate` share: a tiny study, and truth tables for it."""

import contextlib
import csv
import io
import json
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy import stats

from nas_proxy.cli import main as cli
from nas_proxy.data.sources import load_splits
from nas_proxy.evaluate import factory as factory_module
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.study import pipeline
from nas_proxy.study.config import check_config
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.types import Architecture
from tests.helpers.display import Quiet

SPACE = ConvNetSpace(widths=(4, 8), depths=(1, 2))
SHORT = {"num_steps": 4, "batch_size": 16, "learning_rate": 0.05, "precision": "float32"}
ZERO_COST = {
    "name": "zero_cost",
    "train_on": "nothing",
    "score": {"signals": ["num_params", "flops"], "combine": "rank_mean"},
}
STREAM = {"name": "stream", "train_on": "full_data", "score": {"signals": ["val_loss"]}}
BOTH = {
    "name": "stream_and_flops",
    "train_on": "full_data",
    "score": {"signals": ["val_accuracy", "flops"], "combine": "rank_mean"},
}
DISTILLED = {"name": "distilled", "train_on": "proxy", "score": {"signals": ["val_loss"]}}
CONFIG = {
    "study_name": "tiny",
    "data": {"name": "digits", "images_per_class": 20},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [4, 8], "depths": [1, 2]},
    "train": SHORT,
    "search": {"n_trials": 3, "sampler": "random"},
    "tracking": {"enabled": False},
    "calibrate": {
        "reference": {"train": {**SHORT, "num_steps": 8}},
        "num_architectures": 12,
        "threshold": -0.9,
        "recipes": [ZERO_COST, STREAM, BOTH, DISTILLED],
    },
}


class Interrupted(BaseException):
    """What a kill looks like from inside."""


def run(folder, *, last="calibrate", calibrate=None, **changes):
    """Run a study in `folder`; what it said."""
    merged = {**CONFIG, **changes, "results": str(folder)}
    if calibrate is not None:
        merged["calibrate"] = {**CONFIG["calibrate"], **calibrate}
    display = Quiet()
    run_pipeline(check_config(merged), display, last=last)
    return display.said


def command(folder, *words, **changes):
    """Exit status and standard error of the command line."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, **changes, "results": str(folder)}))
    errors = io.StringIO()
    with (
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main([words[0], str(file), *words[1:]])
    return ended.value.code, errors.getvalue()


def result_of(folder, name="tiny"):
    return json.loads((folder / name / "calibrate" / "calibration.json").read_text())


def logs(folder):
    """The architectures in every log of the calibration, by the log's name."""
    study = folder / "tiny"
    files = [*study.glob("calibrate/*.jsonl"), *study.glob("calibration_sample/*/*.jsonl")]
    return {
        file.stem: [json.loads(line)["architecture"] for line in file.read_text().splitlines()]
        for file in files
    }


def genotypes(architectures):
    return [json.dumps(each["genotype"], sort_keys=True) for each in architectures]


@dataclass(frozen=True)
class Sealed:
    """Images of which nothing but their number is known."""

    number: int

    def __len__(self):
        return self.number


def poison_test_split(monkeypatch):
    """No calibration may look at the test split; whoever does finds nothing there."""

    def load(*arguments, **options):
        splits = load_splits(*arguments, **options)
        return SimpleNamespace(
            search_train=splits.search_train,
            search_val=splits.search_val,
            spec=splits.spec,
            test=Sealed(len(splits.test)),
        )

    for module in (factory_module, pipeline):
        monkeypatch.setattr(module, "load_splits", load)


def table(folder, *, agreement=1.0):
    """A truth table of the whole space that agrees with the size of networks so much."""
    sizes = {}
    options = (SPACE.widths, SPACE.depths, SPACE.norms, SPACE.activations, SPACE.pooling)
    keys = ("width", "depth", "norm", "activation", "pooling")
    for chosen in product(*options):
        genotype = dict(zip(keys, chosen, strict=True))
        name = SPACE.to_string(Architecture(SPACE.name, genotype))
        sizes[name] = 10 * genotype["width"] + genotype["depth"] + 0.01 * len(sizes)
    ranks = stats.rankdata(list(sizes.values())) / len(sizes)
    noise = np.random.default_rng(0).normal(size=len(ranks))
    file = folder / "truth.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "accuracy"])
        for name, rank, other in zip(sizes, ranks, noise, strict=True):
            writer.writerow([name, agreement * rank + (1 - agreement) * other])
    return {"table": str(file), "architecture": "name", "value": "accuracy"}
