"""The configurations that come with the installation."""

import pytest
import yaml
from click.testing import CliRunner

from nas_proxy.cli.main import cli
from nas_proxy.errors import ConfigError


def test_an_example_is_a_configuration_as_it_stands() -> None:
    listed = CliRunner().invoke(cli, ["example"]).output.splitlines()
    names = [line.split()[0] for line in listed]
    assert "quickstart" in names
    assert all(len(line.split()) > 3 for line in listed)
    for name in names:
        printed = CliRunner().invoke(cli, ["example", name]).output
        assert yaml.safe_load(printed)["study_name"]


def test_an_unknown_example_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        CliRunner().invoke(cli, ["example", "quickstar"], catch_exceptions=False)
