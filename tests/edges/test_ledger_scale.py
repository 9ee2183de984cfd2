"""What keeps a large ledger quick: every question through an index, what need not be looked at again, older schemas."""

from __future__ import annotations

import importlib.resources
import inspect
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from runner.engine import recovery
from runner.errors import Usage
from runner.ledger import COMPOSITE, Answer, Cost, Job, Ledger, NewChoice, Renditions, Reviews
from runner.ledger.soundness import HEAD
from runner.tasks import Event, Status
from tests.edges.disk_support import modes
from tests.edges.ledger_support import (
    ANSWER,
    COST,
    NOW_MS,
    REFUSAL,
    House,
    begin,
    begin_run,
    begun,
    change,
    contents,
    engines,
    enrolled,
    finish,
    make_edit,
    make_file,
    make_task,
    make_tasks,
    move_in,
    open_ledger,
    path_of,
    png,
    rendition,
    rows,
    to_begin,
    write,
)

KINDS = {"card": "1" * 64, "thumbnail": "2" * 64}
LARGE = ("tasks", "attempts", "assets", "prompts", "edits", "inputs", "renditions")
"""The tables that grow with the number of images."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as it:
        yield it


# -- the plan of every question ---------------------------------------------------------------------


@dataclass
class Busy:
    """A ledger with two jobs in which everything has happened."""

    ledger: Ledger
    job: Job
    run_id: int
    other: Job
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def next(self) -> int:
        """A task that is planned."""
        return self.ledger.todo(self.job, -1, 1)[0].task_id


@pytest.fixture
def busy(ledger: Ledger) -> Busy:
    other = enrolled(ledger, 40, name="other")
    there = begin_run(ledger, other)
    for todo in ledger.todo(other, -1, 20):
        finish(ledger, other, there, todo)
    edits = [make_task(f"edit {n}", edit=make_edit(n % 3), composite="{}") for n in range(12)]
    job = enrolled(ledger, [*make_tasks(60), *edits])
    run_id = begin_run(ledger, job)
    for todo in ledger.todo(job, 59, 6):
        finish(ledger, job, run_id, todo, cost=Cost(1, "usage", Usage(20, 272, 614, 20, 323)))
    for item in [item for page in ledger.reusable(job) for item in page][:5]:
        ledger.reuse(item, make_file(f"job/images/{item.name}", seed=item.task_id), now_ms=NOW_MS)
    for todo in ledger.todo(job, 30, 10):
        finish(ledger, job, run_id, todo)
    lost, refused, _open = ledger.todo(job, -1, 3)
    attempt_id = begin(ledger, job, run_id, lost.task_id)
    with write(ledger) as connection:
        from runner.ledger import attempts

        attempts.lost(connection, attempt_id, task_id=lost.task_id, answer=Answer(), try_again=False, now_ms=NOW_MS)
    attempt_id = begin(ledger, job, run_id, refused.task_id)
    with write(ledger) as connection:
        attempts.unsaved(
            connection, attempt_id, Event.REFUSED, task_id=refused.task_id, answer=REFUSAL, cost=None, now_ms=NOW_MS
        )
    begin(ledger, job, run_id, _open.task_id)
    return Busy(ledger, job, run_id, other)


def _writer(busy: Busy) -> None:
    """One image of each ending, through the pool's writer."""
    import anyio

    async def main() -> None:
        writer = busy.ledger.writer()
        async with anyio.create_task_group() as group:
            group.start_soon(writer.run)
            for ending in ("saved", "unsaved", "lost"):
                task_id = busy.next()
                attempt_id = await begun(writer, to_begin(busy.job, busy.run_id, task_id))
                file = make_file(f"job/images/{ending}.png", seed=task_id)
                if ending == "saved":
                    await writer.commit(writer.received(attempt_id, answer=ANSWER, cost=COST, file=file))
                    await writer.commit(
                        writer.saved(attempt_id, task_id=task_id, file=file, model="m", simulated=False, now_ms=NOW_MS)
                    )
                elif ending == "unsaved":
                    await writer.unsaved(
                        attempt_id, Event.GAVE_UP, task_id=task_id, answer=REFUSAL, cost=COST, now_ms=NOW_MS
                    )
                else:
                    await writer.lost(attempt_id, task_id=task_id, answer=REFUSAL, try_again=False, now_ms=NOW_MS)
            await writer.close()

    anyio.run(main)


def _spending(busy: Busy) -> None:
    busy.ledger.spending(busy.job, simulated=False)
    busy.ledger.spending(busy.job, simulated=True, since_ms=NOW_MS)
    busy.ledger.spending(busy.job, simulated=False, run_id=busy.run_id)


def _settle(busy: Busy, how: str) -> None:
    (orphan,) = busy.ledger.orphans(busy.job, 10)
    if how == "lose":
        busy.ledger.lose(orphan, Answer(), now_ms=NOW_MS)
    elif how == "found":
        busy.ledger.found(orphan, make_file("job/images/found.png", seed=900))
    else:
        busy.ledger.adopt(orphan, make_file("job/images/found.png", seed=900), now_ms=NOW_MS)


def _rendered(busy: Busy) -> None:
    item = busy.ledger.renditions.composites_wanted(busy.job, 0, 1)[0]
    busy.ledger.renditions.made([rendition(item, COMPOSITE, item.digest, "job/composites/a.png")], now_ms=NOW_MS)


def _done(busy: Busy) -> int:
    """A task that has an image."""
    return int(rows(busy.ledger, "SELECT task_id FROM assets ORDER BY id DESC LIMIT 1")[0]["task_id"])


def _choose(busy: Busy) -> Job:
    new = NewChoice("a", _done(busy), None, "stars", 4, blind=False, token="t")
    busy.ledger.reviews.add(busy.job, new, now_ms=NOW_MS)
    return busy.job


def _take_over(busy: Busy) -> None:
    item = next(busy.ledger.reusable(busy.job))[0]
    busy.ledger.reuse(item, make_file(f"job/images/{item.name}", seed=item.task_id), now_ms=NOW_MS)


HOT: dict[str, Callable[[Busy], object]] = {
    "job": lambda busy: busy.ledger.job("job"),
    "jobs": lambda busy: busy.ledger.jobs(),
    "make_job": lambda busy: busy.ledger.make_job("job", manifest_path="moved.yaml", now_ms=NOW_MS),
    "known": lambda busy: busy.ledger.known(busy.job, ["a", "b", "c"]),
    "lookup": lambda busy: busy.ledger.lookup(busy.job)(["a", "b", "c"]),
    "enrol": lambda busy: busy.ledger.enrol(busy.job, make_tasks(70), digest="d2"),
    "reusable": lambda busy: list(busy.ledger.reusable(busy.job)),
    "has_offers": lambda busy: busy.ledger.has_offers(busy.job),
    "offerable": lambda busy: busy.ledger.offerable(busy.job),
    "offered": lambda busy: busy.ledger.offered(busy.job, busy.run_id),
    "misplaced": lambda busy: list(busy.ledger.misplaced(busy.job, "elsewhere")),
    "reusable_for": lambda busy: busy.ledger.reusable_for(busy.job, busy.next()),
    "elsewhere": lambda busy: busy.ledger.elsewhere(busy.next()),
    "others_under_way": lambda busy: busy.ledger.others_under_way(busy.job),
    "move_job": lambda busy: busy.ledger.move_job(busy.job, "s3://bucket/prefix"),
    "is_tidy": lambda busy: busy.ledger.is_tidy(busy.job),
    "tidied": lambda busy: busy.ledger.tidied(busy.job),
    "begin_run": lambda busy: begin_run(busy.ledger, busy.job),
    "end_run": lambda busy: busy.ledger.end_run(busy.run_id, exit_code=0, reason=None, now_ms=NOW_MS),
    "todo": lambda busy: busy.ledger.todo(busy.job, 3, 10),
    "orphans": lambda busy: busy.ledger.orphans(busy.job, 10),
    "spending": _spending,
    "doubt_found": lambda busy: busy.ledger.doubt_found(busy.run_id, simulated=False),
    "statuses": lambda busy: busy.ledger.statuses(busy.job),
    "reused": lambda busy: busy.ledger.reused(busy.job),
    "requests": lambda busy: busy.ledger.requests(busy.run_id),
    "problems": lambda busy: busy.ledger.problems(busy.job),
    "last_run": lambda busy: busy.ledger.last_run(busy.job),
    "assets_of": lambda busy: busy.ledger.assets_of([1, 2]),
    "recorded": lambda busy: busy.ledger.recorded(busy.job, ["job/images/a.png", "b"]),
    "paid": lambda busy: busy.ledger.paid([1, 2]),
    "lose": lambda busy: _settle(busy, "lose"),
    "found": lambda busy: _settle(busy, "found"),
    "adopt": lambda busy: _settle(busy, "adopt"),
    "reuse": _take_over,
    "asset_at": lambda busy: busy.ledger.asset_at("job/images/a.png"),
    "asset_path": lambda busy: busy.ledger.asset_path(1),
    "asset_moved": lambda busy: busy.ledger.asset_moved(1, "job/images/b.png"),
    "retry": lambda busy: busy.ledger.retry(busy.job, Status.REFUSED, "moderation_blocked"),
    "gone": lambda busy: busy.ledger.gone(busy.ledger.assets_of([1, 2])),
    "has_inputs": lambda busy: busy.ledger.has_inputs(busy.job),
    "renditions.newest_asset": lambda busy: busy.ledger.renditions.newest_asset(),
    "renditions.composites_wanted": lambda busy: busy.ledger.renditions.composites_wanted(busy.job, 3, 10),
    "renditions.lacking": lambda busy: busy.ledger.renditions.lacking(busy.job, KINDS, 3, 10),
    "renditions.made": _rendered,
    "renditions.all": lambda busy: list(busy.ledger.renditions.all(busy.job)),
    "renditions.forget": lambda busy: busy.ledger.renditions.forget([1, 2]),
    "renditions.owners": lambda busy: busy.ledger.renditions.owners(["job/composites/a.png"]),
    "reviews.add": _choose,
    "reviews.undo": lambda busy: busy.ledger.reviews.undo(_choose(busy), "a", now_ms=NOW_MS),
    "reviews.all": lambda busy: list(busy.ledger.reviews.all(_choose(busy))),
    "relatives": lambda busy: busy.ledger.relatives(busy.job),
    "seen_edits": lambda busy: busy.ledger.seen_edits(simulated=False),
    "writer": _writer,
}
"""What a run, its start and its end, or a status asks for."""
COLD = {
    "open": "no question",
    "batches": "no question; those that it leads to are looked at in test_ledger_batches.py",
    "exists": "no question",
    "nights": "no question; those that it leads to are of one run, or of days, for a report or a chart",
    "close": "no question",
    "lock": "no question",
    "place": "no question",
    "is_shared": "no question",
    "is_held": "no question to a file's tables",
    "caps": "no question; those that it leads to are of one row, or of two",
    "gates": "no question; those that it leads to are of one provider key",
    "renditions": "no question",
    "reviews": "no question",
    "renditions.count_lacking": "a person waits for renditions, and is told of how many images",
    "link_origins": "once in a run of what was promoted, which people have chosen one by one",
    "check": "a person asks for a look at everything",
    "costs": "sums by day or model are of every attempt",
    "export": "every task, as a stream",
    "tiles": "every task, as a stream; a page is made of all of them",
    "assets": "every image is looked at, page by page",
    "totals": "all images of a job, before each of them is looked at",
    "same_bytes": "the repair of images that are lost",
    "contradictions": "every record of a job is held against the others",
}
"""What may read a whole table, and why."""
SORTED = {
    "problems": "groups what failed, and nothing else",
    "reusable": "orders the few assets that serve one task",
    "reusable_for": "orders the few assets that serve one task",
    "reuse": "asks for `reusable` first",
    "relatives": "orders what people have chosen one by one, found from there",
}
"""What may sort in a scratch table, and what that is bounded by."""


def test_every_question_is_among_those_whose_plan_is_looked_at() -> None:
    """A new method of the ledger cannot pass this by."""
    public = {name for name, _ in inspect.getmembers(Ledger) if not name.startswith("_")}
    for owner, part in (("renditions", Renditions), ("reviews", Reviews)):
        public |= {f"{owner}.{name}" for name, _ in inspect.getmembers(part) if not name.startswith("_")}
    assert public == HOT.keys() | COLD.keys()
    assert not HOT.keys() & COLD.keys()


@contextmanager
def listening(ledger: Ledger, asked: list[tuple[str, Any]]) -> Iterator[None]:
    """Everything that goes to the database meanwhile, on whichever connection."""

    def note(_c: object, _cursor: object, statement: str, parameters: Any, _context: object, many: bool) -> None:
        asked.append((statement, parameters[0] if many else parameters))

    for engine in engines(ledger):
        sa.event.listen(engine, "before_cursor_execute", note)
    yield
    for engine in engines(ledger):
        sa.event.remove(engine, "before_cursor_execute", note)


def plan(path: Path, statement: str, values: Any) -> list[str]:
    """The steps in which SQLite would go about a statement."""
    with closing(sqlite3.connect(path)) as database:
        return [str(row[-1]) for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


@pytest.mark.parametrize("name", HOT)
def test_no_question_of_a_run_reads_or_sorts_a_whole_table(busy: Busy, name: str) -> None:
    """Law 8: however many tasks there are, what is asked while a run goes on is found through an index."""
    with listening(busy.ledger, busy.asked):
        HOT[name](busy)
    seen = [
        (text, values)
        for text, values in busy.asked
        if text.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE") and "sqlite_master" not in text
    ]
    assert seen
    for text, values in seen:
        steps = plan(path_of(busy.ledger), text, values)
        for step in steps:
            words = step.split()
            if words[0] == "SCAN" and words[1] in (*LARGE, "other", "origin"):
                # Any row at all, or what a partial index holds.
                is_any = "WHERE" not in text and text.rstrip().endswith("LIMIT ? OFFSET ?")
                assert is_any or "ix_assets_reused" in step, (text, steps)
            if "TEMP B-TREE" in step:
                assert name in SORTED, (text, steps)


SUMS = ("spending", "doubt_found", "requests", "statuses")


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_over_a_whole_job_reads_an_index_alone(busy: Busy, name: str) -> None:
    """Half a million attempts are summed up for `status` and at each end of a run; no row of one is read for that."""
    with listening(busy.ledger, busy.asked):
        HOT[name](busy)
    steps = [step for text, values in busy.asked for step in plan(path_of(busy.ledger), text, values)]
    large = [step for step in steps if any(f" {table} " in f"{step} " for table in LARGE)]
    assert large
    assert all("COVERING INDEX" in step for step in large), steps


def test_what_was_reused_is_counted_without_a_look_at_all_that_is_wanted(busy: Busy) -> None:
    """A job that reuses nothing pays nothing for the question."""
    with listening(busy.ledger, busy.asked):
        assert busy.ledger.reused(busy.job) == 5
    ((text, values),) = busy.asked
    steps = plan(path_of(busy.ledger), text, values)
    assert any("tasks USING INTEGER PRIMARY KEY" in step for step in steps), steps
    assert any("assets USING" in step and "ix_assets_reused" in step for step in steps), steps


# -- what need not be looked at again ---------------------------------------------------------------


def _pages(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Notes each time that a search through all tasks begins."""
    begun: list[str] = []
    original = getattr(ledger, name)

    def noted(*arguments: Any) -> Any:
        begun.append(name)
        return original(*arguments)

    monkeypatch.setattr(ledger, name, noted)
    return begun


def _tidy(house: House) -> None:
    recovery.tidy(house.ledger, house.store, house.job, house.events.append)


def _reuse(house: House) -> int:
    return recovery.reuse(house.ledger, house.store, house.job, house.events.append, now_ms=NOW_MS)


def test_names_are_compared_once_for_each_version_of_what_is_wanted(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume begins at once; an edited manifest has every name looked at, and moved, as before."""
    house = move_in(ledger, tmp_path, [make_task("a", name="a.png"), make_task("b", name="b.png")], name="job")
    for seed, todo in enumerate(house.todo()):
        house.make(todo, png(seed))
    begun = _pages(ledger, monkeypatch, "misplaced")
    _tidy(house)
    assert len(begun) == 1
    _tidy(house)
    assert len(begun) == 1
    house.job = enrolled(ledger, [make_task("a", name="b.png"), make_task("b", name="c.png")], digest="d2")
    _tidy(house)
    assert len(begun) == 2
    assert [row["path"] for row in rows(ledger, "SELECT path FROM assets ORDER BY task_id")] == [
        "job/images/b.png",
        "job/images/c.png",
    ]


def test_names_are_compared_again_as_long_as_one_could_not_be_put_right(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was warned of is warned of again, and mended as soon as it can be."""
    house = move_in(ledger, tmp_path, [make_task("a", name="a.png")], name="job")
    file = house.make(house.todo()[0], png(1))
    house.job = enrolled(ledger, [make_task("a", name="b.png")], digest="d2")
    aside = tmp_path / "kept.png"
    (tmp_path / file.path).rename(aside)
    begun = _pages(ledger, monkeypatch, "misplaced")
    for _ in range(2):
        _tidy(house)
    aside.rename(tmp_path / file.path)
    _tidy(house)
    assert (tmp_path / "job/images/b.png").is_file()
    _tidy(house)
    assert len(begun) == 3


def _other(tmp_path: Path, ledger: Ledger, *numbers: int, name: str = "other") -> House:
    """Another job that has made these prompts, in a run that has ended."""
    house = move_in(ledger, tmp_path, [make_task(f"prompt {n:06d}") for n in numbers], name=name)
    for todo in house.todo():
        house.make(todo, png(todo.task_id))
    ledger.end_run(house.run_id, exit_code=0, reason=None, now_ms=NOW_MS)
    return house


def test_other_jobs_are_searched_only_after_they_have_had_a_run(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume beside a small job does not look up half a million tasks for nothing, and misses nothing (law 3)."""
    house = move_in(ledger, tmp_path, 4, name="job")
    begun = _pages(ledger, monkeypatch, "reusable")
    assert _reuse(house) == 0
    assert begun == [], "nobody else has ever had a run"
    first = _other(tmp_path, ledger, 0)
    assert _reuse(house) == 1
    assert _reuse(house) == 0
    begin_run(ledger, house.job)
    assert _reuse(house) == 0
    assert len(begun) == 1
    first.job = enrolled(ledger, [make_task("prompt 000000"), make_task("prompt 000001")], name="other", digest="d2")
    first.run_id = begin_run(ledger, first.job)
    first.make(first.todo()[0], png(77))
    assert _reuse(house) == 1


def test_a_run_of_another_job_that_goes_on_is_looked_at_again(tmp_path: Path, ledger: Ledger) -> None:
    """It makes more while this one looks."""
    other = move_in(ledger, tmp_path, 3, name="other")
    house = move_in(ledger, tmp_path, 3, name="job")
    assert _reuse(house) == 0
    other.make(other.todo()[0], png(1))
    assert _reuse(house) == 1
    other.make(other.todo()[0], png(2))
    ledger.end_run(other.run_id, exit_code=0, reason=None, now_ms=NOW_MS)
    assert _reuse(house) == 1


def test_a_file_that_comes_back_is_offered_again(tmp_path: Path, ledger: Ledger) -> None:
    """What could not be taken over for want of its file was not settled."""
    _other(tmp_path, ledger, 0)
    house = move_in(ledger, tmp_path, 1, name="job")
    (path,) = (tmp_path / "other/images").rglob("*.png")
    path.rename(tmp_path / "kept.png")
    assert _reuse(house) == 0
    (tmp_path / "kept.png").rename(path)
    assert _reuse(house) == 1


@pytest.mark.parametrize("status", ["failed", "refused", "in_doubt"])
def test_what_is_planned_again_is_offered_what_others_have_made(tmp_path: Path, ledger: Ledger, status: str) -> None:
    """Law 3: it was not offered anything while it was not planned."""
    _other(tmp_path, ledger, 0, 1)
    house = move_in(ledger, tmp_path, 2, name="job")
    change(ledger, "UPDATE tasks SET status = ? WHERE job_id = ? AND position = 0", status, house.job.id)
    assert _reuse(house) == 1
    assert ledger.retry(house.job, Status(status), None) == 1
    assert _reuse(house) == 1


def test_an_image_that_is_lost_is_taken_over_again(tmp_path: Path, ledger: Ledger) -> None:
    """Law 3: another job has it still."""
    _other(tmp_path, ledger, 0)
    house = move_in(ledger, tmp_path, 1, name="job")
    assert _reuse(house) == 1
    (mine,) = ledger.assets(house.job)
    (tmp_path / mine.file.path).unlink()
    ledger.gone([mine])
    assert _reuse(house) == 1


def test_an_edited_manifest_is_offered_what_others_made_long_ago(tmp_path: Path, ledger: Ledger) -> None:
    """Law 3: what it wants now it did not want then."""
    _other(tmp_path, ledger, 0, 1)
    house = move_in(ledger, tmp_path, 1, name="job")
    assert _reuse(house) == 1
    house.job = enrolled(ledger, 2, digest="d2")
    assert _reuse(house) == 1


# -- older schemas ----------------------------------------------------------------------------------


def _at(path: Path, revision: str) -> None:
    """A ledger as an older version made it."""
    engine = sa.create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(importlib.resources.files("runner.ledger") / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A ledger of the first schema with a job in which everything has happened."""
    with open_ledger(tmp_path / "new") as ledger:
        job = enrolled(ledger, 6)
        run_id = begin_run(ledger, job)
        for todo in ledger.todo(job, -1, 3):
            finish(ledger, job, run_id, todo)
        begin(ledger, job, run_id, ledger.todo(job, -1, 1)[0].task_id)
        change(ledger, "UPDATE tasks SET status = 'failed', error_code = 'x' WHERE position = 5")
        new = path_of(ledger)
    path = tmp_path / "old" / "ledger.sqlite3"
    path.parent.mkdir()
    _at(path, "0001")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("ATTACH ? AS new", (str(new),))
        for table in ("jobs", "runs", "prompts", "tasks", "attempts", "assets"):
            names = ", ".join(row[1] for row in database.execute(f"PRAGMA main.table_info({table})"))
            database.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM new.{table}")
    return path


def _told(ledger: Ledger) -> tuple[object, ...]:
    job = ledger.job("job")
    assert job is not None
    with ledger.export(job) as lines:
        exported = list(lines)
    return (
        job,
        ledger.jobs(),
        ledger.statuses(job),
        ledger.spending(job, simulated=False),
        ledger.costs("day", job),
        ledger.problems(job),
        ledger.reused(job),
        list(ledger.assets(job)),
        ledger.nights.night(job, None, glimpses=6),
        ledger.nights.spent_by_day(job, 0),
        ledger.nights.images_by_minute(job),
        exported,
    )


def test_a_ledger_of_the_first_schema_is_brought_up_to_date_with_all_it_holds(old: Path) -> None:
    """Nothing of it is lost, and a run goes on with it."""
    with closing(sqlite3.connect(old)) as database:
        before = {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in ("attempts", "assets")}
        # None of them can start from an image.
        before["tasks"] = [(*row, None) for row in database.execute("SELECT * FROM tasks")]
        # None of them can be part of a batch.
        before["attempts"] = [(*row, None, None) for row in before["attempts"]]
    with Ledger.open(old, create=True) as ledger:
        assert rows(ledger, "SELECT version_num FROM alembic_version") == [{"version_num": HEAD}]
        after = contents(ledger)
        assert {name: after[name] for name in before} == before
        assert rows(ledger, "SELECT tidied_revision, offered_run FROM jobs") == [
            {"tidied_revision": 0, "offered_run": 0}
        ]
        told = _told(ledger)
        job = ledger.job("job")
        assert job is not None
        assert not ledger.is_tidy(job)
        (orphan,) = ledger.orphans(job, 10)
        ledger.lose(orphan, Answer(), now_ms=NOW_MS)
        assert ledger.statuses(job)[Status.IN_DOUBT] == 1
        assert told[0] == job
        assert ledger.check(deep=True) == []


def test_a_ledger_of_the_first_schema_is_looked_at_as_it_is(old: Path) -> None:
    """A command that only looks neither waits for a migration nor makes one; it tells the same as after one."""
    before = old.read_bytes()
    with Ledger.open(old, create=False) as ledger:
        told = _told(ledger)
    assert old.read_bytes() == before
    shutil.copy(old, copy := old.with_name("copy.sqlite3"))
    with Ledger.open(copy, create=True) as ledger:
        assert _told(ledger) == told


def test_a_ledger_of_the_first_schema_that_cannot_be_written_is_looked_at(old: Path) -> None:
    """A backup of last year, on a disk that is mounted to read."""
    before = sorted(old.parent.iterdir())
    with modes({old: 0o444, old.parent: 0o555}), Ledger.open(old, create=False) as ledger:
        assert ledger.statuses(ledger.jobs()[0])[Status.DONE] == 3
    assert sorted(old.parent.iterdir()) == before


def test_the_first_change_brings_an_older_ledger_up_to_date(old: Path) -> None:
    """`runner retry` opens it as one that looks, and then changes it."""
    with Ledger.open(old, create=False) as ledger:
        job = ledger.jobs()[0]
        assert ledger.retry(job, Status.FAILED, None) == 1
        assert rows(ledger, "SELECT version_num FROM alembic_version") == [{"version_num": HEAD}]
        assert ledger.statuses(job)[Status.PLANNED] == 2
