"""Telling others how a run has ended: the manifest's `notify`, carried out.

Owns what is sent, to whom, how often, and how long that may take. Refuses to fail: whatever goes wrong is a warning,
and no run ends otherwise for it. What of a URL or a key is secret stays here, whoever complains.
It is long because webhooks and commands share the message, the time and the secrets.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import anyio
from anyio.abc import Process

from runner import __version__
from runner.engine.events import Listener, Notified, Summary, Warned
from runner.invocation import now
from runner.manifest import Manifest
from runner.manifest.notifying import ending_of, expanded, is_hidden, shown_webhook, wrong_with
from runner.manifest.problems import HIDDEN, without_urls
from runner.provider.endpoint import is_loopback
from runner.report.lines import line
from runner.rules.pricing import usd

TRIES = 3
WAITS_S = (1.0, 3.0)
MAX_WAIT_S = 10.0
"""The longest wait that a server's `Retry-After` is granted."""
MOST_S = 60.0
"""How long all of it may take, unless the manifest's `timeout` is longer; an interrupted run never waits longer."""
_INTERRUPTED = 130
_LAST_BYTES = 4096
_LAST_LINES = 5
_DRAIN_S = 0.5
_FIRST_WORD = re.compile(r"\A\S*")


async def notify(
    manifest: Manifest,
    folder: Path,
    summary: Summary,
    *,
    report: Path | str | None,
    emit: Listener,
    api_key_env: str | None = None,
    handle_signals: bool = False,
) -> None:
    """Tell whom the manifest names how its run has ended, if it names this end; without `notify` nothing happens.

    The call, once the run's end is on record and before its summary is emitted (that stays the last line)::

        await notify(manifest, request.path.parent, summary, report=path_of_report_html, emit=emit,
                     api_key_env=options.api_key_env, handle_signals=True)

    `folder` is the manifest's: commands run in it. `report` is the HTML report, a file or a URL, None where there is
    none. The variables that hold API keys, `api_key_env` among them, are taken out of the command's environment. With
    `handle_signals` a Ctrl-C ends the telling, and not the process: how the run ended is still to be said.

    Never raises but for its own cancellation, which takes the command along. What went wrong is a `Warned`, what went
    well a `Notified`. It ends within `MOST_S`, or the manifest's `timeout` where that is longer and nobody interrupted.
    """
    settings = manifest.notify
    if settings is None or ending_of(summary.exit_code) not in settings.on:
        return
    most_s = MOST_S if summary.exit_code == _INTERRUPTED else max(MOST_S, settings.timeout)
    message = _message(summary, report)
    heard: list[signal.Signals] = []
    with anyio.move_on_after(most_s) as scope:
        async with anyio.create_task_group() as group:
            if handle_signals:
                group.start_soon(_listen_for_signals, heard, scope)
            async with anyio.create_task_group() as telling:
                if settings.webhook is not None:
                    webhook = _Webhook(settings.webhook, settings.timeout, emit)
                    telling.start_soon(_guarded, webhook.post, message, emit)
                if settings.command is not None:
                    keys = _key_variables(manifest, api_key_env)
                    command = _Command(settings.command, folder, settings.timeout, emit, keys)
                    telling.start_soon(_guarded, command.run, message, emit)
            group.cancel_scope.cancel()
    if heard:
        emit(Warned("interrupted: not everyone was told of the run's end"))
    elif scope.cancelled_caught:
        emit(Warned(f"not everyone was told of the run's end within {most_s:g} s"))


def sentence(summary: Summary) -> str:
    """How a run ended, in one line for a chat."""
    head = f"{summary.job}: {summary.reason.splitlines()[0] if summary.reason else 'ended'}"
    parts = [f"{summary.made} images made with {summary.requests} requests", f"{summary.done} of {summary.wanted} done"]
    for count, what in (
        (summary.submitted, "submitted"),
        (summary.failed, "failed"),
        (summary.refused, "refused"),
        (summary.in_doubt, "in doubt"),
        (summary.planned, "still planned"),
    ):
        if count:
            parts.append(f"{count} {what}")
    cost = usd(summary.cost_microusd)
    parts.append(f"simulated, would have cost {cost}" if summary.simulated else f"cost {cost}")
    if summary.in_doubt_microusd:
        parts.append(f"{usd(summary.in_doubt_microusd)} in doubt")
    return f"{head[:400]} ({', '.join(parts)}; exit code {summary.exit_code})"


@dataclass(frozen=True, slots=True)
class _Message:
    """What is told: the summary's line with `report`, and with the sentence in the words of chats."""

    summary: Summary
    report: Path | str | None
    entry: dict[str, object]

    def for_a_command(self) -> bytes:
        return (json.dumps(self.entry) + "\n").encode()

    def for_a_webhook(self) -> bytes:
        """Slack and what follows it read `text`, Discord `content`."""
        told = sentence(self.summary)
        return json.dumps({"text": told, "content": told, **self.entry}).encode()


def _message(summary: Summary, report: Path | str | None) -> _Message:
    entry = json.loads(line(summary, now=now()))
    return _Message(
        summary,
        report,
        {**entry, "report": report if report is None or isinstance(report, str) else str(report.absolute())},
    )


async def _listen_for_signals(heard: list[signal.Signals], scope: anyio.CancelScope) -> None:
    """The first signal ends the scope."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for one in signals:
            heard.append(one)
            scope.cancel()


async def _guarded(tell: Callable[[_Message], object], message: _Message, emit: Listener) -> None:
    """One way of telling; a fault of ours in it is a warning too, and keeps the other from nothing."""
    try:
        await tell(message)  # type: ignore[misc]  # both are coroutine functions
    except Exception as error:
        emit(Warned(f"the run's end could not be told: {_in_words(error)}"))


# -- the web ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Again:
    """The server may take it later, perhaps when it says so itself."""

    reason: str
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Never:
    """The server will not take it."""

    reason: str


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: what is posted would reach someone whom nobody has named."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Webhook:
    url: str
    timeout_s: float
    emit: Listener

    async def post(self, message: _Message) -> None:
        """Post, several times if need be, and say how that went."""
        shown = shown_webhook(self.url)
        if is_hidden(self.url):
            self.emit(Warned(f"the webhook {shown} is not called: only this much of it is on record"))
            return
        try:
            url = expanded(self.url, os.environ)
        except KeyError as missing:
            name = missing.args[0]
            self.emit(Warned(f"the webhook {shown} is not called: the environment variable {name} is not set"))
            return
        shown = shown_webhook(url)
        reason = wrong_with(url)
        if reason is not None:
            self.emit(Warned(f"the webhook {shown_webhook(self.url)} is not called: {reason}"))
            return
        host = urlsplit(url).hostname or ""
        if url.lower().startswith("http://") and not is_loopback(host):
            self.emit(Warned(f"the webhook {shown} is plain HTTP: what is posted crosses the network in the clear"))
        data = message.for_a_webhook()
        for number in range(1, TRIES + 1):
            answer: _Again | _Never | None = _Again("no answer in time")
            with anyio.move_on_after(self.timeout_s):
                answer = await _beside(lambda: _post(url, data, self.timeout_s))
            if answer is None:
                self.emit(Notified("webhook", shown, number))
                return
            if isinstance(answer, _Never) or number == TRIES:
                tries = "" if number == 1 else f" (tried {number} times)"
                self.emit(Warned(f"the webhook {shown} was not reached: {answer.reason}{tries}"))
                return
            wait_s = WAITS_S[number - 1] if answer.after_s is None else min(answer.after_s, MAX_WAIT_S)
            await anyio.sleep(wait_s)


def _post(url: str, data: bytes, timeout_s: float) -> _Again | _Never | None:
    """One request; None when it was taken. `timeout_s` is for each of its steps: the caller bounds them all."""
    headers = {"Content-Type": "application/json", "User-Agent": f"runner/{__version__}"}
    handlers: list[urllib.request.BaseHandler] = [_StayHere()]
    if is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(url, data, headers, method="POST")  # noqa: S310  # http(s): `wrong_with`
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s):
            return None
    except urllib.error.HTTPError as answer:
        with answer:
            return _judged(answer.code, answer.headers.get("Retry-After"))
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        told = _in_words(cause if isinstance(cause, BaseException) else error)
        return _Never(told) if isinstance(cause, ssl.SSLCertVerificationError) else _Again(told)


def _judged(status: int, retry_after: str | None) -> _Again | _Never:
    """What an answer other than a good one means. Nothing that the server wrote is repeated but its number."""
    if status == 429 or status >= 500:
        seconds = retry_after.strip() if retry_after is not None else ""
        is_number = seconds.isascii() and seconds.isdigit() and len(seconds) < 9
        return _Again(f"the server answered {status}", float(seconds) if is_number else None)
    if 300 <= status < 400:
        return _Never(f"the server answered {status}: redirects are not followed, name the place itself")
    return _Never(f"the server answered {status}")


async def _beside(function: Callable[[], _Again | _Never | None]) -> _Again | _Never | None:
    """Call it in a thread that nobody waits for once the caller is cancelled.

    A thread of anyio's would be joined at the end of the process: a server that stalls would hold up a second Ctrl-C.
    """
    results: list[_Again | _Never | None] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="webhook", daemon=True)
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110 - a thread that may outlive the loop cannot set an event of its
        await anyio.sleep(0.02)
    if failures:
        raise failures[0]
    return results[0]


# -- commands -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Command:
    words: tuple[str, ...]
    folder: Path
    timeout_s: float
    emit: Listener
    without: frozenset[str]
    """Variables that the command's environment does not have."""

    async def run(self, message: _Message) -> None:
        """Start it, let it read, wait for its end, and say how that went."""
        program = self.words[0]
        if any(f"/{HIDDEN}" in word for word in self.words):
            self.emit(Warned(f"the command {program} is not run: its URLs are not on record, only their hosts"))
            return
        try:
            # A session of its own: Ctrl-C is not for it, and its end takes along whatever it has started.
            process = await anyio.open_process(
                self._line(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._environment(message),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self.emit(Warned(f"the command {program} cannot be run: {_in_words(error)}{self._advice(error)}"))
            return
        output = bytearray()
        ended = False
        try:
            with anyio.move_on_after(self.timeout_s):
                async with anyio.create_task_group() as group:
                    group.start_soon(_feed, process, message.for_a_command())
                    group.start_soon(_listen, process, output)
                    await process.wait()
                    ended = True
                    # What it left in the background may hold the pipe open: what is in it by now is enough.
                    group.cancel_scope.deadline = anyio.current_time() + _DRAIN_S
        finally:
            if not ended:
                _kill(process)
            with anyio.CancelScope(shield=True):
                await process.aclose()
        if not ended:
            self.emit(Warned(f"the command {program} was ended after {self.timeout_s:g} s{_last(output)}"))
        elif process.returncode:
            how = f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
            self.emit(Warned(f"the command {program} failed ({how}){_last(output)}"))
        else:
            self.emit(Notified("command", program, 1))

    def _line(self) -> list[str]:
        program = Path(self.words[0])
        is_path = len(program.parts) > 1 or self.words[0].startswith("./")
        return [str(self.folder.absolute() / program) if is_path else self.words[0], *self.words[1:]]

    def _environment(self, message: _Message) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in self.without}
        return kept | {
            "RUNNER_JOB": message.summary.job,
            "RUNNER_EXIT_CODE": str(message.summary.exit_code),
            "RUNNER_REPORT": str(message.entry["report"] or ""),
        }

    def _advice(self, error: Exception) -> str:
        """What to write instead, where the program lies beside the manifest and was looked for among the others."""
        program = self.words[0]
        if isinstance(error, FileNotFoundError) and "/" not in program and (self.folder / program).is_file():
            return f"; for the file beside the manifest write ./{program}"
        return ""


async def _feed(process: Process, data: bytes) -> None:
    """Give it all of its input; it need not read that."""
    assert process.stdin is not None
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await process.stdin.send(data)
    with suppress(anyio.BrokenResourceError, OSError):
        await process.stdin.aclose()


async def _listen(process: Process, output: bytearray) -> None:
    """Keep the end of what it says."""
    assert process.stdout is not None
    async for piece in process.stdout:
        output += piece
        del output[:-_LAST_BYTES]


def _kill(process: Process) -> None:
    """End a command and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _last(output: bytearray) -> str:
    """The last lines of what a command said, in one, without what can be secret of URLs."""
    text = output.decode(errors="replace")
    if len(output) == _LAST_BYTES:
        # Its first word may be the end of a URL, of which nothing tells that it was one.
        text = _FIRST_WORD.sub("", text)
    lines = [one.strip() for one in text.splitlines() if one.strip()]
    return f": {without_urls(' / '.join(lines[-_LAST_LINES:]))}" if lines else ""


def _key_variables(manifest: Manifest, api_key_env: str | None) -> frozenset[str]:
    """The environment's variables that hold an API key: by their names, and by having the same value."""
    named = {provider.api_key_env for provider in manifest.binding.catalog.providers.values()}
    named |= {api_key_env, "OPENAI_API_KEY"}
    environment: Mapping[str, str] = os.environ
    values = {environment[name] for name in named if name and environment.get(name)}
    return frozenset(name for name, value in environment.items() if name in named or value in values)


def _in_words(error: BaseException) -> str:
    """An error without what it may repeat of a URL: the system's words, or what kind it is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
