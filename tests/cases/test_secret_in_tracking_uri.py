"""Passwords, keys and tokens are used, and written nowhere.

That a configuration holds none is in `tests/study/test_config.py`, of stores that are away in
`tests/tracking/test_tracking_failures.py`.
"""

import re

import pytest

from nas_proxy.errors import ConfigError, masked
from nas_proxy.study.config import check_config
from nas_proxy.tracking import _uploader
from tests.cases.helpers import TINY, assert_one_sentence, write_config

ADDRESSES = {
    "http://user:secret@127.0.0.1:1": "http://***@127.0.0.1:1",
    "http://secret@127.0.0.1:1/a": "http://***@127.0.0.1:1/a",
    "http://user:se@cret:secret@host/a@b": "http://***@host/a@b",
    "postgresql+psycopg2://user:secret/secret@host:5/db": "postgresql+psycopg2://***@host:5/db",
    "mysql://host/db?user=me&password=secret&ssl=1": "mysql://host/db?user=me&password=***&ssl=1",
    "postgresql://host/db?sslpassword=secret": "postgresql://host/db?sslpassword=***",
    "https://host/?api_key=secret": "https://host/?api_key=***",
    "https://host/blob?sv=1&sig=secret": "https://host/blob?sv=1&sig=***",
    "host=h user=me password=secret dbname=d": "host=h user=me password=*** dbname=d",
    "redis://:secret@host:6379/0": "redis://***@host:6379/0",
}
PUBLIC = (
    "http://host:5000/api@2", "sqlite:////home/a@b/mlflow.db", "models:/a@champion",
    "file:///a/b@c", "https://host/?page=2&design=3", "me@host said: width=32,depth=4",
)  # fmt: skip


@pytest.mark.parametrize(("address", "shown"), ADDRESSES.items())
def test_secrets_of_every_kind_of_address_are_masked(address, shown):
    assert masked(address) == shown
    assert masked(shown) == shown
    assert masked(f"'{address}' cannot be reached; see {address}") == (
        f"'{shown}' cannot be reached; see {shown}"
    )


@pytest.mark.parametrize("text", PUBLIC)
def test_what_is_no_secret_stays(text):
    assert masked(text) == text


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_section_of_what_is_written_holds_a_secret(address):
    config = check_config(
        {
            **TINY,
            "tracking": {"uri": address},
            "search": {"storage": address},
            "data": {"name": "cifar10", "root": address},
        }
    )
    assert "secret" in repr(config.tracking.uri)
    assert "secret" not in config.to_yaml()


def test_a_written_configuration_says_that_its_login_is_gone():
    written = check_config({**TINY, "tracking": {"uri": "http://me:secret@host"}}).resolved
    with pytest.raises(
        ConfigError, match=r"tracking: uri: the login of .*was left out.*put it back"
    ):
        check_config(written)
    with pytest.raises(ConfigError, match="search: storage: the login"):
        check_config({**TINY, "search": {"storage": "mysql://host/a?password=***"}})


def test_a_study_whose_tracker_has_a_password_leaves_none(nas_proxy, tmp_path, monkeypatch, caplog):
    """Neither in files nor on the terminal, whether it ends well or not."""
    monkeypatch.setattr(_uploader.Uploader, "wake", lambda self: self._warn_kept("it is away"))
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret-of-the-environment")
    write_config(tmp_path, tracking={"uri": "http://user:secret@127.0.0.1:1"})
    said = ""
    for words in (["run", "c.yaml"], ["--debug", "search", "c.yaml", "search.n_trials=0"]):
        outcome = nas_proxy(*words)
        said += outcome.output + outcome.errors
    assert "it is away" in caplog.text
    files = {
        path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()
    }
    assert len(files) > 10
    assert not [path for path, content in files.items() if b"secret" in content]
    assert "secret" not in said + caplog.text


def test_an_error_of_a_database_says_no_password(nas_proxy, tmp_path):
    write_config(tmp_path)
    storage = "search.storage=postgresql://me:secret@127.0.0.1:no_port/trials"
    outcome = nas_proxy("search", "c.yaml", storage)
    assert_one_sentence(outcome, "search.storage")
    assert not re.search("secret", outcome.errors + outcome.output)
