"""The API key is nowhere in batches either: a hostile Batch API repeats it in ids, names, states, errors and lines.

As in `test_secrets`, what is searched is everything that the commands leave or say. The manifest never has the key, so
a single trace is a leak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.cli.app import run_app
from tests.edges.hostile_batches import WAYS, HostileBatches, hostile
from tests.edges.secrets_support import LONG_KEYS, SHORT_KEYS, VARIABLE, dresses, search, search_folder
from tests.engine.batch_support import hurry
from tests.faults.support import MODEL


@pytest.fixture(scope="module")
def server() -> Iterator[HostileBatches]:
    with hostile() as it:
        yield it


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the caller's, no proxy, short waits, and all that a run keeps below a folder that is searched."""
    for name in list(os.environ):
        if name.startswith(("RUNNER_", "OPENAI_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    hurry(monkeypatch)


def write(folder: Path, images: int) -> Path:
    """A job of so many images, in batches."""
    manifest = {
        "name": "night",
        "model": MODEL,
        "delivery": "batch",
        "prompts": [f"town number {number}" for number in range(images)],
        "settings": {"size": "1024x1024", "quality": "low"},
        "retry": {"attempts": 1, "billed_attempts": 1, "rate_limited_attempts": 1, "base_s": 0.001, "max_s": 0.002},
        "timeouts": {"connect_s": 10, "first_byte_s": 10, "stall_s": 5, "total_s": 20},
    }
    path = folder / "night.yaml"
    path.write_text(json.dumps(manifest))
    return path


class Ear:
    """Runs commands and searches what they say."""

    def __init__(self, key: str, base_url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._key = key
        self._capsys = capsys
        self._to_it = ("--base-url", base_url, "--api-key-env", VARIABLE)
        self.heard = ""

    def call(self, *arguments: str, asks: bool = True) -> int:
        """One command; its exit code."""
        self._capsys.readouterr()
        code = run_app((*arguments, *(self._to_it if asks else ())))
        out, err = self._capsys.readouterr()
        assert out + err
        search(" ".join(arguments), (out + err).encode(), self._key)
        self.heard += out + err
        return code

    def look(self) -> None:
        """Every command that only looks."""
        for words in (
            ("status", "night"),
            ("status", "night", "--json"),
            ("costs", "--json"),
            ("export", "night", "--format", "jsonl"),
        ):
            assert self.call(*words, asks=False) == 0


@pytest.mark.parametrize("key", [*LONG_KEYS.values(), *SHORT_KEYS.values()], ids=[*LONG_KEYS, *SHORT_KEYS])
def test_batches_keep_no_trace_of_the_key(
    server: HostileBatches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str,
) -> None:
    """Submitted, looked at, cancelled and collected, with the key in every field of every answer, in every dress."""
    monkeypatch.setenv(VARIABLE, key)
    told = tuple(dresses(key).values())
    server.begin(key, told)
    job = write(tmp_path, len(WAYS) * len(told))
    ear = Ear(key, server.base_url, capsys)
    assert ear.call("run", str(job), "--no-wait", "--json") == 0
    ear.look()
    assert search_folder(tmp_path, key) > 2
    assert ear.call("cancel", "night") == 0
    assert ear.call("cancel", "night", "--json") == 0
    assert ear.call("collect", "night") == 0  # still under way
    server.status = "completed"
    assert ear.call("collect", "night", "--json") != 0
    ear.look()
    server.status = "failed"  # what is planned again is submitted once more, and its first line is to blame
    ear.call("run", str(job), "--no-wait")
    ear.call("run", str(job), "--no-wait", "--json")
    ear.look()
    assert {"upload", "create", "retrieve", "cancel", "content"} <= set(server.asked)
    assert "[key]" in ear.heard
    assert len(list(tmp_path.rglob("*.png"))) >= len(told), "what is good among the lines was to be brought home"
    assert search_folder(tmp_path, key) > len(told)


@pytest.mark.parametrize("dress", ["plain", "at the limit", "JSON", "cut short"])
@pytest.mark.parametrize("status", [400, 401, 500])
def test_calls_that_fail_keep_no_trace_of_the_key(
    server: HostileBatches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    dress: str,
    status: int,
) -> None:
    """Whatever call it is that fails: what ends a run is said on the terminal, and goes on record."""
    key = LONG_KEYS["signs"]
    monkeypatch.setenv(VARIABLE, key)
    server.begin(dresses(key)[dress], (key,))
    job = write(tmp_path, 3)
    ear = Ear(key, server.base_url, capsys)

    def fails(call: str, *arguments: str) -> None:
        server.refusals = {call: status}
        ear.call(*arguments)
        ear.call("status", "night", asks=False)
        server.refusals = {}

    for call in ("upload", "create", "batches"):
        server.refusals = {"create": 500} if call == "batches" else {}
        fails(call, "run", str(job), "--no-wait", "--json")
    ear.call("run", str(job), "--no-wait")
    for call, command in (("retrieve", "collect"), ("cancel", "cancel"), ("files", "collect")):
        fails(call, command, "night")
    server.status = "completed"
    fails("content", "collect", "night", "--json")
    assert "[key]" in ear.heard
    search_folder(tmp_path, key)


def test_processes_that_tell_all_they_know_do_not_tell_the_key(server: HostileBatches, tmp_path: Path) -> None:
    """Tracebacks, warnings, asyncio's debugging and the SDK's own log, of each command for batches."""
    key = LONG_KEYS["signs"]
    loud = {
        "RUNNER_DEBUG": "1",
        "PYTHONDEVMODE": "1",
        "PYTHONASYNCIODEBUG": "1",
        "PYTHONWARNINGS": "always",
        "OPENAI_LOG": "debug",
    }
    server.begin(key, (key,))
    job = write(tmp_path, len(WAYS))
    to_it = ["--base-url", server.base_url, "--api-key-env", VARIABLE]
    for words in (["run", str(job), "--no-wait"], ["cancel", "night"], ["collect", "night"]):
        ended = subprocess.run(
            [sys.executable, "-m", "runner", *words, *to_it],
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, **loud, VARIABLE: key},
            timeout=120,
        )
        search(" ".join(words[:1]), ended.stdout + ended.stderr, key)
        assert b"openai._base_client" in ended.stderr, "the SDK's log was to be searched"
        server.status = "in_progress" if words[0] == "run" else "completed"
    assert "content" in server.asked
    search_folder(tmp_path, key)
