"""What a run says, where it says it, and what it never lets through: streams, terminals, pipes, hostile words."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.engine.command_support import GOOD, KEY_VARIABLE, REFUSED, Desk, wait

ESCAPE, OVERRIDE = "\x1b", "\u202e"
SUMMARY = {
    *("type", "job", "wanted", "done", "reused", "planned", "failed", "refused", "in_doubt", "requests", "cost_usd"),
    *("in_doubt_usd", "elapsed_s", "exit_code"),
}


# -- streams ------------------------------------------------------------------------------------------


def test_json_is_all_that_stdout_has(desk: Desk) -> None:
    """Every line has a type, the last is the summary with what scripts read; no heartbeat, no escape code."""
    said = desk.run(desk.manifest("json", [*GOOD, REFUSED, "[[fault:delay=1.2]] slow"]), "--json")
    kinds = [entry["type"] for entry in said.entries]
    assert kinds[0] == "run_began"
    assert kinds.count("attempt_began") == 4
    assert kinds.count("saved") == 3
    assert kinds.count("attempt_failed") == kinds.count("summary") == 1
    assert "heartbeat" not in kinds
    assert set(said.summary) >= SUMMARY
    assert said.out.isascii()
    assert {name: said.summary[name] for name in ("wanted", "done", "refused", "planned", "failed", "in_doubt")} == {
        "wanted": 4,
        "done": 3,
        "refused": 1,
        "planned": 0,
        "failed": 0,
        "in_doubt": 0,
    }
    assert said.summary["cost_microusd"] == desk.peer.bill()["cost_microusd"]


def test_an_error_is_a_json_line_as_well(desk: Desk) -> None:
    """With --json a script need not read stderr to learn why."""
    (entry,) = desk.call("run", "nothing.yaml", "--json").entries
    assert entry["type"] == "error"
    assert entry["exit_code"] == 2
    assert "nothing.yaml" in entry["message"]


def test_quiet_leaves_the_result_alone(desk: Desk) -> None:
    """The summary on stdout, and not a word on stderr."""
    said = desk.run(desk.manifest("quiet", GOOD), "--quiet")
    assert said.code == 0
    assert said.err == ""
    assert "2 of 2 done" in said.out


def test_in_a_pipe_there_are_lines(desk: Desk) -> None:
    """No bar, no carriage return, no escape code; the result on stdout, what happens on stderr."""
    said = wait(desk.start("run", desk.manifest("pipe", [*GOOD, REFUSED]), *desk.to_peer))
    assert said.code == 4
    assert "3 images to make" in said.err
    assert "refused: " in said.err
    assert "2 of 3 done" in said.out
    for text in (said.out, said.err):
        assert ESCAPE not in text
        assert "\r" not in text


@pytest.mark.parametrize("colour", [True, False])
def test_in_a_terminal_there_is_a_bar(desk: Desk, colour: bool) -> None:
    """A bar with what it costs, in colour unless NO_COLOR is set."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = dict(os.environ) | {"TERM": "xterm"} | ({} if colour else {"NO_COLOR": "1"})
    process = desk.start(
        *("run", desk.manifest("bar", [f"[[fault:delay=0.3]] {n}" for n in range(6)]), *desk.to_peer),
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    shown = _read_all(ours).decode()
    assert process.wait() == 0
    assert re.search(r"bar +\d+%\|.*\| \d/6", shown)
    assert "in flight" in shown
    assert "6 of 6 done" in shown
    assert ("\x1b[32m" in shown) is colour
    assert ("\x1b[" in re.sub(r"\x1b\[A", "", shown)) is colour


def test_a_reader_that_goes_away_loses_no_image(desk: Desk) -> None:
    """`| head -1`: what is in flight is finished and kept, nothing further is sent, and there is no traceback."""
    job = desk.manifest("head", [f"[[fault:delay=0.3]] number {n}" for n in range(40)])
    process = desk.start("run", job, *desk.to_peer, "--json")
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    err = _complaint(process)
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    (status,) = desk.call("status", "head", "--json").entries
    assert status["running"] == status["in_doubt"] == 0
    assert status["done"] == desk.requests() < 40
    assert status["last_run"]["ended"]


@pytest.mark.parametrize("arguments", [("schema",), ("models", "--json"), ("run", "{job}", "{peer}")])
def test_a_closed_stdout_is_1_without_noise(desk: Desk, arguments: tuple[str, ...]) -> None:
    """Nobody is left to hear a complaint."""
    job = desk.manifest("closed", GOOD)
    told = [part for each in arguments for part in (desk.to_peer if each == "{peer}" else (each.format(job=job),))]
    reader, writer = os.pipe()
    os.close(reader)
    process = desk.start(*told, stdout=writer)
    os.close(writer)
    err = _complaint(process)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    if arguments[0] == "run":
        assert desk.requests() == 2


# -- hostile words ------------------------------------------------------------------------------------


class _Hostile(http.server.BaseHTTPRequestHandler):
    """A provider whose words try to speak to the terminal."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        error = {"message": f"{ESCAPE}[31mred{OVERRIDE} \x07 line\nline", "code": f"{ESCAPE}]0;title\x07"}
        body = json.dumps({"error": error}).encode()
        self.send_response(400)
        self.send_header("x-request-id", "req_\x1b[2J")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not on the test's stderr."""


def test_a_providers_words_reach_no_terminal_raw(desk: Desk) -> None:
    """Escape sequences and direction marks of an answer are shown as something else, in every command."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hostile) as hostile:
        threading.Thread(target=hostile.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{hostile.server_address[1]}/v1"
        job = desk.manifest("hostile", [f"left {OVERRIDE} right", "two\nlines"])
        said = [desk.call("run", job, "--base-url", url, "--api-key-env", KEY_VARIABLE)]
        assert said[0].code == 4
        said += [desk.call("run", job, "--base-url", url, "--api-key-env", KEY_VARIABLE, "--json")]
        hostile.shutdown()
    said += [desk.call(*words) for words in (["status", "hostile"], ["status"], ["costs"], ["plan", job])]
    said += [desk.call(*words) for words in (["plan", job, "--json"], ["status", "--json"])]
    for each in said:
        for sign in (ESCAPE, OVERRIDE, "\x07"):
            assert sign not in each.out + each.err
    assert "red" in said[0].out


def test_a_users_words_reach_no_terminal_raw(desk: Desk) -> None:
    """Job names, values and files on the command line come back harmless in the error, which is 2."""
    job = desk.manifest("words", GOOD)
    evil = f"x{ESCAPE}[31m"
    Path("evil.csv").write_text(f"prompt\n{evil}\n")
    from_file = desk.manifest("file", [{"file": "evil.csv"}])
    for words in (
        ["run", evil],
        ["status", evil],
        ["plan", job, "--set", f"name={evil}"],
        ["plan", job, "--set", f"{evil}=1"],
        ["run", job, "--provider", evil],
        ["run", job, "--budget", evil],
        ["run", job, "--base-url", f"http://{evil}", "--api-key-env", KEY_VARIABLE],
        ["run", job, "--api-key-env", evil],
        ["plan", from_file],
        [evil],
        ["run", job, f"--{evil}"],
        ["plan", job, "--catalog", evil],
        ["init", f"{evil}/x.txt"],
        ["export", evil, "--output", evil],
    ):
        said = desk.call(*words)
        assert said.code == 2, words
        assert ESCAPE not in said.out + said.err, words
        assert said.err


def _complaint(process: subprocess.Popen[str]) -> str:
    """The stderr of a process whose stdout is nobody's, to its end."""
    assert process.stderr
    with process.stderr:
        err = process.stderr.read()
    process.wait(timeout=60)
    return err


def _read_all(descriptor: int) -> bytes:
    """What a terminal is shown, until nobody holds its other end."""
    shown = b""
    try:
        while piece := os.read(descriptor, 65536):
            shown += piece
    except OSError:
        pass  # how Linux says that the other end is closed
    finally:
        os.close(descriptor)
    return shown
