"""Fixtures of the tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edges.simulator_support import Peer, running
from tests.engine.command_support import Desk


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat") as peer:
        yield peer


@pytest.fixture
def desk(
    server: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    server.call("POST", "/simulator/reset")
    yield Desk(tmp_path, server, monkeypatch, capsys)
    server.call("POST", "/simulator/faults", {"rules": []})
