"""The file of one attempt while its image is being received, and what is known of it once it is whole.

Owns that every byte is verified and hashed on its way to the disk, and flushed before the image counts. Refuses to know
where the file lies and which name it gets.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.store.files import explained, fresh
from runner.store.verify import ImageFacts, ImageVerifier


@dataclass(frozen=True, slots=True)
class Sealed:
    """An image that is complete, verified and flushed under its temporary name."""

    sha256: str
    bytes: int
    facts: ImageFacts


class Partial(Protocol):
    """Where one image goes while it is being received."""

    def write(self, data: bytes, /) -> None:
        """Append decoded image bytes; raises BadImage, StoreError."""

    def seal(self) -> Sealed:
        """Verify that the image is whole, and make it durable; raises BadImage, StoreError."""

    def discard(self) -> None:
        """Remove what was received; it is of no use."""


class FilePartial:
    """The file of one attempt while it is being received: hashed and verified as the bytes pass."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained(path):
            self._descriptor = fresh(path)
        self._hash = hashlib.sha256()
        self._verifier = ImageVerifier()
        self._bytes = 0
        self._open = True

    def write(self, data: bytes, /) -> None:
        """Append decoded image bytes.

        Raises:
            BadImage: they cannot be an image.
            StoreError: they cannot be written (a full disk among the reasons).
        """
        self._verifier.feed(data)
        self._hash.update(data)
        with explained(self.path):
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        self._bytes += len(data)

    def seal(self) -> Sealed:
        """Verify that the image is whole and flush it to disk.

        Raises:
            BadImage: it is not whole.
            StoreError: it cannot be flushed.
        """
        facts = self._verifier.finish()
        try:
            with explained(self.path):
                os.fsync(self._descriptor)
        finally:
            self._close()
        return Sealed(self._hash.hexdigest(), self._bytes, facts)

    def discard(self) -> None:
        """Remove what was received; it is of no use."""
        self._close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)
