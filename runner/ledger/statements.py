"""Statements that are compiled once: what the hot path asks of the database, without building the question each time.

Owns the way from a Core statement to the driver. Refuses to know tables. A statement stays Core's, so that any database
which SQLAlchemy knows can be spoken to; only its text and the order of its parameters are kept.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


class Statement:
    """A Core statement whose parameters are all bound by name (`sa.bindparam`); called to be executed.

    Values go to the driver as they are, without SQLAlchemy's types between: integers, texts, booleans and None.
    """

    __slots__ = ("_construct", "_dialect", "_names", "_text")

    def __init__(self, construct: sa.Executable) -> None:
        self._construct = construct
        self._dialect: sa.Dialect | None = None
        self._text = ""
        self._names: tuple[str, ...] | None = None

    def __call__(self, connection: sa.Connection, /, **values: Any) -> sa.CursorResult[Any]:
        """Execute it with these values."""
        if self._dialect is not connection.dialect:
            self._compile(connection.dialect)
        if self._names is None:
            return connection.exec_driver_sql(self._text, values)
        return connection.exec_driver_sql(self._text, tuple([values[name] for name in self._names]))

    def _compile(self, dialect: sa.Dialect) -> None:
        compiled = self._construct.compile(dialect=dialect)  # type: ignore[attr-defined]  # every construct has it
        self._text = str(compiled)
        # A driver takes its parameters by place, in the order of the text, or by name.
        self._names = tuple(compiled.positiontup) if compiled.positiontup is not None else None
        self._dialect = dialect
