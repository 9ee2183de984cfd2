"""The store on object storage: on a server that speaks S3, and by what every store of fsspec can do."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from runner.errors import Locked, StoreError
from runner.store import BadImage, ImageFacts, inventory_at
from runner.store.bucket import BucketStore
from runner.store.folder import FolderStore
from tests.edges.ledger_support import png
from tests.servers.s3 import S3, s3
from tests.servers.s3_desk import Ground, at_s3, in_folder, in_memory

NOW = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
IMAGE, OTHER = png(1), png(2)
FACTS = ImageFacts("png", 16, 16, False)


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3() as running:
        yield running


@pytest.fixture(params=["s3", "local", "memory"])
def ground(
    request: pytest.FixtureRequest, tmp_path: Path, server: S3, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ground]:
    monkeypatch.setenv("RUNNER_SPOOL", str(tmp_path / "spool"))
    with ExitStack() as held:
        match request.param:
            case "s3":
                yield held.enter_context(at_s3(server, monkeypatch))
            case "local":
                yield in_folder(tmp_path / "place")
            case _:
                yield in_memory()


@pytest.fixture
def store(ground: Ground) -> BucketStore:
    it = ground.store()
    it.prepare()
    return it


def received(store: BucketStore, attempt_id: int, data: bytes) -> None:
    partial = store.partial(attempt_id)
    for start in range(0, len(data), 500):
        partial.write(data[start : start + 500])
    partial.seal()


def placed(store: BucketStore, attempt_id: int, name: str, data: bytes) -> str:
    received(store, attempt_id, data)
    path = store.path(name)
    store.place(attempt_id, path)
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spooled(store: BucketStore) -> list[str]:
    """What waits on this machine."""
    return sorted(path.name for path in (store.spool.folder / ".partial").iterdir())


def test_preparing_leaves_nothing(store: BucketStore, ground: Ground) -> None:
    """It proves that objects can be put and removed."""
    assert ground.tree() == {}
    assert store.is_remote


def test_an_image_waits_in_the_spool_until_it_is_placed(store: BucketStore, ground: Ground) -> None:
    """Law 2 and 5: the very bytes, under their name at once, and here no longer."""
    received(store, 1, IMAGE)
    assert ground.tree() == {}
    assert spooled(store) == ["1.part"]
    assert store.partial_matches(1, sha256(IMAGE))
    store.place(1, "job/images/a/b c.png")
    assert ground.tree() == {"job/images/a/b c.png": IMAGE}
    assert spooled(store) == []
    assert store.matches("job/images/a/b c.png", sha256(IMAGE))
    assert not store.matches("job/images/a/b c.png", sha256(OTHER))
    assert store.has("job/images/a/b c.png", len(IMAGE))
    assert store.have([("job/images/a/b c.png", len(IMAGE)), ("job/images/a/b c.png", 1), ("job/images/x", 1)]) == [
        True,
        False,
        False,
    ]


def test_nothing_is_ever_overwritten(store: BucketStore, ground: Ground) -> None:
    """What lies under a name stays, and what was to have it stays in the spool."""
    path = placed(store, 1, "a.png", IMAGE)
    received(store, 2, OTHER)
    with pytest.raises(StoreError, match="exists already"):
        store.place(2, path)
    other = placed(store, 3, "b.png", OTHER)
    for call in (store.move, store.link):
        with pytest.raises(StoreError, match="exists already"):
            call(path, other)
    assert ground.tree() == {path: IMAGE, other: OTHER}
    assert spooled(store) == ["2.part"]


@pytest.mark.parametrize("path", ["job/../other/images/a.png", "other/images/a.png", "job//a.png", "a.png", "job/./a"])
def test_a_path_cannot_leave_the_job(store: BucketStore, ground: Ground, path: str) -> None:
    """Paths from a ledger are data."""
    kept = placed(store, 1, "a.png", IMAGE)
    received(store, 2, OTHER)
    calls: list[Callable[[], object]] = [
        lambda: store.place(2, path),
        lambda: store.move(kept, path),
        lambda: store.link(kept, path),
        lambda: store.release(path),
        lambda: store.derived.put(path, b"x"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="outside"):
            call()
    assert ground.tree() == {kept: IMAGE}


def test_bytes_that_are_no_image_are_never_sealed(store: BucketStore, ground: Ground) -> None:
    """They are verified on their way to the spool."""
    partial = store.partial(1)
    partial.write(IMAGE[:-20])
    with pytest.raises(BadImage):
        partial.seal()
    partial.discard()
    assert spooled(store) == []
    assert ground.tree() == {}


def test_names_move_and_double_by_copies(store: BucketStore, ground: Ground) -> None:
    """A move is a copy and a removal; a link is a copy."""
    path = placed(store, 1, "a.png", IMAGE)
    store.move(path, "job/images/b.png")
    assert ground.tree() == {"job/images/b.png": IMAGE}
    store.link("job/images/b.png", "job/images/c.png")
    assert ground.tree() == {"job/images/b.png": IMAGE, "job/images/c.png": IMAGE}
    with pytest.raises(StoreError, match="is not there"):
        store.link("job/images/none.png", "job/images/d.png")
    assert not store.occupied("job/images/d.png")


def test_what_is_kept_aside_is_told_of_until_its_name_is_released(store: BucketStore, ground: Ground) -> None:
    """A run that dies in between leaves both names, and the next run of any host hears of them."""
    path = placed(store, 1, "a/b.png", IMAGE)
    aside = store.keep_aside(path, tag="7")
    assert aside == "job/superseded/a/b~7.png"
    elsewhere = ground.store()
    assert list(elsewhere.doubled()) == [(path, aside)]
    elsewhere.release(path)
    assert list(store.doubled()) == []
    assert ground.tree() == {aside: IMAGE}


def test_two_images_that_are_alike_are_not_taken_for_one_with_two_names(store: BucketStore) -> None:
    """Only what a note tells of was kept aside: the same bytes alone prove nothing."""
    placed(store, 1, "a.png", IMAGE)
    received(store, 2, IMAGE)
    store.place(2, "job/superseded/a~7.png")
    assert list(store.doubled()) == []


def test_what_was_kept_aside_before_stays(store: BucketStore, ground: Ground) -> None:
    """Other bytes get another name, the same bytes the same."""
    path = placed(store, 1, "a.png", IMAGE)
    assert store.keep_aside(path, tag="t") == store.keep_aside(path, tag="t") == "job/superseded/a~t.png"
    store.release(path)
    placed(store, 2, "a.png", OTHER)
    assert store.keep_aside(path, tag="t") == "job/superseded/a~t-2.png"
    assert store.superseded("a.png", tag="t", sha256=sha256(IMAGE)) == "job/superseded/a~t.png"
    assert store.superseded("a.png", tag="t", sha256=sha256(b"?")) == "job/superseded/a~t-3.png"
    assert ground.tree()["job/superseded/a~t.png"] == IMAGE


def test_what_was_taken_over_is_told_of_until_it_is_on_record(store: BucketStore, ground: Ground) -> None:
    """From another job of the same place."""
    theirs = ground.store("theirs")
    theirs.prepare()
    old = placed(theirs, 1, "x.png", IMAGE)
    store.take_over(old, "job/images/y.png")
    assert ground.store().half_taken_over() == "job/images/y.png"
    ground.spoil(old, None)
    assert store.half_taken_over() is None  # it is the only one of its bytes now
    store.taken_over()
    assert store.half_taken_over() is None
    assert ground.tree() == {"job/images/y.png": IMAGE}


def test_an_image_is_taken_over_from_a_folder_and_into_one(store: BucketStore, ground: Ground, tmp_path: Path) -> None:
    """Jobs of one ledger may lie in different places."""
    folder = FolderStore(tmp_path / "output", "local")
    folder.prepare()
    partial = folder.partial(1)
    partial.write(IMAGE)
    partial.seal()
    folder.place(1, "local/images/a.png")
    store.take_over("local/images/a.png", "job/images/a.png", tmp_path / "output")
    assert store.half_taken_over() == "job/images/a.png"
    assert ground.tree()["job/images/a.png"] == IMAGE
    folder.take_over("job/images/a.png", "local/images/b.png", ground.bucket)
    assert (tmp_path / "output/local/images/b.png").read_bytes() == IMAGE


def test_an_image_is_taken_over_from_another_store(store: BucketStore, ground: Ground) -> None:
    """Where no server can copy, the bytes pass here."""
    other = in_memory()
    theirs = other.store("theirs")
    theirs.prepare()
    old = placed(theirs, 1, "x.png", OTHER)
    store.take_over(old, "job/images/y.png", other.bucket)
    assert store.half_taken_over() == "job/images/y.png"
    assert ground.tree()["job/images/y.png"] == OTHER


def test_examining_tells_what_an_object_is(store: BucketStore, ground: Ground) -> None:
    """Read and verified, as on a disk."""
    path = placed(store, 1, "a.png", IMAGE)
    found = store.examine(path)
    assert found is not None
    assert (found.sha256, found.bytes, found.facts) == (sha256(IMAGE), len(IMAGE), FACTS)
    ground.spoil(path, IMAGE[:-9])
    assert store.examine(path) is None
    assert store.examine("job/images/none.png") is None
    received(store, 2, OTHER)
    left = store.examine_partial(2)
    assert left is not None
    assert left.sha256 == sha256(OTHER)


def test_an_object_is_read_as_a_stream_and_as_a_file_of_this_machine(store: BucketStore) -> None:
    """A copy is removed after its block."""
    path = placed(store, 1, "a.png", IMAGE)
    with store.reading(path) as stream:
        assert stream.read(8) == IMAGE[:8]
        assert stream.read() == IMAGE[8:]
    with store.local_copy(path) as file:
        assert file.read_bytes() == IMAGE
        assert file.suffix == ".png"
    assert not file.exists()
    for read in (store.reading, store.local_copy):
        with pytest.raises(StoreError, match="is not there"), read("job/images/none.png"):
            pass


def test_sweeping_removes_what_is_temporary_here_and_there(store: BucketStore, ground: Ground) -> None:
    """And nothing else."""
    path = placed(store, 1, "a.png", IMAGE)
    received(store, 2, OTHER)
    aside = store.keep_aside(path, tag="7")
    assert store.sweep() == 2
    assert spooled(store) == []
    assert ground.tree() == {path: IMAGE, aside: IMAGE}


def test_a_log_lies_here_while_the_run_goes_on_and_there_when_it_has_ended(store: BucketStore, ground: Ground) -> None:
    """Its name is there from the beginning: another ledger hears that this job has been run here."""
    assert not store.has_run_logs()
    with store.log(3) as log:
        log.write("one\n")
        assert ground.tree() == {"job/logs/run-000003.jsonl": b""}
        assert ground.store().has_run_logs()
        log.write("two\n")
    assert log.problem is None
    assert ground.tree() == {"job/logs/run-000003.jsonl": b"one\ntwo\n"}
    assert not store.spool.has_run_logs()
    assert store.has_run_logs()


def test_the_log_of_a_dead_run_is_put_by_the_next(store: BucketStore, ground: Ground) -> None:
    """As far as it was written."""
    with store.spool.log(1) as dead:
        dead.write("what it did\n")
    assert store.has_run_logs()
    with store.log(2):
        pass
    assert ground.tree() == {"job/logs/run-000001.jsonl": b"what it did\n", "job/logs/run-000002.jsonl": b""}


def test_derived_files_are_put_whole_and_replaced(store: BucketStore, ground: Ground) -> None:
    """One that cannot be made leaves what was there."""
    derived = store.derived
    assert not derived.has_gallery()
    derived.put(derived.gallery_path, iter([b"first ", b"page"]))
    assert derived.has_gallery()
    derived.put_all([(derived.gallery_path, b"second"), *((f"job/renditions/card/{n}.webp", b"x") for n in range(40))])
    assert ground.tree()["job/gallery/index.html"] == b"second"
    assert len(ground.tree()) == 41

    def broken() -> Iterator[bytes]:
        yield b"third"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        derived.put(derived.gallery_path, broken())
    assert ground.tree()["job/gallery/index.html"] == b"second"


def test_two_processes_of_one_machine_cannot_hold_a_job_both(store: BucketStore, ground: Ground) -> None:
    """Their temporary files lie in one spool."""
    with store.lock(now=NOW):
        with pytest.raises(Locked, match="another run holds"), ground.store().lock(now=NOW):
            pass
        with ground.store("other").lock(now=NOW):
            pass


def test_the_inventory_holds_objects_against_their_records(store: BucketStore, ground: Ground) -> None:
    """Missing, changed, damaged; whether the server tells a checksum or not."""
    good, path = placed(store, 1, "a.png", IMAGE), placed(store, 2, "b.png", OTHER)
    inventory = inventory_at(ground.bucket, "job")

    def look(path: str, data: bytes, *, deep: bool = False) -> str:
        facts = FACTS if deep else None
        return inventory.look(path, sha256=sha256(data), size_bytes=len(data), facts=facts).verdict

    assert [look(good, IMAGE), look(good, IMAGE, deep=True)] == ["good", "good"]
    assert look("job/images/none.png", IMAGE) == "missing"
    assert look("other/images/a.png", IMAGE) == "outside"
    assert look("job/logs/a.png", IMAGE) == "outside"
    assert look(path, OTHER + b"x") == "changed"
    ground.spoil(path, OTHER[:-1] + b"?")
    assert look(path, OTHER) == "changed"
    garbage = b"\x89PNG\r\n\x1a\n" + os.urandom(200)
    ground.spoil(path, garbage)
    assert look(path, garbage) == "good"
    assert look(path, garbage, deep=True) == "undecodable"
    assert inventory.digest(good) == sha256(IMAGE)
    assert inventory.digest("job/images/none.png") is None


def test_the_inventory_finds_what_nobody_knows_and_what_is_temporary(store: BucketStore, ground: Ground) -> None:
    """In the bucket and in the spool."""
    path = placed(store, 1, "a.png", IMAGE)
    aside = store.keep_aside(path, tag="7")
    store.derived.put("job/renditions/card/a.webp", b"card")
    received(store, 2, OTHER)
    inventory = inventory_at(ground.bucket, "job")
    assert {(entry.path, entry.kind, entry.bytes) for entry in inventory.walk()} == {
        (path, "file", len(IMAGE)),
        (aside, "file", len(IMAGE)),
    }
    assert {entry.path for entry in inventory.walk_all()} == {path, aside, "job/renditions/card/a.webp"}
    temporaries = inventory.temporaries()
    assert len(temporaries) == 2
    assert "job/.partial/2.part" in temporaries
    assert all(inventory.is_there(each) for each in temporaries)
    store.sweep()
    assert inventory.temporaries() == []
    assert not any(inventory.is_there(each) for each in temporaries)


def test_what_is_about_to_be_submitted_stays_on_this_machine(store: BucketStore, ground: Ground) -> None:
    """A batch's file is read from the disk while it leaves."""
    lines = store.batches.begin(1)
    lines.write(b"{}\n")
    lines.seal()
    assert store.batches.path(1).read_bytes() == b"{}\n"
    assert ground.tree() == {}


def test_each_place_and_job_has_a_spool_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In RUNNER_SPOOL, else in the user's state folder."""
    monkeypatch.delenv("RUNNER_SPOOL", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, two = in_memory(), in_memory()
    folders = {ground.store(job).spool.folder for ground in (one, two) for job in ("a", "b")}
    assert len(folders) == 4
    assert all(folder.is_relative_to(tmp_path / "runner" / "spool") for folder in folders)
    monkeypatch.setenv("RUNNER_SPOOL", str(tmp_path / "fast"))
    assert one.store("a").spool.folder.is_relative_to(tmp_path / "fast")
