"""A change of structure changes no result: the tiny study gives what it always gave."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from nas_proxy.data import proxy_card
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.study.context import StudyContext
from tests.study.fixed_study import STUDY, run, steady_cost

KEPT = Path(__file__).parent / "fixed_study.json"
# Of training in single precision: another processor adds in another order, and an image or two of
# fifty may be taken for another class.
RELATIVE, ABSOLUTE = 1e-2, 0.041


def essence(found: dict) -> dict:
    """What a reader would quote: ids, scores, the rank report, the chosen recipe, the registry."""
    report = found["report.json"]
    return {
        "architectures": {
            name: [row["architecture"]["genotype"] for row in rows]
            for name, rows in found.items()
            if name.endswith(".jsonl") and rows and "architecture" in rows[0]
        },
        "files": found["files"],
        "registry": found["registry"],
        "sources": report["data"]["source_hash"],
        "chosen": report["calibration"]["chosen"],
        "standings": [
            {key: standing[key] for key in ("recipe", "outcome", "n", "spearman")}
            for standing in report["calibration"]["standings"]
        ],
        "trials": [
            {key: trial[key] for key in ("trial", "architecture_id", "score", "signals")}
            for trial in report["search"]["trials"]
        ],
        "rank_report": found["validate/rank_report.json"],
        "points": found["validate/points.json"]["points"],
        "retrained": [
            {key: row[key] for key in ("role", "architecture_id", "val_accuracy", "test_accuracy")}
            for row in report["retrain"]["rows"]
        ],
    }


def assert_same(found, kept, path="") -> None:
    """Equal, but for what a processor rounds in another way."""
    if isinstance(kept, dict):
        assert isinstance(found, dict), path
        assert found.keys() == kept.keys(), path
        for key, value in kept.items():
            assert_same(found[key], value, f"{path}.{key}")
    elif isinstance(kept, list):
        assert isinstance(found, list), path
        assert len(found) == len(kept), path
        for index, pair in enumerate(zip(found, kept, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    elif isinstance(kept, float) and found is not None:
        close = math.isclose(found, kept, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        assert close, f"{path}: {found}, not {kept}"
    else:
        assert found == kept, path


def order(points: list) -> list:
    """The architectures in the order of each ranking, and of the reference."""
    rankings = [{p["architecture_id"]: p["reference"] for p in points}]
    rankings += [
        {p["architecture_id"]: p["scores"][name] for p in points} for name in points[0]["scores"]
    ]
    return [sorted(each, key=lambda name: (each[name], name)) for each in rankings]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each log and each proxy data set was read in this process, by its file."""
    counts: Counter = Counter()
    read_log, read_set = EvaluationLog.__init__, proxy_card.safe_open

    def log(self: EvaluationLog, path: Path, *, look_only: bool = False) -> None:
        counts[str(path)] += 1
        read_log(self, path, look_only=look_only)

    def proxy_set(path: str, **options: str) -> object:
        counts[path] += 1
        return read_set(path, **options)

    monkeypatch.setattr(EvaluationLog, "__init__", log)
    monkeypatch.setattr(proxy_card, "safe_open", proxy_set)
    return counts


@pytest.fixture
def steady_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings on the full data cost twice as much as others, however busy the machine is.

    The cheapest trusted recipe is chosen, and these trainings take about as long as one another.
    """
    monkeypatch.setattr(StudyContext, "cost", steady_cost)


@pytest.mark.slow
@pytest.mark.usefixtures("steady_costs", "drawn")
def test_the_fixed_study_gives_what_it_always_gave(tmp_path: Path, opened: Counter) -> None:
    found = essence(json.loads(json.dumps(run(tmp_path))))
    kept = json.loads(KEPT.read_text())
    assert found["chosen"] == STUDY["calibrate"]["recipes"][0]["name"]
    if order(found["points"]) != order(kept["points"]):
        # Rounding made two architectures change places, and with them every figure of ranks.
        for side in (found, kept):
            del side["rank_report"], side["standings"]
    assert_same(found, kept)
    sets = {Path(path).name for path in opened if path.endswith(".safetensors")}
    assert sets == {"proxy.safetensors", "random_subset.safetensors"}
    assert len(opened) > 12
    assert {path: count for path, count in opened.items() if count > 1} == {}
