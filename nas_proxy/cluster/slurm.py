"""A job script for Slurm that makes a Ray cluster of its nodes and runs a study on it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.resources import files
from string import Template


def slurm_script(
    config: str,
    overrides: Sequence[str],
    *,
    study_name: str,
    num_nodes: int,
    gpus_per_node: int,
    cpus_per_node: int,
    time_limit: str,
) -> str:
    """The text of the script; Slurm's `sbatch` takes it as it is.

    Args:
        config: Path of the configuration, as the job finds it.
        overrides: Of the configuration, such as `search.n_trials=500`.
        study_name: Names the job.
        num_nodes: Machines.
        gpus_per_node: GPUs of each; 0: none are asked for.
        cpus_per_node: Cores of each.
        time_limit: In Slurm's notation, such as `24:00:00`; what is not finished then goes on in
            the same job, which is queued again.
    """
    text = files("nas_proxy.cluster").joinpath("templates/slurm.sh").read_text(encoding="utf-8")
    options = [f"#SBATCH --gpus-per-node={gpus_per_node}\n"] if gpus_per_node else []
    return _Template(text).substitute(
        study_name=shlex.quote(study_name),
        num_nodes=num_nodes,
        gpu_options="".join(options),
        num_gpus=gpus_per_node,
        num_cpus=cpus_per_node,
        time_limit=time_limit,
        arguments=" ".join(map(shlex.quote, [config, *overrides])),
    )


class _Template(Template):
    """With another mark than `$`, of which a shell script is full."""

    delimiter = "@@"
