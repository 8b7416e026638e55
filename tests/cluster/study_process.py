"""Pretended evaluations on a cluster, in a process that can be killed; says what happens in JSON.

python -m tests.cluster.study_process ADDRESS LOG NUM_EVALUATIONS SECONDS_EACH NUM_SLOTS [WAIT_FOR]
"""

import json
import sys
import time
from pathlib import Path

from nas_proxy.cluster.settings import RaySettings
from nas_proxy.evaluate.executors import Workplace, evaluate_all, open_executor
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.types import Architecture
from tests.evaluate.helpers import ScriptedFactory


def tell(event, **more):
    sys.stdout.write(json.dumps({"event": event, "at": time.time(), **more}) + "\n")
    sys.stdout.flush()


def main(address, log, number, seconds, num_slots, *files):
    where = Workplace(RaySettings(address=address), say=lambda words: tell("said", words=words))
    wanted = [
        Architecture("scripted", ["sleep", float(seconds) + n / 1e6]) for n in range(int(number))
    ]
    kept = EvaluationLog(Path(log))
    with open_executor("ray", int(num_slots), where) as executor:
        executor.start()
        while executor.words.split(", ")[1].split()[0] != num_slots:
            time.sleep(0.1)
        tell("ready", words=executor.words)
        found = evaluate_all(executor, ScriptedFactory(), wanted, 0, kept, progress)
        tell("finished", nodes=[each.node for each in found])
        if files:  # more of them once somebody says so
            while not Path(files[0]).exists():
                time.sleep(0.1)
            while executor.words.split(", ")[1].split()[0] != num_slots:
                time.sleep(0.1)
            again = evaluate_all(executor, ScriptedFactory(), wanted, 1, kept, progress)
            tell("finished again", nodes=[each.node for each in again])


def progress(done, total, note=""):
    tell("progress", done=done, note=note)


if __name__ == "__main__":
    main(*sys.argv[1:])
