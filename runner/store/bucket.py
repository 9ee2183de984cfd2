"""The files of one job in a bucket: received on this machine, verified and flushed, then put under their names.

Owns the order in which bytes become durable where a name cannot be given by renaming (law 2): an image lies in the
spool, a folder of this machine, until its put is verified; only then its copy here goes. After a death in between its
bytes are found under its name by any host, or in the spool by this one.

Two hosts are kept apart by the ledger's lock on the job; the spool's lock keeps apart two processes of this machine
with different ledgers.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from runner.errors import StoreError
from runner.store.batchfiles import BatchFiles
from runner.store.derived import Derived
from runner.store.files import explained
from runner.store.folder import FolderStore
from runner.store.objects import PIECE_BYTES, body_of, objects_at
from runner.store.partial import FilePartial, Partial, Sealed
from runner.store.places import Bucket, Output
from runner.store.runlog import RunLog
from runner.store.store import Store
from runner.store.verify import BadImage, ImageVerifier

AT_ONCE: Final = 16
"""Requests of one call at a time, where it makes many."""
_TAKING_OVER: Final = "taking-over"
_ASIDE: Final = "aside-"
_MOST_READ_BYTES: Final = 8 << 20
"""How much of a file that is read is held in memory; more of it goes to the disk."""


class BucketStore(Store):
    """The files of one job below a prefix of a bucket."""

    output: Bucket

    def __init__(self, output: Bucket, job: str) -> None:
        super().__init__(output, job)
        self.objects = objects_at(output)
        self.spool = spool_of(output, job)

    @property
    def is_remote(self) -> bool:
        """A put goes over the network."""
        return True

    def located(self, path: str) -> str:
        """The URL of what lies at `path`."""
        return self.objects.url(path)

    def prepare(self) -> None:
        """See that objects can be put and removed, and that the spool can be written."""
        self.spool.prepare()
        self.objects.check()
        probe = self._own(f"probe-{os.getpid()}")
        self._put_bytes(probe, b"This may be removed.\n")
        self.objects.delete(probe)

    def has_run_logs(self) -> bool:
        """Whether runs of this job have been logged here; each has put its log's name when it began."""
        return self.spool.has_run_logs() or any(True for _ in self.objects.walk(f"{self.job}/logs/run-", most=1))

    @contextmanager
    def lock(self, *, now: dt.datetime) -> Iterator[None]:
        """Hold the job's spool, against other processes of this machine; two hosts are kept apart by the ledger."""
        with self.spool.lock(now=now):
            yield

    # -- receiving ------------------------------------------------------------------------------

    def partial(self, attempt_id: int) -> FilePartial:
        """A new temporary file in the spool."""
        return self.spool.partial(attempt_id)

    def line(self, batch: int, number: int) -> FilePartial:
        """A new temporary file in the spool for the image of one line of a batch's results."""
        return self.spool.line(batch, number)

    def place(self, attempt_id: int, path: str) -> None:
        """Put the sealed file of an attempt under its own name, and verify it. Nothing may lie there."""
        self._place(self.spool.partial_path(attempt_id), path)

    def place_line(self, line: Partial, path: str) -> None:
        """Put the sealed file of a line under its own name; as `place`."""
        assert isinstance(line, FilePartial)
        self._place(line.path, path)

    def partial_matches(self, attempt_id: int, sha256: str) -> bool:
        """Whether the temporary file of an attempt is in this machine's spool and has exactly these bytes."""
        return self.spool.partial_matches(attempt_id, sha256)

    def examine_partial(self, attempt_id: int) -> Sealed | None:
        """What an attempt that died has left in this machine's spool, or None if it is no whole image."""
        return self.spool.examine_partial(attempt_id)

    def sweep(self) -> int:
        """Remove every temporary file of the spool, and what has no name yet in the bucket."""
        count = self.spool.sweep()
        for found in list(self.objects.walk(self._own(""))):
            self.objects.delete(found.path)
            count += 1
        return count

    def _place(self, file: Path, path: str) -> None:
        self._ours(path)
        with explained(file):
            body = body_of(file)
        self.objects.put(path, body)
        with explained(file):
            file.unlink(missing_ok=True)

    # -- looking --------------------------------------------------------------------------------

    def occupied(self, path: str) -> bool:
        """Whether an object lies at `path`."""
        return self.objects.head(path) is not None

    def has(self, path: str, size_bytes: int) -> bool:
        """Whether an object of this length lies at `path`."""
        found = self.objects.head(path)
        return found is not None and found.bytes == size_bytes

    def have(self, files: Sequence[tuple[str, int]]) -> list[bool]:
        """`has` for each of many files, several at a time."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda file: self.has(*file), files))

    def matches(self, path: str, sha256: str) -> bool:
        """Whether an object lies at `path` and has exactly these bytes, by the server's checksum or by reading it."""
        return self.objects.sha256(path) == sha256

    def examine(self, path: str) -> Sealed | None:
        """What the object at `path` is, or None if it is no whole image."""
        digest, verifier, size = hashlib.sha256(), ImageVerifier(), 0
        try:
            with self.reading(path) as file:
                while piece := file.read(PIECE_BYTES):
                    verifier.feed(piece)
                    digest.update(piece)
                    size += len(piece)
            return Sealed(digest.hexdigest(), size, verifier.finish())
        except (BadImage, _Gone):
            return None

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        """The object at `path`, as it came whole and undamaged."""
        with tempfile.SpooledTemporaryFile(_MOST_READ_BYTES) as spooled:
            file = cast(BinaryIO, spooled)  # it has all that a stream has since 3.11
            self._fetch(path, file)
            file.seek(0)
            yield file

    @contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """A temporary file with the object's bytes, removed after the block."""
        with tempfile.NamedTemporaryFile(prefix="runner-", suffix=Path(path).suffix) as file:
            self._fetch(path, file.file)
            yield Path(file.name)

    def _fetch(self, path: str, file: IO[bytes]) -> None:
        with explained(Path(tempfile.gettempdir())):
            if self.objects.fetch(path, file) is None:
                raise _Gone(f"{self.objects.url(path)} is not there")

    # -- names ----------------------------------------------------------------------------------

    def move(self, old: str, new: str) -> None:
        """Copy an object to a new name, then remove the old one: a death in between leaves both."""
        self._ours(old)
        self.link(old, new)
        self.objects.delete(old)

    def link(self, old: str, new: str) -> None:
        """A copy on the server."""
        self._ours(new)
        self.objects.copy(self.objects, old, new)

    def take_over(self, old: str, new: str, origin: Output | None = None) -> None:
        """Copy another job's object, from this place or another; a note in the bucket tells every host of it."""
        self._ours(new)
        note = json.dumps([old, new, None if origin is None else str(origin)])
        self._put_bytes(self._own(_TAKING_OVER), note.encode())
        if isinstance(origin, Path):
            with FolderStore(origin, old.partition("/")[0]).local_copy(old) as file, explained(file):
                self.objects.put(new, body_of(file))
        else:
            self.objects.copy(self.objects if origin is None else objects_at(origin), old, new)

    def taken_over(self) -> None:
        """Whatever was taken over is on record."""
        if self.objects.head(self._own(_TAKING_OVER)) is not None:
            self.objects.delete(self._own(_TAKING_OVER))

    def half_taken_over(self) -> str | None:
        """What the last `take_over` has copied, unless its original is gone; it may be on record or not."""
        try:
            note = json.loads(self._bytes(self._own(_TAKING_OVER)) or b"null")
            if note is None:
                return None
            old, new, origin = (None if part is None else str(part) for part in note)
            if old is None or new is None:
                return None
            self._ours(new)
            digest = self.objects.sha256(new)
            if digest is not None and digest == self._theirs(old, origin):
                return new
        except (ValueError, TypeError, StoreError):
            pass  # there is none, or nothing that can be relied on
        return None

    def _theirs(self, old: str, origin: str | None) -> str | None:
        """The hash of another job's file; None where it is gone."""
        if origin is None:
            return self.objects.sha256(old)
        from runner.store.places import output_at

        place = output_at(origin)
        if isinstance(place, Bucket):
            return objects_at(place).sha256(old)
        with suppress(OSError), (place / old).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return None

    def keep_aside(self, path: str, *, tag: str) -> str:
        """Copy the object at `path` to `superseded/`; a note in the bucket tells of it until `release`."""
        self._ours(path)
        aside = self._aside(path.removeprefix(f"{self.images}/"), tag)
        if self.occupied(aside):
            if self.objects.sha256(path) == self.objects.sha256(aside):
                return aside
            aside = self._free(aside)
        self._put_bytes(self._note(path), json.dumps([path, aside]).encode())
        self.link(path, aside)
        return aside

    def doubled(self) -> Iterator[tuple[str, str]]:
        """What notes tell of, where both objects are there with the same bytes."""
        for found in list(self.objects.walk(self._own(_ASIDE))):
            try:
                path, aside = (str(part) for part in json.loads(self._bytes(found.path) or b"[]"))
            except ValueError:
                continue
            digest = self.objects.sha256(path)
            if digest is not None and digest == self.objects.sha256(aside):
                yield path, aside

    def release(self, path: str) -> None:
        """Remove the object at `path`, whose bytes lie elsewhere as well, and the note that said so."""
        self._ours(path)
        self.objects.delete(path)
        if self.objects.head(self._note(path)) is not None:
            self.objects.delete(self._note(path))

    # -- what is not an asset -------------------------------------------------------------------

    @property
    def derived(self) -> BucketDerived:
        """The files that are made of assets, or about them: objects that may be replaced."""
        return BucketDerived(self)

    @property
    def batches(self) -> BatchFiles:
        """Files of the spool: a batch whose file is on another host is sent from there, or planned again."""
        return self.spool.batches

    @contextmanager
    def log(self, run_id: int) -> Iterator[RunLog]:
        """A file of the spool while the run goes on; put at its end, or by the next run of this host."""
        self.send_logs()
        with self.spool.log(run_id) as log:
            try:
                # Its name tells other hosts, and other ledgers, that this job has been run here.
                self._put_bytes(f"{self.job}/logs/{log.path.name}", b"")
            except StoreError as error:
                log.problem = log.problem or error.message
            yield log
        with suppress(StoreError):
            self.send_logs()

    def send_logs(self) -> None:
        """Put the logs that lie in the spool; only for the holder of the job's lock. One that cannot be put stays."""
        folder = self.spool.folder / "logs"
        with explained(folder):
            files = sorted(folder.glob("run-*.jsonl")) if folder.is_dir() else []
        for file in files:
            with suppress(StoreError), explained(file):
                if file.is_symlink():
                    continue
                self.objects.put(f"{self.job}/logs/{file.name}", body_of(file), replace=True)
                file.unlink()

    # -- of its own -----------------------------------------------------------------------------

    def put_derived(self, path: str, data: bytes | Iterable[bytes]) -> None:
        """Let a file that was derived lie at `path`, at once as a whole; what was there is replaced."""
        self._ours(path)
        with explained(self.spool.folder), tempfile.NamedTemporaryFile(prefix="runner-") as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            self.objects.put(path, body_of(Path(file.name)), replace=True)

    def _put_bytes(self, path: str, data: bytes) -> None:
        self.put_derived(path, data)

    def _bytes(self, path: str) -> bytes | None:
        with BytesIO() as into:
            return None if self.objects.fetch(path, into) is None else into.getvalue()

    def _own(self, name: str) -> str:
        """Where what is no asset lies for a while."""
        return f"{self.job}/.partial/{name}"

    def _note(self, path: str) -> str:
        return self._own(f"{_ASIDE}{hashlib.sha256(path.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}")

    def _ours(self, path: str) -> None:
        """See that a path is one of this job's."""
        parts = path.split("/")
        if len(parts) < 2 or parts[0] != self.job or any(part in ("", ".", "..") for part in parts):
            raise StoreError(f"{path} would lie outside {self.objects.url(self.job)}")


class _Gone(StoreError):
    """Nothing lies there."""


class BucketDerived(Derived):
    """The derived files of a job in a bucket."""

    def __init__(self, store: BucketStore) -> None:
        super().__init__(store.job)
        self._store = store

    def has_gallery(self) -> bool:
        """Whether the job has a gallery."""
        return self._store.occupied(self.gallery_path)

    def put_all(self, files: Sequence[tuple[str, bytes | Iterable[bytes]]]) -> None:
        """As `put`, several at a time."""
        if len(files) == 1:
            self._store.put_derived(*files[0])
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda file: self._store.put_derived(*file), files):
                pass


def spool_of(output: Bucket, job: str) -> FolderStore:
    """Where this machine keeps what is on its way to a bucket, for each place and job.

    Raises:
        StoreError: this machine has no folder for it.
    """
    told = os.environ.get("RUNNER_SPOOL") or ""
    state = os.environ.get("XDG_STATE_HOME") or ""
    if told:
        folder = Path(told).absolute()
    elif state.startswith("/"):
        folder = Path(state) / "runner" / "spool"
    else:
        try:
            folder = Path.home() / ".local" / "state" / "runner" / "spool"
        except RuntimeError:
            raise StoreError(
                "there is no folder for images on their way to the bucket", hint="set RUNNER_SPOOL"
            ) from None
    return FolderStore(folder / hashlib.sha256(str(output).encode()).hexdigest()[:16], job)
