"""Two ways to draw a few rectangles, lines and words: as SVG, and as PNG.

Owns how each looks in a file. Refuses to know what is drawn. Lengths are pixels of a page whose upper left corner is
(0, 0); `y` of a text is its baseline.
"""

from __future__ import annotations

import html
import io
from typing import Literal, Protocol

from PIL import Image, ImageDraw, ImageFont

Anchor = Literal["start", "middle", "end"]
_PILLOW_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


class Canvas(Protocol):
    """A page that is drawn on from back to front."""

    def rect(self, x: float, y: float, width: float, height: float, colour: str, *, told: str = "") -> None:
        """A filled rectangle; `told` is shown where the pointer rests on it, where there is one."""

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
        """A thin line."""

    def text(self, x: float, y: float, text: str, *, size: float, colour: str, anchor: Anchor = "start") -> None:
        """One line of text."""

    def done(self) -> bytes:
        """The file."""


class Svg:
    """A page as SVG text."""

    def __init__(self, width: int, height: int, *, background: str, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="{_FONT}" role="img">',
            f"<title>{html.escape(title)}</title>",
        ]
        self.rect(0, 0, width, height, background)

    def rect(self, x: float, y: float, width: float, height: float, colour: str, *, told: str = "") -> None:
        """See `Canvas`."""
        box = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{colour}"'
        self._parts.append(f"{box}><title>{html.escape(told)}</title></rect>" if told else f"{box}/>")

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
        """See `Canvas`."""
        self._parts.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}"/>')

    def text(self, x: float, y: float, text: str, *, size: float, colour: str, anchor: Anchor = "start") -> None:
        """See `Canvas`."""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}">'
            f"{html.escape(text)}</text>"
        )

    def done(self) -> bytes:
        """The file, in UTF-8."""
        return ("\n".join([*self._parts, "</svg>"]) + "\n").encode()


class Png:
    """A page as pixels, two for each of the page's, so that it is sharp on any screen."""

    _SCALE = 2

    def __init__(self, width: int, height: int, *, background: str) -> None:
        self._image = Image.new("RGB", (width * self._SCALE, height * self._SCALE), background)
        self._draw = ImageDraw.Draw(self._image)
        self._fonts: dict[float, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}

    def rect(self, x: float, y: float, width: float, height: float, colour: str, *, told: str = "") -> None:
        """See `Canvas`."""
        left, top = round(x * self._SCALE), round(y * self._SCALE)
        right, bottom = round((x + width) * self._SCALE), round((y + height) * self._SCALE)
        if right > left and bottom > top:
            self._draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
        """See `Canvas`."""
        ends = (x1 * self._SCALE, y1 * self._SCALE, x2 * self._SCALE, y2 * self._SCALE)
        self._draw.line(ends, fill=colour, width=self._SCALE)

    def text(self, x: float, y: float, text: str, *, size: float, colour: str, anchor: Anchor = "start") -> None:
        """See `Canvas`."""
        font = self._fonts.get(size)
        if font is None:
            font = self._fonts[size] = ImageFont.load_default(size * self._SCALE)
        at = (x * self._SCALE, y * self._SCALE)
        # Without FreeType there is only a small font of fixed height, which has no baseline.
        is_sized = isinstance(font, ImageFont.FreeTypeFont)
        self._draw.text(at, text, fill=colour, font=font, anchor=_PILLOW_ANCHORS[anchor] if is_sized else None)

    def done(self) -> bytes:
        """The file."""
        target = io.BytesIO()
        self._image.save(target, "PNG", optimize=True)
        return target.getvalue()
