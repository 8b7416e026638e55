"""Stands in for Ray's two agents of a node, which nothing here uses.

Each imports ray, for which a busy machine needs longer than the 15 s that a raylet waits
(ray-project/ray#65983). It says on which ports they would listen, none, and lives as long as the
raylet, which ends with its agents.
"""

import os
import sys
import time
from pathlib import Path

NAMES = {
    "agent.py": ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port"),
    "main.py": ("runtime_env_agent_port",),
}

if __name__ == "__main__":
    options = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
    for name in NAMES[Path(sys.argv[1]).name]:
        file = Path(options["session-dir"], f"{name}_{options['node-id']}")
        file.with_suffix(".new").write_text("-1")
        file.with_suffix(".new").rename(file)
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
