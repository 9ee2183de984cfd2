"""What really lies in a job's part of a bucket, held against what ought to.

Owns looking: nothing here writes. A server that holds a checksum of a whole object is believed; where it has none, or
an image is to be decoded, the object is read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress

from runner.errors import StoreError
from runner.store.bucket import spool_of
from runner.store.inventory import Entry, Inventory, Look, decode
from runner.store.objects import Found, objects_at
from runner.store.places import Bucket
from runner.store.verify import ImageFacts


class BucketInventory(Inventory):
    """The files of one job below a prefix of a bucket, to look at.

    Raises:
        StoreError: the bucket is not there or cannot be listed: then nothing can be said of what is missing.
    """

    def __init__(self, output: Bucket, job: str) -> None:
        super().__init__(job)
        self._objects = objects_at(output)
        self._spool = spool_of(output, job)
        self._objects.check()

    def look(self, path: str, *, sha256: str, size_bytes: int, facts: ImageFacts | None = None) -> Look:
        """Hold an object against its size and hash, by what the server says; with `facts` by reading and decoding."""
        if not self._is_ours(path):
            return Look("outside", f"it is recorded at a path that is not one of {self._job}/images or superseded")
        try:
            found = self._objects.head(path)
            if found is None:
                return Look("missing", "there is no object")
            if found.bytes != size_bytes:
                return Look("changed", f"its size is {found.bytes} bytes, on record are {size_bytes}")
            if found.sha256 is not None and found.sha256 != sha256:
                return Look("changed", "its size is right, its hash is another")
            if found.sha256 is not None and facts is None:
                return Look("good")
            with tempfile.TemporaryFile() as file:
                if self._objects.fetch(path, file) != sha256:
                    return Look("changed", "its size is right, its hash is another")
                wrong = None if facts is None else decode(file, facts)
            return Look("good") if wrong is None else Look("undecodable", wrong)
        except (StoreError, OSError) as error:
            return Look("unreadable", error.message if isinstance(error, StoreError) else str(error))

    def walk(self) -> Iterator[Entry]:
        """Every object where assets lie."""
        for folder in ("images", "superseded"):
            for found in self._objects.walk(f"{self._job}/{folder}/"):
                yield _entry(found)

    def walk_all(self) -> Iterator[Entry]:
        """Every object of the job but its logs and what is temporary."""
        for found in self._objects.walk(f"{self._job}/"):
            if found.path.split("/")[1] not in ("logs", ".partial"):
                yield _entry(found)

    def temporaries(self) -> list[str]:
        """What a dead run left in this machine's spool, and in the bucket."""
        folder = self._spool.folder / ".partial"
        here = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        there = [found.path for found in self._objects.walk(f"{self._job}/.partial/")]
        return [*(f"{self._job}/.partial/{name}" for name in here), *there]

    def is_there(self, path: str) -> bool:
        """Whether an object lies at `path`, or a file of the spool."""
        name = path.removeprefix(f"{self._job}/.partial/")
        is_temporary = name != path and "/" not in name
        if is_temporary and (self._spool.folder / ".partial" / name).exists():
            return True
        return self._objects.head(path) is not None

    def digest(self, path: str) -> str | None:
        """The hash of an object, by the server's checksum or by reading it."""
        with suppress(StoreError):
            return self._objects.sha256(path)
        return None

    def flush(self, path: str) -> None:
        """What was put is durable."""


def _entry(found: Found) -> Entry:
    return Entry(found.path, "file", found.bytes, found.changed_s)
