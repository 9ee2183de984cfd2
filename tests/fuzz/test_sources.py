"""Whatever a prompt file holds, each of its rows is a prompt that can be sent, or is refused with its line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import manifest
from runner.errors import ManifestError
from tests.fuzz.fuzz_support import HOSTILE_TEXTS, mutated, search, texts, values, watched
from tests.fuzz.manifest_support import CATALOG, FILES, hold

KINDS = ["csv", "tsv", "jsonl", "txt"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"text": "title"},
    {"text": "prompt", "id": "slug"},
    {"id": "id"},
    {"template": "{{ text }}, {{ row | length }}"},
    {"template": "{{ row['Alt text'] }} {{ title }}", "text": "title", "id": "slug"},
    {"where": {"kind": ["a", ""]}},
    {"offset": 1, "limit": 2},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


def read(folder: Path, kind: str, content: bytes, options: dict[str, Any]) -> Any:
    """What becomes of a job whose prompts are in a file with this content."""
    (folder / "rows").write_bytes(content)
    job = {
        "name": "a",
        "prompts": [{"file": "rows", "format": kind, **options}],
        "output": {"name": "{{ prompt_id }}-{{ index }}"},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    return hold(path)


@search(300)
@given(kind=st.sampled_from(KINDS), content=mutated(list(FILES.values())), options=st.sampled_from(OPTIONS))
def test_mutated_files(folder: Path, kind: str, content: bytes, options: dict[str, Any]) -> None:
    """Good files of one kind, damaged, and read as any kind."""
    with watched():
        read(folder, kind, content, options)


@search(150)
@given(kind=st.sampled_from(KINDS), content=st.binary(max_size=300), options=st.sampled_from(OPTIONS))
def test_any_bytes(folder: Path, kind: str, content: bytes, options: dict[str, Any]) -> None:
    """What is no text at all."""
    with watched():
        read(folder, kind, content, options)


@search(60)
@given(rows=st.lists(st.dictionaries(texts | st.sampled_from(["text", "id"]), values, max_size=4), max_size=4))
def test_hostile_objects(folder: Path, rows: list[dict[str, Any]]) -> None:
    """JSON Lines with every kind of value, NaN and lone surrogates among them, as their escapes and as they are."""
    for ascii_only in (True, False):
        lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        with watched():
            read(folder, "jsonl", content, {"text": "text", "id": "id"})
            read(folder, "jsonl", content, {"template": "{{ row.text }}{% for k in row %}{{ row[k] }}{% endfor %}"})


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_a_hostile_row(folder: Path, text: str) -> None:
    """A prompt of a file is sent as it stands, without the spaces around it, or it is refused with its line."""
    found = read(folder, "jsonl", json.dumps({"id": text, "text": text}).encode(), {"id": "id"})
    if isinstance(found, ManifestError):
        assert (Path(found.source).name, found.line) == ("rows", 1)
        assert not text.strip() or len(text) > 32_000 or not text.isprintable()
    else:
        (task,) = found
        assert task.request.prompt == text.strip()


def nested(depth: int) -> bytes:
    return b'{"text": "a", "x": ' + b"[" * depth + b"]" * depth + b"}"


BAD = {
    "a line without an end": ("txt", b"x" * (10 * 1024 * 1024)),
    "a field without an end": ("csv", b'prompt\n"' + b"x\n" * (5 * 1024 * 1024)),
    "a quote that is never closed": ("csv", b'prompt,id\n"A cat,1\nA dog,2\n'),
    "a quote within": ("csv", b'prompt,id\n"A "big" cat",1\n'),
    "ragged": ("csv", b"prompt,id\nA cat\n"),
    "too wide": ("tsv", b"prompt\tid\nA\tb\tc\n"),
    "a header twice": ("csv", b"prompt,prompt\na,b\n"),
    "a header without a name": ("csv", b"prompt,,x\na,b,c\n"),
    "a lone carriage return": ("csv", b"prompt,id\ra,b\rc\n"),
    "empty": ("csv", b""),
    "blank": ("jsonl", b"\n\n \n"),
    "broken UTF-8": ("txt", b"fine\n\xc3\x28\n"),
    "UTF-16": ("csv", "prompt\na\n".encode("utf-16")),
    "NUL": ("txt", b"a\x00b\n"),
    "an escape sequence": ("csv", b"prompt\n\x1b[2Ja\n"),
    "a C1 control": ("txt", "a\x9b2Jb\n".encode()),
    "half a character": ("jsonl", b'{"text": "\\ud800"}\n'),
    "deep": ("jsonl", nested(100_000)),
    "a list": ("jsonl", b"[1, 2]\n"),
    "a name twice": ("jsonl", b'{"text": "a", "text": "b"}\n'),
    "two objects": ("jsonl", b'{"text": "a"} {"text": "b"}\n'),
    "a prompt too long": ("txt", b"x" * 32_001),
    "nothing but spaces": ("csv", b'prompt\n"   "\n'),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file(folder: Path, what: str) -> None:
    """Refused, in words, at a line of the file."""
    kind, content = BAD[what]
    with watched():
        found = read(folder, kind, content, {})
    assert isinstance(found, ManifestError)
    assert Path(found.source).name == "rows"
    assert found.line


@pytest.mark.parametrize(
    "content",
    [
        b'{"text": "a", "n": ' + b"9" * 100_000 + b"}",
        b'{"text": "a", "n": [' + b"9" * 100_000 + b"]}",
        b'{"text": "a", "n": 1e999999999}',
        b'{"text": "a", "n": NaN, "m": [-Infinity]}',
        nested(500),
        b'{"text": "a"' + b"".join(b', "k%d": 1' % n for n in range(20_000)) + b"}",
    ],
    ids=["digits", "digits in a list", "an exponent", "no numbers", "nested", "many names"],
)
def test_a_row_with_odd_columns(folder: Path, content: bytes) -> None:
    """What stands beside the prompt is text, whatever it is, and does no harm."""
    with watched():
        found = read(folder, "jsonl", content, {"text": "text", "template": "{{ text }} {{ row | length }}"})
    assert not isinstance(found, ManifestError) and len(found) == 1


def test_a_column_cannot_bring_in_what_a_prompt_cannot_hold(folder: Path) -> None:
    """Through a template, too, no control character and no half of a character reaches a prompt."""
    for bad in ("\\u001b[2J", "\\u0000", "\\ud83d", "\\u009b"):
        content = b'{"text": "a", "x": "%s"}' % bad.encode()
        for template in ("{{ x }}", "{{ row.x | upper }}"):
            found = read(folder, "jsonl", content, {"template": template})
            assert isinstance(found, ManifestError)
            assert "the prompt has the character U+" in found.message
            assert found.line == 1


def test_a_prompt_file_that_is_no_file(folder: Path) -> None:
    """A pipe is never waited for, a device never read to its end; the place is the manifest's."""
    os.mkfifo(folder / "pipe.csv")
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    (folder / "folder.csv").mkdir()
    names = ["pipe.csv", "loop.csv", "folder.csv", "/dev/zero", "/dev/stdin", "n" * 300 + ".csv", "missing.csv"]
    for name in names:
        path = folder / "job.yaml"
        path.write_text(json.dumps({"name": "a", "prompts": [{"file": name, "format": "csv"}]}))
        with watched(), pytest.raises(ManifestError) as caught:
            manifest.load(path, catalog=CATALOG)
        assert (caught.value.source, caught.value.line) == (str(path), 1)
        assert caught.value.hint


def test_a_file_changed_after_it_was_judged(folder: Path) -> None:
    """It vanishes, or becomes a pipe, between loading and expanding: an error, not a wait."""
    rows = folder / "late.csv"
    path = folder / "job.yaml"
    path.write_text(json.dumps({"name": "a", "prompts": [{"file": "late.csv"}]}))
    for becomes_a_pipe in (False, True):
        rows.unlink(missing_ok=True)
        rows.write_text("prompt\nA cat\n")
        loaded = manifest.load(path, catalog=CATALOG)
        rows.unlink()
        if becomes_a_pipe:
            os.mkfifo(rows)
        with watched(), pytest.raises(ManifestError):
            list(manifest.expand(loaded, simulated=False))
        with watched(), pytest.raises(ManifestError):
            loaded.digest(simulated=False)


def test_a_large_file_of_long_rows_stays_small_in_memory(folder: Path) -> None:
    """60 MB of rows, one of them held at a time."""
    with (folder / "large.jsonl").open("wb") as file:
        for number in range(30):
            file.write(b'{"text": "a %d", "x": "' % number + b"x" * 2_000_000 + b'"}\n')
    (folder / "job.yaml").write_text(json.dumps({"name": "a", "prompts": [{"file": "large.jsonl", "text": "text"}]}))
    child = (
        "import resource, sys; from pathlib import Path; from tests.fuzz.manifest_support import CATALOG, hold\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert len(hold(Path(sys.argv[1]))) == 30\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", child, str(folder / "job.yaml")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 40_000
