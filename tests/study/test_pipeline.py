"""The whole line: killed and continued, repeated in another process, refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.study.config import load_config
from nas_proxy.study.pipeline import run_pipeline
from tests.helpers.cli import command_line
from tests.helpers.display import Quiet
from tests.helpers.process import kill_when, start_command

TINY = {
    "study_name": "tiny",
    "data": {"name": "digits", "images_per_class": 40},
    "distill": {
        "name": "distribution_matching",
        "images_per_class": 2,
        "num_steps": 20,
        "augment": "crop_scale",
        "real_batch_size": 8,
        "network_width": 8,
        "network_depth": 2,
    },
    "space": {"name": "convnet", "widths": [32], "depths": [1, 2]},
    "train": {"num_steps": 10, "batch_size": 16, "learning_rate": 0.02},
    "score": {"signals": ["val_loss", "naswot"], "combine": "rank_mean", "num_reference": 4},
    "search": {"n_trials": 6, "sampler": "random"},
    "validate": {
        "num_architectures": 6,
        "k": 2,
        "controls": ["num_params", "naswot"],
        "reference": {"train": {"num_steps": 20, "learning_rate": 0.02}},
    },
    "tracking": {"enabled": False},
}


LONG = {**TINY, "distill": {**TINY["distill"], "num_steps": 150}}
"""Distils for more than the second after which a checkpoint is written."""


def config_file(folder: Path, config: dict = TINY) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**config, "results": str(folder / "results")}))
    return file


def run_here(file: Path) -> None:
    run_pipeline(load_config(file), Quiet())


def run_until(file: Path, reached: Callable[[Path], bool]) -> None:
    """Start the study, and kill it with SIGKILL as soon as its folder is so far."""
    folder, output = file.parent, file.parent / "output"
    process = start_command("run", str(file), output=output)
    kill_when(lambda: reached(folder / "results" / "tiny"), process, output)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def report(folder: Path) -> dict:
    return json.loads((folder / "results" / "tiny" / "report.json").read_text())


def figures(folder: Path) -> dict:
    """What must be the same in two runs: everything but seconds and paths."""
    found = report(folder)
    rows = [
        {key: value for key, value in row.items() if "seconds" not in key}
        for row in (found["validation"]["judged"], *found["validation"]["rows"])
    ]
    trials = [
        (trial["architecture_id"], trial["score"], trial["trial"])
        for trial in found["search"]["trials"]
    ]
    return {"id": found["proxy_dataset"]["id"], "rows": rows, "trials": trials}


@dataclass(frozen=True)
class Continued:
    """A finished study, and the finished parts that it had when it was killed."""

    folder: Path
    config: dict
    proxy_file: bytes
    searched: list[str]
    validated: list[str]

    @property
    def study(self) -> Path:
        return self.folder / "results" / "tiny"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(when, marks=pytest.mark.exhaustive)
        for when in ("in the search", "at every stage")
    ],
)
def continued(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Continued:
    """The study, killed while it searched, or while it did anything, and continued each time."""
    folder = tmp_path_factory.mktemp("continued")
    study = folder / "results" / "tiny"
    everywhere = request.param == "at every stage"
    config = LONG if everywhere else TINY
    file = config_file(folder, config)
    if everywhere:
        run_until(file, lambda study: (study / "distill" / "checkpoint.safetensors").is_file())
        assert not (study / "distill" / "proxy.safetensors").exists()
    run_until(file, lambda study: len(lines(study / "search" / "evaluations.jsonl")) >= 2)
    searched = lines(study / "search" / "evaluations.jsonl")
    proxy_file = (study / "distill" / "proxy.safetensors").read_bytes()
    if everywhere:
        run_until(file, lambda study: len(lines(study / "validate" / "proxy.jsonl")) >= 3)
    validated = lines(study / "validate" / "proxy.jsonl")
    run_here(file)
    return Continued(folder, config, proxy_file, searched, validated)


@pytest.mark.slow
def test_a_study_leaves_everything_that_its_reader_needs(continued: Continued) -> None:
    for name in ("report.html", "report.json", "config.yaml", "distill/before.png"):
        assert (continued.study / name).stat().st_size > 0
    found = report(continued.folder)
    assert len(found["search"]["trials"]) == 6
    validation = found["validation"]
    names = [row["name"] for row in (validation["judged"], *validation["rows"])]
    for control in ("num_params", "naswot", "random subset", "same steps on the full data"):
        assert any(control in name for name in names), f"no row for {control}"
    assert ProxyDataset.load(continued.study / "distill" / "proxy.safetensors").cost_seconds > 0


@pytest.mark.slow
def test_killed_and_continued(continued: Continued, tmp_path: Path) -> None:
    study = continued.study
    # Nothing that was finished is lost or done again ...
    assert (study / "distill" / "proxy.safetensors").read_bytes() == continued.proxy_file
    for log, before in (
        ("search/evaluations.jsonl", continued.searched),
        ("validate/proxy.jsonl", continued.validated),
    ):
        assert lines(study / log)[: len(before)] == before
    for file in set(study.glob("*/*.jsonl")) - set(study.glob("tracking/*")):
        ids = [json.loads(line)["architecture"]["genotype"] for line in lines(file)]
        assert len(ids) == len({json.dumps(genotype) for genotype in ids}), file
    # ... and the distilled set is the one that an uninterrupted run makes. (The search may take
    # another way after a kill; the random sampler asks for other architectures then.)
    run_pipeline(load_config(config_file(tmp_path, continued.config)), Quiet(), last="distill")
    whole = ProxyDataset.load(tmp_path / "results" / "tiny" / "distill" / "proxy.safetensors")
    assert report(continued.folder)["proxy_dataset"]["id"] == whole.id
    assert len(report(continued.folder)["search"]["trials"]) == 6


@pytest.mark.exhaustive
def test_the_same_config_and_seed_give_the_same_numbers(
    tmp_path: Path,
) -> None:
    (tmp_path / "here").mkdir()
    run_here(config_file(tmp_path / "here"))
    words = ("run", str(config_file(tmp_path)), "search.executor=processes")
    elsewhere = start_command(*words, output=tmp_path / "output")
    elsewhere.join(timeout=300)
    assert elsewhere.exitcode == 0, (tmp_path / "output").read_text()
    # The random sampler asks the same whatever it is told, so the number of workers is no matter.
    assert figures(tmp_path) == figures(tmp_path / "here")


@pytest.mark.slow
def test_a_finished_study_is_skipped_extended_or_refused(
    continued: Continued, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(continued.folder / "results", tmp_path / "results")
    file = str(config_file(tmp_path, continued.config))
    nas_proxy = command_line(capsys)
    study = tmp_path / "results" / "tiny"
    files = set(study.glob("*/*.json*")) - set(study.glob("tracking/*"))  # which logs each run
    before = {path: path.read_bytes() for path in files}
    again = nas_proxy("run", file)
    assert again.status == 0
    assert "distill: finished already" in again.errors
    assert {path: path.read_bytes() for path in before} == before

    other = nas_proxy("run", file, "train.num_steps=11")
    assert other.status == 2
    assert "train.num_steps: 10 -> 11" in other.errors
    assert "Traceback" not in other.errors
    assert {path: path.read_bytes() for path in before} == before

    more = nas_proxy("run", file, "search.n_trials=8")
    assert more.status == 0, more.errors
    assert len(report(tmp_path)["search"]["trials"]) == 8
