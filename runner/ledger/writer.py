"""Group commit: many small changes of the pool, one durable transaction.

Owns the one thread that writes while a run is going. A change is on disk when its method returns; changes that
arrive while a transaction is being flushed share the next one, so that a flush is paid once for all of them. Each
change is isolated by a savepoint: one that fails is rolled back alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread
import sqlalchemy as sa

from runner.errors import LedgerError
from runner.ledger import attempts
from runner.ledger.database import Database, rules
from runner.ledger.types import Answer, Begin, Cost, File
from runner.tasks import Event

T = TypeVar("T")
MAX_GROUP = 256
"""Changes in one transaction at most, so that readers and other jobs are never kept waiting long."""


class _Change(Generic[T]):
    __slots__ = ("done", "error", "operation", "result")

    def __init__(self, operation: Callable[[sa.Connection], T]) -> None:
        self.operation = operation
        self.done = anyio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None


class Writer:
    """The pool's way to write: `run` in a task group, a method for each change, `close` at the end."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Change[Any]] = []
        self._arrived = anyio.Event()
        self._closing = False
        self._limiter = anyio.CapacityLimiter(1)
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Serve changes until `close`; to be started in a task group. It cannot be cancelled while changes wait."""
        with anyio.CancelScope(shield=True):
            while True:
                if not self._waiting:
                    if self._closing:
                        self._ended.set()
                        return
                    await self._arrived.wait()
                    self._arrived = anyio.Event()
                    continue
                group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                await anyio.to_thread.run_sync(self._commit, group, limiter=self._limiter)
                for change in group:
                    change.done.set()

    async def begin(self, what: Begin) -> int:
        """`attempts.begin`: the attempt's id, on record before its request leaves."""
        return await self._do(lambda connection: attempts.begin(connection, what))

    async def received(self, attempt_id: int, *, answer: Answer, cost: Cost, file: File) -> None:
        """`attempts.received`: the image is whole under its temporary name."""
        await self._do(
            lambda connection: attempts.received(connection, attempt_id, answer=answer, cost=cost, file=file)
        )

    async def saved(
        self, attempt_id: int, *, task_id: int, file: File, model: str, simulated: bool, now_ms: int
    ) -> None:
        """`attempts.saved`: the image has its own name, and the task is done."""
        await self._do(
            lambda connection: attempts.saved(
                connection,
                attempt_id,
                task_id=task_id,
                file=file,
                model=model,
                simulated=simulated,
                now_ms=now_ms,
            )
        )

    async def unsaved(
        self, attempt_id: int, event: Event, *, task_id: int, answer: Answer, cost: Cost | None, now_ms: int
    ) -> None:
        """`attempts.unsaved`: no image, and no doubt about the bill."""
        await self._do(
            lambda connection: attempts.unsaved(
                connection, attempt_id, event, task_id=task_id, answer=answer, cost=cost, now_ms=now_ms
            )
        )

    async def lost(self, attempt_id: int, *, task_id: int, answer: Answer, try_again: bool, now_ms: int) -> None:
        """`attempts.lost`: no image, and possibly a bill."""
        await self._do(
            lambda connection: attempts.lost(
                connection, attempt_id, task_id=task_id, answer=answer, try_again=try_again, now_ms=now_ms
            )
        )

    async def _do(self, operation: Callable[[sa.Connection], T]) -> T:
        """Run `operation` in a transaction; when this returns, it is committed and durable.

        Raises:
            LedgerError: the change broke a rule, or the ledger cannot be written.
        """
        if self._closing:
            raise LedgerError("the ledger is closed for this run")
        change = _Change(operation)
        self._waiting.append(change)
        self._arrived.set()
        await change.done.wait()
        if change.error is not None:
            raise change.error
        return change.result  # type: ignore[return-value]  # a change without an error has its result

    async def close(self) -> None:
        """Commit what waits, and end `run`."""
        self._closing = True
        self._arrived.set()
        await self._ended.wait()

    def _commit(self, group: list[_Change[Any]]) -> None:
        try:
            with self._database.write() as connection:
                for change in group:
                    savepoint = connection.begin_nested()
                    try:
                        with rules(self._database.path):
                            change.result = change.operation(connection)
                    except LedgerError as error:
                        savepoint.rollback()
                        change.error = error
                    else:
                        savepoint.commit()
                    # Any other error ends the group. A full disk has taken the savepoint with it: to roll that back
                    # would fail, and hide what is wrong.
        except Exception as error:  # whatever it was, those who wait must hear of it
            for change in group:
                change.error = change.error or error
