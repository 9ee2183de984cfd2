"""What the ledger tells of its assets, where it contradicts itself, and what is left of an image that is gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.errors import LedgerError
from runner.ledger import File, Job, Ledger, Recorded, attempts
from tests.edges.ledger_support import (
    COST,
    NOW_MS,
    RESERVED,
    begin,
    begin_run,
    change,
    contents,
    enrolled,
    finish,
    make_task,
    make_tasks,
    open_ledger,
    path_of,
    rows,
    write,
)


@dataclass
class Shelf:
    """A job with three images, and jobs that take over the first of them, each from the one before."""

    ledger: Ledger
    job: Job
    files: list[File]

    def items(self, name: str = "job") -> list[Recorded]:
        job = self.ledger.job(name)
        assert job is not None
        return list(self.ledger.assets(job))

    def take_over(self, name: str) -> Recorded:
        """Another job that wants the first image, and takes the newest one that there is."""
        job = enrolled(self.ledger, [make_task("prompt 000000")], name=name)
        items = [item for page in self.ledger.reusable(job) for item in page]
        path = f"{name}/images/a.png"
        self.ledger.reuse(items[-1], File(path, items[-1].file.sha256, 101, "png", 16, 16, False), now_ms=NOW_MS)
        (taken,) = self.items(name)
        return taken

    def origins(self) -> dict[str, tuple[int | None, int | None]]:
        """(attempt, asset it was taken over from) of each asset, by its path."""
        found = rows(self.ledger, "SELECT path, attempt_id, reused_from FROM assets")
        return {row["path"]: (row["attempt_id"], row["reused_from"]) for row in found}

    def contradictions(self) -> list[str]:
        with self.ledger.contradictions(self.job) as found:
            return [each.message for each in found]


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with open_ledger(tmp_path) as ledger:
        job = enrolled(ledger, 3)
        run_id = begin_run(ledger, job)
        files = [finish(ledger, job, run_id, todo) for todo in ledger.todo(job, -1, 10)]
        yield Shelf(ledger, job, files)


def test_assets_come_in_pages_of_the_job_and_unwanted_ones_too(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every asset of the job once, other jobs' not among them, whatever the size of a page."""
    shelf.take_over("second")
    shelf.ledger.enrol(shelf.job, list(make_tasks(3))[1:], digest="d2")
    for size in (1, 2, 1000):
        monkeypatch.setattr("runner.ledger.ledger.CHUNK", size)
        items = shelf.items()
        assert [item.file for item in items] == shelf.files
        assert [item.wanted for item in items] == [False, True, True]
        assert {item.job for item in items} == {"job"}
    assert shelf.ledger.totals(shelf.job) == (3, sum(file.bytes for file in shelf.files))
    assert [item.asset_id for item in shelf.ledger.assets_of([2, 99])] == [2]
    with shelf.ledger.same_bytes([shelf.files[0].sha256]) as same:
        assert [item.job for item in same] == ["job", "second"]


def test_a_path_is_recorded_from_the_moment_an_image_is_received(shelf: Shelf) -> None:
    """Assets and what a run has received; not what another job received, nor an attempt that ended."""
    paths = [shelf.files[0].path, "job/images/new.png", "job/images/other.png"]
    assert shelf.ledger.recorded(shelf.job, paths) == {shelf.files[0].path}
    job = shelf.ledger.enrol(shelf.job, make_tasks(4), digest="d2")
    run_id = begin_run(shelf.ledger, job)
    (todo,) = shelf.ledger.todo(job, -1, 10)
    attempt_id = begin(shelf.ledger, job, run_id, todo.task_id)
    change(shelf.ledger, "UPDATE attempts SET received_path = ? WHERE id = ?", paths[1], attempt_id)
    assert shelf.ledger.recorded(job, paths) == set(paths[:2])
    change(shelf.ledger, "UPDATE attempts SET outcome = 'lost', ended_ms = 1 WHERE id = ?", attempt_id)
    assert shelf.ledger.recorded(job, paths) == {paths[0]}


def test_what_an_image_cost_is_told_also_of_one_that_was_taken_over(shelf: Shelf) -> None:
    """At its origin's cost, with the request that would be made again."""
    taken = shelf.take_over("second")
    (paid,) = shelf.ledger.paid([taken.asset_id])
    assert (paid.cost_microusd, paid.reserved_microusd, paid.simulated) == (COST.microusd, RESERVED, False)
    assert paid.request.prompt == "prompt 000000"
    assert len(shelf.ledger.paid([1, 2, 3])) == 3


# -- gone ---------------------------------------------------------------------------------------------


def test_a_lost_image_leaves_its_task_planned_and_its_cost_on_record(shelf: Shelf) -> None:
    """The asset's row goes, and nothing else changes: attempts are what they were."""
    before = contents(shelf.ledger)
    shelf.ledger.gone(shelf.items()[1:2])
    after = contents(shelf.ledger)
    assert [item.asset_id for item in shelf.items()] == [1, 3]
    assert [row["status"] for row in rows(shelf.ledger, "SELECT status FROM tasks ORDER BY id")] == [
        "done",
        "planned",
        "done",
    ]
    assert {name: after[name] for name in after if name not in ("tasks", "assets")} == {
        name: before[name] for name in before if name not in ("tasks", "assets")
    }
    assert shelf.contradictions() == []
    assert shelf.ledger.check() == []


def test_all_of_them_are_given_up_or_none(shelf: Shelf) -> None:
    """One that is not done, or whose asset is another, undoes the whole."""
    first, second, third = shelf.items()
    change(shelf.ledger, "UPDATE tasks SET status = 'planned' WHERE id = ?", third.task_id)
    before = contents(shelf.ledger)
    with pytest.raises(LedgerError, match="is planned"):
        shelf.ledger.gone([first, third])
    with pytest.raises(LedgerError, match="is not that of task"), write(shelf.ledger) as connection:
        attempts.gone(connection, task_id=first.task_id, asset_id=second.asset_id)
    assert contents(shelf.ledger) == before


@pytest.mark.parametrize("order", [("job", "second", "third"), ("second", "job", "third"), ("job", "third", "second")])
def test_what_was_taken_over_stays_taken_over(shelf: Shelf, order: tuple[str, ...]) -> None:
    """Whoever of a chain is lost, in whatever order: the others stay reused, and what that saved stays the same.

    Each of them still leads to the attempt that paid, without a broken reference.
    """
    shelf.take_over("second")
    shelf.take_over("third")
    reused = {name: f"{name}/images/a.png" for name in ("second", "third")}
    jobs = {name: shelf.ledger.job(name) for name in reused}
    left = dict(reused)
    (payer,) = [row["id"] for row in rows(shelf.ledger, "SELECT id FROM attempts WHERE task_id = 1")]
    for name in order[:2]:
        shelf.ledger.gone(shelf.items(name)[:1])
        left.pop(name, None)
        assert shelf.ledger.check() == []
        assert shelf.contradictions() == []
        origins = shelf.origins()
        ids = {row["id"]: row["path"] for row in rows(shelf.ledger, "SELECT id, path FROM assets")}
        for other, path in left.items():
            job = jobs[other]
            assert job is not None
            assert shelf.ledger.reused(job) == 1
            (cost,) = shelf.ledger.costs("job", job)
            assert (cost["reused"], cost["saved_by_reuse_microusd"] > 0) == (1, True), (name, other)
            at = path
            for _ in range(5):
                attempt_id, origin = origins[at]
                if attempt_id is not None:
                    break
                assert origin is not None
                at = ids[origin]
            assert attempt_id == payer


# -- contradictions -----------------------------------------------------------------------------------


def _done_without_image(ledger: Ledger) -> None:
    change(ledger, "DELETE FROM assets WHERE id = 1")


def _image_of_a_planned_task(ledger: Ledger) -> None:
    change(ledger, "UPDATE tasks SET status = 'planned' WHERE id = 1")


def _running_without_a_request(ledger: Ledger) -> None:
    change(ledger, "DELETE FROM assets WHERE id = 1")
    change(ledger, "UPDATE tasks SET status = 'running' WHERE id = 1")


def _request_of_a_planned_task(ledger: Ledger) -> None:
    change(ledger, "DELETE FROM assets WHERE id = 1")
    change(ledger, "UPDATE tasks SET status = 'planned' WHERE id = 1")
    change(ledger, "UPDATE attempts SET outcome = NULL, ended_ms = NULL WHERE task_id = 1")


def _image_out_of_nothing(ledger: Ledger) -> None:
    change(ledger, "UPDATE assets SET attempt_id = NULL WHERE id = 1")


def _image_of_a_lost_request(ledger: Ledger) -> None:
    change(ledger, "UPDATE attempts SET outcome = 'lost' WHERE task_id = 1")


def _wrong_count(ledger: Ledger) -> None:
    change(ledger, "UPDATE jobs SET wanted = 4")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_done_without_image, "the task is done, and has no image on record"),
        (_image_of_a_planned_task, "there is an image on record, and the task is planned"),
        (_running_without_a_request, "the task is running, and no request is under way"),
        (_request_of_a_planned_task, "a request is under way, and the task is planned"),
        (_image_out_of_nothing, "the image was neither asked for nor taken over from another job"),
        (_image_of_a_lost_request, "the request that brought the image is not on record as saved"),
        (_wrong_count, "the job wants 4 images, and has 3 tasks"),
    ],
)
def test_each_contradiction_is_found_alone(shelf: Shelf, fault: Callable[[Ledger], None], words: str) -> None:
    """A sound job has none; each fault is told once, in words; another job's are not among them."""
    enrolled(shelf.ledger, 1, name="second")
    assert shelf.contradictions() == []
    fault(shelf.ledger)
    assert shelf.contradictions() == [words]


def test_every_state_that_a_run_passes_through_is_sound(shelf: Shelf) -> None:
    """Planned, running, received, in doubt, failed: none of them is a contradiction."""
    job = shelf.ledger.enrol(shelf.job, make_tasks(5), digest="d2")
    shelf.job = job
    run_id = begin_run(shelf.ledger, job)
    todo, _ = shelf.ledger.todo(job, -1, 10)
    begin(shelf.ledger, job, run_id, todo.task_id)
    assert shelf.contradictions() == []
    (orphan,) = shelf.ledger.orphans(job, 10)
    with write(shelf.ledger) as connection:
        attempts.found(connection, orphan.attempt_id, shelf.files[0])
    assert shelf.contradictions() == []
    shelf.ledger.adopt(orphan, File("job/images/new.png", "f" * 64, 5, "png", 1, 1, False), now_ms=NOW_MS)
    assert shelf.contradictions() == []
    assert shelf.ledger.check() == shelf.ledger.check(deep=True) == []


@pytest.mark.file_only
def test_only_a_deep_check_looks_at_the_indices(shelf: Shelf) -> None:
    """A row that its index does not have is passed over by the quick check, and found by the thorough one."""
    with closing(sqlite3.connect(path_of(shelf.ledger))) as database:
        database.execute("PRAGMA writable_schema = ON")
        where = "WHERE name = 'ix_attempts_task'"
        (text,) = database.execute(f"SELECT sql FROM sqlite_master {where}").fetchone()
        # While the index is said to be partial, a new row is not put into it.
        database.execute(f"UPDATE sqlite_master SET sql = ? {where}", (f"{text} WHERE task_id < 0",))
        database.commit()
    with closing(sqlite3.connect(path_of(shelf.ledger))) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute(
            "INSERT INTO attempts (task_id, run_id, job_id, model, simulated, begun_ms, reserved_microusd,"
            " price_version) VALUES (1, 1, 1, 'm', 0, 1, 1, 'p')"
        )
        database.execute(f"UPDATE sqlite_master SET sql = ? {where}", (text,))
        database.commit()
    with Ledger.open(path_of(shelf.ledger), create=False) as ledger:
        assert ledger.check() == []
        assert any("ix_attempts_task" in line for line in ledger.check(deep=True))
