"""Image files and what they may carry beside the pixels: encoding, the note that it is simulated, and filling.

Owns the four file formats. Refuses to know what is in the picture.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from functools import lru_cache

from PIL import Image

SOFTWARE = "runner simulator"
_SEGMENT_BYTES = 65_000
_EXIF_SOFTWARE = 0x0131


def encode(image: Image.Image, output_format: str, compression: int) -> bytes:
    """`image` as a file of this format; `compression` (0-100) is the quality of jpeg and webp."""
    target = io.BytesIO()
    # Quality 0 would mean "the default" to Pillow.
    quality = max(1, compression)
    match output_format:
        case "png":
            image.save(target, "PNG", compress_level=1)
        case "jpeg":
            image.convert("RGB").save(target, "JPEG", quality=quality)
        case "webp":
            exif = Image.Exif()
            exif[_EXIF_SOFTWARE] = SOFTWARE
            opaque = image if image.mode == "RGBA" else image.convert("RGB")
            opaque.save(target, "WEBP", quality=quality, method=0, exif=exif)
        case _:
            image.save(target, "GIF")
    return target.getvalue()


def label(data: bytes, output_format: str, note: str, fill_to_bytes: int = 0) -> bytes:
    """The same image with a note that names the simulator, filled up to `fill_to_bytes` where it is smaller."""
    text = note.encode("ascii", "replace")
    filling = max(0, fill_to_bytes - len(data) - len(text) - 100)
    match output_format:
        case "png":
            # After IHDR, which is always the first 25 bytes behind the signature.
            notes = _chunk(b"tEXt", b"Software\0" + SOFTWARE.encode()) + _chunk(b"tEXt", b"Comment\0" + text)
            extra = _chunk(b"siMp", _noise(filling)) if filling else b""
            return b"".join((data[:33], notes, data[33:-12], extra, data[-12:]))
        case "jpeg":
            # Behind the JFIF segment, which has to stay the first.
            behind = 4 + int.from_bytes(data[4:6]) if data[2:4] == b"\xff\xe0" else 2
            segments = [_comment(SOFTWARE.encode() + b"; " + text)]
            segments += [_comment(_noise(size)) for size in _split(filling, _SEGMENT_BYTES)]
            return b"".join((data[:behind], *segments, data[behind:]))
        case "webp":
            extra = _riff(b"SIMU", SOFTWARE.encode() + b"; " + text)
            if filling:
                extra += _riff(b"FILL", _noise(filling))
            return b"".join((b"RIFF", struct.pack("<I", len(data) - 8 + len(extra)), data[8:], extra))
        case _:
            body = [SOFTWARE.encode() + b"; " + text]
            if filling:
                body.append(_noise(filling))
            extensions = b"".join(b"\x21\xfe" + _sub_blocks(each) + b"\0" for each in body)
            # A comment needs version 89a of the format.
            return b"".join((b"GIF89a", data[6:-1], extensions, data[-1:]))


def _noise(size: int) -> bytes:
    """Bytes that no compression makes smaller; always the same ones."""
    return _blob(1 << size.bit_length())[:size]


@lru_cache(maxsize=4)
def _blob(size: int) -> bytes:
    return hashlib.shake_256(b"runner simulator").digest(size)


def _split(total: int, most: int) -> list[int]:
    whole, rest = divmod(total, most)
    return [most] * whole + ([rest] if rest else [])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))


def _comment(data: bytes) -> bytes:
    return b"\xff\xfe" + struct.pack(">H", len(data) + 2) + data


def _riff(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _sub_blocks(data: bytes) -> bytes:
    return b"".join(bytes((len(part),)) + part for part in (data[i : i + 255] for i in range(0, len(data), 255)))
