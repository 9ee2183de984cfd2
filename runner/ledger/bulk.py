"""Many rows in one statement.

Owns how each database is told of them: SQLite takes a row at a time without a word between, a server one array for each
column, so that thousands of rows are one message. Refuses to know what they are about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from runner.ledger.tables import metadata

Row = tuple[Any, ...]


class _Many:
    """A statement for many rows: `by_row` is executed for each in a file, `at_once` for all of them on a server."""

    def __init__(self, columns: Sequence[sa.Column[Any]], *, by_row: str, at_once: str) -> None:
        self._columns = tuple(columns)
        self._by_row = by_row
        self._at_once = at_once
        self._text = ""

    def __call__(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Execute it for these rows."""
        if not rows:
            return
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(self._by_row, list(rows))
            return
        if not self._text:
            self._text = self._at_once.format(given=_given(connection.dialect, self._columns))
        connection.exec_driver_sql(self._text, _arrays(rows))


class Bulk(_Many):
    """Adds rows to a table, each a tuple of the values of `columns`; `always` has the SQL of what all of them have.

    `conflict` is what is done about a row that is there already, as after ON CONFLICT; without it that is an error.
    """

    def __init__(
        self, table: str, columns: Sequence[str], *, conflict: str = "", always: Mapping[str, str] | None = None
    ) -> None:
        more = always or {}
        rule = f"ON CONFLICT {conflict}" if conflict else ""
        names = ", ".join([*columns, *more])
        values = ", ".join(["?"] * len(columns) + list(more.values()))
        chosen = ", ".join([*(f"given.{name}" for name in columns), *more.values()])
        # Every word of it is this package's own.
        add = f"INSERT INTO {table} ({names})"
        super().__init__(
            [metadata.tables[table].c[name] for name in columns],
            by_row=f"{add} VALUES ({values}) {rule}",
            at_once=f"{add} SELECT {chosen} FROM {{given}} ORDER BY given.place {rule}",  # noqa: S608
        )


class Moves(_Many):
    """Changes rows of a table by their ids: each is a tuple of the values of `columns`, and the id."""

    def __init__(self, table: str, columns: Sequence[str]) -> None:
        by_row = ", ".join(f"{name} = ?" for name in columns)
        at_once = ", ".join(f"{name} = given.{name}" for name in columns)
        # Every word of it is this package's own.
        super().__init__(
            [metadata.tables[table].c[name] for name in (*columns, "id")],
            by_row=f"UPDATE {table} SET {by_row} WHERE id = ?",  # noqa: S608
            at_once=f"UPDATE {table} SET {at_once} FROM {{given}} WHERE {table}.id = given.id",  # noqa: S608
        )


def _given(dialect: sa.Dialect, columns: Sequence[sa.Column[Any]]) -> str:
    """The rows as a table, with their places, from an array for each column."""
    arrays = ", ".join(f"%(v{n})s::{column.type.compile(dialect)}[]" for n, column in enumerate(columns))
    names = ", ".join(column.name for column in columns)
    return f"unnest({arrays}) WITH ORDINALITY AS given ({names}, place)"


def _arrays(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {f"v{n}": list(column) for n, column in enumerate(zip(*rows, strict=True))}
