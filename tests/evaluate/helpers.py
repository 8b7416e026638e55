"""Evaluators without networks that a worker can import."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from nas_proxy.data.transforms import normalise
from nas_proxy.errors import UserError
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.interfaces import SearchSpace
from nas_proxy.scores.num_params import NumParams
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Evaluation, Fidelity, Status

FIDELITY = Fidelity("scripted", 1, 1, 8)
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class ScriptedFactory:
    """Builds an evaluator that does what each genotype says.

    Attributes:
        fault: What building raises, if anything.
    """

    fault: str = ""
    fidelity: Fidelity = FIDELITY

    def build(self):
        if self.fault == "user":
            raise UserError("the proxy data set is gone; distil it again")
        if self.fault:
            raise ArithmeticError(self.fault)
        return Scripted(self.fidelity)


@dataclass(frozen=True)
class UntrainedFactory:
    """Counts parameters of networks, which are built but not trained."""

    space: SearchSpace
    fidelity: Fidelity = FIDELITY

    def build(self):
        dataset = tiny_dataset()
        return NetworkEvaluator(
            space=self.space,
            scores={"num_params": NumParams()},
            score_images=(normalise(dataset.images, dataset.spec), dataset.labels),
            spec=dataset.spec,
            settings=TrainSettings(num_steps=1),
            fidelity=self.fidelity,
        )


class Scripted:
    """Every genotype is `[verb, argument]`."""

    num_built = 0

    def __init__(self, fidelity):
        self.fidelity = fidelity
        Scripted.num_built += 1

    def evaluate(self, architecture, seed):
        verb, argument = architecture.genotype
        signals = {
            "val_loss": float(seed),
            "num_threads": torch.get_num_threads(),
            "num_built": Scripted.num_built,
            "process": os.getpid(),
        }
        if verb == "wait_for":
            signals["in_time"] = float(wait_for(Path(argument)))
        elif verb == "sleep":
            print(os.getpid(), flush=True)  # noqa: T201 - the test waits for this line
            time.sleep(argument)
        return Evaluation(architecture, self.fidelity, seed, Status.COMPLETE, signals)


def wait_for(file):
    """Whether `file` appears before patience ends."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if file.exists():
            return True
        time.sleep(0.01)
    return False
