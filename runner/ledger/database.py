"""Opens the ledger's database: connections, pragmas, migrations, and errors in words that a user can act on.

Owns everything that is particular to SQLite, the translation of SQLAlchemy's exceptions, and the schema's version.
Refuses to know what is in the tables.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from runner.errors import InputError, LedgerError

HEAD = "0001"
"""The schema's version that this code reads and writes: the newest of `migrations/versions`."""
BUSY_TIMEOUT_S = 300
_OURS = {"alembic_version", "jobs", "tasks", "attempts"}
"""By these a ledger is told from the database of another program, which may use Alembic as well."""


class Database:
    """One ledger: `write()` is a transaction that holds the write lock from its start, `read()` one that never does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = _engine(path, "BEGIN IMMEDIATE")
        self._reader = _engine(path, "BEGIN")

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A read-write transaction: committed at the end of the block, rolled back by an exception."""
        with translated(self.path), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A snapshot to read from."""
        with translated(self.path), self._reader.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give every connection back."""
        self._writer.dispose()
        self._reader.dispose()


def locate(ledger: str | None, output: Path) -> Path:
    """The ledger's file from what the user gave: a path, `sqlite:///PATH`, or nothing for the output folder's own.

    Raises:
        InputError: a URL of a database that this version does not know.
    """
    if ledger is None:
        return output / "ledger.sqlite3"
    if ledger.startswith("sqlite:///"):
        return Path(ledger.removeprefix("sqlite:///"))
    if "://" in ledger:
        scheme = ledger.split("://", 1)[0]
        raise InputError(f"a ledger at {scheme}:// is not supported", hint="use a path or sqlite:///PATH")
    return Path(ledger)


def open_database(path: Path, *, create: bool) -> Database:
    """Open the ledger at `path`, bringing its schema up to date.

    Raises:
        InputError: there is none and `create` is False.
        LedgerError: not a ledger, from a newer version, damaged, locked, or not writable.
    """
    if not path.exists():
        if not create:
            raise InputError(
                f"there is no ledger at {path}",
                hint="nothing has been run here yet: start with `runner run JOB`, or name the folder with --output",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"cannot make the ledger's folder {path.parent}: {error.strerror}", hint="name another with --ledger"
            ) from None
    found = _look(path)
    database = Database(path)
    try:
        if found != HEAD:
            _migrate(database, found)
    except BaseException:
        database.close()
        raise
    return database


def _look(path: Path) -> str | None:
    """The schema's version, found without changing anything: switching to WAL would rewrite a stranger's file."""
    engine = _engine(path, "BEGIN", wal=False)
    try:
        with translated(path), engine.begin() as connection:
            return _version(connection, path)
    finally:
        engine.dispose()


def _version(connection: sa.Connection, path: Path) -> str | None:
    """The schema's version, None for an empty database."""
    tables = set(sa.inspect(connection).get_table_names())
    if not tables:
        return None
    if not tables >= _OURS:
        raise LedgerError(f"{path} is a database of something else, not a ledger", hint="name another with --ledger")
    found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    if found is not None and str(found) > HEAD:
        raise LedgerError(
            f"{path} was written by a newer version of runner (schema {found}, this one knows {HEAD})",
            hint="upgrade runner; nothing was changed",
        )
    return None if found is None else str(found)


def _migrate(database: Database, found: str | None) -> None:
    from alembic import command
    from alembic.config import Config

    with (
        importlib.resources.as_file(importlib.resources.files("runner.ledger") / "migrations") as scripts,
        database.write() as connection,
    ):
        # Another process may have migrated while this one waited for the write lock.
        if _version(connection, database.path) != found:
            return
        config = Config()
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _engine(path: Path, begin: str, *, wal: bool = True) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        # SQLAlchemy, not the driver, says when a transaction begins.
        connection.isolation_level = None
        cursor = connection.cursor()
        if wal:
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the database's exceptions into LedgerError, with what to do next."""
    try:
        with rules(path):
            yield
    except exc.DBAPIError as error:
        raise _explain(path, str(error.orig)) from error


@contextmanager
def rules(path: Path) -> Iterator[None]:
    """Turn a broken rule into LedgerError: the one failure that leaves its transaction usable for other changes."""
    try:
        yield
    except exc.IntegrityError as error:
        raise LedgerError(f"the ledger {path} refused a change that breaks its rules: {error.orig}") from error


def _explain(path: Path, reason: str) -> LedgerError:
    for sign, message, hint in (
        ("locked", "is held by another process", "wait for it to end, then run again: nothing is lost"),
        ("full", "cannot grow: the disk is full", "make space, then run again: it goes on where it stopped"),
        ("readonly", "cannot be written", "check the permissions of the file and of its folder"),
        ("unable to open", "cannot be opened", "check the path and the permissions of its folder"),
        ("malformed", "is damaged", "keep the file, and restore it from a copy: nothing was overwritten"),
        ("not a database", "is not a ledger", "name another with --ledger: nothing was overwritten"),
    ):
        if sign in reason:
            return LedgerError(f"the ledger {path} {message} ({reason})", hint=hint)
    return LedgerError(f"the ledger {path} failed: {reason}")
