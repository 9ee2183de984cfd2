"""What the ledger tells must hold: sums equal a naive computation, streams stay streams, and indices are used."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import random
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from runner.ledger import Answer, By, Cost, Job, Ledger, Spending, attempts, enrol, exports, queries
from runner.tasks import Event, Status
from tests.edges.ledger_support import (
    ANSWER,
    COST,
    ESTIMATE,
    NOW_MS,
    REFUSAL,
    RESERVED,
    begin,
    begin_run,
    change,
    enrolled,
    finish,
    make_file,
    make_task,
    open_ledger,
    read,
    rows,
    write,
)

DAY_MS = 86_400_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as it:
        yield it


@dataclass(frozen=True)
class Made:
    """One attempt as the test made it: what every sum is held against."""

    job: str
    run_id: int
    day: str
    begun_ms: int
    model: str
    size: str
    quality: str
    simulated: bool
    saved: bool
    cost: Cost | None
    doubt_microusd: int
    open_microusd: int


def history(ledger: Ledger) -> list[Made]:
    """Two real jobs and a simulated one, with attempts of every outcome over three days and two models."""
    chance = random.Random(20261122)
    made: list[Made] = []
    for name, simulated in (("alpha", False), ("beta", False), ("gamma", True)):
        tasks = [
            make_task(f"{name} {n}", size=size, quality=quality, simulated=simulated)
            for n in range(8)
            for size in ("16x16", "24x16")
            for quality in ("low", "medium")
        ]
        job = enrolled(ledger, tasks, name=name)
        runs = [begin_run(ledger, job, simulated=simulated) for _ in range(2)]
        for todo in ledger.todo(job, -1, 1000):
            endings = [*chance.choices(["backoff", "lost", "billed"], k=chance.randrange(3))]
            endings += [chance.choice(["saved", "guessed", "open", "received", "refused", "gave_up"])]
            for ending in endings:
                reserved = chance.randrange(10_000, 20_000)
                begun_ms = NOW_MS // DAY_MS * DAY_MS + chance.choice([0, 1, DAY_MS - 1, DAY_MS, 2 * DAY_MS + 5])
                model = chance.choice(["gpt-image-1-mini", "gpt-image-2"])
                run_id = chance.choice(runs)
                attempt_id = begin(
                    ledger,
                    job,
                    run_id,
                    todo.task_id,
                    model=model,
                    simulated=simulated,
                    reserved_microusd=reserved,
                    now_ms=begun_ms,
                )
                cost = _end(ledger, todo.task_id, attempt_id, ending, f"{name}/{todo.task_id}")
                made.append(
                    Made(
                        name,
                        run_id,
                        str(begun_ms // DAY_MS),
                        begun_ms,
                        model,
                        todo.request.size,
                        todo.request.quality,
                        simulated,
                        ending in ("saved", "guessed"),
                        cost,
                        reserved if ending == "lost" else 0,
                        reserved if ending == "open" else 0,
                    )
                )
    return made


def _end(ledger: Ledger, task_id: int, attempt_id: int, ending: str, path: str) -> Cost | None:
    """End an attempt in one of the ways; its cost, where one is known."""
    file = make_file(f"{path}.png", seed=task_id)
    cost = {"saved": COST, "guessed": ESTIMATE, "received": COST, "billed": COST}.get(ending)
    with write(ledger) as connection:
        if ending in ("saved", "guessed", "received"):
            assert cost is not None
            attempts.received(connection, attempt_id, answer=ANSWER, cost=cost, file=file)
        if ending in ("saved", "guessed"):
            attempts.saved(
                connection, attempt_id, task_id=task_id, file=file, model="m", simulated=False, now_ms=NOW_MS
            )
        elif ending == "lost":
            attempts.lost(connection, attempt_id, task_id=task_id, answer=REFUSAL, try_again=True, now_ms=NOW_MS)
        elif ending not in ("open", "received"):
            event = {"backoff": Event.BACKOFF, "billed": Event.BACKOFF}.get(ending) or Event(ending)
            attempts.unsaved(connection, attempt_id, event, task_id=task_id, answer=REFUSAL, cost=cost, now_ms=NOW_MS)
    return cost


DIMENSIONS: dict[By, Callable[[Made], str]] = {
    "job": lambda each: each.job,
    "day": lambda each: each.day,
    "model": lambda each: each.model,
    "size": lambda each: each.size,
    "quality": lambda each: each.quality,
}


def naive_costs(made: list[Made], by: By) -> list[dict[str, Any]]:
    """The same figures by adding up one after the other."""
    groups: dict[tuple[str, bool], dict[str, Any]] = defaultdict(lambda: defaultdict(int))
    for each in made:
        group = groups[DIMENSIONS[by](each), each.simulated]
        usage = each.cost.usage if each.cost else None
        group["requests"] += 1
        group["images"] += each.saved
        group["input_tokens"] += usage.input_tokens if usage else 0
        group["output_tokens"] += usage.output_tokens if usage else 0
        group["cost_microusd"] += each.cost.microusd if each.cost else 0
        group["estimated_microusd"] += each.cost.microusd if each.cost and each.cost.basis == "estimate" else 0
        group["in_doubt_microusd"] += each.doubt_microusd
        group["open_microusd"] += each.open_microusd
    empty = {"reused": 0, "saved_by_reuse_microusd": 0}
    return [{by: key[0], "simulated": key[1], **groups[key], **empty} for key in sorted(groups)]


@pytest.mark.parametrize("by", DIMENSIONS)
def test_costs_equal_a_naive_sum(ledger: Ledger, by: By) -> None:
    """Law 6: every figure by every dimension, real and simulated apart, for all jobs and for one."""
    made = history(ledger)
    assert ledger.costs(by, None) == naive_costs(made, by)
    for name in ("alpha", "beta", "gamma"):
        assert ledger.costs(by, ledger.job(name)) == naive_costs([each for each in made if each.job == name], by)


def test_the_history_has_everything_in_it(ledger: Ledger) -> None:
    """The sums above are worth something only if every kind of attempt, group and doubt occurs."""
    made = history(ledger)
    assert len({(each.job, each.run_id) for each in made}) == 6
    assert len({(each.day, each.model, each.size, each.quality) for each in made}) == 24
    assert any(each.doubt_microusd for each in made)
    assert any(each.open_microusd for each in made)
    assert any(each.cost and not each.saved for each in made)
    assert any(each.cost and each.cost.basis == "estimate" for each in made)


def test_spending_is_what_counts_against_a_cap(ledger: Ledger) -> None:
    """Law 4: settled and in doubt, by job, since an instant, of one run; simulated money is never real money."""
    made = history(ledger)
    instants = [None, *sorted({each.begun_ms for each in made}), NOW_MS + 10 * DAY_MS]
    for name, simulated, since_ms in itertools.product(("alpha", "gamma"), (False, True), instants):
        job = ledger.job(name)
        assert job is not None
        of_job = [each for each in made if each.job == name and each.simulated is simulated]
        for run_id in (None, *{each.run_id for each in of_job}):
            counted = [
                each
                for each in of_job
                if (since_ms is None or each.begun_ms >= since_ms) and run_id in (None, each.run_id)
            ]
            assert ledger.spending(job, simulated=simulated, since_ms=since_ms, run_id=run_id) == Spending(
                sum(each.cost.microusd for each in counted if each.cost), sum(each.doubt_microusd for each in counted)
            )


def test_requests_and_images_of_a_run(ledger: Ledger) -> None:
    """What the summary says of a run."""
    made = history(ledger)
    for run_id in {each.run_id for each in made}:
        of_run = [each for each in made if each.run_id == run_id]
        assert ledger.requests(run_id) == (len(of_run), sum(each.saved for each in of_run))
    assert ledger.requests(999) == (0, 0)


def test_what_reuse_has_saved(ledger: Ledger) -> None:
    """Reuse shows what it spared: the cost of the attempt that made the image, under the job that took it over."""
    first = enrolled(ledger, 3, name="first")
    run_id = begin_run(ledger, first)
    for todo in ledger.todo(first, -1, 10):
        finish(ledger, first, run_id, todo, cost=Cost(1_000 + todo.position, "estimate"))
    second = enrolled(ledger, 3, name="second")
    (page,) = ledger.reusable(second)
    for item in page[:2]:
        ledger.reuse(item, make_file(f"second/images/{item.name}", seed=item.asset_id), now_ms=NOW_MS + DAY_MS)
    assert ledger.reused(second) == 2
    assert ledger.reused(first) == 0
    (line,) = ledger.costs("job", second)
    assert (line["reused"], line["saved_by_reuse_microusd"], line["requests"], line["cost_microusd"]) == (2, 2001, 0, 0)
    assert [(line["day"], line["requests"], line["reused"]) for line in ledger.costs("day", None)] == [
        (str(NOW_MS // DAY_MS), 3, 0),
        (str(NOW_MS // DAY_MS + 1), 0, 2),
    ]
    with ledger.export(second) as lines:
        assert [(line["status"], line["reused"], line["attempts"], line["cost_microusd"]) for line in lines] == [
            ("done", 1, 0, 0),
            ("done", 1, 0, 0),
            ("planned", 0, 0, 0),
        ]


def test_an_export_line_has_the_task_its_asset_and_what_it_cost(ledger: Ledger) -> None:
    """One line a task, with the sum of its attempts and the words of the last one."""
    job = enrolled(ledger, [make_task("a lighthouse", quality="medium", sample=3)])
    run_id = begin_run(ledger, job)
    (todo,) = ledger.todo(job, -1, 10)
    attempt_id = begin(ledger, job, run_id, todo.task_id)
    with write(ledger) as connection:
        attempts.lost(connection, attempt_id, task_id=todo.task_id, answer=REFUSAL, try_again=True, now_ms=NOW_MS)
    file = finish(ledger, job, run_id, todo)
    with ledger.export(job) as lines:
        (line,) = lines
    assert {
        name: line[name]
        for name in ("job", "key", "prompt_id", "prompt", "size", "quality", "sample", "status", "path", "sha256")
    } == {
        "job": "job",
        "key": todo.key,
        "prompt_id": "a-lighthouse",
        "prompt": "a lighthouse",
        "size": "16x16",
        "quality": "medium",
        "sample": 3,
        "status": "done",
        "path": file.path,
        "sha256": file.sha256,
    }
    assert json.loads(line["variant"]) == {"size": "16x16", "quality": "medium"}
    assert (line["attempts"], line["cost_microusd"], line["in_doubt_microusd"]) == (2, 11_250, 15_000)
    assert (line["input_tokens"], line["output_tokens"], line["request_id"]) == (20, 272, "req-1")
    assert (line["price_version"], line["latency_ms"], line["error_code"]) == ("2026-11-22", 850, None)


def test_an_export_streams_in_the_manifests_order(ledger: Ledger) -> None:
    """Law 8: over 20,000 rows the memory of Python stays that of one batch; the order is the manifest's."""
    count = 20_000
    job = enrolled(ledger, count)
    # The order is the manifest's, whatever became of the tasks.
    change(ledger, "UPDATE tasks SET status = 'failed' WHERE position % 3 = 0")
    with ledger.export(job) as lines:
        next(lines)  # what SQLAlchemy prepares once is not what is measured
    tracemalloc.start()
    with ledger.export(job) as lines:
        for position, line in enumerate(lines):
            assert line["prompt_id"] == f"prompt-{position:06d}"
        peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert position == count - 1
    assert peak_bytes < 3_000_000


def test_problems_are_grouped_and_the_most_frequent_come_first(ledger: Ledger) -> None:
    """Only wanted tasks that are not done count, each (status, code) with a number and an example."""
    job = enrolled(ledger, 9)
    for positions, status, code in (
        ((0, 1, 2), "failed", "server_error"),
        ((3, 4), "in_doubt", "run_died"),
        ((5,), "refused", "moderation_blocked"),
        ((6,), "done", "old"),
    ):
        for position in positions:
            change(
                ledger,
                "UPDATE tasks SET status = ?, error_code = ?, error_message = ? WHERE position = ?",
                status,
                code,
                f"message {position}",
                position,
            )
    change(ledger, "UPDATE tasks SET revision = 0, status = 'failed' WHERE position = 7")
    found = ledger.problems(job)
    assert [(each["status"], each["code"], each["tasks"], each["example"]) for each in found] == [
        ("failed", "server_error", 3, "message 0"),
        ("in_doubt", "run_died", 2, "message 3"),
        ("refused", "moderation_blocked", 1, "message 5"),
    ]
    assert found[0]["name"] == "prompt-000000/16x16-low-1.png"
    assert len(ledger.problems(job, limit=2)) == 2


def test_the_newest_run_of_a_job(ledger: Ledger) -> None:
    """With how it ended; a run that died has no end."""
    job, other = enrolled(ledger, 1), enrolled(ledger, 1, name="other")
    assert ledger.last_run(job) is None
    first, second = begin_run(ledger, job), begin_run(ledger, job)
    begin_run(ledger, other)
    ledger.end_run(first, exit_code=4, reason="some failed", now_ms=NOW_MS + 9)
    last = ledger.last_run(job)
    assert last is not None
    assert (last["id"], last["ended_ms"], last["exit_code"]) == (second, None, None)
    (row,) = rows(ledger, "SELECT exit_code, reason, ended_ms FROM runs WHERE id = ?", first)
    assert row == {"exit_code": 4, "reason": "some failed", "ended_ms": NOW_MS + 9}


def test_a_day_is_a_day_of_utc(ledger: Ledger) -> None:
    """The last millisecond of a day and the first of the next are two days."""
    job = enrolled(ledger, 2)
    run_id = begin_run(ledger, job)
    midnight_ms = int(dt.datetime(2026, 11, 22, tzinfo=dt.UTC).timestamp()) * 1000
    for todo, at_ms in zip(ledger.todo(job, -1, 10), (midnight_ms - 1, midnight_ms), strict=True):
        begin(ledger, job, run_id, todo.task_id, now_ms=at_ms)
    days = [int(line["day"]) for line in ledger.costs("day", job)]
    assert [str(dt.date(1970, 1, 1) + dt.timedelta(days=day)) for day in days] == ["2026-11-21", "2026-11-22"]


PLANNED: dict[str, Callable[[sa.Connection, Job], object]] = {
    "todo": lambda connection, job: queries.todos(connection, job, -1, 10),
    "statuses": queries.statuses,
    "orphans": lambda connection, job: queries.orphans(connection, job, 10),
    "known": lambda connection, job: enrol.known(connection, job.id, ["a", "b", "c"]),
    "reusable": lambda connection, job: enrol.reusable(connection, job.id, job.revision, (0, 0), 10),
    "misplaced": lambda connection, job: enrol.misplaced(connection, job.id, job.revision, "job/images", 0, 10),
    "problems": lambda connection, job: queries.problems(connection, job, 10),
    "export": lambda connection, job: list(exports.export(connection, job, knows_batches=True)),
    "spending": lambda connection, job: queries.spending(connection, job_id=job.id, simulated=False, since_ms=NOW_MS),
    "spending of a run": lambda connection, job: queries.spent_by(connection, job_id=job.id, simulated=False, run_id=1),
    "requests": lambda connection, _: queries.requests(connection, 1),
    "last_run": queries.last_run,
    "asset_at": lambda connection, _: attempts.asset_at(connection, "job/images/a.png"),
    "move": lambda connection, _: attempts.move(connection, 25, Status.PLANNED, Event.BEGIN),
    "asset_moved": lambda connection, _: attempts.asset_moved(connection, 1, "job/images/b.png"),
}


@pytest.mark.parametrize("name", PLANNED)
def test_no_question_reads_a_whole_table(ledger: Ledger, name: str) -> None:
    """Law 8: what is asked while a run goes on is found through an index."""
    job = enrolled(ledger, 300)
    run_id = begin_run(ledger, job)
    for todo in ledger.todo(job, -1, 20):
        finish(ledger, job, run_id, todo)
    enrolled(ledger, 300, name="other")
    asked: list[tuple[str, Any]] = []
    with write(ledger) as connection:
        engine = connection.engine

        def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            if not statement.startswith("PRAGMA"):  # which tables there are
                asked.append((statement, parameters))

        sa.event.listen(engine, "before_cursor_execute", note)
        PLANNED[name](connection, job)
        sa.event.remove(engine, "before_cursor_execute", note)
        assert asked
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            for statement, values in asked:
                plan = [str(row[0]) for row in connection.exec_driver_sql(f"EXPLAIN {statement}", values)]
                assert any("Index" in step for step in plan), plan
                assert not any("Seq Scan" in step for step in plan), plan
            return
        for statement, values in asked:
            plan = [str(row[-1]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            assert any("SEARCH" in step and ("INDEX" in step or "PRIMARY KEY" in step) for step in plan), plan
            assert not any(step.startswith("SCAN") for step in plan), plan


def test_a_readers_transaction_cannot_hold_up_a_writer(ledger: Ledger) -> None:
    """A report that is read slowly keeps no run from recording what it did."""
    job = enrolled(ledger, 5)
    run_id = begin_run(ledger, job)
    with read(ledger) as connection:
        assert queries.statuses(connection, job)[Status.PLANNED] == 5
        begin(ledger, job, run_id, ledger.todo(job, -1, 1)[0].task_id)
        assert queries.statuses(connection, job)[Status.PLANNED] == 5
    assert ledger.statuses(job)[Status.RUNNING] == 1


def test_a_run_reports_the_doubts_that_a_dead_run_left(ledger: Ledger) -> None:
    """Law 3: whoever finds a request in doubt says so; an older doubt is not told again, nor another job's."""
    job = enrolled(ledger, 3)
    dead = begin_run(ledger, job)
    todo = ledger.todo(job, -1, 3)
    early, late = (begin(ledger, job, dead, item.task_id) for item in todo[:2])
    with write(ledger) as connection:
        attempts.lost(
            connection, early, task_id=todo[0].task_id, answer=Answer(), try_again=False, now_ms=NOW_MS + 1_000
        )
    other = enrolled(ledger, 4, name="other")
    begin(ledger, other, begin_run(ledger, other), ledger.todo(other, 2, 1)[0].task_id)
    change(ledger, "UPDATE runs SET started_ms = ? WHERE id = ?", NOW_MS, dead)
    run_id = begin_run(ledger, job)
    change(ledger, "UPDATE runs SET started_ms = ? WHERE id = ?", NOW_MS + 5_000, run_id)
    for owner in (job, other):
        for orphan in ledger.orphans(owner, 10):
            ledger.lose(orphan, Answer(), now_ms=NOW_MS + 6_000)
    assert late != early
    assert ledger.doubt_found(run_id, simulated=False) == RESERVED
    assert ledger.doubt_found(run_id, simulated=True) == 0
