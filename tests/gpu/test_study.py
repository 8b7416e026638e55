"""A whole study, all stages, on the stand-in for a GPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas_proxy.study.config import load_config
from nas_proxy.study.context import StudyContext
from nas_proxy.study.pipeline import run_pipeline
from tests.helpers.display import Quiet
from tests.helpers.stand_in_gpu import stand_in_gpu
from tests.study import fixed_study


@pytest.mark.exhaustive
def test_a_study_on_the_stand_in_gives_the_figures_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which recipe is chosen depends on what they cost, and the two runs are not equally disturbed.
    monkeypatch.setattr(StudyContext, "cost", fixed_study.steady_cost)

    def run(device: str) -> dict[str, Any]:
        results = tmp_path / device
        file = tmp_path / f"{device}.yaml"
        told = {"device": device, "tracking": {"enabled": False}, "results": str(results)}
        file.write_text(yaml.safe_dump({**fixed_study.STUDY, **told}))
        run_pipeline(load_config(file), Quiet())
        study = results / "fixed"
        return {
            str(path.relative_to(study)): fixed_study._read(path)
            for path in sorted([*study.rglob("*.json"), *study.rglob("*.jsonl")])
            # The report names the device; what tracking would send has times of its own.
            if path.name != "report.json" and path.parent.name != "tracking"
        }

    expected = run("cpu")
    with stand_in_gpu():
        found = run("cuda")
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)
