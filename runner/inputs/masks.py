"""What of a picture is to be changed, as a plane of pixels, and as the PNG that the API takes.

Owns the ways to say it (a file in three modes, a rectangle, a polygon), their checks, and the scaling along with the
picture. Refuses to know caches, identities and the composite.

A plane has the size of the picture, one byte a pixel: 255 is to be changed, 0 stays.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from runner.inputs.preparing import eight_bits
from runner.inputs.reading import SIXTEEN_BITS, Facts, Place, decoding, has_alpha, upright
from runner.inputs.types import BadInput, Mask

if TYPE_CHECKING:
    from PIL import Image

MAX_FEATHER: Final = 256
_MOST_POINTS: Final = 10_000
_FARTHEST: Final = 1_000_000
_WHITE: Final = 128
"""The luminance (0-255) from which on a pixel is white."""

Size = tuple[int, int]


def judge(mask: Mask, image: str, size: Size, place: Place | None, facts: Facts | None) -> None:
    """Refuse a mask that cannot be one for the picture `image` of this size (pixels, upright).

    `place` and `facts` are those of the mask's file, if it has one.

    Raises:
        BadInput: about the mask.
    """
    if (mask.file is not None) + (mask.box is not None) + (mask.polygon is not None) != 1:
        raise _bad("a mask is one of: a file, a box, a polygon", "name exactly one of them")
    if not 0 <= mask.feather <= MAX_FEATHER:
        raise _bad(f"a feather of {mask.feather} pixels is out of range", f"0 to {MAX_FEATHER}")
    if mask.box is not None:
        _judge_box(mask.box, image, size)
    elif mask.polygon is not None:
        _judge_polygon(mask.polygon, image, size)
    elif place is not None and facts is not None:
        _judge_file(mask, image, size, place, facts)


def _bad(message: str, hint: str) -> BadInput:
    return BadInput(message, hint=hint, about="mask")


def _judge_box(box: tuple[int, int, int, int], image: str, size: Size) -> None:
    x, y, width, height = box
    if width < 1 or height < 1:
        raise _bad(f"the box {list(box)} is empty", "a box is [x, y, width, height], in pixels of the image")
    if x < 0 or y < 0 or x + width > size[0] or y + height > size[1]:
        raise _bad(
            f"the box {list(box)} reaches beyond {image}, which is {size[0]}x{size[1]}",
            "a box is [x, y, width, height], in pixels of the image before `prepare`",
        )


def _judge_polygon(points: tuple[tuple[int, int], ...], image: str, size: Size) -> None:
    if len(points) < 3:
        raise _bad(f"the polygon has {len(points)} point{'s' * (len(points) != 1)}", "a polygon has at least three")
    if len(points) > _MOST_POINTS:
        raise _bad(f"the polygon has {len(points)} points", f"{_MOST_POINTS} are the most; use a mask's file instead")
    if any(abs(value) > _FARTHEST for point in points for value in point):
        raise _bad("a point of the polygon lies absurdly far outside", "points are [x, y], in pixels of the image")
    if not _touches(points, size):
        raise _bad(
            f"the polygon lies outside {image}, which is {size[0]}x{size[1]}",
            "points are [x, y], in pixels of the image before `prepare`",
        )


@lru_cache(maxsize=256)
def _touches(points: tuple[tuple[int, int], ...], size: Size) -> bool:
    """Whether a polygon has any pixel of a picture of this size. Drawing it is the one way to know, and takes time."""
    with decoding():
        return _drawn(None, points, size).getbbox() is not None


def _judge_file(mask: Mask, image: str, size: Size, place: Place, facts: Facts) -> None:
    if (facts.width, facts.height) != size and not mask.resize:
        raise place.bad(
            f"is {facts.width}x{facts.height}, and {image} is {size[0]}x{size[1]}: a mask has the size of its image",
            "set `resize: true` to have it scaled",
        )
    if mask.mode != "alpha":
        return
    if facts.lowest_alpha is None:
        raise place.bad(
            "has no transparency, so it would change nothing",
            "transparent means `change here`; for a black and white mask set mask_mode: white_is_edit or black_is_edit",
        )
    if facts.lowest_alpha > 0:
        raise place.bad(
            "has no pixel that is fully transparent, so it would change nothing",
            "make what is to be changed fully transparent",
        )


def is_for_the_api(mask: Mask, facts: Facts, size: Size) -> bool:
    """Whether the file is what the API takes for a picture that is sent in this size, its length apart."""
    return (
        mask.mode == "alpha"
        and facts.format == "png"
        and facts.mode in ("LA", "RGBA")
        and facts.orientation == 1
        and (facts.width, facts.height) == size
    )


def drawn(mask: Mask, size: Size) -> Image.Image:
    """The plane of a rectangle or a polygon on a picture of this size."""
    return _drawn(mask.box, mask.polygon, size)


def _drawn(
    box: tuple[int, int, int, int] | None, polygon: tuple[tuple[int, int], ...] | None, size: Size
) -> Image.Image:
    from PIL import Image, ImageDraw

    plane = Image.new("L", size, 0)
    if box is not None:
        x, y, width, height = box
        plane.paste(255, (x, y, x + width, y + height))
    elif polygon is not None:
        ImageDraw.Draw(plane).polygon(polygon, fill=255)
    return plane


def plane_of(image: Image.Image, mask: Mask, place: Place, facts: Facts, size: Size) -> Image.Image:
    """The plane that a mask's file means for a picture of this size.

    Raises:
        BadInput: nothing would be changed.
    """
    from PIL.Image import Resampling

    image = upright(image, facts.orientation)
    if mask.mode == "alpha":
        plane = image.convert("RGBA").getchannel("A").point([255] + [0] * 255)
    elif mask.mode == "white_is_edit":
        plane = _luminance(image, "black").point([0] * _WHITE + [255] * (256 - _WHITE))
    else:
        plane = _luminance(image, "white").point([255] * _WHITE + [0] * (256 - _WHITE))
    if plane.size != size:
        plane = plane.resize(size, Resampling.NEAREST)
    if plane.getbbox() is None:
        told = {"alpha": "fully transparent", "white_is_edit": "white", "black_is_edit": "black"}[mask.mode]
        raise place.bad(f"has no pixel that is {told}, so it would change nothing", "check the mask, and its mask_mode")
    return plane


def _luminance(image: Image.Image, ground: str) -> Image.Image:
    """Grey of 8 bits; what is transparent shows the ground, which is what stays."""
    from PIL import Image

    if image.mode in SIXTEEN_BITS:
        return eight_bits(image)
    if not has_alpha(image):
        return image.convert("L")
    image = image.convert("RGBA")
    behind = Image.new("RGB", image.size, ground)
    behind.paste(image, mask=image.getchannel("A"))
    return behind.convert("L")


def shrunk(plane: Image.Image, size: Size) -> Image.Image:
    """The plane of the picture at a smaller size: a pixel is to be changed when any part of it is."""
    from PIL.Image import Transpose

    if plane.size == size:
        return plane
    rows = _rows_joined(plane, size[1]).transpose(Transpose.TRANSPOSE)
    return _rows_joined(rows, size[0]).transpose(Transpose.TRANSPOSE)


def _rows_joined(plane: Image.Image, height: int) -> Image.Image:
    """Fewer rows, each of which has what any of the rows has that it touches."""
    from PIL import Image

    width, before = plane.size
    data = memoryview(plane.tobytes())
    found = bytearray()
    for row in range(height):
        joined = 0
        for old in range(row * before // height, -(-(row + 1) * before // height)):
            joined |= int.from_bytes(data[old * width : (old + 1) * width], "big")
        found += joined.to_bytes(width, "big")
    return Image.frombytes("L", (width, height), bytes(found))


def png(plane: Image.Image) -> bytes:
    """The plane as the API takes it: what is fully transparent is to be changed. All else is black."""
    from PIL import Image

    picture = Image.new("RGBA", plane.size, (0, 0, 0, 255))
    picture.putalpha(plane.point(range(255, -1, -1)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()
