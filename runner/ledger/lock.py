"""One run at a time for each job of a ledger.

Owns the lock's file beside the ledger and what it says about its holder. The kernel gives the lock up when the process
ends, however it ends; the text in the file is only for people.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.errors import LedgerError, Locked


@contextmanager
def job_lock(ledger: Path, job: str, *, now: dt.datetime) -> Iterator[None]:
    """Hold `job` of the ledger at this path for the block.

    Raises:
        Locked: another process holds it; the message says which and since when.
    """
    path = ledger.with_name(f".{ledger.name}.locks") / f"{job}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LedgerError(f"cannot open the lock {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f"another run holds the job {job!r}: {_holder(descriptor)}",
                hint="wait for it to end (`runner status` shows how far it is), or stop it with Ctrl-C or SIGTERM",
            ) from None
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now.isoformat()})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"pid {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has only just begun"
