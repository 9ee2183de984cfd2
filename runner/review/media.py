"""Pictures for the browser: the very file that the ledger names, and nothing else that may lie there.

Owns that no link is followed below a job's folder, and that only pictures are called so. Refuses to take a path from
anyone but the ledger.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

_PIECE_BYTES = 256 * 1024
_HEADS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


@dataclass(frozen=True, slots=True)
class Picture:
    """An open file that begins as a picture does; whoever got it closes it."""

    file: BufferedReader
    content_type: str
    size_bytes: int

    def read(self) -> bytes:
        """The next piece; nothing at the end, which is where the file ended when it was opened."""
        return self.file.read(max(0, min(_PIECE_BYTES, self.size_bytes - self.file.tell())))


def open_picture(output: Path, path: str) -> Picture | None:
    """The picture at `path` below the output folder; None if none lies there, or the way to it leads elsewhere.

    The job's folder may be a link, as for the store; what is below it may not.
    """
    parts = path.split("/")
    if len(parts) < 2 or "\0" in path or any(part in ("", ".", "..") for part in parts):
        return None
    try:
        descriptor = _opened(output, parts)
    except (OSError, ValueError):
        return None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        return None
    file = os.fdopen(descriptor, "rb")
    try:
        content_type = _content_type(file.peek(16)[:16])
    except OSError:
        content_type = None
    if content_type is None:
        file.close()
        return None
    return Picture(file, content_type, found.st_size)


def _opened(output: Path, parts: list[str]) -> int:
    to_folder = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    folder = os.open(output / parts[0], to_folder)
    try:
        for part in parts[1:-1]:
            below = os.open(part, to_folder | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        # Without waiting, should it be a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(parts[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)


def _content_type(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _HEADS if head.startswith(start)), None)
