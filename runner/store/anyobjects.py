"""Objects of any store that `fsspec` knows, by what all of them can do.

Owns the way to be sure of bytes where a server tells no checksum: they are put under a temporary name and read back
before they get their own. How atomic the last step is depends on the store: where a move is a copy, a death can leave
both names, and the next run finds them.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any, TypeVar

from runner.errors import StoreError
from runner.store.objects import AT_FIRST, MOVE_AWAY, PIECE_BYTES, Body, Found, Objects, Passing
from runner.store.places import Bucket

T = TypeVar("T")


class AnyObjects(Objects):
    """Objects below a prefix; `system` is fsspec's file system for it."""

    def __init__(self, bucket: Bucket, system: Any) -> None:
        super().__init__(bucket)
        self._system = system
        self._root = str(system._strip_protocol(str(bucket))).rstrip("/")

    def check(self) -> None:
        """See that the place is there; what is a folder is made."""
        self.persist(
            str(self.bucket),
            lambda: self._once(str(self.bucket), lambda: self._system.makedirs(self._root, exist_ok=True)),
            tries=AT_FIRST,
        )

    def head(self, path: str) -> Found | None:
        """What lies at a path."""
        try:
            info = self._call(self.url(path), lambda: self._system.info(self._at(path)))
        except FileNotFoundError:
            return None
        return None if info.get("type") != "file" else self._found(info, path)

    def put(self, path: str, body: Body, *, replace: bool = False) -> None:
        """Put under a temporary name, read back, and only then moved to its own."""
        temporary = f"{path.partition('/')[0]}/.partial/put-{uuid.uuid4().hex}"

        def once() -> None:
            if not replace and self.head(path) is not None:
                raise StoreError(f"{self.url(path)} exists already", hint=MOVE_AWAY)
            self._make_room(temporary)
            self._once(self.url(path), lambda: self._system.put_file(str(body.file), self._at(temporary)))
            if self._read(temporary) != body.sha256:
                raise Passing("what arrived there is not what was sent")
            self._make_room(path)
            try:
                self._once(self.url(path), lambda: self._system.mv(self._at(temporary), self._at(path)))
            except FileNotFoundError:
                raise Passing("somebody removed it on its way") from None

        try:
            self.persist(self.url(path), once)
        except BaseException:
            with suppress(Exception):
                self._system.rm_file(self._at(temporary))
            raise

    def fetch(self, path: str, into: IO[bytes]) -> str | None:
        """Read an object piece by piece."""

        def once() -> str | None:
            into.seek(0)
            into.truncate()
            found = self._read(path, into)
            into.flush()
            return found

        return self.persist(self.url(path), once)

    def copy(self, source: Objects, old: str, new: str) -> None:
        """Through this machine: not every store can copy, and bytes are to be held against their hash."""
        self.through_here(source, old, new)

    def delete(self, path: str) -> None:
        """Remove an object, if there is one."""
        with suppress(FileNotFoundError):
            self._call(self.url(path), lambda: self._system.rm_file(self._at(path)))

    def walk(self, prefix: str, *, most: int | None = None) -> Iterator[Found]:
        """All objects whose paths begin so."""
        folder = prefix.rpartition("/")[0]
        try:
            names = self._call(self.url(prefix), lambda: self._system.find(self._at(folder), detail=True))
        except FileNotFoundError:
            return
        count = 0
        for name, info in names.items():
            path = str(name)[len(self._root) + 1 :]
            if path.startswith(prefix) and (most is None or count < most):
                count += 1
                yield self._found(info, path)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _make_room(self, path: str) -> None:
        self._once(self.url(path), lambda: self._system.makedirs(self._at(path.rpartition("/")[0]), exist_ok=True))

    def _read(self, path: str, into: IO[bytes] | None = None) -> str | None:
        digest = hashlib.sha256()

        def work() -> None:
            with self._system.open(self._at(path), "rb") as stream:
                while piece := stream.read(PIECE_BYTES):
                    digest.update(piece)
                    if into is not None:
                        into.write(piece)

        try:
            self._once(self.url(path), work)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def _found(self, info: Any, path: str) -> Found:
        changed = info.get("mtime") or info.get("LastModified") or info.get("created") or info.get("updated")
        changed_s = changed.timestamp() if hasattr(changed, "timestamp") else changed
        return Found(path, int(info.get("size") or 0), float(changed_s) if isinstance(changed_s, (int, float)) else 0.0)

    def _call(self, what: str, work: Callable[[], T]) -> T:
        return self.persist(what, lambda: self._once(what, work))

    def _once(self, what: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except (FileNotFoundError, StoreError, Passing):
            raise
        except (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, ValueError) as error:
            raise StoreError(f"{what}: {error or type(error).__name__}", hint="check the URL and its rights") from error
        except Exception as error:
            # Each store has errors of its own; what it may be over soon is tried again.
            raise Passing(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
