"""One run at a time for each job of a ledger.

Owns where the lock's file lies: beside the ledger, one for each job. How a lock works is `runner.locks`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner import locks
from runner.errors import LedgerError


@contextmanager
def job_lock(ledger: Path, job: str, *, now: dt.datetime) -> Iterator[None]:
    """Hold `job` of the ledger at this path for the block.

    Raises:
        Locked: another process holds it; the message says which and since when.
        LedgerError: the lock's file cannot be opened.
    """
    path = ledger.with_name(f".{ledger.name}.locks") / f"{job}.lock"
    try:
        descriptor = locks.open_file(path)
    except OSError as error:
        raise LedgerError(
            f"cannot open the lock {path}: {error.strerror}",
            hint="check the permissions of the ledger's folder, or name another with --ledger",
        ) from None
    with locks.held(descriptor, what=f"the job {job!r}", now=now):
        yield
