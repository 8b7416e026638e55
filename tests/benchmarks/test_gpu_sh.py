"""benchmarks/gpu.sh: what it does where there is no GPU, and all of it on a CPU at a tiny size."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# Of what our packages and tests use, all that the machine with the GPU may lack and that nothing
# brings there.
MISSING = [
    *("optuna", "mlflow", "yaml", "click", "rich", "onnx", "onnxruntime", "onnxscript"),
    *("torchao", "torch_pruning", "hypothesis", "xdist", "sqlalchemy", "pandas"),
]
BLOCKER = f"""
from functools import partial
from importlib.machinery import PathFinder

found = PathFinder.find_spec


def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {MISSING!r} else found(name, path, target)


PathFinder.find_spec = partial(find_spec)  # pytest makes it a method of its own
"""
PARTS = ("gpu_candidates", "gpu_slots", "gpu_ranking", "gpu_distillation")


@pytest.fixture
def gpu_common(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    import gpu_common

    yield gpu_common
    for name in {"common", "gpu_common", "prepare_gpu"} & (set(sys.modules) - before):
        del sys.modules[name]


def images(number):
    generator = torch.Generator().manual_seed(number)
    shape = (number, 3, 16, 16)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return pixels, torch.arange(number) % 10


TABLE = {
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|nor_conv_3x3~2|": 91.0,
    "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|none~0|none~1|nor_conv_3x3~2|": 90.0,
    "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|nor_conv_1x1~0|none~1|none~2|": 80.0,
}


def run(out, *options, **environment):
    return subprocess.run(
        ["bash", str(ROOT / "benchmarks/gpu.sh"), *([str(out)] if out else []), *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_without_a_gpu_it_says_so(tmp_path):
    """A Python that finds no GPU ends with 1, as false does whatever it is told."""
    done = run(tmp_path / "out", PYTHON="false")
    assert done.returncode == 0
    said = "no GPU: torch sees none on this machine, so nothing was measured\n"
    assert done.stdout == said


@pytest.mark.exhaustive
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_torch_is_asked_for_a_gpu(tmp_path):
    done = run(tmp_path / "out", PYTHON=sys.executable)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no GPU: ")


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("", (), "name the folder for the results"),
        ("out", ("--devise", "cpu"), "unknown option --devise"),
        ("out", ("--device", "cpu"), "make it with benchmarks/prepare_gpu.py"),
    ],
)
def test_what_is_missing_is_said(tmp_path, out, options, message):
    (tmp_path / "empty").mkdir()
    if message.startswith("make"):
        options = (*options, "--prepared", str(tmp_path / "empty"))
    done = run(out and tmp_path / out, *options)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_part_keeps_its_images_and_its_table(tmp_path, gpu_common):
    train, test = images(30), images(10)
    gpu_common.write_part(tmp_path / "part", train, test, list("abcdefghij"), TABLE)
    part = gpu_common.read_part(tmp_path / "part")
    splits = part.splits
    assert [len(each) for each in splits.parts.values()] == [27, 3, 10]
    joined = torch.cat([splits.search_train.images, splits.search_val.images])
    assert torch.equal(joined, train[0])
    assert torch.equal(splits.test.labels, test[1])
    assert dict(part.table) == TABLE
    assert splits.spec.num_classes == 10


def test_plug_ins_are_announced_as_an_installed_package_does(tmp_path, gpu_common):
    import prepare_gpu

    prepare_gpu.write_announcement(tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        (name,) = [each for each in file.namelist() if each.endswith("entry_points.txt")]
        text = file.read(name).decode()
    for group in ("nas_proxy.distillers", "nas_proxy.search_spaces", "nas_proxy.scores"):
        assert f"[{group}]" in text
        ours = [each for each in entry_points(group=group) if each.value.startswith("nas_proxy.")]
        assert all(f"{each.name} = {each.value}" in text for each in ours)


@pytest.mark.exhaustive
def test_all_parts_run_where_little_is_installed(tmp_path, gpu_common):
    import prepare_gpu

    prepared, out = tmp_path / "prepared", tmp_path / "out"
    part = prepared / gpu_common.PART
    gpu_common.write_part(part, images(120), images(40), list("abcdefghij"), TABLE)
    prepare_gpu.write_announcement(prepared / "wheels")
    (tmp_path / "blocker").mkdir()
    (tmp_path / "blocker" / "sitecustomize.py").write_text(BLOCKER)
    done = run(
        out,
        *("--prepared", str(prepared), "--device", "cpu", "--size", "tiny"),
        PYTHON=sys.executable,
        PYTHONPATH=str(tmp_path / "blocker"),
    )
    logs = "\n".join(log.read_text()[-1500:] for log in sorted(out.glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    ended = (out / "parts.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in ended] == ["gpu_tests", *PARTS]
    assert all(": status 0 " in line for line in ended)
    for name in PARTS:
        table = json.loads((out / f"{name}_cpu.json").read_text())
        assert {"command", "date", "hardware", "versions", "part", "rows"} <= table.keys()
        assert table["rows"]
        assert not any(row.get("failed") for row in table["rows"])
    rows = json.loads((out / "gpu_distillation_cpu.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["DM", "DSA", "MTT", "RDED", "SRe2L"]
