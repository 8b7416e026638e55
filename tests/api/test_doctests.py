"""What `nas_proxy` offers shows in its docstring how it is used, and what that prints."""

import doctest
import importlib
import inspect
import sys

import pytest

import nas_proxy
from nas_proxy.api import steps

NAMES = [name for name in nas_proxy.__all__ if name != "__version__"]
# What docs/api.md names beside them.
IN_PACKAGES = {
    "nas_proxy.registry": ["Registry"],
    "nas_proxy.interfaces": ["DistillContext", "DistillTask"],
    "nas_proxy.data": ["DataSettings", "load_splits"],
    "nas_proxy.types": ["DatasetSpec", "Evaluation", "Fidelity", "ImageDataset", "Splits"],
    "nas_proxy.study": ["load_config", "run_pipeline"],
}


def defined(name):
    """The class or function by a name; of a package what calling it does.

    A package is an attribute of the one that it lies in, whose function of that name it hides.
    """
    offered = getattr(nas_proxy, name)
    if inspect.ismodule(offered):
        return getattr(steps, name)
    return offered


def test_few_names_are_offered():
    assert 20 <= len(NAMES) <= 24


@pytest.mark.parametrize(
    ("package", "name"),
    [("nas_proxy", name) for name in NAMES]
    + [(package, name) for package, names in IN_PACKAGES.items() for name in names],
)
def test_the_example_in_a_docstring_runs(package, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    is_offered = package == "nas_proxy"
    offered = defined(name) if is_offered else getattr(importlib.import_module(package), name)
    module = sys.modules[offered.__module__]
    test = doctest.DocTestParser().get_doctest(
        inspect.getdoc(offered), dict(vars(module)), name, None, None
    )
    assert test.examples, f"{name} shows no example"
    said = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)
