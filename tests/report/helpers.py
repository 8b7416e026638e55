"""Reports as a validation leaves them, and pages taken apart."""

import itertools
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import yaml

from nas_proxy.evaluate.latency import Latency
from nas_proxy.search.pareto import knee, pareto_front
from nas_proxy.types import Architecture
from nas_proxy.validate.rank_report import Ranking, Sample, judge
from nas_proxy.validate.settings import RepeatedReference, ValidateSettings

PROXY = "the proxy (val_loss)"
CEILING = "the reference with another seed"


STATIC = """
study_name: quickstart
config:
  seed: 0
  data: {name: digits, root: null, image_size: null}
  distill: {name: distribution_matching, images_per_class: 10, num_steps: 200}
  space: {name: convnet, widths: [32, 64]}
  train: {num_steps: 100, num_epochs: null, batch_size: 64, learning_rate: 0.02, nesterov: true}
  score: {signals: [val_loss], combine: single, num_reference: 32}
  search: {n_trials: 12, sampler: tpe, constraints: {num_params: null}, executor: processes}
commands: [nas-proxy run results/quickstart/config.yaml]
environment:
  hardware: AMD EPYC 9B45 (2 cores)
  versions: {python: 3.12.3, nas-proxy: 0.1.0, torch: 2.9.1}
data: {name: digits, image_shape: [1, 8, 8], search_train: 1078, search_val: 359, test: 360,
  classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"], source_hash: 82c95e54fd24b1aa,
  licence: CC BY 4.0 (UCI optical recognition of handwritten digits)}
proxy_dataset:
  id: 9a0d33c1f2b84a7e
  images: 100 of shape (1, 8, 8), hard labels
  method: distribution_matching
  parameters: {num_steps: 200, network_width: 64, real_batch_size: 64}
  augmentation: {crop: 0.0, cutout: 0.0, dsa: color_crop_cutout_scale_rotate, flip: false}
  seed: 12345
  cost_seconds: 401.0
  hardware: AMD EPYC 9B45 (2 cores)
  networks: []
  labelling: {kind: hard, per: image, temperature: 1.0, teachers: []}
evaluate_proxy: null
costs:
- {what: distilling (distribution_matching), count: 1, seconds: 401.0, hardware: AMD EPYC 9B45}
- {what: "search: training candidates on the proxy data set", count: 30, seconds: 96.4}
- {what: "score: its reference sample", count: 1, seconds: 0.0}
- {what: "validation: num_params", count: 48, seconds: 0.19}
"""
CONTROLS = {
    "num_params": (0.08, 0.004),  # noise of its scores, seconds per architecture
    "flops": (0.09, 0.011),
    "log_synflow": (0.06, 0.034),
    "naswot": (0.07, 0.051),
    "a random subset of the same size": (0.12, 3.1),
    "the same steps on the full data": (0.02, 3.3),
}


def make_report(
    *,
    num_architectures=40,
    num_stratified=8,
    num_trials=30,
    controls=tuple(CONTROLS),
    describe="{} blocks of width 64, batch norm, ReLU, max pooling".format,
    validated=True,
    everything_failed=False,
    reference_seconds=84.0,
    ceiling=True,
    uncertain=True,
    costs=(),
):
    """A report as `study.stages.report.collect` builds it."""
    report = yaml.safe_load(STATIC)
    rng = np.random.default_rng(0)
    architectures = [Architecture("convnet", n) for n in range(num_architectures + num_stratified)]
    truth = 0.93 - 0.3 * rng.beta(1.2, 4, len(architectures))
    reference = dict(zip(architectures, truth.tolist(), strict=True))
    rankings = make_rankings(controls, {} if everything_failed else reference, rng)
    if uncertain:
        deviations = dict.fromkeys(rankings[0].scores, 0.035)
        rankings[0] = replace(rankings[0], predictions=rankings[0].scores, deviations=deviations)
    if ceiling:
        again = {a: value + 0.01 * rng.normal() for a, value in reference.items()}
        rankings.append(Ranking(CEILING, "ceiling", again, reference_seconds))
    sizes = {
        "parameters": {a: value + 0.09 * rng.normal() for a, value in reference.items()},
        "FLOPs": {a: value + 0.09 * rng.normal() for a, value in reference.items()},
    }
    judged = judge(
        rankings,
        Sample(
            architectures[:num_architectures], architectures[num_architectures:], reference, sizes
        ),
        ValidateSettings(reference=RepeatedReference(table="t.csv"), num_resamples=100),
        reference_name="test accuracy after full-data training (400 steps)",
        reference_seconds=reference_seconds,
        rng=rng,
    )
    points = [
        {
            "description": describe(number),
            "drawn": "uniform" if number < num_architectures else "stratified",
            "reference": reference[architecture],
            "scores": {ranking.name: ranking.scores.get(architecture) for ranking in rankings},
        }
        for number, architecture in enumerate(architectures)
    ]
    report["verdict"] = judged.verdict if validated else "The ranking was not judged."
    report["validation"] = judged.to_json() if validated else None
    report["points"] = points if validated else None
    report["search"] = make_search(num_trials, describe, everything_failed, rng, costs)
    return report


def make_rankings(controls, reference, rng):
    def ranking(name, kind, noise, seconds, one_off=0.0):
        scores = {a: value + noise * rng.normal() for a, value in reference.items()}
        return Ranking(name, kind, scores, seconds, one_off)

    like = itertools.cycle(CONTROLS.values())
    return [
        ranking(PROXY, "proxy", 0.035, 3.2, 421.0),
        *(ranking(name, "control", *next(like)) for name in controls),
        ranking("val_accuracy on the proxy", "signal", 0.05, 3.2),
        ranking("train_loss_mean on the proxy", "signal", 0.06, 3.2),
    ]


def make_search(num_trials, describe, everything_failed, rng, costs):
    trials = []
    for number in range(num_trials):
        failed = everything_failed or number % 9 == 4
        loss = float(0.4 + 0.6 * rng.random() / (1 + number / 10))
        signals = {"val_loss": loss, "val_accuracy": 1 - loss / 2, "num_params": 45_130.0}
        trials.append(
            {"trial": number, "score": None if failed else -loss,
             "architecture_id": f"{number:012x}", "description": describe(number),
             "signals": {} if failed else signals, "seconds": float(2 + rng.random()),
             "reason": "the loss is not finite at step 31" if failed else ""}
        )  # fmt: skip
        add_objectives(trials[-1], costs, number)
    best = sorted((t for t in trials if t["score"] is not None), key=lambda t: -t["score"])
    counts = {"num_failed": len(trials) - len(best), "num_duplicates": 3, "num_infeasible": 0}
    front = pareto_front(best)
    counts["knee"] = knee(front)["trial"] if front else None
    return {
        "signals": ["val_loss"], "trials": trials, "best": best[:10], "pareto_front": front,
        **counts,
    }  # fmt: skip


def add_objectives(trial, costs, number):
    """Trials that score higher tend to cost more."""
    seconds = 0.001 * 1.5 ** (number % 10)
    amounts = {"num_params": 1e4 * 2 ** (number % 10), "flops": 3e6 * number, "latency": seconds}
    trial["objectives"] = {}
    if trial["score"] is not None:
        trial["objectives"] = {"score": trial["score"], **{name: amounts[name] for name in costs}}
    trial["latency"] = None
    if "latency" in costs:
        found = Latency(seconds, 0.9 * seconds, 1.3 * seconds, 50, 1, 1, "AMD EPYC (2 cores)")
        trial["latency"] = found.to_json()


class Page(HTMLParser):
    """What is on a page; parsing it checks that every element is closed where it should be."""

    VOID = ("meta", "img", "br", "wbr", "link", "input", "hr")

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.addresses, self.images, self._text = [], [], [], [], []
        self.ids = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = dict(attrs)
        self.addresses += [named[key] for key in ("src", "href", "srcset") if key in named]
        self.ids += [named["id"]] if "id" in named else []
        if tag == "img":
            assert named["alt"]
            self.images.append(named["src"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th", "dt", "dd"):
            self._text.append(" ")

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self._text.append(data)
