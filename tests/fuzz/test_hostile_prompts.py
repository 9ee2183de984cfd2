"""Prompts, ids and names made to break things, in whole runs: each image once, in its folder, and a quiet terminal.

What was asked is the simulator's word: its bill has a hash of every prompt that reached it.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import pty
import re
import select
import sqlite3
import struct
import subprocess
import sys
import termios
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runner.manifest.problems import UNPRINTABLE
from tests.edges.simulator_support import Peer, running
from tests.engine.command_support import KEY, KEY_VARIABLE, Desk
from tests.fuzz.fuzz_support import HOSTILE_TEXTS

_COLOUR = re.compile(r"\x1b\[(?:0|1|2|31|32|33)m")
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
MORE = [
    "日本語のプロンプト",
    "\u05e9\u05dc\u05d5\u05dd \u202b\u05e2\u05d5\u05dc\u05dd\u202c",
    "one\nline\nafter\nanother",
    "tab\there",
    "carriage\rreturn",
    "\u2066isolated\u2069 \u200emark\u200f",
    "<img src=x onerror=alert(1)>" * 20,
    "a" * 31_999 + "z",
    "👩‍👩‍👧‍👦" * 500,
    "quote \" and ' and ` and \\ and \\n",
    "ends in a backslash \\",
    "a, b; c\td|e",
    "{{ not a template }} {% nor %} {# this #}",
]
IDS = [*dict.fromkeys([*HOSTILE_TEXTS, *MORE, "e\u0301", "é", "a", "A", "a/b", "a\u2215b", "..", "CON", "con"])]
PROMPTS = [t for t in dict.fromkeys(map(str.strip, IDS)) if t and not UNPRINTABLE.search(t) and len(t) <= 32_000]
"""What a model can be asked: the others are refused with their place, which other tests hold."""


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat") as peer:
        yield peer


@pytest.fixture
def desk(server: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    server.call("POST", "/simulator/reset")
    return Desk(tmp_path, server, monkeypatch, capsys)


def quiet(text: str, *, lines: bool = True) -> None:
    """No character in `text` that a terminal would obey, or that turns the line around."""
    odd = {c for c in text if (unicodedata.category(c) == "Cc" and not (lines and c == "\n")) or c in _BIDI}
    assert not odd, odd


def hold(desk: Desk, job: str, prompts: Sequence[str], *, folder: str = "output") -> list[Path]:
    """Every law of a job that is done; its images."""
    billed = Counter(entry["prompt_sha256"] for entry in desk.peer.entries())
    assert billed == Counter(hashlib.sha256(prompt.strip().encode()).hexdigest() for prompt in prompts)
    images = desk.folder / folder / job / "images"
    files = [path for path in images.rglob("*") if not path.is_dir()]
    with closing(sqlite3.connect(desk.folder / folder / "ledger.sqlite3")) as ledger:
        on_record = {path for (path,) in ledger.execute("SELECT path FROM assets")}
    assert {path.relative_to(desk.folder / folder).as_posix() for path in files} == on_record
    assert len(files) == len(prompts)
    for path in files:
        assert path.is_file() and not path.is_symlink()
        assert path.resolve().is_relative_to(images.resolve())
        quiet(str(path), lines=False)
    folded = {unicodedata.normalize("NFC", str(path).casefold()) for path in files}
    assert len(folded) == len(files)
    # Beside the job's folder and the ledger nothing was made.
    made = {path.name for path in (desk.folder / folder).iterdir()}
    assert made <= {
        job,
        "ledger.sqlite3",
        "ledger.sqlite3-wal",
        "ledger.sqlite3-shm",
        ".ledger.sqlite3.locks",
        ".locks",
    } | {name for name in made if name.startswith(".")}
    return files


def views(desk: Desk, job: str, prompts: Sequence[str]) -> None:
    """Whatever looks at a job says it without a character that a terminal obeys; JSON lines are exact."""
    for words in (
        ["status", job],
        ["status"],
        ["costs", job],
        ["plan", f"{job}.yaml"],
        ["verify", job],
        ["retry", job, "--failed"],
    ):
        said = desk.call(*words)
        quiet(said.out)
        quiet(said.err)
        quiet(desk.call(*words, "--json").out)
    exact = desk.call("export", job, "--format", "jsonl")
    quiet(exact.out)
    assert exact.out.isascii()
    rows = [json.loads(line) for line in exact.out.splitlines()]
    assert Counter(row["prompt"] for row in rows) == Counter(prompt.strip() for prompt in prompts)
    spread = desk.call("export", job, "--format", "csv")
    quiet(spread.out.replace("\t", " "))  # a tab within a text moves nothing
    harmless = list(csv.DictReader(spread.out.splitlines(keepends=True)))
    assert len(harmless) == len(rows)
    for row, shown in zip(rows, harmless, strict=True):
        assert (row["key"], row["path"]) == (shown["key"], shown["path"])
        for cell in shown.values():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        if row["prompt"].isprintable() and row["prompt"][0] not in "=+-@":
            assert shown["prompt"] == row["prompt"]
    (log,) = (desk.folder / "output" / job / "logs").iterdir()
    content = log.read_text()
    assert content.isascii()
    quiet(content)


def rows_file(desk: Desk, kind: str, pairs: Sequence[tuple[str, str]]) -> str:
    path = desk.folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in pairs))
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text"])
            writer.writerows(pairs)
    return path.name


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_hostile_rows(desk: Desk, kind: str) -> None:
    """Every hostile text as a prompt, and as an id: all are made, exactly as they were given."""
    pairs = [(name, f"{number} {name}") for number, name in enumerate(IDS) if not UNPRINTABLE.search(name)]
    pairs = [(name, text) for name, text in pairs if len(text) <= 32_000] + [
        (f"p{n}", text) for n, text in enumerate(PROMPTS)
    ]
    file = rows_file(desk, kind, pairs)
    job = desk.manifest(
        "rows", [{"file": file, "text": "text", "id": "id"}], output={"name": "{{ prompt_id }}/{{ key8 }}"}
    )
    said = desk.run(job)
    assert said.code == 0, said.err
    quiet(said.out)
    quiet(said.err)
    prompts = [text for _, text in pairs]
    files = hold(desk, "rows", prompts)
    for path in files:
        # Names are plain ASCII, whatever the ids were.
        assert re.fullmatch(
            r"[A-Za-z0-9_][A-Za-z0-9._-]*[A-Za-z0-9_-]/[0-9a-f]{8}\.png|[A-Za-z0-9_]/[0-9a-f]{8}\.png",
            path.relative_to(desk.folder / "output/rows/images").as_posix(),
        ), path
    views(desk, "rows", prompts)
    again = desk.run(job, "--json")
    assert (again.code, again.summary["requests"]) == (0, 0)


def test_ids_that_json_can_hold_and_a_prompt_cannot(desk: Desk) -> None:
    """NUL, escapes and halves of characters in ids: they are names of files only, and those are safe."""
    pairs = [(name, f"prompt {number}") for number, name in enumerate(IDS)]
    file = rows_file(desk, "jsonl", pairs)
    job = desk.manifest("ids", [{"file": file, "id": "id"}], output={"name": "{{ prompt_id }}/{{ key8 }}"})
    said = desk.run(job)
    assert said.code == 0, said.err
    hold(desk, "ids", [text for _, text in pairs])
    views(desk, "ids", [text for _, text in pairs])


def test_hostile_names_of_the_manifest(desk: Desk) -> None:
    """Ids and axes of the manifest, put together by a template of names."""
    axis = [text for text in PROMPTS if len(text) < 1000][:60]
    job = desk.manifest(
        "names",
        [{"id": "<script>\u202e..", "text": "one {{ tone }}"}, {"id": "=cmd()", "text": "two {{ tone }}"}],
        matrix={"tone": axis},
        output={"name": "{{ tone }}/x{{ prompt_id }}.{{ tone | upper }}y/{{ key8 }}"},
    )
    said = desk.run(job)
    assert said.code == 0, said.err
    prompts = [f"{word} {tone}" for word in ("one", "two") for tone in axis]
    hold(desk, "names", prompts)
    views(desk, "names", prompts)


CLOSE = [
    ("a", "A"),
    ("é", "e\u0301"),
    ("ß", "SS"),
    ("ß", "ss"),
    ("K", "k"),
    ("İ", "i"),
    ("\u0131", "i"),
    ("\u017f", "s"),
    ("a", "a."),
    ("a", "a "),
    ("a", "a\u200b"),
    ("a/b", "a-b"),
    ("a/b", "a\\b"),
    ("a\u2215b", "a/b"),
    ("..", "."),
    ("CON", "con"),
    ("aux.txt", "aux.jpg"),
    ("ﬀ", "ff"),
    ("x" * 300, "x" * 301),
    ("é" * 150, "é" * 151),
    ("\x1b[31m", "[31m"),
    ("👩", "👨"),
    ("日本", "中国"),
]


@pytest.mark.parametrize(("one", "two"), CLOSE, ids=[f"{one[:8]!a}-{two[:8]!a}" for one, two in CLOSE])
def test_ids_that_are_nearly_one(desk: Desk, one: str, two: str) -> None:
    """Two ids that some file system takes for one are two files, or refused with both places before a request."""
    file = rows_file(desk, "jsonl", [(one, "first"), (two, "second")])
    job = desk.manifest("close", [{"file": file, "id": "id"}], output={"name": "{{ prompt_id }}"})
    said = desk.run(job)
    quiet(said.err)
    if said.code == 0:
        hold(desk, "close", ["first", "second"])
    else:
        assert said.code == 2
        assert "rows.jsonl:2: two tasks would be written to the file" in said.err
        assert "rows.jsonl:1" in said.err
        assert desk.requests() == 0


def in_a_terminal(desk: Desk, *words: str, **environment: str) -> tuple[int, str]:
    """A command line in a terminal of its own; everything that the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNNER_", "OPENAI_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=desk.folder,
        env={**kept, "TERM": "xterm-256color", KEY_VARIABLE: KEY, **environment},
    )
    os.close(theirs)
    seen = b""
    try:
        while True:
            select.select([ours], [], [])
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side has gone
                break
            if not piece:
                break
            seen += piece
    finally:
        os.close(ours)
        code = process.wait()
    return code, seen.decode("utf-8")


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["plain", "no colour"])
def test_a_terminal_obeys_nothing_of_a_strangers(desk: Desk, environment: dict[str, str]) -> None:
    """Through the bar, failures, warnings and the summary: no escape but our own colours, no direction mark."""
    evil = ["\x1b]0;owned\x07", "\x1b[2J", "\u202egnp.exe", "\x9b31m", "\r\x1b[A", "\u2066x"]
    refusals = [
        f"[[fault:moderation]] {number} \u202e {text}" for number, text in enumerate(["a", "b\rc", "\u2066d\u2069"])
    ]
    pairs = [(name, f"prompt {number}") for number, name in enumerate(evil)]
    pairs += [(f"r{name}", text) for name, text in zip(evil, refusals, strict=False)]
    file = rows_file(desk, "jsonl", pairs)
    job = desk.manifest("seen", [{"file": file, "id": "id"}], description="\u202e")
    code, seen = in_a_terminal(desk, "run", job, *desk.to_peer, **environment)
    assert code == 4, seen
    assert "%|" in seen  # the bar was shown
    assert "\x1b[" not in seen or "NO_COLOR" not in environment
    for words in (["export", "seen"], ["plan", job, "--set", "\x1b]0;x\x07\u202e"]):
        seen += in_a_terminal(desk, *words, **environment)[1]
    plain = _COLOUR.sub("", seen)
    odd = {c for c in plain if (unicodedata.category(c) == "Cc" and c not in "\r\n") or c in _BIDI}
    assert not odd, odd


INVALID: list[tuple[str, int]] = [
    ("", 1),
    ("name: a\n", 1),
    ("- a\n", 1),
    ("just text\n", 1),
    ("name: a\nprompts: []\n", 2),
    ("name: a\nprompts:\n", 2),
    ("name: a\nprompts: [A\n", 2),
    ("name: a\nprompts: [A cat]\nprompts: [A dog]\n", 3),
    ("name: a\nprompts: [A cat]\n\tsamples: 2\n", 3),
    ("name: a\nprompts: [A cat]\nsample: 2\n", 3),
    ("name: a\nprompts: [A cat]\nsamples: 0\n", 3),
    ("name: a\nprompts: [A cat]\nsamples: 1001\n", 3),
    ("name: a\nprompts: [A cat]\nsamples: two\n", 3),
    ("name: a\nprompts: [A cat]\nsamples: 1.5\n", 3),
    ("name: ../a\nprompts: [A cat]\n", 1),
    ("name: a/b\nprompts: [A cat]\n", 1),
    ("name: CON\nprompts: [A cat]\n", 1),
    ('name: "a\\e[31m"\nprompts: [A cat]\n', 1),
    ("name: a\nversion: 2\nprompts: [A cat]\n", 2),
    ("name: a\nmodel: nope\nprompts: [A cat]\n", 2),
    ("name: a\nprovider: nope\nprompts: [A cat]\n", 2),
    ("name: a\nfallback_model: nope\nprompts: [A cat]\n", 2),
    ("name: a\nprompts: ['A {{ x }}']\n", 2),
    ("name: a\nprompts: ['A {{ x']\n", 2),
    ("name: a\nprompts: [\"{{ ''.__class__ }}\"]\n", 2),
    ("name: a\nprompts: [\"{{ 'a' * 1000000000 }}\"]\n", 2),
    ("name: a\nprompts: [\"{{ '\\\\x1b[2J' }}\"]\n", 2),
    ("name: a\nprompts: ['{% for i in range(9) %}']\n", 2),
    ("name: a\nprompts:\n  - {text: A, id: x}\n  - {text: B, id: x}\n", 4),
    ("name: a\nprompts:\n  - A cat\n  - A cat\n", 4),
    ("name: a\nprompts: [{file: missing.csv}]\n", 2),
    ("name: a\nprompts: [{file: pipe.csv}]\n", 2),
    ("name: a\nprompts: [{file: /dev/zero, format: txt}]\n", 2),
    ("name: a\nprompts: [{file: rows.xyz}]\n", 2),
    ("name: a\nprompts: [{txt: A}]\n", 2),
    ("name: a\nprompts: [{text: A, settings: {size: 9x9}}]\n", 2),
    ("name: a\nprompts: [A cat]\nsettings: {size: huge}\n", 3),
    ("name: a\nprompts: [A cat]\nsettings: {quality: best}\n", 3),
    ("name: a\nprompts: [A cat]\nsettings: {output_format: bmp}\n", 3),
    ("name: a\nprompts: [A cat]\nsettings: {output_compression: 101}\n", 3),
    ("name: a\nprompts: [A cat]\nmatrix: {x: [1, 2]}\n", 3),
    ("name: a\nprompts: [A cat]\nmatrix: {quality: [low, low]}\n", 3),
    ("name: a\nprompts: [A cat]\nmatrix: {quality: [low], exclude: [{quality: low}]}\n", 3),
    ("name: a\nprompts: [A cat]\nmatrix: {quality: [low, medium]}\noutput: {name: '{{ prompt_id }}'}\n", 4),
    ("name: a\nprompts: [A cat]\noutput: {name: ../x}\n", 3),
    ("name: a\nprompts: [A cat]\noutput: {name: /x}\n", 3),
    ("name: a\nprompts: [A cat]\noutput: {name: 'a\\b'}\n", 3),
    ("name: a\nprompts: [A cat]\noutput: {name: aux.x}\n", 3),
    ("name: a\nprompts: [A cat]\nbudget: {usd: -1}\n", 3),
    ("name: a\nprompts: [A cat]\nbudget: {usd: many}\n", 3),
    ("name: a\nprompts: [A cat]\nbudget: {usd: .nan}\n", 3),
    ("name: a\nprompts: [A cat]\nlimits: {tier: 9}\n", 3),
    ("name: a\nprompts: [A cat]\nlimits: {images_per_minute: 0}\n", 3),
    ("name: a\nprompts: [A cat]\ntimeouts: {total_s: .inf}\n", 3),
    ("name: a\nprompts: [A cat]\ndelivery: pigeon\n", 3),
    ("name: a\nprompts: [A cat]\nmodel: gpt-image-2.6-flare\ndelivery: batch\n", 3),
    ("name: a\nprompts: [A cat]\nbatch: {after: 20h}\n", 3),
    ("name: a\nprompts: &p [*p]\n", 2),
    ("name: a\nprompts: !!python/object/apply:os.system [id]\n", 2),
    ("name: a\nprompts: [A cat]\n---\nname: b\n", 3),
    ('name: a\nprompts: ["\\UFFFFFFFF"]\n', 2),
    ("name: a\nprompts: [A \x1b[2J]\n", 2),
    ("name: a\nprompts: [" + "x" * 32_001 + "]\n", 2),
]


@pytest.mark.parametrize(("text", "line"), INVALID, ids=[str(number) for number in range(len(INVALID))])
def test_an_invalid_manifest_sends_nothing(desk: Desk, text: str, line: int) -> None:
    """Exit code 2, the file and the line, no request, no folder of images, and the next right thing to do."""
    os.mkfifo(desk.folder / "pipe.csv")
    (desk.folder / "rows.xyz").write_text("A cat\n")
    (desk.folder / "job.yaml").write_text(text)
    said = desk.run("job.yaml")
    assert said.code == 2, said.err
    assert f"job.yaml:{line}:" in said.err
    assert "hint:" in said.err
    quiet(said.err)
    assert said.out == ""
    assert desk.requests() == 0
    assert not list(desk.folder.glob("output/*/images/*"))
    plan: Any = desk.call("plan", "job.yaml", "--json")
    assert plan.code == 2
    assert plan.entries[-1]["line"] == line


ROWS: list[tuple[str, bytes, int]] = [
    ("csv", b"id,text\na,A cat\nb\n", 3),
    ("csv", b"id,text\na,A cat\nb,\x1b[2J\n", 3),
    ("csv", b'id,text\na,A cat\nb,"never closed\n', 3),
    ("jsonl", b'{"text": "A cat"}\n{"text": }\n', 2),
    ("jsonl", b'{"text": "A cat"}\n{"text": "\\ud800"}\n', 2),
    ("jsonl", b'{"text": "A cat"}\n{"text": "A cat"}\n', 2),
    ("txt", b"A cat\n\xff\xfe\n", 2),
    ("txt", b"A cat\n" + b"x" * 32_001 + b"\n", 2),
]


@pytest.mark.parametrize(("kind", "content", "line"), ROWS, ids=[f"{kind}-{n}" for n, (kind, _, _) in enumerate(ROWS)])
def test_an_invalid_row_sends_nothing(desk: Desk, kind: str, content: bytes, line: int) -> None:
    """The whole file is read before the first request: a mistake in its last row costs nothing."""
    (desk.folder / f"rows.{kind}").write_bytes(content)
    said = desk.run(desk.manifest("rows", [{"file": f"rows.{kind}"}]))
    assert said.code == 2, said.err
    assert f"rows.{kind}:{line}" in said.err
    quiet(said.err)
    assert desk.requests() == 0
