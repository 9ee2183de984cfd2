"""Draws a contact sheet: pictures in rows and columns, with labels, as one picture or as pages.

Owns the layout, and that one picture is open at a time. Refuses to know jobs: what stands in a cell is told to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal

from runner.errors import InputError, StoreError
from runner.inputs import BadInput
from runner.inputs.reading import MAX_PIXELS
from runner.renditions.lettering import Letters, shown
from runner.renditions.recipe import Recipe
from runner.renditions.rendering import picture_of

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Kind = Literal["png", "jpeg", "pdf"]
Copy = Callable[[], AbstractContextManager[Path]]
"""A file that is here only while it is looked at."""
Spot = tuple[int, int]
Box = tuple[int, int, int, int]
Stands = Literal["below", "above", "around"]
SHOWN: Final = 4
"""Pictures of one cell that are drawn; a badge counts the others."""
MIN_SIZE: Final = 48
"""Cells of fewer pixels a side show nothing that could be told apart."""
MAX_PAGES: Final = 200
_JPEG_MAX_SIDE: Final = 65_500
_PAGE_DPI: Final = 150
_PAGE: Final = (1754, 1240)
"""A4, the longer side across, in pixels."""
_MOST_FLOWING: Final = 10
_GROUND, _CARD, _BAD, _INK, _FAINT, _BADGE = "#f3f3f1", "#ffffff", "#fbe9e7", "#1d1d1b", "#5f5f5a", "#1d1d1bd8"


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a cell: the first of `files` that can be read is drawn; without any, `note` stands there."""

    files: tuple[Path | Copy, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """The images where a row meets a column. `more` are not drawn, and counted. `caption` stands below it."""

    pictures: tuple[Picture, ...] = ()
    more: int = 0
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the sheet: its label, and as many cells as there are columns."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """All of a contact sheet; `size_px` is a cell's width, `ratio` its height over its width: that of the highest.

    With one column only, the rows' cells follow each other in lines, each with its label below it.
    """

    title: str
    subtitle: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    size_px: int = 256
    ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class _Layout:
    """Lengths in pixels; those of letters follow from a cell's size."""

    size: int
    height: int
    letter: int
    gap: int
    label_width: int
    caption_height: int
    head_height: int
    columns: int

    @property
    def line(self) -> int:
        return self.letter * 4 // 3

    @property
    def title_height(self) -> int:
        return self.letter * 2 + self.line + 2 * self.gap

    @property
    def row_height(self) -> int:
        return self.height + self.caption_height + self.gap

    @property
    def width(self) -> int:
        return 2 * self.gap + self.label_width + self.columns * (self.size + self.gap)

    def total_height(self, rows: int) -> int:
        """That of a picture with so many rows."""
        return self.gap + self.title_height + self.head_height + rows * self.row_height + self.gap


def save(sheet: Sheet, file: IO[bytes], kind: Kind, letters: Letters) -> int:
    """Draw the sheet into `file`, which is empty and can be read again; how many pages there are.

    Raises:
        InputError: there is nothing to draw, or more than fits.
    """
    if not sheet.rows:
        raise InputError("there is nothing on this sheet", hint="the job wants no images, or --limit leaves none")
    if kind == "pdf":
        return _save_pages(sheet, file, letters)
    columns = min(_MOST_FLOWING, math.ceil(math.sqrt(len(sheet.rows)))) if _flows(sheet) else len(sheet.columns)
    layout = _layout(sheet, sheet.size_px, columns)
    rows = _lines(sheet, columns)
    size = layout.width, layout.total_height(len(rows))
    if size[0] * size[1] > MAX_PIXELS or (kind == "jpeg" and max(size) > _JPEG_MAX_SIDE):
        raise InputError(
            f"the sheet would have {size[0]:,}x{size[1]:,} pixels",
            hint="a smaller --size, --limit N for the first N rows, or a .pdf, which has pages",
        )
    picture = _drawn(sheet, rows, layout, size, letters, sheet.subtitle)
    if kind == "jpeg":
        picture.save(file, "JPEG", quality=88, subsampling="4:2:0", progressive=True, optimize=True)
    else:
        picture.save(file, "PNG", compress_level=6)
    return 1


def _save_pages(sheet: Sheet, file: IO[bytes], letters: Letters) -> int:
    layout, rows, count = _paged(sheet)
    if count > MAX_PAGES:
        raise InputError(f"the sheet would have {count:,} pages", hint="a smaller --size, or --limit N for N rows")
    each = math.ceil(len(rows) / count)
    for number in range(count):
        subtitle = f"{sheet.subtitle} · page {number + 1} of {count}"
        page = _drawn(sheet, rows[number * each : (number + 1) * each], layout, _PAGE, letters, subtitle)
        # One page after the other goes into the file, so that none but this one is in memory.
        page.save(file, "PDF", append=number > 0, resolution=_PAGE_DPI, title=shown(sheet.title), quality=88)
    return count


def _paged(sheet: Sheet) -> tuple[_Layout, list[Row], int]:
    """The layout of pages, the rows, and how many pages they fill."""
    columns = len(sheet.columns)
    size = sheet.size_px
    if _flows(sheet):
        size = min(size, _PAGE[1] // 2)
        columns = max(1, (_PAGE[0] - _layout(sheet, size, 0).width) // (size + _layout(sheet, size, 0).gap))
    while size >= MIN_SIZE:
        layout = _layout(sheet, size, columns)
        if layout.width <= _PAGE[0] and layout.total_height(1) <= _PAGE[1]:
            rows = _lines(sheet, columns)
            fitting = 1 + (_PAGE[1] - layout.total_height(1)) // layout.row_height
            return layout, rows, math.ceil(len(rows) / fitting)
        size -= 4
    raise InputError(
        f"{columns} columns do not fit onto a page",
        hint="choose other --columns (or change rows and columns over), or write a .png",
    )


def _flows(sheet: Sheet) -> bool:
    return len(sheet.columns) == 1


def _lines(sheet: Sheet, columns: int) -> list[Row]:
    """The rows as they are drawn: those of one column stand side by side."""
    if not _flows(sheet):
        return list(sheet.rows)
    cells = [replace(row.cells[0], caption=row.label) for row in sheet.rows]
    return [Row("", tuple(cells[start : start + columns])) for start in range(0, len(cells), columns)]


def _layout(sheet: Sheet, size: int, columns: int) -> _Layout:
    letter = max(11, min(20, size // 14))
    line, gap = letter * 4 // 3, max(6, size // 20)
    flows = _flows(sheet)
    return _Layout(
        size=size,
        height=max(3 * line, min(size, round(size * sheet.ratio))),
        letter=letter,
        gap=gap,
        label_width=0 if flows else max(110, min(240, size)) + gap,
        caption_height=2 * line + gap // 2 if flows else 0,
        head_height=0 if flows else 2 * line + gap,
        columns=columns,
    )


def _drawn(
    sheet: Sheet, rows: list[Row], layout: _Layout, size: tuple[int, int], letters: Letters, subtitle: str
) -> Image.Image:
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", size, _GROUND)
    pen = _Pen(canvas, ImageDraw.Draw(canvas, "RGBA"), letters)
    gap, letter = layout.gap, layout.letter
    room = size[0] - 2 * gap
    pen.text(sheet.title, (gap, gap), letter * 3 // 2, width=room, most=1)
    pen.text(subtitle, (gap, gap + letter * 2), letter, width=room, most=1, colour=_FAINT)
    top = gap + layout.title_height
    left = gap + layout.label_width
    step = layout.size + gap
    if layout.head_height:
        for index, label in enumerate(sheet.columns):
            below = left + index * step, top + layout.head_height - gap
            pen.text(label, below, letter, width=layout.size, most=2, stands="above")
    top += layout.head_height
    for row in rows:
        label_width = layout.label_width - gap
        if label_width > 0:
            pen.text(row.label, (gap, top), letter, width=label_width, most=layout.height // layout.line)
        for index, cell in enumerate(row.cells):
            pen.cell(cell, (left + index * step, top), layout)
        top += layout.row_height
    return canvas


class _Pen:
    """Draws texts and cells onto a canvas."""

    def __init__(self, canvas: Image.Image, draw: ImageDraw.ImageDraw, letters: Letters) -> None:
        self._canvas = canvas
        self._draw = draw
        self._letters = letters

    def text(
        self, text: str, at: Spot, size_px: int, *, width: int, most: int, colour: str = _INK, stands: Stands = "below"
    ) -> None:
        """Write lines below `at`, above it, or around it (then it is the middle of each as well)."""
        lines = self._letters.lines(text, size_px, width_px=width, most=most)
        if not lines:
            return
        font = self._letters.font(shown(text), size_px)
        height = size_px * 4 // 3
        x, y = at
        y -= {"below": 0, "around": height * len(lines) // 2, "above": height * len(lines)}[stands]
        for line in lines:
            self._draw.text((x, y), line, colour, font, anchor="ma" if stands == "around" else "la")
            y += height

    def cell(self, cell: Cell, at: Spot, layout: _Layout) -> None:
        """One picture, or up to four of them in its place, and how many there are besides."""
        for picture, box in zip(cell.pictures, _boxes(len(cell.pictures), layout.size, layout.height), strict=True):
            self._picture(picture, (at[0] + box[0], at[1] + box[1]), box[2:], layout.letter)
        if cell.more:
            self._badge(f"+{cell.more}", at, layout)
        if cell.caption:
            below = at[0], at[1] + layout.height + layout.gap // 2
            self.text(cell.caption, below, layout.letter, width=layout.size, most=2, colour=_FAINT)

    def _picture(self, picture: Picture, at: Spot, room: Spot, letter: int) -> None:
        found = _opened(picture.files, room)
        if found is not None:
            self._canvas.paste(found, (at[0] + (room[0] - found.width) // 2, at[1] + (room[1] - found.height) // 2))
            return
        self._draw.rectangle((*at, at[0] + room[0] - 1, at[1] + room[1] - 1), _BAD)
        note = picture.note or "the image cannot be read"
        middle = at[0] + room[0] // 2, at[1] + room[1] // 2
        most = max(1, (room[1] - letter) // (letter * 4 // 3))
        self.text(note, middle, letter, width=room[0] - letter, most=most, stands="around")

    def _badge(self, text: str, at: Spot, layout: _Layout) -> None:
        font = self._letters.font(text, layout.letter)
        width, height = int(font.getlength(text)) + layout.letter, layout.line + 4
        right, bottom = at[0] + layout.size - 4, at[1] + layout.height - 4
        self._draw.rounded_rectangle((right - width, bottom - height, right, bottom), height // 2, _BADGE)
        self._draw.text((right - width // 2, bottom - height // 2), text, _CARD, font, anchor="mm")


def _boxes(count: int, width: int, height: int) -> list[Box]:
    """Left, top, width and height of so many pictures in one cell: one, two beside each other, or four."""
    if count <= 1:
        return [(0, 0, width, height)] * count
    across, down = (width - 2) // 2, (height - 2) // 2 if count > 2 else height
    return [(x, y, across, down) for y in (0, height - down) for x in (0, width - across)][:count]


def _opened(files: tuple[Path | Copy, ...], room: Spot) -> Image.Image | None:
    recipe = Recipe("", room[0], room[1], "inside", background=_CARD)
    for file in files:
        try:
            with nullcontext(file) if isinstance(file, Path) else file() as path:
                return picture_of(path, recipe).convert("RGB")
        except (BadInput, StoreError):  # another file may show it, or its note does
            continue
    return None
