"""Contact sheets: what stands where, as a picture and as pages, and that nothing else is touched by drawing them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops
from PIL.PdfParser import PdfParser

from runner.errors import InputError
from runner.invocation import Options, find_job
from runner.ledger import THUMBNAIL, Job, Ledger, Rendition
from runner.renditions.lettering import Letters, shown
from runner.renditions.sheet import Cell, Kind, Picture, Row, Sheet, save
from runner.report import sheets
from runner.store.folder import FolderStore
from tests.engine.command_support import GOOD, REFUSED, Desk

Colour = tuple[int, int, int]
COLOURS: tuple[Colour, ...] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (255, 0, 255),
    (0, 255, 255),
    (128, 0, 255),
    (255, 128, 0),
    (0, 128, 0),
)
PAGE = (1754, 1240)


def drawn(sheet: Sheet, kind: Kind = "png") -> bytes:
    """The file that `save` writes."""
    file = io.BytesIO()
    save(sheet, file, kind, Letters())
    return file.getvalue()


def canvas(sheet: Sheet) -> Image.Image:
    with Image.open(io.BytesIO(drawn(sheet))) as picture:
        return picture.convert("RGB")


def pages(data: bytes) -> list[Image.Image]:
    """The pictures that a PDF's pages consist of."""
    starts = [found.start() for found in re.finditer(b"\xff\xd8\xff", data)]
    return [Image.open(io.BytesIO(data[start:])).convert("RGB") for start in starts]


def place(picture: Image.Image, colour: Colour, by: int = 12) -> tuple[int, int, int, int] | None:
    """The box of all pixels of a colour; None where there are none."""
    planes = [
        band.point([255 if abs(value - part) <= by else 0 for value in range(256)])
        for band, part in zip(picture.split(), colour, strict=True)
    ]
    return ImageChops.darker(ImageChops.darker(planes[0], planes[1]), planes[2]).getbbox()


def blocks(folder: Path, count: int, size: tuple[int, int] = (300, 300)) -> list[Picture]:
    """Pictures of one colour each."""
    found = []
    for number, colour in enumerate(COLOURS[:count]):
        file = folder / f"{number}.png"
        Image.new("RGB", size, colour).save(file)
        found.append(Picture((file,)))
    return found


def matrix(pictures: list[Picture], columns: int, *, size_px: int = 256, ratio: float = 1.0) -> Sheet:
    """A sheet with one picture in each cell."""
    rows = [
        Row(f"row {start}", tuple(Cell((one,)) for one in pictures[start : start + columns]))
        for start in range(0, len(pictures), columns)
    ]
    heads = tuple(f"column {number}" for number in range(columns))
    return Sheet("title", "subtitle", heads, tuple(rows), size_px, ratio)


# drawing


def test_each_picture_stands_in_its_cell(tmp_path: Path) -> None:
    """Rows below each other, columns beside each other, each as large as was asked, none over another."""
    found = canvas(matrix(blocks(tmp_path, 6), 3, size_px=100))
    boxes = [place(found, colour) for colour in COLOURS[:6]]
    (left, top, right, bottom), *_ = [box for box in boxes if box]
    step = right - left + max(6, 100 // 20)
    assert (right - left, bottom - top) == (100, 100)
    for number, box in enumerate(boxes):
        x, y = left + number % 3 * step, top + number // 3 * (bottom - top + 6)
        assert box == (x, y, x + 100, y + 100)


def test_a_cell_is_no_higher_than_what_stands_in_it(tmp_path: Path) -> None:
    """Wide pictures take low rows."""
    pictures = blocks(tmp_path, 4, (400, 200))
    high, low = canvas(matrix(pictures, 2, size_px=200)), canvas(matrix(pictures, 2, size_px=200, ratio=0.5))
    assert high.width == low.width
    assert high.height - low.height == 200
    assert [place(low, colour) is not None for colour in COLOURS[:4]] == [True] * 4


def test_with_one_column_pictures_follow_each_other(tmp_path: Path) -> None:
    """Nine prompts are three lines of three, not a strip."""
    found = canvas(matrix(blocks(tmp_path, 9), 1, size_px=60))
    boxes = [box for colour in COLOURS if (box := place(found, colour))]
    assert len(boxes) == 9
    assert sorted(boxes, key=lambda box: (box[1], box[0])) == boxes
    assert [len({box[side] for box in boxes}) for side in (0, 1)] == [3, 3]


def test_four_pictures_share_a_cell_and_a_badge_counts_the_rest(tmp_path: Path) -> None:
    """What is not drawn is told."""
    pictures = blocks(tmp_path, 4)
    full = Sheet("t", "s", ("a", "b"), (Row("r", (Cell(tuple(pictures), more=3), Cell())),), 200)
    found, without = (
        canvas(full),
        canvas(Sheet("t", "s", ("a", "b"), (Row("r", (Cell(tuple(pictures)), Cell())),), 200)),
    )
    boxes = [box for colour in COLOURS[:4] if (box := place(found, colour))]
    assert len(boxes) == 4
    assert max(box[2] for box in boxes) - min(box[0] for box in boxes) == 200
    (two,) = {box[0] for box in boxes[:1]}
    assert boxes[1][0] > two
    assert boxes[2][1] > boxes[0][1]
    assert found.tobytes() != without.tobytes()
    last = boxes[3]
    assert place(found.crop(last), COLOURS[3]) is not None
    assert place(found.crop((last[2] - 30, last[3] - 20, last[2] - 6, last[3] - 6)), (255, 255, 255), 60) is not None


def test_two_pictures_stand_side_by_side(tmp_path: Path) -> None:
    """Of two samples each has half of the place."""
    row = Row("r", (Cell(tuple(blocks(tmp_path, 2))), Cell()))
    found = canvas(Sheet("t", "s", ("a", "b"), (row,), 200))
    one, two = place(found, COLOURS[0]), place(found, COLOURS[1])
    assert one
    assert two
    assert (one[2] - one[0], two[2] - two[0]) == (99, 99)
    assert (one[1], one[3]) == (two[1], two[3])
    assert one[2] < two[0]


def test_the_first_file_that_can_be_read_is_drawn(tmp_path: Path) -> None:
    """A thumbnail that is gone or broken costs the sheet nothing; an image that is says so in its place."""
    (good,) = blocks(tmp_path, 1)
    (tmp_path / "broken.webp").write_bytes(b"RIFF, but no picture")
    beside = Picture((tmp_path / "gone.webp", tmp_path / "broken.webp", *good.files))
    lost = Picture((tmp_path / "gone.png",))
    found = canvas(Sheet("t", "s", ("a", "b"), (Row("r", (Cell((beside,)), Cell((lost,)))),), 100))
    assert place(found, COLOURS[0]) is not None
    assert place(found, (0xFB, 0xE9, 0xE7), 0) is not None


def test_transparency_is_drawn_on_white(tmp_path: Path) -> None:
    """Not on black."""
    Image.new("RGBA", (100, 100), (0, 0, 0, 0)).save(tmp_path / "a.png")
    found = canvas(Sheet("t", "s", ("a", "b"), (Row("r", (Cell((Picture((tmp_path / "a.png",)),)), Cell())),), 100))
    box = place(found, (255, 255, 255), 0)
    assert box
    assert (box[2] - box[0], box[3] - box[1]) == (100, 100)


def test_a_pdf_has_pages_of_a4_with_every_picture_once(tmp_path: Path) -> None:
    """Each page has its header, no row is cut in two, and the file says how many there are."""
    data = drawn(matrix(blocks(tmp_path, 8, (500, 500)), 2, size_px=400), "pdf")
    found = pages(data)
    assert data.startswith(b"%PDF")
    assert b"%%EOF" in data[-20:]
    assert len(found) == 2
    with PdfParser(buf=bytearray(data)) as parser:
        assert len(parser.pages) == 2
    assert {page.size for page in found} == {PAGE}
    for number, colour in enumerate(COLOURS[:8]):
        on = [place(page, colour, 40) is not None for page in found]
        assert on == [number < 4, number >= 4]
    sizes = [box[2] - box[0] for page in found for colour in COLOURS[:8] if (box := place(page, colour, 40))]
    assert len(sizes) == 8
    assert all(abs(size - 400) <= 16 for size in sizes)


def test_many_columns_are_made_to_fit_onto_a_page(tmp_path: Path) -> None:
    """Cells become smaller; when nothing could be told apart any more, it is refused."""
    (picture,) = blocks(tmp_path, 1)
    (page,) = pages(drawn(matrix([picture] * 20, 20, size_px=256), "pdf"))
    box = place(page, COLOURS[0], 40)
    assert box
    assert box[2] <= PAGE[0]
    with pytest.raises(InputError, match="60 columns do not fit") as caught:
        drawn(matrix([picture] * 60, 60, size_px=256), "pdf")
    assert "--columns" in str(caught.value.hint)


def test_a_title_is_text_in_a_pdf_too(tmp_path: Path) -> None:
    """What the shell could not decode, or a terminal would obey, ends no sheet."""
    sheet = matrix(blocks(tmp_path, 2), 2)
    data = drawn(Sheet("Spring \udcff\x1b[31m <b>", "s", sheet.columns, sheet.rows), "pdf")
    assert len(pages(data)) == 1


@pytest.mark.parametrize(("kind", "head"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff"), ("pdf", b"%PDF")])
def test_each_kind_of_file(kind: Kind, head: bytes, tmp_path: Path) -> None:
    """The bytes are what the name says."""
    assert drawn(matrix(blocks(tmp_path, 2), 2), kind).startswith(head)


def test_a_sheet_that_no_memory_holds_is_refused() -> None:
    """Before anything is drawn, with what to do instead."""
    cell = Cell((Picture(note="planned"),))
    rows = tuple(Row("", (cell, cell)) for _ in range(500))
    kinds: tuple[Kind, ...] = ("png", "jpeg")
    for kind in kinds:
        with pytest.raises(InputError, match="pixels") as caught:
            drawn(Sheet("t", "s", ("a", "b"), rows), kind)
        assert "--limit" in str(caught.value.hint)
    with pytest.raises(InputError, match="pages"):
        drawn(Sheet("t", "s", ("a", "b"), rows * 4), "pdf")
    thin = tuple(Row("", (cell, cell)) for _ in range(1300))
    with pytest.raises(InputError, match="pixels"):
        drawn(Sheet("t", "s", ("a", "b"), thin, 48), "jpeg")
    with pytest.raises(InputError, match="nothing on this sheet"):
        drawn(Sheet("t", "s", (), ()))


# letters


@given(text=st.text(max_size=300), width=st.integers(20, 300), most=st.integers(1, 6))
def test_lines_fit_and_lose_nothing_in_silence(text: str, width: int, most: int) -> None:
    """Whatever is written: no line is wider than its place, and what is left out has an ellipsis."""
    letters = Letters()
    lines = letters.lines(text, 14, width_px=width, most=most)
    font = letters.font(shown(text), 14)
    assert len(lines) <= most
    assert all(font.getlength(line) <= width or len(line) <= 2 for line in lines)
    whole = shown(text).replace(" ", "")
    kept = "".join(lines).replace(" ", "")
    assert kept == whole or (kept.endswith("…") and whole.startswith(kept[:-1]))


@pytest.mark.parametrize(
    "text", ["\x1b[31mred\x07", "a\u202egnp.exe", "two\nlines\tand\r\nmore", "\ud800", "a" * 10**6]
)
def test_a_label_is_letters_only(text: str) -> None:
    """Nothing that turns a line around or ends it; and an endless one is cut before it is measured."""
    found = shown(text)
    assert found.isprintable()
    assert len(found) <= 1001


def test_letters_that_the_first_font_has_not_are_looked_for() -> None:
    """What no font has is drawn all the same: a box is better than an error."""
    letters = Letters()
    assert letters.font("A bakery", 14).getname() == letters.font("", 14).getname()
    assert letters.lines("\U000e0fff\u0b95", 14, width_px=100, most=1)


# what is chosen


@contextmanager
def opened(desk: Desk, name: str) -> Iterator[tuple[Ledger, Job]]:
    """The ledger of a desk, and a job of it."""
    with Ledger.open(Options(output=desk.folder / "output").ledger_place, create=True) as ledger:
        yield ledger, find_job(name, ledger)


def sweep(desk: Desk) -> str:
    """A job of two prompts and one that is refused, in two sizes and two qualities, made by the stand-in."""
    path = desk.manifest(
        "sweep", [*GOOD, REFUSED], matrix={"size": ["1024x1024", "1536x1024"], "quality": ["low", "medium"]}
    )
    desk.run(path, "--quiet")
    return path


def names(cell: Cell) -> list[str]:
    """The names of the files of a cell's images."""
    return [Path(str(picture.files[-1])).name for picture in cell.pictures]


def test_rows_and_columns_are_the_manifests(desk: Desk) -> None:
    """In its order: each image stands where its prompt and its axes say."""
    sweep(desk)
    with opened(desk, "sweep") as (ledger, job):
        store = FolderStore(desk.folder / "output", job.name)
        found = sheets.sheet(ledger, job, store=store)
        by_quality = sheets.sheet(ledger, job, store=store, columns="quality")
        turned = sheets.sheet(ledger, job, store=store, rows="size", columns="prompt", limit=1)
    variants = [f"{size} · {quality}" for size in ("1024x1024", "1536x1024") for quality in ("low", "medium")]
    assert list(found.columns) == variants
    assert [row.label for row in found.rows] == [*GOOD, REFUSED]
    for row in found.rows[:2]:
        assert [names(cell) for cell in row.cells] == [[f"{one.replace(' · ', '-')}-1.png"] for one in variants]
        assert all(Path(str(picture.files[0])).is_file() for cell in row.cells for picture in cell.pictures)
    assert by_quality.columns == ("low", "medium")
    assert [names(cell) for cell in by_quality.rows[0].cells] == [
        ["1024x1024-low-1.png", "1536x1024-low-1.png"],
        ["1024x1024-medium-1.png", "1536x1024-medium-1.png"],
    ]
    assert (turned.columns, [row.label for row in turned.rows]) == ((*GOOD, REFUSED), ["1024x1024"])


def test_a_row_whose_prompts_differ_is_called_as_they_begin(desk: Desk) -> None:
    """An axis in the words of a prompt: the label of a row is not that of its first image alone; else it is the id."""
    prompts = [
        {"id": "mug", "text": "A mug, {{ style }} of {{ size }}"},
        {"id": "any", "text": "{{ style }} of a chair"},
    ]
    path = desk.manifest("styles", prompts, matrix={"style": ["ink", "oil", "a photograph"]})
    desk.run(path, "--quiet")
    with opened(desk, "styles") as (ledger, job):
        found = sheets.sheet(ledger, job, store=FolderStore(desk.folder / "output", job.name))
    assert [row.label for row in found.rows] == ["A mug, …", "any"]


def test_what_is_not_there_says_why(desk: Desk) -> None:
    """A refusal with its reason; and the header counts what it cost and what is lacking."""
    sweep(desk)
    with opened(desk, "sweep") as (ledger, job):
        found = sheets.sheet(ledger, job, store=FolderStore(desk.folder / "output", job.name), title="Spring")
        with ledger.tiles(job) as tiles:
            cost_microusd = sum(tile.cost_microusd for tile in tiles)
    (picture,) = found.rows[2].cells[0].pictures
    assert picture.files == ()
    assert picture.note.startswith("refused: ")
    assert "safety" in picture.note
    assert found.title == "Spring"
    assert found.subtitle == f"8 of 12 images · 4 refused · ${cost_microusd / 1e6:.6f}".rstrip("0")


def test_money_that_was_never_spent_is_called_so(desk: Desk) -> None:
    """What the embedded simulator bills is no cost."""
    desk.call("run", desk.manifest("play", GOOD[:1]), "--provider", "simulator", "--quiet")
    with opened(desk, "play") as (ledger, job):
        found = sheets.sheet(ledger, job, store=FolderStore(desk.folder / "output", job.name))
    assert re.fullmatch(r"1 image · \$[0-9.]+ simulated", found.subtitle)


def test_more_than_four_in_a_cell_are_counted(desk: Desk) -> None:
    """With five samples, one is a number on the badge."""
    desk.run(desk.manifest("many", GOOD, samples=5), "--quiet")
    with opened(desk, "many") as (ledger, job):
        found = sheets.sheet(ledger, job, store=FolderStore(desk.folder / "output", job.name))
        each = sheets.sheet(ledger, job, store=FolderStore(desk.folder / "output", job.name), columns="sample")
    assert [(len(row.cells[0].pictures), row.cells[0].more) for row in found.rows] == [(4, 1), (4, 1)]
    assert each.columns == ("1", "2", "3", "4", "5")
    assert all(len(cell.pictures) == 1 for row in each.rows for cell in row.cells)


def test_a_thumbnail_is_drawn_where_it_is_large_enough(desk: Desk) -> None:
    """It is read a hundred times as fast as the image."""
    desk.run(desk.manifest("small", GOOD[:1]), "--quiet")
    with opened(desk, "small") as (ledger, job):
        with ledger.tiles(job) as tiles:
            (tile,) = tiles
        assert tile.sha256
        assert tile.path
        thumbnail = Rendition(
            task_id=tile.task_id,
            kind=THUMBNAIL,
            recipe="r",
            asset_sha256=tile.sha256,
            task_name=tile.name,
            path="small/gallery/thumbs/a.webp",
            sha256="0" * 64,
            bytes=1,
        )
        ledger.renditions.made([thumbnail], now_ms=1)
        store = FolderStore(desk.folder, job.name)
        sides = {
            size: sheets.sheet(ledger, job, store=store, size_px=size).rows[0].cells[0].pictures[0].files
            for size in (384, 385)
        }
    assert sides[384] == (desk.folder / thumbnail.path, desk.folder / tile.path)
    assert sides[385] == (desk.folder / tile.path,)


# the command


def test_the_command_draws_a_job(desk: Desk) -> None:
    """By its name or its manifest; into JOB-sheet.png here, which it replaces; assets and ledger stay as they are."""
    path = sweep(desk)
    before = {file: file.read_bytes() for file in desk.files() if file.suffix == ".png"}
    said = desk.call("sheet", "sweep")
    assert (said.code, said.out) == (0, "sweep-sheet.png: 3 rows\n")
    first = (desk.folder / "sweep-sheet.png").read_bytes()
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.format == "PNG"
    (desk.folder / "sweep-sheet.png").write_text("an older one")
    assert desk.call("sheet", path).code == 0
    assert (desk.folder / "sweep-sheet.png").read_bytes() == first
    said = desk.call("sheet", "sweep", "--columns", "quality", "--to", "x.pdf", "--size", "100", "--title", "<b>")
    assert (said.code, said.out) == (0, "x.pdf: 3 rows, 1 pages\n")
    assert {file: file.read_bytes() for file in desk.files() if file.suffix == ".png"} == before
    assert sorted(entry.name for entry in desk.folder.iterdir()) == ["output", "sweep-sheet.png", "sweep.yaml", "x.pdf"]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--columns", "qualty"], "no axis 'qualty'", "did you mean quality?"),
        (["--rows", "colour"], "no axis 'colour'", "rows and columns can be"),
        (["--to", "sheet.gif"], "no .gif", ".png, .jpg or .pdf"),
        (["--to", "sheet"], "file without an ending", ".pdf"),
        (["--to", "nowhere/sheet.png"], "cannot be written", "--to"),
        (["--to", "output/small/images/p.png"], "lies in the output folder", "elsewhere"),
        (["--font", "small.yaml"], "small.yaml is no font", "--font"),
    ],
)
def test_what_cannot_be_drawn_is_told(desk: Desk, words: list[str], message: str, hint: str) -> None:
    """With what to do; a sheet that is there stays, and nothing is left beside it."""
    desk.run(desk.manifest("small", GOOD[:1]), "--quiet")
    (desk.folder / "small-sheet.png").write_text("the last one")
    said = desk.call("sheet", "small", *words)
    assert said.code == 2
    assert message in said.err
    assert hint in said.err
    assert (desk.folder / "small-sheet.png").read_text() == "the last one"
    assert sorted(entry.name for entry in desk.folder.iterdir()) == ["output", "small-sheet.png", "small.yaml"]


def test_a_sheet_that_fails_while_it_is_drawn_leaves_the_last_one(desk: Desk) -> None:
    """It takes its name only when it is whole."""
    desk.run(desk.manifest("small", [f"{GOOD[0]} {number}" for number in range(100)]), "--quiet")
    (desk.folder / "small-sheet.png").write_text("the last one")
    said = desk.call("sheet", "small", "--size", "1024")
    assert said.code == 2
    assert "pixels" in said.err
    assert (desk.folder / "small-sheet.png").read_text() == "the last one"
    assert sorted(entry.name for entry in desk.folder.iterdir()) == ["output", "small-sheet.png", "small.yaml"]
