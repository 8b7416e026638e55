"""A retraining that is killed in the middle, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nas_proxy.study.config import check_config
from nas_proxy.study.pipeline import run_pipeline
from tests.helpers.display import Quiet
from tests.helpers.process import kill_when, start_command
from tests.study.helpers_retrain import TINY, read, without_clocks

CONFIG = {
    **TINY,
    "retrain": {
        "num_seeds": 1,
        "comparisons": [],
        "formats": [],
        "train": {**TINY["retrain"]["train"], "num_epochs": 100, "checkpoints": [10, 90]},
    },
}


def train_until_killed(results: Path, executor: str) -> None:
    """As soon as there is something of an unfinished training."""
    file, output = results / "tiny.yaml", results / "output"
    search = {**TINY["search"], "executor": executor, "num_workers": 2}
    file.write_text(yaml.safe_dump({**CONFIG, "search": search, "results": str(results)}))
    unfinished = results / "tiny" / "retrain" / "weights" / "unfinished"
    process = start_command("retrain", str(file), output=output)
    kill_when(lambda: any(unfinished.glob("*.safetensors")), process, output)


def finish(results: Path) -> None:
    """In this process, where one network is trained after the other: neither is any matter."""
    config = check_config({**CONFIG, "results": str(results)})
    run_pipeline(config, Quiet(), last="retrain")


@pytest.mark.exhaustive
@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_a_killed_retraining_continues_to_the_same_models(tmp_path: Path, executor: str) -> None:
    (tmp_path / "killed").mkdir()
    train_until_killed(tmp_path / "killed", executor)
    finish(tmp_path / "killed")
    finish(tmp_path / "whole")
    found, expected = (
        read(tmp_path / name / "tiny", "retrain", "retrain.json") for name in ("killed", "whole")
    )
    assert without_clocks(found) == without_clocks(expected)
    models = [
        tmp_path / name / "tiny" / "retrain" / "champion" / "model.safetensors"
        for name in ("killed", "whole")
    ]
    assert models[0].read_bytes() == models[1].read_bytes()
    assert len(found["rows"][0]["curves"]["val_accuracy"]) == 3
