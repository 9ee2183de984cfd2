"""Draws the simulator's pictures: a scene, the prompt's words, and a caption that says it is simulated.

Owns what a picture looks like. Refuses to know files, formats and requests: it gets words and numbers and gives pixels.

A picture is drawn in grey at twice its size, reduced, and only then coloured through a palette. That costs a third of
drawing in RGB, and edges come out smooth because every value between two greys is a colour of the same ramp. The kind
of scene and its colours depend on the seed alone: a finer quality, or another size, shows the same with more detail.
"""

from __future__ import annotations

import colorsys
import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

DETAIL = {"low": 1, "medium": 2, "high": 3, "xhigh": 4, "max": 5}
_MAX_FINE_PIXELS = 4_000_000
"""Above this area a scene is drawn at its own size: twice that would cost more memory than it is worth."""
_MAX_WORDS_CHARS = 420
_INK = 250
_CARD = 14

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a picture shows. `width` and `height` are pixels; equal sketches give equal pixels."""

    words: str
    caption: str
    width: int
    height: int
    quality: str
    seed: int
    transparent: bool = False


def paint(sketch: Sketch) -> Image.Image:
    """The picture: mode P (opaque) or RGBA (a vignette with a real alpha channel)."""
    # Pictures, not secrets: the generator has to be repeatable.
    chance = random.Random(sketch.seed)  # noqa: S311
    fine = 2 if sketch.width * sketch.height <= _MAX_FINE_PIXELS else 1
    scene = chance.choice(_SCENES)
    colours = ramp(chance)
    image = scene(sketch.width * fine, sketch.height * fine, DETAIL.get(sketch.quality, 3), chance)
    if fine > 1:
        image = image.reduce(fine)
    card = write(image, sketch.words, sketch.caption)
    image.putpalette(colours)
    if not sketch.transparent:
        return image
    coloured = image.convert("RGBA")
    coloured.putalpha(vignette(sketch, card))
    return coloured


def ramp(chance: random.Random) -> bytes:
    """256 RGB colours from nearly black to nearly white, turning through neighbouring hues on the way."""
    hue = chance.random()
    turn = chance.choice((-1, 1)) * chance.uniform(0.06, 0.17)
    stops = [
        (hue, 0.07, 0.55),
        (hue + turn * 0.4, 0.25, 0.62),
        (hue + turn * 1.1, 0.47, 0.66),
        (hue + turn * 1.8, 0.69, 0.82),
        (hue + turn * 2.4, 0.96, 0.75),
    ]
    points = [colorsys.hls_to_rgb(h % 1.0, lightness, s) for h, lightness, s in stops]
    colours = bytearray()
    for level in range(256):
        place = level / 255 * (len(points) - 1)
        index = min(int(place), len(points) - 2)
        part = place - index
        for channel in range(3):
            low, high = points[index][channel], points[index + 1][channel]
            colours.append(round(255 * (low + (high - low) * part)))
    return bytes(colours)


def _gradient(width: int, height: int, top: int, bottom: int) -> Image.Image:
    """A vertical gradient between two greys."""
    span = max(1, height - 1)
    rows = (bytes((round(top + (bottom - top) * y / span),)) * width for y in range(height))
    return Image.frombytes("L", (width, height), b"".join(rows))


def _ridges(width: int, height: int, detail: int, chance: random.Random) -> Image.Image:
    """Mountains behind mountains under a sun."""
    image = _gradient(width, height, chance.randint(70, 120), chance.randint(215, 245))
    draw = ImageDraw.Draw(image)
    unit = min(width, height)
    x, y = width * chance.uniform(0.2, 0.8), height * chance.uniform(0.16, 0.34)
    radius = unit * chance.uniform(0.07, 0.13)
    for ring in range(detail + 1, 0, -1):
        size = radius * (1 + ring * 0.35)
        draw.ellipse((x - size, y - size, x + size, y + size), fill=250 - ring * (60 // (detail + 1)))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    layers = 3 + detail
    for layer in range(layers):
        part = layer / (layers - 1)
        base = height * (0.36 + 0.42 * part)
        waves = [(chance.uniform(0.6, 1.4) * 2**k, chance.uniform(0, 7), unit * 0.11 / 2**k) for k in range(2 + detail)]
        steps = 24 * (1 + detail)
        line = [
            (
                width * step / steps,
                base + sum(a * math.sin(f * math.tau * step / steps + phase) for f, phase, a in waves),
            )
            for step in range(steps + 1)
        ]
        draw.polygon([(0, height), *line, (width, height)], fill=round(185 - 160 * part))
    return image


def _facets(width: int, height: int, detail: int, chance: random.Random) -> Image.Image:
    """A field of triangles, lit from one side."""
    image = Image.new("L", (width, height), 60)
    draw = ImageDraw.Draw(image)
    across = 4 + 3 * detail
    cell = max(width, height) / across
    columns, rows = math.ceil(width / cell) + 2, math.ceil(height / cell) + 2
    angle, phase = chance.uniform(0, math.tau), chance.uniform(0, math.tau)
    points = [
        [
            (
                (column - 0.5 + chance.uniform(-0.36, 0.36)) * cell,
                (row - 0.5 + chance.uniform(-0.36, 0.36)) * cell,
            )
            for column in range(columns)
        ]
        for row in range(rows)
    ]
    for row in range(rows - 1):
        for column in range(columns - 1):
            a, b = points[row][column], points[row][column + 1]
            c, d = points[row + 1][column], points[row + 1][column + 1]
            for triangle in ((a, b, c), (b, d, c)) if (row + column) % 2 else ((a, b, d), (a, d, c)):
                u = sum(p[0] for p in triangle) / 3 / width - 0.5
                v = sum(p[1] for p in triangle) / 3 / height - 0.5
                light = math.sin(2.6 * (u * math.cos(angle) + v * math.sin(angle)) * 2 + phase)
                draw.polygon(triangle, fill=round(min(245, max(20, 132 + 88 * light + chance.uniform(-26, 26)))))
    return image


def _orbits(width: int, height: int, detail: int, chance: random.Random) -> Image.Image:
    """A great disc, rings around it, and its moons."""
    image = _gradient(width, height, chance.randint(12, 40), chance.randint(80, 130))
    draw = ImageDraw.Draw(image)
    unit = min(width, height)
    for _ in range(60 * detail):
        x, y, size = chance.uniform(0, width), chance.uniform(0, height), unit * chance.uniform(0.001, 0.003)
        draw.ellipse((x - size, y - size, x + size, y + size), fill=chance.randint(150, 240))
    x, y = width * chance.uniform(0.35, 0.65), height * chance.uniform(0.3, 0.42)
    radius = unit * chance.uniform(0.15, 0.2)
    thin = max(2, round(unit / 400))
    shades = 4 + 5 * detail
    for shade in range(shades):
        part = shade / shades
        size, shift = radius * (1 - part), radius * 0.42 * part
        draw.ellipse(
            (x - size - shift, y - size - shift, x + size - shift, y + size - shift), fill=round(120 + 135 * part)
        )
    for ring in range(2 + detail):
        size = radius * (1.4 + 0.42 * ring)
        draw.ellipse((x - size, y - size, x + size, y + size), outline=170 - 12 * ring, width=thin)
        angle, moon = chance.uniform(0, math.tau), radius * chance.uniform(0.05, 0.16)
        u, v = x + size * math.cos(angle), y + size * math.sin(angle)
        draw.ellipse((u - moon, v - moon, u + moon, v + moon), fill=chance.randint(180, 255))
    return image


def _waves(width: int, height: int, detail: int, chance: random.Random) -> Image.Image:
    """Bands of swell, one over another."""
    image = _gradient(width, height, 245, 200)
    draw = ImageDraw.Draw(image)
    bands = 5 + 4 * detail
    turns, phase = chance.uniform(0.8, 1.9), chance.uniform(0, math.tau)
    drift = chance.uniform(0.25, 0.9)
    steps = 40 * (1 + detail)
    for band in range(bands):
        part = (band + 1) / bands
        base = height * (0.06 + 0.9 * part)
        swell = height * 0.055 * (1.2 - 0.5 * part)
        line = [
            (
                width * step / steps,
                base
                + swell * math.sin(turns * math.tau * step / steps + phase + band * drift)
                + 0.3 * swell * math.sin(2.7 * turns * math.tau * step / steps - band * drift * 1.7),
            )
            for step in range(steps + 1)
        ]
        grey = 235 - 210 * part + (18 if band % 2 else -6)
        draw.polygon([(0, height), *line, (width, height)], fill=round(min(250, max(10, grey))))
    return image


def _tiles(width: int, height: int, detail: int, chance: random.Random) -> Image.Image:
    """Geometric tiles: quarter discs, half discs and rings on a grid."""
    image = Image.new("L", (width, height), 235)
    draw = ImageDraw.Draw(image)
    cell = max(width, height) / (3 + detail)
    greys = [26, 70, 112, 150, 188, 240]
    for row in range(math.ceil(height / cell)):
        for column in range(math.ceil(width / cell)):
            x, y = column * cell, row * cell
            ground, figure, dot = chance.sample(greys, 3)
            draw.rectangle((x, y, x + cell, y + cell), fill=ground)
            corner = chance.randrange(4)
            u, v = x + cell * (corner & 1), y + cell * (corner >> 1)
            kind = chance.randrange(4)
            if kind == 0:
                start = (0, 90, 270, 180)[corner]
                for step in range(1 + detail):
                    size = cell * (1 - step / (1 + detail))
                    box = (u - size, v - size, u + size, v + size)
                    draw.pieslice(box, start, start + 90, fill=figure if step % 2 == 0 else ground)
            elif kind == 1:
                draw.ellipse((x + cell * 0.12, y + cell * 0.12, x + cell * 0.88, y + cell * 0.88), fill=figure)
                draw.ellipse((x + cell * 0.36, y + cell * 0.36, x + cell * 0.64, y + cell * 0.64), fill=dot)
            elif kind == 2:
                draw.polygon([(x, y + cell), (x + cell, y + cell), (u, y)], fill=figure)
            else:
                stripes = 2 + detail
                for stripe in range(stripes):
                    top = y + cell * stripe / stripes
                    draw.rectangle((x, top, x + cell, top + cell / stripes / 2), fill=figure)
    return image


def _skyline(width: int, height: int, detail: int, chance: random.Random) -> Image.Image:
    """A town at night, row behind row, its windows lit."""
    image = _gradient(width, height, chance.randint(25, 60), chance.randint(205, 235))
    draw = ImageDraw.Draw(image)
    unit = min(width, height)
    x, y, radius = width * chance.uniform(0.2, 0.8), height * chance.uniform(0.12, 0.26), unit * 0.075
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=248)
    rows = 2 + min(detail, 3)
    for row in range(rows):
        part = row / (rows - 1)
        grey = round(140 - 118 * part)
        left = -unit * 0.05
        while left < width:
            wide = unit * chance.uniform(0.07, 0.16)
            top = height * (0.3 + 0.24 * part) + unit * chance.uniform(-0.1, 0.14)
            draw.rectangle((left, top, left + wide, height), fill=grey)
            if chance.random() < 0.3:
                draw.rectangle((left + wide * 0.47, top - unit * 0.06, left + wide * 0.53, top), fill=grey)
            if row >= rows - 1 - detail // 2:
                pane = unit * 0.022
                for v in range(int((height - top) / pane / 2)):
                    for u in range(int(wide / pane / 2)):
                        if chance.random() < 0.5:
                            a, b = left + pane * (0.8 + 2 * u), top + pane * (1 + 2 * v)
                            draw.rectangle((a, b, a + pane, b + pane * 1.2), fill=chance.choice((190, 225, 250)))
            left += wide + unit * chance.uniform(0, 0.02)
    return image


_SCENES: tuple[Callable[[int, int, int, random.Random], Image.Image], ...] = (
    _ridges,
    _facets,
    _orbits,
    _waves,
    _tiles,
    _skyline,
)


class _Fonts(threading.local):
    """Fonts by size, for one thread: a FreeType face is not to be shared between threads."""

    def __init__(self) -> None:
        self.of = lru_cache(maxsize=64)(_load_font)


def _load_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that a picture looks the same on every machine; it has Latin letters only."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


_fonts = _Fonts()


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """`text` in lines of at most `width` pixels; a word that is longer than a line is broken."""
    lines: list[str] = []
    line = ""
    room = width
    space = font.getlength(" ")
    for word in text.split():
        piece = word
        while True:
            length = font.getlength(piece)
            if length <= room or (not line and len(piece) == 1):
                line = f"{line} {piece}" if line else piece
                room -= length + space
                break
            if line:
                lines.append(line)
                line, room = "", width
                continue
            keep = max(1, int(len(piece) * width / length))
            lines.append(piece[:keep])
            piece = piece[keep:]
    return [*lines, line] if line else lines


def write(image: Image.Image, words: str, caption: str, area: Box | None = None) -> Box:
    """Writes words and caption onto a card at the foot of `area` (the whole of `image`), and gives the card's box.

    `image` is grey or in colours. Where it is too narrow for the caption, only `simulated` stands there.
    """
    left, top, right, bottom = area or (0, 0, *image.size)
    width, height = right - left, bottom - top
    unit = min(width, height)
    words = " ".join(words.encode("utf-8", "replace").decode("utf-8").split())
    if len(words) > _MAX_WORDS_CHARS:
        words = words[: _MAX_WORDS_CHARS - 1].rstrip() + "\u2026"
    margin, pad = max(2, round(unit * 0.04)), max(2, round(unit * 0.03))
    inner = width - 2 * (margin + pad)
    for share in (0.056, 0.046, 0.037, 0.03):
        size = max(6, round(unit * share))
        font = _fonts.of(size)
        lines = _wrap(words, font, inner)
        leading = round(size * 1.28)
        if leading * len(lines) <= height * 0.3:
            break
    most = max(1, int(height * 0.5 / leading))
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][:-1] + "\u2026"]
    small = _fonts.of(max(6, round(unit * 0.023)))
    note = round(unit * 0.023 * 1.9)
    card_height = 2 * pad + leading * len(lines) + note
    box = (left + margin, bottom - margin - card_height, right - margin, bottom - margin)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle(box, radius=pad, fill=_tone(image, _CARD))
    x, y = left + margin + pad, box[1] + pad
    for line in lines:
        draw.text((x, y), line, font=font, fill=_tone(image, _INK))
        y += leading
    y += note - round(unit * 0.023 * 1.1)
    mark = "simulated"
    room = inner - small.getlength(mark)
    if small.getlength(caption) < room:
        draw.text((x, y), caption, font=small, fill=_tone(image, 190))
    draw.text((x + room, y), mark, font=small, fill=_tone(image, 220))
    return box


def _tone(image: Image.Image, grey: int) -> int | tuple[int, int, int]:
    return grey if image.mode == "L" else (grey, grey, grey)


def vignette(sketch: Sketch, card: Box) -> Image.Image:
    """The alpha channel: the scene in an ellipse, the card whole, nothing around them."""
    width, height = sketch.width, sketch.height
    alpha = Image.new("L", (width * 2, height * 2), 0)
    draw = ImageDraw.Draw(alpha)
    draw.ellipse((width * 0.16, height * 0.08, width * 1.84, height * 1.76), fill=255)
    radius = max(2, round(min(width, height) * 0.03)) * 2
    left, top, right, bottom = card
    draw.rounded_rectangle((left * 2, top * 2, right * 2 + 1, bottom * 2 + 1), radius=radius, fill=255)
    return alpha.reduce(2)
