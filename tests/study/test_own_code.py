"""A plug-in's text is part of what it made: nothing of two texts is ever mixed."""

import json
import re

import pytest
import yaml

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import StudyError
from nas_proxy.plugin_sources import sources_named
from nas_proxy.study.config import load_config
from nas_proxy.study.pipeline import run_pipeline
from tests.helpers.display import Quiet

PLUGINS = {
    "space": """
from nas_proxy.search_spaces.convnet import ConvNetSpace
class Own(ConvNetSpace):
    pass
""",
    "score": """
from nas_proxy.interfaces import ZeroCostScore
class Own(ZeroCostScore):
    def measure(self, network, images):
        return float(sum(p.numel() for p in network.parameters()))
""",
    "distiller": """
from nas_proxy.distill.random_subset import RandomSubset
class Own(RandomSubset):
    pass
""",
}


@pytest.fixture
def study(tmp_path):
    """A study of three plug-ins of the user's own, up to its search."""
    for name, text in PLUGINS.items():
        (tmp_path / f"my_{name}.py").write_text(text)
    config = {
        "study_name": "s",
        "results": str(tmp_path / "results"),
        "data": {"name": "digits", "images_per_class": 20},
        "distill": {"name": f"{tmp_path}/my_distiller.py:Own", "images_per_class": 1},
        "space": {"name": f"{tmp_path}/my_space.py:Own", "widths": [16], "depths": [1]},
        "train": {"num_steps": 1, "batch_size": 8, "learning_rate": 0.02, "precision": "float32",
                  "channels_last": False},
        "score": {"signals": [f"{tmp_path}/my_score.py:Own"]},
        "search": {"n_trials": 1, "sampler": "random"},
        "tracking": {"enabled": False},
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    run(tmp_path)
    return tmp_path


def run(folder, last="search", **options):
    display = Quiet()
    run_pipeline(load_config(folder / "c.yaml"), display, last=last, **options)
    return display.said


def edit(folder, name):
    path = folder / f"my_{name}.py"
    path.write_text(f"{path.read_text()}# edited\n")


def test_an_edited_plugin_is_named_and_its_results_are_refused_until_repeated(study):
    assert "search: finished already" in run(study)
    trials = (study / "results/s/search").glob("*.jsonl")
    before = {path: path.read_bytes() for path in trials}
    for name, stage in (("space", "search"), ("score", "search"), ("distiller", "distill")):
        original = (study / f"my_{name}.py").read_text()
        edit(study, name)
        sentence = rf"the code of .*my_{name}\.py:Own has changed since .*{stage} was written"
        for last in ("search", "retrain", "report"):  # what comes later is refused as well
            with pytest.raises(StudyError, match=sentence):
                run(study, last)
        (study / f"my_{name}.py").write_text(original)
    assert {path: path.read_bytes() for path in before} == before
    assert "search: finished already" in run(study)
    edit(study, "space")
    assert "search: finished already" not in run(study, force=True)
    assert "search: finished already" in run(study)


def test_the_set_and_the_report_say_which_text_made_them(study):
    config = load_config(study / "c.yaml")
    code = sources_named(config.resolved)
    assert {re.sub(r".*/", "", name) for name in code} == {
        "my_space.py:Own", "my_score.py:Own", "my_distiller.py:Own",
    }  # fmt: skip
    made = ProxyDataset.load(config.layout.proxy_dataset)
    assert made.parameters["code"] == code[config.resolved["distill"]["name"]]
    run(study, "report")
    found = json.loads(config.layout.report.read_text())["environment"]["versions"]
    assert {f"source {each}" for each in code.values()} <= set(found.values())
    edit(study, "space")
    assert load_config(study / "c.yaml").space.fingerprint() != config.space.fingerprint()
