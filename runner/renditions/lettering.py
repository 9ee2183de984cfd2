"""Text in pictures: a font that has its letters, and lines that fit.

Owns the choice of fonts and the breaking of lines. Refuses to know what is written where.

Pillow's own font comes first, so that most sheets look alike on every machine. It has Latin letters only: for a text
that has others, the fonts of the machine are asked.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runner.errors import InputError

if TYPE_CHECKING:
    from PIL import ImageFont

_FALLBACKS: Final = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "arial.ttf",
    "msyh.ttc",
)
"""Fonts that machines have, found by their names in the usual folders of the system."""
_ELLIPSIS: Final = "…"
_MOST_LETTERS: Final = 1000
"""No label holds more: what comes after is not even measured."""
_NO_LETTER: Final = "\U0010ffff"
_PROBE_SIZE: Final = 16


class Letters:
    """The fonts of one sheet; `chosen` is asked before all others.

    Raises:
        InputError: `chosen` is no font.
    """

    def __init__(self, chosen: Path | None = None) -> None:
        if chosen is not None and _loaded(str(chosen), _PROBE_SIZE) is None:
            hint = "name a .ttf, .otf or .ttc file with --font"
            raise InputError(f"{chosen} is no font that can be read", hint=hint)
        self._names = ([str(chosen)] if chosen is not None else []) + ["", *_FALLBACKS]

    def font(self, text: str, size_px: int) -> ImageFont.FreeTypeFont:
        """The first font that has all letters of `text`, or the one that has most of them."""
        best, fewest = "", len(text) + 1
        for name in self._names:
            if _loaded(name, _PROBE_SIZE) is None:
                continue
            missing = sum(not _has(name, letter) for letter in set(text))
            if missing < fewest:
                best, fewest = name, missing
            if missing == 0:
                break
        font = _loaded(best, size_px)
        if font is None:
            raise InputError("no text can be drawn: Pillow was built without FreeType", hint="reinstall pillow")
        return font

    def lines(self, text: str, size_px: int, *, width_px: int, most: int) -> list[str]:
        """`text` in at most `most` lines, broken at spaces, or within a word that is longer than a line.

        What has no room is left out, and an ellipsis says so.
        """
        text = shown(text)
        font = self.font(text, size_px)
        words, lines, line = text.split(" "), list[str](), ""
        while words and len(lines) < most:
            word = words.pop(0)
            joined = f"{line} {word}" if line else word
            if font.getlength(joined) <= width_px:
                line = joined
                continue
            if not line:
                fitting = _fitting(word, font, width_px)
                word, line = word[fitting:], word[:fitting]
            words.insert(0, word)
            lines.append(line)
            line = ""
        if line and len(lines) < most:
            lines.append(line)
        elif (words or line) and lines:
            lines[-1] = self._cut(lines[-1], font, width_px)
        return lines

    def _cut(self, line: str, font: ImageFont.FreeTypeFont, width_px: int) -> str:
        while line and font.getlength(line + _ELLIPSIS) > width_px:
            line = line[:-1]
        return line.rstrip() + _ELLIPSIS


def shown(text: str) -> str:
    """`text` in one line, not endless, without what is no letter: control characters and direction marks."""
    cut = text[:_MOST_LETTERS] + (_ELLIPSIS if len(text) > _MOST_LETTERS else "")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in cut).split())


def _fitting(word: str, font: ImageFont.FreeTypeFont, width_px: int) -> int:
    """How many letters of a word that is too long fit into a line; at least one."""
    count = 1
    while count < len(word) and font.getlength(word[: count + 1]) <= width_px:
        count += 1
    return count


@lru_cache(maxsize=64)
def _loaded(name: str, size_px: int) -> ImageFont.FreeTypeFont | None:
    """A font by its file's path or name, Pillow's own by no name; None where there is none."""
    from PIL import ImageFont

    try:
        font = ImageFont.truetype(name, size_px) if name else ImageFont.load_default(size_px)
    except (OSError, ValueError, ImportError):
        return None
    return font if isinstance(font, ImageFont.FreeTypeFont) else None


@lru_cache(maxsize=1 << 14)
def _has(name: str, letter: str) -> bool:
    """Whether a font draws this letter as something else than what it draws for no letter at all."""
    font = _loaded(name, _PROBE_SIZE)
    return letter.isspace() or (font is not None and _drawn(font, letter) != _drawn(font, _NO_LETTER))


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[object, bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
