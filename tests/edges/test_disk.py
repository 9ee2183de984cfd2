"""What a run must do when the disk takes no more: stop, say so, lose nothing, and go on once there is space."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edges.disk_support import CONCURRENCY, IMAGE_KB, bench_in, call, finished, honest, small_disk, stopped
from tests.edges.simulator_support import Peer, running


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat", payload_kb=IMAGE_KB, latency_s="0.02-0.05") as peer:
        yield peer


@pytest.fixture
def peer(server: Peer) -> Peer:
    server.call("POST", "/simulator/reset")
    return server


@pytest.fixture(scope="module")
def light() -> Iterator[Peer]:
    """A simulator whose images are small."""
    with running(art="flat") as peer:
        yield peer


@pytest.fixture
def light_peer(light: Peer) -> Peer:
    light.call("POST", "/simulator/reset")
    return light


# --- files that may not grow: a limit of the process stands in for a quota


def test_an_image_that_may_not_grow_ends_the_run(tmp_path: Path, peer: Peer) -> None:
    """The write of an image is refused in its middle: no request leaves after that, and each sent one is on record."""
    bench = bench_in(tmp_path, peer, 30)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    ended = call(arguments, file_bytes=(IMAGE_KB - 20) * 1024)
    stopped(bench, ended, ".part", "may not grow", "ulimit -f")
    assert peer.bill()["requests"] <= CONCURRENCY
    assert bench.done() == set()
    account = finished(bench, call(arguments))
    assert account.lost == account.billed - len(bench.prompts)


def test_a_ledger_that_may_not_grow_ends_the_run(tmp_path: Path, light_peer: Peer) -> None:
    """The ledger's log is refused in mid run: the images that were on their way lie on disk and are taken over."""
    bench = bench_in(tmp_path, light_peer, 60)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    ended = call(arguments, file_bytes=500_000)
    stopped(bench, ended, "ledger.sqlite3", "cannot grow", "ulimit -f")
    before = light_peer.bill()["requests"]
    assert 0 < before < len(bench.prompts)
    waiting = len(list((bench.output / "crash/.partial").iterdir()))
    ended = call(arguments)
    account = finished(bench, ended)
    assert sum(event["type"] == "adopted" for event in ended.events) >= waiting
    assert account.requests == len(bench.prompts) + account.lost


@pytest.mark.parametrize("file_bytes", [3000, 60_000])
def test_a_ledger_that_cannot_be_made_is_made_by_the_next_run(
    tmp_path: Path, light_peer: Peer, file_bytes: int
) -> None:
    """The very first pages, and the first schema: nothing is sent, and what is left does not stand in the way."""
    bench = bench_in(tmp_path, light_peer, 3)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    stopped(bench, call(arguments, file_bytes=file_bytes), "ledger.sqlite3", "cannot grow")
    assert light_peer.bill()["requests"] == 0
    assert finished(bench, call(arguments)).requests == 3


def test_an_enrolment_that_does_not_fit_is_none(tmp_path: Path, light_peer: Peer) -> None:
    """Part of what a manifest wants is not on record: nothing is sent, and the next run enrols all of it."""
    bench = bench_in(tmp_path, light_peer, 200, letters=8000)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    stopped(bench, call(arguments, file_bytes=900_000), "ledger.sqlite3", "cannot grow")
    assert light_peer.bill()["requests"] == 0
    assert bench.rows("SELECT 1 FROM tasks") == []
    ended = call([*arguments, "--limit", "2"])
    assert (ended.code, len(bench.rows("SELECT 1 FROM tasks"))) == (0, 200)


def test_a_log_that_cannot_be_brought_into_the_ledger_loses_nothing(tmp_path: Path, light_peer: Peer) -> None:
    """The changes of a run are in the ledger's log; the file itself may not grow when they are to be moved into it."""
    bench = bench_in(tmp_path, light_peer, 70, letters=31_900)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    assert call([*arguments, "--limit", "1"]).code == 0
    ledger = bench.output / "ledger.sqlite3"
    file_bytes = ledger.stat().st_size + 4096
    assert file_bytes > 6_000_000, "so that the log, which is moved when it has 4 MB, may become larger than that"
    assert call([*arguments, "--limit", "30"], file_bytes=file_bytes).code == 0
    assert ledger.with_name("ledger.sqlite3-wal").stat().st_size > 4_000_000
    honest(bench)
    assert len(bench.done()) == 31
    finished(bench, call(arguments))
    assert not ledger.with_name("ledger.sqlite3-wal").exists()


@pytest.mark.parametrize("obstacle", ["a pipe", "a file for a folder"])
def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, light_peer: Peer, obstacle: str) -> None:
    """The ledger has what matters; nothing waits for somebody to read a pipe."""
    bench = bench_in(tmp_path, light_peer, 3)
    arguments = bench.arguments(bench.write(concurrency=CONCURRENCY))
    assert call([*arguments, "--limit", "1"]).code == 0
    logs = bench.output / "crash/logs"
    log = logs / "run-000002.jsonl"
    if obstacle == "a pipe":
        os.mkfifo(log)
    else:
        shutil.rmtree(logs)
        logs.write_text("mine")
    assert finished(bench, call(arguments)).requests == 3


# --- a disk that is full


def test_a_full_disk_ends_the_run_and_space_lets_it_go_on(tmp_path: Path, peer: Peer) -> None:
    """Images and ledger share a disk that is too small for them: what is paid for stays, and is not paid again."""
    bench = bench_in(tmp_path, peer, 24)
    manifest = bench.write(concurrency=CONCURRENCY)
    with small_disk(tmp_path / "disk", kb=4 * 1024) as disk:
        (disk.seen / "ballast").write_bytes(bytes(1 << 20))
        there = bench_in(disk.seen, peer, 24)
        arguments = bench.arguments(manifest)
        arguments[arguments.index(str(bench.output))] = str(disk.at / "output")
        ended = call(arguments, prefix=disk.prefix)
        stopped(there, ended, "disk is full", "make space", str(disk.at / "output"))
        done, requests = len(there.done()), peer.bill()["requests"]
        assert 2 < done < 13
        assert requests <= done + CONCURRENCY

        again = call(arguments, prefix=disk.prefix)
        stopped(there, again, "disk is full", "make space")
        (disk.seen / "ballast").unlink()
        more = call(arguments, prefix=disk.prefix)
        stopped(there, more, "disk is full")
        assert len(there.done()) > done

        disk.resize(kb=64 * 1024)
        assert call(arguments, prefix=disk.prefix).code == 0
        account = there.hold_against_the_bill()
        assert account.billed <= 24 + account.lost
        assert account.lost <= 3 * CONCURRENCY


@pytest.mark.parametrize("spare", [0, 2])
def test_a_disk_that_has_no_place_for_another_name(tmp_path: Path, light_peer: Peer, spare: int) -> None:
    """ENOSPC at the temporary file, at a new folder, at the log: found one name after the other."""
    bench = bench_in(tmp_path, light_peer, 6)
    manifest = bench.write(concurrency=CONCURRENCY, name="{{ prompt_id }}/image")
    with small_disk(tmp_path / "disk", kb=8 * 1024, inodes=100) as disk:
        there = bench_in(disk.seen, light_peer, 6)
        arguments = bench.arguments(manifest)
        arguments[arguments.index(str(bench.output))] = str(disk.at / "output")
        assert call([*arguments, "--limit", "1"], prefix=disk.prefix).code == 0
        used = sum(1 for _ in disk.seen.rglob("*"))
        # The ledger's log and its index come first, then the run's log, then images and their folders.
        disk.resize(kb=8 * 1024, inodes=used + 1 + 3 + spare)
        ended = call(arguments, prefix=disk.prefix)
        stopped(there, ended, "disk is full", "make space")
        assert light_peer.bill()["requests"] <= 1 + spare + CONCURRENCY
        disk.resize(kb=8 * 1024)
        assert call(arguments, prefix=disk.prefix).code == 0
        account = there.hold_against_the_bill()
        assert account.billed <= 6 + account.lost


def test_a_full_disk_keeps_an_edited_job_whole(tmp_path: Path, light_peer: Peer) -> None:
    """An image gives its name to another, and there is no place to keep it aside: both are still there afterwards."""
    bench = bench_in(tmp_path, light_peer, 2)
    arguments = bench.arguments(bench.write(concurrency=1))
    finished(bench, call(arguments))
    old = {path.read_bytes() for path in (bench.output / "crash/images").iterdir()}
    # A file where the folder of the superseded ones has to be: the same refusal as a disk without a place for it.
    (bench.output / "crash/superseded").write_text("mine")
    edited = bench_in(tmp_path, light_peer, 2)
    edited = type(bench)(tmp_path, light_peer, [f"{text} at noon" for text in edited.prompts])
    edited.write(concurrency=1)
    stopped(edited, call(arguments), "superseded")
    assert light_peer.bill()["requests"] == 3
    kept = {path.read_bytes() for path in (bench.output / "crash").rglob("*") if path.is_file()}
    assert kept > old
    (bench.output / "crash/superseded").unlink()
    ended = call(arguments)
    assert ended.code == 0
    assert sum(event["type"] == "adopted" for event in ended.events) == 1
    assert light_peer.bill()["requests"] == 4
    honest(edited)
    assert {path.read_bytes() for path in (bench.output / "crash").rglob("*") if path.is_file()} >= old
