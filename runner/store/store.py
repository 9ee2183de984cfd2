"""Files of one job: received under a temporary name, verified, flushed, and only then given their own name.

Owns every write below the output folder. Blocking; the pool calls what flushes in worker threads.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runner.errors import StoreError
from runner.store.verify import BadImage, ImageFacts, ImageVerifier

_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sealed:
    """An image that is complete, verified and flushed under its temporary name."""

    sha256: str
    bytes: int
    facts: ImageFacts


class Partial:
    """The file of one attempt while it is being received: hashed and verified as the bytes pass."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
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
        with _explained(self.path):
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
            with _explained(self.path):
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


class RunLog:
    """What a run did, line by line. A log that cannot be written never stops a run: the ledger has what matters."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> None:
        """Append a line, which brings its newline."""
        with suppress(OSError, ValueError):
            self._file.write(line)


class Store:
    """The files of one job below an output folder."""

    def __init__(self, output: Path, job: str) -> None:
        self.output = output
        self.job = job
        self._folder = output / job
        self._known: set[Path] = set()

    @property
    def images(self) -> str:
        """The folder of the assets, relative to the output folder."""
        return f"{self.job}/images"

    def prepare(self) -> None:
        """Make the job's folders.

        Raises:
            StoreError: they cannot be made or written to.
        """
        for folder in (self.output / self.images, self._folder / ".partial"):
            self._make(folder)
        if not os.access(self._folder / ".partial", os.W_OK):
            raise StoreError(f"the folder {self._folder} cannot be written", hint="check its permissions")

    def path(self, name: str) -> str:
        """Where the asset of this name lies, relative to the output folder."""
        return f"{self.images}/{name}"

    def partial(self, attempt_id: int) -> Partial:
        """A new temporary file for one attempt."""
        return Partial(self._partial_path(attempt_id))

    def occupied(self, path: str) -> bool:
        """Whether anything lies at `path` (relative to the output folder)."""
        return os.path.lexists(self.output / path)

    def place(self, attempt_id: int, path: str) -> None:
        """Give the sealed file of an attempt its own name, durably. Nothing may lie there.

        Raises:
            StoreError: something lies there, the path leaves the output folder, or the disk refuses.
        """
        self._rename(self._partial_path(attempt_id), self._target(path))

    def move(self, old: str, new: str) -> None:
        """Move a file, both paths relative to the output folder; nothing may lie at `new`."""
        self._rename(self.output / old, self._target(new))

    def link(self, old: str, new: str) -> None:
        """Let the bytes of `old` lie at `new` as well: by a hard link, or a copy where the file system has none."""
        source, target = self.output / old, self._target(new)
        with _explained(target):
            try:
                os.link(source, target)
            except FileExistsError:
                raise StoreError(f"{target} exists already", hint="move it away, then run again") from None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
                    raise
                if os.path.lexists(target):
                    raise StoreError(f"{target} exists already", hint="move it away, then run again") from None
                self._copy(source, target)
            _flush_folder(target.parent)

    def keep_aside(self, path: str, *, tag: str) -> str:
        """Let the file at `path` lie in `superseded/` as well, so that its name can be given to another image.

        Returns its new path, relative to the output folder. The caller records that before it calls `release`.
        """
        name = Path(path).relative_to(self.images)
        aside = f"{self.job}/superseded/{name.with_name(f'{name.stem}~{tag}{name.suffix}').as_posix()}"
        if self.occupied(aside):
            if self._same(self.output / path, self.output / aside):
                return aside
            aside = self._free(aside)
        self.link(path, aside)
        return aside

    def release(self, path: str) -> None:
        """Remove the name `path` of a file that lies elsewhere as well."""
        target = self._target(path)
        with _explained(target):
            target.unlink(missing_ok=True)
            _flush_folder(target.parent)

    def matches(self, path: str, sha256: str) -> bool:
        """Whether a file lies at `path` (relative to the output folder) and has exactly these bytes."""
        return self._digest(self.output / path) == sha256

    def partial_matches(self, attempt_id: int, sha256: str) -> bool:
        """Whether the temporary file of an attempt has exactly these bytes."""
        return self._digest(self._partial_path(attempt_id)) == sha256

    def examine(self, path: str) -> Sealed | None:
        """What the file at `path` is, or None if it is no whole image."""
        return self._examine(self.output / path)

    def examine_partial(self, attempt_id: int) -> Sealed | None:
        """What an attempt that died has left, made durable, or None if it is no whole image."""
        path = self._partial_path(attempt_id)
        found = self._examine(path)
        if found is not None:
            with _explained(path):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        return found

    def sweep(self) -> int:
        """Remove every temporary file; only for the holder of the job's lock. Returns how many there were."""
        count = 0
        folder = self._folder / ".partial"
        with suppress(FileNotFoundError):
            for entry in os.scandir(folder):
                Path(entry.path).unlink(missing_ok=True)
                count += 1
        return count

    @contextmanager
    def log(self, run_id: int) -> Iterator[RunLog]:
        """The log of one run: lines, appended as they happen."""
        path = self._folder / "logs" / f"run-{run_id:06d}.jsonl"
        self._make(path.parent)
        with _explained(path):
            file = path.open("a", encoding="utf-8", buffering=1)
        try:
            yield RunLog(file)
        finally:
            with suppress(OSError):
                file.close()

    def _partial_path(self, attempt_id: int) -> Path:
        return self._folder / ".partial" / f"{attempt_id}.part"

    def _target(self, path: str) -> Path:
        """Where to write `path`, its folder made, and proved to lie inside the job's folder, symbolic links and all."""
        target = self.output / path
        inside = os.path.realpath(self._folder)
        # Before anything is made: a folder made through the link would lie outside as well.
        if os.path.commonpath([inside, os.path.realpath(target.parent)]) != inside:
            raise StoreError(
                f"{target} would be written outside {self._folder}: a folder on the way is a symbolic link",
                hint="remove the link, or choose another --output",
            )
        self._make(target.parent)
        return target

    def _make(self, folder: Path) -> None:
        """Make a folder and everything above it, each made durable in its parent."""
        if folder in self._known:
            return
        missing = []
        at = folder
        while not at.is_dir() and at != at.parent:
            missing.append(at)
            at = at.parent
        with _explained(folder):
            for new in reversed(missing):
                new.mkdir(exist_ok=True)
                _flush_folder(new.parent)
        self._known.add(folder)

    def _rename(self, source: Path, target: Path) -> None:
        if os.path.lexists(target):
            raise StoreError(f"{target} exists already", hint="move it away, then run again")
        with _explained(target):
            source.rename(target)
            _flush_folder(target.parent)
            if source.parent != target.parent:
                _flush_folder(source.parent)

    def _copy(self, source: Path, target: Path) -> None:
        temporary = self._folder / ".partial" / f"copy-{target.name}"
        with source.open("rb") as original, temporary.open("wb") as copy:
            shutil.copyfileobj(original, copy, _BUFFER_BYTES)
            copy.flush()
            os.fsync(copy.fileno())
        temporary.rename(target)

    def _free(self, path: str) -> str:
        """The first path like this one, with a number, at which nothing lies."""
        name = Path(path)
        number = 2
        while self.occupied(candidate := name.with_name(f"{name.stem}-{number}{name.suffix}").as_posix()):
            number += 1
        return candidate

    def _same(self, one: Path, other: Path) -> bool:
        try:
            if one.samefile(other):
                return True
        except OSError:
            return False
        return self._digest(one) == self._digest(other)

    def _digest(self, path: Path) -> str | None:
        with _explained(path):
            try:
                if path.is_symlink():
                    return None
                with path.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def _examine(self, path: Path) -> Sealed | None:
        digest, verifier, size = hashlib.sha256(), ImageVerifier(), 0
        with _explained(path):
            try:
                with path.open("rb") as file:
                    while chunk := file.read(_BUFFER_BYTES):
                        verifier.feed(chunk)
                        digest.update(chunk)
                        size += len(chunk)
                return Sealed(digest.hexdigest(), size, verifier.finish())
            except (BadImage, FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None


def _flush_folder(folder: Path) -> None:
    """Make a new, renamed or removed name in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's errors into StoreError, with what to do next."""
    try:
        yield
    except OSError as error:
        hint = "check the folder and its permissions"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "make space, then run again: it goes on where it stopped"
        raise StoreError(f"{path}: {error.strerror}", hint=hint) from error
