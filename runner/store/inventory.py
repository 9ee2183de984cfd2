"""What really lies in a job's folder, held against what ought to: hashes, whole images, files that nobody knows.

Owns looking: nothing here writes, but for flushing what was moved by hand. Refuses to follow a symbolic link below the
job's folder and to open anything outside it, whatever path it is given: paths from a ledger are data.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from runner.errors import StoreError
from runner.store.verify import ImageFacts

Verdict = Literal["good", "missing", "changed", "unreadable", "undecodable", "outside"]

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""What Pillow may try: the formats that the store takes, and no other parser."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at a path, and in words what is wrong with it."""

    verdict: Verdict
    detail: str = ""
    occupied: bool = False
    """Nothing that could be the asset lies there, and yet something does."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a folder. `path` is relative to the output folder, `changed_s` is seconds since 1970."""

    path: str
    kind: Literal["file", "link", "other", "unreadable"]
    bytes: int = 0
    changed_s: float = 0.0
    detail: str = ""


class Inventory(ABC):
    """The files of one job below an output place, to look at. Its methods may be called from several threads."""

    def __init__(self, job: str) -> None:
        self._job = job

    @abstractmethod
    def look(self, path: str, *, sha256: str, size_bytes: int, facts: ImageFacts | None = None) -> Look:
        """Hold the file at `path` (relative to the output place) against its size and hash.

        With `facts` the image is read and decoded as well, and held against those.
        """

    @abstractmethod
    def walk(self) -> Iterator[Entry]:
        """Everything where assets lie, in no particular order."""

    @abstractmethod
    def walk_all(self) -> Iterator[Entry]:
        """Everything of the job but its logs, its temporary files and its lock."""

    @abstractmethod
    def temporaries(self) -> list[str]:
        """The temporary files that are there, by their paths."""

    @abstractmethod
    def is_there(self, path: str) -> bool:
        """Whether anything lies at `path`, as `walk`, `walk_all` and `temporaries` tell it."""

    @abstractmethod
    def digest(self, path: str) -> str | None:
        """The hash of a file that `walk` or `walk_all` has found, None if it cannot be read (any more)."""

    @abstractmethod
    def flush(self, path: str) -> None:
        """Make the bytes of a file durable: whoever put it there may not have.

        Raises:
            StoreError: the disk refuses.
        """

    def _is_ours(self, path: str) -> bool:
        parts = path.split("/")
        return (
            len(parts) > 2
            and parts[0] == self._job
            and parts[1] in ("images", "superseded")
            and not any(part in ("", ".", "..") for part in parts)
            and "\0" not in path
        )


class FolderInventory(Inventory):
    """The files of one job below an output folder, to look at."""

    def __init__(self, output: Path, job: str) -> None:
        super().__init__(job)
        self._output = output
        self._folder = Path(os.path.realpath(output / job))

    def look(self, path: str, *, sha256: str, size_bytes: int, facts: ImageFacts | None = None) -> Look:
        """Hold the file at `path` (relative to the output folder) against its size and hash, read in small pieces.

        With `facts` the image is decoded as well and held against those.
        """
        if not self._is_ours(path):
            return Look("outside", f"it is recorded at a path that is not one of {self._job}/images or superseded")
        target = self._output / path
        if os.path.realpath(target.parent) != str(self._folder.joinpath(*PurePosixPath(path).parts[1:-1])):
            return Look("changed", "a folder on the way to it is a symbolic link")
        try:
            # Without waiting, should it be a pipe.
            descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return Look("missing", "there is no file")
        except OSError as error:
            if error.errno == errno.ELOOP:
                return Look("changed", "it is a symbolic link")
            if error.errno == errno.ENXIO:
                return Look("missing", "what lies there is not a file", occupied=True)
            return Look("unreadable", error.strerror or str(error))
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                what = "a folder lies there" if stat.S_ISDIR(found.st_mode) else "what lies there is not a file"
                return Look("missing", what, occupied=True)
            if found.st_size != size_bytes:
                return Look("changed", f"its size is {found.st_size} bytes, on record are {size_bytes}")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return Look("changed", "its size is right, its hash is another")
                wrong = None if facts is None else decode(file, facts)
            return Look("good") if wrong is None else Look("undecodable", wrong)
        except OSError as error:
            return Look("unreadable", error.strerror or str(error))
        finally:
            os.close(descriptor)

    def walk(self) -> Iterator[Entry]:
        """Everything in the folders of assets, in no particular order; folders that are links are not entered."""
        for folder in ("images", "superseded"):
            yield from self._walk([f"{self._job}/{folder}"])

    def walk_all(self) -> Iterator[Entry]:
        """Everything in the job's folder but its logs, its temporary files and its lock."""
        for name in _names(self._folder):
            if name not in ("logs", ".partial", ".batches", ".lock"):
                yield from self._walk([f"{self._job}/{name}"])

    def temporaries(self) -> list[str]:
        """The temporary files that are there, by their paths relative to the output folder."""
        folder = f"{self._job}/.partial"
        return [f"{folder}/{name}" for name in _names(self._output / folder)]

    def is_there(self, path: str) -> bool:
        """Whether anything lies at `path`."""
        return os.path.lexists(self._output / path)

    def digest(self, path: str) -> str | None:
        """The hash of a file that `walk` or `walk_all` has found, None if it cannot be read (any more)."""
        try:
            descriptor = os.open(self._output / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with suppress(OSError), os.fdopen(descriptor, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return None

    def flush(self, path: str) -> None:
        """Make the bytes of a file durable: whoever put it there may not have.

        Raises:
            StoreError: the disk refuses.
        """
        try:
            descriptor = os.open(self._output / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}", hint="check the folder and its permissions") from None

    def _walk(self, roots: list[str]) -> Iterator[Entry]:
        waiting = roots
        while waiting:
            path = waiting.pop()
            try:
                found = os.lstat(self._output / path)
                if not stat.S_ISDIR(found.st_mode):
                    yield _entry(path, found)
                    continue
                # What changes meanwhile may be met or not; nothing is opened twice.
                with os.scandir(self._output / path) as entries:
                    for entry in entries:
                        below = f"{path}/{entry.name}"
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(below)
                            continue
                        with suppress(FileNotFoundError):
                            yield _entry(below, entry.stat(follow_symlinks=False))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                yield Entry(path, "unreadable", detail=error.strerror or str(error))


@contextmanager
def decoding() -> Iterator[None]:
    """Have Pillow ready for the block, and strict about images that unpack to more than anyone can hold.

    Filters of warnings belong to the whole process, so this is entered once, around all threads that look.
    """
    from PIL import Image

    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _entry(path: str, found: os.stat_result) -> Entry:
    if stat.S_ISLNK(found.st_mode):
        return Entry(path, "link", changed_s=found.st_ctime)
    kind: Literal["file", "other"] = "file" if stat.S_ISREG(found.st_mode) else "other"
    return Entry(path, kind, found.st_size, found.st_ctime)


def decode(file: IO[bytes], facts: ImageFacts) -> str | None:
    """What is wrong with an image once all of it is decoded."""
    from PIL import Image, UnidentifiedImageError

    file.seek(0)
    try:
        with Image.open(file, formats=_FORMATS) as image:
            # An MPO is a JPEG with other pictures behind the first.
            kind = "jpeg" if image.format == "MPO" else str(image.format).lower()
            if (kind, *image.size) != (facts.format, facts.width, facts.height):
                width, height = image.size
                return (
                    f"it is a {kind} of {width}x{height}, on record is a {facts.format} of {facts.width}x{facts.height}"
                )
            most = Image.MAX_IMAGE_PIXELS
            if most is not None and image.width * image.height > most:
                return f"it has {image.width * image.height} pixels, too many to decode"
            image.load()
    except UnidentifiedImageError:
        return "it is none of PNG, JPEG, WebP and GIF"
    except Exception as error:  # a decoder that meets damage raises whatever it likes
        return f"it cannot be decoded: {error or type(error).__name__}"
    return None
