"""What the page says that candidates were trained on and ranked by."""

from dataclasses import replace

import pytest

from nas_proxy.data.proxy_dataset import Labelling, TeacherRecord
from nas_proxy.report.html import render_html
from tests.report.helpers import Page, make_report, with_search

TRAIN = {"num_steps": 90, "num_epochs": None, "batch_size": 128}
SCORE = {"signals": ["val_loss", "naswot"], "combine": "calibrated", "use_encoding": True}


def shown(**recipe):
    """The text of a page whose candidates another recipe than the sections ranked."""
    report = make_report(validated=False, num_trials=5)
    if recipe:
        config = {name: section for name, section in report.config.items() if name != "score"}
        settings = {"name": "found", "train": TRAIN, "score": SCORE, **recipe}
        signals = tuple(settings["score"]["signals"])
        report = with_search(report, signals=signals, recipe_settings=settings)
        report = replace(report, config=config)
    return Page(render_html(report, [])).text


def test_the_sections_where_no_recipe_was_looked_for():
    text = shown()
    assert "each trained for 100 steps on the proxy data set" in text
    assert "ranked by val_loss." in text


@pytest.mark.parametrize(
    ("train_on", "words"), [("proxy", "proxy data set ("), ("full_data", "full data,")]
)
def test_the_recipe_that_was_found(train_on, words):
    text = shown(train_on=train_on)
    assert f"each trained for 90 steps on the {words}" in text
    assert "val_loss + naswot (a model of them, fitted to the calibration sample)." in text
    assert "combine calibrated" in text
    assert "100 steps" not in text


def test_a_recipe_that_trains_nothing():
    score = {"signals": ["naswot", "flops"], "combine": "rank_mean"}
    text = shown(train_on="nothing", train=TRAIN, score=score)
    assert "none of them trained, and ranked by naswot + flops (mean of their ranks)." in text
    assert "Training of a candidate" not in text


@pytest.mark.parametrize("num_leaked", [0, 7])
def test_teachers_are_named_and_what_they_have_seen(num_leaked):
    report = make_report()
    taught_by = (TeacherRecord("ab", "resnet18 of 20 epochs", "CC BY", num_leaked),)
    labels = Labelling(kind="soft", teachers=taught_by)
    proxy_dataset = replace(report.proxy_dataset, labelling=labels, networks=taught_by)
    text = Page(render_html(replace(report, proxy_dataset=proxy_dataset), [])).text
    assert text.count("resnet18 of 20 epochs") >= 1
    assert ("trained on 7 images that judge its students" in text) is (num_leaked > 0)
