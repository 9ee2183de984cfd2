"""What the group-committing writer must hold on both event loops: durable when it returns, each change for itself."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier

import anyio
import anyio.lowlevel
import pytest
import sqlalchemy as sa

from runner.errors import LedgerError
from runner.ledger import Answer, Job, Ledger, Steps, Writer
from runner.ledger.attempts import begin
from runner.ledger.postgres import ServerDatabase
from runner.ledger.writer import MAX_GROUP, MAX_STEPS
from runner.tasks import Event
from tests.edges.ledger_support import (
    ANSWER,
    COST,
    ESTIMATE,
    NOW_MS,
    REFUSAL,
    begin_run,
    begun,
    contents,
    engines,
    enrolled,
    make_file,
    open_ledger,
    rows,
    to_begin,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass
class Desk:
    """A ledger with a job whose tasks wait to be begun."""

    ledger: Ledger
    job: Job
    run_id: int
    task_ids: list[int]
    failures: dict[int, BaseException] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)

    async def begin(self, writer: Writer, task_id: int) -> None:
        """Begin a task, and keep what came of it."""
        try:
            self.begun[task_id] = await begun(writer, to_begin(self.job, self.run_id, task_id))
        except LedgerError as error:
            self.failures[task_id] = error

    def committed(self) -> set[int]:
        """The tasks with an attempt, as another connection sees them."""
        return {row["task_id"] for row in rows(self.ledger, "SELECT task_id FROM attempts")}


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a file, also on a server: changes that wait share a transaction."""
    monkeypatch.setattr(ServerDatabase, "writers", 1)


grouped = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_ledger(tmp_path) as ledger:
        job = enrolled(ledger, 2 * MAX_GROUP + 100)
        ids = [todo.task_id for todo in ledger.todo(job, -1, 10_000)]
        yield Desk(ledger, job, begin_run(ledger, job), ids)


@asynccontextmanager
async def serving(ledger: Ledger) -> AsyncIterator[Writer]:
    """A writer that serves until the end of the block."""
    writer = ledger.writer()
    async with anyio.create_task_group() as group:
        group.start_soon(writer.run)
        try:
            yield writer
        finally:
            await writer.close()


@contextmanager
def commits(ledger: Ledger) -> Iterator[list[int]]:
    """Counts the commits of the write connection."""
    seen: list[int] = []

    def note(_connection: sa.Connection) -> None:
        seen.append(1)

    sa.event.listen(engines(ledger)[0], "commit", note)
    yield seen
    sa.event.remove(engines(ledger)[0], "commit", note)


async def test_an_attempt_is_committed_when_begin_returns(desk: Desk) -> None:
    """Law 1: another connection sees it before the request can leave."""
    async with serving(desk.ledger) as writer:
        for task_id in desk.task_ids[:5]:
            attempt_id = await begun(writer, to_begin(desk.job, desk.run_id, task_id))
            (row,) = rows(desk.ledger, "SELECT * FROM attempts WHERE id = ?", attempt_id)
            assert (row["task_id"], row["outcome"]) == (task_id, None)
            assert rows(desk.ledger, "SELECT status FROM tasks WHERE id = ?", task_id) == [{"status": "running"}]


async def test_every_change_is_committed_when_its_method_returns(desk: Desk) -> None:
    """Law 2: received, saved, unsaved and lost as another connection sees them at once."""
    first, second, third, fourth = desk.task_ids[:4]

    def now(attempt_id: int) -> tuple[object, ...]:
        (row,) = rows(
            desk.ledger,
            "SELECT status, outcome, cost_microusd, doubt_microusd FROM attempts a JOIN tasks t ON t.id = a.task_id "
            "WHERE a.id = ?",
            attempt_id,
        )
        return tuple(row.values())

    async with serving(desk.ledger) as writer:
        attempt = await begun(writer, to_begin(desk.job, desk.run_id, first))
        await writer.commit(writer.received(attempt, answer=ANSWER, cost=COST, file=make_file()))
        assert now(attempt) == ("running", None, 11_250, None)
        await writer.commit(
            writer.saved(attempt, task_id=first, file=make_file(), model="m", simulated=False, now_ms=NOW_MS)
        )
        assert now(attempt) == ("done", "saved", 11_250, None)
        attempt = await begun(writer, to_begin(desk.job, desk.run_id, second))
        await writer.unsaved(attempt, Event.GAVE_UP, task_id=second, answer=REFUSAL, cost=ESTIMATE, now_ms=NOW_MS)
        assert now(attempt) == ("failed", "gave_up", 9_000, None)
        for task_id, try_again, status in ((third, False, "in_doubt"), (fourth, True, "planned")):
            attempt = await begun(writer, to_begin(desk.job, desk.run_id, task_id))
            await writer.lost(attempt, task_id=task_id, answer=REFUSAL, try_again=try_again, now_ms=NOW_MS)
            assert now(attempt) == (status, "lost", None, 15_000)


@grouped
async def test_changes_that_wait_share_a_commit(desk: Desk) -> None:
    """A flush is paid once for all that arrived, in groups that are bounded."""
    count = 2 * MAX_GROUP + 10
    writer = desk.ledger.writer()
    with commits(desk.ledger) as seen:
        async with anyio.create_task_group() as group:
            for task_id in desk.task_ids[:count]:
                group.start_soon(desk.begin, writer, task_id)
            await anyio.wait_all_tasks_blocked()
            assert desk.committed() == set()
            group.start_soon(writer.run)
            await writer.close()
    assert len(seen) == 3
    assert desk.committed() == set(desk.task_ids[:count])
    assert len(set(desk.begun.values())) == count


@grouped
@pytest.mark.parametrize("broken", ["compare-and-set", "foreign key"])
async def test_a_change_that_fails_is_rolled_back_alone(desk: Desk, broken: str) -> None:
    """The others of its group are committed, whichever rule it broke, and only it hears of it."""
    ids = desk.task_ids[:9]
    writer = desk.ledger.writer()
    failed: list[LedgerError] = []

    async def fail() -> None:
        # Either a task that is not there, or one whose status has been changed when the second statement fails.
        what = to_begin(desk.job, desk.run_id, 10**9)
        if broken == "foreign key":
            what = to_begin(desk.job, 10**9, desk.task_ids[50])
        with pytest.raises(LedgerError) as caught:
            await writer.begin(what)
        failed.append(caught.value)

    with commits(desk.ledger) as seen:
        async with anyio.create_task_group() as group:
            for number, task_id in enumerate(ids):
                if number == 4:
                    group.start_soon(fail)
                    await anyio.wait_all_tasks_blocked()
                group.start_soon(desk.begin, writer, task_id)
                await anyio.wait_all_tasks_blocked()
            group.start_soon(writer.run)
            await writer.close()
    assert len(seen) == 1
    assert len(failed) == 1
    assert desk.failures == {}
    assert desk.committed() == set(ids)
    assert rows(desk.ledger, "SELECT status FROM tasks WHERE id = ?", desk.task_ids[50]) == [{"status": "planned"}]


@pytest.mark.parametrize("broken", ["compare-and-set", "foreign key"])
async def test_a_change_that_fails_in_a_group_of_one_leaves_nothing(desk: Desk, broken: str) -> None:
    """Its first statement is taken back with its second, only it hears of it, and the next change is as any other."""
    what = to_begin(desk.job, desk.run_id, 10**9)
    if broken == "foreign key":
        what = to_begin(desk.job, 10**9, desk.task_ids[0])
    async with serving(desk.ledger) as writer:
        with pytest.raises(LedgerError):
            await writer.begin(what)
        assert rows(desk.ledger, "SELECT DISTINCT status FROM tasks") == [{"status": "planned"}]
        assert desk.committed() == set()
        await desk.begin(writer, desk.task_ids[0])
    assert desk.failures == {}
    assert desk.committed() == {desk.task_ids[0]}


@pytest.mark.file_only
async def test_a_full_disk_reaches_every_waiter_and_commits_none(desk: Desk) -> None:
    """Law 1: nobody goes on as if it were on record; once there is room again, the writer works on."""
    ids = desk.task_ids[:6]
    async with serving(desk.ledger) as writer:
        for task_id in ids:
            await desk.begin(writer, task_id)
    before = contents(desk.ledger)
    with engines(desk.ledger)[0].connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    writer = desk.ledger.writer()
    heard: dict[int, LedgerError] = {}

    async def give_up(task_id: int) -> None:
        answer = Answer(error_code="x", error_message="long " * 20_000)
        try:
            await writer.unsaved(
                desk.begun[task_id], Event.GAVE_UP, task_id=task_id, answer=answer, cost=None, now_ms=NOW_MS
            )
        except LedgerError as error:
            heard[task_id] = error

    async with anyio.create_task_group() as group:
        try:
            async with anyio.create_task_group() as waiters:
                for task_id in ids:
                    waiters.start_soon(give_up, task_id)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(writer.run)
            assert set(heard) == set(ids)
            assert contents(desk.ledger) == before
            for error in heard.values():
                assert "disk is full" in error.message
                assert "make space" in (error.hint or "")
            with engines(desk.ledger)[0].connect() as connection:
                connection.exec_driver_sql(f"PRAGMA max_page_count = {2**31 - 2}")
            heard.clear()
            for task_id in ids:
                await give_up(task_id)
        finally:
            await writer.close()
    assert heard == {}
    assert len(rows(desk.ledger, "SELECT * FROM attempts WHERE outcome = 'gave_up'")) == len(ids)


@pytest.mark.file_only
async def test_a_commit_that_fails_reaches_every_waiter(desk: Desk) -> None:
    """Not only a change: the flush at the end can fail as well, and then nobody was told otherwise."""
    ids = desk.task_ids[:4]
    broken = True

    def fail(_connection: sa.Connection) -> None:
        if broken:
            raise sa.exc.OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))

    sa.event.listen(engines(desk.ledger)[0], "commit", fail)
    writer = desk.ledger.writer()
    async with anyio.create_task_group() as group:
        for task_id in ids:
            group.start_soon(desk.begin, writer, task_id)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(writer.run)
        await writer.close()
    assert set(desk.failures) == set(ids)
    assert all("disk I/O error" in str(error) for error in desk.failures.values())
    assert desk.begun == {}
    assert desk.committed() == set()
    broken = False
    desk.failures.clear()
    async with serving(desk.ledger) as writer:
        await desk.begin(writer, ids[0])
    assert desk.failures == {}


async def test_steps_go_on_only_from_what_is_committed(desk: Desk) -> None:
    """The order of writes: cost on record, then the work in between, then done; the result comes last."""
    task_id = desk.task_ids[0]
    seen: list[tuple[object, ...]] = []

    def look() -> None:
        (row,) = rows(
            desk.ledger, "SELECT t.status, outcome, cost_microusd FROM attempts a JOIN tasks t ON t.id = task_id"
        )
        seen.append(tuple(row.values()))

    def steps(attempt: int) -> Steps[str]:
        look()
        yield writer.received(attempt, answer=ANSWER, cost=COST, file=make_file())
        look()
        yield writer.saved(attempt, task_id=task_id, file=make_file(), model="m", simulated=False, now_ms=NOW_MS)
        look()
        return "kept"

    async with serving(desk.ledger) as writer:
        attempt = await begun(writer, to_begin(desk.job, desk.run_id, task_id))
        with commits(desk.ledger) as counted:
            assert await writer.through(steps(attempt)) == "kept"
    assert seen == [("running", None, None), ("running", None, COST.microusd), ("done", "saved", COST.microusd)]
    assert len(counted) == 2


@grouped
async def test_steps_of_many_share_their_commits_and_each_fails_by_itself(desk: Desk) -> None:
    """One breaks a rule, the work of another fails, a third is told what its change came to: all in one group."""
    ids = desk.task_ids[:MAX_STEPS]
    ended: dict[int, object] = {}

    def steps(number: int) -> Steps[int]:
        if number == 1:
            raise ValueError("no image")
        task_id = desk.task_ids[99] if number == 2 else ids[number]
        # Nothing of the third is in this status, and its change breaks the rule of the table.
        attempt = yield lambda connection: begin(connection, to_begin(desk.job, desk.run_id, task_id))
        if number == 2:
            yield lambda connection: begin(connection, to_begin(desk.job, desk.run_id, task_id))
        return int(attempt)

    async def go_through(number: int) -> None:
        try:
            ended[number] = await writer.through(steps(number))
        except (LedgerError, ValueError) as error:
            ended[number] = type(error)

    writer = desk.ledger.writer()
    with commits(desk.ledger) as counted:
        async with anyio.create_task_group() as group:
            for number in range(len(ids)):
                group.start_soon(go_through, number)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(writer.run)
            await writer.close()
    assert (ended.pop(1), ended.pop(2)) == (ValueError, LedgerError)
    found = {row["id"]: row["task_id"] for row in rows(desk.ledger, "SELECT id, task_id FROM attempts")}
    assert {found[attempt] for attempt in ended.values()} == {ids[number] for number in ended}
    assert desk.committed() == {*(ids[number] for number in ended), desk.task_ids[99]}
    assert len(counted) == 1, "the second change of the one that failed is rolled back with its transaction"


@grouped
async def test_a_record_waits_for_few_steps(desk: Desk) -> None:
    """Many images have ended, and a request is to be put on record: it does not wait for all of them."""
    waiting = 3 * MAX_STEPS
    begun_after: list[int] = []
    worked: list[int] = []

    def steps(number: int) -> Steps[None]:
        worked.append(number)
        yield lambda connection: None

    async def begin_and_look() -> None:
        await desk.begin(writer, desk.task_ids[0])
        begun_after.append(len(worked))

    writer = desk.ledger.writer()
    async with anyio.create_task_group() as group:
        for number in range(waiting):
            group.start_soon(writer.through, steps(number))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(begin_and_look)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(writer.run)
        await writer.close()
    assert len(worked) == waiting
    assert begun_after[0] <= 2 * MAX_STEPS


async def test_whoever_is_cancelled_loses_nothing_for_the_others(desk: Desk) -> None:
    """Their changes are committed, and so is the one that nobody waits for any more."""
    ids = desk.task_ids[:6]
    writer = desk.ledger.writer()
    given_up = anyio.CancelScope()

    async def begin_and_be_cancelled() -> None:
        with given_up:
            await desk.begin(writer, ids[0])

    async with anyio.create_task_group() as group:
        group.start_soon(begin_and_be_cancelled)
        await anyio.wait_all_tasks_blocked()
        for task_id in ids[1:]:
            group.start_soon(desk.begin, writer, task_id)
        await anyio.wait_all_tasks_blocked()
        given_up.cancel()
        await anyio.wait_all_tasks_blocked()
        group.start_soon(writer.run)
        await writer.close()
    assert given_up.cancelled_caught
    assert set(desk.begun) == set(ids[1:])
    assert desk.committed() == set(ids)


async def test_cancelling_everything_still_commits_what_waits(desk: Desk) -> None:
    """The writer itself is not cancelled with the run: what is on its way to the ledger gets there."""
    ids = desk.task_ids[:6]
    writer = desk.ledger.writer()
    async with anyio.create_task_group() as group:
        for task_id in ids:
            group.start_soon(desk.begin, writer, task_id)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(writer.run)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await writer.close()
    assert desk.committed() == set(ids)


async def test_closing_flushes_and_then_refuses(desk: Desk) -> None:
    """After `close` nothing is taken that would never be written."""
    ids = desk.task_ids[:20]
    writer = desk.ledger.writer()
    async with anyio.create_task_group() as group:
        for task_id in ids:
            group.start_soon(desk.begin, writer, task_id)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(writer.run)
        await writer.close()
        assert desk.committed() == set(ids)
        with pytest.raises(LedgerError, match="closed"):
            await writer.begin(to_begin(desk.job, desk.run_id, desk.task_ids[30]))
        await writer.close()
    assert desk.committed() == set(ids)


async def test_on_a_server_changes_do_not_wait_for_each_other(desk: Desk) -> None:
    """Two that each wait for the other to be under way come through; in a file one has the ledger for itself."""
    if not desk.ledger.is_shared:
        assert desk.ledger.writer()._database.writers == 1
        return
    met = Barrier(2)

    def change(connection: sa.Connection) -> int:
        met.wait(timeout=30)
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())

    writer, pids = desk.ledger.writer(), []

    async def commit() -> None:
        pids.append(await writer.commit(change))

    async with anyio.create_task_group() as running:
        running.start_soon(writer.run)
        async with anyio.create_task_group() as group:
            group.start_soon(commit)
            group.start_soon(commit)
        await writer.close()
    assert len(set(pids)) == 2
