"""Fixtures of the tests at the edges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.edges.ledger_support import places
from tests.servers import postgres

ON_BOTH = (
    "test_gates",
    "test_ledger_attempts",
    "test_ledger_audit",
    "test_ledger_batches",
    "test_ledger_caps",
    "test_ledger_claims",
    "test_ledger_edits",
    "test_ledger_enrol",
    "test_ledger_looking",
    "test_ledger_queries",
    "test_ledger_races",
    "test_ledger_writer",
    "test_recovery",
)
"""The modules whose tests run on a ledger in a file and on one on a server; a test marked `file_only` on the first."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is about any ledger on both kinds."""
    if metafunc.module.__name__.rpartition(".")[2] in ON_BOTH and not metafunc.definition.get_closest_marker(
        "file_only"
    ):
        metafunc.parametrize("ledger_kind", ["file", "server"], indirect=True)


@pytest.fixture(autouse=True)
def ledger_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where `open_ledger` opens ledgers: in a `file`, or on a `server`."""
    kind = str(getattr(request, "param", "file"))
    if kind == "file":
        yield kind
        return
    server: postgres.Server = request.getfixturevalue("pg_server")
    with places.on(server):
        yield kind


@pytest.fixture(scope="session")
def pg_server() -> Iterator[postgres.Server]:
    """A cluster of PostgreSQL; skips where there is none."""
    if postgres.programs() is None:
        pytest.skip(postgres.ABSENT)
    with postgres.cluster() as started:
        yield started


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is asked directly, whatever the machine's own settings are."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
