"""Makes the renditions of an asset: upright, in sRGB, cut to a size, encoded.

Owns the geometry of each fit, what becomes of transparency, and the encoders' settings. Refuses to know where the
pictures go. What comes of a recipe depends on nothing but the asset, the recipe and the versions of the libraries: not
on the recipes that are asked for beside it.

Nothing of the asset's metadata is carried over: a rendition has no C2PA credentials, and would break them if it had.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from runner.inputs.pasting import is_srgb
from runner.inputs.preparing import fitting, plain
from runner.inputs.reading import MAX_PIXELS, Place, decoding, glance, open_file, orientation_of, upright
from runner.renditions.recipe import MAX_SIDE, Recipe

if TYPE_CHECKING:
    from PIL import Image, ImageCms

QUALITIES: Final = {"jpeg": 85, "webp": 80}
"""Of recipes that name none."""
_GAP: Final = 2.0
"""A picture that is so many times as large as wanted, or more, is averaged down to that before the filter: twice as
fast, and further from the filter alone than 48 dB only where the picture is noise."""
_ENTROPY_SIDE: Final = 256
"""Entropy is measured on a picture of so many pixels a side: finer noise says nothing of what is shown."""
_ENTROPY_STEPS: Final = 32
_ENCODERS: Final[dict[str, dict[str, Any]]] = {
    # `optimize` takes eight times as long for a twelfth fewer bytes.
    "png": {"compress_level": 6},
    "jpeg": {"subsampling": "4:2:0", "progressive": True, "optimize": True},
    "webp": {"method": 4, "lossless": False, "alpha_quality": 100, "exact": False},
}
_LEFT: Final = {"west": 0.0, "northwest": 0.0, "southwest": 0.0, "east": 1.0, "northeast": 1.0, "southeast": 1.0}
_TOP: Final = {"north": 0.0, "northwest": 0.0, "northeast": 0.0, "south": 1.0, "southwest": 1.0, "southeast": 1.0}

Size = tuple[int, int]
Box = tuple[float, float, float, float]


def render(asset: Path, recipes: Sequence[Recipe]) -> list[bytes]:
    """The renditions of `asset`, encoded, in the order of `recipes`. It is decoded once for all of them.

    (A JPEG is decoded once for each power of two by which its decoder makes it smaller.)

    Raises:
        BadInput: the asset is missing, or is no picture that can be read.
    """
    with _reading(asset) as file:
        return [_encoded(picture, recipe) for picture, recipe in zip(_cut(file, recipes), recipes, strict=True)]


def picture_of(asset: Path, recipe: Recipe) -> Image.Image:
    """What a recipe shows of `asset`, not encoded; its format says only whether there can be transparency.

    Raises:
        BadInput: as `render`.
    """
    with _reading(asset) as file:
        (found,) = _cut(file, [recipe])
        return found


def sized(size: Size, recipe: Recipe) -> Size:
    """Width and height in pixels of the picture, less any padding, that a recipe makes of one of `size`."""
    box = recipe.width or MAX_SIDE, recipe.height or MAX_SIDE
    if recipe.fit == "cover":
        return box
    if recipe.fit == "inside" and size[0] <= box[0] and size[1] <= box[1]:
        return size
    # In whole numbers, half up: every machine rounds alike.
    if box[0] * size[1] <= box[1] * size[0]:
        return box[0], max(1, (2 * size[1] * box[0] + size[0]) // (2 * size[0]))
    return max(1, (2 * size[0] * box[1] + size[1]) // (2 * size[1])), box[1]


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture of L, LA, RGB or RGBA whose colours are those of `profile`, in sRGB; as it is where that fails."""
    bands = image.getbands()
    profile = fitting(profile, image.mode)
    transform = _transform(profile, bands[0] == "L") if profile else None
    if transform is None:
        return image
    from PIL import ImageCms

    solid = image.convert("L" if bands[0] == "L" else "RGB") if bands[-1] == "A" else image
    try:
        found = ImageCms.applyTransform(solid, transform)
    except (ImageCms.PyCMSError, ValueError):
        return image
    if found is None:
        return image
    if bands[-1] == "A":
        found.putalpha(image.getchannel("A"))
    return found


@lru_cache(maxsize=8)
def _transform(profile: bytes, is_grey: bool) -> ImageCms.ImageCmsTransform | None:
    from PIL import ImageCms

    try:
        if is_srgb(profile):
            return None
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "L" if is_grey else "RGB", "RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return None


@contextmanager
def _reading(asset: Path) -> Iterator[IO[bytes]]:
    """The asset's file, with Pillow to oneself; whatever goes wrong with it is told as BadInput."""
    place = Place(asset, asset.name)
    if not asset.exists():
        raise place.bad("is missing", "`runner verify` says which images are lost")
    with open_file(place) as file:
        glance(file, place)
        with decoding():
            try:
                yield file
            except MemoryError:
                raise place.bad("takes more memory than there is", "make fewer or smaller renditions") from None
            except Exception as error:  # a decoder that meets damage raises whatever it likes
                raise place.bad(_told(error), "look at it with `runner verify`") from None


def _cut(file: IO[bytes], recipes: Sequence[Recipe]) -> Iterator[Image.Image]:
    decoded: dict[int, _Decoded] = {}
    header = _opened(file)
    turned = orientation_of(header) >= 5 if header.format == "JPEG" else False
    size = header.size[::-1] if turned else header.size
    for recipe in recipes:
        scale = _scale(size, recipe) if header.format == "JPEG" else 1
        if scale not in decoded:
            decoded[scale] = _Decoded(file, scale)
        yield decoded[scale].cut(recipe)


def _opened(file: IO[bytes]) -> Image.Image:
    from PIL import Image

    file.seek(0)
    image = Image.open(file, formats=["PNG", "JPEG", "WEBP"])
    if image.width * image.height > MAX_PIXELS:
        raise _TooMany
    return image


def _told(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, (Image.DecompressionBombError, _TooMany)):
        return f"has too many pixels: {MAX_PIXELS // 1_000_000} million are the most"
    if isinstance(error, UnidentifiedImageError):
        return "is broken: its beginning is not that of a picture"
    return f"is broken: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


class _TooMany(Exception):
    """A picture that is not decoded."""


def _scale(size: Size, recipe: Recipe) -> int:
    """By how much a JPEG's decoder may make the picture smaller, so that twice what is wanted is left."""
    wanted = sized(size, recipe)
    least = min(size[0] / wanted[0], size[1] / wanted[1]) / 2
    return next((scale for scale in (8, 4, 2) if scale <= least), 1)


class _Decoded:
    """An asset's pixels, upright, with premultiplied alpha, made smaller by `scale` while they were decoded."""

    def __init__(self, file: IO[bytes], scale: int) -> None:
        image = _opened(file)
        size = image.size
        if scale > 1:
            image.draft(None, (size[0] // scale, size[1] // scale))
        orientation = orientation_of(image)
        self._size = size[::-1] if orientation >= 5 else size
        pixels, self._profile = plain(image, image.info.get("icc_profile"))
        pixels.load()
        pixels = upright(pixels, orientation)
        if pixels.mode in ("LA", "RGBA"):
            solid = pixels.getchannel("A").getextrema() == (255, 255)
            pixels = pixels.convert(pixels.mode[:-1] if solid else pixels.mode[:-1] + "a")
        self._pixels = pixels

    def cut(self, recipe: Recipe) -> Image.Image:
        """What the recipe shows, in sRGB, with the transparency that it keeps."""
        from PIL import Image

        size = sized(self._size, recipe)
        found = self._pixels.resize(size, Image.Resampling.LANCZOS, self._box(recipe, size), reducing_gap=_GAP)
        if found.mode.endswith("a"):
            found = found.convert(found.mode[:-1] + "A")
        found = in_srgb(found, self._profile)
        background = recipe.background or ("#ffffff" if recipe.format == "jpeg" else None)
        canvas = (recipe.width or 0, recipe.height or 0) if recipe.fit == "pad" else size
        if canvas == size and (background is None or found.mode[-1] != "A"):
            return found
        return _on(found, canvas, background)

    def _box(self, recipe: Recipe, size: Size) -> Box:
        """The part of the pixels that is shown."""
        whole, pixels = self._size, self._pixels.size
        if recipe.fit != "cover":
            return 0, 0, *pixels
        # The largest part with the proportions of the rendition: one of its sides is the picture's.
        factor = min(whole[0] / size[0], whole[1] / size[1])
        share = min(1.0, size[0] * factor / whole[0]), min(1.0, size[1] * factor / whole[1])
        if recipe.gravity == "entropy":
            left, top = busiest(self._pixels, share)
        else:
            left, top = _LEFT.get(recipe.gravity, 0.5), _TOP.get(recipe.gravity, 0.5)
        width, height = share[0] * pixels[0], share[1] * pixels[1]
        x, y = left * (pixels[0] - width), top * (pixels[1] - height)
        # No sum of rounded parts may lie outside by its last bit.
        return x, y, min(x + width, pixels[0]), min(y + height, pixels[1])


def busiest(image: Image.Image, share: tuple[float, float]) -> tuple[float, float]:
    """Where the window that takes `share` of each side has most entropy, as parts (0-1) of the room that it has.

    Of several alike it is the one nearest to the middle.
    """
    factor = max(1, max(image.size) // _ENTROPY_SIDE)
    small = image.reduce(factor)
    if small.mode.endswith("a"):
        small = small.convert(small.mode[:-1] + "A").convert("RGBA")
        small = _on(small, small.size, "#ffffff")
    small = small.convert("L")
    width, height = (max(1, round(part * side)) for part, side in zip(share, small.size, strict=True))
    room = small.width - width, small.height - height
    best, where = (-1.0, 0.0), (0.5, 0.5)
    for step in range(_ENTROPY_STEPS + 1):
        part = step / _ENTROPY_STEPS
        x, y = round(part * room[0]), round(part * room[1])
        entropy = round(small.crop((x, y, x + width, y + height)).entropy(), 6)
        if (entropy, -abs(part - 0.5)) > best:
            best, where = (entropy, -abs(part - 0.5)), (part, part)
    return where


def _on(image: Image.Image, canvas: Size, background: str | None) -> Image.Image:
    """The picture in the middle of a canvas: transparent, or of a colour that also shows through it."""
    from PIL import Image

    has_alpha = image.mode[-1] == "A"
    image = image.convert("RGBA" if has_alpha else "RGB")
    at = (canvas[0] - image.width) // 2, (canvas[1] - image.height) // 2
    if background is None:
        ground = Image.new("RGBA", canvas, (0, 0, 0, 0))
        ground.paste(image, at)
    else:
        ground = Image.new("RGB", canvas, background)
        ground.paste(image, at, image.getchannel("A") if has_alpha else None)
    return ground


def _encoded(image: Image.Image, recipe: Recipe) -> bytes:
    options = dict(_ENCODERS[recipe.format])
    if recipe.format in QUALITIES:
        options["quality"] = recipe.quality or QUALITIES[recipe.format]
    if recipe.format == "webp" and image.mode in ("L", "LA"):
        image = image.convert("RGB" if image.mode == "L" else "RGBA")
    buffer = io.BytesIO()
    image.info = {}
    image.save(buffer, recipe.format.upper(), **options)
    return buffer.getvalue()
