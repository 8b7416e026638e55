"""The Gaussian process behind calibrated scores, by another route."""

import numpy as np
import pytest
from scipy import stats

from nas_proxy.scores.regressors import GaussianProcess

# Mean and deviation of the logarithms: radial amplitude, length, linear amplitude; noise.
PRIORS = [(np.log(0.3), 1.5), (0, 0.7), (np.log(0.3), 1.5)]
NOISE = (np.log(0.1), 1.0)


def sample(num_signals, *, num=24, seed=0):
    rng = np.random.default_rng(seed)
    known, new = rng.normal(size=(num, num_signals + 3)), rng.normal(size=(9, num_signals + 3))
    return known, np.tanh(known.sum(axis=1)) + 0.1 * rng.normal(size=num), new


def kernel(first, second, parameters, num_signals):
    """Entry by entry, from its definition."""
    total = np.zeros((len(first), len(second)))
    groups = [slice(0, num_signals), slice(num_signals, None)] if num_signals else [slice(0, None)]
    for index, group in enumerate(groups):
        radial, length, linear = np.exp(parameters[3 * index : 3 * index + 3])
        for i, one in enumerate(first[:, group]):
            for j, other in enumerate(second[:, group]):
                total[i, j] += radial * np.exp(-((one - other) @ (one - other)) / (2 * length**2))
                total[i, j] += linear * one @ other
    return total


def left_of(targets, known, num_signals):
    """Targets without the prior mean, and the prior mean's slope."""
    if not num_signals:
        return targets, 0.0
    means = known[:, :num_signals].mean(axis=1)
    slope = (means @ targets) / (means @ means)
    return targets - slope * means, slope


@pytest.mark.parametrize("num_signals", [0, 2])
def test_predictions_are_those_of_conditioning_a_joint_normal(num_signals):
    known, targets, new = sample(num_signals)
    process = GaussianProcess(num_signals).fit(known, targets)
    residuals, slope = left_of(targets, known, num_signals)
    everything = np.concatenate([known, new])
    joint = kernel(everything, everything, process._parameters, num_signals)
    joint += (np.exp(process._parameters[-1]) + 1e-6) * np.eye(len(everything))
    inside, across, outside = joint[:24, :24], joint[24:, :24], joint[24:, 24:]
    gain = across @ np.linalg.inv(inside)
    expected = gain @ residuals
    if num_signals:
        expected += slope * new[:, :num_signals].mean(axis=1)
    deviations = np.sqrt(np.diag(outside - gain @ across.T))
    mean, deviation = process.predict(new, return_std=True)
    assert mean == pytest.approx(expected, abs=1e-8)
    assert deviation == pytest.approx(deviations, abs=1e-8)
    assert process.predict(new, return_std=False) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("num_signals", [0, 2])
def test_its_parameters_are_the_most_likely_ones(num_signals):
    known, targets, _ = sample(num_signals)
    process = GaussianProcess(num_signals).fit(known, targets)
    residuals, _ = left_of(targets, known, num_signals)
    priors = [*PRIORS * (2 if num_signals else 1), NOISE]

    def log_posterior(parameters):
        covariance = kernel(known, known, parameters, num_signals)
        covariance += (np.exp(parameters[-1]) + 1e-6) * np.eye(len(known))
        likelihood = stats.multivariate_normal.logpdf(residuals, cov=covariance)
        return likelihood + stats.norm.logpdf(parameters, *np.array(priors).T).sum()

    best = log_posterior(process._parameters)
    rng = np.random.default_rng(1)
    for scale in (0.03, 0.3):
        for _ in range(10):
            away = process._parameters + scale * rng.normal(size=len(priors))
            assert log_posterior(away) < best


def test_it_is_less_sure_where_it_knows_nothing():
    known, targets, _ = sample(1)
    process = GaussianProcess(1).fit(known, targets)
    _, deviation = process.predict(np.concatenate([known[:1], known[:1] + 5]), return_std=True)
    assert deviation[0] < deviation[1]
