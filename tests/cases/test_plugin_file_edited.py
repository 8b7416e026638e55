"""Nothing that one text of a user's code made is ever mixed with what another text makes.

Files, and what they import, are in `tests/core/test_plugin_source.py`; the three kinds of plug-ins
in a study in `tests/study/test_own_code.py`.
"""

import pytest

from tests.cases.helpers import NETWORK, RETRAINED, SPACE, assert_one_sentence, write_config

FUNCTION = """
from torch import nn
import helper

def network(trial, spec):
    width = trial.suggest_categorical("width", [8, 12]) * helper.FACTOR
    size = spec.image_shape[0] * spec.image_shape[1] * spec.image_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.Linear(width, spec.num_classes))
"""
HELPED_SPACE = f"import helper\n{SPACE.replace('(8, 12)', '(8 * helper.FACTOR, 12)')}{NETWORK}"
SCORE = """
import helper
from nas_proxy.interfaces import ZeroCostScore
class Own(ZeroCostScore):
    def measure(self, network, images):
        return helper.FACTOR * float(sum(p.numel() for p in network.parameters()))
"""
DISTILLER = """
import helper
from nas_proxy.distill.random_subset import RandomSubset
class Own(RandomSubset):
    pass
"""
CONVNET = {"name": "convnet", "widths": [16], "depths": [1]}
STUDIES = {
    "function": (FUNCTION, {"space": {"name": "own.py:network"}}),
    "space": (HELPED_SPACE, {"space": {"name": "own.py:Own"}}),
    "score": (SCORE, {"space": CONVNET, "score": {"signals": ["own.py:Own"]}}),
    "distiller": (DISTILLER, {"distill": {"name": "own.py:Own", "images_per_class": 1}}),
}
EDITS = {
    "its file": lambda folder: (folder / "own.py").open("a").write("# edited\n"),
    "a module it imports": lambda folder: (folder / "helper.py").write_text("FACTOR = 2\n"),
}


def start(folder, kind):
    text, sections = STUDIES[kind]
    (folder / "own.py").write_text(text)
    (folder / "helper.py").write_text("FACTOR = 1\n")
    write_config(folder, retrain=RETRAINED, **sections)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[] if k == "function" else pytest.mark.exhaustive) for k in STUDIES],
)
def test_an_edit_is_named_before_anything_goes_on(nas_proxy, tmp_path, monkeypatch, kind, edit):
    monkeypatch.syspath_prepend(str(tmp_path))
    start(tmp_path, kind)
    assert nas_proxy("search", "c.yaml").status == 0
    trials = {path: path.read_bytes() for path in tmp_path.glob("results/s/search/*")}
    EDITS[edit](tmp_path)
    name = "own.py:network" if kind == "function" else "own.py:Own"
    for words in (["search"], ["search", "search.n_trials=3"], ["retrain"], ["run"]):
        outcome = nas_proxy(words[0], "c.yaml", *words[1:])
        assert_one_sentence(outcome, f"the code of {name} has changed", "--force")
    assert {path: path.read_bytes() for path in trials} == trials


@pytest.mark.exhaustive
def test_the_case_as_it_is_written(case, nas_proxy):
    folder = case("plugin_file_edited")
    assert nas_proxy("search", "c.yaml").status == 0
    space = folder / "space.py"
    space.write_text(space.read_text().replace("MULT = 1", "MULT = 4"))
    for config in ("c.yaml", "c2.yaml"):
        outcome = nas_proxy("retrain" if config == "c2.yaml" else "search", config)
        assert_one_sentence(outcome, "the code of space.py:S has changed")
