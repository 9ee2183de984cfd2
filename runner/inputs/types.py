"""The words of `inputs`: what a manifest says of a picture, and what comes of it.

Owns the shapes. Refuses to open a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner.tasks import Input, Source

MaskMode = Literal["alpha", "white_is_edit", "black_is_edit"]
"""Which part of a mask's file is to be changed: what is transparent, what is white, or what is black."""


class BadInput(Exception):
    """A picture that cannot be sent. `about` tells whether it is an image or the mask."""

    def __init__(self, message: str, *, hint: str, about: Literal["image", "mask"] = "image") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.about = about

    def __reduce__(self) -> tuple[Callable[..., BadInput], tuple[str, str, Literal["image", "mask"]]]:
        """A worker process hands it back: the words of the constructor have names, which pickling does not know."""
        return _bad_input, (self.message, self.hint, self.about)


def _bad_input(message: str, hint: str, about: Literal["image", "mask"]) -> BadInput:
    return BadInput(message, hint=hint, about=about)


@dataclass(frozen=True, slots=True)
class Prepare:
    """How pictures are changed before they are sent: longer side in pixels at most, format, quality (jpeg and webp)."""

    max_side: int | None = None
    format: Literal["png", "jpeg", "webp"] | None = None
    quality: int = 90


@dataclass(frozen=True, slots=True)
class Mask:
    """What is to be changed of the first image: a file, a rectangle or a polygon, in pixels of that image.

    `file` is as the manifest has it, relative to its folder; `box` is (x, y, width, height). `mode` says how a file is
    read, `resize` that it may have another size than the image. `feather` is the width of the soft edge of a composite,
    in pixels; what is sent has hard edges.
    """

    file: str | None = None
    box: tuple[int, int, int, int] | None = None
    polygon: tuple[tuple[int, int], ...] | None = None
    mode: MaskMode = "alpha"
    resize: bool = False
    feather: int = 0


@dataclass(frozen=True, slots=True)
class Ready:
    """A picture that was checked, and the file that holds it as it is sent.

    `source` makes it again. `bytes` is the file's length, `format` is png, jpeg or webp.
    """

    input: Input
    source: Source
    path: Path
    bytes: int
    format: str
