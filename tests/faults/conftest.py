"""Fixtures of the tests of faults."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edges.simulator_support import Peer, running
from tests.faults.support import KEY, KEY_VARIABLE, Scripted, scripted


@pytest.fixture(scope="module")
def simulator() -> Iterator[Peer]:
    """A simulator in another process."""
    with running(art="flat") as it:
        yield it


@pytest.fixture(scope="module")
def stage() -> Iterator[Scripted]:
    """A scripted server in another process."""
    with scripted() as it:
        yield it


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key, no proxy, and nothing of the caller's or of another test's that would change where and when things go."""
    for name in list(os.environ):
        if name.startswith(("RUNNER_", "OPENAI_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
