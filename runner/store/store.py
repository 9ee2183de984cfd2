"""What every store of a job's files can do, wherever they lie.

Owns the contract: received under a temporary name, verified, durable, and only then given its own name (law 2); and
what follows from that alone, whatever lies below. Blocking; the engine calls what waits in another thread than its
loop's. Paths are relative to the output place, with `/` between their parts.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from runner.store.batchfiles import BatchFiles
from runner.store.derived import Derived
from runner.store.partial import Partial, Sealed
from runner.store.places import Output
from runner.store.runlog import RunLog


class Store(ABC):
    """The files of one job below an output place."""

    def __init__(self, output: Output, job: str) -> None:
        self.output = output
        self.job = job

    @property
    def images(self) -> str:
        """Where the assets lie, relative to the output place."""
        return f"{self.job}/images"

    def path(self, name: str) -> str:
        """Where the asset of this name lies, relative to the output place."""
        return f"{self.images}/{name}"

    @property
    @abstractmethod
    def is_remote(self) -> bool:
        """Whether `place` goes over a network: then the ledger's writing thread must not wait for it."""

    @abstractmethod
    def located(self, path: str) -> Path | str:
        """What a person opens to see what lies at `path`: a file's path, or a URL."""

    @abstractmethod
    def prepare(self) -> None:
        """See that files can be written, before anything is sent.

        Raises:
            StoreError: they cannot; it says what to do.
        """

    @abstractmethod
    def has_run_logs(self) -> bool:
        """Whether runs of this job have been logged here, whatever the ledger knows of them.

        Raises:
            StoreError: the logs cannot be listed.
        """

    @abstractmethod
    def lock(self, *, now: dt.datetime) -> AbstractContextManager[None]:
        """Hold the job's place for the block, against other processes of this machine: temporary files are its own.

        Raises:
            Locked: another process holds it, with this ledger or another.
            StoreError: the lock's file cannot be opened.
        """

    # -- receiving ------------------------------------------------------------------------------

    @abstractmethod
    def partial(self, attempt_id: int) -> Partial:
        """A new temporary file for one attempt.

        Raises:
            StoreError: it cannot be made.
        """

    @abstractmethod
    def line(self, batch: int, number: int) -> Partial:
        """A new temporary file for the image of one line of a batch's results: whose it is may not be known yet.

        Raises:
            StoreError: it cannot be made.
        """

    @abstractmethod
    def place(self, attempt_id: int, path: str) -> None:
        """Give the sealed file of an attempt its own name, durably and verified. Nothing may lie there.

        Raises:
            StoreError: something lies there, the path leaves the job's place, or it cannot be written. The temporary
                file stays, for the next run.
        """

    @abstractmethod
    def place_line(self, line: Partial, path: str) -> None:
        """Give the sealed file of a line its own name, durably; as `place`."""

    @abstractmethod
    def partial_matches(self, attempt_id: int, sha256: str) -> bool:
        """Whether the temporary file of an attempt has exactly these bytes."""

    @abstractmethod
    def examine_partial(self, attempt_id: int) -> Sealed | None:
        """What an attempt that died has left, made durable, or None if it is no whole image."""

    @abstractmethod
    def sweep(self) -> int:
        """Remove every temporary file; only for the holder of the job's lock. Returns how many there were.

        Raises:
            StoreError: the disk refuses.
        """

    # -- looking --------------------------------------------------------------------------------

    @abstractmethod
    def occupied(self, path: str) -> bool:
        """Whether anything lies at `path`."""

    @abstractmethod
    def has(self, path: str, size_bytes: int) -> bool:
        """Whether a file of this length lies at `path`."""

    def have(self, files: Sequence[tuple[str, int]]) -> list[bool]:
        """`has` for each of many files, by their paths and lengths."""
        return [self.has(path, size_bytes) for path, size_bytes in files]

    @abstractmethod
    def matches(self, path: str, sha256: str) -> bool:
        """Whether a file lies at `path` and has exactly these bytes."""

    @abstractmethod
    def examine(self, path: str) -> Sealed | None:
        """What the file at `path` is, or None if it is no whole image."""

    @abstractmethod
    def reading(self, path: str) -> AbstractContextManager[BinaryIO]:
        """The file at `path`, to be read from its beginning; of any job below the same output place.

        Raises:
            StoreError: no file lies there, the way to it leads elsewhere, or it cannot be read.
        """

    @abstractmethod
    def local_copy(self, path: str) -> AbstractContextManager[Path]:
        """A file of this machine with the bytes of `path`, for the block: the file itself where it is one.

        Raises:
            StoreError: there is none, or it cannot be read.
        """

    # -- names ----------------------------------------------------------------------------------

    @abstractmethod
    def move(self, old: str, new: str) -> None:
        """Move a file; nothing may lie at `new`."""

    @abstractmethod
    def link(self, old: str, new: str) -> None:
        """Let the bytes of `old` lie at `new` as well, where nothing lies."""

    @abstractmethod
    def take_over(self, old: str, new: str, origin: Output | None = None) -> None:
        """Let another job's `old` lie at `new` as well, where nothing lies; to be put on record next.

        `origin` is the output place of `old`, where that is another. Until it is done, `half_taken_over` tells of it.
        """

    @abstractmethod
    def taken_over(self) -> None:
        """Whatever was taken over is on record."""

    @abstractmethod
    def half_taken_over(self) -> str | None:
        """What the last `take_over` has linked, unless it is the only name of its bytes; it may be on record or not."""

    @abstractmethod
    def keep_aside(self, path: str, *, tag: str) -> str:
        """Let the file at `path` lie in `superseded/` as well, so that its name can be given to another image.

        Returns its new path. The caller records that before it calls `release`.
        """

    @abstractmethod
    def doubled(self) -> Iterator[tuple[str, str]]:
        """Files that `keep_aside` has given a second name, and that still have their first: first and second."""

    @abstractmethod
    def release(self, path: str) -> None:
        """Remove the name `path` of a file that lies elsewhere as well."""

    def superseded(self, name: str, *, tag: str, sha256: str) -> str:
        """Where an image goes that came too late: nothing lies there, or that image."""
        path = self._aside(name, tag)
        return self._free(path) if self.occupied(path) and not self.matches(path, sha256) else path

    def _aside(self, name: str, tag: str) -> str:
        file = Path(name)
        return f"{self.job}/superseded/{file.with_name(f'{file.stem}~{tag}{file.suffix}').as_posix()}"

    def _free(self, path: str) -> str:
        """The first path like this one, with a number, at which nothing lies."""
        name = Path(path)
        number = 2
        while self.occupied(candidate := name.with_name(f"{name.stem}-{number}{name.suffix}").as_posix()):
            number += 1
        return candidate

    # -- what is not an asset -------------------------------------------------------------------

    @property
    @abstractmethod
    def derived(self) -> Derived:
        """The files that are made of assets, or about them."""

    @property
    @abstractmethod
    def batches(self) -> BatchFiles:
        """The files of requests that are about to be submitted; on this machine, wherever the assets go."""

    @abstractmethod
    def log(self, run_id: int) -> AbstractContextManager[RunLog]:
        """The log of one run: lines, appended as they happen. Where it cannot be opened, nothing is logged.

        Raises:
            StoreError: it would be written elsewhere: it, or its folder, is a symbolic link.
        """
