"""Changes a picture before it is sent: upright, RGB, smaller, another format.

Owns what is to be changed of a picture, the identity that follows from it, and how. Refuses to know caches, masks and
where files lie.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Final

from runner.inputs.reading import SIXTEEN_BITS, Facts, Place, decoding, has_alpha, load, upright
from runner.inputs.types import Prepare

if TYPE_CHECKING:
    from PIL import Image

_QUALITY: Final = 95
"""Of jpeg and webp that are encoded again although nobody asked for it."""
_WEBP_MAX_SIDE: Final = 16_383
_JPEG_MAX_SIDE: Final = 65_500
_MAX_SIDES: Final = {"webp": _WEBP_MAX_SIDE, "jpeg": _JPEG_MAX_SIDE}


@dataclass(frozen=True, slots=True)
class Change:
    """What is sent in place of the file: pixels, format, and the quality of the encoder (jpeg and webp)."""

    width: int
    height: int
    format: str
    quality: int | None


def sent_size(facts: Facts, prepare: Prepare | None) -> tuple[int, int]:
    """Width and height in pixels at which the picture is sent."""
    longer = max(facts.width, facts.height)
    most = prepare.max_side if prepare is not None else None
    if most is None or longer <= most:
        return facts.width, facts.height
    # In whole numbers, half up: every machine rounds alike.
    return tuple(max(1, (2 * side * most + longer) // (2 * longer)) for side in (facts.width, facts.height))  # type: ignore[return-value] # two sides in, two out


def change(facts: Facts, prepare: Prepare | None) -> Change | None:
    """What has to be changed of the picture; None when the file is sent as it is."""
    width, height = sent_size(facts, prepare)
    form = (prepare.format if prepare is not None else None) or facts.format
    asked = (width, height) != (facts.width, facts.height) or form != facts.format
    if not asked and facts.orientation == 1 and facts.mode != "CMYK":
        return None
    quality = prepare.quality if asked and prepare is not None else _QUALITY
    return Change(width, height, form, None if form == "png" else quality)


def identity(**parts: object) -> str:
    """The identity of something that is made: over what it is made of, never over the bytes that come of it."""
    text = json.dumps({"input": 1, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def change_identity(facts: Facts, what: Change) -> str:
    """The identity of the picture once it is changed."""
    return identity(source=facts.sha256, **asdict(what))


def changed(file: IO[bytes], place: Place, facts: Facts, what: Change) -> bytes:
    """The changed picture, encoded.

    Raises:
        BadInput: the format cannot hold so many pixels, or the file has become another meanwhile and is broken.
    """
    if max(what.width, what.height) > _MAX_SIDES.get(what.format, what.width + what.height):
        raise place.bad(
            f"is {what.width}x{what.height}: a {what.format} has at most {_MAX_SIDES[what.format]} pixels a side",
            "set max_side, or another format, under `prepare`",
        )
    with decoding():
        return _encoded(load(file, place), facts, what)


def _encoded(image: Image.Image, facts: Facts, what: Change) -> bytes:
    from PIL.Image import Resampling

    profile = image.info.get("icc_profile")
    smaller = (what.width, what.height) != (facts.width, facts.height)
    image = upright(image, facts.orientation)
    keeps_mode = what.format == "png" and not smaller and image.mode != "CMYK"
    if not keeps_mode:
        image, profile = plain(image, profile)
    if smaller:
        image = image.resize((what.width, what.height), Resampling.LANCZOS)
    if what.format == "jpeg":
        image = on_white(image)
    elif what.format == "webp":
        image = image.convert("RGBA" if has_alpha(image) else "RGB")
    options: dict[str, object] = {"icc_profile": fitting(profile, image.mode)}
    if what.quality is not None:
        options["quality"] = what.quality
    if what.format == "jpeg":
        options |= {"subsampling": 0, "optimize": True}
    elif what.format == "webp":
        options |= {"method": 4}
    buffer = io.BytesIO()
    # What else a camera has written about its picture (place, time, a preview) is nobody's business.
    image.info = {name: image.info[name] for name in ("transparency",) if name in image.info}
    image.save(buffer, what.format.upper(), exif=b"", **options)
    return buffer.getvalue()


def plain(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bytes | None]:
    """The picture as L, LA, RGB or RGBA of 8 bits, and the profile that its colours are of from then on."""
    if image.mode == "CMYK":
        return _from_cmyk(image, profile), None
    if image.mode in SIXTEEN_BITS:
        return eight_bits(image), profile
    if image.mode == "1" and not has_alpha(image):
        return image.convert("L"), profile
    if has_alpha(image) and image.mode not in ("LA", "RGBA"):
        return image.convert("RGBA"), profile
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        return image.convert("RGB"), profile
    return image, profile


def eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8: the upper half of each value. Pillow's own conversion has changed over time."""
    from PIL import Image

    if image.mode == "I":
        return image.point(lambda value: value * (1 / 256)).convert("L")
    upper = 0 if image.mode == "I;16B" else 1
    return Image.frombytes("L", image.size, image.tobytes()[upper::2])


def on_white(image: Image.Image) -> Image.Image:
    """The picture without transparency."""
    from PIL import Image

    if not has_alpha(image):
        return image
    image = image.convert("RGBA")
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def fitting(profile: bytes | None, mode: str) -> bytes | None:
    """The profile, unless it is one for another kind of colours: grey became RGB on the way."""
    kind = b"GRAY" if mode in ("1", "L", "LA", *SIXTEEN_BITS) else b"RGB "
    return profile if profile and profile[16:20] == kind else None


def _from_cmyk(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Printing colours as sRGB: by their profile, or roughly where there is none that can be used."""
    from PIL import ImageCms

    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            found = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if found is not None:
                return found
        except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
            pass
    return image.convert("RGB")
