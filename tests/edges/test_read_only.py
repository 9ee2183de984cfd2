"""What must hold where nothing may be written: a clear error before a request leaves, and commands that read go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edges.disk_support import CONCURRENCY, bench_in, call, finished, honest, modes, powerless
from tests.edges.simulator_support import Peer, running

READING = (("status",), ("status", "crash"), ("costs",), ("export", "crash"))


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat") as peer:
        yield peer


@pytest.fixture
def peer(server: Peer) -> Peer:
    server.call("POST", "/simulator/reset")
    return server


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (".", 0o555),
        ("ledger.sqlite3", 0o444),
        ("ledger.sqlite3", 0o000),
        ("crash", 0o000),
        ("crash/images", 0o555),
        ("crash/.partial", 0o555),
    ],
)
def test_what_may_not_be_written_is_told_before_a_request_leaves(
    tmp_path: Path, peer: Peer, name: str, mode: int
) -> None:
    """Whatever of a job's places it is; with the permissions back, it goes on."""
    prefix = powerless()
    bench = bench_in(tmp_path, peer, 3)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    assert call([*arguments, "--limit", "1"]).code == 0
    place = (bench.output / name).resolve()
    with modes({place: mode}):
        ended = call(arguments, prefix=prefix)
        assert ended.code == 1, (ended.out, ended.err)
        assert str(place) in ended.told
        assert "permissions" in ended.told
        assert peer.bill()["requests"] == 1
    assert finished(bench, call(arguments)).requests == 3


@pytest.mark.parametrize("where", ["output", "ledger"])
def test_a_first_run_that_may_write_nothing_leaves_nothing(tmp_path: Path, peer: Peer, where: str) -> None:
    """A folder that cannot be written, for the images or for the ledger alone."""
    prefix = powerless()
    bench = bench_in(tmp_path, peer, 3)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    place = bench.output if where == "output" else tmp_path / "ledgers"
    place.mkdir()
    if where == "ledger":
        arguments += ["--ledger", str(place / "ledger.sqlite3")]
    with modes({place: 0o555}):
        ended = call(arguments, prefix=prefix)
        assert ended.code == 1, (ended.out, ended.err)
        assert str(place) in ended.told
        assert "hint:" in ended.told
    assert list(place.iterdir()) == []
    assert peer.bill()["requests"] == 0


def test_a_folder_of_one_image_that_may_not_be_written_ends_the_run(tmp_path: Path, peer: Peer) -> None:
    """Found only when its image has come: that lies on disk, and the next run takes it over."""
    prefix = powerless()
    bench = bench_in(tmp_path, peer, 6)
    arguments = bench.arguments(bench.write(concurrency=1, name="{{ prompt_id }}/image"))
    folder = bench.output / "crash/images/p0002"
    folder.mkdir(parents=True)
    with modes({folder: 0o555}):
        ended = call(arguments, prefix=prefix)
        assert ended.code == 1
        assert str(folder) in ended.told
        assert "permissions" in ended.told
        honest(bench)
        assert peer.bill()["requests"] == 3
    ended = call(arguments)
    account = finished(bench, ended)
    assert (account.requests, account.lost) == (6, 0)
    assert sum(event["type"] == "adopted" for event in ended.events) == 1


def test_a_log_folder_that_may_not_be_written_stops_nothing(tmp_path: Path, peer: Peer) -> None:
    """The ledger has what matters."""
    prefix = powerless()
    bench = bench_in(tmp_path, peer, 3)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    assert call([*arguments, "--limit", "1"]).code == 0
    with modes({bench.output / "crash/logs": 0o555}):
        assert finished(bench, call(arguments, prefix=prefix)).requests == 3


@pytest.mark.parametrize("log", ["none", "left by a run that was killed", "left, and its index gone"])
def test_a_ledger_that_may_only_be_read_is_read(tmp_path: Path, peer: Peer, log: str) -> None:
    """A backup, a share of somebody else's: looking at it needs no place to write, and leaves no trace."""
    prefix = powerless()
    bench = bench_in(tmp_path, peer, 3)
    manifest = bench.write(concurrency=CONCURRENCY)
    assert call([*bench.arguments(manifest), "--limit", "2"]).code == 0
    ledger = bench.output / "ledger.sqlite3"
    if log != "none":
        _leave_a_log(ledger, index="gone" not in log)
    files = sorted(bench.output.glob("ledger.sqlite3*"))
    before = [(path, path.read_bytes()) for path in files if not path.name.endswith("-shm")]
    plan = ("plan", str(manifest), "--provider", "simulator")
    with modes({**dict.fromkeys(files, 0o444), bench.output: 0o555}):
        # What is read makes a difference where there is nothing but the file; how it is opened is the same for all.
        for arguments in (*READING, plan) if log == "none" else READING[-1:]:
            ended = call([*arguments, "--output", str(bench.output)], prefix=prefix)
            if "gone" in log:
                # SQLite cannot read a log without a place for its index.
                assert ended.code == 1
                assert str(ledger) in ended.told
                assert "permissions" in ended.told
            else:
                assert ended.code == 0, (arguments, ended.err)
        if log != "left, and its index gone":
            told = call(["status", "crash", "--json", "--output", str(bench.output)], prefix=prefix)
            assert told.events[0]["done"] == 2
    assert sorted(bench.output.glob("ledger.sqlite3*")) == files
    assert [(path, path.read_bytes()) for path, _ in before] == before
    assert finished(bench, call(bench.arguments(manifest))).requests == 3


def _leave_a_log(ledger: Path, *, index: bool) -> None:
    """What a run that was killed leaves beside the ledger."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(ledger, isolation_level=None)) as database:
        database.execute("UPDATE runs SET reason = 'killed'")
        aside = ledger.with_name("aside")
        aside.mkdir()
        for path in ledger.parent.glob("ledger.sqlite3*"):
            shutil.copy(path, aside)
    for path in sorted(aside.iterdir()):
        if index or not path.name.endswith("-shm"):
            shutil.move(path, ledger.parent / path.name)
    shutil.rmtree(aside)
