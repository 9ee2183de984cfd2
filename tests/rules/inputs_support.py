"""Pictures to check, convert and paste, and a desk that does it with a cache of its own."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image, ImageCms

from runner.inputs import BadInput, Inputs

LATER_NS = 60_000_000_000
"""How far ahead the clock of a desk may be, so that files just written are old to it."""


@dataclass
class Desk:
    """A folder of pictures, a cache, and `Inputs` over both."""

    base: Path
    cache: Path

    def inputs(self, *, ahead_ns: int = LATER_NS) -> Inputs:
        """New ones, as another process has them, whose clock is so far ahead."""
        return Inputs(self.base, self.cache, clock_ns=lambda: time.time_ns() + ahead_ns)

    def put(self, name: str, picture: Image.Image | bytes, **options: object) -> str:
        """Write a picture (in the format of its ending, unless `format` is given) or bytes; the name."""
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(picture, bytes):
            path.write_bytes(picture)
        else:
            # Each format has options of its own, of which the types know nothing.
            save: Callable[..., None] = picture.save
            save(path, **options)
        return name

    def sha256(self, name: str) -> str:
        """The hash of a file's bytes."""
        return hashlib.sha256((self.base / name).read_bytes()).hexdigest()


@contextmanager
def desk() -> Iterator[Desk]:
    """A desk for one example of a property."""
    with TemporaryDirectory() as folder:
        yield new_desk(Path(folder))


def new_desk(folder: Path) -> Desk:
    """A desk below this folder."""
    (folder / "base").mkdir()
    return Desk(folder / "base", folder / "cache")


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 1) -> Image.Image:
    """A picture of which no two pixels are alike, but by chance."""
    count = size[0] * size[1] * {"1": 1, "L": 1, "P": 1, "LA": 2, "I;16": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    data = random.Random(seed).randbytes(count)
    if mode == "1":
        return Image.frombytes("L", size, data).convert("1", dither=Image.Dither.NONE)
    picture = Image.frombytes(mode, size, data)
    if mode == "P":
        picture.putpalette(random.Random(seed + 1).randbytes(768))
    return picture


def smooth(size: tuple[int, int]) -> Image.Image:
    """A picture that a lossy format keeps well: it is red at the left, and blue at the top."""
    left = Image.linear_gradient("L").rotate(90).resize(size)
    top = Image.linear_gradient("L").rotate(180).resize(size)
    return Image.merge("RGB", (left, Image.new("L", size, 60), top))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    save: Callable[..., None] = picture.save
    save(buffer, kind, **options)
    return buffer.getvalue()


def opened(path: Path) -> Image.Image:
    """The picture at `path`, decoded."""
    with Image.open(path) as picture:
        picture.load()
        return picture


def decoded(data: bytes) -> Image.Image:
    with Image.open(BytesIO(data)) as picture:
        picture.load()
        return picture


def wide_profile() -> bytes:
    """A profile of RGB that is not sRGB: sRGB's own with red and blue changed over, under another name."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    tags = {bytes(data[132 + 12 * n : 136 + 12 * n]): 136 + 12 * n for n in range(count)}
    red, blue = (bytes(data[tags[name] : tags[name] + 8]) for name in (b"rXYZ", b"bXYZ"))
    data[tags[b"rXYZ"] : tags[b"rXYZ"] + 8], data[tags[b"bXYZ"] : tags[b"bXYZ"] + 8] = blue, red
    name = "sRGB built-in".encode("utf-16-be")
    assert name in data
    return bytes(data).replace(name, "Other colour".encode("utf-16-be") + b"\0 ")


@contextmanager
def refused(*words: str, hint: str = "", about: str = "image") -> Iterator[None]:
    """The block is refused with all of these words, and with this in the hint."""
    with pytest.raises(BadInput) as caught:
        yield
    error = caught.value
    assert all(word in error.message for word in words), error.message
    assert error.hint
    assert hint in error.hint, error.hint
    assert error.about == about
