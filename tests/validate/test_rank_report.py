import json
import math

import numpy as np
import pytest
from scipy import stats

from nas_proxy.types import Architecture
from nas_proxy.validate.rank_report import judge
from nas_proxy.validate.settings import RepeatedReference, ValidateSettings
from nas_proxy.validate.values import Ranking, Sample

N = 60
ARCHITECTURES = [Architecture("s", number) for number in range(N)]
RNG = np.random.default_rng(0)
TRUTH = dict(zip(ARCHITECTURES, RNG.normal(0.9, 0.03, N).tolist(), strict=True))


def noisy(noise, seed=0, among=None):
    """Scores that follow the reference, with noise in units of its deviation."""
    rng = np.random.default_rng([7, seed])
    scores = {a: value + 0.03 * noise * rng.normal() for a, value in TRUTH.items()}
    return {a: scores[a] for a in (among if among is not None else TRUTH)}


def ranking(scores, name="the proxy", kind="proxy", **more):
    return Ranking(name, kind, scores, 2.0, **more)


def control(scores, name="flops", **more):
    return ranking(scores, name, "control", **more)


def report(*rankings, drawn=ARCHITECTURES, reference=TRUTH, **settings):
    settings = {"num_architectures": N, **settings}
    return judge(
        rankings[0],
        rankings[1:],
        Sample(drawn, reference),
        ValidateSettings(reference=RepeatedReference(table="t.csv"), **settings),
        reference_name="test accuracy",
        reference_seconds=80.0,
    )


def rho(scores, architectures, reference=TRUTH):
    shared = [a for a in architectures if a in scores and a in reference]
    return stats.spearmanr([scores[a] for a in shared], [reference[a] for a in shared]).statistic


# --- the figures ------------------------------------------------------------------------------


def test_figures_of_a_row():
    scores = noisy(0.8)
    row = report(ranking(scores)).judged
    values = [scores[a] for a in ARCHITECTURES]
    truth = [TRUTH[a] for a in ARCHITECTURES]
    assert (row.n, row.num_failed, dict(row.failures)) == (N, 0, {})
    assert row.spearman.value == pytest.approx(rho(scores, ARCHITECTURES))
    assert row.kendall.value == pytest.approx(stats.kendalltau(values, truth).statistic)
    picked = sorted(ARCHITECTURES, key=scores.get)[-5:]
    best = sorted(ARCHITECTURES, key=TRUTH.get)[-5:]
    assert row.precision_at_k.value == pytest.approx(len(set(picked) & set(best)) / 5)
    assert row.regret_at_k.value == pytest.approx(max(truth) - max(TRUTH[a] for a in picked))
    for figure in (row.spearman, row.kendall):
        assert figure.low < figure.value < figure.high
    assert row.difference is None


def test_names_costs_and_sizes_are_handed_on():
    made = report(
        ranking(noisy(0.5), one_off_seconds=400.0),
        control(noisy(0.9, 1)),
        k=7,
        best_fraction=0.3,
    )
    assert [(row.name, row.kind) for row in made.all_rows] == [
        ("the proxy", "proxy"),
        ("flops", "control"),
    ]
    assert [row.seconds_per_architecture for row in made.all_rows] == [2.0, 2.0]
    assert [row.one_off_seconds for row in made.all_rows] == [400.0, 0.0]
    assert made.num_architectures == N
    assert (made.k, made.best_fraction) == (7, 0.3)
    assert made.reference_name == "test accuracy"
    assert made.reference_seconds_per_architecture == 80.0


def test_failed_evaluations_are_counted_and_have_no_value():
    scores = noisy(0.5)
    lost = ARCHITECTURES[3:10]
    kept = {a: score for a, score in scores.items() if a not in lost}
    failures = {"diverged": 4, "no memory": 3}
    row = report(ranking(kept, failures=failures)).judged
    assert (row.n, row.num_failed, dict(row.failures)) == (N - 7, 7, failures)
    rest = [a for a in ARCHITECTURES if a not in lost]
    assert row.spearman.value == pytest.approx(rho(scores, rest))
    # As good as never drawn: no rank was made up for them.
    small = report(ranking(kept), drawn=rest).judged
    assert (row.spearman, row.kendall, row.regret_at_k) == (
        small.spearman, small.kendall, small.regret_at_k,
    )  # fmt: skip


def test_architectures_whose_reference_failed_are_left_out():
    reference = {a: value for a, value in TRUTH.items() if a not in ARCHITECTURES[:11]}
    made = report(ranking(noisy(0.5)), control(noisy(0.9, 1)), reference=reference)
    assert [row.n for row in made.all_rows] == [N - 11] * 2
    assert made.rows[0].n_difference == N - 11
    assert made.judged.spearman.value == pytest.approx(rho(noisy(0.5), ARCHITECTURES[11:]))


# --- the best part ----------------------------------------------------------------------------


def best_part(fraction):
    """Written out."""
    return sorted(ARCHITECTURES, key=lambda a: -TRUTH[a])[: round(fraction * N)]


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_best_part_is_that_of_the_reference(fraction):
    scores = noisy(0.5)
    row = report(ranking(scores), best_fraction=fraction).judged
    best = best_part(fraction)
    assert row.n_best == len(best)
    assert row.spearman_best.value == pytest.approx(rho(scores, best))
    kendall = stats.kendalltau([scores[a] for a in best], [TRUTH[a] for a in best]).statistic
    assert row.kendall_best.value == pytest.approx(kendall)


def test_best_part_is_chosen_by_the_reference_whatever_the_ranking_lacks():
    scores = noisy(0.5)
    missing = best_part(0.2)[0]
    kept = {a: score for a, score in scores.items() if a != missing}
    row = report(ranking(kept)).judged
    assert row.n_best == round(0.2 * N) - 1
    rest = [a for a in best_part(0.2) if a != missing]
    assert row.spearman_best.value == pytest.approx(rho(scores, rest))


def test_architectures_tied_with_the_worst_of_the_best_are_in():
    reference = {a: float(number >= 30) for number, a in enumerate(ARCHITECTURES)}
    row = report(ranking(noisy(0.5)), reference=reference).judged
    assert row.n_best == 30


# --- comparing --------------------------------------------------------------------------------


def test_clear_win():
    made = report(ranking(noisy(0.3)), control(noisy(50, 1)))
    (sentence,) = made.comparisons
    assert sentence.startswith("The proxy ranks better than flops (difference ")
    assert f"n = {N}" in sentence
    assert made.rows[0].difference.low > 0
    assert ". It ranks better than flops." in made.verdict
    assert f"at n = {N}" in made.verdict
    assert str(made.judged.spearman) in made.verdict


def test_clear_loss():
    made = report(ranking(noisy(50, 2)), control(noisy(0.3, 1)))
    (sentence,) = made.comparisons
    assert sentence.startswith("The proxy ranks worse than flops (difference -")
    assert made.rows[0].difference.high < 0
    assert ". It ranks worse than flops." in made.verdict
    assert "not shown to be better than chance" in made.verdict


def test_undecided():
    made = report(ranking(noisy(1, 1)), control(noisy(1, 3)))
    (sentence,) = made.comparisons
    difference = made.rows[0].difference
    assert difference.low < 0 < difference.high
    assert sentence.startswith(
        f"The proxy cannot be told apart from flops (difference {difference}"
    )
    even, likely = sentence.split("about ")[1].split(" architectures")[0].split(" to ")
    assert N < int(even.replace(",", "")) < int(likely.replace(",", ""))
    assert ". It cannot be told apart from flops. About " in made.verdict


def test_verdict_sorts_the_controls_and_leaves_out_single_signals():
    made = report(
        ranking(noisy(1, 1)),
        control(noisy(50, 1), "num_params"),
        control(noisy(1, 3), "flops"),
        control(noisy(0.05, 3), "the same steps on the full data"),
        control(noisy(60, 4), "naswot"),
        ranking(noisy(70, 5), "val_accuracy on the proxy", "signal"),
    )
    found = made.verdict.split(". It ")[1].split(". ")[0].split("; ")
    assert found == [
        "ranks better than num_params, naswot",
        "ranks worse than the same steps on the full data",
        "cannot be told apart from flops",
    ]
    assert len(made.comparisons) == 4
    assert not any("val_accuracy" in sentence for sentence in made.comparisons)
    assert made.rows[-1].difference.low > 0  # known, though not part of the verdict


def test_difference_is_over_the_architectures_that_both_ranked():
    proxy = noisy(0.5, 0, ARCHITECTURES[:50])
    other = noisy(0.9, 1, ARCHITECTURES[20:])
    made = report(ranking(proxy), control(other))
    row = made.rows[0]
    shared = ARCHITECTURES[20:50]
    assert (made.judged.n, row.n, row.n_difference) == (50, 40, 30)
    assert row.difference.value == pytest.approx(rho(proxy, shared) - rho(other, shared))
    assert row.spearman.value == pytest.approx(rho(other, ARCHITECTURES[20:]))
    assert "n = 30" in made.comparisons[0]


def test_difference_is_paired():
    """The interval of a near copy is narrow, though both rank badly."""
    scores = noisy(1.5)
    rng = np.random.default_rng(3)
    copy = {a: score + 1e-4 * rng.normal() for a, score in scores.items()}
    row = report(ranking(scores), control(copy)).rows[0]
    own = row.spearman.high - row.spearman.low
    assert row.difference.high - row.difference.low < own / 5


@pytest.mark.parametrize("scores", [{}, dict.fromkeys(ARCHITECTURES, 1.0)], ids=["none", "equal"])
def test_control_that_ranks_nothing(scores):
    made = report(ranking(noisy(0.3)), control(scores), control(noisy(50, 1), "naswot"))
    assert made.rows[0].difference is None
    assert made.comparisons[0].startswith("The proxy cannot be compared with flops: ")
    assert "missing or all the same" in made.comparisons[0]
    assert "flops" not in made.verdict
    assert "better than naswot" in made.verdict


@pytest.mark.parametrize(
    ("scores", "bounds", "words"),
    [
        (noisy(0.1), (0.7, 1), "can be trusted"),
        (noisy(1), (0.4, 0.7), "roughly"),
        (noisy(2, 1), (0, 0.4), "weak"),
        (noisy(50, 2), (-1, 0), "is not shown to be better than chance"),
    ],
)
def test_reading_goes_by_the_lower_end_of_the_interval(scores, bounds, words):
    made = report(ranking(scores))
    row = made.judged
    assert bounds[0] < row.spearman.low < bounds[1]
    assert made.verdict.startswith(f"Spearman {row.spearman} at n = {N}: the ranking ")
    assert words in made.verdict


def test_ranking_upside_down_is_said():
    made = report(ranking({a: -value for a, value in TRUTH.items()}))
    assert made.verdict == "Spearman -1.00 [-1.00, -1.00] at n = 60: it ranks backwards."
    assert -1 < made.judged.spearman.high < -0.9


def test_failures_stand_in_the_headline_and_are_ranked_last():
    """A proxy that fails on its 24 best and ranks the others well."""
    scores = noisy(0.3)
    lost = sorted(ARCHITECTURES, key=TRUTH.get)[-24:]
    kept = {a: score for a, score in scores.items() if a not in lost}
    made = report(ranking(kept, failures={"diverged": 24}), control(noisy(0.9, 1)))
    row = made.judged
    assert row.spearman.low > 0.7
    everyone = {**scores, **dict.fromkeys(lost, -1.0)}
    assert row.spearman_failures_last.value == pytest.approx(rho(everyone, ARCHITECTURES))
    assert row.spearman_failures_last.low < 0
    first = made.verdict.split(". It ")[0]
    assert first == (
        f"Spearman {row.spearman} at n = 36: the ranking is not shown to be better than chance, "
        "and 24 of 60 evaluations failed (ranked last they make it "
        f"{row.spearman_failures_last})"
    )
    assert made.rows[0].spearman_failures_last is None


@pytest.mark.exhaustive
def test_several_equal_controls_are_hardly_ever_called_beaten():
    """Any of six; more cases: `benchmarks/interval_coverage.py`."""
    rng, called, alone = np.random.default_rng(4), 0, 0
    for _ in range(40):
        columns = [{a: value + 0.03 * rng.normal() for a, value in TRUTH.items()} for _ in range(7)]
        made = report(
            ranking(columns[0]), *(control(c, f"c{i}") for i, c in enumerate(columns[1:]))
        )
        called += any(row.outcome == "better" for row in made.rows)
        alone += any(row.difference.low > 0 for row in made.rows)
    assert called <= 5
    assert called < alone


def test_an_interval_above_zero_may_not_suffice_among_many():
    good, others = noisy(0.6), [noisy(1.0, seed) for seed in range(1, 9)]
    alone = [report(ranking(good), control(other)).rows[0] for other in others]
    border = min((row.difference.low, index) for index, row in enumerate(alone)
                 if row.outcome == "better")[1]  # fmt: skip
    equals = [control(noisy(0.6, seed), f"equal {seed}") for seed in range(20, 40)]
    made = report(ranking(good), control(others[border], "flops"), *equals)
    assert made.rows[0].difference == alone[border].difference
    assert made.rows[0].outcome == "open"
    assert "but not one among so many controls" in made.comparisons[0]


# --- where little is known --------------------------------------------------------------------


@pytest.mark.parametrize("num_known", [5, 4, 3])
def test_k_of_all_says_nothing(num_known):
    made = report(ranking(noisy(0.5, 0, ARCHITECTURES[:num_known])), k=5)
    row = made.judged
    assert row.precision_at_k is None
    assert row.regret_at_k is None
    assert row.spearman is not None


def test_k_of_one_more_says_something():
    row = report(ranking(noisy(0.5, 0, ARCHITECTURES[:6])), k=5).judged
    assert row.precision_at_k.value in (0.8, 1.0)
    assert row.regret_at_k.value >= 0


@pytest.mark.parametrize(
    ("scores", "reference"),
    [({}, TRUTH), (noisy(0.5, 0, ARCHITECTURES[:2]), TRUTH), (noisy(0.5), {}),
     (dict.fromkeys(ARCHITECTURES, 0.5), TRUTH)],
    ids=["no scores", "two scores", "no reference", "all the same"],
)  # fmt: skip
def test_report_of_nothing_is_a_report(scores, reference):
    made = report(
        ranking(scores, failures={"diverged": 58}),
        control(scores),
        reference=reference,
    )
    row = json.loads(json.dumps(made.to_json(), allow_nan=False))["judged"]
    for name in ("spearman", "kendall", "spearman_best", "kendall_best", "difference"):
        assert row[name] is None
    assert row["num_failed"] == 58
    assert made.verdict.startswith("The proxy ranks nothing: fewer than 3 ")
    assert "cannot be compared" in made.comparisons[0]


def test_json_holds_every_figure():
    made = report(ranking(noisy(0.5), failures={"diverged": 1}), control(noisy(1, 1)))
    value = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert value["verdict"] == made.verdict
    assert value["comparisons"] == list(made.comparisons)
    for row, plain in zip(made.all_rows, [value["judged"], *value["rows"]], strict=True):
        assert plain["n"] == row.n
        assert plain["spearman"] == {
            "value": row.spearman.value, "low": row.spearman.low, "high": row.spearman.high,
        }  # fmt: skip
        assert not any(isinstance(v, float) and math.isnan(v) for v in plain.values())
    assert value["judged"]["failures"] == {"diverged": 1}
    assert value["rows"][0]["difference"]["value"] == made.rows[0].difference.value


def test_the_same_generator_gives_the_same_report():
    rankings = ranking(noisy(0.5)), control(noisy(1, 1))
    assert report(*rankings).to_json() == report(*rankings).to_json()


def test_a_reference_that_tells_nothing_apart_is_named_as_the_reason():
    made = report(ranking(noisy(0.5)), reference=dict.fromkeys(ARCHITECTURES, 1.0))
    assert made.verdict.startswith("No ranking can be judged here: the reference gives all ")
    assert "the same, 1, so there is no order" in made.verdict
