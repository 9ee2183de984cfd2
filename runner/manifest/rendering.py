"""The keys of `renditions`: pictures that are made of every image, cut to a size, at no cost.

Owns their shapes, and what goes with what. Refuses to know pixels: a rendition comes out of here as a recipe.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from runner.manifest.naming import is_device_name, slug
from runner.manifest.parts import Part, Text
from runner.manifest.problems import Wrong, shown, suggest
from runner.manifest.values import as_int, as_text
from runner.renditions.recipe import MAX_SIDE, RESERVED, Gravity, Recipe

MAX_RENDITIONS = 32
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_HEX = re.compile(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})")
_TRANSPARENT = "transparent"


def _safe_name(name: str) -> str:
    if not _NAME.fullmatch(name) or is_device_name(name) or name[-1] == ".":
        raise Wrong(
            f"the rendition's name {shown(name)} cannot be a folder's name",
            hint=f"for example {slug(name, most=64) or 'small'}; letters, digits, . _ - are allowed",
        )
    if name.lower() in RESERVED:
        raise Wrong(f"the name {shown(name)} is taken by what runner makes itself", hint="choose another name")
    return name


def _colour(raw: object) -> str:
    """A colour as #rrggbb, however it was written, or `transparent`."""
    text = str(as_text(raw)).strip().lower()
    if _HEX.fullmatch(text):
        return text if len(text) == 7 else "#" + "".join(2 * digit for digit in text[1:])
    if text == _TRANSPARENT:
        return text
    from PIL import ImageColor

    if text not in ImageColor.colormap:
        hint = suggest(text, [*sorted(ImageColor.colormap), _TRANSPARENT], what="write #rrggbb, or a colour's name")
        raise Wrong(f"{shown(text)} is no colour", hint=hint)
    red, green, blue = ImageColor.getrgb(text)[:3]
    return f"#{red:02x}{green:02x}{blue:02x}"


Pixels = Annotated[int, Field(ge=1, le=MAX_SIDE), BeforeValidator(as_int)]


class RenditionSettings(Part):
    """One picture that is made of every image: its size in pixels, its format, and what is kept."""

    name: Annotated[Text, AfterValidator(_safe_name)] = Field(
        description="names the rendition's folder", examples=["thumb", "mail"]
    )
    width: Pixels | None = Field(default=None, description="pixels; with one of the two left out, the other decides")
    height: Pixels | None = Field(default=None, description="pixels")
    fit: Literal["cover", "contain", "pad", "inside"] = Field(
        default="inside",
        description="cover: fill the box and crop; contain: all of the image, as large as the box allows; "
        "pad: that, filled up to the box; inside: contain, but never enlarged",
    )
    format: Literal["png", "jpeg", "webp"] = Field(default="webp", description="the format it is written in")
    quality: Annotated[int, Field(ge=1, le=100), BeforeValidator(as_int)] | None = Field(
        default=None, description="1 to 100, for jpeg (by default 85) and webp (80)"
    )
    background: Annotated[str, BeforeValidator(_colour)] | None = Field(
        default=None,
        description="#rrggbb or a colour's name: what shows through and around; by default transparent, for jpeg white",
        examples=["#ffffff", "white"],
    )
    gravity: Gravity = Field(
        default="center",
        description="which part of the image `cover` keeps: a side, a corner, or the part with most in it (entropy)",
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        sides = [name for name in ("width", "height") if getattr(self, name) is not None]
        if not sides:
            hint = "write `width: 512`, `height: 512`, or both"
            raise Wrong(f"the rendition {shown(self.name)} has no size", hint=hint)
        if self.fit in ("cover", "pad") and len(sides) < 2:
            raise Wrong(
                f"`fit: {self.fit}` needs width and height",
                hint=f"add `{'height' if sides == ['width'] else 'width'}`, or write `fit: inside`",
                path=("fit",),
            )
        if self.quality is not None and self.format == "png":
            raise Wrong(
                "`quality` is for jpeg and webp, and `format` is png",
                hint="remove it, or write `format: webp`",
                path=("quality",),
                at_key=True,
            )
        if self.background == _TRANSPARENT and self.format == "jpeg":
            raise Wrong(
                "a jpeg has no transparency",
                hint="write a colour, or `format: webp`",
                path=("background",),
            )
        if "gravity" in self.model_fields_set and self.fit != "cover":
            raise Wrong(
                f"`gravity` says what is kept when something is cut off, and `fit: {self.fit}` cuts off nothing",
                hint="remove it, or write `fit: cover`",
                path=("gravity",),
                at_key=True,
            )
        return self

    @property
    def recipe(self) -> Recipe:
        """How it is made."""
        return Recipe(
            name=self.name,
            width=self.width,
            height=self.height,
            fit=self.fit,
            format=self.format,
            quality=self.quality,
            background=None if self.background == _TRANSPARENT else self.background,
            gravity=self.gravity,
        )


def _unlike(found: tuple[RenditionSettings, ...]) -> tuple[RenditionSettings, ...]:
    """Folders' names, on every file system: `Thumb` and `thumb` are one."""
    if len(found) > MAX_RENDITIONS:
        raise Wrong(
            f"{len(found)} renditions", hint=f"at most {MAX_RENDITIONS}: every image is made in each", at_key=True
        )
    names: set[str] = set()
    for index, one in enumerate(found):
        if one.name.lower() in names:
            path = (index, "name")
            raise Wrong(f"two renditions have the name {shown(one.name)}", hint="give each its own", path=path)
        names.add(one.name.lower())
    return found


Renditions = Annotated[tuple[RenditionSettings, ...], AfterValidator(_unlike)]


def renditions_data(renditions: Sequence[RenditionSettings]) -> list[dict[str, Any]] | None:
    """Renditions as a user writes them, with their defaults; None without any."""
    found = []
    for one in renditions:
        data = one.model_dump(exclude_none=True)
        if one.fit != "cover":
            del data["gravity"]
        found.append(data)
    return found or None
