"""Evaluations in stages: where they end, what they cost, what failed."""

import json
from dataclasses import dataclass, field, replace

import pytest

from nas_proxy.evaluate.cascade import CascadeEvaluator, CascadeFactory, cost_until, in_stages
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.reproducibility import canonical_json
from nas_proxy.scores.flops import Flops
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status
from tests.evaluate.helpers_fakes import ARCHITECTURE, FakeScore, evaluator
from tests.scores.test_cascade import SCORE, cascade

FIDELITY = Fidelity("d", 5, 1, 8)


@dataclass
class Stage:
    """Answers what it is told to, and counts."""

    signals: dict
    reason: str = ""
    asked: list = field(default_factory=list)

    def evaluate(self, architecture, seed):
        self.asked.append(architecture)
        status = Status.FAILED if self.reason else Status.COMPLETE
        found = {} if self.reason else self.signals
        free = {name: 0.1 for name in found if name.startswith("num_")}
        return Evaluation(
            architecture, FIDELITY, seed, status, found, reason=self.reason,
            signal_seconds=free or {"training": 2.0}, seconds=2.0, core_seconds=1.0,
            train_losses=() if free else (float(len(found)),), build_seconds=0.5,
        )  # fmt: skip


def stages(first, *, reason=""):
    return (
        Stage({"num_params": first}),
        Stage({"val_accuracy": 9.0, "train_seconds": 1.0}, reason),
        Stage({"val_loss": -9.0}),
    )


def evaluate(first, *, score=SCORE, **changes):
    parts = stages(first, **changes)
    found = CascadeEvaluator(parts, FIDELITY, score).evaluate(Architecture("s", 1), 7)
    return found, [len(part.asked) for part in parts]


def test_it_ends_where_it_does_not_go_on():
    least = SCORE.cuts[1].score
    ended, asked = evaluate(least - 1e-9)
    assert asked == [1, 0, 0]
    assert ended.complete
    assert ended.num_stages == 1
    assert ended.signals == {"num_params": least - 1e-9}
    assert ended.train_losses == ()
    whole, asked = evaluate(least)
    assert asked == [1, 1, 1]
    assert whole.stage_seconds == (2.0, 2.0, 2.0)
    assert whole.stage_core_seconds == (1.0, 1.0, 1.0)
    assert whole.signals == {
        "num_params": least, "stage_2.val_accuracy": 9.0, "stage_2.train_seconds": 1.0,
        "stage_3.val_loss": -9.0,
    }  # fmt: skip
    assert set(whole.signal_seconds) == {"num_params", "stage_2.training", "stage_3.training"}
    assert whole.train_losses == (1.0,)  # of the last training
    assert SCORE.place(ended).num_stages == 1
    assert SCORE.place(whole).num_stages == 3


def test_without_a_score_everything_goes_through_all_stages():
    whole, asked = evaluate(-1e9, score=None)
    assert asked == [1, 1, 1]
    assert whole.num_stages == 3


def test_a_failure_names_its_stage_and_is_paid():
    failed, asked = evaluate(99.0, reason="training diverged")
    assert asked == [1, 1, 0]
    assert failed.status is Status.FAILED
    assert failed.reason == "in stage 2: training diverged"
    assert failed.signals == {}
    assert failed.stage_seconds == (2.0, 2.0)


def test_it_is_written_and_read_and_older_lines_are_read_too():
    whole, _ = evaluate(99.0)
    whole = replace(whole, fidelity=replace(FIDELITY, cascade=SCORE.id))
    read = Evaluation.from_json(json.loads(canonical_json(whole.to_json())))
    assert read == whole
    plain = Stage({"val_loss": 1.0}).evaluate(Architecture("s", 1), 0)
    line = plain.to_json()
    assert not {"stage_seconds", "stage_core_seconds"} & set(line)
    assert "cascade" not in line["fidelity"]
    assert Evaluation.from_json(line) == plain


def test_the_cost_of_the_first_stages_alone():
    whole, _ = evaluate(99.0)
    first = cost_until(whole, 2)
    assert (first.seconds, first.core_seconds, first.num_stages) == (4.0, 2.0, 2)
    assert first.signals == whole.signals


def test_parts_measured_apart_become_the_same_evaluation():
    parts = [part.evaluate(Architecture("s", 1), 7) for part in stages(99.0)]
    whole, _ = evaluate(99.0)
    merged = in_stages(parts)
    assert replace(merged, seconds=0, core_seconds=0) == replace(whole, seconds=0, core_seconds=0)
    lost = [parts[0], replace(parts[1], status=Status.FAILED, reason="no"), parts[2]]
    assert in_stages(lost).reason == "in stage 2: no"
    assert in_stages(lost).signals == {}


def test_other_cuts_make_another_fidelity():
    from nas_proxy.data.sources import DataSettings
    from nas_proxy.search_spaces.convnet import ConvNetSpace
    from nas_proxy.train.settings import TrainSettings

    part = NetworkEvaluatorFactory(
        data=DataSettings(), space=ConvNetSpace(), scores={}, train_on=None, device="cpu",
        settings=TrainSettings(num_steps=1), fidelity=FIDELITY,
    )  # fmt: skip
    one, same, other = (
        CascadeFactory((part, part), score)
        for score in (SCORE, cascade(), cascade(shares=(None, 0.5, 0.3)))
    )
    assert one == same
    assert one != other
    assert one.fidelity == same.fidelity
    assert one.fidelity != other.fidelity
    assert CascadeFactory((part, part)).fidelity == FIDELITY


@pytest.mark.parametrize("seed", [0, 1])
def test_networks_in_stages_are_measured_as_each_stage_would(seed):
    free, trained = FakeScore(answer=lambda *_: 3.0), evaluator(scores={"flops": Flops()})
    first = evaluator(scores={"fake": free}, trained=False)
    whole = CascadeEvaluator((first, trained), FIDELITY, None).evaluate(ARCHITECTURE, seed)
    alone = trained.evaluate(ARCHITECTURE, seed)
    assert whole.signals["fake"] == 3.0
    assert whole.signals["flops"] == alone.signals["flops"]
    assert whole.signals["stage_2.val_loss"] == alone.signals["val_loss"]
    assert len(free.seen) == 1
    assert whole.seconds >= sum(whole.stage_seconds)
