"""Somebody's own figures, in whatever form they are, make the report of a validation."""

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nas_proxy as nas

NAMES = [f"net{number}" for number in range(24)]
RNG = np.random.default_rng(0)
REFERENCE = RNG.permutation(24) + 70.0
SCORE = REFERENCE + RNG.normal(0, 3, 24)
PARAMS = RNG.normal(0, 1, 24)


def figures(report):
    return {row.name: row.figures for row in report.all_rows}


@pytest.mark.parametrize(
    "form",
    [
        list,
        np.array,
        torch.tensor,
        lambda values: dict(zip(NAMES, values, strict=True)),
        lambda values: pd.Series(values, index=NAMES),
    ],
    ids=["list", "array", "tensor", "mapping", "series"],
)
def test_every_form_gives_the_same_figures(form):
    report = nas.rank_report(form(SCORE), form(REFERENCE), controls={"params": form(PARAMS)})
    rho = scipy.stats.spearmanr(SCORE, REFERENCE).statistic
    assert report.judged.spearman.value == pytest.approx(rho)
    assert report.judged.spearman.low < rho < report.judged.spearman.high
    assert report.judged.n == report.num_architectures == 24
    (control,) = report.rows
    assert (control.name, control.outcome) == ("params", "better")
    best = np.argsort(-REFERENCE)[:5]
    within = scipy.stats.spearmanr(SCORE[best], REFERENCE[best]).statistic
    assert report.judged.spearman_best.value == pytest.approx(within)
    pick = REFERENCE.max() - REFERENCE[SCORE.argmax()]
    assert report.judged.regret_at_1.value == pytest.approx(pick)


def test_a_table_is_its_first_column_against_one_of_them():
    frame = pd.DataFrame({"score": SCORE, "params": PARAMS, "accuracy": REFERENCE}, index=NAMES)
    report = nas.rank_report(frame, "accuracy")
    assert report.reference_name == "accuracy"
    assert [row.name for row in report.all_rows] == ["score", "params"]
    alone = nas.rank_report(SCORE, REFERENCE, controls={"params": PARAMS}, name="score")
    assert figures(report) == figures(alone)
    assert "accuracy" in report._repr_html_()


@settings(max_examples=8)
@given(st.permutations(range(24)))
def test_the_order_of_the_architectures_is_of_no_account(order):
    scores = np.round(SCORE / 8)  # with ties at the top, which the order might decide
    one, other = (
        nas.rank_report(
            {NAMES[place]: scores[place] for place in places},
            {NAMES[place]: REFERENCE[place] for place in places},
        )
        for places in (range(24), order)
    )
    assert one == other


def test_failures_and_missing_references_are_counted_and_said():
    scores = dict(zip(NAMES, SCORE, strict=True)) | {"net3": float("nan"), "net4": None}
    references = dict(zip(NAMES, REFERENCE, strict=True))
    del scores["net5"], references["net6"]
    report = nas.rank_report(scores, references)
    assert (report.judged.n, report.judged.num_failed, report.num_architectures) == (20, 3, 23)
    assert "3 of 23 evaluations failed (ranked last they make it" in report.verdict
    assert "1 of 24 architectures have no value of the reference" in report.verdict


def test_few_have_no_interval():
    report = nas.rank_report([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    assert "1.00 (no interval) at n = 6" in report.verdict
    assert "not shown to be better than chance" in report.verdict


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (([1, 2, 3], [1, 2, 3, 4]), "the score has 3 figures and the references have 4"),
        (([1, 2, float("inf")], [1, 2, 3]), "infinite value; give NaN"),
        ((["a", 2, 3], [1, 2, 3]), "must hold numbers alone, got 'a'"),
        (({"a": 1, "b": 2}, {"c": 1, "d": 2}), "no architecture in common"),
        (([1, 2], [1, 2]), r"2 architecture\(s\) have a reference"),
        (([[1, 2], [3, 4], [5, 6]], [1, 2, 3]), "one figure for each architecture"),
        ((3, [1, 2, 3]), "must be figures, or a mapping"),
        (({1.0, 2.0, 3.0}, [1, 2, 3]), "a set, whose figures have no order"),
        ((pd.DataFrame({"a": [1, 2, 3]}), "b"), "there is no column 'b'"),
        ((pd.DataFrame({"a": [1, 2, 3]}), "a"), "no column beside the references"),
        ((pd.Series([1, 2, 3], index=["x", "x", "y"]), [1, 2, 3]), "'x' is named twice"),
    ],
)
def test_what_is_no_figure_is_refused(given, sentence):
    with pytest.raises(nas.UserError, match=sentence):
        nas.rank_report(*given)


@pytest.mark.parametrize(
    ("controls", "sentence"),
    [
        ([[1, 2, 3]], "controls must be a mapping from names to figures, got list"),
        ({"the score": [1, 2, 3]}, "'the score' is the name of the score and of a control"),
    ],
)
def test_controls_have_names_of_their_own(controls, sentence):
    with pytest.raises(nas.UserError, match=sentence):
        nas.rank_report([1, 2, 3], [1, 2, 3], controls=controls)


def test_a_tensor_that_is_trained_through_is_a_list_of_figures():
    scores = torch.tensor(SCORE, requires_grad=True)
    assert nas.rank_report(scores, REFERENCE).judged == nas.rank_report(SCORE, REFERENCE).judged


def test_options_are_checked():
    with pytest.raises(nas.ConfigError, match="best_fraction"):
        nas.rank_report([1, 2, 3], [1, 2, 3], best_fraction=2.0)
