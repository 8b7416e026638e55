"""A model of one's own behind the calibrated score."""

import pytest

from nas_proxy.errors import StudyError, UserError
from nas_proxy.scores.combine import ScoreSettings, make_score
from nas_proxy.scores.regressors import check_regressor
from tests.scores.test_calibrated import SIGNALS, fit, population

OWN = """
import numpy as np

class Nearest:
    def fit(self, X, y):
        self.known = X, y

    def predict(self, X, return_std):
        nearest = ((X[:, None] - self.known[0]) ** 2).sum(axis=-1).argmin(axis=1)
        return self.known[1][nearest], np.ones(len(X))

class Fails(Nearest):
    def predict(self, X, return_std):
        raise ArithmeticError("no numbers today")

class Vague(Nearest):
    def predict(self, X, return_std):
        return np.full(len(X), np.nan), np.ones(len(X))

class Silent:
    def fit(self, X, y):
        pass
"""


def test_a_regressor_of_ones_own_predicts(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    evaluations, references = population(0, 30)
    settings = ScoreSettings(
        signals=SIGNALS, combine="calibrated", use_encoding=False, regressor=f"{file}:Nearest"
    )
    score = make_score(settings, evaluations, references)
    for evaluation in evaluations[:5]:
        predicted = score.predict(evaluation)
        assert predicted.mean == score.normal_score(references[evaluation.architecture])
        assert predicted.deviation == 1
    for name, words in (
        ("Fails", r"fails on 30 calibration architectures \(ArithmeticError: no numbers today\)"),
        ("Vague", "predicts what is not finite"),
    ):
        with pytest.raises(StudyError, match=words):
            fit(evaluations, references, regressor=f"{file}:{name}").of(evaluations[0])
    for name, words in (
        (f"{file}:Silent", "has no method predict"),
        (f"{file}:Missing", "cannot be imported"),
        ("gaussian_proces", "unknown regressor 'gaussian_proces'.*gaussian_process"),
    ):
        with pytest.raises(UserError, match=words):
            check_regressor(name)
