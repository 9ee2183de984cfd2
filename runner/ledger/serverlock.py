"""One run at a time for each job of a ledger on a PostgreSQL server, on whatever host it is.

Owns the advisory lock, the connection that holds it and what is done when that is lost. The lock ends with its
connection, however the process ends. Refuses to know what a run does with its job.

A lost lock is taken again at once. Where another run was quicker, this one is over: it begins nothing more (`claims`
sees to that in the ledger itself), and whoever held the lock is told at the end of the block.
"""

from __future__ import annotations

import hashlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc

from runner.errors import LedgerError, Locked, RunnerError
from runner.ledger.database import Undone
from runner.ledger.places import Server
from runner.ledger.refusals import translated

WATCH_S: Final = 5.0
"""How often the connection that holds a lock is looked at; one that is closed is noticed at once."""

_TRY: Final = sa.text("SELECT pg_try_advisory_lock(:key)")
_HOLDER: Final = sa.text(
    "SELECT a.application_name, a.client_addr::text, to_char(a.backend_start AT TIME ZONE 'UTC',"
    " 'YYYY-MM-DD HH24:MI:SS') FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
    " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
    " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
    " AND l.classid = CAST(:high AS oid) AND l.objid = CAST(:low AS oid)"
)


def key(schema: str, kind: str, name: str) -> int:
    """The number of a lock: locks are the database's, ledgers a schema's."""
    digest = hashlib.sha256("\0".join(("runner", schema, kind, name)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def holder(connection: sa.Connection, schema: str, job: str) -> str | None:
    """Who holds a job, in words; None if nobody does."""
    number = key(schema, "job", job) & (1 << 64) - 1
    row = connection.execute(_HOLDER, {"high": number >> 32, "low": number & 0xFFFFFFFF}).first()
    if row is None:
        return None
    name, address, since = row
    program, _, rest = (name or "").partition(" ")
    pid, _, host = rest.partition(" ")
    known = program == "runner" and pid.isdigit() and host
    who = f"pid {pid} on {host}" if known else f"a connection from {address or 'the server itself'}"
    return f"{who}, since {since} UTC" if since else who


@contextmanager
def job_lock(connect: Callable[[], sa.Connection], server: Server, schema: str, job: str) -> Iterator[None]:
    """Hold a job for the block. `connect` gives a connection of the lock's own, each statement for itself.

    Raises:
        Locked: another run holds it; the message says which, where, and since when.
        LedgerError: the lock was lost meanwhile, and another run has taken it (raised at the end of the block).
    """
    lock = _Held(connect, server, schema, job)
    try:
        lock.take()
        with lock.watched():
            yield
    finally:
        lock.close()
    if lock.lost is not None:
        raise lock.lost


class _Held:
    """The lock of one job, and the thread that sees that it stays."""

    def __init__(self, connect: Callable[[], sa.Connection], server: Server, schema: str, job: str) -> None:
        self.lost: RunnerError | None = None
        self._connect = connect
        self._server = server
        self._schema = schema
        self._job = job
        self._connection: sa.Connection | None = None
        # The watch is woken by the end of `_wake`, so that nobody waits for its next look.
        self._woken, self._wake = socket.socketpair()
        self._is_over = False

    def take(self) -> None:
        """Take the lock on a new connection."""
        self._connection = self._connect()
        with translated(self._server):
            if not self._connection.execute(_TRY, {"key": key(self._schema, "job", self._job)}).scalar_one():
                who = holder(self._connection, self._schema, self._job) or "it has only just begun"
                raise Locked(
                    f"another run holds the job {self._job!r}: {who}",
                    hint="wait for it to end (`runner status` shows how far it is), or stop it with Ctrl-C or SIGTERM",
                )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let a thread see that the lock stays, for the block."""
        thread = threading.Thread(target=self._watch, name=f"the lock of {self._job}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over = True
            self._wake.close()
            thread.join()

    def close(self) -> None:
        """Give the lock back, with its connection."""
        self._drop()
        self._wake.close()
        self._woken.close()

    def _watch(self) -> None:
        while not self._is_over:
            if self._is_there() or self._is_over:
                continue
            self._drop()
            try:
                self.take()
            except Undone:
                continue  # Lost again, while it was taken.
            except Locked as error:
                self.lost = LedgerError(
                    f"the lock of the job {self._job!r} was lost with the connection to {self._server}, and "
                    f"{error.message}",
                    hint="that run goes on with the job; what this one has put on record stays there",
                )
                return
            except RunnerError as error:
                self.lost = error
                return

    def _is_there(self) -> bool:
        if self._connection is None:
            return False
        try:
            driver: Any = self._connection.connection.dbapi_connection
            # Whatever comes unasked is the end of the connection, or word of it.
            select.select([driver.fileno(), self._woken], [], [], WATCH_S)
            if not self._is_over:
                self._connection.execute(sa.text("SELECT 1")).scalar_one()
        except (exc.SQLAlchemyError, OSError):
            return False
        return True

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(exc.SQLAlchemyError):
                self._connection.close()
        self._connection = None
