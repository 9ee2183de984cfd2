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


class Bulk:
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
        self._columns = tuple(metadata.tables[table].c[name] for name in columns)
        # Every word of it is this package's own.
        self._by_row = f"INSERT INTO {table} ({names}) VALUES ({values}) {rule}"  # noqa: S608
        chosen = ", ".join([*(f"given.{name}" for name in columns), *more.values()])
        self._at_once = (
            f"INSERT INTO {table} ({names}) SELECT {chosen} FROM {{given}}"  # noqa: S608
            f" ORDER BY given.place {rule}"
        )
        self._text = ""

    def __call__(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Add these."""
        if not rows:
            return
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(self._by_row, list(rows))
            return
        if not self._text:
            self._text = self._at_once.format(given=_given(connection.dialect, self._columns))
        connection.exec_driver_sql(self._text, _arrays(rows))


class Moves:
    """Changes rows of a table by their ids: each is a tuple of the values of `columns`, and the id."""

    def __init__(self, table: str, columns: Sequence[str]) -> None:
        self._columns = tuple(metadata.tables[table].c[name] for name in (*columns, "id"))
        changes = ", ".join(f"{name} = ?" for name in columns)
        self._by_row = f"UPDATE {table} SET {changes} WHERE id = ?"  # noqa: S608  # every word is this package's own
        changes = ", ".join(f"{name} = given.{name}" for name in columns)
        self._at_once = f"UPDATE {table} SET {changes} FROM {{given}} WHERE {table}.id = given.id"  # noqa: S608
        self._text = ""

    def __call__(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Change these."""
        if not rows:
            return
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(self._by_row, list(rows))
            return
        if not self._text:
            self._text = self._at_once.format(given=_given(connection.dialect, self._columns))
        connection.exec_driver_sql(self._text, _arrays(rows))


def _given(dialect: sa.Dialect, columns: Sequence[sa.Column[Any]]) -> str:
    """The rows as a table, with their places, from an array for each column."""
    arrays = ", ".join(f"%(v{n})s::{column.type.compile(dialect)}[]" for n, column in enumerate(columns))
    names = ", ".join(column.name for column in columns)
    return f"unnest({arrays}) WITH ORDINALITY AS given ({names}, place)"


def _arrays(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {f"v{n}": list(column) for n, column in enumerate(zip(*rows, strict=True))}
