"""What every test has: state and cache of its own, so that no test reaches another, or a run of the one who tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's state folder, for this process and those that it starts."""
    folder = tmp_path_factory.mktemp("state")
    with _told("XDG_STATE_HOME", folder):
        yield folder


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache folder, for this process and those that it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with _told("XDG_CACHE_HOME", folder):
        yield folder


@contextmanager
def _told(name: str, folder: Path) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    yield
    if before is None:
        del os.environ[name]
    else:
        os.environ[name] = before
