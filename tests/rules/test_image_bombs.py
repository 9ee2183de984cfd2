"""What the verifier must refuse although it is small: files that become gigapixels or gigabytes once opened."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from PIL import Image, PngImagePlugin

from runner.store.verify import BadImage, ImageVerifier

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MANY = 64 << 20
"""Bytes that a few kilobytes unpack to."""
ALLOWED = 16 << 20


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*extra: bytes, width: int = 1, height: int = 1) -> bytes:
    """A PNG of one black pixel that says that it is this large, with these chunks before its data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" * 4))
    return SIGNATURE + header + b"".join(extra) + data + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """`count` zeros, compressed without ever having them all."""
    packer, packed = zlib.compressobj(9), io.BytesIO()
    for _ in range(count >> 20):
        packed.write(packer.compress(bytes(1 << 20)))
    packed.write(packer.compress(bytes(count & ((1 << 20) - 1))) + packer.flush())
    return packed.getvalue()


def encoded(kind: str, size: tuple[int, int] = (16, 16), **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(buffer, kind, **options)
    return buffer.getvalue()


def patched(data: bytes, at: int, replacement: bytes) -> bytes:
    return data[:at] + replacement + data[at + len(replacement) :]


def jpeg(height: int, width: int) -> bytes:
    data = encoded("JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))


def gif(frame: tuple[int, int]) -> bytes:
    """A GIF with a canvas of 16x16 and a frame that says that it is larger."""
    data = encoded("GIF")
    return patched(data, data.index(b"\x2c") + 5, struct.pack("<HH", *frame))


def animation(frame: tuple[int, int]) -> bytes:
    """An animated WebP with a canvas of 16x16, whose first frame says that it is larger."""
    buffer = io.BytesIO()
    pictures = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (10, 200)]
    pictures[0].save(buffer, "WEBP", save_all=True, append_images=pictures[1:])
    data = buffer.getvalue()
    sizes = b"".join((length - 1).to_bytes(3, "little") for length in frame)
    return patched(data, data.index(b"ANMF") + 8 + 6, sizes)


def judged(data: bytes, step: int = 4096) -> tuple[str | None, int]:
    """What becomes of these bytes (None: they are an image), and the most memory that took."""
    verifier = ImageVerifier()
    tracemalloc.start()
    try:
        try:
            for start in range(0, len(data), step):
                verifier.feed(memoryview(data)[start : start + step])
            verifier.finish()
        except BadImage as error:
            return error.code, tracemalloc.get_traced_memory()[1]
        return None, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BOMBS: dict[str, Callable[[], bytes]] = {
    "png of 2^62 pixels": lambda: png(width=2**31 - 1, height=2**31 - 1),
    "png of a gigapixel": lambda: png(width=32_768, height=32_768),
    "png of one endless line": lambda: png(width=2**31 - 1, height=1),
    "jpeg of 4 gigapixels": lambda: jpeg(65_535, 65_535),
    "webp canvas": lambda: patched(animation((16, 16)), 24, b"\xff\xff\xff\xff\xff\xff"),
    "webp frame": lambda: animation((16_384, 16_384)),
    "gif canvas": lambda: patched(encoded("GIF"), 6, b"\xff\xff\xff\xff"),
    "gif frame": lambda: gif((65_535, 65_535)),
    "png text": lambda: png(chunk(b"zTXt", b"Comment\0\0" + zeros(MANY))),
    "png profile": lambda: png(chunk(b"iCCP", b"icc\0\0" + zeros(MANY))),
    "png text in utf-8": lambda: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0\xc3\xa9\0" + zeros(MANY))),
    "png of many texts": lambda: png(*[chunk(b"zTXt", b"Comment\0\0" + zeros(ALLOWED // 8 + 1))] * 8),
}


@pytest.mark.parametrize("step", [1, 100, 1 << 20])
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_becomes_a_large_one_is_refused_without_becoming_one(name: str, step: int) -> None:
    """Told by its header, or measured piece by piece: at no time is more of it in memory than a few pieces."""
    bomb = BOMBS[name]()
    assert len(bomb) < 100_000
    code, peak_bytes = judged(bomb, step)
    assert code == "image_too_large"
    assert peak_bytes < 1_000_000


def test_what_unpacks_to_the_limit_is_still_an_image() -> None:
    """The limit is on what all texts and profiles of an image come to."""
    half = chunk(b"zTXt", b"Comment\0\0" + zeros(ALLOWED // 2))
    assert judged(png(half, half))[0] is None
    assert judged(png(half, half, chunk(b"zTXt", b"Comment\0\0" + zeros(1))))[0] == "image_too_large"


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(ALLOWED + 1)),
        chunk(b"iTXt", b"Comment\0\0\0\0\0" + zeros(MANY)),
        chunk(b"zTXt", b"Comment\0\0this does not unpack"),
        chunk(b"zTXt", b"no zero at all"),
        chunk(b"iCCP", b""),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"hello") + zeros(MANY)),
    ],
    ids=["not packed", "not said to be packed", "no zlib", "no zero", "empty", "bytes after its end"],
)
def test_what_cannot_become_large_is_nobodys_business(extra: bytes) -> None:
    """A refused image was paid for too: a text that is odd, or large as it came, is left to whoever reads it."""
    assert judged(png(extra))[0] is None


def test_ordinary_texts_and_profiles_pass() -> None:
    """As Pillow writes them, compressed and not, read in every cut."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "a lighthouse " * 2000, zip=True)
    texts.add_itxt("Title", "phare " * 2000, lang="fr", tkey="titre", zip=True)
    data = encoded("PNG", pnginfo=texts, icc_profile=bytes(range(256)) * 8000)
    for step in (1, 7, 1 << 20):
        assert judged(data, step)[0] is None
