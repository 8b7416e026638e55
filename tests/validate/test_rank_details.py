"""The figures of a row beyond the whole: slices, the pick, every pair, the uncertainty."""

import json

import numpy as np
import pytest
from scipy import stats

from nas_proxy.errors import ConfigError
from nas_proxy.statistics import ranks
from nas_proxy.study.plain_values import read_options
from nas_proxy.types import Architecture
from nas_proxy.validate.rank_report import judge, points_of
from nas_proxy.validate.settings import MIN_FOR_INTERVAL, RepeatedReference, ValidateSettings
from nas_proxy.validate.values import Points, Ranking, RankReport, Sample

N = 50
DRAWN = [Architecture("s", number) for number in range(N)]
RNG = np.random.default_rng(0)
TRUTH = dict(zip(DRAWN, RNG.normal(90, 3, N).tolist(), strict=True))


def noisy(noise, seed=0):
    rng = np.random.default_rng([7, seed])
    return {a: value + 3 * noise * rng.normal() for a, value in TRUTH.items()}


def report(*rankings, **more):
    return judge(
        rankings[0],
        rankings[1:],
        Sample(DRAWN, TRUTH, **more),
        ValidateSettings(reference=RepeatedReference(table="t.csv"), num_architectures=N),
        reference_name="test accuracy",
        reference_seconds=80.0,
    )


def proxy(scores, **more):
    return Ranking("the proxy", "proxy", scores, 2.0, **more)


def control(scores, name="flops", kind="control"):
    return Ranking(name, kind, scores, 2.0)


def rho(scores, architectures):
    return stats.spearmanr(
        [scores[a] for a in architectures], [TRUTH[a] for a in architectures]
    ).statistic


def test_slices_are_the_best_parts_by_reference():
    scores = noisy(0.5)
    row = report(proxy(scores)).judged
    assert [part.fraction for part in row.slices] == [0.1, 0.2]
    for part, num in zip(row.slices, (5, 10), strict=True):
        border = sorted((TRUTH[a] for a in DRAWN), reverse=True)[num - 1]
        inside = [a for a in DRAWN if TRUTH[a] >= border]
        assert (part.n, part.k) == (len(inside), num)
        assert part.spearman.value == pytest.approx(rho(scores, inside))
        picked = sorted(DRAWN, key=scores.get)[-num:]
        best = sorted(DRAWN, key=TRUTH.get)[-num:]
        assert part.precision.value == pytest.approx(len({*picked} & {*best}) / num)
        assert part.precision.low <= part.precision.value <= part.precision.high
        assert (part.spearman.low is None) == (part.n < MIN_FOR_INTERVAL)
    # The same part under the name that reports have always had.
    assert row.slices[1].n == row.n_best
    assert row.slices[1].spearman.value == row.spearman_best.value


def test_the_pick_and_its_regret():
    scores = noisy(1)
    row = report(proxy(scores)).judged
    lost = max(TRUTH[a] for a in DRAWN) - TRUTH[max(DRAWN, key=scores.get)]
    assert row.regret_at_1.value == pytest.approx(lost)
    assert row.regret_at_1.value >= row.regret_at_k.value >= 0
    perfect = report(proxy(TRUTH)).judged
    assert perfect.regret_at_1.value == 0
    assert perfect.ndcg.value == pytest.approx(1)
    assert row.ndcg.value < 1


def test_every_two_rankings_are_compared_in_pairs():
    rankings = [
        proxy(noisy(0.5)),
        control(noisy(0.8, 1)),
        control({a: s for a, s in noisy(0.8, 2).items() if a not in DRAWN[:8]}, "naswot"),
        control(noisy(9, 3), "val_accuracy on the proxy", "signal"),
    ]
    made = report(*rankings)
    names = [ranking.name for ranking in rankings]
    assert [(d.first, d.second) for d in made.differences] == [
        (names[i], names[j]) for i in range(4) for j in range(i + 1, 4)
    ]
    by_name = {ranking.name: ranking.scores for ranking in rankings}
    for found in made.differences:
        shared = [a for a in DRAWN if a in by_name[found.first] and a in by_name[found.second]]
        expected = rho(by_name[found.first], shared) - rho(by_name[found.second], shared)
        assert found.n == len(shared)
        assert found.spearman.value == pytest.approx(expected)
        told = found.spearman.low > 0 or found.spearman.high < 0
        assert (found.num_to_tell is None) == told
        if not told:
            assert found.n < found.num_to_tell.even < found.num_to_tell.likely
    for row, found in zip(made.rows, made.differences, strict=False):
        assert row.difference == found.spearman  # one interval for one question


def test_uncertainty_is_judged_in_the_scores_unit():
    def to_unit(value):
        return (value - 90) / 3

    rng = np.random.default_rng(3)
    predictions = {a: to_unit(value) + 0.5 * rng.normal() for a, value in TRUTH.items()}
    deviations = dict.fromkeys(TRUTH, 0.5)
    deviations.pop(DRAWN[0])
    made = report(
        proxy(predictions, predictions=predictions, deviations=deviations, to_unit=to_unit),
        control(noisy(1)),
    )
    found = made.judged.uncertainty
    errors = np.array([predictions[a] - to_unit(TRUTH[a]) for a in DRAWN[1:]])
    assert found.n == N - 1
    assert found.error == pytest.approx(np.sqrt((errors**2).mean()))
    half = next(entry.observed for entry in found.coverage if entry.expected == 0.5)
    assert half.value == pytest.approx((np.abs(errors) <= 0.5 * stats.norm.ppf(0.75)).mean())
    assert made.rows[0].uncertainty is None


def test_every_figure_is_json():
    made = report(
        proxy(noisy(0.5), predictions=TRUTH, deviations=dict.fromkeys(TRUTH, 1.0)),
        control(noisy(1, 1)),
        control(noisy(0.1, 6), "another seed", "ceiling"),
        sizes={"parameters": noisy(1, 5)},
    )
    plain = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert RankReport.from_json(plain) == made
    row = plain["judged"]
    assert set(row["slices"][0]) == {"fraction", "n", "spearman", "k", "precision"}
    assert set(row["partial_spearman"]) == set(row["ndcg"]) == {"value", "low", "high"}
    assert len(row["uncertainty"]["coverage"]) == 10
    assert plain["ceiling"]["kind"] == "ceiling"
    assert plain["differences"][0]["first"] == "the proxy"
    assert plain["sizes"] == ["parameters"]


def test_points_hold_what_the_figures_are_computed_from():
    sample = Sample(DRAWN[:3], {DRAWN[0]: 0.5}, {"FLOPs": {DRAWN[2]: 7.0}})
    scores = {DRAWN[1]: 0.1}
    first = proxy(scores, predictions=scores, deviations={DRAWN[1]: 0.2})
    found = points_of(_Numbers(), sample, first, [control({DRAWN[2]: 3.0})])
    points = found.points
    assert [point.reference for point in points] == [0.5, None, None]
    assert points[1].scores == {"the proxy": 0.1, "flops": None}
    assert (points[1].prediction, points[1].deviation) == (0.1, 0.2)
    assert (points[0].prediction, points[2].sizes) == (None, {"FLOPs": 7.0})
    assert points[2].architecture.genotype == 2
    assert Points.from_json(found.to_json()) == found


class _Numbers:
    """A space whose architectures are numbers."""

    def describe(self, architecture):
        return f"number {architecture.genotype}"


# --- settings ---------------------------------------------------------------------------------

TRAINED = {"train": {"num_steps": 3}}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"reference": {**TRAINED, "second_value": "b"}}, "ceiling_architectures"),
        ({"reference": {"table": "t", "value": "a", "second_value": "a"}}, "another column"),
        ({"reference": {"table": "t"}, "ceiling_architectures": 12}, "second_value"),
        ({"reference": TRAINED, "ceiling_architectures": 5}, "must be 0, or from 10"),
        ({"reference": TRAINED, "ceiling_architectures": 73}, r"to num_architectures \(72\)"),
        ({"reference": TRAINED, "ceiling_architectures": -1}, "greater than or equal to 0"),
    ],
)
def test_ceilings_that_cannot_be_are_refused(section, words):
    with pytest.raises((ConfigError, ValueError), match=words):
        read_options(ValidateSettings, section)


def test_ceilings_that_can_be_are_read():
    table = read_options(
        ValidateSettings, {"reference": {"table": "t", "value": "a", "second_value": "b"}}
    )
    assert table.reference.second_value == "b"
    again = read_options(ValidateSettings, {"reference": TRAINED, "ceiling_architectures": 10})
    assert again.ceiling_architectures == 10
    assert MIN_FOR_INTERVAL == ranks.MIN_FOR_INTERVAL
