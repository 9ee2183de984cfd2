"""A whole ledger, copied to another place: from a file to a server, back, or to another of its kind.

Owns the order and the proof: everything is written in one transaction, read again, and compared before that is
committed. Refuses to change the source, or a destination that has anything on record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from runner.errors import InputError, LedgerError, Locked
from runner.ledger.bulk import Bulk, Moves
from runner.ledger.ledger import Ledger
from runner.ledger.places import Place, Server
from runner.ledger.statements import streamed
from runner.ledger.tables import metadata

_PAGE: Final = 5_000
_jobs = metadata.tables["jobs"]
_runs = metadata.tables["runs"]
_assets = metadata.tables["assets"]
_MOVE_ORIGIN = Moves("assets", ("reused_from",))


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy has brought over: how many rows of each table."""

    source: Place
    destination: Place
    rows: dict[str, int]


def copy(source: Place, destination: Place) -> Copied:
    """Copy a ledger with all that is on record, numbers included, to a place where nothing is on record yet.

    An older schema is left as it is, and is up to date in the copy.

    Raises:
        InputError: there is nothing to copy, or something is on record at the destination.
        Locked: a run holds a job of the source.
        LedgerError: a run has begun meanwhile, or the copy is not as the source; nothing was copied then.
    """
    if _same(source, destination):
        raise InputError(f"{source} cannot be copied onto itself", hint="name another place to copy it to")
    with Ledger.open(source, create=False) as old:
        _nobody_runs(old)
        with Ledger.open(destination, create=True) as new:
            rows = _copied(old, new)
    return Copied(source, destination, rows)


def _copied(old: Ledger, new: Ledger) -> dict[str, int]:
    counts: dict[str, int] = {}
    with old._database.read() as source, new._database.write() as target:
        if new.is_shared:
            # Nobody puts anything on record meanwhile.
            target.exec_driver_sql("LOCK TABLE jobs IN EXCLUSIVE MODE")
        if target.execute(sa.select(_jobs.c.id).limit(1)).first() is not None:
            raise InputError(
                f"the ledger {new.place} has jobs on record already", hint="name a place that is empty, or not there"
            )
        # What can be there without any job: a cap, which the source's takes the place of.
        for table in reversed(metadata.sorted_tables):
            target.execute(sa.delete(table))
        newest = source.scalar(sa.select(sa.func.max(_runs.c.id)))
        for table in metadata.sorted_tables:
            columns = _columns(source, table)
            if columns:
                counts[table.name], digest = _table(source, target, table, columns)
                if digest != _digest(target, table, columns):
                    raise LedgerError(
                        f"the copy of {table.name} at {new.place} is not as it is at {old.place}",
                        hint="nothing was copied; look at the disk and the memory of both, then copy again",
                    )
                _count_on(target, table)
        _nobody_runs(old)
        with old._database.read() as later:
            if later.scalar(sa.select(sa.func.max(_runs.c.id))) != newest:
                raise LedgerError(
                    f"a run has used the ledger {old.place} meanwhile", hint="nothing was copied: copy it again"
                )
    return counts


def _table(
    source: sa.Connection, target: sa.Connection, table: sa.Table, columns: Sequence[sa.Column[Any]]
) -> tuple[int, str]:
    """Copy one table; how many rows there were, and their digest."""
    add = Bulk(table.name, [column.name for column in columns])
    count, digest = 0, hashlib.sha256()
    # An asset can stand for a later one: what refers to its own table follows when all of it is there.
    own = next((n for n, column in enumerate(columns) if column is _assets.c.reused_from), None)
    for page in _pages(source, table, columns):
        count += len(page)
        digest.update(repr(page).encode("utf-8", "backslashreplace"))
        add(target, page if own is None else [(*row[:own], None, *row[own + 1 :]) for row in page])
    if own is not None:
        for page in _pages(source, table, columns):
            _MOVE_ORIGIN(target, [(row[own], row[0]) for row in page if row[own] is not None])
    return count, digest.hexdigest()


def _digest(connection: sa.Connection, table: sa.Table, columns: Sequence[sa.Column[Any]]) -> str:
    digest = hashlib.sha256()
    for page in _pages(connection, table, columns):
        digest.update(repr(page).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _pages(
    connection: sa.Connection, table: sa.Table, columns: Sequence[sa.Column[Any]]
) -> Iterator[list[tuple[Any, ...]]]:
    """All rows in the order of their numbers; the number is the first of the columns."""
    last: int | None = None
    number = table.c.id
    while True:
        query = sa.select(*columns).order_by(number).limit(_PAGE)
        if last is not None:
            query = query.where(number > last)
        with streamed(connection, query) as rows:
            page = [tuple(row) for row in rows]
        if not page:
            return
        last = page[-1][0]
        yield page


def _columns(connection: sa.Connection, table: sa.Table) -> list[sa.Column[Any]]:
    """Those columns that the source has: an older one lacks some, which have their default in the copy."""
    looked_at = sa.inspect(connection)
    if not looked_at.has_table(table.name):
        return []
    there = {column["name"] for column in looked_at.get_columns(table.name)}
    return [column for column in table.columns if column.name in there]


def _count_on(connection: sa.Connection, table: sa.Table) -> None:
    """Let new rows get numbers after those that were copied; SQLite sees to that by itself."""
    if connection.dialect.name == "postgresql" and table.autoincrement_column is not None:
        counter = sa.func.pg_get_serial_sequence(table.name, "id")
        query = sa.select(sa.func.setval(counter, sa.func.max(table.c.id))).having(sa.func.count() > 0)
        connection.execute(query)


def _nobody_runs(ledger: Ledger) -> None:
    with ledger._database.read() as connection:
        names = list(connection.scalars(sa.select(_jobs.c.name)))
    for name in names:
        if ledger.is_held(name):
            raise Locked(
                f"a run holds the job {name!r} of the ledger {ledger.place}",
                hint="wait for it to end, or stop it, then copy",
            )


def _same(source: Place, destination: Place) -> bool:
    if isinstance(source, Path) and isinstance(destination, Path):
        return source.resolve() == destination.resolve()
    return isinstance(source, Server) and isinstance(destination, Server) and str(source) == str(destination)
