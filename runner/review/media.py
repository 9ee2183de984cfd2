"""Pictures for the browser: the very file that the ledger names, and nothing else that may lie there.

Owns that only pictures are called so. Refuses to take a path from anyone but the ledger, and to know where files lie:
the store opens them, and follows no link below a job's folder.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

from runner.errors import StoreError
from runner.store import Store

_PIECE_BYTES = 256 * 1024
_HEADS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


@dataclass(frozen=True, slots=True)
class Picture:
    """An open file that begins as a picture does; whoever got it closes it."""

    file: BinaryIO
    held: ExitStack
    content_type: str
    size_bytes: int

    def read(self) -> bytes:
        """The next piece; nothing at the end, which is where the file ended when it was opened."""
        return self.file.read(max(0, min(_PIECE_BYTES, self.size_bytes - self.file.tell())))

    def close(self) -> None:
        """Let go of the file."""
        self.held.close()


def open_picture(store: Store, path: str) -> Picture | None:
    """The picture at `path` below the output place; None if none lies there, or the way to it leads elsewhere."""
    with ExitStack() as held:
        try:
            file = held.enter_context(store.reading(path))
            content_type = _content_type(file.read(16))
            size_bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
        except (StoreError, OSError):
            return None
        return None if content_type is None else Picture(file, held.pop_all(), content_type, size_bytes)


def _content_type(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _HEADS if head.startswith(start)), None)
