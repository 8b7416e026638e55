import numpy as np
import pytest

from nas_proxy.types import Architecture
from nas_proxy.validate.rank_report import Kind, Ranking, Sample, judge
from nas_proxy.validate.settings import Reference, ValidateSettings

PROXY = "the proxy (val_loss)"


def make_report(
    *,
    num_architectures=40,
    num_stratified=8,
    num_trials=30,
    controls=("num_params", "flops", "log_synflow", "naswot", "a random subset of the same size",
              "the same steps on the full data"),
    describe="{} blocks of width 64, batch norm, ReLU, max pooling".format,
    validated=True,
    everything_failed=False,
    reference_seconds=84.0,
):  # fmt: skip
    """A report as `stages.report.collect` builds it."""
    rng = np.random.default_rng(0)
    architectures = [Architecture("convnet", n) for n in range(num_architectures + num_stratified)]
    truth = 0.93 - 0.3 * rng.beta(1.2, 4, len(architectures))
    reference = dict(zip(architectures, truth.tolist(), strict=True))
    uniform, stratified = architectures[:num_architectures], architectures[num_architectures:]

    def ranking(name: str, kind: Kind, noise: float, seconds: float, **more) -> Ranking:
        scores = truth + noise * rng.normal(size=len(truth))
        kept = {} if everything_failed else dict(zip(architectures, scores.tolist(), strict=True))
        return Ranking(name, kind, kept, seconds, **more)

    noises = (0.08, 0.09, 0.06, 0.07, 0.12, 0.02)
    seconds = (0.004, 0.011, 0.034, 0.051, 3.1, 3.3)
    rankings = [ranking(PROXY, "proxy", 0.035, 3.2, one_off_seconds=421.0)]
    rankings += [
        ranking(name, "control", noises[i % 6], seconds[i % 6] * (1 + i // 6))
        for i, name in enumerate(controls)
    ]
    rankings += [
        ranking(f"{name} on the proxy", "signal", noise, 3.2)
        for name, noise in (("val_accuracy", 0.05), ("train_loss_mean", 0.06))
    ]
    settings = ValidateSettings(reference=Reference(table="t.csv"), num_resamples=300)
    judged = judge(
        rankings,
        Sample(uniform, stratified, reference),
        settings,
        reference_name="test accuracy after full-data training (400 steps)",
        reference_seconds=reference_seconds,
        rng=rng,
    )
    points = [
        {
            "architecture_id": a.id,
            "genotype": a.genotype,
            "description": describe(number),
            "drawn": "uniform" if number < num_architectures else "stratified",
            "reference": reference[a],
            "scores": {r.name: r.scores.get(a) for r in rankings},
        }
        for number, a in enumerate(architectures)
    ]
    return {
        "study_name": "quickstart",
        "verdict": judged.verdict if validated else "The ranking was not judged.",
        "config": make_config(),
        "commands": ["nas-proxy run results/quickstart/config.yaml"],
        "environment": {
            "hardware": "AMD EPYC 9B45 (2 cores)",
            "versions": {"python": "3.12.3", "nas-proxy": "0.1.0", "torch": "2.9.1"},
        },
        "data": {
            "name": "digits",
            "licence": "CC BY 4.0 (UCI optical recognition of handwritten digits)",
            "classes": [str(digit) for digit in range(10)],
            "image_shape": [1, 8, 8],
            "search_train": 1078,
            "search_val": 359,
            "test": 360,
            "source_hash": "82c95e54fd24b1aa",
        },
        "proxy_dataset": {
            "id": "9a0d33c1f2b84a7e",
            "images": "100 of shape (1, 8, 8), hard labels",
            "method": "distribution_matching",
            "parameters": {"num_steps": 200, "network_width": 64, "real_batch_size": 64},
            "images_per_class": 10,
            "seed": 12345,
            "augmentation": {"operations": ["crop", "rotate"]},
            "learning_rate_rule": {"learning_rate": 0.01},
            "batchnorm_policy": "running",
            "zca": False,
            "cost_seconds": 401.0,
            "hardware": "AMD EPYC 9B45 (2 cores)",
            "versions": {"torch": "2.9.1"},
            "source licence": "CC BY 4.0",
        },
        "search": make_search(num_trials, describe, everything_failed, rng),
        "validation": judged.to_json() if validated else None,
        "points": points if validated else None,
        "costs": [
            {"what": "distilling (distribution_matching)", "count": 1, "seconds": 401.0,
             "hardware": "AMD EPYC 9B45 (2 cores)"},
            {"what": "search: training candidates", "count": num_trials, "seconds": 96.4},
            {"what": "validation: reference", "count": 48, "seconds": 48 * reference_seconds},
            {"what": "validation: num_params", "count": 48, "seconds": 0.19},
        ],
    }  # fmt: skip


def make_config():
    return {
        "study_name": "quickstart",
        "seed": 0,
        "device": "cpu",
        "num_threads": 1,
        "data": {"name": "digits", "root": None, "image_size": None},
        "distill": {"name": "distribution_matching", "images_per_class": 10, "num_steps": 200},
        "space": {"name": "convnet", "widths": [32, 64]},
        "train": {"num_steps": 100, "num_epochs": None, "batch_size": 64, "learning_rate": 0.02,
                  "schedule": "one_cycle", "momentum": 0.9, "nesterov": True},
        "score": {"signals": ["val_loss"], "combine": "single", "num_reference": 32},
        "search": {"n_trials": 12, "sampler": "tpe", "constraints": {"num_params": None},
                   "executor": "processes", "num_workers": 2},
    }  # fmt: skip


def make_search(num_trials, describe, everything_failed, rng):
    trials = []
    for number in range(num_trials):
        failed = everything_failed or number % 9 == 4
        loss = float(0.4 + 0.6 * rng.random() / (1 + number / 10))
        signals = {"val_loss": loss, "val_accuracy": 1 - loss / 2, "num_params": 45_130.0}
        trials.append(
            {
                "trial": number,
                "score": None if failed else -loss,
                "architecture_id": f"{number:012x}",
                "genotype": number,
                "description": describe(number),
                "signals": {} if failed else signals,
                "seconds": float(2 + rng.random()),
                "reason": "the loss is not finite at step 31" if failed else "",
            }
        )
    best = sorted((t for t in trials if t["score"] is not None), key=lambda t: -t["score"])
    return {
        "signals": ["val_loss"],
        "trials": trials,
        "best": best[:10],
        "num_failed": len(trials) - len(best),
        "num_duplicates": 3,
        "num_infeasible": 0,
    }
