"""The files that go with a request, read from the disk while they leave.

Owns what of them is in memory: a piece of one at a time, however many there are; and how far they came. Refuses to know
what they show and say.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as it is sent: its length in bytes, and its format (png, jpeg or webp)."""

    path: Path
    bytes: int
    format: str


Part = tuple[str, io.RawIOBase, str]
"""A file of a form: name, content, media type."""


class Sending:
    """The files of one request, and what they are called in a message."""

    def __init__(self, files: Sequence[_Lazy], *, what: str) -> None:
        self._files = files
        self.what = what

    @property
    def are_whole(self) -> bool:
        """Whether all of them were read to the end; until then the end of the request cannot have left."""
        return all(file.is_whole for file in self._files)

    @property
    def problem(self) -> str | None:
        """What kept one of them from being read."""
        return next((file.problem for file in self._files if file.problem is not None), None)

    def close(self) -> None:
        """Close what is open."""
        for file in self._files:
            file.close()


class Uploads(Sending):
    """The pictures of an edit. `on_progress` is called whenever a piece of one was read to be sent."""

    def __init__(self, images: Sequence[Upload], mask: Upload | None, on_progress: Callable[[], None]) -> None:
        # By numbers: what the files are called is nobody else's business.
        named = [(f"image-{number}", each) for number, each in enumerate(images, 1)]
        files = [*named, ("mask", mask)] if mask is not None else named
        lazy = [_Lazy(each.path, each.bytes, on_progress) for _, each in files]
        super().__init__(lazy, what="the images that go with the request")
        parts: list[Part] = [
            (f"{name}.{each.format}", file, f"image/{each.format}")
            for (name, each), file in zip(files, lazy, strict=True)
        ]
        self.images = parts[: len(images)]
        self.mask = parts[-1] if mask is not None else None


class Document(Sending):
    """One file, as long as it is now, under a name and a media type of its own.

    Raises:
        OSError: it is not there.
    """

    def __init__(self, path: Path, filename: str, media_type: str, on_progress: Callable[[], None]) -> None:
        lazy = _Lazy(path, path.stat().st_size, on_progress)
        super().__init__([lazy], what="the contents of the file")
        self.part: Part = (filename, lazy, media_type)


class _Lazy(io.RawIOBase):
    """A file that is open only while it is being read, from its beginning to its end."""

    def __init__(self, path: Path, length_bytes: int, on_progress: Callable[[], None]) -> None:
        self._path = path
        self._length_bytes = length_bytes
        self._on_progress = on_progress
        self._at = 0
        self._file: io.FileIO | None = None
        self.is_whole = False
        self.problem: str | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """As a file has it; whoever sends asks for the length in this way."""
        self._shut()
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length_bytes}[whence]
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        """The next piece.

        Raises:
            OSError: it cannot be read, or is no longer as long as it was.
        """
        path, length = self._path, self._length_bytes
        try:
            if self._file is None:
                self._file = io.FileIO(path)
                self._file.seek(self._at)
            piece = self._file.read(size) or b""
            self._at += len(piece)
            if self._at > length or (not piece and self._at < length):
                raise OSError(0, "it has changed while it was sent")
        except OSError as error:
            self.problem = f"{path} cannot be read: {error.strerror or error}"
            self._shut()
            raise
        if not piece:
            self.is_whole = True
            self._shut()
        self._on_progress()
        return piece

    def close(self) -> None:
        """As a file has it."""
        self._shut()
        super().close()

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
