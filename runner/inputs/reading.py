"""Opens a picture and says what it is: told by its content, decoded once in full.

Owns which files are accepted, the words for those that are not, and Pillow's moods (warnings, plug-ins, orientation).
Refuses to know what is done with the picture afterwards, and to remember anything.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal

from runner.inputs.kinds import HEAD_BYTES, recognised
from runner.inputs.types import BadInput

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS: Final = 100_000_000
"""A picture of more is not decoded: it is a slip, or made to fill a memory."""
MAX_SOURCE_BYTES: Final = 1_000_000_000
"""A file of more is not read, not even to be made smaller."""
FORMATS: Final = ("png", "jpeg", "webp")
ORIENTATION: Final = 0x0112
"""The EXIF tag that says how a camera was held."""
SIXTEEN_BITS: Final = ("I", "I;16", "I;16L", "I;16B")
"""Pillow's words for grey of more than 8 bits."""
_PIECE_BYTES: Final = 1 << 20
_MOST_NAMES: Final = 1000
_RELATIVE: Final = "paths are relative to the manifest's folder"
_AGAIN: Final = "export or download it again"

Signature = tuple[int, int, int, int]
"""What tells that a file was written to: size in bytes, times of change of content and inode (ns), inode."""

# Filters of warnings belong to the whole process, and a decoded picture can take hundreds of megabytes: both are
# reasons to have one at a time.
_one_at_a_time = threading.RLock()


def _unlock() -> None:
    """A process that was forked has no thread that would give the lock back."""
    global _one_at_a_time  # one lock for the process is the point of it
    _one_at_a_time = threading.RLock()


os.register_at_fork(after_in_child=_unlock)


@dataclass(frozen=True, slots=True)
class Place:
    """A file and how the manifest calls it, for messages."""

    path: Path
    name: str
    about: Literal["image", "mask"] = "image"

    def bad(self, message: str, hint: str) -> BadInput:
        """The error that says `message` of this file."""
        return BadInput(f"{self.name} {message}", hint=hint, about=self.about)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a check has found. `width` and `height` are those of the picture held upright; `bytes` is the file's length.

    `mode` is Pillow's word for the kind of pixels. `lowest_alpha` is that of the most transparent pixel (0-255), None
    where there is no transparency at all.
    """

    sha256: str
    bytes: int
    format: str
    width: int
    height: int
    orientation: int
    mode: str
    lowest_alpha: int | None


@contextmanager
def decoding() -> Iterator[None]:
    """Have Pillow to oneself for the block, and silent: what is wrong with a picture is found by decoding it."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_file(place: Place) -> IO[bytes]:
    """The file, open to read.

    Raises:
        BadInput: it is missing, cannot be read, or is no ordinary file (a pipe could be waited for without end).
    """
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unreadable(place, error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _special(place)
    return os.fdopen(descriptor, "rb")


def signature(place: Place) -> Signature:
    """What tells that the file was written to.

    Raises:
        BadInput: as `open_file`.
    """
    try:
        found = place.path.stat()
    except (OSError, ValueError) as error:
        raise _unreadable(place, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise _special(place)
    return signature_of(found)


def signature_of(found: os.stat_result) -> Signature:
    """The same of a file that was looked at already."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def glance(file: IO[bytes], place: Place) -> None:
    """Refuse by its length and its first bytes what cannot be a picture, before more of it is read.

    Raises:
        BadInput: it is too long, or of another kind.
    """
    length = os.fstat(file.fileno()).st_size
    if length > MAX_SOURCE_BYTES:
        raise place.bad(f"has {length / 1e9:.1f} GB", "make the picture smaller")
    try:
        other = recognised(file.read(HEAD_BYTES))
        file.seek(0)
    except OSError as error:
        raise _unreadable(place, error) from None
    if other is not None:
        kind, hint = other
        raise place.bad(f"is {kind}, not a PNG, JPEG or WebP" if hint else "is empty", hint or _AGAIN)


def digest(file: IO[bytes], place: Place) -> str:
    """SHA-256 of all of the file, in hex; the file is at its beginning afterwards.

    Raises:
        BadInput: the disk cannot read it.
    """
    found = hashlib.sha256()
    try:
        file.seek(0)
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
        file.seek(0)
    except OSError as error:
        raise _unreadable(place, error) from None
    return found.hexdigest()


def check(file: IO[bytes], place: Place, sha256: str) -> Facts:
    """Decode the picture once, all of it, and tell what it is.

    Raises:
        BadInput: it is none that can be sent, or it is broken.
    """
    with decoding():
        image = load(file, place)
        return facts_of(image, sha256, os.fstat(file.fileno()).st_size)


def facts_of(image: Image.Image, sha256: str, length: int) -> Facts:
    """What there is to know of a picture that was loaded; `length` is that of its file in bytes."""
    orientation = orientation_of(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    # An MPO is a JPEG with other pictures behind the first.
    form = "jpeg" if image.format == "MPO" else str(image.format).lower()
    return Facts(sha256, length, form, width, height, orientation, image.mode, _lowest_alpha(image))


def load(file: IO[bytes], place: Place) -> Image.Image:
    """The picture, decoded as it is stored; call it within `decoding`.

    Raises:
        BadInput: it is broken, animated or too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        file.seek(0)
        image = Image.open(file, formats=["PNG", "JPEG", "WEBP"])
        if image.width * image.height > MAX_PIXELS:
            raise _too_many(place, f"{image.width}x{image.height}")
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise place.bad("is animated", "save one frame of it as a still picture")
        if image.format == "PNG":
            # Pillow passes over the checksums of pixels when it decodes, and over what comes after them.
            image.verify()
            file.seek(0)
            image = Image.open(file, formats=["PNG"])
        image.load()
    except BadInput:
        raise
    except Image.DecompressionBombError:
        raise _too_many(place, "gigantic") from None
    except UnidentifiedImageError:
        raise place.bad("is broken: its beginning is not that of a picture", _AGAIN) from None
    except MemoryError:
        raise place.bad("takes more memory than there is", "make the picture smaller") from None
    except Exception as error:  # a decoder that meets damage raises whatever it likes
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise place.bad(f"is broken: {told}", _AGAIN) from None
    return image


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as it is meant to be seen."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def orientation_of(image: Image.Image) -> int:
    """How the camera was held, 1 to 8; 1 is upright."""
    try:
        found: object = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def has_alpha(image: Image.Image) -> bool:
    """Whether some of it can be transparent. (The one transparent grey of a picture of 16 bits is passed over.)"""
    return image.has_transparency_data and image.mode not in SIXTEEN_BITS


def _lowest_alpha(image: Image.Image) -> int | None:
    if not has_alpha(image):
        return None
    alpha = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    histogram = alpha.getchannel("A").histogram()
    return next(value for value, count in enumerate(histogram) if count)


def _too_many(place: Place, size: str) -> BadInput:
    return place.bad(
        f"has too many pixels ({size}): {MAX_PIXELS // 1_000_000} million are the most", "make the picture smaller"
    )


def _special(place: Place) -> BadInput:
    kind = "a folder" if place.path.is_dir() else "not an ordinary file"
    hint = f"write {place.name.rstrip('/')}/*.png for all in it" if place.path.is_dir() else "name a picture's file"
    return place.bad(f"is {kind}", hint)


def _unreadable(place: Place, error: OSError | ValueError) -> BadInput:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        try:
            beside = [entry.name for _, entry in zip(range(_MOST_NAMES), place.path.parent.iterdir(), strict=False)]
        except OSError:
            beside = []
        close = difflib.get_close_matches(place.path.name, beside, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}? {_RELATIVE}" if close else _RELATIVE
        return BadInput(f"there is no file {place.name}", hint=hint, about=place.about)
    told = getattr(error, "strerror", None) or str(error)
    return place.bad(f"cannot be read: {told}", "check the file and its permissions")
