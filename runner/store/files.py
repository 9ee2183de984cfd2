"""Opens files below the output folder so that nothing but the file that is meant is reached.

Owns how a file is opened (never through a symbolic link, never waiting for a pipe), how a name becomes durable, and
what the system's errors mean to a user. Refuses to know the layout of the folders.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from runner.errors import StoreError


def fresh(path: Path) -> int:
    """A descriptor of a new file to write to; raises OSError.

    What lay under its name loses that name: to write into it could reach a file that has other names as well.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except FileExistsError:
        path.unlink()
        return os.open(path, flags, 0o644)


def to_read(path: Path) -> BufferedReader | None:
    """The file at `path`, None if none lies there: a link, a folder, a pipe and a device are no files of ours.

    Raises OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            return None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")


def flush_folder(folder: Path) -> None:
    """Make a new, renamed or removed name in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the system's errors into StoreError, with what to do next."""
    try:
        yield
    except OSError as error:
        told, hint = error.strerror, "check the folder and its permissions"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            told, hint = f"the disk is full ({told})", "make space, then run again: it goes on where it stopped"
        elif error.errno == errno.EFBIG:
            told = f"a file may not grow any further ({told})"
            hint = "make space or raise the limit (`ulimit -f`), then run again: it goes on where it stopped"
        raise StoreError(f"{path}: {told}", hint=hint) from error
