"""Draws the result of an edit, in which one can see what it was made from: base, mask, references, and the words.

Owns what an edit looks like. Refuses to know files' formats, requests and money. As with a real provider, the part that
was not to be edited does not come back untouched: about 1 % of its pixels are changed, some of them by a lot.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageOps

from runner.simulator import draw, pictures
from runner.simulator.draw import Box, Sketch
from runner.simulator.intake import Files

_STRAY_SHARE = 0.01
_MOST_LEVELS = 220
_GRID = 48
"""How finely a room for the words is looked for inside a mask."""
_LEAST_SHARE = 0.16
"""A room that is narrower than this share of the picture is too small to read anything in."""


def paint(sketch: Sketch, files: Files) -> Image.Image:
    """The picture: mode RGB, or RGBA where it is to be transparent. Equal sketches and files give equal pixels.

    With a mask only its part is drawn anew, words and references included; without one the whole base is changed.

    Raises:
        Problem: a file proves broken when it is decoded.
    """
    # Pictures, not secrets: the generator has to be repeatable.
    chance = random.Random(sketch.seed)  # noqa: S311
    size = (sketch.width, sketch.height)
    base = pictures.covering(files.images[0], *size)
    alpha = base.getchannel("A") if base.mode == "RGBA" else None
    picture = Image.new("RGB", size, "white")
    picture.paste(base, mask=alpha)
    region = pictures.to_be_edited(files.mask, *size) if files.mask is not None else None
    changed = _changed(picture, sketch, chance, is_part=region is not None)
    room = _room(region) if region is not None else (0, 0, *size)
    if room is not None:
        card = _inscribe(changed, sketch.words, sketch.caption, files.images[1:], room)
    if region is not None:
        picture.paste(changed, mask=region)
        _stray(picture, region, chance)
    else:
        picture = changed
    if room is None:
        # Too small a mask to read anything in: the corner has to do.
        corner = (0, size[1] - size[1] // 5, size[0] * 2 // 5, size[1])
        card = _inscribe(picture, "", sketch.caption, files.images[1:], corner)
    if sketch.transparent:
        picture.putalpha(_alpha(sketch, alpha, region, card))
    return picture


def _changed(picture: Image.Image, sketch: Sketch, chance: random.Random, *, is_part: bool) -> Image.Image:
    """`picture` in colours of another kind; a part of one turns into its negative, under stripes."""
    grey = ImageOps.autocontrast(picture.convert("L"), cutoff=1)
    if is_part:
        grey = ImageOps.invert(grey)
    grey.putpalette(draw.ramp(chance))
    changed = Image.blend(picture, grey.convert("RGB"), 0.9 if is_part else 0.72)
    width, height = picture.size
    period = max(6, round(min(width, height) / (6 + 6 * draw.DETAIL.get(sketch.quality, 3))))
    stripes = Image.new("L", picture.size, 0)
    pen = ImageDraw.Draw(stripes)
    slant = height if chance.random() < 0.5 else -height
    for x in range(-height, width + height, period):
        pen.line((x, 0, x + slant, height), fill=88 if is_part else 40, width=max(1, period // 3))
    changed.paste("white" if chance.random() < 0.5 else "black", mask=stripes)
    return changed


def _room(region: Image.Image) -> Box | None:
    """The largest upright rectangle inside `region`, or None where it is too small to write in."""
    width, height = region.size
    # A cell counts when all of it is to be edited.
    whole = region.resize((_GRID, _GRID), Image.Resampling.BOX).point([0] * 255 + [1]).tobytes()
    best: tuple[float, Box] | None = None
    columns = [0] * _GRID
    for row in range(_GRID):
        for column in range(_GRID):
            columns[column] = columns[column] + 1 if whole[row * _GRID + column] else 0
        for left in range(_GRID):
            tall = columns[left]
            for right in range(left, _GRID):
                tall = min(tall, columns[right])
                if not tall:
                    break
                area = tall * (right - left + 1)
                if best is None or area > best[0]:
                    best = area, (left, row + 1 - tall, right + 1, row + 1)
    if best is None:
        return None
    left, top, right, bottom = best[1]
    box = (left * width // _GRID, top * height // _GRID, right * width // _GRID, bottom * height // _GRID)
    least = min(width, height) * _LEAST_SHARE
    return box if min(box[2] - box[0], box[3] - box[1]) >= least else None


def _inscribe(image: Image.Image, words: str, caption: str, references: Sequence[BinaryIO], room: Box) -> Box:
    """Writes the words at the foot of `room`, sets the references in a row above them, and gives the card's box."""
    card = draw.write(image, words, caption, room)
    if not references:
        return card
    left, _, right, _ = card
    gap = max(1, (right - left) // 120)
    side = min((right - left + gap) // len(references) - gap, (card[1] - room[1]) * 2 // 3, (right - left) // 6)
    if side < 4:
        return card
    x, y = left, card[1] - gap - side
    for file in references:
        # One after another: of many large references only one is decoded at a time.
        image.paste("white", (x - 1, y - 1, x + side + 1, y + side + 1))
        thumbnail = pictures.covering(file, side, side)
        image.paste(thumbnail, (x, y), thumbnail if thumbnail.mode == "RGBA" else None)
        x += side + gap
    return left, y, right, card[3]


def _stray(picture: Image.Image, region: Image.Image, chance: random.Random) -> None:
    """Changes single pixels outside `region`: most of them a little, a few by up to 220 levels."""
    width, height = picture.size
    pixels, inside = picture.load(), region.load()
    assert pixels is not None and inside is not None
    for _ in range(round(width * height * _STRAY_SHARE)):
        x, y = int(chance.random() * width), int(chance.random() * height)
        levels = 1 + int((_MOST_LEVELS - 1) * chance.random() ** 4 + 0.5)
        if not inside[x, y]:
            bands = pixels[x, y]
            assert isinstance(bands, tuple)
            pixels[x, y] = tuple(min(255, v + levels) if v < 128 else max(0, v - levels) for v in bands)


def _alpha(sketch: Sketch, alpha: Image.Image | None, region: Image.Image | None, card: Box) -> Image.Image:
    """What is transparent: what the base has so, or else what surrounds the vignette; nothing that was drawn anew."""
    if alpha is None or alpha.getextrema() == (255, 255):
        return draw.vignette(sketch, card)
    if region is not None:
        alpha.paste(255, mask=region)
    alpha.paste(255, card)
    return alpha
