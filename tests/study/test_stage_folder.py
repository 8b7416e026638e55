"""A stage's folder: done or not, whose it is, and what differs when it is another's."""

import errno
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_proxy.errors import StudyError
from nas_proxy.study.stage_folder import (
    StageFolder,
    differences,
    recorded_key,
    released_on_user_error,
)

INPUTS = {"distill": {"method": "dm", "num_steps": 100}, "data": "0123", "seed": 0}


def stage(tmp_path, goal=None, version=1, terms=None, **changes):
    return StageFolder(tmp_path / "stage", version, {**INPUTS, **changes}, goal=goal, terms=terms)


def finished(tmp_path, goal=None):
    """The folder of a stage that ran to its end and left a file."""
    folder = stage(tmp_path, goal)
    assert folder.open(force=False)
    (folder.path / "result").write_text("result")
    folder.finish()
    return folder


def content(folder):
    return {file.name: file.read_bytes() for file in folder.path.iterdir()}


# Running or not


def test_a_new_stage_runs_and_says_what_it_was_given(tmp_path):
    folder = stage(tmp_path, goal=7)
    assert folder.open(force=False)
    record = json.loads((folder.path / "stage.json").read_text())
    assert record == {
        "format": 2,
        "finished": False,
        "goal": 7,
        "terms": {},
        "inputs": {"stage version": 1, **INPUTS},
        "results": [],
    }


def test_a_finished_stage_is_skipped_and_left_alone(tmp_path):
    before = content(finished(tmp_path))
    again = stage(tmp_path)
    assert not again.open(force=False)
    assert content(again) == before


def test_an_interrupted_stage_runs_again_with_what_it_left(tmp_path):
    folder = stage(tmp_path)
    folder.open(force=False)
    (folder.path / "checkpoint").write_text("half")
    assert stage(tmp_path).open(force=False)
    assert (folder.path / "checkpoint").read_text() == "half"


def test_a_stage_that_lost_a_result_runs_again_with_what_is_left(tmp_path):
    folder = stage(tmp_path)
    folder.open(force=False)
    results = [folder.path / "model", folder.path / "champion" / "card"]
    results[1].parent.mkdir()
    for file in results:
        file.write_text("made")
    folder.finish(*results)
    assert not stage(tmp_path).open(force=False)
    results[1].unlink()
    assert stage(tmp_path).open(force=False)
    assert results[0].read_text() == "made"


def test_a_mistake_before_any_work_leaves_the_folder_to_whoever_mends_it(tmp_path):
    first, mended = stage(tmp_path), stage(tmp_path, seed=1)

    def run(folder, *files):
        with released_on_user_error(folder.path):
            folder.open(force=False)
            for file in files:
                (folder.path / file).write_text("hours")
            raise StudyError("the teacher has seen the judges")

    for folder, files in ((first, ()), (mended, ["log"])):
        with pytest.raises(StudyError, match="seen"):
            run(folder, *files)
    with pytest.raises(StudyError, match="seed: 1 -> 0"):
        run(first)


def test_other_terms_are_met_with_what_is_there(tmp_path):
    first, other = {"threshold": 0.8, "sample": (1, 2)}, {"threshold": 0.7, "sample": (1, 2)}
    folder = stage(tmp_path, terms=first)
    folder.open(force=False)
    (folder.path / "log").write_text("hours")
    folder.finish()
    assert not stage(tmp_path, terms=first).open(force=False)
    assert stage(tmp_path, terms=other).open(force=False)
    assert (folder.path / "log").read_text() == "hours"
    # Not finished under any terms now, until it is.
    assert stage(tmp_path, terms=first).open(force=False)
    stage(tmp_path, terms=other).finish()
    assert not stage(tmp_path, terms=other).open(force=False)
    with pytest.raises(StudyError, match="seed: 0 -> 1"):
        stage(tmp_path, terms=other, seed=1).open(force=False)


def test_force_discards_whatever_is_there(tmp_path):
    finished(tmp_path)
    again = stage(tmp_path, seed=1)
    assert again.open(force=True)
    assert set(content(again)) == {"stage.json"}
    assert stage(tmp_path, seed=1).open(force=False), "it has not been finished"
    with pytest.raises(StudyError):
        stage(tmp_path).open(force=False)


def test_force_works_where_nothing_is_yet(tmp_path):
    assert stage(tmp_path).open(force=True)


def test_inputs_are_compared_as_json(tmp_path):
    folder = stage(tmp_path, widths=(8, 16), options={1: "a"})
    folder.open(force=False)
    folder.finish()
    assert not stage(tmp_path, widths=[8, 16], options={"1": "a"}).open(force=False)


# Goals


@pytest.mark.parametrize(
    ("earlier", "asked", "runs"),
    [(10, 10, False), (10, 11, True), (10, 9, False), (None, None, False), (None, 1, True)],
)
def test_a_finished_stage_goes_on_only_for_a_larger_goal(tmp_path, earlier, asked, runs):
    finished(tmp_path, goal=earlier)
    grown = stage(tmp_path, goal=asked)
    assert grown.open(force=False) is runs
    assert (grown.path / "result").read_text() == "result"
    record = json.loads((grown.path / "stage.json").read_text())
    assert record["finished"] is not runs
    assert record["goal"] == (asked if runs else earlier)


def test_a_goal_that_grew_is_reached_once(tmp_path):
    finished(tmp_path, goal=10)
    grown = stage(tmp_path, goal=20)
    assert grown.open(force=False)
    assert stage(tmp_path, goal=20).open(force=False), "interrupted"
    grown.finish()
    assert not stage(tmp_path, goal=20).open(force=False)
    assert not stage(tmp_path, goal=10).open(force=False)


# Another's folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"distill": {"method": "dm", "num_steps": 200}}, "distill.num_steps: 100 -> 200"),
        ({"distill": {"method": "dm"}}, "distill.num_steps: 100 -> (absent)"),
        (
            {"distill": {**INPUTS["distill"], "augment": "color"}},
            "distill.augment: (absent) -> color",
        ),
        ({"data": "4567"}, "data: 0123 -> 4567"),
        ({"version": 2}, "stage version: 1 -> 2"),
        ({"data": "4567", "seed": 1}, "data: 0123 -> 4567; seed: 0 -> 1"),
        ({"distill": None}, 'distill: {"method": "dm", "num_steps": 100} -> null'),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_other_inputs_are_refused_by_name_and_nothing_is_touched(tmp_path, change, said, complete):
    folder = finished(tmp_path)
    if not complete:
        folder.open(force=True)
    before = content(folder)
    with pytest.raises(StudyError, match=re.escape(f"({said}); choose another study_name")) as info:
        stage(tmp_path, **change).open(force=False)
    assert str(folder.path) in str(info.value)
    assert "--force" in str(info.value)
    assert content(folder) == before


DAMAGED = ["", "{", "[]", "3", "null", '"text"', "{}", '{"inputs": {}, "finished": true}', "\udcff"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_record_is_refused_with_the_way_out(tmp_path, text):
    folder = finished(tmp_path)
    (folder.path / "stage.json").write_bytes(text.encode(errors="surrogateescape"))
    before = content(folder)
    with pytest.raises(StudyError, match=r"stage\.json .*is damaged .* pass --force to the"):
        stage(tmp_path).open(force=False)
    assert content(folder) == before


@pytest.mark.parametrize("text", DAMAGED)
def test_force_is_a_way_out_of_a_damaged_record(tmp_path, text):
    folder = finished(tmp_path)
    (folder.path / "stage.json").write_bytes(text.encode(errors="surrogateescape"))
    assert stage(tmp_path).open(force=True)
    assert set(content(folder)) == {"stage.json"}
    folder.finish()
    assert not stage(tmp_path).open(force=False)


def test_a_full_disk_never_leaves_half_a_record(tmp_path, monkeypatch):
    folder = stage(tmp_path)
    folder.open(force=False)
    before = content(folder)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.finish()
    assert content(folder) == before


# Keys and other versions


def test_the_recorded_key_depends_on_inputs_and_version_alone(tmp_path):
    def key(folder):
        folder.open(force=True)
        return recorded_key(folder.path)

    plain = key(stage(tmp_path))
    assert key(StageFolder(tmp_path / "elsewhere", 1, dict(reversed(INPUTS.items())))) == plain
    assert key(stage(tmp_path, goal=3)) == key(stage(tmp_path, terms={"threshold": 0.5})) == plain
    assert len({plain, key(stage(tmp_path, seed=1)), key(stage(tmp_path, version=2))}) == 3
    finished(tmp_path / "other")
    assert recorded_key(tmp_path / "other" / "stage") == plain
    with pytest.raises(StudyError, match="was not run"):
        recorded_key(tmp_path / "nowhere")


def test_what_an_earlier_version_wrote_is_refused_in_one_sentence(tmp_path):
    folder = finished(tmp_path)
    record = json.loads((folder.path / "stage.json").read_text())
    del record["format"]
    (folder.path / "stage.json").write_text(json.dumps(record))
    before = content(folder)
    with pytest.raises(StudyError, match="written by another version of nas_proxy") as refused:
        stage(tmp_path).open(force=False)
    assert str(refused.value).count(". ") == 0
    assert content(folder) == before
    assert stage(tmp_path).open(force=True)


# Differences


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("pqrs"), inner, max_size=4)
    ),
    max_leaves=10,
)


def shown_at(value, path):
    """What stands at `path` of a JSON value, in at most forty characters."""
    for key in re.findall(r"[a-z]+|\[\d+\]", path):
        if key.startswith("["):
            value = value[int(key[1:-1])] if isinstance(value, list) else "(absent)"
        else:
            value = value.get(key, "(absent)") if isinstance(value, dict) else "(absent)"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@given(json_values, json_values)
def test_differences_are_found_exactly_where_there_are_some(old, new):
    found = differences(old, new)
    assert bool(found) == (old != new)
    assert len(found) <= 5
    assert len(set(found)) == len(found)
    for line in found:
        path = line.partition(": ")[0]
        assert line == f"{path}: {shown_at(old, path)} -> {shown_at(new, path)}"


@given(st.dictionaries(st.sampled_from("pqrstuvw"), st.integers(0, 1)), st.data())
def test_every_changed_entry_is_listed_up_to_five(old, data):
    changed = data.draw(st.sets(st.sampled_from(sorted(old)))) if old else set()
    new = {key: value + 2 * (key in changed) for key, value in old.items()}
    expected = [f"{key}: {old[key]} -> {new[key]}" for key in old if key in changed]
    assert differences(old, new) == expected[:5]
    assert differences({"deep": old}, {"deep": new}) == [f"deep.{line}" for line in expected][:5]


def test_long_values_are_cut():
    (line,) = differences({"text": "x" * 100}, {"text": "y" * 40})
    assert line == f"text: {'x' * 37}... -> {'y' * 40}"


def test_a_difference_within_a_list_of_sections_is_found_where_it_is():
    old = {"terms": [{"kind": "self"}, {"kind": "response", "temperature": 4.0}]}
    new = {"terms": [{"kind": "self"}, {"kind": "response", "temperature": 2.0}]}
    assert differences(old, new) == ["terms[1].temperature: 4.0 -> 2.0"]
    (line,) = differences(old, {"terms": old["terms"][:1]})
    assert line.startswith("terms: [")
