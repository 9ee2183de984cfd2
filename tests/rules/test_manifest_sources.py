"""Prompt files: rows as they stand, streamed, and every bad row told with its line."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import pytest

from runner import manifest
from tests.rules.manifest_data import job, refused, tasks


def write(folder: Path, name: str, content: str | bytes) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def found(folder: Path, entry: str) -> list[tuple[str, int | None]]:
    """(prompt, line) of every task of a manifest with this one entry."""
    return [(t.request.prompt, t.origin.line) for t in tasks(job(f"prompts: {entry}", base_dir=folder))]


def test_quotes_newlines_and_a_bom(tmp_path: Path) -> None:
    """Fields keep delimiters, doubled quotes and line breaks; lines are where rows start, blank lines counted."""
    write(tmp_path, "p.csv", '\ufeffprompt,n\r\n"A ""red"", round\r\nball",1\r\n\r\n"x, y",2\r\n  z  ,3\r\n')
    assert found(tmp_path, "{file: p.csv}") == [('A "red", round\r\nball', 2), ("x, y", 5), ("z", 6)]


def test_tsv_and_the_column_by_its_name(tmp_path: Path) -> None:
    """The prompt's column is found by name, whatever its case; others can be chosen."""
    write(tmp_path, "p.tsv", "Category\tPrompt\nfood\ta bun, sliced\n")
    assert found(tmp_path, "{file: p.tsv}") == [("a bun, sliced", 2)]
    assert found(tmp_path, "{file: p.tsv, text: Category}") == [("food", 2)]


def test_tsv_has_two_conventions_for_quotes(tmp_path: Path) -> None:
    """A quoted field may hold tabs and line breaks; a quote that encloses no whole field is an ordinary sign."""
    write(
        tmp_path,
        "p.tsv",
        'text\tn\n"A ""b""\tc\nd"\t1\n"G I G" on a wall\t2\n\n5" tall\t3\n"never closed\t4\nlast "one"\t5\n"x"\t6\n',
    )
    assert found(tmp_path, "{file: p.tsv}") == [
        ('A "b"\tc\nd', 2),
        ('"G I G" on a wall', 4),
        ('5" tall', 6),
        ('"never closed', 7),
        ('last "one"', 8),
        ("x", 9),
    ]


def test_jsonl(tmp_path: Path) -> None:
    """One object a line; numbers are the text that was written; keys may differ from line to line."""
    write(tmp_path, "p.jsonl", '{"text": "A", "n": 1.50}\n\n{"n": 2, "text": "B", "tags": ["x"]}\n{"text": 7}\n')
    assert found(tmp_path, "{file: p.jsonl}") == [("A", 1), ("B", 3), ("7", 4)]
    assert found(tmp_path, "{file: p.jsonl, where: {n: 1.50}}") == [("A", 1)]


def test_txt(tmp_path: Path) -> None:
    """One prompt a line; blank lines are left out, and nothing is a comment."""
    write(tmp_path, "p.txt", "A cat\n\n# a hash\r\n  B  ")
    assert found(tmp_path, "{file: p.txt}") == [("A cat", 1), ("# a hash", 3), ("B", 4)]


def test_a_row_is_data_and_never_a_template(tmp_path: Path) -> None:
    """What a stranger wrote into a file is sent as it stands."""
    write(tmp_path, "p.txt", "{{ size }} {% raw\n")
    assert found(tmp_path, "{file: p.txt}") == [("{{ size }} {% raw", 1)]
    assert found(tmp_path, "{file: p.txt, template: 'See {{ text }}'}") == [("See {{ size }} {% raw", 1)]


def test_templates_over_columns(tmp_path: Path) -> None:
    """Columns with plain names are variables; all are under `row`; variables of the manifest win over columns."""
    write(tmp_path, "p.csv", "title,Alt text,light,items\nBun,a b,dim,3\n")
    entry = (
        "{file: p.csv, template: '{{ text }}|{{ title }}|{{ row[\"Alt text\"] }}|{{ row.items }}|{{ light }}|{{ x }}',"
        " vars: {light: neon, x: [1, 2]}}"
    )
    assert [text for text, _ in found(tmp_path, entry)] == ["Bun|Bun|a b|3|neon|1", "Bun|Bun|a b|3|neon|2"]


def test_where_offset_and_limit(tmp_path: Path) -> None:
    """Rows are chosen by value, then some are left out, then counted."""
    write(tmp_path, "p.csv", "text,kind\n" + "".join(f"t{n},{'abc'[n % 3]}\n" for n in range(12)))
    entry = "{file: p.csv, where: {kind: [a, b]}, offset: 1, limit: 3}"
    assert [text for text, _ in found(tmp_path, entry)] == ["t1", "t3", "t4"]
    assert found(tmp_path, "{file: p.csv, where: {kind: z}}") == []


def test_ids_of_rows(tmp_path: Path) -> None:
    """A row's id is made safe for a path; a row without one is named after its text."""
    write(tmp_path, "p.csv", "text,key\nA cat,../../etc\nA dog,\nA bird,Vogel 7\n")
    names = [task.name for task in tasks(job("prompts: {file: p.csv, id: key}", base_dir=tmp_path))]
    assert names[0] == "etc/auto-auto-1.png"
    assert names[1].startswith("a-dog-")
    assert names[2] == "Vogel-7/auto-auto-1.png"


BAD = {
    "empty text": ("p.csv", "text,n\nA,1\n ,2\n", "{file: p.csv}", "3", "'text') is empty"),
    "short row": ("p.csv", "text,n\nA,1\nB\n", "{file: p.csv}", "3", "1 field, and the header has 2"),
    "long row": ("p.csv", 'text,n\n"A\nB",1\nB,2,3\n', "{file: p.csv}", "4", "3 fields"),
    "two columns": ("p.csv", "text,text\nA,1\n", "{file: p.csv}", "1", "two columns are called 'text'"),
    "nameless column": ("p.csv", "text,\nA,1\n", "{file: p.csv}", "1", "column 2 has no name"),
    "no header": ("p.csv", "\n\n", "{file: p.csv}", "1", "no rows"),
    "not UTF-8": ("p.csv", b"text\nA\nB\xff\n", "{file: p.csv}", "3:2", "0xff"),
    "UTF-16": ("p.csv", "text\nA\n".encode("utf-16"), "{file: p.csv}", "1", "UTF-16"),
    "open quote": ("p.csv", 'text\nA\n"B\nC\n', "{file: p.csv}", "3", "not a row"),
    "stray quote": ("p.csv", 'text\nA\n"B"c\n', "{file: p.csv}", "3", "not a row"),
    "control character": ("p.csv", "text\nA\nB\x07\n", "{file: p.csv}", "3", "U+0007"),
    "too long": ("p.txt", "A\n" + "x" * 32_001 + "\n", "{file: p.txt}", "2", "32,001 characters"),
    "no JSON": ("p.jsonl", '{"text": "A"}\n{"text": \n', "{file: p.jsonl}", "2:9", "not JSON"),
    "no object": ("p.jsonl", '{"text": "A"}\n[1]\n', "{file: p.jsonl}", "2", "not an object"),
    "name twice": ("p.jsonl", '{"text": "A", "text": "B"}\n', "{file: p.jsonl}", "1", "twice"),
    "key missing": ("p.jsonl", '{"text": "A"}\n{"txt": "B"}\n', "{file: p.jsonl}", "2", "no 'text'"),
    "template": (
        "p.jsonl",
        '{"text": "A", "x": 1}\n{"text": "B"}\n',
        "{file: p.jsonl, template: '{{ x }}'}",
        "2",
        "'x'",
    ),
}


@pytest.mark.parametrize(("name", "content", "entry", "place", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_told_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, entry: str, place: str, message: str
) -> None:
    """The source is the file, the line is where the row starts."""
    write(tmp_path, name, content)
    error = refused(f"name: a\nprompts: {entry}\n", base_dir=tmp_path)
    assert error.place == f"{tmp_path / name}:{place}"
    assert message in error.message


@pytest.mark.parametrize(
    ("entry", "column", "message", "hint"),
    [
        ("{file: p.csv, text: titel}", 30, "no column 'titel'", "did you mean title?"),
        ("{file: p.csv, text: title, id: kye}", 41, "no column 'kye'", "did you mean key?"),
        ("{file: p.csv, text: title, where: {kye: 1}}", 45, "no column 'kye'", "did you mean key?"),
        ("{file: q.csv}", 17, "which column", "columns: one, two"),
        ("{file: r.csv}", 17, "no file", "did you mean "),
        ("{file: folder, format: csv}", 17, "cannot be read", "kind and permissions"),
    ],
)
def test_a_wish_that_the_file_cannot_grant_is_told_in_the_manifest(
    tmp_path: Path, entry: str, column: int, message: str, hint: str
) -> None:
    """The mistake is in the manifest, so its place is there, on the word itself."""
    write(tmp_path, "p.csv", "title,key\nA,1\n")
    write(tmp_path, "q.csv", "one,two\nA,1\n")
    (tmp_path / "folder").mkdir()
    error = refused(f"name: a\nprompts: {entry}\n", base_dir=tmp_path)
    assert error.place == f"job.yaml:2:{column}"
    assert message in error.message
    assert hint in (error.hint or "")


def test_first_rows_are_judged_when_loading(tmp_path: Path) -> None:
    """A wrong header or first row shows at once; the others when the job is expanded, before anything is sent."""
    write(tmp_path, "p.csv", "text\n" + "A\n" * 5 + "\xff")
    loaded = job("prompts: {file: p.csv}", base_dir=tmp_path)
    assert len(loaded.prompts) == 1


def test_big_fields(tmp_path: Path) -> None:
    """A field larger than the csv module's own limit is only a long field."""
    write(tmp_path, "p.csv", "text,notes\nA," + "n" * 300_000 + "\n")
    assert found(tmp_path, "{file: p.csv}") == [("A", 2)]


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    """Law 8: memory does not grow with the number of tasks."""
    with (tmp_path / "p.csv").open("w") as file:
        file.write("id,text\n")
        file.writelines(f"{n},A lighthouse at dusk and a number of words more {n}\n" for n in range(200_000))
    loaded = job("prompts: {file: p.csv, id: id}\n", base_dir=tmp_path)
    count, early_blocks, late_blocks, peak_bytes = 0, 0, 0, 0
    tracemalloc.start()
    for _ in manifest.expand(loaded, simulated=False):
        count += 1
        if count == 10_000:
            peak_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            early_blocks = sys.getallocatedblocks()
        elif count == 199_999:
            late_blocks = sys.getallocatedblocks()
    assert count == 200_000
    assert peak_bytes < 1_000_000
    assert late_blocks - early_blocks < 1_000
