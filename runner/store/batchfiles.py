"""The files of requests that are about to be submitted as batches: each is kept until the provider has it.

Owns that a file counts only once it is sealed, whole and durable. Refuses to know what its lines say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
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


class BatchFiles:
    """The files of one job, by their batches' numbers. `folder` makes their folder, or raises StoreError."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder

    def path(self, batch: int) -> Path:
        """Where the file of a batch lies, or would.

        Raises:
            StoreError: its folder cannot be made, or leads elsewhere.
        """
        return self._folder() / f"batch-{batch:06d}.jsonl"

    def begin(self, batch: int) -> Lines:
        """A new file; what a dead run has left under its name is replaced.

        Raises:
            StoreError: it cannot be made.
        """
        return Lines(self.path(batch))

    def drop(self, batch: int) -> None:
        """Remove the file of a batch, if there is one."""
        path = self.path(batch)
        with explained(path):
            path.unlink(missing_ok=True)

    def keep(self, batches: Collection[int]) -> None:
        """Remove all but the files of these batches; only for the holder of the job's lock."""
        kept = {self.path(batch) for batch in batches}
        folder = self._folder()
        with explained(folder), suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False) and Path(entry.path) not in kept:
                    Path(entry.path).unlink(missing_ok=True)
