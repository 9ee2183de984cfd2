"""A Ray cluster of several nodes on this machine, for the tests, and what they ask a ledger.

    with cluster(nodes=3) as them:
        them.address            # for --ray-address
        them.kill(them.others[0])

Owns the nodes and that nothing of them is left. Each is a process of its own with workers of its own, as on a machine
of its own; they share its files, so that a folder is one that all nodes see.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from tests.engine.command_support import Desk

Start = Callable[..., "subprocess.Popen[str]"]
"""What the fixture `start` gives: a desk, a manifest and options, to the process of a run."""
MEMORY_BYTES = 80 << 20
"""What a node gives to shared objects: the least that Ray takes."""


@dataclass(slots=True)
class Nodes:
    """A cluster that runs."""

    cluster: Any

    @property
    def address(self) -> str:
        """Where it is joined."""
        return str(self.cluster.address)

    @property
    def others(self) -> list[Any]:
        """The nodes beside the one that drivers are connected to."""
        return sorted(self.cluster.worker_nodes, key=lambda node: str(node.node_id))

    @property
    def logs(self) -> Path:
        """Where the cluster's processes write what they have to say."""
        return Path(self.cluster.head_node.get_session_dir_path()) / "logs"

    def add(self, environment: Mapping[str, str] | None = None, **more: Any) -> Any:
        """Another node, with variables of its own."""
        told = {"num_cpus": 1, "object_store_memory": MEMORY_BYTES, **more}
        return self.cluster.add_node(**told, env_vars=dict(environment or {}))

    def kill(self, node: Any) -> None:
        """End a node as a power cut would: its processes are gone, and nobody is told."""
        self.cluster.remove_node(node, allow_graceful=False)


@contextmanager
def cluster(nodes: int = 3) -> Iterator[Nodes]:
    """A cluster for the block."""
    head = {"num_cpus": 1, "object_store_memory": MEMORY_BYTES, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        # Ray would start a worker for each processor whenever a driver comes; these start when they are asked for.
        patch.setenv("RAY_enable_worker_prestart", "0")
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        them = Nodes(Cluster(initialize_head=True, head_node_args=head))
        try:
            for _ in range(nodes - 1):
                them.add()
            yield them
        finally:
            them.cluster.shutdown()


def rows(desk: Desk, query: str, *values: object, folder: str = "output") -> list[tuple[Any, ...]]:
    """What another process sees in the ledger of a desk."""
    with closing(sqlite3.connect(desk.folder / folder / "ledger.sqlite3")) as connection:
        return connection.execute(query, values).fetchall()


def accounts(desk: Desk) -> tuple[int, int]:
    """What the ledger has on record as spent, and at most as in doubt, in micro-dollars."""
    ((cost, doubt),) = rows(
        desk, "SELECT coalesce(sum(cost_microusd), 0), coalesce(sum(doubt_microusd), 0) FROM attempts"
    )
    return int(cost), int(doubt)


def held_against_the_bill(desk: Desk) -> None:
    """Nothing was paid that is not on record: the bill is what was spent, and no more than that and the doubts."""
    cost, doubt = accounts(desk)
    billed = int(desk.peer.bill()["cost_microusd"])
    assert cost <= billed <= cost + doubt
    # Whatever reached the provider had been put on record before (law 1).
    ((attempts,),) = rows(desk, "SELECT count(*) FROM attempts WHERE coalesce(error_code, '') != 'not_sent'")
    assert desk.requests() <= attempts


def images(desk: Desk, job: str) -> dict[str, bytes]:
    """The assets of a job by their names."""
    below = desk.folder / "output" / job / "images"
    return {file.relative_to(below).as_posix(): file.read_bytes() for file in below.rglob("*") if file.is_file()}


def read_until(process: subprocess.Popen[str], kind: str, count: int) -> list[dict[str, Any]]:
    """The events of a run, until there were so many of a kind."""
    heard: list[dict[str, Any]] = []
    assert process.stdout and process.stderr
    while count:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        heard.append(json.loads(line))
        count -= heard[-1]["type"] == kind
    return heard
