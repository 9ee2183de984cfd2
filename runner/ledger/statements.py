"""Statements that are compiled once: what the hot path asks of the database, without building the question each time.

Owns the way from a Core statement to the driver. Refuses to know tables. A statement stays Core's, so that any database
which SQLAlchemy knows can be spoken to; only its text and the order of its parameters are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class Statement:
    """A Core statement whose parameters are all bound by name (`sa.bindparam`); called to be executed.

    Values go to the driver as they are, without SQLAlchemy's types between: integers, texts, booleans and None. With
    `gives` (the column of a new row's id) see `made` for what it gave. `end` is what one database wants said behind it.
    """

    __slots__ = ("_construct", "_dialect", "_end", "_gives", "_names", "_text")

    def __init__(self, construct: sa.Executable, *, gives: sa.Column[int] | None = None, end: str = "") -> None:
        self._construct = construct
        self._gives = gives
        self._end = end
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
        construct = self._construct
        if self._gives is not None and dialect.name != "sqlite":
            construct = construct.returning(self._gives)  # type: ignore[attr-defined]  # an INSERT has it
        compiled = construct.compile(dialect=dialect)  # type: ignore[attr-defined]  # every construct has it
        self._text = f"{compiled}{self._end}"
        # A driver takes its parameters by place, in the order of the text, or by name.
        self._names = tuple(compiled.positiontup) if compiled.positiontup is not None else None
        self._dialect = dialect


@contextmanager
def streamed(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[sa.CursorResult[Any]]:
    """The answer to `query`, read page by page; given back after the block, also when it was not read to its end."""
    # Of this statement alone: the connection's next one may be of another kind.
    options = {"stream_results": True, "yield_per": 500}
    with closing(connection.execute(query, execution_options=options)) as rows:
        yield rows


class aside(FunctionElement[Any]):  # noqa: N801  # it reads as a function of SQL's
    """A column that SQLite is not to look up in an index; PostgreSQL knows by itself which way is short."""

    inherit_cache = True
    name = "aside"

    def __init__(self, column: sa.ColumnElement[Any]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(aside)
def _as_it_is(element: aside, compiler: SQLCompiler, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(aside, "sqlite")
def _reckoned(element: aside, compiler: SQLCompiler, **options: Any) -> str:
    return f"({compiler.process(element.clauses, **options)} + 0)"
