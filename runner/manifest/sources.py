"""Prompt files: CSV, TSV, JSONL and TXT, read row by row.

Owns the formats, the choice of columns and rows, and every error about a row, with its line. Refuses to know templates
and ids: it yields the cells as they stand. Memory holds one row, whatever the file's size.
"""

from __future__ import annotations

import csv
import json
import stat
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ManifestError
from runner.manifest.problems import UNPRINTABLE, Wrong, nearest, shown, suggest
from runner.manifest.schema import FilePrompt

MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_FIELD_CHARS = 4 * 1024 * 1024
_MOST_LINES_OF_A_ROW = 100
_ENDINGS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "txt"}
_PROMPT_COLUMNS = ("prompt", "text", "title", "caption")


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt of a file. `line` is where the row starts; `cells` are all its columns.

    `image` and `mask` are what the row starts from, as it was written; empty where it names none.
    """

    line: int
    text: str
    id: str | None
    cells: dict[str, str]
    image: str = ""
    mask: str = ""


def file_format(prompt: FilePrompt) -> str:
    """The file's format: as given, or by its ending.

    Raises:
        Wrong: the ending tells none.
    """
    if prompt.format:
        return prompt.format
    ending = Path(prompt.file).suffix.lower()
    if ending not in _ENDINGS:
        raise Wrong(
            f"the ending of {shown(prompt.file)} does not tell its format",
            hint="add `format: csv` (or tsv, jsonl, txt)",
            path=("file",),
        )
    return _ENDINGS[ending]


def columns(prompt: FilePrompt, path: Path) -> list[str]:
    """The columns of the file, from its header (or, JSONL, its first object); `text` alone for TXT.

    Raises:
        ManifestError, Wrong: as `rows`.
    """
    kind = file_format(prompt)
    if kind == "txt":
        return ["text"]
    lines = _Lines(path, str(path))
    with closing(lines.read()) as read:
        if kind == "jsonl":
            return next((list(cells) for _, cells in _json_rows(lines, read)), [])
        return _header(lines, _records(lines, read, kind))


def text_column(prompt: FilePrompt, names: list[str]) -> str | None:
    """The column of the prompt: as chosen, by its name, or the only one. None if a template makes it unnecessary.

    Raises:
        Wrong: none, or the chosen one is not there.
    """
    if prompt.text is not None:
        return _known_column(prompt.text, names, ("text",))
    by_lower = {name.lower(): name for name in reversed(names)}
    for name in _PROMPT_COLUMNS:
        if name in by_lower:
            return by_lower[name]
    if len(names) == 1:
        return names[0]
    if prompt.template is not None:
        return None
    raise Wrong(
        f"which column of {shown(prompt.file)} has the prompt?",
        hint=f"add `text: COLUMN`; columns: {', '.join(names)}",
        path=("file",),
    )


def _known_column(name: str, names: list[str], path: tuple[str | int, ...], *, at_key: bool = False) -> str:
    if name not in names:
        raise Wrong(
            f"the file has no column {name!r}", hint=suggest(name, names, what="columns"), path=path, at_key=at_key
        )
    return name


def rows(prompt: FilePrompt, path: Path) -> Iterator[Row]:
    """The chosen rows of the file at `path`, in order.

    Raises:
        ManifestError: a row is not valid; the error has file and line.
        Wrong: the manifest asks for what the file does not have; the path is from the prompt.
    """
    kind = file_format(prompt)
    names = columns(prompt, path)
    lines = _Lines(path, str(path))
    if not names:
        raise ManifestError("the file has no rows", source=str(path), line=1, hint="a header, then one prompt a row")
    text_name = text_column(prompt, names)
    if prompt.id is not None:
        _known_column(prompt.id, names, ("id",))
    if kind == "txt" and (prompt.where or prompt.id or prompt.image or prompt.mask):
        raise Wrong("a TXT file has no columns", hint="use CSV or JSONL for ids, images and `where`", path=("file",))
    for key, column in (("image", prompt.image), ("mask", prompt.mask)):
        if column is not None:
            _known_column(column, names, (key,))
    for name in prompt.where if kind != "jsonl" else ():
        _known_column(name, names, ("where", name), at_key=True)
    where = [(name, frozenset(values)) for name, values in prompt.where.items()]
    skip, left = prompt.offset, prompt.limit
    with closing(lines.read()) as read:
        if kind == "txt":
            found: Iterator[tuple[int, dict[str, str]]] = _text_rows(lines, read)
        elif kind == "jsonl":
            found = _json_rows(lines, read)
        else:
            found = _table_rows(lines, _records(lines, read, kind))
        for line, cells in found:
            if where and not all(cells.get(name, "") in values for name, values in where):
                continue
            if skip:
                skip -= 1
                continue
            yield _row(lines, line, cells, text_name, prompt)
            if left is not None:
                left -= 1
                if not left:
                    return


def _row(lines: _Lines, line: int, cells: dict[str, str], text_name: str | None, prompt: FilePrompt) -> Row:
    text = ""
    if text_name is not None:
        if text_name not in cells:
            close = nearest(text_name, cells)
            raise lines.error(f"the object has no {text_name!r}", line, f"did you mean {close}?" if close else "add it")
        text = cells[text_name].strip()
        if not text and prompt.template is None:
            raise lines.error(
                f"the prompt (column {text_name!r}) is empty", line, "write one, or leave the row out with `where`"
            )
        hit = UNPRINTABLE.search(text)
        if hit:
            raise lines.error(f"the prompt has the character U+{ord(hit.group()):04X}", line, "remove it")
    given = cells.get(prompt.id, "").strip() if prompt.id else ""
    if prompt.image is None and prompt.mask is None:
        return Row(line, text, given or None, cells)
    image = cells.get(prompt.image, "").strip() if prompt.image else ""
    mask = cells.get(prompt.mask, "").strip() if prompt.mask else ""
    return Row(line, text, given or None, cells, image, mask)


class _Lines:
    """The lines of a file as text; a byte that is not UTF-8 is an error with its place."""

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self.source = source
        self.number = 0

    def read(self) -> Generator[str]:
        try:
            refuse_special(self.path)
            with self.path.open("rb") as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    self.number += 1
                    if len(line) > MAX_LINE_BYTES:
                        raise self.error(
                            f"a line of more than {MAX_LINE_BYTES // 1024**2} MiB", self.number, "is this a text file?"
                        )
                    yield self._text(line)
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def _text(self, line: bytes) -> str:
        if self.number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise self.error("the file is UTF-16, not UTF-8", 1, "save it as UTF-8")
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            column = len(line[: error.start].decode("utf-8", "replace")) + 1
            raise ManifestError(
                f"byte 0x{line[error.start]:02x} is not UTF-8",
                source=self.source,
                line=self.number,
                column=column,
                hint="save the file as UTF-8",
            ) from None

    def error(self, message: str, line: int, hint: str) -> ManifestError:
        return ManifestError(message, source=self.source, line=line, hint=hint)


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a device or a folder: a pipe could be waited for without end, and is empty the second time.

    Raises:
        OSError: it is none of the ordinary files, or not there.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL in the name
        raise OSError(0, str(error)) from None
    if not stat.S_ISREG(mode):
        raise OSError(0, "it is not an ordinary file")


def _unreadable(path: Path, error: OSError) -> Wrong:
    if isinstance(error, FileNotFoundError):
        try:
            beside = [entry.name for _, entry in zip(range(1000), path.parent.iterdir(), strict=False)]
        except OSError:
            beside = []
        close = nearest(path.name, beside)
        hint = f"did you mean {close}? " if close else ""
        return Wrong(f"there is no file {path}", hint=f"{hint}paths are relative to the manifest", path=("file",))
    return Wrong(
        f"{path} cannot be read: {error.strerror or error}", hint="check its kind and permissions", path=("file",)
    )


Records = Iterator[tuple[int, list[str]]]
"""(line where the row starts, its fields) of every row that is not blank, the header first."""


def _records(lines: _Lines, read: Iterator[str], kind: str) -> Records:
    # The limit is the csv module's own global; it only ever keeps a field from being refused for its length.
    csv.field_size_limit(MAX_FIELD_CHARS)
    return _tsv_records(lines, read) if kind == "tsv" else _csv_records(lines, read)


def _csv_records(lines: _Lines, read: Iterator[str]) -> Records:
    reader = csv.reader(read, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise lines.error(f"not a row: {error}", start, _csv_hint(str(error))) from None
        if fields is None:
            return
        if fields:
            yield start, fields


def _tsv_records(lines: _Lines, read: Iterator[str]) -> Records:
    """Both conventions of TSV: quotes enclose fields where that gives as many as the header has; else they are text."""
    ahead: deque[tuple[int, str]] = deque()
    width: int | None = None
    while True:
        if ahead:
            start, line = ahead.popleft()
        else:
            line = next(read, "")
            start = lines.number
            if not line:
                return
        fields = line.rstrip("\r\n").split("\t")
        if fields == [""]:
            continue
        if any(field.startswith('"') for field in fields):
            fields = _quoted(lines, read, line, width, ahead) or fields
        width = width or len(fields)
        yield start, fields


def _quoted(
    lines: _Lines, read: Iterator[str], line: str, width: int | None, ahead: deque[tuple[int, str]]
) -> list[str] | None:
    """The fields of a row with quoted fields, which may go on in the next lines; None if it is no such row.

    `ahead` has the lines that were read and belong to later rows.
    """
    taken: list[tuple[int, str]] = []
    while True:
        try:
            (fields,) = csv.reader([line, *(text for _, text in taken)], delimiter="\t", strict=True)
        except (csv.Error, ValueError) as error:
            if "unexpected end" in str(error) and len(taken) < _MOST_LINES_OF_A_ROW:
                more = ahead.popleft() if ahead else (lines.number + 1, next(read, ""))
                if more[1]:
                    taken.append(more)
                    continue
        else:
            if width is None or len(fields) == width:
                return fields
        ahead.extendleft(reversed(taken))
        return None


def _csv_hint(message: str) -> str:
    if "new-line character" in message:
        return "save the file with ordinary line ends (LF or CRLF)"
    if "expected after" in message:
        return 'a quote within a quoted field is doubled: "say ""hi"""'
    return 'a quote (") that opens a field in this row is never closed; write "" for a quote in a quoted field'


def _header(lines: _Lines, records: Records) -> list[str]:
    first = next(records, None)
    if first is None:
        return []
    line, names = first
    names = [name.strip() for name in names]
    for index, name in enumerate(names):
        if not name:
            raise lines.error(f"column {index + 1} has no name", line, "the first row names the columns")
        if name in names[:index]:
            raise lines.error(f"two columns are called {name!r}", line, "give each column its own name")
    return names


def _table_rows(lines: _Lines, records: Records) -> Iterator[tuple[int, dict[str, str]]]:
    names = _header(lines, records)
    width = len(names)
    for line, fields in records:
        if len(fields) != width:
            raise lines.error(
                f"the row has {len(fields)} field{'s' * (len(fields) != 1)}, and the header has {width}",
                line,
                "a field with a delimiter or a quote in it must be quoted",
            )
        yield line, dict(zip(names, fields, strict=True))


def _text_rows(lines: _Lines, read: Iterator[str]) -> Iterator[tuple[int, dict[str, str]]]:
    for line in read:
        if text := line.strip():
            yield lines.number, {"text": text}


def _json_rows(lines: _Lines, read: Iterator[str]) -> Iterator[tuple[int, dict[str, str]]]:
    for line in read:
        if not line.strip():
            continue
        try:
            # Numbers stay the text that was written, as in a manifest.
            found = json.loads(
                line.strip(), parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_without_duplicates
            )
        except (ValueError, RecursionError) as error:
            column = getattr(error, "colno", None)
            raise ManifestError(
                f"not JSON: {getattr(error, 'msg', error)}",
                source=lines.source,
                line=lines.number,
                column=column,
                hint='one object a line, e.g. {"id": "cat", "text": "A cat"}',
            ) from None
        if not isinstance(found, dict):
            raise lines.error("the line is not an object", lines.number, 'write e.g. {"id": "cat", "text": "A cat"}')
        yield lines.number, {name: _json_text(value) for name, value in found.items()}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _json_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)
