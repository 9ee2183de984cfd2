"""Locks between the processes of one machine: the kernel holds them, and gives them up when the process ends.

Owns the lock's file and what it says of its holder, which is only for people: however a process ends, its lock ends
with it. Refuses to know what is locked and why.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.errors import Locked


def open_file(path: Path) -> int:
    """A descriptor of a file to lock, made if need be; never through a symbolic link, and not handed to children.

    Raises:
        OSError: it cannot be made or opened, or is no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without waiting for whoever may hold the other end, should it be a pipe.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return descriptor


@contextmanager
def held(descriptor: int, *, what: str, now: dt.datetime) -> Iterator[None]:
    """Hold the lock of this open file for the block, and close it.

    `what` names in a message what the lock stands for; `now` is aware.

    Raises:
        Locked: another process holds it; the message says which, where, and since when.
    """
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f"another run holds {what}: {_holder(descriptor)}",
                hint="wait for it to end (`runner status` shows how far it is), or stop it with Ctrl-C or SIGTERM",
            ) from None
        since = now.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})
        with suppress(OSError):  # a full disk takes the name of the holder, not the lock
            # In one write, and cut afterwards: whoever reads meanwhile finds a name, never half of one.
            os.pwrite(descriptor, text.encode(), 0)
            os.ftruncate(descriptor, len(text.encode()))
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0).partition(b"}")[0] + b"}")
        return f"pid {int(holder['pid'])} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        return "it has only just begun"
