"""A Ray cluster of so many nodes in a process of its own: `python -m tests.bench.ray_nodes 4`, until its input ends.

Owns the nodes, and the CPU time of all of their processes: the address is the first line of its output, and each line
of its input is answered by the seconds that they have taken so far. Reads /proc, so it is for Linux.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from ray.cluster_utils import Cluster

MEMORY_BYTES = 80 << 20
EVERY_S = 0.1
"""What a process takes between the last look and its end is not counted."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Watch(threading.Thread):
    """Looks at every process below this one, several times a second.

    Ray's nodes do not wait for their workers, so that what those have taken is in nobody's figures when they are gone.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._took: dict[tuple[int, str], float] = {}
        self._turn = threading.Lock()

    def run(self) -> None:
        while True:
            self.cpu_s()
            time.sleep(EVERY_S)

    def cpu_s(self) -> float:
        """CPU seconds of all of them so far, whether they are still there or not."""
        with self._turn:
            self._look()
            return sum(self._took.values())

    def _look(self) -> None:
        children: dict[int, list[tuple[int, str, float]]] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS
                children.setdefault(int(fields[1]), []).append((int(folder.name), fields[19], cpu_s))
        below = list(children.get(os.getpid(), []))
        while below:
            pid, began, cpu_s = below.pop()
            self._took[pid, began] = cpu_s
            below += children.get(pid, [])


def main() -> None:
    """Begin, answer, end."""
    # What is measured are actors that were asked for, not workers that wait for others.
    os.environ.update(RAY_enable_worker_prestart="0", RAY_prestart_worker_first_driver="0")
    head = {"num_cpus": 1, "object_store_memory": MEMORY_BYTES, "include_dashboard": False}
    them = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(int(sys.argv[1]) - 1):
        them.add_node(num_cpus=1, object_store_memory=MEMORY_BYTES)
    watch = Watch()
    watch.start()
    print(them.address, flush=True)
    for _ in sys.stdin:
        print(watch.cpu_s(), flush=True)
    them.shutdown()  # type: ignore[no-untyped-call]  # Ray's tests' own


if __name__ == "__main__":
    main()
