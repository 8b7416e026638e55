"""Models behind a calibrated score: what `fit` and `predict` have to do, and those that ship."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import scipy
from numpy.typing import NDArray

from nas_proxy.errors import ConfigError, PluginError, did_you_mean

Values = NDArray[np.float64]

_JITTER = 1e-6  # equal architectures make a matrix that has no inverse
# Natural logarithms: where each parameter of the process is expected, and how surely. With two
# dozen architectures the likelihood alone fits some of the parameters to noise.
_AMPLITUDE, _LENGTH, _NOISE = (np.log(0.3), 1.5), (0.0, 0.7), (np.log(0.1), 1.0)


class Regressor(Protocol):
    """What a calibrated score asks of its model; those of scikit-learn with `return_std` do it."""

    def fit(self, X: Values, y: Values) -> Any:
        """Learn from features `(n, d)` and targets `(n,)`."""

    def predict(self, X: Values, return_std: bool) -> Any:
        """The expected targets `(m,)` of `(m, d)`, and their deviations, noise included."""


def make_regressor(name: str, num_signals: int) -> Regressor:
    """A model that has not learned yet.

    Args:
        name: `gaussian_process`, `single_kernel`, or a class of one's own as `module:Class` or
            `path/to/file.py:Class`, which is made without arguments.
        num_signals: How many of the first features are signals.

    Raises:
        ConfigError: If there is no such model.
        PluginError: If the class cannot be imported, or has no `fit` and `predict`.
    """
    if name in _SHIPPED:
        return _SHIPPED[name](num_signals)
    if ":" not in name:
        raise ConfigError(
            f"unknown regressor {name!r}; {did_you_mean(name, _SHIPPED)} (one of your own is named "
            "path/to/file.py:ClassName or module:ClassName)"
        )
    made = _own_class(name)()
    missing = [verb for verb in ("fit", "predict") if not callable(getattr(made, verb, None))]
    if missing:
        raise PluginError(f"regressor {name} has no method {missing[0]}; it needs fit and predict")
    return made  # type: ignore[no-any-return]


def check_regressor(name: str) -> None:
    """Raise as `make_regressor` does."""
    make_regressor(name, 1)


class GaussianProcess:
    """A rank prior and a Gaussian process on what is left of the targets.

    The prior is the mean of the signals, times a slope fitted by least squares; without signals it
    is 0. Signals and encoding have a linear and a radial kernel each, so that many features of an
    encoding do not drown a few signals. Amplitudes, lengths and noise have log-normal priors and
    are fitted by maximum a posteriori (Rasmussen and Williams, "Gaussian processes for machine
    learning", 2006, chapter 5), from the priors' means and in the same way every time.

    Args:
        num_signals: How many of the first features are signals.
    """

    def __init__(self, num_signals: int) -> None:
        self._num_signals = num_signals
        self._slope = 0.0
        self._parameters = np.zeros(0)
        self._known = np.zeros((0, 0))
        self._factor = np.zeros((0, 0))
        self._weights = np.zeros(0)

    def fit(self, X: Values, y: Values) -> GaussianProcess:
        """Learn from features `(n, d)` and targets `(n,)`."""
        from threadpoolctl import threadpool_limits  # scikit-learn brings it

        self._known = X
        self._slope = _slope(_mean_signal(X, self._num_signals), y)
        residuals = y - self._slope * _mean_signal(X, self._num_signals)
        distances = self._distances(X, X)
        centres, spreads = np.array(self._prior()).T
        # Threads that share matrices this small wait for one another, on a busy machine for long.
        with threadpool_limits(1):
            found = scipy.optimize.minimize(
                lambda p: self._objective(p, distances, residuals, centres, spreads),
                centres,
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 60},
            )
            self._parameters = found.x
            covariance = self._covariance(distances) + self._noise * np.eye(len(X))
            self._factor = scipy.linalg.cholesky(covariance, lower=True)
            self._weights = scipy.linalg.cho_solve((self._factor, True), residuals)
        return self

    def predict(self, X: Values, return_std: bool) -> Any:
        """The expected targets `(m,)` of `(m, d)`; with `return_std` their deviations too."""
        across = self._covariance(self._distances(X, self._known))
        mean = self._slope * _mean_signal(X, self._num_signals) + across @ self._weights
        if not return_std:
            return mean
        solved = scipy.linalg.solve_triangular(self._factor, across.T, lower=True)
        left = np.maximum(self._variances(X) - (solved**2).sum(axis=0), 0)
        return mean, np.sqrt(left + self._noise)

    def _variances(self, X: Values) -> Values:
        """Of each architecture before anything was learned, without noise, `(n,)`."""
        alone = [
            (np.zeros(len(X)), (part**2).sum(axis=1)) for part in self._parts(X) if part.shape[1]
        ]
        return self._covariance(alone)

    @property
    def _noise(self) -> float:
        return float(np.exp(self._parameters[-1])) + _JITTER

    def _prior(self) -> list[tuple[float, float]]:
        groups = sum(part.shape[1] > 0 for part in self._parts(self._known))
        return [*([_AMPLITUDE, _LENGTH, _AMPLITUDE] * groups), _NOISE]

    def _parts(self, X: Values) -> tuple[Values, Values]:
        """Signals and encoding."""
        return X[:, : self._num_signals], X[:, self._num_signals :]

    def _distances(self, first: Values, second: Values) -> list[tuple[Values, Values]]:
        """Squared distances and inner products by group of features, each `(n, m)`."""
        pairs = zip(self._parts(first), self._parts(second), strict=True)
        return [
            (scipy.spatial.distance.cdist(one, other, "sqeuclidean"), one @ other.T)
            for one, other in pairs
            if one.shape[1]
        ]

    def _covariance(self, distances: list[tuple[Values, Values]]) -> Values:
        return sum(self._terms(self._parameters, distances), np.zeros_like(distances[0][0]))

    @staticmethod
    def _terms(parameters: Values, distances: list[tuple[Values, Values]]) -> list[Values]:
        """The radial and the linear part of each group."""
        terms = []
        for index, (squared, product) in enumerate(distances):
            radial, length, linear = parameters[3 * index : 3 * index + 3]
            terms.append(np.exp(radial - squared / (2 * np.exp(2 * length))))
            terms.append(np.exp(linear) * product)
        return terms

    def _objective(
        self,
        parameters: Values,
        distances: list[tuple[Values, Values]],
        residuals: Values,
        centres: Values,
        spreads: Values,
    ) -> tuple[float, Values]:
        """Minus the logarithm of the posterior, but for a constant, and its gradient."""
        terms = self._terms(parameters, distances)
        noise = float(np.exp(parameters[-1])) * np.eye(len(residuals))
        covariance = sum(terms, noise + _JITTER * np.eye(len(residuals)))
        factor = scipy.linalg.cholesky(covariance, lower=True)
        weights = scipy.linalg.cho_solve((factor, True), residuals)
        inverse = scipy.linalg.cho_solve((factor, True), np.eye(len(residuals)))
        away = (parameters - centres) / spreads
        value = residuals @ weights / 2 + np.log(np.diag(factor)).sum() + away @ away / 2
        pull = inverse - np.outer(weights, weights)
        slopes: list[float] = []
        for index, (squared, _) in enumerate(distances):
            radial, linear = terms[2 * index : 2 * index + 2]
            length = radial * squared * np.exp(-2 * parameters[3 * index + 1])
            slopes += [float((pull * part).sum()) / 2 for part in (radial, length, linear)]
        slopes.append(float((pull * noise).sum()) / 2)
        return float(value), np.array(slopes) + away / spreads


class SingleKernel:
    """The same prior, and a Gaussian process with one radial and one linear kernel over everything.

    Scikit-learn's, fitted by marginal likelihood; what ranked before there were graph features.

    Args:
        num_signals: How many of the first features are signals.
    """

    def __init__(self, num_signals: int) -> None:
        self._num_signals = num_signals
        self._slope = 0.0
        self._process: Any = None

    def fit(self, X: Values, y: Values) -> SingleKernel:
        """Learn from features `(n, d)` and targets `(n,)`."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
        from threadpoolctl import threadpool_limits

        self._slope = _slope(_mean_signal(X, self._num_signals), y)
        kernel = (
            ConstantKernel(0.3) * RBF(3.0)
            + ConstantKernel(0.3) * DotProduct(1.0)
            + WhiteKernel(0.1, (1e-3, 10.0))
        )
        with warnings.catch_warnings(), threadpool_limits(1):
            # A bound that is reached is an answer: a part has no use.
            warnings.simplefilter("ignore", ConvergenceWarning)
            residuals = y - self._slope * _mean_signal(X, self._num_signals)
            self._process = GaussianProcessRegressor(kernel).fit(X, residuals)
        return self

    def predict(self, X: Values, return_std: bool) -> Any:
        """The expected targets `(m,)` of `(m, d)`; with `return_std` their deviations too."""
        prior = self._slope * _mean_signal(X, self._num_signals)
        if not return_std:
            return prior + self._process.predict(X)
        correction, deviation = self._process.predict(X, return_std=True)
        return prior + correction, deviation


_SHIPPED: dict[str, Callable[[int], Regressor]] = {
    "gaussian_process": GaussianProcess,
    "single_kernel": SingleKernel,
}


def _mean_signal(X: Values, num_signals: int) -> Values:
    """The mean of the first features, `(n,)`; zeros if none of them is a signal."""
    if num_signals == 0:
        return np.zeros(len(X))
    mean: Values = X[:, :num_signals].mean(axis=1)
    return mean


def _slope(means: Values, targets: Values) -> float:
    power = float(means @ means)
    # Signals that contradict each other everywhere have no mean rank, but for rounding.
    return float(means @ targets) / power if power > 1e-9 else 0.0


def _own_class(reference: str) -> Any:
    from nas_proxy.plugin_files import import_file

    location, _, name = reference.rpartition(":")
    try:
        module = (
            import_file(location) if location.endswith(".py") else importlib.import_module(location)
        )
        return getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"regressor {reference!r} cannot be imported: {error}") from error
