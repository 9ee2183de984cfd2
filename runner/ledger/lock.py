"""One run at a time for each job of a ledger.

Owns where the lock's file lies: beside the ledger, one for each job. How a lock works is `runner.locks`.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from runner import locks
from runner.errors import LedgerError, Locked

_LOOK_S = 0.02
"""Longer than anybody looks whether a job is held."""


@contextmanager
def job_lock(ledger: Path, job: str, *, now: dt.datetime) -> Iterator[None]:
    """Hold `job` of the ledger at this path for the block.

    Raises:
        Locked: another process holds it; the message says which and since when.
        LedgerError: the lock's file cannot be opened.
    """
    with ExitStack() as held:
        try:
            held.enter_context(_held(ledger, job, now))
        except Locked:
            # It may have been but a look: see `is_held`.
            time.sleep(_LOOK_S)
            held.enter_context(_held(ledger, job, now))
        yield


def is_held(ledger: Path, job: str) -> bool:
    """Whether a process holds `job` of the ledger at this path; nothing is made to find out.

    Raises:
        LedgerError: the lock's file cannot be opened.
    """
    path = _path(ledger, job)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LedgerError(
            f"cannot open the lock {path}: {error.strerror}", hint="check the permissions of the ledger's folder"
        ) from None
    try:
        # Shared, so that two who ask at once do not take each other for a run.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _held(ledger: Path, job: str, now: dt.datetime) -> AbstractContextManager[None]:
    path = _path(ledger, job)
    try:
        descriptor = locks.open_file(path)
    except OSError as error:
        raise LedgerError(
            f"cannot open the lock {path}: {error.strerror}",
            hint="check the permissions of the ledger's folder, or name another with --ledger",
        ) from None
    return locks.held(descriptor, what=f"the job {job!r}", now=now)


def _path(ledger: Path, job: str) -> Path:
    return ledger.with_name(f".{ledger.name}.locks") / f"{job}.lock"
