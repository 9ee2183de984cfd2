"""A file that is written line by line and counts only once it is sealed.

Owns that it is whole and durable then. Refuses to know what the lines say.
"""

from __future__ import annotations

import os
from pathlib import Path

from runner.store.files import explained, flush_folder, fresh


class Lines:
    """A file of lines that is being written; `bytes` and `lines` are what it has so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self.lines = 0
        with explained(path):
            self._file = os.fdopen(fresh(path), "wb")

    def write(self, line: bytes) -> None:
        """Append one line, which has its line break.

        Raises:
            StoreError: it cannot be written (a full disk among the reasons).
        """
        with explained(self.path):
            self._file.write(line)
        self.bytes += len(line)
        self.lines += 1

    def seal(self) -> None:
        """Flush it to the disk; it is whole.

        Raises:
            StoreError: it cannot be flushed.
        """
        with explained(self.path):
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()
            flush_folder(self.path.parent)

    def discard(self) -> None:
        """Remove it: it is of no use."""
        with explained(self.path):
            self._file.close()
            self.path.unlink(missing_ok=True)
