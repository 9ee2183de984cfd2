"""What the lock must hold: one run at a time for each job, and a dead holder never keeps it."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.errors import LedgerError, Locked
from runner.ledger import Ledger
from runner.ledger.lock import job_lock

SINCE = dt.datetime(2026, 11, 22, 3, 0, tzinfo=dt.UTC)
_HOLD = """
import datetime, sys
from pathlib import Path
from runner.ledger.lock import job_lock

with job_lock(Path(sys.argv[1]), sys.argv[2], now=datetime.datetime.fromisoformat(sys.argv[3])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(ledger: Path, job: str = "job") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(ledger), job, SINCE.isoformat()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_a_second_process_hears_who_holds_the_job_and_since_when(tmp_path: Path) -> None:
    """Law 3: two runs of one job would each send what the other has sent."""
    path = tmp_path / "ledger.sqlite3"
    with holder(path) as process:
        with pytest.raises(Locked) as caught, job_lock(path, "job", now=SINCE):
            pass
        message = caught.value.message
        assert f"pid {process.pid} on {socket.gethostname()}, since 2026-11-22 03:00:00 UTC" in message
        assert "'job'" in message
        assert caught.value.exit_code == 7
        assert caught.value.hint
        # Another job of the same ledger is free, and so is this job of another ledger.
        with job_lock(path, "other", now=SINCE), job_lock(tmp_path / "second.sqlite3", "job", now=SINCE):
            pass


def test_the_lock_is_free_after_the_holder_was_killed(tmp_path: Path) -> None:
    """SIGKILL leaves no stale lock: the kernel gives it up, and the file that stays says nothing."""
    path = tmp_path / "ledger.sqlite3"
    with holder(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with job_lock(path, "job", now=SINCE):
            assert list(tmp_path.rglob("job.lock"))


def test_the_lock_is_free_after_its_block(tmp_path: Path) -> None:
    """However the block ends."""
    path = tmp_path / "ledger.sqlite3"
    with pytest.raises(RuntimeError), job_lock(path, "job", now=SINCE):
        raise RuntimeError
    with (
        job_lock(path, "job", now=SINCE),
        pytest.raises(Locked, match=f"pid {os.getpid()} "),
        job_lock(path, "job", now=SINCE),
    ):
        pass
    with job_lock(path, "job", now=SINCE):
        pass


def test_a_shorter_text_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    """Who held it before is not mixed into who holds it now; a text that cannot be read is no error."""
    path = tmp_path / "ledger.sqlite3"
    file = tmp_path / ".ledger.sqlite3.locks" / "job.lock"
    file.parent.mkdir()
    file.write_text("x" * 3000)
    with Ledger.open(path, create=True) as ledger, ledger.lock("job", now=SINCE):
        assert re.fullmatch(r"\{.*\}", file.read_text())
        with pytest.raises(Locked, match="since 2026-11-22 03:00:00 UTC"), ledger.lock("job", now=SINCE):
            pass
        file.write_text("")
        with pytest.raises(Locked, match="only just begun"), ledger.lock("job", now=SINCE):
            pass


def test_a_lock_that_cannot_be_made_is_an_error_of_the_ledger(tmp_path: Path) -> None:
    """It says which file it could not open."""
    (tmp_path / ".ledger.sqlite3.locks").write_text("in the way")
    with pytest.raises(LedgerError, match=r"job\.lock"), job_lock(tmp_path / "ledger.sqlite3", "job", now=SINCE):
        pass
