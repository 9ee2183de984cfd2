"""What a job's lock on a server must hold: one run at a time on any host, and a dead holder never keeps it."""

from __future__ import annotations

import datetime as dt
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.errors import LedgerError, Locked
from runner.ledger import Ledger, Server, serverlock
from tests.edges.ledger_support import connected, fresh
from tests.servers import postgres
from tests.servers.postgres import PASSWORD
from tests.servers.tcp_proxy import proxy

NOW = dt.datetime(2026, 11, 22, 3, 0, tzinfo=dt.UTC)
_HOLD = """
import datetime, sys
from runner.ledger import Ledger, Server

with Ledger.open(Server(sys.argv[1]), create=True) as ledger:
    with ledger.lock(sys.argv[2], now=datetime.datetime.now(datetime.UTC)):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def place(pg_server: postgres.Server) -> Iterator[Server]:
    """A ledger with nothing in it."""
    url = fresh(pg_server)
    yield Server(url)
    pg_server.drop(url)


@pytest.fixture
def ledger(place: Server) -> Iterator[Ledger]:
    with Ledger.open(place, create=True) as opened:
        yield opened


@contextmanager
def holder(place: Server, job: str = "job") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the job until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, place.url, job], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def until(holds: Callable[[], bool], *, timeout_s: float = 30) -> None:
    """Wait for what another thread or process is about to do."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def end_connection(place: Server) -> None:
    """End at the server the connections that hold job locks."""
    with connected(place, autocommit=True) as server:
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        )


def test_a_second_process_hears_who_holds_the_job_and_since_when(place: Server, ledger: Ledger) -> None:
    """Law 3: two runs of one job would each send what the other has sent."""
    with holder(place) as process:
        assert ledger.is_held("job")
        assert not ledger.is_held("other")
        with pytest.raises(Locked) as caught, ledger.lock("job", now=NOW):
            pass
        assert f"pid {process.pid} on {socket.gethostname()}, since 20" in caught.value.message
        assert "UTC" in caught.value.message
        assert PASSWORD not in str(caught.value)
        with ledger.lock("other", now=NOW):
            assert ledger.is_held("other")
    assert not ledger.is_held("other")


def test_a_killed_holder_holds_nothing(place: Server, ledger: Ledger) -> None:
    """The lock ends with its connection, and that with its process."""
    with holder(place) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: not ledger.is_held("job"))
        with ledger.lock("job", now=NOW):
            assert ledger.is_held("job")


def test_a_lock_that_is_given_back_is_free_at_once(ledger: Ledger) -> None:
    """Also when the block fails; and nobody waits for the next look at the connection."""
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(ValueError, match="mine"), ledger.lock("job", now=NOW):
            raise ValueError("mine")
        assert not ledger.is_held("job")
    assert time.monotonic() - began < serverlock.WATCH_S


def test_a_lost_lock_is_taken_again_at_once(place: Server, ledger: Ledger) -> None:
    """A connection that the server has ended is none that the run could lose its job by."""
    with ledger.lock("job", now=NOW):
        for _ in range(2):
            before = _holding(place)
            end_connection(place)
            until(lambda before=before: _holding(place) not in (None, before))  # type: ignore[misc]  # a loop's value
        with Ledger.open(place, create=False) as other, pytest.raises(Locked), other.lock("job", now=NOW):
            pass
    assert not ledger.is_held("job")


def test_a_lock_that_another_run_has_taken_meanwhile_is_told_at_the_end(
    pg_server: postgres.Server, place: Server
) -> None:
    """The run that lost it has nothing more to say of the job; what it has recorded stays."""
    with proxy(pg_server.port) as wire:
        behind = Server(place.url.replace(f":{pg_server.port}/", f":{wire.port}/"))
        with Ledger.open(behind, create=True) as cut_off, Ledger.open(place, create=True) as other:
            with pytest.raises(LedgerError, match="another run holds the job 'job'"), cut_off.lock("job", now=NOW):
                wire.close_down()
                until(lambda: not other.is_held("job"))
                with other.lock("job", now=NOW):
                    wire.open_up()
                    until(lambda: len(_watches()) == 1)
            assert not other.is_held("job")


def test_looking_whether_a_job_is_held_takes_nothing(tmp_path: Path) -> None:
    """Of a file's lock too: it is looked at while a run begins, and that run is not refused for it."""
    with Ledger.open(tmp_path / "ledger.sqlite3", create=True) as ledger:
        assert not ledger.is_held("job")
        assert not (tmp_path / ".ledger.sqlite3.locks").exists()
        with ledger.lock("job", now=NOW):
            assert ledger.is_held("job")
        assert not ledger.is_held("job")


def _holding(place: Server) -> object:
    with connected(place) as server:
        row = server.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchone()
    return None if row is None else row[0]


def _watches() -> list[threading.Thread]:
    """The threads that watch a lock."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("the lock")]
