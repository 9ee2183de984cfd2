"""What the database's exceptions mean to a user: what is wrong, and what to do next.

Owns the translation of SQLAlchemy's and SQLite's words into LedgerError. Refuses to know who asked for what.
"""

from __future__ import annotations

import errno
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import exc

from runner.errors import LedgerError
from runner.ledger import soundness
from runner.ledger.places import Place
from runner.ledger.types import Nonsense

_SPARE_BYTES = 1 << 20


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the database's exceptions into LedgerError, with what to do next."""
    try:
        with rules(path):
            yield
    except exc.DBAPIError as error:
        raise _explain(path, str(error.orig)) from error
    except (Nonsense, UnicodeDecodeError) as error:
        raise _told(path, _DAMAGED, str(error)) from error


@contextmanager
def rules(place: Place) -> Iterator[None]:
    """Turn a broken rule into LedgerError: the one failure that leaves its transaction usable for other changes."""
    try:
        yield
    except exc.IntegrityError as error:
        # Of a server's words the first line: what follows tells the whole row.
        reason = str(error.orig).partition("\n")[0]
        raise LedgerError(f"the ledger {place} refused a change that breaks its rules: {reason}") from error


_FULL = ("cannot grow: the disk is full", "make space, then run again: it goes on where it stopped")
_DAMAGED = ("is damaged", "keep the file, and restore it from a copy: nothing was overwritten")
_SIGNS: tuple[tuple[str, tuple[str, str]], ...] = (
    ("locked", ("is held by another process", "wait for it to end, then run again: nothing is lost")),
    ("is full", _FULL),
    ("readonly", ("cannot be written", "check the permissions of the file and of its folder")),
    ("unable to open", ("cannot be opened", "check the path, and the permissions of the file and of its folder")),
    ("malformed", _DAMAGED),
    ("Could not decode", _DAMAGED),
    ("not a database", ("is not a ledger", "name another with --ledger: nothing was overwritten")),
)


def _explain(path: Path, reason: str) -> LedgerError:
    told = next((words for sign, words in _SIGNS if sign in reason), None)
    if told is None and "disk I/O" in reason:
        told = _io_failure(path)
    if told is None:
        told = ("failed", "the file may be damaged: keep it; `runner doctor` checks it")
    return _told(path, told, reason)


def _told(path: Path, words: tuple[str, str], reason: str) -> LedgerError:
    message, hint = words
    return LedgerError(f"the ledger {path} {message} ({reason})", hint=hint)


def _io_failure(path: Path) -> tuple[str, str]:
    """SQLite has one word for everything that the system refuses; what it was can be seen from outside."""
    sizes = [0]
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            sizes.append(soundness.beside(path, suffix).stat().st_size)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and max(sizes) + _SPARE_BYTES > limit:
        return (
            f"cannot grow: a file of this process may not be larger than {limit} bytes",
            "raise that limit (`ulimit -f`), then run again: it goes on where it stopped",
        )
    try:
        free_bytes = shutil.disk_usage(path.parent).free
    except OSError as error:
        free_bytes = 0 if error.errno == errno.ENOSPC else _SPARE_BYTES
    if free_bytes < _SPARE_BYTES:
        return _FULL
    return ("cannot be read or written", "check the disk, its quota and the system's log, then run again")
