"""The error table of `docs/design.md`, one fault after the other: a whole run each, through real HTTP.

A job meets a fault in two of its tasks: in one it strikes once, in the other each time. What has to become of those
tasks, of their neighbours, of the run and of the money follows from the fault's class alone: `table.EXPECTED` says it
once for each class. Money is held against the bill of the server, which runs in another process.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.api import Options, run
from runner.engine import events
from tests.edges.simulator_support import Peer
from tests.faults.support import KEY_VARIABLE, Account, Job, Row, Script, Scripted
from tests.faults.table import (
    AFTER,
    ATTEMPTS,
    BEFORE,
    EXPECTED,
    ONCE,
    PATIENT,
    RETRY,
    SIMULATED,
    STAYS,
    STRANGE,
    Fault,
    Kind,
)

# -- the runs -----------------------------------------------------------------------------------


def made(job: Job, base_url: str, listener: events.Listener | None = None) -> events.Summary:
    """One run of the job."""
    options = Options(base_url=base_url, api_key_env=KEY_VARIABLE, output=job.output)
    return run(job.write(), options, listener=listener)


def judge(fault: Fault, row: Row, *, once: bool) -> None:
    """Everything that the table says of a task that met `fault`."""
    expected = EXPECTED[fault.kind]
    outcomes = expected.once if once else expected.outcomes
    mended = outcomes[-1] == "saved"
    bad = [attempt for attempt in row.attempts if attempt["outcome"] != "saved"]
    assert [attempt["error_code"] for attempt in bad] == [fault.code] * len(bad)
    assert [attempt["http_status"] for attempt in bad] == [fault.http_status] * len(bad)
    assert row.outcomes == list(outcomes)
    assert row.status == ("done" if mended else expected.status)
    assert row.error_code == (None if mended else fault.code)
    for attempt in bad:
        assert attempt["error_message"]
        assert (attempt["doubt_microusd"] is not None) == (fault.kind is Kind.LOST)
        assert (attempt["cost_microusd"] is not None) == (fault.kind is Kind.UNUSABLE)
    bases = {attempt["cost_basis"] for attempt in row.attempts if attempt["cost_microusd"] is not None}
    usually = "estimate" if fault.kind is Kind.ESTIMATED else "usage"
    assert bases <= ({usually, "usage"} if once else {usually})


def meet(job: Job, fault: Fault, base_url: str, count: Callable[[], tuple[int, list[Any]]]) -> None:
    """Run the job against a server of which `count` gives the requests and the bill; judge everything about it."""
    stops = fault.kind is Kind.STOP
    summary = made(job, base_url)
    if stops:
        # The one that it struck is planned, and so is what comes after; the next run goes on there.
        assert summary.exit_code == 6
        assert [row.status for row in job.rows()] == ["done", "planned", "planned", "planned"]
        assert job.rows()[1].outcomes == ["backoff"]
        assert made(job, base_url).exit_code == 6
    else:
        assert summary.exit_code == EXPECTED[fault.kind].exit_code
    before, once, stays, after = rows = job.rows()
    judge(fault, stays, once=False)
    if stops:
        assert (once.status, once.outcomes) == ("done", ["backoff", "saved"])
    else:
        judge(fault, once, once=True)
    # Neighbours: untouched, or still planned where the whole run stops.
    assert (before.status, before.outcomes) == ("done", ["saved"])
    assert (after.status, after.outcomes) == (("planned", []) if stops else ("done", ["saved"]))
    job.hold_files(rows)

    requests, entries = count()
    account = Account.of(rows, entries)
    assert account.requests == requests
    if not stops:
        assert summary.requests == requests
        assert summary.cost_microusd == account.settled_microusd
        assert summary.in_doubt_microusd == account.in_doubt_microusd
    doubtful = len(stays.attempts) + once.outcomes.count("lost") if fault.kind is Kind.LOST else 0
    assert account.in_doubt == doubtful


@pytest.mark.parametrize("fault", SIMULATED, ids=lambda fault: fault.name)
def test_a_fault_ends_as_the_table_says(simulator: Peer, tmp_path: Path, fault: Fault) -> None:
    """Once and each time: status, code, requests, money, neighbours and files; after a stop the job goes on."""
    simulator.call("POST", "/simulator/reset")
    prompts = [BEFORE, f"[[fault:{fault.name}*1]] {ONCE}", f"[[fault:{fault.name}]] {STAYS}", AFTER]
    job = Job(tmp_path, prompts, RETRY, fault.timeouts)
    meet(job, fault, simulator.base_url, lambda: (simulator.bill()["requests"], simulator.entries()))


@pytest.mark.parametrize("fault", STRANGE, ids=lambda fault: fault.name)
def test_a_strange_answer_ends_as_the_table_says(stage: Scripted, tmp_path: Path, fault: Fault) -> None:
    """The same, of answers that only a broken gateway gives."""
    assert fault.scripts is not None
    stage.play(fault.scripts())
    job = Job(tmp_path, [BEFORE, ONCE, STAYS, AFTER], RETRY, fault.timeouts)
    meet(job, fault, stage.base_url, lambda: (stage.requests(), stage.entries()))


def test_every_class_is_met_by_many_faults() -> None:
    """No class of the table is without a line, and no fault is there twice."""
    lines = [*SIMULATED, *STRANGE]
    assert {line.kind for line in lines} == set(Kind)
    assert len({line.name for line in STRANGE}) == len(STRANGE)


@pytest.mark.parametrize(
    "fault",
    [f for f in SIMULATED if f.name in ("cut", "insufficient_quota")],
    ids=lambda fault: fault.name,
)
def test_the_command_line_tells_it_the_same(simulator: Peer, tmp_path: Path, fault: Fault) -> None:
    """The exit code of the process, and words without a traceback."""
    simulator.call("POST", "/simulator/reset")
    job = Job(tmp_path, [BEFORE, f"[[fault:{fault.name}]] {STAYS}", AFTER], RETRY, fault.timeouts)
    arguments = ["run", str(job.write()), "--base-url", simulator.base_url, "--api-key-env", KEY_VARIABLE]
    ended = subprocess.run(
        [sys.executable, "-m", "runner", *arguments, "--output", str(job.output), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert ended.returncode == summary["exit_code"] == EXPECTED[fault.kind].exit_code
    assert "Traceback" not in ended.stderr
    assert fault.code is not None
    assert fault.code in ended.stdout
    rows = job.rows()
    assert rows[1].status == EXPECTED[fault.kind].status
    Account.of(rows, simulator.entries())
    job.hold_files(rows)


# -- what never left ----------------------------------------------------------------------------


def never_left(job: Job, base_url: str, code: str) -> list[Row]:
    """Run a job of which no request can leave: all failed, nothing is billed, nothing in doubt."""
    summary = made(job, base_url)
    assert summary.exit_code == 4
    rows = job.rows()
    for row in rows:
        assert row.status == "failed"
        assert row.outcomes == ["backoff"] * (ATTEMPTS - 1) + ["gave_up"]
        assert row.all_of("error_code") == [code] * ATTEMPTS
        assert row.all_of("cost_microusd") == row.all_of("doubt_microusd") == [None] * ATTEMPTS
    job.hold_files(rows)
    assert Account.of(rows, []).in_doubt == 0
    return rows


def test_a_connection_that_is_refused_costs_nothing(tmp_path: Path) -> None:
    """Nobody listens: every request stays on this machine."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        job = Job(tmp_path, [BEFORE, AFTER], RETRY, PATIENT)
        never_left(job, f"http://127.0.0.1:{unused.getsockname()[1]}/v1", "connection_failed")


def test_a_peer_that_speaks_no_tls_costs_nothing(simulator: Peer, tmp_path: Path) -> None:
    """The request is written only into a channel that stands."""
    simulator.call("POST", "/simulator/reset")
    url = simulator.base_url.replace("http:", "https:")
    never_left(Job(tmp_path, [BEFORE], RETRY, PATIENT), url, "connection_failed")
    assert simulator.bill()["requests"] == 0


def test_a_proxy_that_leads_nowhere_costs_nothing(
    stage: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses to connect on: the request itself was never written."""
    refusal = Script((b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "close"))
    stage.play({"images.invalid:443": [refusal]})
    monkeypatch.setenv("HTTPS_PROXY", stage.base_url.removesuffix("/v1"))
    never_left(Job(tmp_path, [BEFORE], RETRY, PATIENT), "https://images.invalid/v1", "connection_failed")
    assert [head.split(" ")[0] for head in stage.seen()["heads"]] == ["CONNECT"] * ATTEMPTS
