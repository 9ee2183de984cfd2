"""Whether a ledger is what it should be, found out before anything may change it.

Owns what can be seen of the file from outside, of its write-ahead log, and of its schema, at a cost that does not grow
with the number of tasks. Refuses to change anything: every check leaves the bytes as they are.

The database's own file is looked at with `stat` alone, never opened here: closing it again would give up the locks that
SQLite holds on it elsewhere in this process (POSIX locks belong to the process, not to the descriptor).
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from runner.errors import LedgerError
from runner.ledger.places import Place
from runner.ledger.tables import metadata

HEAD: Final = "0006"
"""The schema's version that this code reads and writes: the newest of `migrations/versions`."""
QUICK_CHECK_BYTES: Final = 16 << 20
"""Up to this size all of a ledger is checked when it is opened to run."""

_OURS: Final = {"alembic_version", "jobs", "tasks", "attempts"}
"""By these a ledger is told from the database of another program, which may use Alembic as well."""
_SMALLEST_BYTES: Final = 512
"""The smallest page, and so the smallest database; SQLite takes a file of 1 byte for an empty one."""
_LOCK_BYTE: Final = 1 << 30
"""The page that holds this byte is never written."""
_WAL_HEADER: Final = struct.Struct(">4x4xI4x8s8x")
_FRAME_HEADER: Final = struct.Struct(">I4x8s8x")
_KEEP: Final = "keep the file, and restore it from a copy: nothing was overwritten"
_NAME_ANOTHER: Final = "name another with --ledger: nothing was overwritten"


def look_at_file(path: Path) -> bool:
    """Whether there is a file at `path` that may be a ledger; False where there is nothing.

    Raises:
        LedgerError: something is there that cannot be one, or it cannot be seen.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise LedgerError(
                f"the ledger {path} is a symbolic link to nothing",
                hint=f"mount the disk that {path.readlink()} lies on, or remove the link to begin a new ledger",
            ) from None
        return False
    except OSError as error:
        raise LedgerError(
            f"the ledger {path} cannot be opened: {error.strerror}",
            hint="check the path and the permissions of its folder",
        ) from None
    _only_files(path, found)
    logged = wal_bytes(path)
    if not found.st_size and logged:
        raise LedgerError(f"the ledger {path} is empty, but changes to it wait in {path.name}-wal", hint=_KEEP)
    if 0 < found.st_size < _SMALLEST_BYTES:
        raise LedgerError(f"the ledger {path} is not a ledger: it has only {found.st_size} bytes", hint=_NAME_ANOTHER)
    return True


def wal_bytes(path: Path) -> int:
    """The size of the write-ahead log beside the ledger at `path`, 0 if there is none."""
    try:
        return beside(path, "-wal").lstat().st_size
    except OSError:
        return 0


def beside(path: Path, suffix: str) -> Path:
    """The file that SQLite keeps beside the ledger under this suffix."""
    return path.with_name(path.name + suffix)


def version(connection: sa.Connection, path: Path) -> str | None:
    """The version of the schema in a file, None for an empty database; see `judged`."""
    query = "SELECT m.name, c.name FROM sqlite_master m LEFT JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
    columns: dict[str, set[str]] = {}
    for table, column in connection.execute(sa.text(query)):
        columns.setdefault(table, set()).add(column)
    return judged(columns, connection, path)


def judged(columns: dict[str, set[str]], connection: sa.Connection, path: Place) -> str | None:
    """The schema's version from its tables, each with its columns; None where there are none.

    Raises:
        LedgerError: the database of something else, from a newer version, or without what this version has.
    """
    if not columns:
        return None
    if not columns.keys() >= _OURS:
        raise LedgerError(f"{path} is a database of something else, not a ledger", hint=_NAME_ANOTHER)
    found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    text = "" if found is None else str(found)
    if text > HEAD:
        raise LedgerError(
            f"{path} was written by a newer version of runner (schema {text}, this one knows {HEAD})",
            hint="upgrade runner; nothing was changed",
        )
    if not text.isdecimal() or not 1 <= int(text) <= int(HEAD):
        raise LedgerError(f"the ledger {path} is damaged: it does not say which version it is of", hint=_kept(path))
    if text == HEAD:
        _complete(columns, path)
    return text


def whole(connection: sa.Connection, path: Path, *, thorough: bool) -> None:
    """See that no end of the ledger is missing, and that what waits beside it belongs to it.

    SQLite itself finds a file that is cut, unless it is cut within its last page, or there is a log beside it.
    `connection` holds a snapshot, so that its pages stay where they are, whatever others write meanwhile. `thorough`
    checks all of a ledger that is not large.

    Raises:
        LedgerError: it is damaged.
    """
    page_bytes = int(connection.scalar(sa.text("PRAGMA page_size")) or 0)
    pages = int(connection.scalar(sa.text("PRAGMA page_count")) or 0)
    size_bytes = path.stat().st_size
    on_file = size_bytes // page_bytes
    logged = wal_bytes(path)
    if on_file < pages and not (logged and _logged(beside(path, "-wal"), on_file + 1, pages, page_bytes)):
        raise LedgerError(f"the ledger {path} is damaged: its end is missing", hint=_KEEP)
    # A log that speaks of fewer pages than there are is another file's, or follows a VACUUM: the check tells.
    if on_file > pages or ((thorough or logged) and size_bytes <= QUICK_CHECK_BYTES):
        told = connection.scalar(sa.text("PRAGMA quick_check(1)"))
        if told != "ok":
            what = " ".join(str(told).split())
            raise LedgerError(f"the ledger {path} is damaged ({what})", hint=_KEEP)


def belongs(connection: sa.Connection, alone: sa.Connection, path: Path) -> None:
    """See that the log beside the ledger is its own: SQLite would bring in that of any other as well.

    `alone` sees the ledger's file without its log. The first job is never changed, so both must agree on it.

    Raises:
        LedgerError: they do not.
    """
    query = sa.text("SELECT id, name, created_ms FROM jobs ORDER BY id LIMIT 1")
    try:
        first = alone.execute(query).first()
    except sa.exc.DBAPIError:
        return  # All of it may be in the log still, or half of it, when a process was killed.
    if first is not None and connection.execute(query).first() != first:
        raise LedgerError(
            f"the ledger {path} is damaged: {path.name}-wal beside it belongs to another ledger",
            hint="if the ledger was put back from a copy, move that file away: nothing was overwritten",
        )


def catalog_check(connection: sa.Connection, *, deep: bool) -> list[str]:
    """What the catalog of a server tells of indices, rules, counters and settings on which a ledger cannot rely.

    `deep` looks for references to rows that are not there, table by table.
    """
    told = [
        f"the index {name} is not valid"
        for (name,) in connection.execute(
            sa.text(
                "SELECT c.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid"
                " WHERE NOT i.indisvalid AND c.relnamespace = CAST(current_schema() AS regnamespace)"
            )
        )
    ]
    told += [
        f"the rule {name} was never checked"
        for (name,) in connection.execute(
            sa.text(
                "SELECT conname FROM pg_catalog.pg_constraint"
                " WHERE NOT convalidated AND connamespace = CAST(current_schema() AS regnamespace)"
            )
        )
    ]
    for table in metadata.sorted_tables:
        key = table.autoincrement_column
        if key is None:
            continue
        counter = sa.func.pg_sequence_last_value(
            sa.func.to_regclass(sa.func.pg_get_serial_sequence(table.name, key.name))
        )
        newest, last = connection.execute(sa.select(sa.func.max(key), counter)).one()
        if newest is not None and newest > (last or 0):
            told.append(f"the counter of {table.name} is behind its rows")
    if deep:
        told += [f"broken reference in {name}" for name in _broken(connection)]
    return told


def _broken(connection: sa.Connection) -> list[str]:
    found = []
    for table in metadata.sorted_tables:
        for key in table.foreign_keys:
            other = key.column.table.alias("other")
            lacks = sa.select(sa.literal(1)).select_from(table).where(key.parent.is_not(None))
            lacks = lacks.where(~sa.exists().where(other.c[key.column.name] == key.parent)).limit(1)
            if connection.execute(lacks).first() is not None:
                found.append(table.name)
    return found


def _only_files(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise LedgerError(
            f"the ledger {path} cannot be opened: it is {_kind(found.st_mode)}, not a file",
            hint="move it away, or name another with --ledger",
        )
    for suffix in ("-wal", "-shm", "-journal"):
        other = beside(path, suffix)
        try:
            mode = other.lstat().st_mode
        except OSError:
            continue
        if not stat.S_ISREG(mode):
            raise LedgerError(
                f"the ledger {path} cannot be opened: {other.name} beside it is {_kind(mode)}, not a file",
                hint="move that away, then run again",
            )


def _kind(mode: int) -> str:
    for test, name in ((stat.S_ISDIR, "a folder"), (stat.S_ISLNK, "a symbolic link"), (stat.S_ISFIFO, "a named pipe")):
        if test(mode):
            return name
    return "a device or a socket"


def _complete(columns: dict[str, set[str]], path: Place) -> None:
    for name, table in metadata.tables.items():
        if name not in columns:
            raise LedgerError(f"the ledger {path} is damaged: its table {name} is missing", hint=_kept(path))
        missing = sorted({column.name for column in table.columns} - columns[name])
        if missing:
            raise LedgerError(f"the ledger {path} is damaged: {name} lacks {', '.join(missing)}", hint=_kept(path))


def _kept(place: Place) -> str:
    return _KEEP if isinstance(place, Path) else "restore the database from a backup: nothing was overwritten"


def _logged(wal: Path, first: int, last: int, page_bytes: int) -> bool:
    """Whether the write-ahead log has every page from `first` to `last`; only the frames' headers are read."""
    frame_bytes = _FRAME_HEADER.size + page_bytes
    missing = bytearray(b"\1") * (last - first + 1)
    never = _LOCK_BYTE // page_bytes + 1
    if first <= never <= last:
        missing[never - first] = 0
    try:
        descriptor = os.open(wal, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        head = os.pread(descriptor, _WAL_HEADER.size, 0)
        if len(head) < _WAL_HEADER.size:
            return False
        log_page_bytes, salt = _WAL_HEADER.unpack(head)
        if log_page_bytes != page_bytes:
            return False
        position = _WAL_HEADER.size
        while len(frame := os.pread(descriptor, _FRAME_HEADER.size, position)) == _FRAME_HEADER.size:
            page, frame_salt = _FRAME_HEADER.unpack(frame)
            if frame_salt != salt:
                break
            if first <= page <= last:
                missing[page - first] = 0
            position += frame_bytes
    finally:
        os.close(descriptor)
    return not any(missing)
