"""How a rendition is made of an asset: a value that can be written down, compared and hashed.

Owns the words of a recipe. Refuses to touch pixels.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final, Literal

Fit = Literal["cover", "contain", "pad", "inside"]
Format = Literal["png", "jpeg", "webp"]
Gravity = Literal[
    "center", "north", "south", "east", "west", "northeast", "northwest", "southeast", "southwest", "entropy"
]
MAX_SIDE: Final = 8192
"""No rendition is wider or higher, in pixels; also where a recipe names one side only."""
RESERVED: Final = ("composite", "thumbnail")
"""Names that no rendition of a manifest can have: what is made anyhow has them."""

_VERSION = 1
"""Changes when the same recipe would come to show something else."""
ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One rendition of a manifest, or the gallery's thumbnail; sizes in pixels.

    One of `width` and `height` may be None, but for `cover` and `pad`. `gravity` is which part of the image `cover`
    keeps. `background` (#rrggbb) None keeps transparency where the format has it, and is white where not.
    """

    name: str
    width: int | None = None
    height: int | None = None
    fit: Fit = "inside"
    format: Format = "webp"
    quality: int | None = None
    background: str | None = None
    gravity: Gravity = "center"

    @property
    def ending(self) -> str:
        """What its files' names end with."""
        return ENDINGS[self.format]

    def told(self) -> str:
        """It as canonical JSON, for `recipe_of`; without its name, which changes no pixel."""
        words = {name: value for name, value in asdict(self).items() if name != "name"}
        return json.dumps({"version": _VERSION, **words}, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 in hex: equal for recipes that make the same of an asset."""
        return hashlib.sha256(self.told().encode()).hexdigest()


def recipe_of(told: str) -> Recipe:
    """The recipe that was `told`.

    Raises:
        ValueError: it is none.
    """
    words = json.loads(told)
    words.pop("version")
    return Recipe(name="", **words)
