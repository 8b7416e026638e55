"""The first screen: what won, and commands that can be typed."""

import shlex
from dataclasses import replace

import pytest
import yaml

from nas_proxy.report.html import render_html
from nas_proxy.report.summary import summarise
from nas_proxy.statistics.needed import Needed
from nas_proxy.study.config import check_config
from nas_proxy.study.config_file import read_mapping
from tests.report.helpers import Page, make_report, with_validation

PLAIN = {
    "study_name": "s",
    "data": {"name": "digits"},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [8], "depths": [1]},
    "train": {"num_steps": 2},
}


@pytest.fixture
def config(tmp_path):
    """A resolved configuration, as a study writes it, in a folder whose name has to be quoted."""
    path = tmp_path / "my results" / "s" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(check_config(PLAIN).to_yaml())
    return path


def commands(report, config):
    report = replace(report, commands=(f"nas-proxy run {config}",))
    return [shlex.split(step.command) for step in summarise(report).steps]


def test_every_command_can_be_typed(config):
    open_verdict = with_validation(make_report(), num_more_architectures=Needed(10, 20))
    validated = {"reference": {"train": {"num_steps": 2}}, "num_architectures": 48}
    for report, section in ((make_report(validated=False), None), (open_verdict, validated)):
        resolved = yaml.safe_load(config.read_text()) | {"validate": section}
        config.write_text(yaml.safe_dump(resolved))
        proof, train, look = commands(report, config)
        for words in (proof, train):
            assert words[:2] == ["nas-proxy", "run"]
            check_config(read_mapping(config.parent / "config.yaml", words[3:]))
            assert words[2] == str(config)
        assert look == ["nas-proxy", "ui", "--results", str(config.parents[1])]
    assert "validate.num_architectures=68" in commands(open_verdict, config)[0]


def test_a_verdict_that_leaves_nothing_open_asks_for_no_more(config):
    settled = with_validation(make_report(), num_more_architectures=None)
    assert "validate" not in str(commands(settled, config))


def test_a_search_in_which_everything_failed_has_no_winner():
    report = make_report(everything_failed=True)
    found = summarise(report)
    assert (found.winner, found.result, found.steps) == ("", "", ())
    assert "winner" not in Page(render_html(report, [])).tags


def test_seconds_of_the_clock_are_told_from_those_of_processes():
    report = replace(make_report(), wall_seconds={"distill": 60.0, "search": 61.0})
    text = Page(render_html(report, [])).text
    assert "the whole study, by the clock 2 min 1 s" in text
    assert "distill 1 min, search 1 min 1 s" in text
    assert "core time per archi" in text
    gpu = replace(report, config={**report.config, "device": "cuda"})
    assert "GPU time per archi" in Page(render_html(gpu, [])).text
