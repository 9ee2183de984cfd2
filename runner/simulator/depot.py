"""The files that the simulator keeps: what was uploaded, and what its batches wrote.

Owns their bytes on disk, their names and their ends. Refuses to know HTTP, and what is in a file.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.simulator.problems import Problem

DAYS_30_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Stored:
    """One file. Times are seconds since 1970; without `expires_at` it stays until it is deleted."""

    id: str
    path: Path
    bytes: int
    filename: str
    purpose: str
    created_at: int
    expires_at: int | None

    def told(self) -> dict[str, object]:
        """As the API tells it."""
        expiry = {} if self.expires_at is None else {"expires_at": self.expires_at}
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            **expiry,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class Depot:
    """The files of one server, in a temporary folder. Whatever changes it is for the event loop's thread."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[str, Stored] = {}

    def clear(self) -> None:
        """No files any more."""
        self._files = {}
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def new_path(self) -> Path:
        """A path for a file that is to be written, and then kept or removed."""
        if self._folder is None:
            # A worker may be writing still when the server ends.
            self._folder = tempfile.TemporaryDirectory(prefix="runner-simulator-", ignore_cleanup_errors=True)
        return Path(self._folder.name, secrets.token_hex(12))

    def keep(self, path: Path, *, filename: str, purpose: str, expires_after_s: int | None) -> Stored:
        """Takes over a file that was written to a path of `new_path`."""
        created_at = int(self._now())
        stored = Stored(
            id=f"file-{secrets.token_hex(12)}",
            path=path,
            bytes=path.stat().st_size,
            filename=filename,
            purpose=purpose,
            created_at=created_at,
            expires_at=None if expires_after_s is None else created_at + expires_after_s,
        )
        self._files[stored.id] = stored
        return stored

    def find(self, file_id: str) -> Stored:
        """The file of this id.

        Raises:
            Problem: 404, there is none (any more).
        """
        stored = self._files.get(file_id)
        if stored is None or self._is_over(stored):
            raise Problem(404, f"No such File object: {file_id}", param="id")
        return stored

    def open(self, file_id: str) -> BinaryIO | None:
        """The file of this id, to be read (and closed); None where there is none. For any thread."""
        try:
            return self.find(file_id).path.open("rb")
        except (Problem, FileNotFoundError):
            return None

    def remove(self, file_id: str) -> None:
        """Deletes a file; whoever has it open reads on.

        Raises:
            Problem: 404, there is none.
        """
        self._drop(self.find(file_id))

    def all(self) -> Iterator[Stored]:
        """Every file there is, in the order of their making."""
        for stored in list(self._files.values()):
            if self._is_over(stored):
                self._drop(stored)
            else:
                yield stored

    def _is_over(self, stored: Stored) -> bool:
        return stored.expires_at is not None and stored.expires_at <= self._now()

    def _drop(self, stored: Stored) -> None:
        del self._files[stored.id]
        with contextlib.suppress(FileNotFoundError):
            stored.path.unlink()
