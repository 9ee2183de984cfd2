"""Others die, or run as well: the provider in the middle of a run, and a second job on the same ledger."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.crash import laws
from tests.crash.crash_support import Bench, environment, events_of, provider
from tests.crash.laws import Books

PATIENCE_S = 60
SETTINGS: dict[str, Any] = {"art": "flat", "payload_kb": 100, "latency_s": "0.05-0.2"}


@pytest.mark.parametrize("both", [False, True], ids=["the provider", "the provider and the run"])
def test_a_provider_that_dies_in_the_middle_of_a_run(tmp_path: Path, both: bool) -> None:
    """Its answers are cut, then nobody listens; once it is back, the job is finished, and its bill still adds up."""
    bill, port, concurrency = tmp_path / "bill.jsonl", 0, 6
    prompts = [f"A harbour in the style of number {number}" for number in range(60)]
    with provider(port=port, bill_path=str(bill), **SETTINGS) as peer:
        bench = Bench(tmp_path, peer, prompts)
        patient = {"retry": {"attempts": 20, "base_s": 0.1, "max_s": 0.5}}
        arguments = bench.arguments(bench.write(concurrency=concurrency, more=patient))
        run = _started(arguments, tmp_path, "run")
        _until(lambda: _heard(tmp_path, "run", "saved") >= 12)
        peer.process.kill()
        port = peer.address[1]
        if both:
            run.kill()
        else:
            _until(lambda: "connection_failed" in (tmp_path / "run.out").read_text())
            assert run.poll() is None
    with provider(port=port, bill_path=str(bill), **SETTINGS) as peer:
        bench = replace(bench, peer=peer)
        code = run.wait(PATIENCE_S)
        assert code in ((-9,) if both else (0, 4))
        if code == 4:  # it was away for longer than a task's patience
            assert _ran(["retry", bench.job, "--failed", "--output", str(bench.output)], tmp_path) == 0
        assert _ran(arguments, tmp_path) == 0
        account = bench.hold_against_the_bill()
        # What it was working on when it died is all that was made for nothing.
        assert account.billed - len(prompts) <= concurrency
        assert account.lost >= account.billed - len(prompts)
        assert _ran(arguments, tmp_path) == 0
        assert bench.hold_against_the_bill() == account, "a further run sends nothing"


def test_two_jobs_share_a_ledger_and_one_of_them_is_killed(tmp_path: Path) -> None:
    """The death of one run is nothing to the other; resumed together, both are complete, and each is paid for once."""
    with provider(**SETTINGS) as peer:
        benches = {
            job: Bench(tmp_path, peer, [f"{job}, seen from hill {number}" for number in range(40)], job)
            for job in ("one", "two")
        }
        lines = {job: bench.arguments(bench.write(concurrency=5)) for job, bench in benches.items()}
        runs = {job: _started(line, tmp_path, job) for job, line in lines.items()}
        _until(lambda: all(_heard(tmp_path, job, "saved") >= 5 for job in runs))
        runs["one"].kill()
        runs["one"].wait()
        query = "SELECT a.id FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.name = 'one' AND a.outcome IS NULL"
        cut = {row["id"] for row in benches["one"].rows(query)}
        done = {laws.sha256_of(text) for text in benches["one"].done()}
        assert cut
        assert runs["two"].poll() is None
        runs["one"] = _started(lines["one"], tmp_path, "one")
        assert [run.wait(PATIENCE_S) for run in runs.values()] == [0, 0]

        requests = peer.bill()["requests"]
        runs = {job: _started(line, tmp_path, f"{job} again") for job, line in lines.items()}
        assert [run.wait(PATIENCE_S) for run in runs.values()] == [0, 0]
        assert peer.bill()["requests"] == requests, "a further run sends nothing"

        output, entries = benches["one"].output, peer.entries()
        books = Books.copied(output / "ledger.sqlite3")
        assert list(laws.at_every_instant(books, entries, output, None)) == []
        assert list(laws.at_the_end(books, entries, output, complete=True)) == []
        reckoning = laws.reckon(books, entries, cut)
        assert reckoning.problems == []
        assert reckoning.adopted + reckoning.lost_in_flight <= len(cut) <= 5
        assert len(entries) == 80 + reckoning.lost_in_flight
        billed = [entry["prompt_sha256"] for entry in entries]
        assert all(billed.count(prompt) == 1 for prompt in done)


def _started(arguments: list[str], folder: Path, name: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "runner", *arguments], cwd=folder, env=environment(), stdout=out, stderr=err
        )


def _ran(arguments: list[str], folder: Path) -> int:
    return _started(arguments, folder, "further").wait(PATIENCE_S)


def _heard(folder: Path, name: str, kind: str) -> int:
    return sum(event["type"] == kind for event in events_of((folder / f"{name}.out").read_text()))


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)
