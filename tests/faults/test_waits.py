"""Waiting: each time-out is its own error of the right class, and a 429 holds everyone as long as it says."""

from __future__ import annotations

import datetime as dt
import email.utils
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.api import Options, run
from runner.engine import events
from runner.engine.stop import Stop
from runner.rules.retry import MAX_HOLD_S
from tests.faults.support import KEY_VARIABLE, Account, Job, Script, Scripted, error_json, http_answer, image_json
from tests.faults.table import AFTER, BEFORE, PAID, STAYS

RETRY = {"attempts": 1, "billed_attempts": 1, "base_s": 0.001, "max_s": 0.002}
LONG_S = 20
WAITS = {"connect_s": LONG_S, "first_byte_s": LONG_S, "stall_s": LONG_S, "total_s": LONG_S}
SHORT_S = 0.5
WHOLE = http_answer(image_json())


@contextmanager
def full_queue() -> Iterator[str]:
    """The base URL of a listener that accepts nobody and whose queue is full: no handshake is ever completed."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            time.sleep(0.05)
            yield f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        finally:
            for each in waiting:
                each.close()


def test_a_connection_that_is_never_made_never_left(tmp_path: Path) -> None:
    """Its time-out has a code of its own, and costs nothing: the task failed, with no doubt."""
    job = Job(tmp_path, [BEFORE], RETRY, {**WAITS, "connect_s": SHORT_S})
    with full_queue() as base_url:
        summary = run(job.write(), Options(base_url=base_url, api_key_env=KEY_VARIABLE, output=job.output))
    assert summary.exit_code == 4
    (row,) = rows = job.rows()
    assert (row.status, row.outcomes, row.all_of("error_code")) == ("failed", ["gave_up"], ["timeout_connect"])
    assert Account.of(rows, []).in_doubt == 0
    job.hold_files(rows)


@pytest.mark.parametrize(
    ("wait", "code", "http_status", "steps"),
    [
        ("first_byte_s", "timeout_first_byte", None, ("hang",)),
        ("stall_s", "timeout_stall", 200, (WHOLE[:-40], "hang")),
        ("total_s", "timeout_total", None, ("hang",)),
        ("total_s", "timeout_total", 200, (WHOLE[:-40], "hang")),
        ("total_s", "timeout_total", 200, (WHOLE[:-40], *([0.1, b" "] * 60), "hang")),
    ],
    ids=["first byte", "stall", "whole, nothing came", "whole, it stalled", "whole, it drips"],
)
def test_a_wait_that_is_too_long_may_have_been_billed(
    stage: Scripted,
    tmp_path: Path,
    wait: str,
    code: str,
    http_status: int | None,
    steps: tuple[bytes | float | str, ...],
) -> None:
    """Each has its own code, is in doubt, and holds up nobody else."""
    stage.play({STAYS: [Script(steps, PAID)]})
    # The neighbours are given the same short time; each of them gets its answer at once.
    job = Job(tmp_path, [BEFORE, STAYS, AFTER], RETRY, {**WAITS, wait: SHORT_S * 3})
    summary = run(job.write(), Options(base_url=stage.base_url, api_key_env=KEY_VARIABLE, output=job.output))
    assert summary.exit_code == 4
    before, struck, after = rows = job.rows()
    assert [before.status, struck.status, after.status] == ["done", "in_doubt", "done"]
    (attempt,) = struck.attempts
    assert (attempt["outcome"], attempt["error_code"], attempt["http_status"]) == ("lost", code, http_status)
    assert attempt["doubt_microusd"] == attempt["reserved_microusd"] >= PAID
    assert Account.of(rows, stage.entries()).doubts_billed == 1
    job.hold_files(rows)


# -- how long a 429 holds -----------------------------------------------------------------------

BASE_S = 0.25
"""The longest backoff of a first failure, which is what holds where nothing was told."""


def held(stage: Scripted, folder: Path, headers: dict[str, str], message: str = "Slower.") -> float:
    """The wait of everyone after a 429 with these headers, in seconds; the run is stopped before it has passed."""
    slower = http_answer(error_json("rate_limit_exceeded", "requests", message), "429 Slow", headers)
    stage.play({STAYS: [Script((slower,))]})
    job = Job(folder, [BEFORE, STAYS, AFTER], {"base_s": BASE_S, "max_s": BASE_S}, WAITS)
    stop, waits = Stop(), []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Held):
            waits.append(event.wait_s)
            stop.ask("the wait was seen")

    options = Options(base_url=stage.base_url, api_key_env=KEY_VARIABLE, output=job.output)
    run(job.write(), options, listener=listen, stop=stop)
    rows = job.rows()
    assert [row.status for row in rows] == ["done", "planned", "planned"]
    assert rows[1].outcomes == ["backoff"]
    assert Account.of(rows, stage.entries()).in_doubt == 0
    (wait_s,) = waits
    return wait_s


def in_seconds(seconds: float) -> str:
    """An HTTP date so many seconds from now."""
    return email.utils.format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "message", "wait_s"),
    [
        ({"Retry-After": "7"}, "", 7),
        ({"Retry-After": "180"}, "", 180),
        ({"Retry-After": "180.5"}, "", 180.5),
        ({"Retry-After": "600"}, "", 600),
        ({"Retry-After": "601"}, "", MAX_HOLD_S),
        ({"Retry-After": "86400"}, "", MAX_HOLD_S),
        ({"Retry-After": "1790000000"}, "", MAX_HOLD_S),
        ({"Retry-After": "9" * 300}, "", MAX_HOLD_S),
        ({"Retry-After": "0"}, "", 0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, "", 0),
        ({"Retry-After": "180", "retry-after-ms": "179500"}, "", 179.5),
        ({"Retry-After": "180", "retry-after-ms": "soon"}, "", 180),
        ({}, "Please try again in 6m0s.", 360),
        ({"Retry-After": "soon"}, "Please try again in 12s.", 12),
        ({"Retry-After": "-7"}, "Please try again in 12s.", 12),
    ],
)
def test_everyone_waits_as_long_as_was_asked_for(
    stage: Scripted, tmp_path: Path, headers: dict[str, str], message: str, wait_s: float
) -> None:
    """In seconds, in milliseconds, as a date or in words; above two minutes too, and never above the longest hold."""
    assert held(stage, tmp_path, headers, message) == wait_s


def test_a_date_to_come_back_at_is_a_wait_until_then(stage: Scripted, tmp_path: Path) -> None:
    """Told to the second, so it can be one less."""
    assert 290 < held(stage, tmp_path, {"Retry-After": in_seconds(300)}) <= 300


@pytest.mark.parametrize("told", ["", "-7", "nan", "inf", "-inf", "soon", "1e999", "7 s", "32 Nov", "\t"])
def test_what_says_nothing_is_a_backoff(stage: Scripted, tmp_path: Path, told: str) -> None:
    """Without a Retry-After that can be read, the wait is that of the policy."""
    assert 0 <= held(stage, tmp_path, {"Retry-After": told} if told else {}) < BASE_S
