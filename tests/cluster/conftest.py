"""Fixtures of the tests on a Ray cluster: one cluster for each module, one provider for all of its runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: python -m pip install 'runner[ray]'")

from tests.cluster.cluster_support import Nodes, Start, cluster
from tests.edges.simulator_support import Peer, running
from tests.engine.command_support import Desk


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat") as peer:
        yield peer


@pytest.fixture(scope="module")
def nodes(state_folder: Path, cache_folder: Path) -> Iterator[Nodes]:
    """The cluster of a module; its processes have the state and cache folders of the tests."""
    with cluster() as them:
        yield them


@pytest.fixture
def desk(
    server: Peer, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    """A user's folder beside a cluster, which `--engine ray` finds by $RAY_ADDRESS."""
    server.call("POST", "/simulator/reset")
    desk = Desk(tmp_path, server, monkeypatch, capsys)
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    yield desk
    server.call("POST", "/simulator/faults", {"rules": []})


@pytest.fixture
def start() -> Iterator[Start]:
    """Begins a run as a process of its own, which is ended with the test."""
    begun: list[subprocess.Popen[str]] = []

    def begin(desk: Desk, path: str, *more: str) -> subprocess.Popen[str]:
        begun.append(desk.start("run", path, *desk.to_peer, "--engine", "ray", "--json", *more))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()
