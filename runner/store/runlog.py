"""The log of one run: JSON lines in a file that is only ever appended to.

Owns how lines reach it. Refuses to know what they say, and to let a log stop a run.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path


class RunLog:
    """What a run did, line by line. A log that cannot be written never stops a run: the ledger has what matters.

    `path` is its file, `problem` says why there is none, or why lines of it are missing.
    """

    def __init__(self, path: Path, descriptor: int | None, problem: str | None = None) -> None:
        self.path = path
        self._descriptor = descriptor
        self._torn = False
        self.problem = problem

    def write(self, line: str) -> None:
        """Append a line, which brings its newline."""
        if self._descriptor is None:
            return
        # A line that was written in part, to a disk that was full, is ended before the next one begins.
        data = ("\n" * self._torn + line).encode("utf-8", "backslashreplace")
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror}"
        else:
            self._torn = written < len(data)

    def close(self) -> None:
        """No more lines."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def to_append(path: Path) -> int:
    """The file at `path` to append to, made if need be; raises OSError, also for what is no file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file")
    return descriptor
