"""What each command imports before it answers: seconds are measured in benchmarks/startup.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nas_proxy.cli._plugin_text import class_texts
from nas_proxy.data.descriptions import DATASET_WORDS
from nas_proxy.data.sources import DATASETS
from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES

COMMANDS = """
import contextlib, io, json, sys
from nas_proxy.cli.main import main

HEAVY = ["torch", "torchvision", "mlflow", "optuna", "matplotlib", "sklearn", "scipy.stats"]
found = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(words)
        except SystemExit as ended:
            status = ended.code or 0
    found.append([status, [name for name in HEAVY if name in sys.modules]])
print(json.dumps(found))
"""


def test_commands_import_what_they_need_alone(tmp_path: Path) -> None:
    refused = tmp_path / "refused.yaml"
    refused.write_text("study_name: x\nserch: {n_trials: 3}\n")
    commands = [
        ["--help"],
        ["list"],
        ["run", "absent.yaml"],
        ["run", str(refused), "no override"],
        ["run", str(refused)],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[0, []], [0, []], [2, []], [2, []], [2, ["torch"]]]


TEXTS = ("summary", "paper", "family", "typical_cost")
OWN = [
    pytest.param(registry, name, id=name)
    for registry in (DISTILLERS, SEARCH_SPACES, SCORES)
    for name in registry.names()
    if registry.get(name).__module__.startswith("nas_proxy.")
]


@pytest.mark.parametrize(("registry", "name"), OWN)
def test_the_text_of_a_plug_in_says_what_its_class_says(registry, name) -> None:
    plugin = registry.get(name)
    said = {text: getattr(plugin, text) for text in TEXTS if hasattr(plugin, text)}
    assert class_texts(plugin.__module__, plugin.__name__, TEXTS) == said
    assert said["summary"]


def test_what_is_no_plain_text_is_not_guessed_at(tmp_path, monkeypatch) -> None:
    (tmp_path / "composed_plugin.py").write_text("class Mine:\n    summary = 'a' + 'b'\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="composed_plugin:Mine.summary is not plain text"):
        class_texts("composed_plugin", "Mine", TEXTS)


def test_every_data_set_is_described() -> None:
    assert {name: (s.summary, s.licence) for name, s in DATASETS.items()} == {
        name: (words.summary, words.licence) for name, words in DATASET_WORDS.items()
    }
