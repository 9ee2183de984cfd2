"""Images and masks as templates see them: the variables `image` and `mask`.

Owns what a template can ask of them. Refuses to open a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from runner.manifest.editing import split_set
from runner.manifest.values import INPUT_AXES, MaskEntry, Value

PARTS = ("stem", "name", "suffix", "width", "height")
"""What a template can ask of an image or a mask."""


class Picture(str):
    """An image or a mask as a template sees it: its path as written, with parts. Pixels are those that are sent."""

    __slots__ = PARTS
    stem: str
    name: str
    suffix: str
    width: int
    height: int

    @classmethod
    def of(cls, text: str, name: str, width: int, height: int) -> Picture:
        """The picture that is called `text`; its parts are those of the path `name`."""
        made = cls(text)
        path = PurePosixPath(name)
        made.stem, made.name, made.suffix = path.stem, path.name, path.suffix
        made.width, made.height = width, height
        return made

    def variables(self, name: str) -> dict[str, Any]:
        """Itself and its parts, as variables of a template."""
        return {name: self, **{f"{name}.{part}": getattr(self, part) for part in PARTS}}


_NONE = Picture.of("none", "none", 0, 0)
LACKING: Mapping[str, Any] = {key: value for name in INPUT_AXES for key, value in _NONE.variables(name).items()}
"""The variables of a name where a task has no image, or no mask."""


def stem_of(value: Value) -> str:
    """The stem that a value of an axis of images or masks has in templates."""
    if isinstance(value, MaskEntry):
        return PurePosixPath(value.file).stem if value.file is not None else shape_of(value)
    return PurePosixPath(split_set(value)[0]).stem if isinstance(value, str) else "none"


def shape_of(entry: MaskEntry) -> str:
    """What a drawn mask is called."""
    return "box" if entry.box is not None else "polygon"


def preview(own: Mapping[str, Value]) -> Mapping[str, Any]:
    """Variables of a combination for a file without a row: as they could be."""
    values: dict[str, Any] = {}
    for name in INPUT_AXES:
        value = own.get(name)
        text = value.text if isinstance(value, MaskEntry) else value if isinstance(value, str) else name
        values |= Picture.of(text, stem_of(value) if value is not None else name, 1024, 1024).variables(name)
    return values
