"""The files of one job in a folder: received under a temporary name, flushed, and only then given their own name.

Owns every write below an output folder: nothing is written, moved or removed through a symbolic link below the job's
folder, and no pipe or device is waited for. Blocking; the engine calls what flushes in another thread than its loop's.
It is long because every way in which a file gets, changes or loses its name is here.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from runner import locks
from runner.errors import StoreError
from runner.store.batchfiles import BatchFiles
from runner.store.derived import Derived, FolderDerived
from runner.store.files import explained, flush_folder, fresh, to_read
from runner.store.opening import store_at
from runner.store.partial import FilePartial, Partial, Sealed
from runner.store.places import Output
from runner.store.runlog import RunLog, to_append
from runner.store.store import Store
from runner.store.verify import BadImage, ImageVerifier

_BUFFER_BYTES = 1 << 20
_FOLDERS = (
    "images",
    ".partial",
    ".batches",
    "logs",
    "superseded",
    "composites",
    "renditions",
    "gallery",
    "promotions",
)
"""What a job's folder may hold: assets in `images` and `superseded`, what was derived of them in the others."""
_MOVE_AWAY = "move it away, then run again"


class FolderStore(Store):
    """The files of one job below an output folder."""

    output: Path

    def __init__(self, output: Path, job: str) -> None:
        super().__init__(output, job)
        self._folder = output / job
        self._known: set[Path] = set()

    @property
    def folder(self) -> Path:
        """The job's folder; all of its files lie below it."""
        return self._folder

    @property
    def is_remote(self) -> bool:
        """It is a disk of this machine, or looks like one."""
        return False

    def located(self, path: str) -> Path:
        """The file at `path`."""
        return self.output / path

    def prepare(self) -> None:
        """Make the job's folders.

        Raises:
            StoreError: they cannot be made or written to, or one of them leads elsewhere.
        """
        for name in _FOLDERS:
            self._own(name)
        for name in ("images", ".partial"):
            folder = self._folder / name
            self._make(folder)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise StoreError(f"the folder {folder} cannot be written", hint="check its permissions")

    def has_run_logs(self) -> bool:
        """Whether runs of this job have been logged here, whatever the ledger knows of them.

        Raises:
            StoreError: the logs cannot be listed.
        """
        folder = self._own("logs")
        with explained(folder):
            try:
                with os.scandir(folder) as entries:
                    return any(entry.name.startswith("run-") and entry.name.endswith(".jsonl") for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                return False

    @contextmanager
    def lock(self, *, now: dt.datetime) -> Iterator[None]:
        """Hold the job's folder for the block: whoever holds it may remove what others have left there.

        Raises:
            Locked: another process holds it, with this ledger or another.
            StoreError: the lock's file cannot be opened.
        """
        path = self._folder / ".lock"
        with explained(path):
            descriptor = locks.open_file(path)
        with locks.held(descriptor, what=f"the folder {self._folder}", now=now):
            yield

    def partial(self, attempt_id: int) -> FilePartial:
        """A new temporary file for one attempt.

        Raises:
            StoreError: it cannot be made.
        """
        self._own(".partial")
        return FilePartial(self.partial_path(attempt_id))

    def line(self, batch: int, number: int) -> FilePartial:
        """A new temporary file for the image of one line of a batch's results: whose it is may not be known yet.

        Raises:
            StoreError: it cannot be made.
        """
        return FilePartial(self._own(".partial") / f"batch-{batch}-{number}.part")

    def place_line(self, line: Partial, path: str) -> None:
        """Give the sealed file of a line its own name, durably; as `place`."""
        assert isinstance(line, FilePartial)
        self._rename(line.path, self._target(path))

    @property
    def derived(self) -> Derived:
        """The files that are made of assets, or about them."""
        return FolderDerived(self.output, self.job, target=self._target, scratch=self._scratch)

    def _scratch(self) -> Path:
        folder = self._own(".partial")
        self._make(folder)
        return folder

    @property
    def batches(self) -> BatchFiles:
        """The files of requests that are about to be submitted."""
        return BatchFiles(self._batch_folder)

    def _batch_folder(self) -> Path:
        folder = self._own(".batches")
        self._make(folder)
        return folder

    def occupied(self, path: str) -> bool:
        """Whether anything lies at `path` (relative to the output folder)."""
        return os.path.lexists(self.output / path)

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        """The file at `path`, to be read; no link is followed below a job's folder, which may be one itself."""
        with ExitStack() as held:
            with explained(self.output / path):
                descriptor = self._opened(path)
                file = held.enter_context(os.fdopen(descriptor, "rb"))
            yield file

    def _opened(self, path: str) -> int:
        parts = path.split("/")
        if len(parts) < 2 or "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise StoreError(f"{path!r} is no path of a job's file")
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise StoreError(f"{path!r} is no path of a job's file") from None
        to_folder = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        folder = os.open(self.output / parts[0], to_folder)
        try:
            for part in parts[1:-1]:
                below = os.open(part, to_folder | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = below
            # Without waiting, should it be a pipe.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(parts[-1], flags, dir_fd=folder)
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StoreError(f"{self.output / path} is not a file")
        return descriptor

    @contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """The file itself, as it lies there."""
        yield self.output / path

    def has(self, path: str, size_bytes: int) -> bool:
        """Whether a file of this length lies at `path` (relative to the output folder)."""
        try:
            found = (self.output / path).lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == size_bytes

    def place(self, attempt_id: int, path: str) -> None:
        """Give the sealed file of an attempt its own name, durably. Nothing may lie there.

        Its temporary name may come back when the power fails: whatever has one is looked at or removed by the next run.

        Raises:
            StoreError: something lies there, the path leaves the output folder, or the disk refuses.
        """
        self._rename(self.partial_path(attempt_id), self._target(path))

    def move(self, old: str, new: str) -> None:
        """Move a file, both paths relative to the output folder; nothing may lie at `new`."""
        source = self.output / old
        self._direct(source)
        self._rename(source, self._target(new))
        with explained(source):
            flush_folder(source.parent)

    def link(self, old: str, new: str) -> None:
        """Let the bytes of `old` lie at `new` as well: by a hard link, or a copy where the file system has none."""
        source, target = self.output / old, self._target(new)
        with explained(target):
            if source.is_dir() and not source.is_symlink():
                raise StoreError(f"{source} is a folder, where an image should be", hint=_MOVE_AWAY)
            try:
                os.link(source, target, follow_symlinks=False)
            except FileExistsError:
                raise StoreError(f"{target} exists already", hint=_MOVE_AWAY) from None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
                    raise
                if os.path.lexists(target):
                    raise StoreError(f"{target} exists already", hint=_MOVE_AWAY) from None
                self._copy(source, target)
            flush_folder(target.parent)

    def take_over(self, old: str, new: str, origin: Output | None = None) -> None:
        """Let another job's `old` lie at `new` as well, where nothing lies; to be put on record next."""
        note = self._own(".partial") / "taking-over"
        with explained(note), os.fdopen(fresh(note), "w", encoding="utf-8") as file:
            json.dump([old, new], file)
        if origin is None:
            self.link(old, new)
        else:
            self._fetch(store_at(origin, old.partition("/")[0]), old, new)

    def _fetch(self, theirs: Store, old: str, new: str) -> None:
        """Let a file of another output place lie here as well."""
        target = self._target(new)
        temporary = self._own(".partial") / f"copy-{target.name}"
        with theirs.reading(old) as original, explained(temporary):
            _write(original, temporary)
        self._rename(temporary, target)

    def taken_over(self) -> None:
        """Whatever was taken over is on record."""
        note = self._own(".partial") / "taking-over"
        with explained(note):
            note.unlink(missing_ok=True)

    def half_taken_over(self) -> str | None:
        """What the last `take_over` has linked, unless it is the only name of its bytes; it may be on record or not."""
        try:
            note = to_read(self._own(".partial") / "taking-over")
            if note is None:
                return None
            with note:
                old, new = json.load(note)
            target = self._target(str(new))
            if target.lstat().st_nlink > 1 or self._same(self.output / str(old), target):
                return str(new)
        except (OSError, ValueError, TypeError, StoreError):
            pass  # there is none, or nothing that can be relied on
        return None

    def keep_aside(self, path: str, *, tag: str) -> str:
        """Let the file at `path` lie in `superseded/` as well, so that its name can be given to another image.

        Returns its new path, relative to the output folder. The caller records that before it calls `release`.
        """
        aside = self._aside(Path(path).relative_to(self.images).as_posix(), tag)
        if self.occupied(aside):
            if self._same(self.output / path, self.output / aside):
                return aside
            aside = self._free(aside)
        self.link(path, aside)
        return aside

    def doubled(self) -> Iterator[tuple[str, str]]:
        """Files that `keep_aside` has given a second name, and that still have their first: first and second."""
        kept = self._own("superseded")
        for folder, _, names in os.walk(kept):
            for aside in (Path(folder, name) for name in names):
                first = aside.stem.rpartition("~")[0] + aside.suffix
                path = self._folder / "images" / aside.relative_to(kept).with_name(first or aside.name)
                with suppress(OSError):
                    if os.path.samestat(path.lstat(), aside.lstat()):
                        yield path.relative_to(self.output).as_posix(), aside.relative_to(self.output).as_posix()

    def release(self, path: str) -> None:
        """Remove the name `path` of a file that lies elsewhere as well."""
        target = self._target(path)
        with explained(target):
            target.unlink(missing_ok=True)
            flush_folder(target.parent)

    def matches(self, path: str, sha256: str) -> bool:
        """Whether a file lies at `path` (relative to the output folder) and has exactly these bytes."""
        return self._digest(self.output / path) == sha256

    def partial_matches(self, attempt_id: int, sha256: str) -> bool:
        """Whether the temporary file of an attempt has exactly these bytes."""
        return self._digest(self.partial_path(attempt_id)) == sha256

    def examine(self, path: str) -> Sealed | None:
        """What the file at `path` is, or None if it is no whole image."""
        return self._examine(self.output / path)

    def examine_partial(self, attempt_id: int) -> Sealed | None:
        """What an attempt that died has left, made durable, or None if it is no whole image."""
        path = self.partial_path(attempt_id)
        found = self._examine(path)
        if found is not None:
            with explained(path):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        return found

    def sweep(self) -> int:
        """Remove every temporary file; only for the holder of the job's lock. Returns how many there were.

        A folder among them is nobody's temporary file, and stays.

        Raises:
            StoreError: the disk refuses, or the folder of the temporary files is a symbolic link.
        """
        count = 0
        folder = self._own(".partial")
        with explained(folder), suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    Path(entry.path).unlink(missing_ok=True)
                    count += 1
        return count

    @contextmanager
    def log(self, run_id: int) -> Iterator[RunLog]:
        """The log of one run: lines, appended as they happen. Where it cannot be opened, nothing is logged.

        Raises:
            StoreError: it would be written elsewhere: it, or its folder, is a symbolic link.
        """
        path = self._own("logs") / f"run-{run_id:06d}.jsonl"
        if path.is_symlink():
            raise StoreError(f"{path} is a symbolic link, and is not written through", hint=_MOVE_AWAY)
        try:
            self._make(path.parent)
            with explained(path):
                log = RunLog(path, to_append(path))
        except StoreError as error:
            log = RunLog(path, None, error.message)
        try:
            yield log
        finally:
            log.close()

    def partial_path(self, attempt_id: int) -> Path:
        """Where the temporary file of an attempt lies, or would."""
        return self._folder / ".partial" / f"{attempt_id}.part"

    def _own(self, name: str) -> Path:
        """One of the folders of this job, which may not exist yet, but does not lead elsewhere."""
        folder = self._folder / name
        with explained(folder):
            if folder.is_symlink():
                raise self._elsewhere(folder)
        return folder

    def _target(self, path: str) -> Path:
        """Where to write `path`, its folder made, and proved to lie inside the job's folder."""
        target = self.output / path
        self._direct(target)
        self._make(target.parent)
        return target

    def _direct(self, target: Path) -> None:
        """See that no symbolic link lies between the job's folder and `target`; the job's folder itself may be one."""
        # Before anything is made: a folder made through the link would lie outside as well.
        below = os.path.relpath(target.parent, self._folder)
        straight = os.path.normpath(f"{self._inside}/{below}")
        if below.startswith("..") or os.path.realpath(target.parent) != straight:
            raise self._elsewhere(target)

    @cached_property
    def _inside(self) -> str:
        """Where the job's folder lies; it may be a link itself, and then leads to one place for a whole run."""
        return os.path.realpath(self._folder)

    def _elsewhere(self, path: Path) -> StoreError:
        return StoreError(
            f"{path} would be written outside {self._folder}: it, or a folder on the way, is a symbolic link",
            hint="remove the link, or choose another --output",
        )

    def _make(self, folder: Path) -> None:
        """Make a folder and everything above it, each made durable in its parent."""
        if folder in self._known:
            return
        missing = []
        at = folder
        with explained(folder):
            while not at.is_dir() and at != at.parent:
                missing.append(at)
                at = at.parent
            for new in reversed(missing):
                new.mkdir(exist_ok=True)
                flush_folder(new.parent)
        self._known.add(folder)

    def _rename(self, source: Path, target: Path) -> None:
        if os.path.lexists(target):
            raise StoreError(f"{target} exists already", hint=_MOVE_AWAY)
        with explained(target):
            source.rename(target)
            flush_folder(target.parent)

    def _copy(self, source: Path, target: Path) -> None:
        temporary = self._own(".partial") / f"copy-{target.name}"
        original = to_read(source)
        if original is None:
            raise StoreError(f"{source} is not a file, where an image should be", hint=_MOVE_AWAY)
        with original:
            _write(original, temporary)
        temporary.rename(target)

    def _same(self, one: Path, other: Path) -> bool:
        try:
            if one.samefile(other):
                return True
        except OSError:
            return False
        digest = self._digest(one)
        return digest is not None and digest == self._digest(other)

    def _digest(self, path: Path) -> str | None:
        with explained(path):
            file = to_read(path)
            if file is None:
                return None
            with file:
                return hashlib.file_digest(file, "sha256").hexdigest()

    def _examine(self, path: Path) -> Sealed | None:
        digest, verifier, size = hashlib.sha256(), ImageVerifier(), 0
        with explained(path):
            file = to_read(path)
            if file is None:
                return None
            try:
                with file:
                    while chunk := file.read(_BUFFER_BYTES):
                        verifier.feed(chunk)
                        digest.update(chunk)
                        size += len(chunk)
                return Sealed(digest.hexdigest(), size, verifier.finish())
            except BadImage:
                return None


def _write(original: BinaryIO, target: Path) -> None:
    """Copy a stream to a new file, durably."""
    with os.fdopen(fresh(target), "wb") as copy:
        shutil.copyfileobj(original, copy, _BUFFER_BYTES)
        copy.flush()
        os.fsync(copy.fileno())
