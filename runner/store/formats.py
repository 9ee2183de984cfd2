"""How PNG, JPEG, WebP and GIF files are built: what must be where for an image to be whole.

Owns the structure of the four formats: signatures, chunk walks, checksums, dimensions, and where a file must end.
Refuses to know pixels (no image data is decompressed), files, and what was asked for.

A small file must not become a large one in the memory of whoever opens it: the size of the image and of every frame is
bounded, and so is what the compressed texts and profiles of a PNG unpack to (measured piece by piece, never kept).

Strict about everything that shows a cut or a damaged transfer; indifferent to everything a strict reader could quibble
about in an image that is whole, because a refused image was paid for too.

Longer than most modules, because the four formats share their cursor and their words for what is wrong.

Each format is a generator that takes from a `Cursor` and yields when it wants more bytes; it returns on the last byte
of its format, so that "cut" is a generator that never returned, and "too long" is a byte that comes after.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeVar

from runner.store.packed import PACKED, UNPACKED_MAX_BYTES, Packed

T = TypeVar("T")
Steps = Generator[None, None, T]

_EMPTY: Final = memoryview(b"")
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_MAX_BYTES: Final = 2**31 - 1
_PNG_BIT_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_PALETTE: Final = 3

# Inside a JPEG scan FF00 is a data byte, FFD0-FFD7 are restarts and FFFF is padding; any other FFxx ends the scan.
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_SOI, _JPEG_EOI, _JPEG_SOS, _JPEG_APP11 = 0xD8, 0xD9, 0xDA, 0xEB
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_FIRST_MARKER: Final = 0xC0
_JPEG_WITHOUT_LENGTH: Final = frozenset(range(0xD0, 0xD8))

_WEBP_ANIMATION: Final = 0x02
_WEBP_FRAME_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a whole image says of itself. Sizes are pixels, as stored (EXIF orientation is not applied)."""

    format: str
    """`png`, `jpeg`, `webp` or `gif`."""
    width: int
    height: int
    has_c2pa: bool
    """Whether it carries content credentials: a PNG `caBX`, a JPEG APP11 or a RIFF `C2PA` chunk."""


class BadImage(Exception):
    """Bytes that are not one whole image.

    `code` is one of `not_an_image`, `incomplete_image`, `damaged_image`, `image_too_large`.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Cursor:
    """The bytes at hand. A generator that waits has used up all of them."""

    __slots__ = ("position", "seen", "view")

    def __init__(self) -> None:
        self.view = _EMPTY
        self.position = 0
        self.seen = 0

    def open(self, chunk: bytes | memoryview) -> None:
        """Put the next bytes at hand."""
        self.view = memoryview(chunk)
        self.position = 0
        self.seen += len(self.view)

    def close(self) -> None:
        """Let go of the bytes at hand."""
        self.view = _EMPTY
        self.position = 0

    @property
    def remaining(self) -> int:
        """How many bytes at hand nobody has taken."""
        return len(self.view) - self.position

    def slice(self, limit: int) -> Steps[memoryview]:
        """At least one byte and at most `limit` (itself at least 1), without copying."""
        while self.position >= len(self.view):
            yield
        found = self.view[self.position : self.position + limit]
        self.position += len(found)
        return found

    def take(self, count: int) -> Steps[bytes]:
        """Exactly `count` bytes: for headers."""
        taken = b""
        while len(taken) < count:
            taken += yield from self.slice(count - len(taken))
        return taken

    def skip(self, count: int) -> Steps[None]:
        """Pass over `count` bytes."""
        while count > 0:
            count -= len((yield from self.slice(count)))


def damaged(what: str) -> BadImage:
    """The error for an image of which `what` is wrong."""
    return BadImage(f"The image is damaged: {what}.", code="damaged_image")


_CheckSize = Callable[[int, int], None]


def read_image(cursor: Cursor, max_pixels: int) -> Steps[ImageFacts]:
    """Read one image of any of the four formats.

    Raises:
        BadImage: as soon as the bytes cannot be the beginning of a good image.
    """

    def check_size(width: int, height: int) -> None:
        if width <= 0 or height <= 0:
            raise damaged(f"its size is {width}x{height}")
        if width * height > max_pixels:
            raise BadImage(
                f"The image is {width}x{height}, more than {max_pixels} pixels are not accepted.",
                code="image_too_large",
            )

    first = yield from cursor.take(1)
    for signature, parser in _PARSERS.items():
        if signature[:1] == first:
            # Byte by byte, so that a short text is told from the beginning of an image.
            for expected in signature[1:]:
                if (yield from cursor.take(1))[0] != expected:
                    raise _not_an_image()
            return (yield from parser(cursor, check_size))
    raise _not_an_image()


def _not_an_image() -> BadImage:
    return BadImage("The bytes are not a PNG, JPEG, WebP or GIF image.", code="not_an_image")


# --- PNG


def _png(cursor: Cursor, check_size: _CheckSize) -> Steps[ImageFacts]:
    header = yield from _png_chunk_header(cursor)
    if header != (13, b"IHDR"):
        raise damaged("a PNG must begin with IHDR")
    body = yield from cursor.take(13)
    yield from _png_checksum(cursor, b"IHDR", zlib.crc32(body, zlib.crc32(b"IHDR")))
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
    if depth not in _PNG_BIT_DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise damaged("its IHDR names a kind of PNG that does not exist")
    check_size(width, height)
    has_c2pa = has_palette = False
    data_bytes = unpacked_bytes = 0
    previous = b"IHDR"
    while True:
        length, kind = yield from _png_chunk_header(cursor)
        if kind == b"IDAT":
            if colour == _PNG_PALETTE and not has_palette:
                raise damaged("its palette is missing")
            if data_bytes and previous != b"IDAT":
                raise damaged("other chunks divide its IDAT chunks")
            data_bytes += length
        elif kind == b"IHDR":
            raise damaged("it has a second IHDR")
        elif kind == b"IEND" and (length or not data_bytes):
            raise damaged("it has no image data" if not length else "its IEND is not empty")
        has_palette = has_palette or kind == b"PLTE"
        has_c2pa = has_c2pa or kind == b"caBX"
        checksum = zlib.crc32(kind)
        packed = Packed(kind, unpacked_bytes) if kind in PACKED else None
        while length:
            part = yield from cursor.slice(length)
            checksum = zlib.crc32(part, checksum)
            length -= len(part)
            if packed is not None:
                unpacked_bytes = packed.measure(part)
                if unpacked_bytes > UNPACKED_MAX_BYTES:
                    raise BadImage(
                        f"The texts and profiles of the image unpack to more than {UNPACKED_MAX_BYTES} bytes.",
                        code="image_too_large",
                    )
        yield from _png_checksum(cursor, kind, checksum)
        if kind == b"IEND":
            return ImageFacts("png", width, height, has_c2pa)
        previous = kind


def _png_chunk_header(cursor: Cursor) -> Steps[tuple[int, bytes]]:
    header = yield from cursor.take(8)
    length, kind = int.from_bytes(header[:4], "big"), header[4:]
    if length > _PNG_CHUNK_MAX_BYTES or not (kind.isalpha() and kind.isascii()):
        raise damaged("what should be a PNG chunk is none")
    return length, kind


def _png_checksum(cursor: Cursor, kind: bytes, computed: int) -> Steps[None]:
    told = yield from cursor.take(4)
    if int.from_bytes(told, "big") != computed:
        raise damaged(f"the checksum of its {kind.decode('ascii')} chunk is wrong")


# --- JPEG


def _jpeg(cursor: Cursor, check_size: _CheckSize) -> Steps[ImageFacts]:
    size: tuple[int, int] | None = None
    has_c2pa = has_scan = False
    marker = yield from _jpeg_marker(cursor)
    while marker != _JPEG_EOI:
        if marker < _JPEG_FIRST_MARKER or marker == _JPEG_SOI or marker in _JPEG_WITHOUT_LENGTH:
            raise damaged(f"the JPEG marker FF{marker:02X} stands where it cannot")
        length = int.from_bytes((yield from cursor.take(2)), "big") - 2
        if length < 0:
            raise damaged("a JPEG segment is shorter than its own length field")
        if marker in _JPEG_FRAMES:
            if size is not None:
                raise damaged("it has a second frame header")
            size = yield from _jpeg_frame(cursor, length)
            check_size(*size)
        else:
            yield from cursor.skip(length)
        has_c2pa = has_c2pa or marker == _JPEG_APP11
        if marker == _JPEG_SOS:
            if size is None:
                raise damaged("a JPEG scan comes before the frame header")
            has_scan = True
            marker = yield from _jpeg_scan(cursor)
        else:
            marker = yield from _jpeg_marker(cursor)
    if size is None or not has_scan:
        raise damaged("it has no image data")
    return ImageFacts("jpeg", *size, has_c2pa)


def _jpeg_marker(cursor: Cursor) -> Steps[int]:
    if (yield from cursor.take(1)) != b"\xff":
        raise damaged("a JPEG marker is missing")
    marker = 0xFF
    while marker == 0xFF:  # any number of FF may come before a marker's code
        marker = (yield from cursor.take(1))[0]
    return marker


def _jpeg_frame(cursor: Cursor, length: int) -> Steps[tuple[int, int]]:
    if length < 6:
        raise damaged("its frame header is too short")
    _precision, height, width, components = struct.unpack(">BHHB", (yield from cursor.take(6)))
    if not components or length != 6 + 3 * components:
        raise damaged("its frame header has the wrong length")
    yield from cursor.skip(length - 6)
    return width, height


def _jpeg_scan(cursor: Cursor) -> Steps[int]:
    """Pass over entropy-coded data; the marker that ends it."""
    after_ff = False
    while True:
        part = yield from cursor.slice(1 if after_ff else sys.maxsize)
        if after_ff and _JPEG_SCAN_END.match(b"\xff%c" % part[0]):
            return part[0]
        found = _JPEG_SCAN_END.search(part)
        if found:
            cursor.position -= len(part) - found.end()
            return part[found.end() - 1]
        after_ff = part[-1] == 0xFF


# --- WebP


def _webp(cursor: Cursor, check_size: _CheckSize) -> Steps[ImageFacts]:
    left = int.from_bytes((yield from cursor.take(4)), "little") - 4
    if (yield from cursor.take(4)) != b"WEBP":
        raise _not_an_image()
    canvas: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    has_c2pa = has_data = is_animated = False
    while left > 0:
        if left < 8:
            raise damaged("its last RIFF chunk is too short")
        header = yield from cursor.take(8)
        kind, length = header[:4], int.from_bytes(header[4:], "little")
        left -= 8
        if length > left:
            raise damaged("a RIFF chunk is longer than the file")
        if size is None and canvas is None and kind not in _WEBP_HEADS:
            raise damaged("a WebP must begin with VP8, VP8L or VP8X")
        used = 0
        if kind in _WEBP_HEADS:
            read, used = _WEBP_HEADS[kind]
            if length < used:
                raise damaged("its WebP header is too short")
            body = yield from cursor.take(used)
            found = read(body)
            check_size(*found)
            if kind == b"VP8X":
                canvas, is_animated = found, bool(body[0] & _WEBP_ANIMATION)
            else:
                size, has_data = found, True
        elif kind == b"ANMF" and length >= _WEBP_FRAME_BYTES:
            used = _WEBP_FRAME_BYTES
            frame = yield from cursor.take(used)
            check_size(int.from_bytes(frame[6:9], "little") + 1, int.from_bytes(frame[9:12], "little") + 1)
        has_data = has_data or (kind == b"ANMF" and is_animated)
        has_c2pa = has_c2pa or kind == b"C2PA"
        # A chunk of odd length is padded to an even one; some writers leave that out at the very end.
        padded = min(length + length % 2, left)
        yield from cursor.skip(padded - used)
        left -= padded
    if left < 0 or not has_data:
        raise damaged("it has no image data")
    if canvas and size and canvas != size:
        raise damaged("its image does not have the size of its canvas")
    width, height = canvas or size or (0, 0)
    return ImageFacts("webp", width, height, has_c2pa)


def _vp8(body: bytes) -> tuple[int, int]:
    if body[0] & 1 or body[3:6] != b"\x9d\x01\x2a":
        raise damaged("its VP8 data does not begin with a key frame")
    width, height = struct.unpack("<HH", body[6:])
    return width & 0x3FFF, height & 0x3FFF


def _vp8l(body: bytes) -> tuple[int, int]:
    bits = int.from_bytes(body[1:], "little")
    if body[0] != 0x2F or bits >> 29:
        raise damaged("its VP8L data does not begin with its signature")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _vp8x(body: bytes) -> tuple[int, int]:
    return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:], "little") + 1


_WEBP_HEADS: Final[dict[bytes, tuple[Callable[[bytes], tuple[int, int]], int]]] = {
    b"VP8 ": (_vp8, 10),
    b"VP8L": (_vp8l, 5),
    b"VP8X": (_vp8x, 10),
}


# --- GIF


def _gif(cursor: Cursor, check_size: _CheckSize) -> Steps[ImageFacts]:
    if (yield from cursor.take(2)) not in (b"7a", b"9a"):
        raise _not_an_image()
    width, height, flags, _background, _aspect = struct.unpack("<HHBBB", (yield from cursor.take(7)))
    check_size(width, height)
    yield from cursor.skip(_gif_table_bytes(flags))
    has_data = False
    while True:
        kind = yield from cursor.take(1)
        if kind == b"\x3b":
            if not has_data:
                raise damaged("it has no image data")
            return ImageFacts("gif", width, height, False)
        if kind == b"\x21":
            yield from cursor.skip(1)
        elif kind == b"\x2c":
            has_data = True
            _left, _top, *frame, flags = struct.unpack("<HHHHB", (yield from cursor.take(9)))
            check_size(max(frame[0], 1), max(frame[1], 1))
            yield from cursor.skip(_gif_table_bytes(flags) + 1)
        else:
            raise damaged("what should be a GIF block is none")
        yield from _gif_sub_blocks(cursor)


def _gif_table_bytes(flags: int) -> int:
    """The length of the colour table that a flags byte announces."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_sub_blocks(cursor: Cursor) -> Steps[None]:
    while True:
        view, position = cursor.view, cursor.position
        # The blocks that lie wholly at hand are walked here: a generator step for each would cost ten times as much.
        while position < len(view) and view[position] and position + view[position] < len(view):
            position += view[position] + 1
        cursor.position = position
        length = (yield from cursor.take(1))[0]
        if not length:
            return
        yield from cursor.skip(length)


_PARSERS: Final[dict[bytes, Callable[[Cursor, _CheckSize], Steps[ImageFacts]]]] = {
    _PNG_SIGNATURE: _png,
    b"\xff\xd8": _jpeg,
    b"RIFF": _webp,
    b"GIF8": _gif,
}
