"""Objects below a prefix of an object store: what can be done with them, and who does it for which kind of store.

Owns the contract, the patience with a store that is overloaded or out of reach, and what `fsspec` is asked for; no
other module imports it. Refuses to know the layout of a job. Blocking, and safe to be called from several threads.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import random
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from runner.errors import InputError, StoreError
from runner.store.places import Bucket

T = TypeVar("T")
PIECE_BYTES: Final = 1 << 20
AT_FIRST: Final = 4
"""Tries before anything is sent: who has misspelt a name waits some seconds, and not half a minute."""
PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0)
"""The waits between tries, each stretched by up to half by chance; then it is given up."""
CONNECTIONS: Final = 64
"""Connections of one process at most: more than are ever used at once."""
MOVE_AWAY: Final = "move it away, then run again"
_GO_ON: Final = "run again when it answers: it goes on where it stopped"


@dataclass(frozen=True, slots=True)
class Found:
    """An object: its path below the prefix, its length, when it was written (seconds since 1970).

    `sha256` (hex) is what the server itself holds its bytes against; None where it has none for the whole object.
    """

    path: str
    bytes: int
    changed_s: float = 0.0
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """A file that is to become an object, with the hash that it must have then. It is read while it leaves."""

    file: Path
    sha256: str
    md5: bytes
    bytes: int


class Passing(Exception):
    """What went wrong may be over soon; `told` says it to a person."""

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self.told = told


class Objects(ABC):
    """The objects below a prefix. Paths are relative to it."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    @abstractmethod
    def check(self) -> None:
        """See that the bucket is there.

        Raises:
            StoreError: it is not, or nobody may use it, or nothing answers; it says what to do.
        """

    @abstractmethod
    def head(self, path: str) -> Found | None:
        """What lies at a path; None where nothing does."""

    @abstractmethod
    def put(self, path: str, body: Body, *, replace: bool = False) -> None:
        """Let a file's bytes lie at a path, at once as a whole, and see that they are what arrived.

        Raises:
            StoreError: something lies there and is not to be replaced; or what arrived was never what was sent.
        """

    @abstractmethod
    def fetch(self, path: str, into: IO[bytes]) -> str | None:
        """Read an object into a file, from its beginning; the hash of what came, None where nothing lies there.

        Raises:
            StoreError: it cannot be read, or what comes is not what the server holds it for.
        """

    @abstractmethod
    def copy(self, source: Objects, old: str, new: str) -> None:
        """Let the object at `old` of `source` lie at `new` here as well, and see that it does; nothing lay there."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove an object, if there is one."""

    @abstractmethod
    def walk(self, prefix: str, *, most: int | None = None) -> Iterator[Found]:
        """All objects whose paths begin so, `most` at most."""

    def sha256(self, path: str) -> str | None:
        """The hash of an object, by what the server holds it against or by reading it; None where nothing lies."""
        found = self.head(path)
        if found is None or found.sha256 is not None:
            return None if found is None else found.sha256
        with tempfile.TemporaryFile() as nowhere:
            return self.fetch(path, nowhere)

    def url(self, path: str) -> str:
        """What a person calls it."""
        return self.bucket.joined(path)

    def through_here(self, source: Objects, old: str, new: str) -> None:
        """`copy` by way of this machine, for stores that have no way of their own to each other."""
        with tempfile.TemporaryDirectory(prefix="runner-") as folder:
            file = Path(folder, "copy")
            with file.open("wb") as stream:
                if source.fetch(old, stream) is None:
                    raise StoreError(f"{source.url(old)} is not there")
            self.put(new, body_of(file))

    def persist(self, what: str, call: Callable[[], T], *, tries: int | None = None) -> T:
        """Make a call, again as long as what goes wrong may be over soon: `tries` times at most.

        Raises:
            StoreError: it is not over; or whatever `call` raises.
        """
        for pause_s in (*PAUSES_S[: None if tries is None else tries - 1], None):
            try:
                return call()
            except Passing as error:
                if pause_s is None:
                    raise StoreError(f"{what}: {error.told}", hint=_GO_ON) from error
                time.sleep(pause_s * (1 + random.random() / 2))  # noqa: S311 - no secret: a crowd is spread
        raise AssertionError


def body_of(file: Path) -> Body:
    """A file with its hashes; raises OSError."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with file.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            sha256.update(piece)
            md5.update(piece)
            size += len(piece)
    return Body(file, sha256.hexdigest(), md5.digest(), size)


def type_of(path: str) -> str:
    """The content type by which a browser shows a file."""
    return {".webp": "image/webp", ".jsonl": "application/jsonl"}.get(Path(path).suffix) or (
        mimetypes.guess_type(path)[0] or "application/octet-stream"
    )


def objects_at(bucket: Bucket) -> Objects:
    """The objects of a place.

    Raises:
        InputError: a package is missing that this kind of store needs, or nobody knows its protocol.
    """
    # What an environment says of keys and servers is read once for each connection.
    told = tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "FSSPEC_"))))
    system = _filesystem(bucket.protocol, told, os.getpid())
    if bucket.protocol in ("s3", "s3a"):
        from runner.store.s3 import S3Objects

        return S3Objects(bucket, system)
    from runner.store.anyobjects import AnyObjects

    return AnyObjects(bucket, system)


@lru_cache(maxsize=4)
def _filesystem(protocol: str, _told: tuple[tuple[str, str], ...], _pid: int) -> Any:
    missing = f"a place of {protocol}:// needs a package that is not installed"
    try:
        import fsspec
    except ImportError:
        raise InputError(missing, hint="python -m pip install 'runner[s3]'") from None
    settings: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if protocol in ("s3", "s3a"):
        # Tries are counted here alone, or they would multiply.
        settings["config_kwargs"] = {
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": CONNECTIONS,
            "connect_timeout": 10,
            "read_timeout": 60,
        }
    try:
        return fsspec.filesystem(protocol, **settings)
    except ImportError as error:
        hint = "python -m pip install 'runner[s3]'" if protocol in ("s3", "s3a") else str(error)
        raise InputError(missing, hint=hint) from None
    except ValueError:
        known = ", ".join(name for name in ("s3", "gs", "az") if name in fsspec.available_protocols())
        raise InputError(f"nobody knows the protocol {protocol}://", hint=f"there are {known} and others") from None
    except Exception as error:
        raise StoreError(f"{protocol}:// cannot be used: {error}", hint="check its settings") from None


def run(system: Any, work: Callable[[], Awaitable[T]]) -> T:
    """Do asynchronous work in the thread that belongs to the file system, and wait for it."""
    from fsspec.asyn import sync

    result: T = sync(system.loop, work)
    return result
