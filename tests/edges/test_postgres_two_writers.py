"""What several hosts that write to one ledger must hold: nobody waits in a circle, and nothing is there twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
import sqlalchemy as sa

from runner.errors import LedgerError
from runner.ledger import File, Ledger, NewChoice, Reusable, Server
from runner.ledger.postgres import ServerDatabase
from runner.tasks import Status, Task
from tests.edges.ledger_support import (
    NOW_MS,
    begin,
    begin_run,
    connected,
    engines,
    enrolled,
    finish,
    fresh,
    make_task,
    rendition,
    rows,
)
from tests.servers import postgres

HOSTS = 3


@pytest.fixture
def place(pg_server: postgres.Server) -> Iterator[Server]:
    """A ledger with nothing in it."""
    url = fresh(pg_server)
    yield Server(url)
    pg_server.drop(url)


@pytest.fixture
def ledgers(place: Server) -> Iterator[list[Ledger]]:
    """The same ledger, as each of several hosts has it."""
    with ExitStack() as stack:
        yield [stack.enter_context(Ledger.open(place, create=True)) for _ in range(HOSTS)]


def at_once(calls: list[Callable[[], object]]) -> list[object]:
    """What each comes to, all begun at the same moment; an exception where one was raised."""
    results: list[object] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def call(number: int) -> None:
        start.wait()
        try:
            results[number] = calls[number]()
        except Exception as error:  # the test looks at it
            results[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_new_database_is_made_a_ledger_once(pg_server: postgres.Server) -> None:
    """Of those who come at once one makes the schema; the others find it made."""
    place = Server(pg_server.database())

    def opened() -> int:
        with Ledger.open(place, create=True) as ledger:
            return len(ledger.jobs())

    assert at_once([opened] * 4) == [0] * 4
    pg_server.drop(place.url)


def test_a_job_is_made_once(ledgers: list[Ledger]) -> None:
    """By name: all get the same one."""
    for number in range(10):
        made = at_once(
            [lambda each=each: each.make_job(f"job{number}", manifest_path=None, now_ms=NOW_MS) for each in ledgers]  # type: ignore[misc]  # noqa: B023  # called before the next number
        )
        assert len({str(job) for job in made}) == 1, made
    assert len(rows(ledgers[0], "SELECT id FROM jobs")) == 10


def test_jobs_with_the_same_prompts_are_enrolled_at_once(
    ledgers: list[Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks of one transaction each, in opposite orders: no circle, and every text is there once."""
    monkeypatch.setattr("runner.ledger.ledger.ENROLLED", 50)
    count = 400

    def wish(ledger: Ledger, number: int) -> int:
        order = range(count) if number % 2 else range(count - 1, -1, -1)
        tasks = [make_task(f"prompt {n}", line=n + 1) for n in order]
        return enrolled(ledger, tasks, name=f"job{number}").wanted

    made = at_once([lambda each=each, n=n: wish(each, n) for n, each in enumerate(ledgers)])  # type: ignore[misc]
    assert made == [count] * HOSTS
    assert rows(ledgers[0], "SELECT count(*) AS n FROM prompts") == [{"n": count}]
    assert rows(ledgers[0], "SELECT count(*) AS n FROM tasks") == [{"n": count * HOSTS}]


def test_an_enrolment_that_another_one_overtakes_adds_nothing_to_what_is_wanted(
    ledgers: list[Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a lost lock: both have taken the same number, and what the job wants is all of one, never a mixture."""
    monkeypatch.setattr("runner.ledger.ledger.ENROLLED", 5)
    slow, quick = ledgers[:2]
    job = slow.make_job("job", manifest_path=None, now_ms=NOW_MS)
    theirs = [make_task(f"theirs {n}", line=n + 1) for n in range(12)]

    def overtaken() -> Iterator[Task]:
        quick.enrol(job, theirs, digest="theirs")
        yield from (make_task(f"mine {n}", line=n + 1) for n in range(20))

    with pytest.raises(LedgerError, match="another process has changed"):
        slow.enrol(job, overtaken(), digest="mine")
    now = slow.job("job")
    assert now is not None
    assert (now.digest, now.wanted) == ("theirs", 12)
    assert {todo.key for todo in slow.todo(now, -1, 100)} == {task.key for task in theirs}
    assert slow.enrol(now, theirs[:7], digest="again").wanted == 7


def test_a_task_is_begun_once(ledgers: list[Ledger]) -> None:
    """Law 3: of two runs that go for one task, one is refused by compare-and-set."""
    job = enrolled(ledgers[0], 20)
    run_id = begin_run(ledgers[0], job)
    for todo in ledgers[0].todo(job, -1, 20):
        made = at_once([lambda each=each, t=todo: begin(each, job, run_id, t.task_id) for each in ledgers])  # type: ignore[misc]
        assert sum(isinstance(each, int) for each in made) == 1, made
    assert rows(ledgers[0], "SELECT count(*) AS n FROM attempts") == [{"n": 20}]


def test_numbers_of_runs_are_committed_in_their_order(ledgers: list[Ledger]) -> None:
    """Whoever has seen a run has seen all before it: what `offered` remembers leaves none out."""
    first, second = (enrolled(each, 1, name=name) for each, name in zip(ledgers[:2], ("a", "b"), strict=True))
    later = threading.Thread(target=begin_run, args=(ledgers[1], second))
    waited: list[bool] = []

    def before_commit(_connection: object) -> None:
        # Of the first run, whose number is taken; the second one must not be on record before it.
        if not waited:
            later.start()
            later.join(timeout=1)
            waited.append(later.is_alive())

    engine = engines(ledgers[0])[0]
    sa.event.listen(engine, "commit", before_commit)
    begin_run(ledgers[0], first)
    sa.event.remove(engine, "commit", before_commit)
    later.join()
    assert waited == [True]
    assert [row["job_id"] for row in rows(ledgers[0], "SELECT job_id FROM runs ORDER BY id")] == [first.id, second.id]


def test_a_choice_that_is_sent_twice_counts_once(ledgers: list[Ledger]) -> None:
    """By its token, also when both arrive at once, at two hosts."""
    job = enrolled(ledgers[0], 1)
    run_id = begin_run(ledgers[0], job)
    (todo,) = ledgers[0].todo(job, -1, 1)
    finish(ledgers[0], job, run_id, todo)
    for number in range(5):
        new = NewChoice("ann", todo.task_id, None, "stars", 4, False, f"token {number}")
        made = at_once([lambda each=each, new=new: each.reviews.add(job, new, now_ms=NOW_MS) for each in ledgers])  # type: ignore[misc]
        assert len({str(choice) for choice in made}) == 1, made
    undone = at_once([lambda each=each: each.reviews.undo(job, "ann", now_ms=NOW_MS + 1) for each in ledgers])  # type: ignore[misc]
    assert len({str(choice) for choice in undone}) == HOSTS, "the same choice was taken back twice"
    assert len(list(ledgers[0].reviews.all(job))) == 5 - HOSTS


def test_a_rendition_that_two_hosts_make_is_on_record_once(ledgers: list[Ledger]) -> None:
    """Of the same task and kind: either is good."""
    job = enrolled(ledgers[0], 6)
    run_id = begin_run(ledgers[0], job)
    for todo in ledgers[0].todo(job, -1, 6):
        finish(ledgers[0], job, run_id, todo)
    for attempt in range(5):
        wanted = ledgers[0].renditions.lacking(job, {"small": f"r{attempt}"}, 0, 10)
        made = [rendition(item, "small", f"r{attempt}", f"{item.name}.small") for item in wanted]
        told = at_once(
            [
                lambda each=each, some=some: each.renditions.made(some, now_ms=NOW_MS)  # type: ignore[misc]
                for each, some in zip(ledgers, (made, made[::-1], made), strict=True)
            ]
        )
        assert told == [None] * HOSTS
    assert rows(ledgers[0], "SELECT count(*) AS n FROM renditions") == [{"n": 6}]


def test_an_asset_that_is_taken_over_while_it_is_lost_is_no_broken_reference(ledgers: list[Ledger]) -> None:
    """`verify` gives up a file while another job links it: either comes first, and the other one knows."""
    one, other = ledgers[:2]
    job, second = enrolled(one, 8), enrolled(one, 8, name="second")
    run_id = begin_run(one, job)
    for todo in one.todo(job, -1, 8):
        finish(one, job, run_id, todo)
    offers = [item for page in one.reusable(second) for item in page]
    lost = list(one.assets(job))
    assert len(offers) == len(lost) == 8
    for item, asset in zip(sorted(offers, key=lambda each: each.asset_id), lost, strict=True):
        assert item.asset_id == asset.asset_id
        at_once(
            [
                lambda asset=asset: one.gone([asset]),  # type: ignore[misc]
                lambda item=item: other.reuse(item, _moved(item), now_ms=NOW_MS),  # type: ignore[misc]
            ]
        )
    assert one.check(deep=True) == []
    assert one.statuses(job)[Status.PLANNED] + len(rows(one, "SELECT id FROM assets WHERE attempt_id > 0")) >= 8


def test_the_order_of_a_listing_is_the_same_on_every_server(ledgers: list[Ledger]) -> None:
    """By the letters' numbers, as in a file: whatever language the server sorts by."""
    for name in ("b", "A", "a", "_", "B"):
        ledgers[0].make_job(name, manifest_path=None, now_ms=NOW_MS)
    assert [job.name for job in ledgers[0].jobs()] == ["A", "B", "_", "a", "b"]


def test_the_hosts_name_and_process_are_told_to_the_server(place: Server, ledgers: list[Ledger]) -> None:
    """Whoever looks there sees whom a connection belongs to; and no run leaves more open than it uses."""
    ledgers[0].jobs()
    assert isinstance(ledgers[0]._database, ServerDatabase)
    with connected(place) as server:
        query = "SELECT DISTINCT split_part(application_name, ' ', 1) FROM pg_stat_activity WHERE datname = %s"
        found = server.execute(query, (place.url.rpartition("/")[2],)).fetchall()
    assert ("runner",) in found


def _moved(item: Reusable) -> File:
    return replace(item.file, path=f"second/images/{item.asset_id}.png")
