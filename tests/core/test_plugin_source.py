"""A user's code is told apart by its file's bytes, and those of what it imports from beside it."""

import sys
from importlib.metadata import entry_points

import pytest

from nas_proxy.core.plugin_source import file_hash, source_hash
from nas_proxy.plugin_sources import sources_named
from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES

SCORE = """
from dataclasses import dataclass
{imports}
from nas_proxy.interfaces import ZeroCostScore

@dataclass(frozen=True, kw_only=True)
class Mine(ZeroCostScore):
    def measure(self, network, images):
        return 1.0
"""


def written(folder, **texts):
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize("registry", [DISTILLERS, SCORES, SEARCH_SPACES])
def test_what_ships_has_versions_instead(registry):
    names = [entry.name for entry in entry_points(group=registry.group)]
    assert {source_hash(registry.get(name)) for name in names} == {None}


def test_any_byte_counts_and_the_folder_does_not(tmp_path):
    text = SCORE.format(imports="")
    for name in ("one", "two"):
        written(tmp_path / name, score=text)
    first, second = (file_hash(tmp_path / name / "score.py") for name in ("one", "two"))
    assert first == second
    written(tmp_path / "two", score=f"{text}# a comment\n")
    assert file_hash(tmp_path / "two" / "score.py") != first


@pytest.mark.parametrize(
    ("imports", "helper"),
    [
        ("import helper", "helper"),
        ("from helper import f", "helper"),
        ("from parts import helper", "parts__helper"),
        ("import parts.helper as h", "parts__helper"),
        ("from parts.helper import f", "parts__helper"),
        ("from .helper import f", "helper"),
        ("from . import helper", "helper"),
        ("import between", "helper"),  # which imports it in turn
    ],
)
def test_what_it_imports_from_beside_it_counts(tmp_path, imports, helper):
    texts = {"score": SCORE.format(imports=imports), "between": "import helper, score"}
    texts |= {"helper": "", "parts__helper": ""}
    before = file_hash(written(tmp_path, **texts) / "score.py")
    written(tmp_path, unrelated="f = 1")
    assert file_hash(tmp_path / "score.py") == before
    written(tmp_path, **{helper: "f = 2"})
    assert file_hash(tmp_path / "score.py") != before


def test_a_package_of_the_users_is_seen_from_its_top(tmp_path):
    texts = {"mine____init__": "", "mine__score": SCORE.format(imports="from mine.helper import f")}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    del texts["mine____init__"]
    before = file_hash(written(tmp_path, **texts, mine__helper="") / "mine" / "score.py")
    written(tmp_path, mine__helper="f = 1")
    assert file_hash(tmp_path / "mine" / "score.py") != before


def test_of_what_is_installed_no_neighbour_counts(tmp_path):
    folder = tmp_path / "site-packages"
    text = SCORE.format(imports="import helper")
    before = file_hash(written(folder, score=text, helper="") / "score.py")
    written(folder, helper="f = 1")
    assert file_hash(folder / "score.py") == before


def test_a_class_of_no_module_is_said_nothing_of():
    assert source_hash(type("Made", (), {"__module__": "nowhere"})) is None


MAIN_CLASS = """
import helpers
WIDTHS = (8, 16)
def halved(number): return number // {divisor}
class Mine:
    widths = WIDTHS
    def width(self): return helpers.f(halved(max({values})))
unrelated = {unrelated}
"""


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"divisor": 3}, True),
        ({"values": "WIDTHS[:1]"}, True),
        ({"unrelated": 2}, False),
        ({"helpers": "def f(x): return 2 * x"}, True),
    ],
)
def test_what_a_class_of_a_notebook_uses_counts(tmp_path, monkeypatch, change, counts):
    """It has no file, so that it is told by what it was compiled to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    start = {"divisor": 2, "values": "WIDTHS", "unrelated": 1, "helpers": "def f(x): return x"}
    for values in (start, start, {**start, **change}):
        written(tmp_path, helpers=values["helpers"])
        sys.modules.pop("helpers", None)
        cell = {"__name__": "__main__"}
        exec(compile(MAIN_CLASS.format(**values), "<cell>", "exec"), cell)
        found.append(source_hash(cell["Mine"]))
    sys.modules.pop("helpers", None)
    assert found[0] == found[1] is not None
    assert (found[2] != found[0]) == counts


def test_settings_name_files_modules_and_registered_classes(tmp_path, monkeypatch):
    file = written(tmp_path, my_scores=SCORE.format(imports="")) / "my_scores.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    own = SCORES.get(f"{file}:Mine")
    assert source_hash(own) == file_hash(file)
    settings = {
        "signals": [f"{file}:Mine", "val_loss", "naswot"],
        "regressor": "my_scores:Mine",
        "uri": "http://host:5000",
        "device": "cuda:1",
        "model": "models:/a/1",
        "absent": "no/such/file.py:Mine",
        "ships": "nas_proxy.scores.num_params:NumParams",
    }
    expected = {f"{file}:Mine": file_hash(file), "my_scores:Mine": file_hash(file)}
    assert sources_named(settings) == expected
    sys.modules.pop("my_scores", None)


@pytest.mark.parametrize(
    ("settings", "is_named"),
    [
        ({"space": {"name": "own_word"}}, True),
        ({"distill": {"name": "own_word", "images_per_class": 3}}, True),
        ({"teachers": [{"space": "own_word"}]}, True),
        ({"calibrate": {"recipes": [{"score": {"signals": ["val_loss", "own_word"]}}]}}, True),
        ({"validate": {"controls": ["own_word"]}}, True),
        ({"recipe": {"name": "own_word"}}, False),
        ({"data": {"name": "own_word", "classes": ["own_word"]}}, False),
        ({"study_name": "own_word"}, False),
        ({"own_word": "own_word"}, False),
    ],
)
def test_a_registered_name_counts_where_a_plug_in_is_meant(settings, is_named, monkeypatch):
    class Own:
        code_hash = "abc"

    kind = type(SCORES)
    monkeypatch.setattr(kind, "loaded", lambda self, name: Own if name == "own_word" else None)
    assert sources_named(settings) == ({"own_word": "abc"} if is_named else {})
