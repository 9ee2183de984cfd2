"""What a run must do while another process holds the ledger: wait, say so, give up in the end, and lose nothing."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from runner.errors import LedgerError
from runner.ledger import Ledger, database
from tests.crash.crash_support import environment
from tests.edges.disk_support import CONCURRENCY, bench_in, call, command, finished, stopped
from tests.edges.ledger_support import (
    enrolled,
    open_ledger,
    path_of,
)
from tests.edges.simulator_support import Peer, running

_HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("held", flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process, and what it holds: the write lock of a ledger, until the block or `let_go` ends it."""

    def __init__(self, path: Path, *statements: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(path), *(statements or ("BEGIN IMMEDIATE",))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "held\n"

    def let_go(self) -> None:
        if self._process.returncode is None:
            self._process.communicate()


@contextlib.contextmanager
def held(path: Path, *statements: str) -> Iterator[Holder]:
    holder = Holder(path, *statements)
    try:
        yield holder
    finally:
        holder.let_go()


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat", latency_s="0.05") as peer:
        yield peer


@pytest.fixture
def peer(server: Peer) -> Peer:
    server.call("POST", "/simulator/reset")
    return server


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.6)
    monkeypatch.setattr(database, "TELL_S", 0.2)


class Clock:
    """Time that passes only where it is waited."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def refusing(clock: Clock, until_s: float) -> Callable[[], str]:
    """A call that is refused for a lock until then, each time after half a second."""

    def call() -> str:
        if clock.now_s < until_s:
            clock.now_s += 0.5
            raise sqlite3.OperationalError("database is locked")
        return "done"

    return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    it = Clock()
    monkeypatch.setattr(database, "time", it)
    return it


def test_a_long_wait_is_told_once_and_ends_well(clock: Clock) -> None:
    """A short one is nobody's concern; a long one would look like a hang."""
    told: list[float] = []
    patience = database.Patience(told.append)
    assert patience.attempt(refusing(clock, 1.5)) == "done"
    assert told == []
    assert patience.attempt(refusing(clock, clock.now_s + 50)) == "done"
    assert len(told) == 1
    assert 2 <= told[0] < 3


def test_a_wait_in_vain_ends_after_a_minute_and_the_next_ones_are_short(clock: Clock) -> None:
    """Each change of a run that is ending would otherwise wait its own minute; once it went well, all is as before."""
    patience = database.Patience()
    with pytest.raises(sqlite3.OperationalError):
        patience.attempt(refusing(clock, 1e9))
    assert 60 <= clock.now_s < 61
    with pytest.raises(sqlite3.OperationalError):
        patience.attempt(refusing(clock, 1e9))
    assert 62 <= clock.now_s < 64
    assert patience.attempt(refusing(clock, 0)) == "done"
    before_s = clock.now_s
    assert patience.attempt(refusing(clock, before_s + 59)) == "done"


def test_another_failure_is_not_waited_out(clock: Clock) -> None:
    """Only a lock goes away by itself."""

    def call() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(sqlite3.OperationalError, match="full"):
        database.Patience().attempt(call)
    assert clock.now_s == 0


def test_of_several_who_wait_one_tells(hasty: None) -> None:
    """A server that is away keeps every thread of a run waiting: that is one message, and another the next time."""
    told: list[float] = []
    patience = database.Patience(told.append, wait_s=60)
    for episode in (1, 2):
        free = threading.Event()
        waiting = threading.Barrier(5)

        def call(waits: list[bool], free: threading.Event = free, waiting: threading.Barrier = waiting) -> None:
            if not waits:
                waits.append(True)
                waiting.wait()
            if not free.is_set():
                raise sqlite3.OperationalError("database is locked")

        threads = [threading.Thread(target=patience.attempt, args=(partial(call, []),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        waiting.wait()
        time.sleep(2 * database.TELL_S)
        free.set()
        for thread in threads:
            thread.join()
        assert len(told) == episode


def test_a_change_waits_tells_and_gives_up_with_what_to_do(tmp_path: Path, hasty: None) -> None:
    """Reading goes on meanwhile; when the other has let go, so does writing."""
    told: list[float] = []
    with open_ledger(tmp_path) as ledger:
        enrolled(ledger, 3)
    with Ledger.open(path_of(ledger), create=True, on_wait=told.append) as ledger, held(path_of(ledger)) as holder:
        with pytest.raises(LedgerError, match="held by another process") as caught:
            ledger.make_job("other", manifest_path=None, now_ms=1)
        assert "wait" in (caught.value.hint or "")
        assert len(told) == 1
        assert [job.name for job in ledger.jobs()] == ["job"]
        holder.let_go()
        assert ledger.make_job("other", manifest_path=None, now_ms=1).name == "other"


def test_a_change_goes_through_as_soon_as_the_other_lets_go(tmp_path: Path) -> None:
    """Waited for in slices, none of them lost."""
    with open_ledger(tmp_path) as ledger, held(path_of(ledger)) as holder:
        timer = threading.Timer(1.0, holder.let_go)
        timer.start()
        assert ledger.make_job("job", manifest_path=None, now_ms=1).name == "job"
        timer.join()


def test_what_locks_readers_out_as_well_is_waited_for_and_told(tmp_path: Path, hasty: None) -> None:
    """A ledger that somebody has taken out of WAL mode and holds for himself alone."""
    with open_ledger(tmp_path) as ledger:
        enrolled(ledger, 3)
    told: list[float] = []
    with held(path_of(ledger), "PRAGMA journal_mode = DELETE", "BEGIN EXCLUSIVE"):
        with pytest.raises(LedgerError, match="held by another process"):
            Ledger.open(path_of(ledger), create=True, on_wait=told.append).make_job("x", manifest_path=None, now_ms=1)
        assert told
    with Ledger.open(path_of(ledger), create=True) as again:
        assert again.make_job("x", manifest_path=None, now_ms=1).name == "x"


@pytest.mark.parametrize("known", [True, False])
def test_a_run_that_finds_the_ledger_held_sends_nothing(tmp_path: Path, peer: Peer, known: bool) -> None:
    """Neither when its run is put on record, nor when the ledger is only about to be made."""
    bench = bench_in(tmp_path, peer, 3)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    ledger = bench.output / "ledger.sqlite3"
    if known:
        assert call([*arguments, "--limit", "1"]).code == 0
    else:
        ledger.parent.mkdir()
    with held(ledger, *([] if known else ["PRAGMA journal_mode = WAL", "BEGIN EXCLUSIVE"])):
        ended = call(arguments, wait_s=1.0)
        assert ended.code == 1, ended.told
        assert "held by another process" in ended.told
        assert "ledger.sqlite3" in ended.told
    assert peer.bill()["requests"] == int(known)
    assert finished(bench, call(arguments)).requests == 3


def test_a_ledger_that_is_held_in_mid_run_ends_it_and_loses_nothing(tmp_path: Path, peer: Peer) -> None:
    """No request leaves that is not on record; what was on its way comes in, and is taken over by the next run."""
    bench = bench_in(tmp_path, peer, 200)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    process = subprocess.Popen(
        command(arguments, wait_s=1.5),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout
    read: list[str] = []
    while sum('"saved"' in line for line in read) < 5:
        read.append(process.stdout.readline())
        assert read[-1], process.communicate()
    with held(bench.output / "ledger.sqlite3"):
        out, err = process.communicate(timeout=60)
    ended = type(call(["--help"]))(process.returncode, "".join(read) + out, err)
    assert "Traceback" not in err
    stopped(bench, ended, "held by another process", "ledger.sqlite3")
    requests = peer.bill()["requests"]
    assert 5 <= requests < 200
    ended = call(arguments)
    account = finished(bench, ended)
    assert account.lost == 0, "all came in and lie on disk"
    assert account.requests == 200
    assert any(event["type"] == "adopted" for event in ended.events)
