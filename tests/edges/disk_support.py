"""Disks that refuse: a small one of its own, files that may not grow, folders that may not be written.

Whole runs in processes of their own, looked at through the ledger by plain SQL, the files, and the simulator's bill.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.crash.crash_support import Account, Bench, environment
from tests.edges.simulator_support import Peer

IMAGE_KB = 500
CONCURRENCY = 3
_CAPABILITIES = "-dac_override,-dac_read_search"
_MAIN = """
import json, resource, sys
given = json.loads(sys.argv.pop(1))
if "file_bytes" in given:
    resource.setrlimit(resource.RLIMIT_FSIZE, (given["file_bytes"],) * 2)
if "wait_s" in given:
    from runner.ledger import database
    database.WAIT_S, database.TELL_S = given["wait_s"], given["wait_s"] / 4
from runner.cli import main
main()
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The `--json` lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def told(self) -> str:
        """Everything that was said about what went wrong."""
        ends = [line for line in self.out.splitlines() if '"summary"' in line or '"error"' in line]
        return "\n".join([self.err, *(json.loads(line).get("reason", line) for line in ends)])


def command(arguments: Sequence[str], *, prefix: Sequence[str] = (), **given: object) -> list[str]:
    """The command line of a run with these limits: `file_bytes`, `wait_s`."""
    return [*prefix, sys.executable, "-c", _MAIN, json.dumps(given), *arguments]


def call(arguments: Sequence[str], *, prefix: Sequence[str] = (), **given: object) -> Ended:
    """One command line to its end, which is never a traceback."""
    done = subprocess.run(
        command(arguments, prefix=prefix, **given),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    assert "unexpected error" not in done.stdout + done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def stopped(bench: Bench, ended: Ended, *signs: str) -> None:
    """A run that ended at a disk that refuses: it says so, and what it has on record is true."""
    assert ended.code == 1, (ended.out, ended.err)
    for sign in signs:
        assert sign in ended.told
    assert "hint:" in ended.told
    honest(bench)


def honest(bench: Bench) -> None:
    """Nothing is done without its file, nothing billed without a record, and the ledger is sound."""
    assert bench.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    if not bench.rows("SELECT 1 FROM sqlite_master WHERE name = 'attempts'"):
        assert bench.peer.bill()["requests"] == 0
        return
    done = bench.rows("SELECT path, sha256 FROM assets")
    assert len(done) == len(bench.rows("SELECT 1 FROM tasks WHERE status = 'done'"))
    for asset in done:
        assert hashlib.sha256((bench.output / asset["path"]).read_bytes()).hexdigest() == asset["sha256"]
    assert bench.peer.bill()["requests"] <= len(bench.rows("SELECT 1 FROM attempts"))


def finished(bench: Bench, ended: Ended) -> Account:
    """The run after space was made: all is there, and nothing was paid again but what was on its way."""
    assert ended.code == 0, (ended.out, ended.err)
    account = bench.hold_against_the_bill()
    assert account.billed <= len(bench.prompts) + account.lost
    assert account.lost <= CONCURRENCY
    return account


@dataclass(frozen=True, slots=True)
class Apart(Bench):
    """A bench whose ledger is read from a copy: to look at it needs no place on its disk, and changes nothing there."""

    def rows(self, query: str) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            for path in self.output.glob("ledger.sqlite3*"):
                shutil.copy(path, folder)
            path = Path(folder) / "ledger.sqlite3"
            if not path.exists():
                return []
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.row_factory = sqlite3.Row
                return [dict(row) for row in connection.execute(query)]


def bench_in(folder: Path, peer: Peer, count: int, *, letters: int = 20) -> Bench:
    """A job with `count` prompts of about this length."""
    return Apart(
        folder, peer, [f"{number:04d} " + "a lighthouse at dusk " * (letters // 21 or 1) for number in range(count)]
    )


class SmallDisk:
    """A file system of its own for the block, that ends with it however it ends: no process but ours can see it."""

    def __init__(self, keeper: subprocess.Popen[str], at: Path, enter: Sequence[str]) -> None:
        self._keeper = keeper
        self.at = at
        self.prefix = (*enter, "--target", str(keeper.pid), "--mount")
        self.seen = Path(f"/proc/{keeper.pid}/root{at}")
        """Where this process, outside, finds what is on it."""

    def resize(self, *, kb: int, inodes: int = 1000) -> None:
        """Make it larger, or smaller."""
        self._tell(f"mount -o remount,size={kb}k,nr_inodes={inodes} '{self.at}'")

    def _tell(self, line: str) -> None:
        assert self._keeper.stdin
        assert self._keeper.stdout
        self._keeper.stdin.write(f"{line} && echo done || echo failed\n")
        self._keeper.stdin.flush()
        assert self._keeper.stdout.readline() == "done\n"


@contextlib.contextmanager
def small_disk(at: Path, *, kb: int, inodes: int = 1000) -> Iterator[SmallDisk]:
    """A disk of this size at the folder `at`; skips where the machine lets nobody mount one."""
    at.mkdir()
    mount = f"mount -t tmpfs -o size={kb}k,nr_inodes={inodes} none '{at}' && echo done && exec sh"
    for apart, enter in ((["--mount"], []), (["--user", "--map-root-user", "--mount"], ["--user"])):
        if shutil.which("unshare") is None or shutil.which("nsenter") is None:
            break
        keeper = subprocess.Popen(
            ["unshare", *apart, "sh", "-c", mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with keeper:
            try:
                assert keeper.stdout
                if keeper.stdout.readline() == "done\n":
                    yield SmallDisk(keeper, at, ["nsenter", *enter, *(["--preserve-credentials"] if enter else [])])
                    return
            finally:
                keeper.kill()
    pytest.skip("this machine lets an ordinary user mount nothing")


def powerless() -> Sequence[str]:
    """What a command line begins with, so that permissions hold for it as well when the tests are run by root."""
    if os.geteuid() != 0:
        return ()
    prefix = ("setpriv", f"--bounding-set={_CAPABILITIES}", f"--inh-caps={_CAPABILITIES}")
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("root may write everything here, and this machine lets it give that up to nobody")
    return prefix


@contextlib.contextmanager
def modes(changes: Mapping[Path, int]) -> Iterator[None]:
    """Other permissions for the block."""
    before = {path: path.stat().st_mode & 0o777 for path in changes}
    try:
        for path, mode in changes.items():
            path.chmod(mode)
        yield
    finally:
        for path, mode in reversed(before.items()):
            path.chmod(mode)
