"""The command line as its user meets it: what is listed, and each wrong input in one sentence."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from nas_proxy.core import files
from nas_proxy.core.locks import sole_user
from nas_proxy.data.proxy_dataset import ProxyDataset
from tests.helpers.cli import Outcome, command_line

TINY: dict[str, Any] = {
    "study_name": "tiny",
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [32], "depths": [1]},
    "train": {"num_steps": 3, "learning_rate": 0.02},
    "search": {"n_trials": 2},
    "tracking": {"enabled": False},
}


@pytest.fixture
def nas_proxy(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command line in a folder of its own with `tiny.yaml` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return command_line(capsys)


def assert_one_sentence(outcome: Outcome, *expected: str) -> None:
    assert outcome.status == 2, outcome.errors
    assert "Traceback" not in outcome.errors + outcome.output
    message = outcome.errors[outcome.errors.index("nas-proxy: ") :]
    for words in expected:
        assert words in message, message


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_study_runs_and_runs_again(nas_proxy, tmp_path: Path) -> None:
    first = nas_proxy("run", "tiny.yaml")
    assert first.status == 0, first.errors
    assert "report.html" in first.errors
    found = json.loads((tmp_path / "results/tiny/report.json").read_text())
    assert found["verdict"] == "The ranking was not judged."
    again = nas_proxy("run", "tiny.yaml")
    assert again.status == 0
    assert "distill: finished already" in again.errors


@pytest.mark.exhaustive
def test_stages_can_be_asked_for_one_by_one(nas_proxy, tmp_path: Path) -> None:
    study = tmp_path / "results" / "tiny"
    assert nas_proxy("distill", "tiny.yaml").status == 0
    assert (study / "distill" / "after.png").is_file()
    assert not (study / "search").exists()
    assert nas_proxy("search", "tiny.yaml").status == 0
    assert not (study / "report.html").exists()
    assert nas_proxy("report", "tiny.yaml").status == 0
    assert (study / "report.html").is_file()


@pytest.mark.exhaustive
def test_force_repeats_what_another_config_wrote(nas_proxy, tmp_path: Path) -> None:
    assert nas_proxy("search", "tiny.yaml").status == 0
    before = tree(tmp_path / "results")
    refused = nas_proxy("search", "tiny.yaml", "train.num_steps=4")
    assert_one_sentence(refused, "train.num_steps: 3 -> 4", "--force", "study_name")
    assert tree(tmp_path / "results") == before
    assert nas_proxy("search", "tiny.yaml", "train.num_steps=4", "--force").status == 0
    assert nas_proxy("search", "tiny.yaml", "train.num_steps=4").status == 0


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("distillers", {"random_subset", "distribution_matching", "gradient_matching", "file"}),
        ("spaces", {"convnet", "nasbench201"}),
        ("scores", {"num_params", "flops", "log_synflow", "naswot"}),
        ("datasets", {"digits", "cifar10", "cifar100", "imagenette", "image_folder"}),
    ],
)
def test_list(nas_proxy, kind: str, names: set[str]) -> None:
    found = json.loads(nas_proxy("list", kind, "--json").output)
    assert list(found) == [kind]
    assert {entry["name"] for entry in found[kind]} >= names
    assert all(entry["summary"] for entry in found[kind])
    assert "random_subset" in nas_proxy("list").output


def test_a_list_has_one_line_for_each_and_a_name_has_its_details(nas_proxy) -> None:
    known = json.loads(nas_proxy("list", "distillers", "--json").output)["distillers"]
    lines = nas_proxy("list", "distillers").output.splitlines()
    assert [line.split()[0] for line in lines] == [entry["name"] for entry in known]
    everything = nas_proxy("list").output
    assert len(everything.splitlines()) < 24
    assert all(entry["name"] in everything for entry in known)
    shown = nas_proxy("list", "distillers", "distribution_matching").output
    for word in ("Zhao", "hours on a GPU", "family"):
        assert word in shown
    found = nas_proxy("list", "distillers", "distribution_matching", "--json")
    assert [entry["name"] for entry in json.loads(found.output)["distillers"]] == [
        "distribution_matching"
    ]
    assert_one_sentence(nas_proxy("list", "scores", "naswt"), "'naswt'", "naswot")


def test_ctrl_c_exits_as_shells_expect_and_says_what_goes_on(
    nas_proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nas_proxy.study.pipeline.run_stage", interrupted)
    outcome = nas_proxy("run", "tiny.yaml", "-q")
    assert outcome.status == 130
    assert outcome.errors.strip() == ("nas-proxy: stopped; the same command continues where it was")


@pytest.mark.exhaustive
def test_a_reader_that_has_read_enough_ends_a_command_without_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "nas_proxy.cli.main", "list"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.exhaustive
def test_a_quiet_run_says_the_verdict_alone(nas_proxy, tmp_path: Path) -> None:
    done = nas_proxy("run", "tiny.yaml", "--quiet")
    assert done.status == 0, done.errors
    assert done.errors == ""
    winner, verdict = done.output.splitlines()
    report = json.loads((tmp_path / "results/tiny/report.json").read_text())
    assert winner.startswith("winner: ")
    assert verdict.removeprefix("verdict: ") in report["verdict"]
    said = nas_proxy("run", "tiny.yaml").errors
    assert re.findall(r"^stage (\d) of (\d): (\w+)", said, re.MULTILINE) == [
        ("1", "3", "distill"), ("2", "3", "search"), ("3", "3", "report"),
    ]  # fmt: skip
    assert_one_sentence(nas_proxy("run", "tiny.yaml", "-q", "-v"), "exclude each other")


@pytest.mark.exhaustive
def test_inspect_reads_whatever_a_study_writes(nas_proxy, tmp_path: Path) -> None:
    assert nas_proxy("run", "tiny.yaml", "tracking.enabled=true", "-q").status == 0
    results = tmp_path / "results"
    for path in (results / "tiny", *results.rglob("*.*")):
        if path.is_file() and not path.name.startswith(".") and "mlartifacts" not in path.parts:
            shown = nas_proxy("inspect", str(path), "--picture", "x.png")
            assert shown.status == 0, (path, shown.errors)
            assert len(shown.output.split()) > 2, path
    assert "the folder of a study" in nas_proxy("inspect", "results/tiny").output
    log = nas_proxy("inspect", "results/tiny/search/evaluations.jsonl").output
    assert re.search(r"evaluations\s+2\b", log)
    assert re.search(r"trials\s+2", nas_proxy("inspect", str(
        results / "tiny/search/optuna_journal.log")).output)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.doc", b"words", "no file that nas_proxy writes"),
        ("half.json", b'{"format": 1,', "damaged"),
        ("log.jsonl", b"{}\n{\n", "damaged"),
        ("list.yaml", b"- 1\n", "damaged"),
        ("store.db", b"no database at all", "damaged"),
        ("x.png", b"", "damaged"),
        ("x.onnx", b"\xff\xff", "damaged"),
    ],
)
def test_inspect_says_in_one_sentence_what_it_cannot_read(
    nas_proxy, name: str, content: bytes, said: str
) -> None:
    Path(name).write_bytes(content)
    assert_one_sentence(nas_proxy("inspect", name), said, name)


def test_inspect_prints_the_card_and_draws(nas_proxy, tmp_path: Path) -> None:
    nas_proxy("distill", "tiny.yaml")
    file = tmp_path / "results/tiny/distill/proxy.safetensors"
    shown = nas_proxy("inspect", str(file), "--picture", "images.png")
    assert ProxyDataset.load(file).id in shown.output
    assert "random_subset" in shown.output
    assert Image.open("images.png").width > 48
    file.write_bytes(file.read_bytes()[:-50])
    assert_one_sentence(nas_proxy("inspect", str(file)), "truncated or damaged", str(file))
    assert_one_sentence(nas_proxy("inspect", "absent.safetensors"), "does not exist")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.num_stepz=3"], ["train.num_stepz", "did you mean 'num_steps'"]),
        (["train.num_steps=3", "train.num_steps=4"], ["train.num_steps is given 2 times"]),
        (["train={num_steps: 3, num_steps: 4}"], ["the key num_steps stands twice"]),
        (["train.num_steps=many"], ["train.num_steps", "'many'"]),
        (["distill.name=distribution_machting"], ["did you mean 'distribution_matching'"]),
        (["space={name: 'nowhere.py:Space'}"], ["nowhere.py does not exist"]),
        (["space={name: 'no.such.module:Space'}"], ["no.such.module", "cannot be imported"]),
        (["data={name: cifar10, root: here}"], ["here", "data.download=true"]),
        (["data={name: image_folder, root: here, image_size: 8}"], ["here"]),
        (["distill.images_per_class=5000"], ["5000", "114 images"]),
        (["device=cuda"], ["device"]),
        (["validate.reference.table=absent.csv"], ["absent.csv", "does not exist"]),
        (["search.storage=nosuch://db"], ["search.storage", "nosuch"]),
        (["tracking.experimnt=x"], ["did you mean 'experiment'"]),
    ],
)
def test_wrong_input(nas_proxy, overrides: list[str], expected: list[str]) -> None:
    assert_one_sentence(nas_proxy("run", "tiny.yaml", *overrides), *expected)


def test_yaml_syntax_and_missing_file(nas_proxy, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("study_name: x\n  train: [1,\n")
    assert_one_sentence(nas_proxy("run", "broken.yaml"), "broken.yaml", "line 2")
    assert_one_sentence(nas_proxy("run", "absent.yaml"), "absent.yaml", "cannot be read")


def test_a_plug_in_file_that_fails_to_import(nas_proxy, tmp_path: Path) -> None:
    for content, expected in (
        ("import no_such_library\n", "no_such_library"),
        ("def broken(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("class Space: pass\n", "not a search space"),
    ):
        (tmp_path / "plugin.py").write_text(content)
        outcome = nas_proxy("run", "tiny.yaml", "space={name: 'plugin.py:Space'}")
        assert_one_sentence(outcome, "plugin.py", expected)


def test_a_corrupt_image_is_named(nas_proxy, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        folder = tmp_path / "animals" / label
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    damaged = tmp_path / "animals" / "dog" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    data = "data={name: image_folder, root: animals, image_size: 8}"
    assert_one_sentence(nas_proxy("run", "tiny.yaml", data), "3.png")
    assert not (tmp_path / "results").exists()


def test_a_truth_table_is_checked_before_anything_is_distilled(nas_proxy, tmp_path: Path) -> None:
    space = "space={name: nasbench201}"
    table = tmp_path / "table.csv"
    table.write_text("arch,accuracy\nnot an architecture,90\n")
    wanted = ["validate.reference.table=table.csv", "validate.num_architectures=5", "validate.k=2"]
    missing = nas_proxy("run", "tiny.yaml", space, *wanted, "validate.reference.value=acuracy")
    assert_one_sentence(missing, "table.csv", "no column")
    columns = ["validate.reference.architecture=arch", "validate.reference.value=accuracy"]
    nothing = nas_proxy("run", "tiny.yaml", space, *wanted, *columns)
    assert_one_sentence(nothing, "no architecture of the space 'nasbench201'")
    nor = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|"
    table.write_text(f"arch,accuracy\n{nor},90\n")
    few = nas_proxy("run", "tiny.yaml", space, *wanted, *columns)
    assert_one_sentence(few, "validate.num_architectures", "only 1 could be drawn from the truth")
    assert not (tmp_path / "results").exists()


def test_a_proxy_file_of_another_data_set(nas_proxy, tmp_path: Path) -> None:
    assert nas_proxy("distill", "tiny.yaml").status == 0
    file = tmp_path / "results/tiny/distill/proxy.safetensors"
    use = [f"distill={{name: file, path: {file}, images_per_class: 2}}"]
    assert nas_proxy("distill", "tiny.yaml", *use, "study_name=other").status == 0
    # Another split of the same data: its images may be among those that judge.
    leaking = nas_proxy("distill", "tiny.yaml", *use, "data.seed=1", "study_name=leaking")
    assert_one_sentence(leaking, "search-training split")
    fewer = nas_proxy("distill", "tiny.yaml", *use, "data.classes=[1, 2]", "study_name=fewer")
    assert_one_sentence(fewer, "classes")
    file.write_bytes(file.read_bytes()[:-9])
    assert_one_sentence(nas_proxy("distill", "tiny.yaml", *use, "study_name=cut"), "truncated")
    assert_one_sentence(nas_proxy("search", "tiny.yaml"), "truncated")


def test_an_unwritable_results_folder(nas_proxy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for results in ("file/results", "/proc/results"):
        outcome = nas_proxy("run", "tiny.yaml", f"results={results}")
        assert_one_sentence(outcome, results)
    assert (tmp_path / "file").read_text() == "in the way"


def test_two_processes_do_not_share_a_study(nas_proxy, tmp_path: Path) -> None:
    with sole_user(tmp_path / "results" / "tiny"):
        assert_one_sentence(nas_proxy("run", "tiny.yaml"), "another process", "tiny")
        assert nas_proxy("distill", "tiny.yaml", "study_name=other").status == 0
    assert nas_proxy("distill", "tiny.yaml").status == 0


def test_a_folder_where_a_file_goes_is_said(nas_proxy, tmp_path: Path) -> None:
    (tmp_path / "results" / "tiny" / "config.yaml").mkdir(parents=True)
    outcome = nas_proxy("distill", "tiny.yaml")
    assert_one_sentence(outcome, "a folder is in the way at results/tiny/config.yaml;")


@pytest.mark.exhaustive
def test_a_full_disk_loses_nothing(
    nas_proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nas_proxy("distill", "tiny.yaml").status == 0
    before = tree(tmp_path / "results" / "tiny" / "distill")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        outcome = nas_proxy("run", "tiny.yaml")
    assert_one_sentence(outcome, "the disk is full", "continues")
    assert tree(tmp_path / "results" / "tiny" / "distill") == before
    assert not list((tmp_path / "results").rglob(".*"))  # no half-written files
    assert nas_proxy("run", "tiny.yaml").status == 0


def test_an_unexpected_error_is_one_line_unless_asked(
    nas_proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect of ours")

    monkeypatch.setattr("nas_proxy.study.pipeline.load_splits", broken)
    outcome = nas_proxy("run", "tiny.yaml")
    assert outcome.status == 1
    assert re.search(r"unexpected ZeroDivisionError: a defect of ours", outcome.errors)
    assert "Traceback" not in outcome.errors
    assert "Traceback" in nas_proxy("--debug", "run", "tiny.yaml").errors


def test_memory_that_ran_out_is_the_users_to_mend(
    nas_proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1600 GB")

    monkeypatch.setattr("nas_proxy.study.pipeline.load_splits", too_large)
    expected = ["the memory is full", "you tried 1600 GB", "smaller images (data.image_size)"]
    assert_one_sentence(nas_proxy("run", "tiny.yaml"), *expected)


def test_wrong_words_on_the_command_line(nas_proxy) -> None:
    assert nas_proxy("serch", "tiny.yaml").status == 2
    assert nas_proxy("run").status == 2
    assert nas_proxy("run", "--help").status == 0
    assert "quickstart" in nas_proxy("--help").output


def test_sigterm_ends_a_command_as_ctrl_c_does(nas_proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Job schedulers send it; without that MLflow would show a run that never ends."""

    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("nas_proxy.study.pipeline.run_stage", terminated)
    outcome = nas_proxy("run", "tiny.yaml", "-q")
    assert outcome.status == 143
    assert "the same command continues" in outcome.errors
    assert signal.getsignal(signal.SIGTERM) is before
