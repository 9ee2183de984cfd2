"""Pastes the masked part of an answer back onto its original, with a soft edge: the composite.

Owns the weight of each pixel and the colours on both sides. Refuses to know where the composite is written, and to
touch the answer's file. It runs in a process of its own, so everything that goes in or comes out can be pickled.

Outside the mask the weight is 0 and the pixel is the original's, bit for bit. With a feather of f pixels the weight
rises over the f pixels inside the edge, and is full for all that lie deeper. The border of the image is no edge.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.inputs import masks
from runner.inputs.preparing import fitting, plain
from runner.inputs.reading import Facts, Place, decoding, digest, facts_of, glance, load, open_file, upright
from runner.inputs.types import BadInput, Mask

if TYPE_CHECKING:
    from PIL import Image


def composite_recipe(image: str, facts: Facts, mask: Mask, mask_facts: Facts | None) -> str:
    """What `paste` has to know, as canonical JSON: the original, the mask, the feather."""
    told = {name: value for name, value in asdict(mask).items() if value is not None}
    if mask_facts is None:
        told = {name: told[name] for name in ("box", "polygon", "feather") if name in told}
    else:
        told["sha256"] = mask_facts.sha256
    recipe = {"image": {"path": image, "sha256": facts.sha256}, "mask": told}
    return json.dumps(recipe, sort_keys=True, separators=(",", ":"))


def paste(base: Path, recipe: str, answer: Path) -> bytes:
    """The composite as a PNG: `answer` within the mask, the original outside, at the original's resolution.

    `base` is the manifest's folder, `recipe` what `Inputs.composite` returned.

    Raises:
        BadInput: original or mask are missing or no longer what they were, or the answer cannot be read.
    """
    try:
        told = json.loads(recipe)
        image_name, image_sha256, mask = str(told["image"]["path"]), told["image"]["sha256"], _mask(told["mask"])
        mask_sha256 = told["mask"].get("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"what is on record of the composite cannot be read: {error}", hint="plan the job again"
        ) from None
    original_place = Place(base / image_name, image_name)
    with decoding():
        original, facts = _opened(original_place, image_sha256)
        size = facts.width, facts.height
        if mask.file is not None:
            mask_place = Place(base / mask.file, mask.file, "mask")
            file, mask_facts = _opened(mask_place, mask_sha256)
            masks.judge(mask, image_name, size, mask_place, mask_facts)
            plane = masks.plane_of(file, mask, mask_place, mask_facts, size)
        else:
            masks.judge(mask, image_name, size, None, None)
            plane = masks.drawn(mask, size)
        received, received_facts = _opened(Place(answer, answer.name), None)
        return _pasted(
            upright(original, facts.orientation),
            upright(received, received_facts.orientation),
            weights(plane, mask.feather),
        )


def _mask(told: dict[str, Any]) -> Mask:
    found = {name: value for name, value in told.items() if name != "sha256"}
    if "box" in found:
        x, y, width, height = found["box"]
        found["box"] = x, y, width, height
    if "polygon" in found:
        found["polygon"] = tuple((x, y) for x, y in found["polygon"])
    return Mask(**found)


def _opened(place: Place, sha256: str | None) -> tuple[Image.Image, Facts]:
    with open_file(place) as file:
        glance(file, place)
        found = digest(file, place)
        if sha256 is not None and found != sha256:
            raise place.bad("has changed since it was planned", "put the old file back, or plan and run again")
        image = load(file, place)
        return image, facts_of(image, found, os.fstat(file.fileno()).st_size)


def weights(plane: Image.Image, feather: int) -> Image.Image:
    """How much of the answer each pixel takes (0-255), with a soft edge of `feather` pixels inside the plane."""
    from PIL import Image

    half, odd = divmod(feather, 2)
    found = _blurred(_eroded(plane, half), half)
    if odd:
        # An edge of an odd width has its middle within a pixel: halfway between two edges.
        found = Image.blend(found, _blurred(_eroded(plane, half + 1), half), 0.5)
    return found


def _eroded(plane: Image.Image, by: int) -> Image.Image:
    """What lies deeper in the plane than `by` pixels: its whole neighbourhood is in it."""
    from PIL.ImageFilter import BoxBlur

    for radius in ((by, 0), (0, by)) if by else ():
        plane = plane.filter(BoxBlur(radius)).point([0] * 255 + [255])
    return plane


def _blurred(plane: Image.Image, by: int) -> Image.Image:
    from PIL.ImageFilter import BoxBlur

    return plane.filter(BoxBlur(by)) if by else plane


def _pasted(original: Image.Image, answer: Image.Image, weight: Image.Image) -> bytes:
    from PIL.Image import Resampling

    ground, profile = plain(original, original.info.get("icc_profile"))
    layer, layer_profile = plain(answer, answer.info.get("icc_profile"))
    mode = "RGBA" if "A" in ground.mode + layer.mode else "RGB"
    ground, layer = ground.convert(mode), layer.convert(mode)
    profile, layer_profile = fitting(profile, mode), fitting(layer_profile, mode)
    if layer.size != ground.size:
        layer = layer.resize(ground.size, Resampling.LANCZOS)
    layer = _in_colours_of(layer, layer_profile, profile)
    ground.paste(layer, mask=weight)
    ground.info = {}
    buffer = io.BytesIO()
    # Level 3 takes half the time of the default, and of a photograph makes no more bytes.
    ground.save(buffer, "PNG", icc_profile=profile, compress_level=3)
    return buffer.getvalue()


def _in_colours_of(layer: Image.Image, profile: bytes | None, wanted: bytes | None) -> Image.Image:
    """The answer in the colour space of the original; as it is where that cannot be done. No profile means sRGB."""
    from PIL import ImageCms

    if profile == wanted:
        return layer
    try:
        old, new = (
            ImageCms.ImageCmsProfile(io.BytesIO(one)) if one else ImageCms.createProfile("sRGB")
            for one in (profile, wanted)
        )
        if all(not one or is_srgb(one) for one in (profile, wanted)):
            return layer
        found = ImageCms.profileToProfile(layer.convert("RGB"), old, new, outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return layer
    if found is None:
        return layer
    if layer.mode == "RGBA":
        found.putalpha(layer.getchannel("A"))
    return found


def is_srgb(profile: bytes) -> bool:
    """Whether a profile says that it is sRGB.

    Raises:
        PyCMSError: it is broken; OSError, TypeError or ValueError with some versions.
    """
    from PIL import ImageCms

    return "srgb" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).lower()
