"""Reports as a validation leaves them, and pages taken apart."""

import itertools
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import yaml

from nas_proxy.data.proxy_dataset import Labelling, LearningRateRule
from nas_proxy.data.proxy_summary import ProxySummary
from nas_proxy.evaluate.latency import Latency
from nas_proxy.report.values import Cost, DataSummary, Environment, StudyReport
from nas_proxy.search.pareto import knee, pareto_front
from nas_proxy.search.result import SearchResult, TrialRow
from nas_proxy.types import Architecture, DatasetSpec
from nas_proxy.validate.rank_report import judge, points_of
from nas_proxy.validate.settings import RepeatedReference, ValidateSettings
from nas_proxy.validate.values import Ranking, Sample

PROXY = "the proxy (val_loss)"
CEILING = "the reference with another seed"


CONFIG = """
seed: 0
data: {name: digits, root: null, image_size: null}
distill: {name: distribution_matching, images_per_class: 10, num_steps: 200}
space: {name: convnet, widths: [32, 64]}
train: {num_steps: 100, num_epochs: null, batch_size: 64, learning_rate: 0.02, nesterov: true}
score: {signals: [val_loss], combine: single, num_reference: 32}
search: {n_trials: 12, sampler: tpe, constraints: {num_params: null}, executor: processes}
"""
HARDWARE = "AMD EPYC 9B45 (2 cores)"
DATA = DataSummary(
    name="digits",
    licence="CC BY 4.0 (UCI optical recognition of handwritten digits)",
    classes=tuple("0123456789"),
    image_shape=(1, 8, 8),
    search_train=1078,
    search_val=359,
    test=360,
    source_hash="82c95e54fd24b1aa",
)
PROXY_DATASET = ProxySummary(
    id="9a0d33c1f2b84a7e",
    images="100 of shape (1, 8, 8), hard labels",
    spec=DatasetSpec(
        DATA.name, DATA.classes, DATA.image_shape, (0.3,), (0.4,), DATA.licence, DATA.source_hash
    ),
    method="distribution_matching",
    parameters={"num_steps": 200, "network_width": 64, "real_batch_size": 64},
    images_per_class=10,
    seed=12345,
    augmentation={"crop": 0.0, "dsa": "color_crop_cutout_scale_rotate", "flip": False},
    learning_rate_rule=LearningRateRule(),
    labelling=Labelling(),
    networks=(),
    decode_factor=1,
    batchnorm_policy="running",
    zca=None,
    costs={"distilling": 401.0},
    cost_seconds=401.0,
    peak_memory_mib=100.0,
    hardware=HARDWARE,
    versions={"torch": "2.9.1"},
)
COSTS = (
    Cost("distilling (distribution_matching)", 1, 401.0, "AMD EPYC 9B45"),
    Cost("search: training candidates on the proxy data set", 30, 96.4),
    Cost("score: its reference sample", 1, 0.0),
    Cost("validation: num_params", 48, 0.19),
)
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
    num_architectures=48,
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
    rng = np.random.default_rng(0)
    architectures = [Architecture("convnet", n) for n in range(num_architectures)]
    truth = 0.93 - 0.3 * rng.beta(1.2, 4, len(architectures))
    reference = dict(zip(architectures, truth.tolist(), strict=True))
    judged, others = make_rankings(controls, {} if everything_failed else reference, rng)
    if uncertain:
        deviations = dict.fromkeys(judged.scores, 0.035)
        judged = replace(judged, predictions=judged.scores, deviations=deviations)
    if ceiling:
        again = {a: value + 0.01 * rng.normal() for a, value in reference.items()}
        others.append(Ranking(CEILING, "ceiling", again, reference_seconds))
    sizes = {
        "parameters": {a: value + 0.09 * rng.normal() for a, value in reference.items()},
        "FLOPs": {a: value + 0.09 * rng.normal() for a, value in reference.items()},
    }
    sample = Sample(architectures, reference, sizes)
    validation = judge(
        judged,
        others,
        sample,
        ValidateSettings(reference=RepeatedReference(table="t.csv")),
        reference_name="test accuracy after full-data training (400 steps)",
        reference_seconds=reference_seconds,
    )
    return StudyReport(
        study_name="quickstart",
        verdict=validation.verdict if validated else "The ranking was not judged.",
        config=yaml.safe_load(CONFIG),
        commands=("nas-proxy run results/quickstart/config.yaml",),
        created="2026-01-01T00:00:00+00:00",
        environment=Environment(
            HARDWARE, {"python": "3.12.3", "nas-proxy": "0.1.0", "torch": "2.9.1"}
        ),
        data=DATA,
        proxy_dataset=PROXY_DATASET,
        search=make_search(num_trials, describe, everything_failed, rng, costs),
        validation=validation if validated else None,
        points=points_of(_Described(describe), sample, judged, others).points if validated else (),
        costs=COSTS,
    )


class _Described:
    """A space whose architectures are numbers."""

    def __init__(self, words):
        self._words = words

    def describe(self, architecture):
        return self._words(architecture.genotype)


def with_search(report, **changes):
    """The same report with another search."""
    return replace(report, search=replace(report.search, **changes))


def with_validation(report, **changes):
    """The same report with another validation."""
    return replace(report, validation=replace(report.validation, **changes))


def make_rankings(controls, reference, rng):
    def ranking(name, kind, noise, seconds, one_off=0.0):
        scores = {a: value + noise * rng.normal() for a, value in reference.items()}
        return Ranking(name, kind, scores, seconds, one_off)

    like = itertools.cycle(CONTROLS.values())
    return ranking(PROXY, "proxy", 0.035, 3.2, 421.0), [
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
        architecture = Architecture("convnet", number)
        objectives = {} if failed else objectives_of(-loss, costs, number)
        trials.append(
            TrialRow(
                trial=number,
                score=None if failed else -loss,
                objectives=objectives,
                latency=latency_of(number) if "latency" in costs else None,
                architecture=architecture,
                architecture_id=architecture.id,
                description=describe(number),
                signals={} if failed else signals,
                seconds=float(2 + rng.random()),
                reason="the loss is not finite at step 31" if failed else "",
            )
        )
    best = sorted((t for t in trials if t.score is not None), key=lambda t: -t.score)
    front = pareto_front(best)
    return SearchResult(
        recipe="configured",
        recipe_settings={},
        knowledge_distillation=None,
        signals=("val_loss",),
        trials=tuple(trials),
        best=tuple(best[:10]),
        best_training=None,
        pareto_front=tuple(front),
        knee=knee(front).trial if front else None,
        num_failed=len(trials) - len(best),
        num_duplicates=3,
        num_infeasible=0,
    )


def objectives_of(score, costs, number):
    """Trials that score higher tend to cost more."""
    amounts = {
        "num_params": 1e4 * 2 ** (number % 10),
        "flops": 3e6 * number,
        "latency": latency_of(number).median_seconds,
    }
    return {"score": score, **{name: amounts[name] for name in costs}}


def latency_of(number):
    seconds = 0.001 * 1.5 ** (number % 10)
    return Latency(seconds, 0.9 * seconds, 1.3 * seconds, 50, 1, 1, "AMD EPYC (2 cores)")


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
