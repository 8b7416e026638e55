"""Folders of their own for the tests of what is read from disk."""

import pytest


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NAS_PROXY_CACHE", str(cache))
    monkeypatch.delenv("NAS_PROXY_DATA", raising=False)
    return cache


@pytest.fixture
def own_folders(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for variable in ("NAS_PROXY_CACHE", "NAS_PROXY_DATA"):
        monkeypatch.delenv(variable, raising=False)
