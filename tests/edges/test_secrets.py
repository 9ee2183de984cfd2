"""The API key is nowhere: a hostile server repeats it wherever an answer has room, in every dress; nothing keeps it.

What is searched is everything that a run leaves or says: the ledger's bytes (its write-ahead log among them), the logs,
both outputs, exports, and every command that looks. The manifest never has the key, so a single trace is a leak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from runner.api import Options, run
from runner.cli.app import run_app
from runner.engine import events
from runner.errors import InputError, Lost, ProviderError
from runner.provider import Client, Endpoint, Made, ModelInfo, Timeouts, connect
from runner.provider.redact import Redaction
from runner.tasks import ImageRequest
from tests.edges.secrets_support import LONG_KEYS, SHORT_KEYS, VARIABLE, dresses, search, search_folder
from tests.faults.support import MODEL, Script, Scripted, http_answer, image_json, picture, scripted

RETRY = {"attempts": 1, "billed_attempts": 1, "rate_limited_attempts": 1, "base_s": 0.001, "max_s": 0.002}


# -- what a hostile server says -----------------------------------------------------------------


def answers(told: str) -> dict[str, bytes]:
    """Every place of an answer that has room for a text; none of them ends a run."""
    everywhere = {"x-request-id": told, "x-served-by": told, "retry-after": told, "x-ratelimit-limit-requests": told}
    error = {"message": f"The key {told} is bad.", "type": told, "param": told, "code": told}
    details = {"moderation_stage": told, "categories": [told, told]}
    usage = {"input_tokens": 10, "output_tokens": 196, "note": told, told: 1}
    sweet = json.loads(image_json())
    sweet |= {"usage": usage, "size": told, "quality": told, "background": told, "output_format": told}
    sweet["data"][0] |= {"revised_prompt": told, "url": told}
    text = json.dumps
    return {
        "400": http_answer(text({"error": error}).encode(), "400 Bad", everywhere),
        "500": http_answer(text({"error": {**error, "code": None}}).encode(), "500 Bad", everywhere),
        "429": http_answer(text({"error": {**error, "code": None}}).encode(), "429 Slow", everywhere),
        "moderation": http_answer(
            text({"error": {**error, "code": "moderation_blocked", "moderation_details": details}}).encode(), "400 No"
        ),
        "page": http_answer(f"<title>{told}</title><p>{told}".encode(), "502 Bad", {"Content-Type": "text/html"}),
        "reason": http_answer(b"", f"503 {told}"),
        "good": http_answer(text(sweet).encode(), headers=everywhere),
        "error inside": http_answer(text({"error": error}).encode()),
        "not JSON": http_answer(told.encode()),
        "not JSON, later": http_answer(b"key=" + told.encode()),
        "no image": http_answer(text({"data": [], "usage": usage}).encode(), headers=everywhere),
        "for an image": http_answer(image_json(image=told.encode())),
        "URL": http_answer(text({"data": [{"url": f"http://127.0.0.1:1/{told}"}], "usage": usage}).encode()),
        "odd URL": http_answer(text({"data": [{"url": told}], "usage": usage}).encode()),
        "status line": f"HTTP/1.1 {told}\r\n\r\n".encode(),
        "no HTTP": f"{told}\r\n\r\n".encode(),
        "length": http_answer(b"", headers={"Content-Length": told}),
        "header name": http_answer(b"", headers={f"x {told}": "y"}),
        "encoding": http_answer(b"abc", headers={"Content-Encoding": f"gzip, {told}"}),
        "chunk": http_answer(f"{told}\r\n".encode(), headers={"Content-Length": "", "Transfer-Encoding": "chunked"}),
    }


def stops(told: str) -> dict[str, bytes]:
    """Answers that end a run: its reason goes on record, and to the terminal."""
    error = {"message": f"Incorrect API key provided: {told}.", "type": told, "param": told, "code": "invalid_api_key"}
    return {
        "401": http_answer(json.dumps({"error": error}).encode(), "401 No", {"x-request-id": told}),
        "403": http_answer(json.dumps({"error": {**error, "code": told}}).encode(), "403 No"),
        "307": http_answer(told.encode(), "307 Moved", {"Location": f"/v1/{told}"}),
    }


@pytest.fixture(scope="module")
def stage() -> Iterator[Scripted]:
    with scripted() as it:
        yield it


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the caller's, no proxy, and all that a run keeps below a folder that is searched."""
    for name in list(os.environ):
        if name.startswith(("RUNNER_", "OPENAI_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def write(folder: Path, name: str, prompts: list[str]) -> Path:
    manifest = {
        "name": name,
        "model": MODEL,
        "prompts": prompts,
        "settings": {"size": "1024x1024", "quality": "low"},
        "limits": {"images_per_minute": 1_000_000, "concurrency": 4},
        "retry": RETRY,
        "timeouts": {"connect_s": 10, "first_byte_s": 10, "stall_s": 5, "total_s": 20},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(manifest))
    return path


def hostile(stage: Scripted, key: str) -> list[str]:
    """Let every dress of the key come in every place; the prompts that meet them."""
    scripts = {
        f"{place}, {dress}": [Script((data, "close"), 5930)]
        for dress, told in dresses(key).items()
        for place, data in answers(told).items()
    }
    stage.play(scripts)
    return list(scripts)


# -- whole runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*LONG_KEYS.values(), *SHORT_KEYS.values()], ids=[*LONG_KEYS, *SHORT_KEYS])
def test_a_run_keeps_no_trace_of_the_key(
    stage: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """Ledger, write-ahead log, logs, events, and whatever looks at them afterwards."""
    monkeypatch.setenv(VARIABLE, key)
    monkeypatch.chdir(tmp_path)
    prompts = hostile(stage, key)
    job = write(tmp_path, "hostile", prompts)
    options = Options(base_url=stage.base_url, api_key_env=VARIABLE, output=tmp_path / "output")
    looked_at = heard = 0

    def listen(event: events.Event) -> None:
        nonlocal looked_at, heard
        heard += 1
        search("an event", repr(event).encode(), key)
        if heard % 50 == 0:
            for name in ("ledger.sqlite3", "ledger.sqlite3-wal"):
                data = (tmp_path / "output" / name).read_bytes()
                looked_at += name.endswith("-wal") and len(data) > 0
                search(name, data, key)

    summary = run(job, options, listener=listen)
    assert summary.requests == len(prompts)
    # Not each: a server that closes a connection unannounced can take the next request on it along.
    assert summary.done > len(dresses(key)) / 2
    assert looked_at > 0
    to_it = ("--base-url", stage.base_url, "--api-key-env", VARIABLE)
    for command in (
        ("status", "hostile"),
        ("status", "hostile", "--json"),
        ("costs",),
        ("costs", "--json"),
        ("export", "hostile", "--format", "csv"),
        ("export", "hostile", "--format", "jsonl", "--to", str(tmp_path / "output" / "export.jsonl")),
        ("plan", "hostile", *to_it),
        ("plan", "hostile", "--resolved", *to_it),
        ("run", "hostile", *to_it),
        ("run", "hostile", "--json", *to_it),
    ):
        capsys.readouterr()
        run_app(command)
        out, err = capsys.readouterr()
        assert out + err
        search(" ".join(command), (out + err).encode(), key)
    assert search_folder(tmp_path, key) > len(dresses(key))


@pytest.mark.parametrize("key", [LONG_KEYS["openai"], LONG_KEYS["signs"]], ids=["openai", "signs"])
def test_what_ends_a_run_keeps_no_trace_of_the_key(
    stage: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """The reason of a run, on record and on the terminal; and what `doctor` says of the same answers."""
    monkeypatch.setenv(VARIABLE, key)
    monkeypatch.chdir(tmp_path)
    said = ""
    for number, (dress, told) in enumerate(dresses(key).items()):
        place, data = list(stops(told).items())[number % 3]
        model = http_answer(json.dumps({"id": told, "owned_by": told, "shutdown_date": told}).encode())
        shown = model if place == "307" else data
        stage.play({"a lighthouse": [Script((data, "close"))], f"/v1/models/{MODEL}": [Script((shown, "close"))]})
        job = write(tmp_path, f"stop-{number}", ["a lighthouse"])
        to_it = ("--base-url", stage.base_url, "--api-key-env", VARIABLE)
        assert run_app(("run", str(job), *to_it, *(["--json"] if number % 2 else []))) == 6, dress
        run_app(("doctor", "--model", MODEL, *to_it, *([] if number % 2 else ["--json"])))
        run_app(("status", job.stem))
        out, err = capsys.readouterr()
        said += out + err
    search("the terminal", said.encode(), key)
    assert "[key]" in said
    search_folder(tmp_path, key)


def test_a_process_that_tells_all_it_knows_does_not_tell_the_key(stage: Scripted, tmp_path: Path) -> None:
    """Tracebacks, warnings, asyncio's debugging and the SDK's own log, all at once, in a process of its own."""
    key = LONG_KEYS["signs"]
    loud = {
        "RUNNER_DEBUG": "1",
        "PYTHONDEVMODE": "1",
        "PYTHONASYNCIODEBUG": "1",
        "PYTHONWARNINGS": "always",
        "OPENAI_LOG": "debug",
    }
    prompts = [prompt for prompt in hostile(stage, key) if prompt.endswith((", plain", ", JSON", ", cut short"))]
    job = write(tmp_path, "loud", prompts)
    to_it = ["--base-url", stage.base_url, "--api-key-env", VARIABLE]
    bad = ["--base-url", f"https://gateway.invalid/{key}/v1", "--api-key-env", VARIABLE]
    for arguments in (["run", str(job), *to_it], ["doctor", *to_it], ["run", str(job), *bad], ["doctor", *bad]):
        ended = subprocess.run(
            [sys.executable, "-m", "runner", *arguments],
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, **loud, VARIABLE: key},
            timeout=120,
        )
        search(" ".join(arguments[:1]), ended.stdout + ended.stderr, key)
        assert ended.returncode != 0
        if arguments[0] == "run" and arguments[-4:] == to_it:
            assert b"openai._base_client" in ended.stderr, "the SDK's log was to be searched"
        if arguments[0] == "run" and arguments[-4:] == bad:
            assert b"Traceback" in ended.stderr, "the traceback is what was to be searched"
    search_folder(tmp_path, key)


# -- connections, URLs, processes ---------------------------------------------------------------


@pytest.mark.parametrize(
    "base_url",
    [
        "https://gateway.invalid/{key}/v1",
        "https://gateway.invalid/v1?key={key}",
        "https://gateway.invalid/v1#{key}",
        "https://{key}@gateway.invalid/v1",
        "https://user:{key}@gateway.invalid/v1",
        "https://{key}.gateway.invalid/v1",
        "http://gateway.invalid/{key}/v1",
        "gateway.invalid/{key}",
        "https://[{key}/v1",
        "{key}",
        "https://gateway.invalid/{percent}/v1",
    ],
)
@pytest.mark.parametrize("key", LONG_KEYS.values(), ids=LONG_KEYS)
def test_a_base_url_with_the_key_in_it_is_refused_without_repeating_it(base_url: str, key: str) -> None:
    """Such a URL would be in every message that names it, and in the ledger."""
    url = base_url.format(key=key, percent="".join(f"%{byte:02X}" for byte in key.encode()))
    with pytest.raises(InputError) as caught:
        Endpoint.checked("openai", url, key, insecure=False)
    search("the error", "".join(traceback.format_exception(caught.value)).encode(), key)


def ask(base_url: str, key: str, touch: Callable[[Client], None] = lambda client: None) -> ProviderError:
    """The error of one request."""

    class Nowhere:
        def write(self, data: bytes, /) -> None:
            pass

    async def once() -> ProviderError:
        waits = Timeouts(connect_s=0.3, first_byte_s=0.6, stall_s=0.5, total_s=5)
        async with connect(Endpoint("openai", base_url, key), waits, connections=1) as client:
            touch(client)
            try:
                await client.generate(
                    ImageRequest("x", MODEL), model=MODEL, sink=Nowhere(), on_headers=lambda told: None
                )
            except ProviderError as error:
                return error
        raise AssertionError("it did not fail")

    return anyio.run(once)


@pytest.mark.parametrize("key", LONG_KEYS.values(), ids=LONG_KEYS)
def test_an_error_carries_no_cause_that_could_tell_the_key(stage: Scripted, key: str) -> None:
    """Python prints the whole chain of an error, and the SDK's own errors hold request and answer."""
    for place, data in {**answers(key), **stops(key), "hang": b""}.items():
        if place in ("good", "for an image"):
            continue
        stage.play({"x": [Script((data, "close") if data else ("hang",))]})
        error = ask(stage.base_url, key)
        told = "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error.args) + str(error)
        search(place, told.encode(), key)
        assert error.__cause__ is None
        assert error.__context__ is None


@pytest.mark.parametrize("key", LONG_KEYS.values(), ids=LONG_KEYS)
def test_a_good_answer_has_no_trace_of_the_key(stage: Scripted, key: str) -> None:
    """Neither what is told of an image, nor what is told of a model; the image itself is as it came."""
    told = "; ".join(dresses(key).values())
    model = http_answer(json.dumps({"id": told, "owned_by": told, "shutdown_date": told}).encode())
    stage.play({"x": [Script((answers(told)["good"],))], f"/v1/models/{MODEL}": [Script((model,))]})

    class Tray:
        data = b""

        def write(self, data: bytes, /) -> None:
            self.data += data

    async def both() -> tuple[Made, ModelInfo]:
        async with connect(Endpoint("openai", stage.base_url, key), Timeouts(), connections=1) as client:
            made = await client.generate(ImageRequest("x", MODEL), model=MODEL, sink=tray, on_headers=lambda told: None)
            return made, await client.model(MODEL)

    tray = Tray()
    made, info = anyio.run(both)
    search("the answer", repr(made).encode(), key)
    search("the model", repr(info).encode(), key)
    assert "[key]" in repr(made)
    assert "[key]" in info.id
    assert tray.data == picture()


def test_an_error_that_nobody_foresaw_tells_no_key_and_ends_no_run(stage: Scripted) -> None:
    """Whatever the SDK raises is an error of this request, and possibly billed."""
    key = LONG_KEYS["openai"]

    def explode(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"headers: Bearer {key}")

    def touch(client: Client) -> None:
        client._sdk.images.with_streaming_response.generate = explode

    error = ask(stage.base_url, key, touch)
    assert type(error) is Lost
    assert "RuntimeError" in error.message
    search("the error", "".join(traceback.format_exception(error)).encode(), key)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are looked at in /proc")
def test_no_process_is_called_with_the_key(tmp_path: Path) -> None:
    """A command line is for everybody on the machine to read; the embedded simulator is a process too."""
    key = LONG_KEYS["openai"]
    job = write(tmp_path, "processes", [f"town number {number}" for number in range(40)])
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", "run", str(job), "--provider", "simulator", "--api-key-env", VARIABLE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, VARIABLE: key, "OPENAI_API_KEY": key, "COMETAPI_KEY": key},
    )
    seen: set[bytes] = set()
    try:
        while process.poll() is None:
            for line in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(line.read_bytes())
                except OSError:
                    continue
            time.sleep(0.02)
    finally:
        process.kill()
        out, err = process.communicate()
    search("the command lines", b"\n".join(seen), key)
    assert process.returncode == 0, err
    assert any(b"simulate" in line for line in seen), "the simulator's own process was to be looked at"
    search("the terminal", out + err, key)
    search_folder(tmp_path, key)


# -- the redaction itself -----------------------------------------------------------------------


def test_ordinary_words_stay() -> None:
    """A key that is a word of the trade takes nothing out of sentences, and other ids are left as they are."""
    plain = "The simulator takes any word; test 12 of abc: req_9f86d081, sk, %20 &amp; \\n"
    for key in ("simulator", "x", "tes", "", "k3y9F2a71xZq"):
        assert Redaction(key, public="simulator").text(plain) == plain
    assert Redaction("test").text("a test, untested: test") == "a [key], untested: [key]"


def test_all_of_a_key_goes_and_nothing_beside_it() -> None:
    """Neighbouring characters stay; keys in a row are one hole."""
    key = LONG_KEYS["hex"]
    redaction = Redaction(key)
    assert redaction.text(f"<{key}> and <{key}{key}>.") == "<[key]> and <[key]>."
    assert redaction.text(f"({key[3:20]})") == "([key])"
    assert redaction.optional(None) is None
