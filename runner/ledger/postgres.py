"""A ledger on a PostgreSQL server: connections, transactions, and what becomes of them when the server is lost.

Owns how the server is spoken to. `refusals` says what went wrong, `soundness` judges what is found, `serverlock` holds
jobs; this module refuses to know what is in the tables.

A connection that is lost in the middle of a transaction has changed nothing: the server rolls back. One that is lost
while it commits may have, so that the server is asked, by the number that the transaction had there. Only what is known
to have come to nothing is ever done again.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc

from runner.errors import InputError, LedgerError
from runner.ledger import schema, serverlock, soundness
from runner.ledger.database import Database, Patience, Undone, Write
from runner.ledger.places import Server
from runner.ledger.refusals import is_away, translated, unreachable
from runner.ledger.wire import adapt

OLDEST: Final = 130_000
"""The oldest server that is spoken to (13.0): since then a transaction's end can be asked for by its number."""
_CONNECT_S: Final = 10
_PAUSE_S: Final = 0.2
_IDLE: Final = 10
"""Connections of a run that stay open while nobody uses them; more are made when threads ask at the same time."""

# Whoever stops half way (a laptop that sleeps, a host that is gone) gives back in a minute or two what it has locked.
# What only reads locks nothing, and may take as long as whoever looks at it.
_SESSION: Final = {
    "tcp_keepalives_idle": "20s",
    "tcp_keepalives_interval": "10s",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "50s",
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "120s",
    "statement_timeout": "30min",
}
_LIBPQ: Final = {
    "connect_timeout": _CONNECT_S,
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 50_000,
}
_ON_CONNECT: Final = """
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""
"""A commit that the server might forget would be no record (law 1)."""
_PROMPT: Final = "SET synchronous_commit = off; SET lock_timeout = '10s'"
"""What is said in haste is no record."""
_LINE: Final = "CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
"""The server's timeline: another one after a failover, in which numbers of transactions may mean others."""
_NUMBER: Final = f"SELECT pg_current_xact_id_if_assigned()::text, {_LINE}"
_STATUS: Final = sa.text(f"SELECT pg_xact_status(CAST(:number AS xid8)), {_LINE}")
_COLUMNS: Final = sa.text(
    "SELECT c.relname, a.attname FROM pg_catalog.pg_class c"
    " LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    " WHERE c.relnamespace = CAST(current_schema() AS regnamespace) AND c.relkind IN ('r', 'p', 'v', 'f', 'm')"
)


class ServerDatabase(Database):
    """A ledger in a schema of a server's database; many hosts may use it at once."""

    is_shared = True
    writers = 8

    def __init__(self, server: Server, patience: Patience) -> None:
        super().__init__(None)
        self._server = server
        self._patience = patience
        self._writer = _engine(server)
        self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._was_there = False
        self._schema = ""
        self._prompt: sa.Connection | None = None
        self._prompting = threading.Lock()

    @property
    def place(self) -> Server:
        """The server's database."""
        return self._server

    def look(self) -> None:
        """Find out which version of the schema is there, and whether the server will do.

        Raises:
            InputError: the server, or what the URL says of it, is not one that can be used.
            LedgerError: the database of something else, from a newer version, or damaged.
        """
        with self.read() as connection:
            version, name = connection.exec_driver_sql(
                "SELECT current_setting('server_version_num')::int, current_schema()"
            ).one()
            if version < OLDEST:
                raise InputError(
                    f"the server of the ledger {self._server} is PostgreSQL {version // 10_000}",
                    hint="use PostgreSQL 13 or newer",
                )
            if name is None:
                raise InputError(
                    f"no schema of the database {self._server} can be used: its search_path names none that is there",
                    hint="make it (CREATE SCHEMA ...), or name another in the URL: ?options=-csearch_path%3DNAME",
                )
            self._schema = str(name)
            self._found = self._version(connection)
        self._was_there = True

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found in the schema."""
        return self._found is None

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction, READ COMMITTED."""
        self.renew()
        with self._connected(self._writer) as connection, self._transaction(connection):
            yield connection

    @contextmanager
    def held(self) -> Iterator[Write]:
        """For many changes in a row: a `write` whose transactions share one connection, given back after the block."""
        self.renew()
        with ExitStack() as stack:
            connection = stack.enter_context(self._connected(self._writer))

            def write() -> AbstractContextManager[sa.Connection]:
                nonlocal connection
                if connection.invalidated:
                    connection = stack.enter_context(self._connected(self._writer))
                return self._transaction(connection)

            yield write

    @contextmanager
    def prompt(self) -> Iterator[sa.Connection]:
        """For one statement: it goes there and back once, on a connection that is kept, and waits for no disk."""
        self.renew()
        with self._prompting, translated(self._server):
            try:
                if self._prompt is None:
                    self._prompt = self._writer.execution_options(isolation_level="AUTOCOMMIT").connect()
                    self._prompt.detach()
                    self._prompt.exec_driver_sql(_PROMPT)
                yield self._prompt
                self._prompt.commit()
            except BaseException:
                self._drop_prompt()
                raise

    def bulk(self) -> AbstractContextManager[Write]:
        """As `held`: the server's memory is its own affair."""
        return self.held()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A snapshot to read from: REPEATABLE READ, READ ONLY."""
        with self._connected(self._reader) as connection, translated(self._server), connection.begin():
            yield connection

    def lock(self, job: str, *, now: dt.datetime) -> AbstractContextManager[None]:
        """Hold a job for the block, by a connection of its own; the server's clock says since when."""
        del now
        return serverlock.job_lock(self._connect_alone, self._server, self._schema, job)

    def is_held(self, job: str) -> bool:
        """Whether a live run holds a job."""
        with self.read() as connection:
            return serverlock.holder(connection, self._schema, job) is not None

    def check(self, *, deep: bool) -> list[str]:
        """What the server's catalog tells of indices, rules and counters that do not hold; `deep` counts references."""
        with self.read() as connection:
            return soundness.catalog_check(connection, deep=deep)

    def close(self) -> None:
        """Give every connection back."""
        with self._prompting:
            self._drop_prompt()
        self._writer.dispose()

    def _migrate(self, found: str | None) -> None:
        with self._connected(self._writer) as connection, self._transaction(connection):
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            # Of two who come at once, the second finds it done.
            key = serverlock.key(self._schema, "schema", "")
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            if self._version(connection) == found:
                schema.bring(connection, found)

    def _version(self, connection: sa.Connection) -> str | None:
        columns: dict[str, set[str]] = {}
        for table, column in connection.execute(_COLUMNS):
            columns.setdefault(table, set()).add(column)
        return soundness.judged(columns, connection, self._server)

    def _drop_prompt(self) -> None:
        prompt, self._prompt = self._prompt, None
        if prompt is not None:
            with suppress(exc.SQLAlchemyError):
                prompt.close()

    def _connected(self, engine: sa.Engine) -> sa.Connection:
        """A connection that answers. One that is lost is waited for, if it was ever there."""
        may_pass = is_away if self._was_there else _begins
        try:
            return self._patience.attempt(engine.connect, may_pass=may_pass, pause_s=_PAUSE_S)
        except exc.DBAPIError as error:
            raise unreachable(self._server, error, was_there=self._was_there) from None

    def _connect_alone(self) -> sa.Connection:
        """A connection outside the pool, each statement for itself: for the life of a lock."""
        connection = self._connected(self._writer.execution_options(isolation_level="AUTOCOMMIT"))
        connection.detach()
        return connection

    @contextmanager
    def _transaction(self, connection: sa.Connection) -> Iterator[sa.Connection]:
        with translated(self._server):
            begun = connection.begin()
            try:
                yield connection
            except BaseException:
                with suppress(exc.SQLAlchemyError):
                    begun.rollback()
                raise
            number, line = connection.exec_driver_sql(_NUMBER).one()
            try:
                begun.commit()
            except exc.DBAPIError:
                if number is not None and not self._was_committed(number, line):
                    raise  # It has come to nothing; `translated` says whether it may be tried again.
                with suppress(exc.SQLAlchemyError):
                    begun.rollback()

    def _was_committed(self, number: str, line: str) -> bool:
        """Whether the transaction of this number was committed, which its connection did not live to tell.

        Raises:
            LedgerError: nobody can tell.
        """

        def ask() -> str:
            with self._writer.connect() as connection:
                status, found = connection.execute(_STATUS, {"number": number}).one()
            if status == "in progress":
                raise Undone("it is not over yet")
            return str(status) if found == line else "unknown"

        try:
            status = self._patience.attempt(ask, may_pass=is_away, pause_s=_PAUSE_S)
        except (exc.DBAPIError, Undone):
            status = "unknown"
        if status not in ("committed", "aborted"):
            raise LedgerError(
                f"the ledger {self._server} was lost while it was written, and nobody can tell what was recorded last",
                hint="run again when the server is back: it goes on from what is on record",
            ) from None
        return status == "committed"


def open_server(server: Server, *, create: bool, on_wait: Callable[[float], None] | None = None) -> ServerDatabase:
    """Open the ledger on this server. Until it has proved to be one, or empty, nothing of it is changed.

    Without `create` an older schema is left as it is until something is to be changed after all. `on_wait` is told when
    the server has been away for more than `database.TELL_S`, with the seconds so far.

    Raises:
        InputError: it is empty and `create` is False, or the server cannot be used as the URL says.
        LedgerError: not a ledger, from a newer version, damaged, or not writable.
    """
    database = _looked_at(server, Patience(on_wait))
    try:
        if database.is_empty and not create:
            raise InputError(
                f"the ledger {server} is empty",
                hint="no run has put anything on record in it: start with `runner run JOB`, or name another with "
                "--ledger",
            )
        if create:
            database.renew()
    except BaseException:
        database.close()
        raise
    return database


def is_there(server: Server) -> bool:
    """Whether anything lies in the server's schema that may be a ledger.

    Raises:
        InputError: the server cannot be used as the URL says.
        LedgerError: something lies there that cannot be one.
    """
    database = _looked_at(server, Patience())
    database.close()
    return not database.is_empty


def _looked_at(server: Server, patience: Patience) -> ServerDatabase:
    database = ServerDatabase(server, patience)
    try:
        database.look()
    except BaseException:
        database.close()
        raise
    return database


def _begins(error: Exception) -> bool:
    """Whether a server that was never there yet is about to be."""
    return "the database system is starting up" in str(error)


def _engine(server: Server) -> sa.Engine:
    try:
        import psycopg  # noqa: F401  # only whether it is there; SQLAlchemy imports it by itself
    except ImportError:
        raise InputError(
            f"the ledger {server} is on PostgreSQL, and psycopg is not installed",
            hint="install it: python -m pip install 'runner[postgres]'",
        ) from None
    try:
        url = sa.make_url(server.url).set(drivername="postgresql+psycopg")
        given = {name for name in _LIBPQ if name in url.query}
        options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
        own = url.query.get("options", "")
        engine = sa.create_engine(
            url.difference_update_query(["options"]),
            pool_size=_IDLE,
            max_overflow=30,
            pool_pre_ping=True,
            hide_parameters=True,
            use_native_hstore=False,
            connect_args={
                **{name: value for name, value in _LIBPQ.items() if name not in given},
                "application_name": named(),
                # The last one counts, so that a user's own word does.
                "options": f"{options} {own if isinstance(own, str) else ' '.join(own)}",
            },
        )
    except (exc.ArgumentError, ValueError) as error:
        raise InputError(
            f"the URL of the ledger {server} cannot be used: {server.redacted(str(error))}",
            hint="write postgresql://USER@HOST:PORT/DATABASE",
        ) from None

    @sa.event.listens_for(engine, "connect")
    def on_connect(driver: Any, _record: object) -> None:
        adapt(driver)
        driver.execute(_ON_CONNECT)
        driver.commit()

    return engine


def named() -> str:
    """How this process calls itself at the server: for who looks there, and for whom a lock of it stands in the way."""
    return f"runner {os.getpid()} {socket.gethostname()}"[:63]
