"""How long a study took by the clock."""

import json

import pytest

from nas_proxy.study.clock import on_the_clock, wall_seconds


def test_every_run_of_a_stage_counts_however_it_ends(tmp_path):
    file = tmp_path / "clock.jsonl"
    with on_the_clock(file, "distill"):
        pass
    with pytest.raises(KeyboardInterrupt), on_the_clock(file, "search"):
        raise KeyboardInterrupt
    with on_the_clock(file, "search"):
        pass
    notes = [json.loads(line) for line in file.read_text().splitlines()]
    assert [note["stage"] for note in notes] == ["distill", "search", "search"]
    assert list(wall_seconds(file)) == ["distill", "search"]
    assert wall_seconds(file)["search"] == sum(note["seconds"] for note in notes[1:])


def test_what_a_kill_cut_off_counts_nothing_and_spoils_nothing(tmp_path):
    file = tmp_path / "clock.jsonl"
    file.write_text('{"stage": "distill", "seconds": 2.5}\nno json\n{"stage": "sea')
    assert wall_seconds(file) == {"distill": 2.5}
    with on_the_clock(file, "search"):
        pass
    assert list(wall_seconds(file)) == ["distill", "search"]
    assert wall_seconds(tmp_path / "absent") == {}


def test_a_disk_that_is_full_hides_no_error_of_the_stage(tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    with pytest.raises(ZeroDivisionError), on_the_clock(blocked / "clock.jsonl", "search"):
        raise ZeroDivisionError
