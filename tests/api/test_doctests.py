"""What `nas_proxy` offers shows in its docstring how it is used, and what that prints."""

import doctest
import inspect
import sys

import pytest

import nas_proxy
from nas_proxy.api import steps

NAMES = [name for name in nas_proxy.__all__ if name != "__version__"]


def defined(name):
    """The class or function by a name; of a registry its class, of a package what calling it does.

    A package is an attribute of the one that it lies in, whose function of that name it hides.
    """
    offered = getattr(nas_proxy, name)
    if inspect.ismodule(offered):
        return getattr(steps, name)
    return offered if inspect.isclass(offered) or inspect.isfunction(offered) else type(offered)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_a_docstring_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    offered = defined(name)
    module = sys.modules[offered.__module__]
    test = doctest.DocTestParser().get_doctest(
        inspect.getdoc(offered), dict(vars(module)), name, None, None
    )
    assert test.examples, f"{name} shows no example"
    said = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)
