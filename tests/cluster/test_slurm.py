"""The job script for Slurm."""

import shutil
import subprocess

import pytest
import yaml

from tests.cluster.test_settings import MINIMAL
from tests.helpers.cli import command_line


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my study.yaml").write_text(yaml.safe_dump(MINIMAL))

    def write(*words):
        return command_line(capsys)("cluster", "slurm", "my study.yaml", *words)

    return write


def test_the_script_is_shell_and_runs_the_study_with_its_words(script):
    outcome = script("search.n_trials=7", "--nodes", "3", "--cpus", "2")
    assert outcome.status == 0, outcome.errors
    text = outcome.output
    subprocess.run([shutil.which("bash") or "bash", "-n"], input=text, text=True, check=True)
    assert "#SBATCH --nodes=3\n" in text
    assert "#SBATCH --cpus-per-task=2\n" in text
    assert "gpus-per-node" not in text
    assert "nas-proxy run 'my study.yaml' search.n_trials=7 search.executor=ray" in text
    assert "RAY_AUTH_MODE=token" in text
    assert "0.0.0.0" not in text
    assert "symmetric-run" not in text
    assert "search.num_workers is 2, and the nodes have room for 6 slots" in outcome.errors


def test_gpus_are_asked_for_and_given_to_ray(script):
    wanted = ("device=cuda", "search.ray={num_gpus: 0.5}", "search.num_workers=16")
    outcome = script(*wanted, "--nodes", "2", "--gpus", "4", "--cpus", "8")
    assert outcome.status == 0, outcome.errors
    assert "#SBATCH --gpus-per-node=4\n" in outcome.output
    assert "--num-gpus=4" in outcome.output
    assert outcome.errors == ""


def test_slots_for_which_no_node_has_room_are_refused(script):
    outcome = script("search.ray={num_cpus: 16}", "--cpus", "8")
    assert outcome.status == 2
    assert "num_cpus asks for 16 for each slot, but no node has that much" in outcome.errors
