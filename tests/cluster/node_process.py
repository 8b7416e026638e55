"""A Ray node in a process of its own, wherever that was started, such as a network namespace.

python -m tests.cluster.node_process IP PORT [head] [restart] [cores=N]
"""

import sys
import time
from pathlib import Path

from tests.cluster.helpers_ray import STORE_BYTES, light_nodes


def start(address, port, *, is_head, cores):
    """Start the node; it lives as long as this process."""
    with light_nodes():
        from ray._private.node import Node
        from ray._private.parameter import RayParams

        own = {"gcs_server_port": int(port)} if is_head else {"gcs_address": port}
        params = RayParams(
            node_ip_address=address,
            num_cpus=cores,
            include_dashboard=False,
            include_log_monitor=False,
            no_monitor=True,
            object_store_memory=STORE_BYTES,
            **own,
        )
        return Node(params, head=is_head, shutdown_at_exit=True, spawn_reaper=False)


def tell(word):
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def is_alive(node):
    return node.all_processes["raylet"][0].process.poll() is None


def main(address, port, *words):
    options = dict(word.split("=") for word in words if "=" in word)
    while True:
        node = start(address, port, is_head="head" in words, cores=int(options.get("cores", 1)))
        tell("up")
        while is_alive(node):
            time.sleep(0.2)
        tell("down")
        if "restart" not in words:
            return
        node.kill_all_processes(check_alive=False, allow_graceful=False)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(*sys.argv[1:])
