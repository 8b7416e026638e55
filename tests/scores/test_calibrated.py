"""The score that is fitted to architectures whose full training is known."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
from threadpoolctl import threadpool_limits

from nas_proxy.errors import StudyError
from nas_proxy.scores.calibrated import CalibratedScore
from nas_proxy.scores.combine import RankMean, ScoreSettings, make_score
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

# Higher is better in the first, lower in the second.
SIGNALS = ("val_accuracy", "val_loss")
FIDELITY = Fidelity("d", 1, 1, 8)


def evaluated(number, **signals):
    architecture = Architecture("s", number)
    return Evaluation(architecture, FIDELITY, 0, Status.COMPLETE, signals=signals)


def population(seed, num, *, useless=False, start=0):
    """Architectures of known quality, their signals, and references with a little noise."""
    rng = np.random.default_rng(seed)
    quality, first, second, noise = rng.normal(size=(4, num))
    accuracy = quality + 0.4 * first
    loss = second if useless else -quality + 0.4 * second
    evaluations = [
        evaluated(start + index, val_accuracy=accuracy[index], val_loss=loss[index])
        for index in range(num)
    ]
    references = quality + 0.1 * noise
    return evaluations, {
        e.architecture: float(value) for e, value in zip(evaluations, references, strict=True)
    }


def fit(evaluations, references, signals=SIGNALS, encode=None, regressor="gaussian_process"):
    return CalibratedScore(signals, evaluations, references, encode, regressor)


def rho(score, evaluations, references):
    scores = [score.of(e) for e in evaluations]
    return stats.spearmanr(scores, [references[e.architecture] for e in evaluations]).statistic


def digits(architecture):
    """An encoding that says nothing: the bits of the architecture's number."""
    return torch.tensor([float(architecture.genotype >> bit & 1) for bit in range(6)])


# --- what it learns ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_which_signal_is_worth_nothing(seed):
    fresh, truth = population(100 + seed, 100, useless=True, start=1000)
    known = population(seed, 60, useless=True)
    learned = rho(fit(*known), fresh, truth)
    assert learned > rho(RankMean(SIGNALS, known[0]), fresh, truth) + 0.1
    assert learned > 0.85


@pytest.mark.parametrize("encode", [None, digits])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_small_sample_stays_near_the_rank_mean(seed, encode):
    fresh, truth = population(100 + seed, 100, start=1000)
    known = population(seed, 20)
    score, plain = fit(*known, encode=encode), RankMean(SIGNALS, known[0])
    scores = [[s.of(e) for e in fresh] for s in (score, plain)]
    assert stats.spearmanr(*scores).statistic > 0.93
    learned, simple = (stats.spearmanr(s, list(truth.values())).statistic for s in scores)
    assert learned > simple - 0.05


def test_it_learns_from_the_encoding_what_signals_do_not_say():
    rng = np.random.default_rng(0)

    def sample(num, start):
        evaluations, references = [], {}
        for number in range(start, start + num):
            bonus = 2.0 * digits(Architecture("s", number))[2].item()
            signal = rng.normal()
            evaluation = evaluated(number, val_accuracy=signal)
            evaluations.append(evaluation)
            references[evaluation.architecture] = signal + bonus
        return evaluations, references

    known, (fresh, truth) = sample(60, 0), sample(150, 1000)
    without, with_it = (fit(*known, ("val_accuracy",), encode) for encode in (None, digits))
    assert rho(with_it, fresh, truth) > 0.95 > rho(without, fresh, truth) + 0.2


def test_the_unit_of_the_encoding_does_not_matter_nor_does_one_that_is_constant():
    evaluations, references = population(0, 30)
    predictions = {
        name: fit(evaluations, references, encode=encode).predict(evaluations[3])
        for name, encode in (
            ("plain", digits),
            ("large", lambda a: 1000 * digits(a)),
            ("shifted", lambda a: torch.cat([digits(a), torch.full((3,), 7.0)])),
            ("none", None),
            ("constant", lambda a: torch.full((3,), 7.0)),
        )
    }
    for one, other in (("plain", "large"), ("plain", "shifted"), ("none", "constant")):
        assert vars(predictions[one]) == pytest.approx(vars(predictions[other]), abs=0.02)


def test_only_the_order_of_the_sample_counts():
    evaluations, references = population(0, 30)
    stretched = [
        evaluated(
            e.architecture.genotype,
            val_accuracy=np.exp(5 * e.signals["val_accuracy"]),
            val_loss=e.signals["val_loss"] ** 3,
        )
        for e in evaluations
    ]
    grown = {a: np.exp(4 * value) for a, value in references.items()}
    before = fit(evaluations, references).out_of_fold()
    after = fit(stretched, grown).out_of_fold()
    assert before.keys() == after.keys()
    for architecture, prediction in before.items():
        assert after[architecture].mean == pytest.approx(prediction.mean, abs=1e-6)


def test_it_is_deterministic():
    known = population(0, 25)
    first, second = (fit(*known, encode=digits) for _ in range(2))
    for evaluation in population(1, 5, start=100)[0]:
        assert first.predict(evaluation) == second.predict(evaluation)
        assert first.of(evaluation) == first.predict(evaluation).mean
    assert first.out_of_fold() == second.out_of_fold()


# --- out of fold ------------------------------------------------------------------------------


def by_hand(evaluations, references, encode):
    """The docstring, step by step; no two values are equal."""
    num = len(evaluations)

    def normal_scores(values):
        return stats.norm.ppf((stats.rankdata(values) - 0.5) / num)

    truth = np.array([references[e.architecture] for e in evaluations])
    columns = [
        normal_scores([e.signals["val_accuracy"] for e in evaluations]),
        normal_scores([-e.signals["val_loss"] for e in evaluations]),
    ]
    prior = (columns[0] + columns[1]) / 2
    if encode is not None:
        encoding = np.stack([encode(e.architecture).numpy() for e in evaluations])
        centred = (encoding - encoding.mean(axis=0)) / encoding.std(axis=0)
        columns += list((centred / np.sqrt(encoding.shape[1])).T)
    features, targets = np.stack(columns, axis=1), normal_scores(truth)
    kernel = (
        ConstantKernel(0.3) * RBF(3.0)
        + ConstantKernel(0.3) * DotProduct(1.0)
        + WhiteKernel(0.1, (1e-3, 10.0))
    )
    found = {}
    order = np.argsort(truth)
    for number in range(10):
        left_out = order[number::10]
        inside = np.setdiff1d(np.arange(num), left_out)
        (slope,), *_ = np.linalg.lstsq(prior[inside, None], targets[inside], rcond=None)
        process = GaussianProcessRegressor(kernel).fit(
            features[inside], targets[inside] - slope * prior[inside]
        )
        mean, deviation = process.predict(features[left_out], return_std=True)
        for index, correction, spread in zip(left_out, mean, deviation, strict=True):
            found[evaluations[index].architecture] = (slope * prior[index] + correction, spread)
    return found


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("encode", [None, digits])
def test_out_of_fold_predictions_are_those_of_refits_by_hand(encode):
    evaluations, references = population(3, 34)
    score = fit(evaluations, references, encode=encode, regressor="single_kernel")
    found = score.out_of_fold()
    with threadpool_limits(1):
        expected = by_hand(evaluations, references, encode)
    assert found.keys() == expected.keys()
    for architecture, prediction in found.items():
        assert (prediction.mean, prediction.deviation) == pytest.approx(
            expected[architecture], abs=2e-3
        )


@pytest.mark.parametrize("encode", [None, digits])
def test_an_architectures_own_reference_does_not_reach_its_prediction(encode):
    evaluations, references = population(4, 30)
    ranked = sorted(references, key=references.__getitem__)
    # Every tenth is left out together, so these can change places.
    low, high = ranked[3], ranked[23]
    swapped = {**references, low: references[high], high: references[low]}
    before, after = (fit(evaluations, r, encode=encode) for r in (references, swapped))
    predicted, again = before.out_of_fold(), after.out_of_fold()
    for architecture in (low, high):
        assert predicted[architecture] == again[architecture]
        (own,) = (e for e in evaluations if e.architecture == architecture)
        assert before.predict(own) != after.predict(own)


def test_nothing_can_be_predicted_out_of_fold_where_nothing_is_to_be_learned():
    found, within = [], []
    for seed in range(3):
        rng = np.random.default_rng(50 + seed)
        evaluations, _ = population(seed, 30)
        noise = {e.architecture: rng.normal() for e in evaluations}
        score = fit(evaluations, noise, encode=digits)
        predicted = score.out_of_fold()
        truth = list(noise.values())
        found.append(stats.spearmanr([predicted[a].mean for a in noise], truth).statistic)
        within.append(rho(score, evaluations, noise))
    assert np.mean(found) < 0.1 < np.mean(within)


# --- uncertainty ------------------------------------------------------------------------------


def test_intervals_hold_what_they_promise():
    shares = []
    for seed in range(4):
        score = fit(*population(seed, 60))
        for evaluation, value in zip(*fresh_sample(seed), strict=True):
            expected, found = score.predict(evaluation), score.normal_score(value)
            shares.append(stats.norm.cdf(found, expected.mean, expected.deviation))
    assert np.mean(np.abs(np.array(shares) - 0.5) < 0.45) == pytest.approx(0.9, abs=0.06)
    assert np.mean(np.abs(np.array(shares) - 0.5) < 0.25) == pytest.approx(0.5, abs=0.1)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)


def fresh_sample(seed):
    evaluations, references = population(100 + seed, 100, start=1000)
    return evaluations, references.values()


def test_noisier_signals_leave_more_uncertain():
    evaluations, references = population(0, 50)
    rng = np.random.default_rng(1)
    noise = {a: value + 2 * rng.normal() for a, value in references.items()}
    sure, unsure = (fit(evaluations, r).predict(evaluations[0]) for r in (references, noise))
    assert unsure.deviation > 1.5 * sure.deviation


def test_normal_scores_of_references_by_hand():
    evaluations, references = population(0, 21)
    score = fit(evaluations, references)
    ranked = sorted(references.values())
    assert score.normal_score(ranked[10]) == pytest.approx(0)
    assert score.normal_score(ranked[18]) == pytest.approx(stats.norm.ppf(18.5 / 21))
    between = (ranked[4] + ranked[5]) / 2
    assert score.normal_score(between) == pytest.approx(stats.norm.ppf(5 / 21))
    limit = stats.norm.ppf(1 - 0.25 / 21)
    assert score.normal_score(ranked[-1]) < score.normal_score(1e3) <= limit + 1e-9
    assert score.normal_score(-1e9) == pytest.approx(-limit, abs=1e-6)


def test_candidates_beyond_the_sample_do_not_tie():
    """A search looks for what is better than anything that was calibrated on."""
    evaluations, references = population(0, 30)
    score = fit(evaluations, references, ("val_accuracy",))
    best = max(e.signals["val_accuracy"] for e in evaluations)
    found = [score.of(evaluated(99, val_accuracy=best + step)) for step in (0, 0.2, 1, 3, 10)]
    assert found == sorted(set(found))


# --- ties, constant signals, failures ---------------------------------------------------------


def test_equal_evaluations_are_predicted_equally():
    evaluations, references = population(0, 24)
    twin = evaluated(500, **evaluations[0].signals)
    known = [*evaluations, twin]
    score = fit(known, {**references, twin.architecture: 0.3})
    assert score.predict(twin) == score.predict(evaluations[0])


def test_equal_references_share_their_mean_rank():
    evaluations, references = population(0, 20)
    ranked = sorted(references, key=references.__getitem__)
    tied = {**references, ranked[5]: references[ranked[6]]}
    score = fit(evaluations, tied)
    expected = stats.norm.ppf((5.5 + 0.5) / 20)  # positions 5 and 6, counted from 0
    assert score.normal_score(tied[ranked[5]]) == pytest.approx(expected)


def test_a_constant_signal_among_others_is_ignored():
    evaluations, references = population(0, 25)
    known = [evaluated(e.architecture.genotype, flops=7.0, **e.signals) for e in evaluations]
    signals = ("flops", *SIGNALS)
    score, without = fit(known, references, signals), fit(evaluations, references)
    assert score.signals == signals
    candidate = evaluated(900, flops=1e9, val_accuracy=0.3, val_loss=0.1)
    assert score.predict(candidate) == without.predict(candidate)


@pytest.mark.parametrize("num", [25, 32])
def test_signals_that_contradict_each_other_everywhere_do_no_harm(num):
    """Their mean rank is nothing but rounding; of 32 it is exactly zero."""
    evaluations, references = population(0, num)
    known = [
        evaluated(e.architecture.genotype, val_accuracy=v, train_loss_mean=v)
        for e in evaluations
        for v in [e.signals["val_accuracy"]]
    ]
    score = fit(known, references, ("val_accuracy", "train_loss_mean"))
    assert rho(score, known, references) > 0.8
    assert all(abs(score.of(e)) < 3 for e in known)


def test_failures_and_unknown_references_are_left_out():
    evaluations, references = population(0, 26)
    failed = Evaluation(Architecture("s", 700), FIDELITY, 0, Status.FAILED, reason="diverged")
    unknown = evaluated(701, val_accuracy=9.0, val_loss=-9.0)
    score = fit([failed, *evaluations, unknown], {**references, failed.architecture: 5.0})
    plain = fit(evaluations, references)
    assert score.predict(unknown) == plain.predict(unknown)
    assert score.out_of_fold().keys() == references.keys()


# --- refusals ---------------------------------------------------------------------------------


def refused(*arguments):
    with pytest.raises(StudyError) as raised:
        fit(*arguments)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def test_too_few_are_refused_with_their_number():
    evaluations, references = population(0, 24)
    known = dict(list(references.items())[:19])
    message = refused(evaluations, known)
    assert "at least 20 architectures" in message
    assert "only 19 of 24" in message
    assert "rank_mean" in message
    fit(evaluations, dict(list(references.items())[:20]))


def test_signals_that_are_all_constant_are_refused():
    _, references = population(0, 20)
    known = [evaluated(a.genotype, val_accuracy=0.1, val_loss=2.3) for a in references]
    assert "every signal of the score (val_accuracy, val_loss)" in refused(known, references)


def test_without_signals_it_learns_from_the_encoding_alone():
    evaluations, _ = population(0, 60)
    known = {e.architecture: float(digits(e.architecture)[:3].sum()) for e in evaluations[:40]}
    bare = [evaluated(e.architecture.genotype) for e in evaluations]
    score = fit(bare, known, (), digits)
    assert score.signals == ()
    truth = {e.architecture: float(digits(e.architecture)[:3].sum()) for e in bare[40:]}
    assert rho(score, bare[40:], truth) > 0.9
    for encode in (None, lambda a: torch.ones(3)):
        assert "there is no signal, and the encoding is the same" in refused(
            bare, known, (), encode
        )


def test_references_that_are_all_equal_are_refused():
    evaluations, references = population(0, 20)
    message = refused(evaluations, dict.fromkeys(references, 0.5))
    assert "same reference (0.5)" in message


def test_the_settings_make_it_with_or_without_the_encoding():
    evaluations, references = population(0, 30)
    for use_encoding in (True, False):
        settings = ScoreSettings(signals=SIGNALS, combine="calibrated", use_encoding=use_encoding)
        made = make_score(settings, evaluations, references, digits)
        expected = fit(evaluations, references, encode=digits if use_encoding else None)
        assert made.predict(evaluations[0]) == expected.predict(evaluations[0])
    with pytest.raises(StudyError, match="only 0 of 30"):
        make_score(settings, evaluations)
    with pytest.raises(ValueError, match="signals is empty"):
        ScoreSettings(signals=(), combine="calibrated", use_encoding=False)
