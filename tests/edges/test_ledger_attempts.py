"""What the record of attempts must hold: compare-and-set, one end for each attempt, doubt only where there is doubt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from runner.errors import LedgerError
from runner.ledger import Job, Ledger, Orphan, Reusable, attempts
from runner.tasks import TRANSITIONS, Event, ImageRequest, Status
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
    contents,
    enrolled,
    finish,
    make_file,
    open_ledger,
    rows,
    to_begin,
    write,
)


@dataclass(frozen=True)
class Case:
    """A task with an open attempt, whose status a test sets."""

    ledger: Ledger
    job: Job
    run_id: int
    task_id: int
    attempt_id: int

    def put(self, status: Status) -> None:
        """Set the status as no operation would."""
        change(self.ledger, "UPDATE tasks SET status = ? WHERE id = ?", status.value, self.task_id)

    def row(self) -> dict[str, object]:
        """The attempt's row."""
        return rows(self.ledger, "SELECT * FROM attempts WHERE id = ?", self.attempt_id)[0]

    def status(self) -> str:
        """The task's status."""
        return str(rows(self.ledger, "SELECT status FROM tasks WHERE id = ?", self.task_id)[0]["status"])

    def orphan(self) -> Orphan:
        """The task as recovery finds it."""
        (found,) = self.ledger.orphans(self.job, 10)
        return found


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with open_ledger(tmp_path) as ledger:
        job = enrolled(ledger, 2)
        run_id = begin_run(ledger, job)
        (todo, _) = ledger.todo(job, -1, 10)
        yield Case(ledger, job, run_id, todo.task_id, begin(ledger, job, run_id, todo.task_id))


Operation = Callable[[sa.Connection, Case], object]


def _begin(connection: sa.Connection, case: Case) -> object:
    return attempts.begin(connection, to_begin(case.job, case.run_id, case.task_id))


def _saved(connection: sa.Connection, case: Case) -> None:
    attempts.saved(
        connection,
        case.attempt_id,
        task_id=case.task_id,
        file=make_file(),
        model="gpt-image-1-mini",
        simulated=False,
        now_ms=NOW_MS,
    )


def _unsaved(event: Event) -> Operation:
    def operation(connection: sa.Connection, case: Case) -> None:
        attempts.unsaved(
            connection, case.attempt_id, event, task_id=case.task_id, answer=REFUSAL, cost=None, now_ms=NOW_MS
        )

    return operation


def _lost(connection: sa.Connection, case: Case, *, try_again: bool = False) -> None:
    attempts.lost(connection, case.attempt_id, task_id=case.task_id, answer=REFUSAL, try_again=try_again, now_ms=NOW_MS)


def _lost_once_more(connection: sa.Connection, case: Case) -> None:
    _lost(connection, case, try_again=True)


def _adopted(connection: sa.Connection, case: Case) -> None:
    request = ImageRequest("a lighthouse", "m")
    orphan = Orphan(case.task_id, "a.png", request, case.attempt_id, "m", False, RESERVED, None, None, None)
    attempts.adopted(connection, orphan, make_file(), now_ms=NOW_MS)


def _reused_from(asset_id: int) -> Operation:
    def operation(connection: sa.Connection, case: Case) -> None:
        item = Reusable(case.task_id, 0, "a.png", asset_id, make_file(), "m", False)
        attempts.reused(connection, item, make_file(), now_ms=NOW_MS)

    return operation


OPERATIONS: dict[str, tuple[Operation, Status, Status]] = {
    "begin": (_begin, Status.PLANNED, Status.RUNNING),
    "saved": (_saved, Status.RUNNING, Status.DONE),
    "backoff": (_unsaved(Event.BACKOFF), Status.RUNNING, Status.PLANNED),
    "refused": (_unsaved(Event.REFUSED), Status.RUNNING, Status.REFUSED),
    "gave_up": (_unsaved(Event.GAVE_UP), Status.RUNNING, Status.FAILED),
    "lost": (_lost, Status.RUNNING, Status.IN_DOUBT),
    "lost, try again": (_lost_once_more, Status.RUNNING, Status.PLANNED),
    "adopted": (_adopted, Status.RUNNING, Status.DONE),
    "reused": (_reused_from(1), Status.PLANNED, Status.DONE),
}


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_compare_and_set(case: Case, name: str, status: Status) -> None:
    """Law 3: an operation moves a task from exactly one status; elsewhere, or a second time, it changes nothing."""
    operation, wanted, to = OPERATIONS[name]
    if name == "reused":
        other = case.ledger.todo(case.job, -1, 10)[-1]
        finish(case.ledger, case.job, case.run_id, other)
    case.put(status)
    before = contents(case.ledger)
    if status is wanted:
        with write(case.ledger) as connection:
            operation(connection, case)
        assert case.status() == to
        before = contents(case.ledger)
    with pytest.raises(LedgerError), write(case.ledger) as connection:
        operation(connection, case)
    assert contents(case.ledger) == before


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("status", Status)
def test_a_move_follows_the_table_and_nothing_else(case: Case, status: Status, event: Event) -> None:
    """Every status and event: the one move of the table from that very status, once, or an error and no change."""
    case.put(status)
    to = TRANSITIONS.get((status, event))
    if to is not None:
        with write(case.ledger) as connection:
            attempts.move(connection, case.task_id, status, event)
        assert case.status() == to
    before = contents(case.ledger)
    with pytest.raises(LedgerError), write(case.ledger) as connection:
        attempts.move(connection, case.task_id, status, event)
    assert contents(case.ledger) == before


def test_a_move_names_what_it_found(case: Case) -> None:
    """Whoever reads the error knows which task, which move, and what is there instead."""
    case.put(Status.DONE)
    with (
        pytest.raises(LedgerError, match=f"task {case.task_id} was to go from planned to running, and is done"),
        write(case.ledger) as connection,
    ):
        attempts.move(connection, case.task_id, Status.PLANNED, Event.BEGIN)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("begin", "reused")])
def test_an_attempt_ends_once(case: Case, name: str) -> None:
    """Even if its task were running again: an ended attempt takes no second end, and no second bill."""
    with write(case.ledger) as connection:
        _unsaved(Event.BACKOFF)(connection, case)
    case.put(Status.RUNNING)
    before = contents(case.ledger)
    with pytest.raises(LedgerError, match="ended already"), write(case.ledger) as connection:
        OPERATIONS[name][0](connection, case)
    with pytest.raises(LedgerError, match="ended already"), write(case.ledger) as connection:
        attempts.received(connection, case.attempt_id, answer=ANSWER, cost=COST, file=make_file())
    assert contents(case.ledger) == before


def test_an_attempt_begins_with_what_it_reserves(case: Case) -> None:
    """Laws 1, 4 and 6: model, reserved micro-dollars, price version and time are there before the request leaves."""
    row = case.row()
    assert (row["outcome"], row["ended_ms"], row["cost_microusd"], row["doubt_microusd"]) == (None, None, None, None)
    assert (row["reserved_microusd"], row["price_version"], row["begun_ms"]) == (RESERVED, "2026-11-22", NOW_MS)
    assert (row["model"], row["simulated"], row["run_id"]) == ("gpt-image-1-mini", 0, case.run_id)
    assert case.status() == "running"


def test_a_saved_image_is_on_record_with_everything_told_of_it(case: Case) -> None:
    """Law 6: raw token counts as they came, the answer's own words, and the file."""
    file = make_file("job/images/x.png", seed=7)
    with write(case.ledger) as connection:
        attempts.received(connection, case.attempt_id, answer=ANSWER, cost=COST, file=file)
    assert (case.row()["outcome"], case.status()) == (None, "running")
    assert (case.row()["received_path"], case.row()["received_sha256"]) == (file.path, file.sha256)
    with write(case.ledger) as connection:
        attempts.saved(
            connection,
            case.attempt_id,
            task_id=case.task_id,
            file=file,
            model="gpt-image-2",
            simulated=False,
            now_ms=NOW_MS + 5,
        )
    row = case.row()
    assert (row["outcome"], row["ended_ms"], row["doubt_microusd"]) == ("saved", NOW_MS + 5, None)
    assert (row["cost_microusd"], row["cost_basis"], row["usage_json"]) == (11_250, "usage", COST.usage_json)
    assert [row[f"{name}_tokens"] for name in ("input", "input_text", "input_image", "output", "total")] == [
        20,
        20,
        0,
        272,
        292,
    ]
    assert (row["request_id"], row["http_status"], row["latency_ms"]) == ("req-1", 200, 850)
    (asset,) = rows(case.ledger, "SELECT * FROM assets")
    assert (asset["task_id"], asset["attempt_id"], asset["reused_from"]) == (case.task_id, case.attempt_id, None)
    assert (asset["path"], asset["sha256"], asset["bytes"]) == (file.path, file.sha256, file.bytes)
    assert (asset["format"], asset["width"], asset["height"], asset["has_c2pa"]) == ("png", 16, 16, 0)
    assert (asset["model"], asset["created_ms"]) == ("gpt-image-2", NOW_MS + 5)


def test_a_failure_keeps_its_reason_and_a_success_clears_it(case: Case) -> None:
    """The task says why it is not done, for as long as it is not; each attempt keeps its own reason."""
    with write(case.ledger) as connection:
        attempts.unsaved(
            connection,
            case.attempt_id,
            Event.BACKOFF,
            task_id=case.task_id,
            answer=REFUSAL,
            cost=ESTIMATE,
            now_ms=NOW_MS,
        )
    (task,) = rows(case.ledger, "SELECT * FROM tasks WHERE id = ?", case.task_id)
    assert (task["error_code"], task["error_message"]) == ("moderation_blocked", "the safety system said no")
    assert (case.row()["cost_microusd"], case.row()["cost_basis"]) == (9_000, "estimate")
    todo = next(todo for todo in case.ledger.todo(case.job, -1, 10) if todo.task_id == case.task_id)
    finish(case.ledger, case.job, case.run_id, todo)
    (task,) = rows(case.ledger, "SELECT * FROM tasks WHERE id = ?", case.task_id)
    assert (task["status"], task["error_code"], task["error_message"]) == ("done", None, None)
    assert case.row()["error_code"] == "moderation_blocked"


@pytest.mark.parametrize("try_again", [False, True])
@pytest.mark.parametrize("cost", [None, COST])
def test_only_what_is_not_known_is_in_doubt(case: Case, cost: object, try_again: bool) -> None:
    """Law 4: a lost attempt is in doubt with all it reserved, unless its cost is known: then that counts, once."""
    if cost is not None:
        with write(case.ledger) as connection:
            attempts.received(connection, case.attempt_id, answer=ANSWER, cost=COST, file=make_file())
    with write(case.ledger) as connection:
        _lost(connection, case, try_again=try_again)
    row = case.row()
    assert row["outcome"] == "lost"
    assert (row["cost_microusd"], row["doubt_microusd"]) == ((None, RESERVED) if cost is None else (11_250, None))
    assert case.status() == ("planned" if try_again else "in_doubt")
    spending = case.ledger.spending(case.job, simulated=False)
    assert spending.settled_microusd + spending.in_doubt_microusd == (RESERVED if cost is None else 11_250)


@pytest.mark.parametrize("cost", [None, COST])
def test_an_adopted_image_is_done_and_paid_once(case: Case, cost: object) -> None:
    """Laws 3 and 4: adoption ends the attempt as saved; without a known cost the reserved one stays in doubt."""
    if cost is not None:
        with write(case.ledger) as connection:
            attempts.received(connection, case.attempt_id, answer=ANSWER, cost=COST, file=make_file())
    orphan = case.orphan()
    assert orphan.cost_microusd == (None if cost is None else 11_250)
    case.ledger.adopt(orphan, make_file(), now_ms=NOW_MS)
    row = case.row()
    assert (row["outcome"], row["ended_ms"]) == ("saved", NOW_MS)
    assert (row["cost_microusd"], row["doubt_microusd"]) == ((None, RESERVED) if cost is None else (11_250, None))
    assert case.status() == "done"
    assert case.ledger.orphans(case.job, 10) == []
    assert rows(case.ledger, "SELECT attempt_id FROM assets") == [{"attempt_id": case.attempt_id}]


def test_a_path_belongs_to_the_asset_that_was_put_there_last(case: Case) -> None:
    """Law 3: a new image under a name whose old file was removed by hand is recorded, not refused after it was paid."""
    first, second = case.task_id, next(todo.task_id for todo in case.ledger.todo(case.job, -1, 10))
    with write(case.ledger) as connection:
        _saved(connection, case)
    attempt_id = begin(case.ledger, case.job, case.run_id, second)
    with write(case.ledger) as connection:
        attempts.saved(
            connection, attempt_id, task_id=second, file=make_file(seed=2), model="m", simulated=False, now_ms=NOW_MS
        )
    assets = {row["task_id"]: row for row in rows(case.ledger, "SELECT * FROM assets")}
    assert assets[second]["path"] == make_file().path
    assert assets[first]["path"] == f"{make_file().path}~missing-{assets[first]['id']}"
    assert case.ledger.asset_at(make_file().path) == assets[second]["id"]
    case.ledger.asset_moved(assets[first]["id"], make_file().path)
    assert case.ledger.asset_at(make_file().path) == assets[first]["id"]
    case.ledger.asset_moved(assets[first]["id"], make_file().path)
    assert case.ledger.asset_path(assets[first]["id"]) == make_file().path


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("UPDATE tasks SET status = 'finished'", "ck_tasks_status"),
        ("UPDATE tasks SET sample = 0", "ck_tasks_sample"),
        ("UPDATE attempts SET outcome = 'won', ended_ms = 1", "ck_attempts_outcome"),
        ("UPDATE attempts SET cost_basis = 'guess'", "ck_attempts_cost_basis"),
        ("UPDATE attempts SET reserved_microusd = -1", "ck_attempts_reserved"),
        ("UPDATE attempts SET cost_microusd = -1", "ck_attempts_cost"),
        ("UPDATE attempts SET doubt_microusd = -1", "ck_attempts_doubt"),
        ("UPDATE attempts SET outcome = 'lost'", "ck_attempts_ended"),
        ("UPDATE attempts SET ended_ms = 1", "ck_attempts_ended"),
        ("UPDATE assets SET bytes = 0", "ck_assets_bytes"),
        ("UPDATE assets SET sha256 = 'abc'", "ck_assets_sha256"),
        ("UPDATE tasks SET job_id = 99", "FOREIGN KEY"),
        ("UPDATE attempts SET run_id = 99", "FOREIGN KEY"),
        ("UPDATE tasks SET key = 'same'", "UNIQUE"),
        ("UPDATE assets SET path = 'same'", "UNIQUE"),
        ("INSERT INTO prompts (digest, text) SELECT digest, text FROM prompts", "UNIQUE"),
    ],
)
def test_the_database_itself_refuses_what_cannot_be(case: Case, statement: str, name: str) -> None:
    """Checks, references and keys bite whatever the code above them does, and are told as LedgerError."""
    finish(case.ledger, case.job, case.run_id, case.ledger.todo(case.job, -1, 10)[0])
    with write(case.ledger) as connection:
        _saved(connection, case)
    case.ledger.make_job("another", manifest_path=None, now_ms=NOW_MS)
    change(case.ledger, "UPDATE attempts SET outcome = NULL, ended_ms = NULL")
    before = contents(case.ledger)
    with pytest.raises(LedgerError, match=f"(?i){name}"), write(case.ledger) as connection:
        connection.execute(sa.text(statement))
    assert contents(case.ledger) == before


def test_no_attempt_without_a_task_to_begin(case: Case) -> None:
    """Law 1 the other way round: an attempt is never on record for a task that is not free."""
    with pytest.raises(LedgerError), write(case.ledger) as connection:
        attempts.begin(connection, to_begin(case.job, case.run_id, 999))
    with pytest.raises(LedgerError), write(case.ledger) as connection:
        attempts.begin(connection, to_begin(case.job, 999, case.ledger.todo(case.job, -1, 10)[0].task_id))
    assert len(rows(case.ledger, "SELECT * FROM attempts")) == 1
    assert len(case.ledger.todo(case.job, -1, 10)) == 1
