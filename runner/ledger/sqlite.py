"""A ledger that is a file: SQLite's connections, pragmas, migrations, waiting.

Owns how SQLite is opened and held. `soundness` judges what is found, `failures` says what went wrong; this module
refuses to know what is in the tables.
"""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import exc

from runner.errors import InputError, LedgerError
from runner.ledger import lock, schema, soundness
from runner.ledger.database import Database, Patience, Write
from runner.ledger.failures import translated

_SLICE_S = 0.5
# What SQLite begins with.
_CACHE_KIB, _LOG_PAGES = 2_000, 1_000
# A million keys come in no order: with all of their index in memory a page of it is written once for many of them.
_BULK_CACHE_KIB, _BULK_LOG_PAGES = 96 * 1024, 16_384

_Mode = Literal["rwc", "rw", "ro", "immutable"]
"""How a connection opens the file: `rwc` makes it, `immutable` reads it where nothing can be made beside it."""


class FileDatabase(Database):
    """A ledger in a file: whoever writes holds all of it from the start of a transaction."""

    is_shared = False

    def __init__(
        self, path: Path, patience: Patience, *, found: str | None, writer: _Mode = "rw", reader: _Mode = "rw"
    ) -> None:
        super().__init__(found)
        self.path = path
        self._writer = _engine(path, "BEGIN IMMEDIATE", patience, writer)
        self._reader = _engine(path, "BEGIN", patience, reader)
        self._inode: tuple[int, int] | None = None

    @property
    def place(self) -> Path:
        """The ledger's file."""
        return self.path

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A read-write transaction: committed at the end of the block, rolled back by an exception."""
        self.renew()
        with translated(self.path), self._writer.begin() as connection:
            self._still_there()
            yield connection

    @contextmanager
    def held(self) -> Iterator[Write]:
        """For many changes in a row: a `write` whose transactions share one connection, given back after the block."""
        self.renew()
        with translated(self.path), self._writer.connect() as connection:

            @contextmanager
            def write() -> Iterator[sa.Connection]:
                with translated(self.path), connection.begin():
                    self._still_there()
                    yield connection

            yield write

    @contextmanager
    def bulk(self) -> Iterator[Write]:
        """For very many rows: `held`, with more memory meanwhile."""
        with self.held() as write:
            with write() as connection:
                driver = connection.connection
            _pragmas(driver, f"cache_size = -{_BULK_CACHE_KIB}", f"wal_autocheckpoint = {_BULK_LOG_PAGES}")
            try:
                yield write
            finally:
                _pragmas(driver, f"cache_size = -{_CACHE_KIB}", f"wal_autocheckpoint = {_LOG_PAGES}", "shrink_memory")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A snapshot to read from."""
        with translated(self.path), self._reader.begin() as connection:
            yield connection

    def lock(self, job: str, *, now: dt.datetime) -> AbstractContextManager[None]:
        """Hold a job for the block: the kernel keeps the lock."""
        return lock.job_lock(self.path, job, now=now)

    def is_held(self, job: str) -> bool:
        """Whether a live run holds a job."""
        return lock.is_held(self.path, job)

    def check(self, *, deep: bool) -> list[str]:
        """What SQLite's own integrity and foreign key checks complain of; `deep` looks at the indices as well."""
        pragma = sa.text("PRAGMA integrity_check" if deep else "PRAGMA quick_check")
        with self.read() as connection:
            integrity = [str(row[0]) for row in connection.execute(pragma)]
            foreign = [
                f"broken reference in {row[0]}" for row in connection.execute(sa.text("PRAGMA foreign_key_check"))
            ]
        return [line for line in integrity if line != "ok"] + foreign

    def close(self) -> None:
        """Give every connection back."""
        # The writer last: whoever closes last brings the log's changes into the ledger's file, if it may write.
        self._reader.dispose()
        self._writer.dispose()

    def _migrate(self, found: str | None) -> None:
        _migrate(self, found)

    def _still_there(self) -> None:
        """What is written to a file that was removed or replaced is lost with it."""
        try:
            found = self.path.stat()
        except OSError:
            found = None
        inode = (found.st_dev, found.st_ino) if found else None
        if self._inode is None:
            self._inode = inode
        if inode is None or inode != self._inode:
            raise LedgerError(
                f"the ledger {self.path} was removed or replaced while it was in use",
                hint="put it back, then run again: what was recorded until then is in it",
            )


def open_file(path: Path, *, create: bool, on_wait: Callable[[float], None] | None = None) -> FileDatabase:
    """Open the ledger at `path`, bringing its schema up to date. Until it has proved sound, nothing of it is changed.

    Without `create` it is opened to look at, and can then be one that cannot be written; an older schema is left as it
    is until something is to be changed after all. `on_wait` is told when another process has held it for more than
    `TELL_S`, with the seconds so far.

    Raises:
        InputError: there is none, or an empty one, and `create` is False.
        LedgerError: not a ledger, from a newer version, damaged, locked, or not writable.
    """
    patience = Patience(on_wait)
    there = soundness.look_at_file(path)
    if not there and not create:
        raise InputError(
            f"there is no ledger at {path}",
            hint="nothing has been run here yet: start with `runner run JOB`, or name the folder with --output",
        )
    if not there:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"cannot make the ledger's folder {path.parent}: {error.strerror}", hint="name another with --ledger"
            ) from None
    found, seen_as = _look(path, patience, thorough=create) if there else (None, "rw")
    if found is None and not create:
        raise InputError(
            f"the ledger {path} is empty",
            hint="no run has put anything on record in it: start with `runner run JOB`, or name another with --ledger",
        )
    # A command that only looks leaves a log where it is, for a run to bring in.
    reader: _Mode = "rw" if create or seen_as == "rw" else seen_as
    database = FileDatabase(path, patience, found=found, writer="rw" if there else "rwc", reader=reader)
    try:
        if create:
            database.renew()
    except BaseException:
        database.close()
        raise
    return database


def _look(path: Path, patience: Patience, *, thorough: bool) -> tuple[str | None, _Mode]:
    """The schema's version and how the file could be read, found without changing anything."""
    mode = _gentle(path)
    while True:
        engine = _engine(path, "BEGIN", patience, mode)
        try:
            with translated(path), engine.begin() as connection:
                found = soundness.version(connection, path)
                soundness.whole(connection, path, thorough=thorough)
                if mode == "ro":
                    _belongs(connection, path, patience)
                return found, _lasting(path, mode)
        except LedgerError:
            # Another process began to write after `_gentle` had looked: what was seen may be half of a change.
            if mode != "immutable" or _gentle(path) == "immutable":
                raise
            mode = _gentle(path)
        finally:
            engine.dispose()


def _belongs(connection: sa.Connection, path: Path, patience: Patience) -> None:
    engine = _engine(path, "BEGIN", patience, "immutable")
    try:
        with engine.begin() as alone:
            soundness.belongs(connection, alone, path)
    except exc.DBAPIError:
        return  # It cannot be read without its log.
    finally:
        engine.dispose()


def _gentle(path: Path) -> _Mode:
    """How to look without leaving a trace: neither bringing a log into the file nor making one."""
    if soundness.wal_bytes(path):
        return "ro"
    with suppress(OSError):
        if soundness.beside(path, "-journal").stat().st_size:
            # Left by a process that died half way; only what may write can undo that half.
            return "rw"
    return "immutable"


def _lasting(path: Path, mode: _Mode) -> _Mode:
    """How to read for as long as a command takes, from how it was looked at."""
    if mode == "immutable" and os.access(path.parent, os.W_OK):
        return "rw"
    return mode


def _migrate(database: FileDatabase, found: str | None) -> None:
    with translated(database.path), database._writer.begin() as connection:
        # Another process may have migrated while this one waited for the write lock.
        if soundness.version(connection, database.path) == found:
            schema.bring(connection, found)


def _pragmas(connection: sa.PoolProxiedConnection, *words: str) -> None:
    # Past SQLAlchemy, which would begin a transaction for them.
    cursor = connection.cursor()
    for word in words:
        cursor.execute(f"PRAGMA {word}").fetchall()
    cursor.close()


def _engine(path: Path, begin: str, patience: Patience, mode: _Mode) -> sa.Engine:
    options = "mode=ro&immutable=1" if mode == "immutable" else f"mode={mode}"
    uri = f"file:{quote(os.fspath(path.absolute()), errors='surrogateescape')}?{options}"
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        creator=lambda: sqlite3.connect(uri, uri=True, timeout=_SLICE_S, check_same_thread=False),
    )

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        # SQLAlchemy, not the driver, says when a transaction begins.
        connection.isolation_level = None
        cursor = connection.cursor()
        if begin == "BEGIN IMMEDIATE":
            patience.attempt(lambda: cursor.execute("PRAGMA journal_mode = WAL").fetchall())
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        driver = connection.connection.driver_connection
        cursor = connection.connection.cursor()

        def attempt() -> None:
            cursor.execute(begin)
            if begin == "BEGIN IMMEDIATE":
                return
            try:
                # The snapshot is taken by the first read, and that is what may have to wait.
                cursor.execute("PRAGMA schema_version").fetchall()
            except sqlite3.Error:
                if isinstance(driver, sqlite3.Connection) and driver.in_transaction:
                    cursor.execute("ROLLBACK")
                raise

        try:
            cursor.execute(f"PRAGMA busy_timeout = {round(min(_SLICE_S, patience.wait_s) * 1000)}")
            patience.attempt(attempt)
            cursor.execute(f"PRAGMA busy_timeout = {round(patience.wait_s * 1000)}")
        except sqlite3.Error as error:
            raise exc.OperationalError(begin, None, error) from error
        finally:
            cursor.close()

    return engine
