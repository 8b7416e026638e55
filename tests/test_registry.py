import os
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nas_proxy import registry as registry_module
from nas_proxy.errors import PluginError
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.processes import pack, unpack
from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES, Registry
from nas_proxy.scores.num_params import NumParams

PLUGIN = """
from dataclasses import dataclass
from nas_proxy.interfaces import ZeroCostScore

@dataclass(frozen=True, kw_only=True)
class MyScore(ZeroCostScore):
    factor: float = {factor}

    def measure(self, network, images):
        return self.factor
"""


@pytest.fixture
def registry():
    """A registry of scores that no installed distribution adds to."""
    return Registry("score", ZeroCostScore, "nas_proxy.tests.nothing")


@pytest.fixture
def plugin_file(tmp_path):
    path = tmp_path / "my_score.py"
    path.write_text(PLUGIN.format(factor=1.0))
    return path


def announce(monkeypatch, **values):
    entries = [EntryPoint(name, value, "group") for name, value in values.items()]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: entries)


def new_score(module="first", **members):
    members = {"__module__": module, "measure": lambda self, network, images: 0.0, **members}
    return type("Score", (ZeroCostScore,), members)


# --- names ----------------------------------------------------------------------------------


def test_registering_names_the_class_and_makes_it_known(registry):
    score = registry.register("mine")(new_score())
    assert score.name == "mine"
    assert registry.names() == ["mine"]
    assert registry.get("mine") is score


def test_a_name_given_twice_names_both_origins(registry):
    registry.register("mine")(new_score("first"))
    with pytest.raises(PluginError) as caught:
        registry.register("mine")(new_score("second"))
    message = str(caught.value)
    assert "'mine'" in message
    assert "first:Score" in message
    assert "second:Score" in message


def test_a_refused_class_does_not_replace_the_first(registry):
    first = registry.register("mine")(new_score("first"))
    with pytest.raises(PluginError):
        registry.register("mine")(new_score("second"))
    assert registry.get("mine") is first


def test_the_same_class_may_be_imported_again(registry):
    registry.register("mine")(new_score("first"))
    reloaded = registry.register("mine")(new_score("first"))
    assert registry.get("mine") is reloaded


def test_an_unknown_name_names_the_nearest_and_the_way_to_an_own_file(registry):
    registry.register("log_synflow")(new_score())
    with pytest.raises(PluginError, match="did you mean 'log_synflow'") as caught:
        registry.get("logsynflow")
    assert "path/to/file.py:NAME" in str(caught.value)


def test_an_unknown_name_like_no_other_lists_all(registry):
    for name in ("naswot", "flops"):
        registry.register(name)(new_score(name))
    with pytest.raises(PluginError, match="known: flops, naswot"):
        registry.get("zzz")


def test_an_empty_registry_says_so(registry):
    with pytest.raises(PluginError, match="there is none"):
        registry.get("naswot")


# --- entry points ---------------------------------------------------------------------------


def test_names_lists_announced_plugins_without_importing_them(registry, monkeypatch):
    announce(monkeypatch, broken="no.such.module:Score")
    assert registry.names() == ["broken"]


def test_an_announced_plugin_is_imported_when_asked_for(registry, monkeypatch):
    announce(monkeypatch, num_params="nas_proxy.scores.num_params:NumParams")
    assert registry.get("num_params") is NumParams


def test_an_announced_plugin_that_cannot_be_imported_says_why(registry, monkeypatch):
    announce(monkeypatch, broken="no.such.module:Score")
    with pytest.raises(PluginError, match="'broken'.*no.such.module:Score.*No module named"):
        registry.get("broken")


def test_an_announced_plugin_of_another_kind_is_refused(registry, monkeypatch):
    announce(monkeypatch, convnet="nas_proxy.search_spaces.convnet:ConvNetSpace")
    with pytest.raises(PluginError, match="is not a score: derive the class from .*ZeroCostScore"):
        registry.get("convnet")


def test_two_distributions_with_one_name_are_both_named(registry, monkeypatch):
    entries = [EntryPoint("mine", f"{package}:Score", "group") for package in ("one", "two")]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: entries)
    with pytest.raises(PluginError, match="one:Score and two:Score"):
        registry.names()


@pytest.mark.parametrize(
    ("known", "names"),
    [
        (SEARCH_SPACES, {"convnet", "nasbench201"}),
        (SCORES, {"num_params", "flops", "log_synflow", "naswot"}),
        (DISTILLERS, {"random_subset", "distribution_matching", "gradient_matching", "file"}),
    ],
    ids=["spaces", "scores", "distillers"],
)
def test_the_built_in_plugins_are_announced_and_load(known, names):
    assert names <= set(known.names())
    for name in names:
        assert known.get(name).name == name


@pytest.mark.parametrize("location", ["search_spaces/{}.py", "search_spaces.{}"])
@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("nasbench201", "NASBench201Space"),
        ("torchvision_backbones", "TorchvisionBackbonesSpace"),  # has files beside it
    ],
)
def test_an_announced_plugin_is_one_class_however_its_file_is_named(
    name, class_name, location, monkeypatch
):
    monkeypatch.chdir(Path(__file__).parents[1])
    announced = SEARCH_SPACES.get(name)
    assert SEARCH_SPACES.get(f"{location.format(name)}:{class_name}") is announced
    assert SEARCH_SPACES.get(name) is announced


# --- files and modules ----------------------------------------------------------------------


def test_a_class_in_a_file_is_named_by_its_reference(registry, plugin_file):
    reference = f"{plugin_file}:MyScore"
    score = registry.get(reference)
    assert score.name == reference
    assert score().measure(None, None) == 1.0
    assert registry.get(reference) is score


def test_a_name_of_the_authors_own_gives_way_to_what_finds_the_class(registry, plugin_file):
    # Architectures and model files say the name, and are read back by it.
    plugin_file.write_text(plugin_file.read_text() + "    name = 'mine'\n")
    reference = f"{plugin_file}:MyScore"
    score = registry.get(reference)
    assert score.name == reference
    assert registry.get(score.name) is score


def test_a_relative_path_works(registry, plugin_file, monkeypatch):
    monkeypatch.chdir(plugin_file.parent)
    assert registry.get("my_score.py:MyScore")().measure(None, None) == 1.0


def test_an_instance_from_a_file_can_be_pickled(registry, plugin_file):
    score = registry.get(f"{plugin_file}:MyScore")(factor=3.0)
    assert unpack(pack(score)) == score


def test_an_edited_file_is_read_anew(registry, plugin_file, monkeypatch):
    """Though Python keeps bytecode, and takes it for that of a file as long and as old."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    reference = f"{plugin_file}:MyScore"
    registry.get(reference)
    before = plugin_file.stat()
    plugin_file.write_text(PLUGIN.format(factor=2.0))
    os.utime(plugin_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert registry.get(reference)().measure(None, None) == 2.0


def test_files_of_one_name_live_side_by_side(registry, plugin_file, tmp_path):
    other = tmp_path / "other" / plugin_file.name
    other.parent.mkdir()
    other.write_text(PLUGIN.format(factor=2.0))
    scores = [registry.get(f"{path}:MyScore") for path in (plugin_file, other)]
    assert [score().measure(None, None) for score in scores] == [1.0, 2.0]


def test_a_class_in_a_module_is_found(registry):
    assert registry.get("nas_proxy.scores.num_params:NumParams") is NumParams


def test_a_registered_class_keeps_its_name_when_referred_to(registry):
    assert registry.get("nas_proxy.scores.num_params:NumParams").name == "num_params"


@pytest.mark.parametrize(
    ("reference", "fault"),
    [
        ("nowhere/my_score.py:MyScore", r"nowhere/my_score.py does not exist \(looked at /"),
        ("no_such_module:MyScore", "'no_such_module' cannot be imported: ModuleNotFoundError"),
        (":MyScore", "cannot be imported"),
    ],
)
def test_what_does_not_exist_is_said(registry, reference, fault):
    with pytest.raises(PluginError, match=fault):
        registry.get(reference)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError: No module named"),
        ("raise RuntimeError('ouch')", "cannot be imported: RuntimeError: ouch"),
        ("class MyScores: pass", "has no class 'MyScore'; did you mean 'MyScores'"),
        ("", "has no class 'MyScore'; there is none"),
        ("class MyScore: pass", "is not a score: derive the class from .*ZeroCostScore"),
        ("MyScore = 3", "is not a score"),
        (
            """
            from nas_proxy.interfaces import ZeroCostScore
            class MyScore(ZeroCostScore):
                def mesure(self, network, images):
                    return 0.0
            """,
            "lacks the method measure of nas_proxy.interfaces.ZeroCostScore",
        ),
    ],
)
def test_a_file_with_a_fault_says_which(registry, plugin_file, content, fault):
    plugin_file.write_text(textwrap.dedent(content))
    with pytest.raises(PluginError, match=fault):
        registry.get(f"{plugin_file}:MyScore")


def test_a_file_that_failed_is_tried_again(registry, plugin_file, tmp_path):
    helper = tmp_path / "flag"
    plugin_file.write_text(
        f"open({str(helper)!r})\n" + PLUGIN.format(factor=1.0)  # fails until the flag exists
    )
    with pytest.raises(PluginError, match="FileNotFoundError"):
        registry.get(f"{plugin_file}:MyScore")
    helper.touch()
    assert registry.get(f"{plugin_file}:MyScore")().measure(None, None) == 1.0
