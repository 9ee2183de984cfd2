"""The pictures that come with an edit: whether the API takes them, and their pixels at the size that is wanted.

Owns what a valid input is. Refuses to know requests and what is drawn. A file is read in place; no more of a picture is
decoded than is asked for, and large ones one after another, so that memory does not grow with what is in flight.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps

from runner.simulator.problems import Problem, invalid

MOST_IMAGES = 16
_IMAGE_BYTES = 50_000_000
_MASK_BYTES = 4_000_000
_MOST_PIXELS = 80_000_000
"""Below the number at which Pillow itself warns. The API's own bound is not published."""
_LARGE_PIXELS = 8_000_000
_TAIL_BYTES = 4096
_PIECE_BYTES = 1 << 18
_FORMATS = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}
"""MPO is what many phones write: a JPEG file with a second picture behind the first."""
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OPENED = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Some that are not taken are opened all the same, so that the error can name them."""
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
"""What Pillow raises at files that are not what they seem."""
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Picture:
    """A valid input: SHA-256 (hex), length and format of its file, and its pixels once it is upright."""

    sha256: str
    bytes: int
    format: str
    width: int
    height: int


def check(images: Sequence[BinaryIO], mask: BinaryIO | None) -> tuple[tuple[Picture, ...], Picture | None]:
    """The pictures of one edit, checked as the API does.

    Raises:
        Problem: one of them cannot be used; the message says which and why.
    """
    checked = tuple(
        _checked(file, f"image {number}", "image", _IMAGE_BYTES, tuple(_FORMATS))
        for number, file in enumerate(images, 1)
    )
    if mask is None:
        return checked, None
    return checked, _checked_mask(mask, checked[0])


def _checked(file: BinaryIO, what: str, param: str, most_bytes: int, formats: tuple[str, ...]) -> Picture:
    length_bytes = file.seek(0, os.SEEK_END)
    if length_bytes >= most_bytes:
        raise invalid(
            f"Invalid {what}: the file has {length_bytes} bytes; it must be less than {most_bytes // 1_000_000} MB.",
            param,
            "image_too_large",
        )
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    with _readable(what, param):
        with _opened(file) as image:
            format_, (width, height) = image.format or "", image.size
            turned = _orientation(image) >= 5
            if format_ in formats and width * height <= _MOST_PIXELS:
                _verify(image, file)
        if format_ not in formats:
            known = "a PNG file" if formats == ("PNG",) else "a png, webp or jpeg file"
            raise invalid(f"Invalid {what}: it must be {known}, and is {format_}.", param, "invalid_image_format")
        if width * height > _MOST_PIXELS:
            raise _too_many_pixels(what, param)
    if turned:
        width, height = height, width
    return Picture(digest.hexdigest(), length_bytes, _FORMATS[format_], width, height)


def _checked_mask(file: BinaryIO, first: Picture) -> Picture:
    mask = _checked(file, "mask", "mask", _MASK_BYTES, ("PNG",))
    with _opened(file) as image:
        mode, has_alpha = image.mode, "A" in image.getbands()
    if not has_alpha:
        raise invalid(
            f"Invalid mask: it must have an alpha channel (its transparent part is what is edited), and its mode is "
            f"{mode}.",
            "mask",
            "invalid_mask_image_format",
        )
    if (mask.width, mask.height) != (first.width, first.height):
        raise invalid(
            f"Invalid mask: it is {mask.width}x{mask.height}, and must have the size of the first image, "
            f"{first.width}x{first.height}.",
            "mask",
            "invalid_mask_image_format",
        )
    return mask


@contextlib.contextmanager
def _readable(what: str, param: str) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError:
        raise _too_many_pixels(what, param) from None
    except _BROKEN:
        raise invalid(
            f"Invalid {what}: the file cannot be read as a png, webp or jpeg image.", param, "invalid_image_file"
        ) from None


def _too_many_pixels(what: str, param: str) -> Problem:
    most = _MOST_PIXELS // 1_000_000
    return invalid(f"Invalid {what}: it has more than {most} million pixels.", param, "image_too_large")


@contextlib.contextmanager
def _opened(file: BinaryIO) -> Iterator[ImageFile.ImageFile]:
    """The file's picture, not decoded yet."""
    file.seek(0)
    with Image.open(file, formats=_OPENED) as image:
        yield image


def _orientation(image: Image.Image) -> int:
    # Without this question Pillow would decode a whole PNG to look for what may stand behind its pixels.
    value = image.getexif().get(_ORIENTATION, 1) if "exif" in image.info else 1
    return value if isinstance(value, int) else 1


def _verify(image: ImageFile.ImageFile, file: BinaryIO) -> None:
    """Whether the file is whole, with as little decoding as its format allows."""
    if image.format == "PNG":
        image.verify()
    elif image.format in ("JPEG", "MPO"):
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        if b"\xff\xd9" not in file.read():
            # No end in sight: cut off, or something stands behind the picture. Only decoding tells.
            file.seek(0)
            with Image.open(file, formats=("JPEG",)) as again:
                again.draft("L", (1, 1))
                again.load()
    # Pillow has read and walked a whole WebP file by the time that it is open.


def covering(file: BinaryIO, width: int, height: int) -> Image.Image:
    """The picture in `width` x `height` pixels, upright, its middle where the shapes differ: mode RGB or RGBA.

    Raises:
        Problem: the pixels cannot be decoded, although the file seemed whole.
    """
    with _readable("image", "image"), _opened(file) as image:
        turn = _TURNS.get(_orientation(image))
        turned = _orientation(image) >= 5
        asked = (height, width) if turned else (width, height)
        image.draft("RGB", asked)
        with _room_for(image):
            fitted = ImageOps.fit(_plain(image), asked, Image.Resampling.BICUBIC)
    # Profiles and texts of the input have no place in the file that is drawn from it.
    fitted.info = {}
    return fitted.transpose(turn) if turn is not None else fitted


def to_be_edited(file: BinaryIO, width: int, height: int) -> Image.Image:
    """The part of a mask that is wholly transparent, fitted as `covering` does it: mode L, 255 where it is."""
    with _readable("mask", "mask"), _opened(file) as image, _room_for(image):
        alpha = image.getchannel("A")
    return ImageOps.fit(alpha, (width, height), Image.Resampling.NEAREST).point([255] + [0] * 255)


def _room_for(image: Image.Image) -> contextlib.AbstractContextManager[object]:
    return _one_at_a_time if image.width * image.height > _LARGE_PIXELS else contextlib.nullcontext()


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits of grey.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)
