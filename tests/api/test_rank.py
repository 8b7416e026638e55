"""Architectures are ranked without a study as a study's recipe would rank them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

import nas_proxy as nas
from nas_proxy.errors import EvaluationError
from nas_proxy.evaluate.log import read_evaluations
from nas_proxy.types import DatasetSpec
from tests.helpers.display import Quiet

SPACE = nas.search_space("convnet", options={"widths": [8, 16], "depths": [1, 2]})
SPEC = DatasetSpec("pets", ("cat", "dog"), (1, 8, 8), (0.5,), (0.5,), "", "")
TRAIN = {"num_steps": 2, "batch_size": 8, "learning_rate": 0.02}
QUIET = Quiet()


@dataclass(frozen=True, kw_only=True)
class Shallow(nas.ZeroCostScore):
    """Few layers are good; of more than a few nothing can be said."""

    name = "shallow"
    higher_is_better = False

    def measure(self, network, images):
        num_layers = len(list(network.modules()))
        if num_layers > 9:
            raise EvaluationError("too deep to tell")
        return float(num_layers)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def pets():
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    return nas.arrays(images, ["cat", "dog"] * 20)


def rank(data, space=SPACE, **options):
    return nas.rank(space, data, **{"display": QUIET, **options})


def without_seconds(table):
    return table.drop(columns="seconds")


def test_the_best_stands_first_and_a_row_gives_its_network_back(pets):
    table = rank(pets, by="num_params", architectures=5)
    assert table.index.tolist() == [1, 2, 3, 4, 5]
    assert table["score"].is_monotonic_decreasing
    for row in table.itertuples():
        architecture = nas.Architecture(SPACE.name, row.genotype)
        weights = SPACE.build(architecture, SPEC).parameters()
        assert row.score == row.num_params == sum(each.numel() for each in weights)
        assert (row.architecture, row.reason) == (SPACE.describe(architecture), "")
        assert row.architecture_id == architecture.id


def test_several_scores_are_the_mean_of_ranks_in_the_table(pets):
    table = rank(pets, by=["num_params", "num_layers"], architectures=6)
    ranks = table[["num_params", "num_layers"]].rank(method="average")
    expected = ranks.mean(axis=1)
    assert expected.is_monotonic_decreasing
    assert np.corrcoef(expected, table["score"])[0, 1] == pytest.approx(1)


def test_what_failed_stands_last_with_a_reason_and_is_said(pets):
    quiet = Quiet()
    table = rank(pets, by=Shallow, architectures=12, display=quiet)
    failed = table["score"].isna()
    assert failed.any()
    assert not failed.all()
    assert failed.is_monotonic_increasing
    assert table.loc[failed, "reason"].str.contains("too deep to tell").all()
    assert (table.loc[~failed, "reason"] == "").all()
    signal = table.columns[-1]
    assert signal.endswith(":Shallow")
    assert table.loc[~failed, signal].is_monotonic_increasing  # fewer are better
    assert f"{failed.sum()} of 12 evaluations failed" in quiet.said[-1]


def test_a_killed_call_goes_on_and_more_begin_with_the_fewer(pets, tmp_path):
    class Killing(Quiet):
        def progress(self, title):
            return Killed() if title.startswith("ranking") else super().progress(title)

    class Killed:
        def __enter__(self):
            return self.show

        def __exit__(self, *_):
            return None

        def show(self, done, total, note=""):
            if done == 2:
                raise KeyboardInterrupt

    undisturbed = rank(pets, architectures=5, results=tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        rank(pets, architectures=5, display=Killing())
    (log,) = (tmp_path / "results").rglob("ranked_*.jsonl")
    assert len(read_evaluations(log)) == 2
    pd.testing.assert_frame_equal(
        without_seconds(rank(pets, architectures=5)), without_seconds(undisturbed)
    )
    before = log.read_bytes()
    more = rank(pets, architectures=7)
    assert log.read_bytes().startswith(before)
    assert set(undisturbed["architecture_id"]) < set(more["architecture_id"])


@pytest.mark.exhaustive
def test_a_short_training_is_on_all_images_or_on_a_distilled_set(pets):
    on_all = rank(pets, by="train_loss_mean", train=TRAIN, architectures=2)
    small = nas.distill(pets, "random_subset", images_per_class=4, display=QUIET)
    on_small = rank(pets, by="train_loss_mean", train=TRAIN, architectures=2, proxy_dataset=small)
    assert set(on_all["architecture_id"]) == set(on_small["architecture_id"])
    assert set(on_all["train_loss_mean"]).isdisjoint(on_small["train_loss_mean"])
    assert (on_all["score"] == -on_all["train_loss_mean"]).all()


@pytest.mark.exhaustive
def test_it_is_the_score_that_a_study_by_that_recipe_has(pets, tmp_path):
    recipe = {"name": "mine", "train_on": "full_data", "score": {"signals": ["val_loss"]}}
    study = nas.Study(
        "searched",
        data=pets,
        space=SPACE,
        train=TRAIN,
        recipe=recipe,
        search={"n_trials": 2, "sampler": "random"},
        tracking={"enabled": False},
    )
    trials = study.run(last="search", display=QUIET).trials
    logged = read_evaluations(study.config.layout.trials)
    found = [evaluation.architecture for evaluation in logged]
    table = rank(pets, by=recipe, train=TRAIN, architectures=found)
    assert table["score"].tolist() == sorted(trials["score"], reverse=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"by": "naswott"}, "no recipe 'naswott'; did you mean 'naswot_alone'"),
        ({"by": 3}, "by: expected the name of a score.*got int"),
        ({"by": "trusted"}, r"use Study\(\.\.\., recipe='trusted'\)"),
        ({"by": ["naswot", "naswot"]}, "names one of them twice"),
        ({"by": "stream_90_calibrated"}, "needs architectures whose full training is known"),
        ({"by": "distilled_360_alone"}, "looks at a distilled set; give proxy_dataset"),
        ({"proxy_dataset": "no.safetensors"}, "no.safetensors does not exist"),
        ({"architectures": 3}, "4 are the fewest, got 3"),
        ({"architectures": 0}, "at least 1"),
        ({"architectures": []}, "there are none"),
        ({"architectures": 9000}, "only 180 could be drawn from the space 'convnet'; ask"),
        ({"architectures": ["x"]}, "'x' is no ConvNet"),
        ({"architectures": [3]}, "got int among them"),
        ({"architectures": [nas.Architecture("other", 3)]}, "of the space 'other'"),
        ({"architectures": [nas.Architecture("convnet", 3)] * 2}, "is there twice"),
        ({"train": {"num_step": 3}}, "train.num_step: unknown key; did you mean 'num_steps'"),
        ({"num_workers": 0}, "num_workers"),
        ({"bye": "naswot"}, "there is no 'bye'; did you mean 'by'"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_evaluated(pets, tmp_path, options, sentence):
    with pytest.raises(nas.UserError, match=sentence):
        rank(pets, **options)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_what_a_recipe_does_not_use_is_said(pets):
    quiet = Quiet()
    small = nas.distill(pets, "random_subset", images_per_class=4, display=QUIET)
    with pytest.raises(nas.ConfigError, match="zero_cost does not look at proxy_dataset"):
        rank(pets, proxy_dataset=small)
    rank(pets, by="num_params_alone", train=TRAIN, architectures=1, display=quiet)
    assert not [line for line in quiet.said if line.startswith("distill")]
