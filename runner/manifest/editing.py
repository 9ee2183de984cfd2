"""The keys of `edit`, and how images and masks are written wherever they can stand.

Owns their shapes. Refuses to open a file: whether an image is one is found by `materials`.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from runner.manifest.parts import Bool, Part, Text
from runner.manifest.problems import Path, Wrong, convert_at, shown, suggest
from runner.manifest.values import MaskEntry, as_bool, as_int, as_text, kind

SEPARATOR = "|"
"""Stands between the images of one request where they are one text."""
MASK_MODES = ("alpha", "white_is_edit", "black_is_edit")
MAX_FEATHER_PX = 256
_MAX_SIDE_PX = 65_535
_MAX_POINTS = 1000
_MAGIC = re.compile(r"[*?\[]")
_WHOLE = re.compile(r"-?[0-9]{1,9}")

MaskMode = Literal["alpha", "white_is_edit", "black_is_edit"]


def path_text(raw: object) -> str:
    """A path as it was written."""
    text = as_text(raw)
    assert isinstance(text, str)
    if not text.strip():
        raise Wrong("the path is empty", hint="name a file, relative to the manifest")
    return text


def image_set(raw: object) -> str:
    """The images of one request as one text: a path, or a list of them joined by `|`."""
    if not isinstance(raw, (list, tuple)):
        return path_text(raw)
    if not raw:
        raise Wrong("a set without images", hint="name at least one, or remove it")
    names = [convert_at((index,), path_text, one) for index, one in enumerate(raw)]
    # A glob alone in a list stays a set: all that it finds goes into one request.
    return SEPARATOR.join(names) + (SEPARATOR if len(names) == 1 and is_glob(names[0]) else "")


def is_glob(name: str) -> bool:
    """Whether a path may stand for several files."""
    return _MAGIC.search(name) is not None


def split_set(text: str) -> list[str]:
    """The paths of a set."""
    return [name for part in text.split(SEPARATOR) if (name := part.strip())]


def mask_entry(raw: object) -> MaskEntry:
    """A mask: a path, or a mapping with a file, a box or a polygon."""
    if isinstance(raw, MaskEntry):
        return raw
    if not isinstance(raw, dict):
        return MaskEntry(file=path_text(raw))
    keys = list(_MASK_KEYS)
    for key in raw:
        if key not in keys:
            hint = suggest(str(key), keys, what="keys of a mask")
            raise Wrong(f"unknown key {shown(key)}", hint=hint, path=(key,), at_key=True)
    found = {key: convert_at((key,), _MASK_KEYS[key], value) for key, value in raw.items() if value is not None}
    shapes = [key for key in ("file", "box", "polygon") if key in found]
    if len(shapes) != 1:
        message = f"a mask has one shape, not {' and '.join(shapes)}" if shapes else "a mask without a shape"
        raise Wrong(message, hint="write `file: mask.png`, `box: [x, y, width, height]` or `polygon: [[x, y], ...]`")
    for key in ("mask_mode", "resize"):
        if key in found and "file" not in found:
            hint = "remove it: what is drawn has the size of the image"
            raise Wrong(f"`{key}` is for a mask from a file", hint=hint, path=(key,), at_key=True)
    return MaskEntry(**found)


def images_of_cell(text: str) -> list[str]:
    """The images that a row names: one path, several separated by `|`, or a JSON list.

    Raises:
        Wrong: a JSON list of something else.
    """
    found = _json(text, "[")
    if not isinstance(found, list):
        return split_set(text)
    return split_set(image_set(found)) if found else []


def mask_of_cell(text: str) -> MaskEntry:
    """The mask that a row names: a path, or a mapping as JSON.

    Raises:
        Wrong: the mapping is no mask.
    """
    found = _json(text, "{")
    return mask_entry(_numbers(found)) if isinstance(found, dict) else MaskEntry(file=text)


def _json(text: str, opening: str) -> Any:
    """What a cell says in JSON; None where it is plain text."""
    if not text.startswith(opening):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _numbers(value: Any) -> Any:
    """The rows of a JSONL file keep numbers as the text that was written."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if isinstance(value, dict):
        return {key: one if key == "file" else _numbers(one) for key, one in value.items()}
    return value


def mask_data(entry: MaskEntry) -> Any:
    """The mask as a user writes it."""
    data = {key: value for key in _MASK_KEYS if (value := getattr(entry, key)) is not None}
    if "box" in data:
        data["box"] = list(data["box"])
    if "polygon" in data:
        data["polygon"] = [list(point) for point in data["polygon"]]
    return data["file"] if list(data) == ["file"] else data


def _box(raw: object) -> tuple[int, int, int, int]:
    if not isinstance(raw, (list, tuple)) or len(raw) != 4:
        raise Wrong(f"a box is four numbers, not {_listed(raw)}", hint="write [x, y, width, height] in pixels")
    x, y, width, height = (_whole((index,), one) for index, one in enumerate(raw))
    for index, value, least in ((0, x, 0), (1, y, 0), (2, width, 1), (3, height, 1)):
        if value < least:
            hint = "write [x, y, width, height] in pixels of the image"
            raise Wrong(f"a box's {('x', 'y', 'width', 'height')[index]} of {value}", hint=hint, path=(index,))
    return x, y, width, height


def _polygon(raw: object) -> tuple[tuple[int, int], ...]:
    hint = "write [[x, y], [x, y], [x, y]] in pixels of the image"
    if not isinstance(raw, (list, tuple)) or len(raw) < 3:
        raise Wrong(f"a polygon is three points or more, not {_listed(raw)}", hint=hint)
    if len(raw) > _MAX_POINTS:
        raise Wrong(f"a polygon of {len(raw):,} points", hint=f"at most {_MAX_POINTS:,}; or draw it into a file")
    points: list[tuple[int, int]] = []
    for index, one in enumerate(raw):
        if not isinstance(one, (list, tuple)) or len(one) != 2:
            raise Wrong(f"a point is two numbers, not {_listed(one)}", hint=hint, path=(index,))
        points.append((_whole((index, 0), one[0]), _whole((index, 1), one[1])))
    return tuple(points)


def _whole(path: Path, raw: object) -> int:
    value = convert_at(path, as_int, raw)
    assert isinstance(value, int)
    if abs(value) > _MAX_SIDE_PX:
        raise Wrong(f"{value} pixels", hint=f"no image has more than {_MAX_SIDE_PX:,} a side", path=path)
    return value


def _listed(raw: object) -> str:
    return f"a list of {len(raw)}" if isinstance(raw, (list, tuple)) else kind(raw)


def _feather(raw: object) -> int:
    value = _whole((), raw)
    if not 0 <= value <= MAX_FEATHER_PX:
        raise Wrong(f"a feather of {value} pixels", hint=f"write 0 (a hard edge) to {MAX_FEATHER_PX}")
    return value


def _mode(raw: object) -> str:
    text = path_text(raw)
    if text not in MASK_MODES:
        raise Wrong(f"{shown(text)} is no `mask_mode`", hint=suggest(text, MASK_MODES, what="it is one of"))
    return text


_MASK_KEYS: dict[str, Any] = {
    "file": path_text,
    "box": _box,
    "polygon": _polygon,
    "mask_mode": _mode,
    "resize": as_bool,
    "feather": _feather,
}


def _paths(raw: object) -> object:
    if raw is None:
        return None
    if not isinstance(raw, (list, tuple)):
        return (path_text(raw),)
    return tuple(convert_at((index,), path_text, one) for index, one in enumerate(raw))


def _mask(raw: object) -> object:
    return None if raw is None else mask_entry(raw)


def _optional_feather(raw: object) -> object:
    return None if raw is None else _feather(raw)


def _optional_mode(raw: object) -> object:
    return None if raw is None else _mode(raw)


class PrepareSettings(Part):
    """How images are changed before they are uploaded. The files themselves stay as they are."""

    max_side: Annotated[int, Field(ge=16, le=_MAX_SIDE_PX), BeforeValidator(as_int)] | None = Field(
        default=None, description="longer side in pixels at most; smaller images are not enlarged"
    )
    format: Literal["png", "jpeg", "webp"] | None = Field(default=None, description="the format they are sent in")
    quality: Annotated[int, Field(ge=1, le=100), BeforeValidator(as_int)] | None = Field(
        default=None, description="1 to 100, for jpeg and webp; by default 90"
    )

    @model_validator(mode="after")
    def _quality_of_what_has_one(self) -> PrepareSettings:
        if self.quality is not None and self.format == "png":
            raise Wrong(
                "`quality` is for jpeg and webp, and `format` is png",
                hint="remove it, or write `format: webp`",
                path=("quality",),
                at_key=True,
            )
        return self


class EditSettings(Part):
    """What an edit starts from. A prompt's keys win over the job's, one by one."""

    images: Annotated[tuple[str, ...] | None, BeforeValidator(_paths)] = Field(
        default=None,
        description="paths or globs, relative to the manifest; all go into one request, the mask is for the first",
        examples=[["assets/mug.png"]],
    )
    references: Annotated[tuple[str, ...] | None, BeforeValidator(_paths)] = Field(
        default=None, description="more images (a style, a product) after those, whatever level or axis they come from"
    )
    mask: Annotated[MaskEntry | None, BeforeValidator(_mask)] = Field(
        default=None, description="what is to be changed of the first image: a file, a box or a polygon"
    )
    mask_mode: Annotated[MaskMode | None, BeforeValidator(_optional_mode)] = Field(
        default=None,
        description="what of a mask's file is to be changed: the transparent (alpha), the white or the black",
    )
    resize: Bool | None = Field(default=None, description="whether a mask's file may have another size than the image")
    feather: Annotated[int | None, BeforeValidator(_optional_feather)] = Field(
        default=None, description="width of a composite's soft edge in pixels, 0 to 256"
    )
    prepare: PrepareSettings | None = Field(default=None, description="how images are changed before they are sent")
    composite: Bool | None = Field(
        default=None, description="also paste the masked part of each answer onto the original"
    )
    input_fidelity: Text | None = Field(
        default=None, description="low or high, for models that have it", examples=["low", "high"]
    )


def edit_data(edit: EditSettings) -> dict[str, Any]:
    """What was written of an edit, as a user writes it; globs as they are."""
    data: dict[str, Any] = {}
    for key in EditSettings.model_fields:
        if key not in edit.model_fields_set:
            continue
        value = getattr(edit, key)
        if isinstance(value, MaskEntry):
            value = mask_data(value)
        elif isinstance(value, PrepareSettings):
            value = value.model_dump(exclude_none=True)
        elif isinstance(value, tuple):
            value = list(value)
        data[key] = value
    return data
