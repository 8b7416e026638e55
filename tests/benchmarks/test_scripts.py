"""Every script under benchmarks/ starts, and runs at a tiny size."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
LIBRARIES = {
    *("cifar_resnet", "common", "gpu_common", "recipes"),  # what scripts share
    *("quality_bank", "quality_optuna", "quality_ours", "quality_populations"),
    "quality_trajectories",
}
BY_GPU_SH = {"gpu_candidates", "gpu_distillation", "gpu_ranking", "gpu_slots"}  # test_gpu_sh.py
NO_OPTIONS = {"structure", "tables"}

# Arguments of a run of seconds. DATA and TRUTH are the shared folders, WORK a new one with the sets
# of a tiny distillation, STUDY a tiny study's configuration.
TINY: dict[str, str] = {
    "compiling": "--networks convnet --image-size 8 --batch-size 4 --num-steps 1",
    "compression": "--data-root DATA --num-seeds 1 --num-steps 2 --num-fine-tuning-steps 2 "
    "--num-val-images 20 --num-test-images 20 --network-width 4 --num-variants 1",
    "condensed_duels": "--space convnet --data-root DATA --reference-epochs 1 --size tiny "
    "--num-architectures 4 --methods dm --images-per-class 2 --budgets 2 --batch-size 20 "
    "--image-size 8 --num-workers 1 --work WORK",
    "cost_to_quality": "STUDY --truth TRUTH --num-table 120 --num-timed 2 --work WORK/quality "
    "--num-bank 24 --num-again 2 --table WORK/bank.csv --num-rungs 3 --num-labels 12 "
    "--threshold -0.99 --num-seeds 2 --num-candidates 8",
    "distillation": "--data-root DATA --size tiny --methods random dm rded --budget 1 "
    "--num-networks 2 --work WORK",
    "encoding_quality": "--truth TRUTH --num-splits 1 --num-labels 24 --num-architectures 60",
    "evaluate_proxy": "--data-root DATA --work WORK --size tiny --methods dm --num-steps 2 "
    "--num-seeds 2 --num-learners 2 --num-workers 1",
    "evaluation_profile": "--data-root DATA --spaces nasbench201 --num-architectures 1 "
    "--num-steps 2 --image-size 8",
    "fidelity_options": "--data-root DATA --truth TRUTH/nb201_cifar10_dev.csv "
    "--num-architectures 4 --num-steps 2",
    "gallery": "--work WORK --size tiny",
    "knowledge_distillation": "--data-root DATA --size smoke --num-seeds 2 --work WORK "
    "--kinds response",
    "interval_coverage": "--truth TRUTH/nb201_cifar10_dev.csv --num-redraws 4 --num-resamples 20",
    "known_failure": "STUDY --num-architectures 6 --images-per-class 2 --num-steps 2",
    "large_studies": "--sizes 40 --num-quality-trials 20 --num-seeds 1",
    "memory": "--data-root DATA --num-images 60 --image-size 32",
    "overhead": "--n-trials 3",
    "precision": "--data-root DATA --num-architectures 3 --num-steps 2 --image-size 8",
    "prepare_gpu": "--data-root DATA --table TRUTH/nb201_cifar10_dev.csv --no-wheels "
    "--images-per-class 2 --test-images-per-class 1 --num-architectures 3",
    "rank_aware": "--data-root DATA --truth TRUTH/nb201_cifar10_dev.csv --num-calibration 12 "
    "--num-judged 6 --images-per-class 2 --candidates-per-class 4 --num-steps 2 --image-size 8 "
    "--num-workers 1 --work WORK",
    "rank_fidelity": "STUDY --num-distilled 6",
    "recipes_compared": f"{ROOT}/configs/cifar10_nasbench201.yaml data.root=DATA results=WORK "
    "distill.images_per_class=1 distill.num_steps=1 distill.network_width=4 train.image_size=8 "
    "train.num_val_images=20 calibrate.reference.table=TRUTH/nb201_cifar10_dev.csv "
    "calibrate.num_architectures=24 validate.reference.table=TRUTH/nb201_cifar10_dev.csv "
    "calibrate.threshold=0.1 validate.num_architectures=10 validate.k=3 search.executor=serial "
    "space.num_cells=1 space.channels=2 tracking.enabled=false --num-labels 24 "
    "--most-steps-labelled 1",
    "sequential_coverage": "--truth TRUTH/nb201_cifar10_dev.csv --num-redraws 4",
    "signal_selection": "--truth TRUTH --num-splits 1 --num-labels 24 --num-architectures 60",
    "signals_by_data": "STUDY study_name=signals --num-architectures 6",  # configured otherwise
    "startup": "--num-repeats 1",
    "structure": "",
    "tables": str(ROOT / "results/benchmarks/evaluate_proxy_cpu.json"),
    "training_speed": "--data-root DATA --num-steps 2 --repeats 1",
    "transfer": "--data-root DATA --work WORK --source-images-per-class 4 "
    "--target-images-per-class 4 --pretrain-epochs 2 --epochs 4 --num-seeds 2 "
    "--directions cifar10",
    "validation_images": "--data-root DATA --num-architectures 3 --num-steps 2 --image-size 8 "
    "--num-images 100",
    "votes": "",
    "workers": "--data-root DATA --num-architectures 1 --num-workers 1",
    "zero_cost_agreement": "--data-root DATA --truth TRUTH --num-architectures 3",
    "zero_cost_speed": "--num-architectures 1 --image-size 8",
}
# What a script writes beside a table, or instead of one; the others write --out.
WRITES = {"structure": None, "tables": None, "gallery": "folder", "prepare_gpu": "folder"}
STUDY = {
    "study_name": "tiny",
    "data": {"name": "digits", "images_per_class": 24},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [4, 8, 16], "depths": [1, 2]},
    "train": {"num_steps": 4, "batch_size": 16, "precision": "float32"},
    "calibrate": {
        "num_architectures": 12,
        "threshold": -0.99,
        "reference": {"train": {"num_steps": 8, "batch_size": 16}},
        "recipes": [
            {
                "name": "stream",
                "train_on": "full_data",
                "train": {"num_steps": 4, "batch_size": 16, "precision": "float32"},
                "score": {
                    "signals": ["train_loss_mean", "val_loss", "flops"],
                    "combine": "rank_mean",
                },
            }
        ],
    },
    "search": {"n_trials": 3, "sampler": "random", "executor": "serial"},
    "validate": {
        "num_architectures": 8,
        "controls": ["num_params"],
        "reference": {"train": {"num_steps": 8, "batch_size": 16}},
    },
    "tracking": {"enabled": False},
}


def test_every_script_has_a_tiny_way() -> None:
    """A new one gets a line in TINY."""
    assert LIBRARIES | BY_GPU_SH | TINY.keys() == set(SCRIPTS)
    assert not BY_GPU_SH & TINY.keys()


@pytest.mark.parametrize("name", [n for n in SCRIPTS if n not in LIBRARIES | NO_OPTIONS])
def test_every_script_starts(name: str, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    try:
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(name).main()
    finally:
        for module in {*SCRIPTS} & (set(sys.modules) - before):
            del sys.modules[module]  # `common` is a name that others may have
    assert not ended.value.code
    assert "usage:" in capsys.readouterr().out


def run(name: str, arguments: Sequence[str], folder: Path) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory, shared_folder):
    """Folder, and what the capital words stand for."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "study.yaml").write_text(
        yaml.safe_dump({**STUDY, "results": str(folder / "studies")})
    )
    words = {
        "DATA": str(shared_folder / "data"),
        "TRUTH": str(shared_folder / "truth"),
        "WORK": str(folder / "work"),
        "STUDY": str(folder / "study.yaml"),
    }
    return folder, words


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TINY)
def test_a_script_runs(name: str, place) -> None:
    folder, words = place
    arguments = []
    for each in TINY[name].split():
        key, equals, value = each.rpartition("=")
        word, slash, rest = value.partition("/")
        arguments.append(key + equals + words.get(word, word) + slash + rest)
    before = {"evaluate_proxy": "distillation", "gallery": "distillation"}
    before |= {"known_failure": "rank_fidelity"}
    if name in before and not (folder / f"{before[name]}.json").is_file():
        test_a_script_runs(before[name], place)  # leaves what it reads
    out = folder / f"{name}.json"
    if WRITES.get(name, "table") == "folder":
        out = folder / name
    if WRITES.get(name, "table") is not None:
        arguments += ["--out", str(out)]
    said = run(name, arguments, folder)
    if name not in WRITES:
        table = json.loads(out.read_text())
        assert {"command", "date", "hardware", "versions"} <= table.keys()
    elif WRITES[name] is None:
        assert said
    else:
        assert list(out.iterdir())
