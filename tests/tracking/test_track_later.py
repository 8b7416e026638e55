"""A study that ran offline goes to a store later, whole and once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from nas_proxy.cli.main import cli
from nas_proxy.errors import UserError
from nas_proxy.tracking import Tracker, TrackingSettings, open_tracker, track_study
from tests.tracking.helpers import Store, closed_port, log_study, log_trial


def offline(folder: Path) -> Tracker:
    settings = TrackingSettings(enabled=False)
    return open_tracker(settings, folder.parent, folder, folder.name)


def there(store: Store) -> TrackingSettings:
    return TrackingSettings(uri=f"sqlite:///{store.results}/mlflow.db")


def test_what_was_not_tracked_goes_there_whole_and_once(
    store: Store, study: str, tmp_path: Path
) -> None:
    folder = tmp_path / study
    with offline(folder) as tracker:
        log_study(tracker, folder)
    assert track_study(folder, there(store)) > 0
    found = store.find_one(study)
    assert len(found) == 5
    assert all(len(found[f"trial {n}"].history["train_loss"]) == 50 for n in range(3))
    assert found[study].artifacts == {"reports/report é #1.html"}
    assert found["trial 3"].tags["reason"] == "the loss was not finite at step 7"
    assert track_study(folder, there(store)) == 0
    with offline(folder) as tracker:
        log_trial(tracker.trial(4, "trial 4"), 4)
    assert track_study(folder, there(store)) > 0
    # Also where the note of it is lost.
    for state in (folder / "tracking").glob("state*"):
        state.unlink()
    assert track_study(folder, there(store)) > 0
    again = store.find_one(study)
    assert len(again) == 6
    assert again["trial 0"] == found["trial 0"]


def test_where_the_study_itself_is_tracked_stays(store: Store, study: str, tmp_path: Path) -> None:
    """Its own store does not get everything again, nor the other one."""
    folder = tmp_path / study
    own = there(store)
    with open_tracker(own, tmp_path, folder, study) as tracker:
        log_trial(tracker.trial(0, "trial 0"), 0)
    state = folder / "tracking" / "state.json"
    before = state.read_text()
    other = replace(own, experiment="another")
    assert track_study(folder, other) > 0
    assert track_study(folder, other) == 0
    assert state.read_text() == before


def test_what_cannot_be_tracked_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds nothing to track"):
        track_study(tmp_path, TrackingSettings(uri="http://127.0.0.1:1"))
    with offline(tmp_path / "study") as tracker:
        log_trial(tracker.trial(0, "trial 0"), 0)
    away = TrackingSettings(uri=f"http://me:s3cret@127.0.0.1:{closed_port()}")
    with pytest.raises(UserError, match="does not take all of .* run the same command") as caught:
        track_study(tmp_path / "study", away)
    assert "s3cret" not in str(caught.value)
    done = CliRunner().invoke(cli, ["track", str(tmp_path / "study"), "--to", "http://127.0.0.1:1"])
    assert isinstance(done.exception, UserError)
    assert "holds no config.yaml" in str(done.exception)
