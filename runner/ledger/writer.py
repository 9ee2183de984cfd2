"""Group commit: many small changes of the pool, one durable transaction.

Owns the thread that writes while a run is going; on a server there are several, because a transaction waits there for
the way to the server and not for others. A change is on disk when its method returns; changes that arrive while a
transaction is being flushed share the next one, so that a flush is paid once for all of them. Each change is isolated
by a savepoint: one that fails is rolled back alone.

What must happen between two changes (an image gets its name after its cost is on record, and before it is done) can be
handed over as steps, which go on in the same thread: to go back and forth between threads costs more than a change.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread
import sqlalchemy as sa

from runner.errors import LedgerError
from runner.ledger import attempts
from runner.ledger.database import Database, Undone, Write, once_more
from runner.ledger.failures import rules
from runner.ledger.types import Answer, Begin, Cost, File, Hindrance
from runner.tasks import Event

T = TypeVar("T")
MAX_GROUP = 256
"""Changes in one transaction at most, so that readers and other jobs are never kept waiting long."""
MAX_STEPS = 8
"""Changes with work between them that are taken at a time, so that a request's record does not wait for many files."""

Change = Callable[[sa.Connection], Any]
"""What a transaction does for one attempt; made by the writer, and opaque to everyone else."""
Steps = Generator[Change, Any, T]
"""Work with changes in between: each that it yields is committed and durable before it goes on."""


class _Pending(Generic[T]):
    """Somebody's steps, and what has become of them."""

    __slots__ = ("_steps", "change", "done", "error", "result")

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.change: Change | None = None
        self.done = anyio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def go_on(self, outcome: object = None, error: Exception | None = None) -> None:
        """Work up to the next change; what the last one came to is handed over."""
        self.change = None
        try:
            self.change = self._steps.send(outcome) if error is None else self._steps.throw(error)
        except StopIteration as end:
            self.result = end.value
        except Exception as raised:  # it is for whoever waits for these steps
            self.error = raised


class Writer:
    """The pool's way to write: `run` in a task group, a method for each change, `close` at the end."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Pending[Any]] = []
        self._working: list[_Pending[Any]] = []
        self._arrived = anyio.Event()
        self._closing = False
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Serve changes until `close`; to be started in a task group. It cannot be cancelled while changes wait."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as lanes:
                for _ in range(self._database.writers):
                    lanes.start_soon(self._work)
            self._ended.set()

    async def _work(self) -> None:
        """One thread's work: whatever waits when it has time."""
        lane, limiter = _Lane(self._database), anyio.CapacityLimiter(1)
        while True:
            if not self._waiting and not self._working:
                if self._closing:
                    await anyio.to_thread.run_sync(lane.close, limiter=limiter)
                    return
                if self._arrived.is_set():
                    self._arrived = anyio.Event()
                await self._arrived.wait()
                continue
            group = self._next()
            await anyio.to_thread.run_sync(lane.serve, group, limiter=limiter)
            for pending in group:
                pending.done.set()

    def _next(self) -> list[_Pending[Any]]:
        """What a thread takes: all that waits; where there are several threads one, for a group would hold up others.

        What a change has locked on a server stays so until its transaction is over, and each word goes there and back.
        """
        if self._database.writers == 1:
            group = self._waiting[:MAX_GROUP] + self._working[:MAX_STEPS]
            del self._waiting[:MAX_GROUP], self._working[:MAX_STEPS]
            return group
        return [(self._waiting or self._working).pop(0)]

    async def begin(self, what: Begin, *, alone: bool = False) -> int | Hindrance:
        """`attempts.begin`: the attempt's id, on record before its request leaves, or why it may not leave."""
        is_live = self._database.is_held
        found: int | Hindrance = await self.commit(
            lambda connection: attempts.begin(connection, what, alone=alone, is_live=is_live)
        )
        return found

    def received(self, attempt_id: int, *, answer: Answer, cost: Cost, file: File) -> Change:
        """`attempts.received`, for `commit` or as a step: the image is whole under its temporary name."""
        return lambda connection: attempts.received(connection, attempt_id, answer=answer, cost=cost, file=file)

    def saved(self, attempt_id: int, *, task_id: int, file: File, model: str, simulated: bool, now_ms: int) -> Change:
        """`attempts.saved`, for `commit` or as a step: the image has its own name, and the task is done."""
        return lambda connection: attempts.saved(
            connection, attempt_id, task_id=task_id, file=file, model=model, simulated=simulated, now_ms=now_ms
        )

    async def unsaved(
        self, attempt_id: int, event: Event, *, task_id: int, answer: Answer, cost: Cost | None, now_ms: int
    ) -> None:
        """`attempts.unsaved`: no image, and no doubt about the bill."""
        await self.commit(
            lambda connection: attempts.unsaved(
                connection, attempt_id, event, task_id=task_id, answer=answer, cost=cost, now_ms=now_ms
            )
        )

    async def lost(self, attempt_id: int, *, task_id: int, answer: Answer, try_again: bool, now_ms: int) -> None:
        """`attempts.lost`: no image, and possibly a bill."""
        await self.commit(
            lambda connection: attempts.lost(
                connection, attempt_id, task_id=task_id, answer=answer, try_again=try_again, now_ms=now_ms
            )
        )

    async def commit(self, change: Change) -> Any:
        """One change; when this returns, it is committed and durable.

        Raises:
            LedgerError: the change broke a rule, or the ledger cannot be written.
        """
        return await self._hand_over(_alone(change), self._waiting)

    async def through(self, steps: Steps[T]) -> T:
        """Let `steps` go on in the writing thread, from one of its changes to the next; what it returns.

        Raises:
            LedgerError: a change broke a rule, or the ledger cannot be written; it is raised where that was yielded.
            Exception: whatever `steps` raises.
        """
        result: T = await self._hand_over(steps, self._working)
        return result

    async def _hand_over(self, steps: Steps[Any], queue: list[_Pending[Any]]) -> Any:
        if self._closing:
            raise LedgerError("the ledger is closed for this run")
        pending = _Pending(steps)
        queue.append(pending)
        self._arrived.set()
        await pending.done.wait()
        if pending.error is not None:
            raise pending.error
        return pending.result

    async def close(self) -> None:
        """Commit what waits, and end `run`."""
        self._closing = True
        self._arrived.set()
        await self._ended.wait()


class _Lane:
    """One thread that writes, with a connection of its own, which is kept from one transaction to the next."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held = ExitStack()
        self._write: Write | None = None

    def close(self) -> None:
        """Give the connection back."""
        self._held.close()

    def serve(self, group: list[_Pending[Any]]) -> None:
        """Take each of these through all of its changes."""
        for pending in group:
            pending.go_on()
        while live := [pending for pending in group if pending.change is not None]:
            for pending, outcome in zip(live, self._transact(live), strict=True):
                if isinstance(outcome, Exception):
                    pending.go_on(error=outcome)
                else:
                    pending.go_on(outcome)

    def _transact(self, live: list[_Pending[Any]]) -> list[object]:
        """Commit the change of each, all in one transaction: what each came to, an exception where it failed."""
        try:
            return self._commit(live)
        except Undone as error:
            return [error] * len(live)

    @once_more
    def _commit(self, live: list[_Pending[Any]]) -> list[object]:
        outcomes: list[object] = []
        try:
            if self._write is None:
                self._write = self._held.enter_context(self._database.held())
            with self._write() as connection:
                for pending in live:
                    assert pending.change is not None
                    if len(live) == 1:
                        # It fails with all of its transaction.
                        outcomes.append(pending.change(connection))
                        break
                    # The standard's own words: SQLAlchemy's savepoints cost more than what stands between them.
                    connection.exec_driver_sql("SAVEPOINT one_change")
                    try:
                        with rules(self._database.place):
                            outcomes.append(pending.change(connection))
                    except Undone:
                        raise
                    except LedgerError as error:
                        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one_change")
                        outcomes.append(error)
                    connection.exec_driver_sql("RELEASE SAVEPOINT one_change")
                    # Any other error ends the group. A full disk has taken the savepoint with it: to roll that back
                    # would fail, and hide what is wrong.
        except Exception as error:  # whatever it was, those who wait must hear of it
            # Whatever state the connection is in, the next group begins with another.
            self._write = None
            with suppress(Exception):
                self._held.close()
            if isinstance(error, Undone):
                raise
            failed = [outcome if isinstance(outcome, Exception) else error for outcome in outcomes]
            return [*failed, *[error] * (len(live) - len(failed))]
        return outcomes


def _alone(change: Change) -> Steps[Any]:
    return (yield change)
