"""What a ledger's database can do, wherever it is: transactions to write and to read in, locks of jobs, waiting.

Owns the contract of `sqlite` and `postgres`, and how long what stands in the way is waited for. Refuses to know either
of them, and what is in the tables.
"""

from __future__ import annotations

import datetime as dt
import functools
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from runner.errors import LedgerError
from runner.ledger.places import Place
from runner.ledger.soundness import HEAD

T = TypeVar("T")
P = ParamSpec("P")
WAIT_S = 60.0
"""How long a ledger is waited for that another process holds, or that cannot be reached."""
TELL_S = 2.0
"""A wait longer than this is told."""
_AGAIN_S = 2.0
"""How long is waited after a wait that was in vain: many changes of one run must not each wait their fill."""

Write = Callable[[], AbstractContextManager[sa.Connection]]
"""A transaction to write in."""


class Undone(LedgerError):
    """A transaction has come to nothing, which is known for certain: it can be tried again as a whole."""


class Database(ABC):
    """One ledger. What is committed is durable; a transaction that an exception ends has changed nothing.

    On a file, whoever writes holds all of the ledger from the start of a transaction. On a server many write at once
    (READ COMMITTED), so that every change compares before it sets.
    """

    is_shared: ClassVar[bool]
    """Whether other hosts may use it at the same time."""
    writers: ClassVar[int] = 1
    """How many transactions of one run are worth having under way at a time."""

    def __init__(self, found: str | None) -> None:
        self._found = found

    @property
    @abstractmethod
    def place(self) -> Place:
        """Where it is; `str()` of it is fit for messages."""

    @abstractmethod
    def write(self) -> AbstractContextManager[sa.Connection]:
        """A read-write transaction: committed at the end of the block, rolled back by an exception.

        Raises:
            Undone: a server was lost, or two writers met; nothing was changed.
            LedgerError: anything else that the database refuses.
        """

    @abstractmethod
    def held(self) -> AbstractContextManager[Write]:
        """For many changes in a row: a `write` whose transactions share one connection, given back after the block."""

    def prompt(self) -> AbstractContextManager[sa.Connection]:
        """To say one statement that is committed when it returns, and need not survive a crash of the server.

        It is not waited for: a server that cannot be reached is a LedgerError at once.
        """
        return self.write()

    @abstractmethod
    def bulk(self) -> AbstractContextManager[Write]:
        """For very many rows: `held`, with more memory meanwhile."""

    @abstractmethod
    def read(self) -> AbstractContextManager[sa.Connection]:
        """A snapshot to read from."""

    @abstractmethod
    def lock(self, job: str, *, now: dt.datetime) -> AbstractContextManager[None]:
        """Hold a job for the block.

        Raises:
            Locked: another run holds it; the message says which, where, and since when.
            LedgerError: it cannot be locked; on a server also at the end, when the lock was lost to another run.
        """

    @abstractmethod
    def is_held(self, job: str) -> bool:
        """Whether a live run, of any host that shares the ledger, holds a job."""

    @abstractmethod
    def check(self, *, deep: bool) -> list[str]:
        """What the database's own checks complain of; `deep` takes as long as the ledger is large."""

    @abstractmethod
    def close(self) -> None:
        """Give every connection back."""

    @abstractmethod
    def _migrate(self, found: str | None) -> None:
        """Bring the schema up to date, from this version of it."""

    def renew(self) -> None:
        """Bring an older schema up to date: before the first change, so that who only looks never waits for it."""
        if self._found != HEAD:
            self._migrate(self._found)
            self._found = HEAD

    def knows(self, version: str) -> bool:
        """Whether the schema, as it is now, has what came with this version of it."""
        return self._found is not None and self._found >= version


class Patience:
    """Waits for a ledger; `on_wait` is told once in each long wait, with its seconds so far.

    `on_wait` is called in whichever thread waits; when several wait at once, by one of them.
    """

    def __init__(self, on_wait: Callable[[float], None] | None = None, *, wait_s: float | None = None) -> None:
        self._on_wait = on_wait
        self._wait_s = WAIT_S if wait_s is None else wait_s
        self._in_vain = False
        self._is_told = False

    @property
    def wait_s(self) -> float:
        """The longest wait from here on."""
        return min(self._wait_s, _AGAIN_S) if self._in_vain else self._wait_s

    def attempt(
        self,
        call: Callable[[], T],
        *,
        may_pass: Callable[[Exception], bool] | None = None,
        pause_s: float = 0.02,
    ) -> T:
        """Call until it is not refused for what may pass (by default, a lock); the last refusal is raised."""
        began, told, limit_s = time.monotonic(), False, self.wait_s
        while True:
            try:
                result = call()
            except (sqlite3.OperationalError, exc.DBAPIError, Undone) as error:
                if not (may_pass or _is_locked)(error):
                    raise
                waited_s = time.monotonic() - began
                if waited_s >= limit_s:
                    self._in_vain = True
                    raise
                if waited_s >= TELL_S and not told and self._on_wait is not None:
                    told, is_news, self._is_told = True, not self._is_told, True
                    if is_news:
                        self._on_wait(waited_s)
                # Some refusals come at once, whatever the database was told to wait.
                time.sleep(min(pause_s, limit_s))
            else:
                self._in_vain = self._is_told = False
                return result


def once_more(method: Callable[P, T]) -> Callable[P, T]:
    """For a method that is one transaction: done again while that has come to nothing, for `WAIT_S` at most.

    Only what can be called twice with the same arguments may be marked so.
    """

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        began = time.monotonic()
        while True:
            try:
                return method(*args, **kwargs)
            except Undone:
                if time.monotonic() - began >= WAIT_S:
                    raise
                time.sleep(0.02)

    return call


def _is_locked(error: Exception) -> bool:
    return "locked" in str(error)
