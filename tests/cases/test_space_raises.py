"""An error in a user's own code is said as its author's to mend, whichever plug-in it is in.

Every method of a search space is in `tests/search/test_plugin_calls.py`, spaces that are functions
in `tests/define_by_run/test_wrong_functions.py`.
"""

import pytest

from tests.cases.helpers import NETWORK, SPACE, assert_one_sentence, write_config

DISTILLER = """
from dataclasses import dataclass
from nas_proxy.distill.random_subset import RandomSubset

@dataclass(frozen=True, kw_only=True)
class Own(RandomSubset):
    def {method}(self, *given):
        {body}
"""
SCORE = """
from dataclasses import dataclass
import sys
from nas_proxy.interfaces import ZeroCostScore

@dataclass(frozen=True, kw_only=True)
class Own(ZeroCostScore):
    def measure(self, network, images):
        {measure}
    def __post_init__(self):
        {begin}
"""


@pytest.mark.parametrize(
    ("method", "body", "said"),
    [
        ("distill", "return {}['nope']", "fails in distill (own.py, line 8): KeyError: 'nope'"),
        ("distill", "return None", "distill gives NoneType, not a ProxyDataset"),
        ("distill", "raise SystemExit(3)", "fails in distill (own.py, line 8): it calls sys.exit"),
        ("initialise", "return 1 / 0", "fails in initialise (own.py, line 8): ZeroDivisionError"),
        ("own_images_per_class", "return 1 / 0", "fails in own_images_per_class (own.py, line 8)"),
        ("__post_init__", "return {}['nope']", "fails in __post_init__ (own.py, line 8): KeyError"),
    ],
)
def test_a_distiller_that_raises(nas_proxy, tmp_path, method, body, said):
    (tmp_path / "own.py").write_text(DISTILLER.format(method=method, body=body))
    write_config(tmp_path, distill={"name": "own.py:Own", "images_per_class": 1})
    assert_one_sentence(nas_proxy("distill", "c.yaml"), "the distiller 'own.py:Own'", said)


@pytest.mark.parametrize("begin", ["{}['nope']", "raise ValueError('no')"])
def test_a_score_that_cannot_be_made(nas_proxy, tmp_path, begin):
    (tmp_path / "own.py").write_text(SCORE.format(measure="return 1.0", begin=begin))
    write_config(tmp_path, score={"signals": ["own.py:Own"]})
    assert_one_sentence(nas_proxy("search", "c.yaml"), "own.py:Own")


@pytest.mark.parametrize("measure", ["return {}['nope']", "sys.exit(3)", "return float('nan')"])
def test_a_score_that_raises_fails_its_candidates_with_the_reason(nas_proxy, tmp_path, measure):
    (tmp_path / "own.py").write_text(SCORE.format(measure=measure, begin="pass"))
    write_config(tmp_path, score={"signals": ["own.py:Own"]})
    outcome = nas_proxy("search", "c.yaml")
    assert_one_sentence(outcome, "all 2 architectures so far failed")


LATE = [pytest.param(m, marks=pytest.mark.exhaustive) for m in ("canonical_form", "encode")]


@pytest.mark.parametrize("method", ["describe", "fingerprint", *LATE])
def test_a_space_that_raises_where_a_study_reads_it(nas_proxy, tmp_path, method):
    many = SPACE.replace("(8, 12)", "range(8, 40)")
    text = f"{many}\n    def {method}(self, *given):\n        return 1 / 0\n{NETWORK}"
    (tmp_path / "space.py").write_text(text)
    line = text[: text.index("1 / 0")].count("\n") + 1
    score = {"combine": "calibrated", "signals": ["num_params", "flops"]}
    calibrated = {
        "num_architectures": 24,
        "reference": {"train": {"num_steps": 3}},
        "recipes": [{"name": "learned", "train_on": "nothing", "score": score}],
    }
    asked = {"recipe": "calibrated", "calibrate": calibrated, "score": None}
    asked = asked if method in ("canonical_form", "encode") else {}
    write_config(tmp_path, space={"name": "space.py:Own"}, **asked)
    said = f"fails in {method} (space.py, line {line}): ZeroDivisionError"
    assert_one_sentence(nas_proxy("search", "c.yaml"), said)


@pytest.mark.parametrize("where", ["__init__", "forward"])
def test_networks_that_raise_fail_with_the_reason(nas_proxy, tmp_path, where):
    broken = NETWORK.replace("super().__init__()", "1 / 0") if where == "__init__" else (
        NETWORK.replace("return self.last", "return 1 / 0 or self.last")
    )  # fmt: skip
    (tmp_path / "space.py").write_text(SPACE + broken)
    write_config(tmp_path, space={"name": "space.py:Own"})
    assert_one_sentence(nas_proxy("search", "c.yaml"), "ZeroDivisionError: division by zero")


@pytest.mark.exhaustive
def test_the_case_as_it_is_written(case, nas_proxy):
    case("space_raises")
    assert_one_sentence(nas_proxy("search", "c.yaml"), "'space.py:S' fails in suggest", "'w'")
    pruned = nas_proxy("search", "c.yaml", "space.name=space.py:P", "study_name=p")
    assert (pruned.status, "ruled out before training" in pruned.errors) == (0, True)
