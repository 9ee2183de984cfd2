"""The simulator as a process: it starts, ends when it is told to, and says what is wrong with its settings."""

from __future__ import annotations

import signal
import socket
import statistics
import subprocess
import sys
from typing import Any

import pytest

from runner.errors import InputError
from runner.simulator import latency
from tests.edges.simulator_support import launch, running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_requests_hanging(number: signal.Signals) -> None:
    """Exit code 0 and nothing on stderr; a request that was billed gets no answer that says it failed."""
    with running() as it:
        waiting = [it.raw("[[fault:hang]]"), it.raw("[[fault:delay=600]]"), it.raw("[[fault:stall]]")]
        assert waiting[2].recv(1)
        it.process.send_signal(number)
        _, errors = it.process.communicate(timeout=30)
        assert (it.process.returncode, errors) == (0, "")
        for connection in waiting[:2]:
            with connection, pytest.raises(ConnectionResetError):
                connection.recv(1)
        waiting[2].close()


def test_the_end_of_stdin_ends_it() -> None:
    """A server that was started for one run does not outlive whoever started it."""
    with running() as it:
        _, errors = it.process.communicate("", timeout=30)
        assert (it.process.returncode, errors) == (0, "")


def test_a_port_that_is_taken_is_named() -> None:
    """The error says which port, and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _, errors = launch(port=port).communicate(timeout=30)
    assert f"127.0.0.1:{port}" in errors
    assert "port 0 takes any free one" in errors


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"faults": ["resett"]}, "did you mean reset"),
        ({"latency_s": "slow"}, "p50=18,p95=46"),
        ({"images_per_minute": 0}, "images_per_minute"),
        ({"window_s": 0}, "window"),
        ({"batch_time_s": -1}, "batch"),
        ({"batch_window_s": 0}, "batch"),
        ({"batch_queue_tokens": 0}, "batch_queue_tokens"),
        ({"bill_path": "/proc/none/bill"}, "/proc/none/bill"),
        ({"host": "host.invalid"}, "host.invalid"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_the_start(settings: dict[str, Any], word: str) -> None:
    """Before the socket is open, with the setting's name."""
    process = launch(**settings)
    out, errors = process.communicate(timeout=30)
    assert out == ""
    assert word in errors
    assert "Traceback" not in errors


def test_importing_settings_loads_no_server() -> None:
    """The package is cheap to import: no web server, no drawing."""
    heavy = "('uvicorn', 'starlette', 'PIL', 'pydantic')"
    code = f"import sys, runner.simulator; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_latency_can_be_fixed_uniform_or_log_normal() -> None:
    """Each form draws what it says, scaled when asked, and the same again from the same seed."""
    assert latency.parse("0.5", 0)() == 0.5
    assert latency.parse("2, scale=0.25", 0)() == 0.5
    draw = latency.parse("0.2-1.5", 0)
    assert all(0.2 <= draw() <= 1.5 for _ in range(100))
    draw = latency.parse("p50=18,p95=46,scale=0.1", 3)
    drawn = sorted(draw() for _ in range(4000))
    assert statistics.median(drawn) == pytest.approx(1.8, rel=0.1)
    assert drawn[3800] == pytest.approx(4.6, rel=0.15)
    assert latency.parse("p50=18,p95=46", 3)() == latency.parse("p50=18,p95=46", 3)()


@pytest.mark.parametrize("text", ["", "-1", "fast", "1-", "p50=5", "p50=9,p95=3", "p50=0,p95=1", "1e3"])
def test_a_latency_that_is_not_understood_is_refused(text: str) -> None:
    """The hint shows the known forms."""
    with pytest.raises(InputError, match="not understood"):
        latency.parse(text, 0)
