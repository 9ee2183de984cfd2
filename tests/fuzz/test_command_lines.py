"""Whatever is typed, runner ends with a code of its list, in words that a terminal obeys not, in its own folder."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.app import app, run_app
from tests.fuzz.fuzz_support import HOSTILE_TEXTS, search, texts, watched

CODES = {0, 1, 2, 4, 5, 6, 7, 8, 130}
GROUP = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands  # type: ignore[attr-defined]  # the application has several commands
CLOSED = "http://127.0.0.1:1/v1"
JOB = """\
name: small
model: gpt-image-2
prompts: [A cat, {id: dog, text: "A dog, {{ tone }}", vars: {tone: [warm, cold]}}]
settings: {size: 1024x1024, quality: low}
limits: {images_per_minute: 1000000}
retry: {attempts: 1, billed_attempts: 1, base_s: 0.001, max_s: 0.001}
timeouts: {connect_s: 1, first_byte_s: 1, stall_s: 1, total_s: 2}
"""


def tame(text: str) -> str:
    """A value that can be an argument, and leads nowhere outside: these tests may run as root."""
    return text.replace("\0", "").replace("/", "\u2215")


hostile = st.one_of(st.sampled_from(HOSTILE_TEXTS), texts).map(tame)
paths = st.sampled_from(
    [
        "output",
        "job.yaml",
        "bad.yaml",
        "rows.csv",
        "missing",
        ".",
        "..",
        "../..",
        "a/b/c",
        "a/../b",
        "job.yaml/x",
        "./",
        "new.yaml",
        "deep/er/new.yml",
        "output/ledger.sqlite3",
        "output/small",
        "n" * 300,
        "n" * 300 + ".yaml",
        "pipe",
        "sqlite:///output/x.db",
        "postgres://x/y",
        "sqlite:///",
        "own.yaml",
        "loop",
        "��",
        "\x1b[31m.yaml",
        "\u202elmay.yaml",
    ]
)
numbers = st.sampled_from(
    ["0", "1", "-1", "2.50", "$3", "1e3", "1e400", "1e999999999", "NaN", "inf", "-0", "", "99999999999999999999", "٣"]
)
SETTINGS = [
    "samples=2",
    "matrix.quality=[low]",
    "prompts.0=B",
    "budget.usd=0",
    "name=other",
    "name=../x",
    "samples=0",
    "x",
    "=",
    "a=b",
]
SETTINGS += [
    "matrix.zip=5",
    "output.name={{ nope }}",
    "prompts=[]",
    "model=gpt-image-1",
    "model=dall-e-3",
    "limits.tier=9",
    "vars={a: [1]}",
]
SETTINGS += [
    "output.name=../../x",
    "output.name='/x'",
    "name='a\x1b[31m'",
    "limits.images_per_minute=1.0e-300",
    "settings.size=9x9",
]
WORDS: dict[str, st.SearchStrategy[str]] = {
    "job": st.sampled_from(["job.yaml", "small", "job.yaml", "small"]) | paths | hostile,
    "path": paths | hostile,
    "provider": st.sampled_from(["openai", "simulator", "cometapi"]) | hostile,
    "base_url": st.sampled_from(
        [CLOSED, CLOSED, "http:", "https://[::1", "ftp://x", "http://u:p@127.0.0.1:1", "http://127.0.0.1:99999"]
    )
    | hostile,
    "api_key_env": st.sampled_from(["SOME_KEY", "ODD_KEY", "LINE_KEY", "", "="]) | hostile,
    "overrides": st.sampled_from(SETTINGS) | hostile,
    # Whoever names a pipe to write to waits for its reader.
    "to": paths.filter(lambda path: path != "pipe"),
}
for _name in ("output", "ledger", "catalog", "bill"):
    WORDS[_name] = paths | hostile
for _name, _choices in {
    "by": ["job", "day", "model", "size", "quality"],
    "form": ["csv", "jsonl"],
    "in_doubt": ["retry", "hold"],
}.items():
    WORDS[_name] = st.sampled_from(_choices) | hostile


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """The words of one command line."""
    name = draw(st.sampled_from([n for n in COMMANDS if n != "simulate"]))
    words = [name]
    base_url_given = False
    for parameter in COMMANDS[name].params:
        value = WORDS.get(parameter.name, numbers | hostile)
        if parameter.param_type_name == "argument":
            if parameter.required or draw(st.booleans()):
                words.append(draw(value))
            continue
        if "--help" in parameter.opts or draw(st.integers(0, 3)):
            continue
        option = draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts]))
        base_url_given |= parameter.name == "base_url"
        words.append(option)
        if not parameter.is_flag:
            words.append(draw(value))
    if name in ("run", "resume", "doctor") and not base_url_given:
        words += ["--base-url", CLOSED]
    for _ in range(draw(st.integers(0, 2)) // 2):
        at = draw(st.integers(0, len(words)))
        words.insert(
            at,
            draw(
                hostile
                | st.sampled_from(["--", "-", "--no-such", "-z\x1b[31m", "--json=\x1b[2J", "--help", "\x1b]0;x\x07"])
            ),
        )
    return words


environments = st.fixed_dictionaries(
    {},
    optional={
        "RUNNER_OUTPUT": paths | hostile,
        "RUNNER_LEDGER": paths | hostile,
        "COLUMNS": numbers | hostile,
        "LINES": numbers,
        "NO_COLOR": hostile,
        "TERM": hostile,
        "OPENAI_API_KEY": hostile
        | st.sampled_from(["sk-a\nb", "sk-a\r\nX-Evil: 1", "sk-é", " ", "sk-" + "a" * 10_000]),
        "COMETAPI_KEY": hostile,
        "OPENAI_BASE_URL": st.just(CLOSED) | hostile,
        "LC_ALL": st.sampled_from(["C", "tr_TR.UTF-8", "no such"]),
        "TZ": hostile,
    },
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after a run: a manifest, a ledger with failures, and things that are in the way."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "job.yaml").write_text(JOB)
    (folder / "bad.yaml").write_text("name: bad\nprompts: [A {{ x }}\n")
    (folder / "own.yaml").write_text("prices: [{provider: openai}]\n")
    (folder / "rows.csv").write_text("prompt\nA cat\n")
    with mock.patch.dict(os.environ, {"SOME_KEY": "sk-some-key"}), contextlib.chdir(folder):
        words = ["run", "job.yaml", "--base-url", CLOSED, "--api-key-env", "SOME_KEY"]
        code, _, err = call(words)
    assert code == 4, err
    return folder


def call(words: list[str]) -> tuple[int, str, str]:
    """One command line in this process, its streams as `main` makes them."""
    streams = [
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="") for _ in range(2)
    ]
    with (
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
        mock.patch.object(sys, "stdin", io.StringIO()),
    ):
        code = run_app(words)
    told = []
    for stream in streams:
        stream.flush()
        buffer: Any = stream.buffer
        told.append(buffer.getvalue().decode("utf-8"))
    return code, told[0], told[1]


_numbers = itertools.count()
_watch: list[Path] = []
_strays: list[str] = []


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what is opened for writing, made, renamed or removed outside the folder that is watched."""
    if not _watch or event not in (
        "open",
        "os.mkdir",
        "os.rename",
        "os.link",
        "os.symlink",
        "os.remove",
        "os.rmdir",
        "sqlite3.connect",
    ):
        return
    if event == "open" and not (
        isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ):
        return
    for path in arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]:
        if not isinstance(path, (str, bytes, Path)):
            continue
        text = os.fsdecode(path)
        # What is opened in a folder without a name is gone with its process.
        if text in ("", os.devnull) or "__pycache__" in text or (event == "open" and Path(text).is_dir()):
            continue
        if not os.path.realpath(text).startswith(str(_watch[-1]) + os.sep):
            _strays.append(f"{event} {text}")


@pytest.fixture(scope="module", autouse=True)
def _audited() -> Iterator[None]:
    sys.addaudithook(_on_audit)  # it cannot be taken away; without a folder to watch it does nothing
    yield
    _watch.clear()


def _loopback_alone(host: Any, *arguments: Any, **options: Any) -> Any:
    if host not in ("127.0.0.1", "::1", "localhost", None):
        raise socket.gaierror(socket.EAI_NONAME, "no name is looked up in a test")
    return _getaddrinfo(host, *arguments, **options)


_getaddrinfo = socket.getaddrinfo
_KEPT = {"PATH", "HOME", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV"}


def hold(template: Path, folder: Path, words: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    """One command line in a fresh copy of the template; every law that holds whatever the words are."""
    scratch = folder / str(next(_numbers))
    desk = scratch / "a" / "b" / "c" / "d"
    shutil.copytree(template, desk)
    os.mkfifo(desk / "pipe")
    (desk / "loop").symlink_to("loop")
    keys = {"SOME_KEY": "sk-some-key", "ODD_KEY": "sk-\x1b[31m", "LINE_KEY": "sk-a\r\nX-Evil: 1"}
    kept = {name: value for name, value in os.environ.items() if name in _KEPT}
    given = {
        n: v.encode("utf-8", "surrogateescape" if "\udc80" <= max(v, default="") <= "\udcff" else "replace")
        for n, v in environment.items()
    }
    told = {name: os.fsdecode(value) for name, value in given.items()}
    words = [
        os.fsdecode(word.encode("utf-8", "backslashreplace")) if not _is_argument(word) else word for word in words
    ]
    _strays.clear()
    with (
        mock.patch.dict(os.environ, {**kept, **keys, **told}, clear=True),
        mock.patch.object(socket, "getaddrinfo", _loopback_alone),
        contextlib.chdir(desk),
        watched(),
    ):
        _watch.append(scratch.resolve())
        try:
            code, out, err = call(words)
        finally:
            _watch.pop()
    assert code in CODES
    for text in (out, err):
        assert "Traceback" not in text
        assert "unexpected error" not in text, text
        odd = {char for char in text if not char.isprintable() and char != "\n"}
        assert not odd, (odd, text)
    assert not _strays
    shutil.rmtree(scratch)
    return code, out, err


def _is_argument(word: str) -> bool:
    """Whether a system can hand this over as an argument: its bytes are any but NUL."""
    try:
        os.fsencode(word)
    except UnicodeEncodeError:
        return False
    return True


@search(80, factor=25)
@given(words=command_lines(), environment=environments)
def test_any_command_line(
    template: Path, tmp_path_factory: pytest.TempPathFactory, words: list[str], environment: dict[str, str]
) -> None:
    """Every command and option, with values of every kind."""
    hold(template, tmp_path_factory.getbasetemp(), words, environment)


@search(40)
@given(
    words=st.lists(hostile | st.sampled_from([*COMMANDS, "--json", "-h", "--", "-"]), max_size=4).filter(
        lambda w: "simulate" not in w
    )
)
def test_any_words(template: Path, tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    """Words at random: mostly no command at all."""
    if words[:1] in (["run"], ["resume"], ["doctor"]):
        words = [*words, "--base-url", CLOSED]
    hold(template, tmp_path_factory.getbasetemp(), words, {})


LONG = "n" * 300
SLIPS = [
    ["status", "--output", LONG],
    ["status", "--ledger", LONG],
    ["doctor", "--output", LONG, "--base-url", CLOSED],
    ["plan", LONG],
    ["plan", "job.yaml/x"],
    ["run", LONG, "--base-url", CLOSED],
    ["export", "small", "--to", "output"],
    ["export", "small", "--to", LONG],
    ["export", "small", "--to", "missing/x.csv"],
    ["init", LONG + ".yaml"],
    ["models", "--catalog", LONG],
    ["plan", "job.yaml", "--catalog", "pipe"],
    ["plan", "pipe"],
    ["plan", "loop"],
    ["plan", "."],
]


@pytest.mark.parametrize("words", SLIPS, ids=[" ".join(words).replace(LONG, "LONG") for words in SLIPS])
def test_a_path_that_cannot_be(template: Path, tmp_path: Path, words: list[str]) -> None:
    """Too long, a folder, a pipe, a link to itself, below a file: it is said, and nothing is waited for."""
    code, out, err = hold(template, tmp_path, words, {})
    assert code in (1, 2), err
    assert "hint:" in err or words[0] == "init", (out, err)


def test_a_slip_in_a_jobs_name_empties_no_file(template: Path, tmp_path: Path) -> None:
    """An export of a job that there is none of leaves the file of the last one alone."""
    precious = tmp_path / "precious.csv"
    precious.write_text("kept")
    with contextlib.chdir(template):
        code, _, err = call(["export", "smal", "--to", str(precious)])
    assert (code, precious.read_text()) == (2, "kept"), err


SIMULATE = [
    ["--port", "-1"],
    ["--port", "99999"],
    ["--port", "\x1b[31m"],
    ["--latency", "\x1b[31m"],
    ["--latency", "p50=nan"],
    ["--latency", "-1"],
    ["--fault", "\u202enothing"],
    ["--fault", "reset:match=("],
    ["--fault", "reset:share=inf"],
    ["--images-per-minute", "0"],
    ["--window", "nan"],
    ["--window", "-1"],
    ["--catalog", "missing"],
    ["--catalog", "pipe"],
    ["--art", "\x1b"],
    ["--host", "no such host\x1b[31m"],
    ["--bill", "job.yaml/bill.jsonl"],
    ["--payload-kb", "x"],
    ["extra\x1b[31m"],
]


@pytest.mark.parametrize("words", SIMULATE, ids=[" ".join(map(ascii, words)) for words in SIMULATE])
def test_a_simulator_that_cannot_be(template: Path, tmp_path: Path, words: list[str]) -> None:
    """What would serve is refused before it does."""
    code, _, err = hold(template, tmp_path, ["simulate", *words], {})
    assert code in (1, 2)
    assert err


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("text", ["\x1b]0;x\x07", "\u202egnp", "\x9b2J", "-\x1b[31m", "--\x1b[31m", "\udce9"])
def test_a_word_too_many(template: Path, tmp_path: Path, name: str, text: str) -> None:
    """A usage error repeats what was typed, and obeys none of it."""
    code, _, err = hold(template, tmp_path, [name, "job.yaml", "small", text], {})
    assert code == 2
    assert err
