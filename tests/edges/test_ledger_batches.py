"""What is on record of batches: every move, every ending of a request, what is asked of them, and older ledgers."""

from __future__ import annotations

import importlib.resources
import inspect
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from runner.cli.app import run_app
from runner.errors import LedgerError
from runner.ledger import Answer, Batch, Job, Ledger, Member, NewBatch, Outcome, Spending
from runner.ledger.batching import UNTRIED
from runner.ledger.tables import BATCH_STATES
from runner.ledger.types import Told
from runner.tasks import NOT_SENT, Event, Status
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
    make_task,
    make_tasks,
    open_ledger,
    path_of,
    rows,
    write,
)
from tests.edges.test_ledger_scale import LARGE, listening, plan

HERE = "https://api.example/v1"
TOLD = Told("in_progress", None, None, 5, 2, 1, NOW_MS + 86_400_000, None)
LATER_MS = NOW_MS + 5000
EXPIRED = Answer(error_code="batch_expired", error_message="its batch expired before its turn")
FAULT = Answer("req-3", 500, None, "server_error", "try again")
ODD = Answer("req-4", 200, None, "wrong_image", "it is a jpeg")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as it:
        yield it


class Shelf:
    """A job whose run puts tasks into batches."""

    def __init__(self, ledger: Ledger, count: int = 12, name: str = "job") -> None:
        self.ledger = ledger
        # Each job's own images: what another has made is not asked for again.
        word = "prompt" if name == "job" else name
        tasks = (make_task(f"{word} {n:06d}", line=n + 1) for n in range(count))
        self.job: Job = enrolled(ledger, tasks, name=name)
        self.run_id = begin_run(ledger, self.job)
        self.tokens = 0

    def new(self, **changes: Any) -> NewBatch:
        """What a batch begins with."""
        self.tokens += 1
        base = NewBatch(
            job_id=self.job.id,
            run_id=self.run_id,
            provider="openai",
            base_url=HERE,
            simulated=False,
            token=f"{self.job.name}-{self.tokens}",
            endpoint="/v1/images/generations",
            model="gpt-image-1-mini",
            price_version="2026-11-22",
        )
        return replace(base, **changes)

    def fill(self, count: int, **changes: Any) -> tuple[int, list[int]]:
        """A batch of the next planned tasks, in preparation; its number and its attempts."""
        new = self.new(**changes)
        number = self.ledger.batches.prepare(new, now_ms=NOW_MS)
        tasks = [(todo.task_id, RESERVED) for todo in self.ledger.todo(self.job, -1, count)]
        assert len(tasks) == count
        ids = self.ledger.batches.add(number, new, tasks, now_ms=NOW_MS)
        return number, [one for one in ids if isinstance(one, int)]

    def send(self, count: int, **changes: Any) -> tuple[int, list[int]]:
        """A batch that the provider has."""
        number, attempts = self.fill(count, **changes)
        batches = self.ledger.batches
        batches.sealed(number, requests=count, size_bytes=count * 100)
        batches.uploaded(number, f"file-{number}")
        batches.creating(number)
        batches.submitted(number, f"batch-{number}", TOLD, submitted_ms=NOW_MS, now_ms=NOW_MS)
        return number, attempts

    def member(self, attempt_id: int) -> Member:
        """A request whose answer is not known."""
        member = self.ledger.batches.member(attempt_id)
        assert member is not None
        return member

    def end(self, attempt_id: int, how: str, answer: Answer = ANSWER, **more: Any) -> None:
        """Give a request its ending: saved, lost, held, or the name of an event."""
        batches, member = self.ledger.batches, more.pop("member", None) or self.member(attempt_id)
        common = {"run_id": self.run_id, "now_ms": LATER_MS, **more}
        if how == "saved":
            file = make_file(f"{self.job.name}/images/{member.name}", seed=member.task_id)
            change = batches.saved(member, answer=answer, cost=common.pop("cost", COST), file=file, **common)
        elif how in ("lost", "held"):
            change = batches.lost(member, answer=answer, try_again=how == "lost", **common)
        else:
            change = batches.unsaved(member, Event(how), answer=answer, cost=common.pop("cost", None), **common)
        with write(self.ledger) as connection:
            change(connection)

    def task(self, attempt_id: int) -> dict[str, Any]:
        """The row of a request's task."""
        query = "SELECT t.* FROM tasks t JOIN attempts a ON a.task_id = t.id WHERE a.id = ?"
        return rows(self.ledger, query, attempt_id)[0]

    def attempt(self, attempt_id: int) -> dict[str, Any]:
        """The row of a request."""
        return rows(self.ledger, "SELECT * FROM attempts WHERE id = ?", attempt_id)[0]


@pytest.fixture
def shelf(ledger: Ledger) -> Shelf:
    return Shelf(ledger)


# -- the life of a batch ----------------------------------------------------------------------------


def test_what_is_on_record_at_each_step(shelf: Shelf) -> None:
    """The intention before the upload, the file's id before the create, the batch's id before the first look."""
    batches = shelf.ledger.batches
    number, attempts = shelf.fill(3)
    batch = batches.one(number)
    assert (batch.state, batch.requests, batch.bytes, batch.token) == ("preparing", 0, 0, "job-1")
    assert [shelf.task(each)["status"] for each in attempts] == ["submitted"] * 3
    assert [shelf.attempt(each)["reserved_microusd"] for each in attempts] == [RESERVED] * 3
    batches.sealed(number, requests=3, size_bytes=321)
    assert (batches.one(number).state, batches.one(number).requests, batches.one(number).bytes) == ("sealed", 3, 321)
    batches.uploaded(number, "file-9")
    assert (batches.one(number).state, batches.one(number).input_file_id) == ("uploaded", "file-9")
    batches.creating(number)
    assert (batches.one(number).state, batches.one(number).batch_id) == ("creating", None)
    batches.submitted(number, "batch-9", TOLD, submitted_ms=NOW_MS + 1, now_ms=NOW_MS + 2)
    batch = batches.one(number)
    assert (batch.state, batch.batch_id, batch.submitted_ms, batch.checked_ms) == (
        "submitted",
        "batch-9",
        NOW_MS + 1,
        NOW_MS + 2,
    )
    assert (batch.status, batch.total, batch.completed, batch.failed) == ("in_progress", 5, 2, 1)
    over = replace(TOLD, status="completed", output_file_id="out", error_file_id="err", ended_ms=NOW_MS + 9)
    batches.told(number, over, now_ms=NOW_MS + 10)
    batches.cancelling(number, now_ms=NOW_MS + 11)
    batches.read_so_far(number, output=40)
    batches.read_so_far(number, errors=7)
    batch = batches.one(number)
    assert (batch.output_file_id, batch.error_file_id, batch.ended_ms, batch.cancel_ms) == (
        "out",
        "err",
        NOW_MS + 9,
        NOW_MS + 11,
    )
    assert (batch.output_read, batch.error_read) == (40, 7)
    batches.collected(number, now_ms=NOW_MS + 12)
    assert (batches.one(number).state, batches.one(number).collected_ms) == ("collected", NOW_MS + 12)


MOVES: dict[str, tuple[set[str], Callable[[Ledger, int], object]]] = {
    "sealed": ({"preparing"}, lambda it, n: it.batches.sealed(n, requests=1, size_bytes=1)),
    "uploaded": ({"sealed", "creating"}, lambda it, n: it.batches.uploaded(n, "file-1")),
    "creating": ({"uploaded"}, lambda it, n: it.batches.creating(n)),
    "not_created": ({"uploaded", "creating"}, lambda it, n: it.batches.not_created(n)),
    "submitted": (
        {"creating"},
        lambda it, n: it.batches.submitted(n, "batch-1", TOLD, submitted_ms=NOW_MS, now_ms=NOW_MS),
    ),
    "collected": ({"submitted"}, lambda it, n: it.batches.collected(n, now_ms=NOW_MS)),
    "dissolve": (
        {"preparing", "sealed", "uploaded", "creating", "submitted"},
        lambda it, n: it.batches.dissolve(n, EXPIRED, now_ms=NOW_MS),
    ),
    "lose": ({"creating", "submitted"}, lambda it, n: it.batches.lose(n, EXPIRED, now_ms=NOW_MS)),
    "abandoned": (
        {"creating", "submitted"},
        lambda it, n: it.batches.abandoned(n, now_ms=NOW_MS, code="x", message=None),
    ),
}
"""The states from which each move may be made."""


@pytest.mark.parametrize("state", BATCH_STATES)
@pytest.mark.parametrize("move", MOVES)
def test_every_move_from_every_state(shelf: Shelf, move: str, state: str) -> None:
    """Compare-and-set: from a wrong state a move is an error that names both, and the batch stays as it was."""
    number, _ = shelf.fill(2)
    change(shelf.ledger, "UPDATE batches SET state = ?", state)
    if state in ("collected", "dissolved"):
        change(shelf.ledger, "UPDATE attempts SET outcome = 'backoff', ended_ms = 1")
    before = shelf.ledger.batches.one(number)
    allowed, make = MOVES[move]
    if state in allowed:
        make(shelf.ledger, number)
        assert shelf.ledger.batches.one(number) != before
    else:
        with pytest.raises(LedgerError, match=f"batch {number} .*{state}"):
            make(shelf.ledger, number)
        assert shelf.ledger.batches.one(number) == before


def test_one_that_was_not_created_is_uploaded_again(shelf: Shelf) -> None:
    """Its file was taken away: the id of that is forgotten."""
    number, _ = shelf.fill(1)
    batches = shelf.ledger.batches
    batches.sealed(number, requests=1, size_bytes=1)
    batches.uploaded(number, "file-1")
    batches.creating(number)
    batches.not_created(number)
    assert (batches.one(number).state, batches.one(number).input_file_id) == ("sealed", None)


def test_a_dissolved_batch_gives_everything_back(shelf: Shelf) -> None:
    """Nothing of it was run: planned again, not billed, and nobody counts it as a try; what had ended stays so."""
    number, (saved, *others) = shelf.send(4)
    shelf.end(saved, "saved")
    answer = Answer(error_code="token_limit_exceeded", error_message="too much is enqueued")
    assert shelf.ledger.batches.reserved(number) == 3 * RESERVED
    assert shelf.ledger.batches.dissolve(number, answer, now_ms=LATER_MS) == 3
    assert shelf.ledger.batches.reserved(number) == 0
    batch = shelf.ledger.batches.one(number)
    assert (batch.state, batch.error_code, batch.error_message, batch.collected_ms) == (
        "dissolved",
        "token_limit_exceeded",
        "too much is enqueued",
        LATER_MS,
    )
    for attempt_id in others:
        row = shelf.attempt(attempt_id)
        assert (row["outcome"], row["error_code"], row["cost_microusd"], row["doubt_microusd"]) == (
            "backoff",
            NOT_SENT,
            None,
            None,
        )
        assert (shelf.task(attempt_id)["status"], shelf.task(attempt_id)["error_code"]) == (
            "planned",
            "token_limit_exceeded",
        )
        assert shelf.ledger.batches.tally(row["task_id"]) == (0, 0)
    assert shelf.task(saved)["status"] == "done"
    assert shelf.ledger.batches.count_fallen(shelf.job) == 0


def test_a_batch_that_is_given_up_leaves_its_open_requests_in_doubt(shelf: Shelf) -> None:
    """Their reserved money goes on counting; what had ended stays so."""
    number, (saved, *others) = shelf.send(4)
    shelf.end(saved, "saved")
    answer = Answer(error_code="batch_forgotten", error_message="nobody knows it")
    assert shelf.ledger.batches.lose(number, answer, now_ms=LATER_MS) == 3
    assert (shelf.ledger.batches.one(number).state, shelf.ledger.batches.one(number).error_code) == (
        "collected",
        "batch_forgotten",
    )
    for attempt_id in others:
        row = shelf.attempt(attempt_id)
        assert (row["outcome"], row["doubt_microusd"], row["cost_microusd"]) == ("lost", RESERVED, None)
        assert shelf.task(attempt_id)["status"] == "in_doubt"
    spending = shelf.ledger.spending(shelf.job, simulated=False)
    assert spending == Spending(COST.microusd, 3 * RESERVED, 0)


def test_large_batches_are_dissolved_and_lost_in_pieces(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several transactions: what is cut off is taken up by the next call, and nothing is counted twice."""
    monkeypatch.setattr("runner.ledger.batches.CHUNK", 3)
    shelf = Shelf(ledger, 20)
    for number, move in ((shelf.send(8)[0], ledger.batches.dissolve), (shelf.send(8)[0], ledger.batches.lose)):
        assert move(number, EXPIRED, now_ms=NOW_MS) == 8


# -- how requests end -------------------------------------------------------------------------------

ENDINGS: list[tuple[str, Answer, dict[str, Any], str, dict[str, Any]]] = [
    ("saved", ANSWER, {}, "done", {"outcome": "saved", "cost_microusd": COST.microusd, "cost_basis": "usage"}),
    (
        "saved",
        ANSWER,
        {"cost": ESTIMATE},
        "done",
        {"outcome": "saved", "cost_microusd": 9_000, "cost_basis": "estimate"},
    ),
    ("expired", EXPIRED, {}, "planned", {"outcome": "backoff", "cost_microusd": None, "error_code": "batch_expired"}),
    ("backoff", FAULT, {}, "planned", {"outcome": "backoff", "cost_microusd": None, "http_status": 500}),
    ("backoff", ODD, {"cost": COST}, "planned", {"outcome": "backoff", "cost_microusd": COST.microusd}),
    ("refused", REFUSAL, {}, "refused", {"outcome": "refused", "cost_microusd": None, "http_status": 400}),
    ("gave_up", FAULT, {}, "failed", {"outcome": "gave_up", "cost_microusd": None}),
    ("lost", FAULT, {}, "planned", {"outcome": "lost", "cost_microusd": None, "doubt_microusd": RESERVED}),
    ("held", FAULT, {}, "in_doubt", {"outcome": "lost", "cost_microusd": None, "doubt_microusd": RESERVED}),
]


@pytest.mark.parametrize(("how", "answer", "more", "status", "columns"), ENDINGS)
def test_an_ending_and_what_it_writes(
    shelf: Shelf, how: str, answer: Answer, more: dict[str, Any], status: str, columns: dict[str, Any]
) -> None:
    """Its task moves, its cost or its doubt is on record, and so is the run that heard of it."""
    _, (attempt_id, *_) = shelf.send(3)
    later = begin_run(shelf.ledger, shelf.job)
    shelf.end(attempt_id, how, answer, run_id=later, **more)
    row = shelf.attempt(attempt_id)
    expected = {"doubt_microusd": None, **columns, "collected_run": later, "ended_ms": LATER_MS, "run_id": shelf.run_id}
    assert {name: row[name] for name in expected} == expected
    assert row["request_id"] == answer.request_id
    task = shelf.task(attempt_id)
    assert task["status"] == status
    assert task["error_code"] == answer.error_code
    assets = rows(shelf.ledger, "SELECT attempt_id, path FROM assets")
    assert assets == ([{"attempt_id": attempt_id, "path": f"job/images/{task['name']}"}] if how == "saved" else [])
    assert shelf.ledger.batches.member(attempt_id) is None


@pytest.mark.parametrize("first", ["saved", "expired", "refused", "held"])
@pytest.mark.parametrize("second", ["saved", "expired", "refused", "lost"])
def test_a_request_ends_once(shelf: Shelf, first: str, second: str) -> None:
    """Law 3: whoever reads a line twice cannot write it twice; the whole change is taken back."""
    _, (attempt_id, *_) = shelf.send(2)
    stale = shelf.member(attempt_id)
    shelf.end(attempt_id, first, ANSWER)
    before = contents(shelf.ledger)
    with pytest.raises(LedgerError):
        shelf.end(attempt_id, second, ANSWER, member=stale)
    assert contents(shelf.ledger) == before


@pytest.mark.parametrize("second", ["saved", "expired", "lost"])
def test_an_old_request_does_not_end_in_the_place_of_its_successor(shelf: Shelf, second: str) -> None:
    """Its task is in another batch by now: that its status fits makes the old answer no answer to the new request."""
    _, (attempt_id,) = shelf.send(1)
    stale = shelf.member(attempt_id)
    shelf.end(attempt_id, "expired", EXPIRED)
    _, (successor,) = shelf.send(1)
    assert shelf.attempt(successor)["task_id"] == stale.task_id
    before = contents(shelf.ledger)
    with pytest.raises(LedgerError):
        shelf.end(attempt_id, second, ANSWER, member=stale)
    assert contents(shelf.ledger) == before


# -- what is asked ----------------------------------------------------------------------------------


def test_members_are_those_whose_answer_is_not_known(shelf: Shelf) -> None:
    """With what was asked for, by which run, and whether the job still wants it."""
    _, (first, second, third) = shelf.send(3)
    shelf.end(second, "expired", EXPIRED)
    found = shelf.ledger.batches.members([first, second, third, 999])
    assert [member.attempt_id for member in found] == [first, third]
    member = found[0]
    task = shelf.task(first)
    assert (member.key, member.name, member.wanted, member.model) == (
        task["key"],
        task["name"],
        True,
        "gpt-image-1-mini",
    )
    assert (member.run_id, member.reserved_microusd, member.begun_ms) == (shelf.run_id, RESERVED, NOW_MS)
    assert member.request.prompt == "prompt 000000"
    enrolled(shelf.ledger, [make_task("prompt 000002")], digest="d2")
    assert [member.wanted for member in shelf.ledger.batches.members([first, third])] == [False, True]


def test_a_request_outside_of_batches_is_no_member(shelf: Shelf) -> None:
    """One that is under way online is none of a batch's."""
    attempt_id = begin(shelf.ledger, shelf.job, shelf.run_id, shelf.ledger.todo(shelf.job, -1, 1)[0].task_id)
    assert shelf.ledger.batches.member(attempt_id) is None
    assert [orphan.attempt_id for orphan in shelf.ledger.orphans(shelf.job, 10)] == [attempt_id]


def test_what_is_in_a_batch_is_no_orphan_and_not_planned(shelf: Shelf) -> None:
    """Recovery leaves it alone, and no engine is offered it."""
    shelf.send(12)
    assert shelf.ledger.orphans(shelf.job, 100) == []
    assert shelf.ledger.todo(shelf.job, -1, 100) == []
    with shelf.ledger.contradictions(shelf.job) as found:
        assert list(found) == []


def test_the_line_of_a_file_is_the_nth_request(shelf: Shelf) -> None:
    """Whatever has ended meanwhile, and whatever other batches there are."""
    shelf.send(2)
    number, attempts = shelf.send(4)
    shelf.end(attempts[0], "refused", REFUSAL)
    assert [shelf.ledger.batches.nth(number, line) for line in range(6)] == [None, *attempts, None]


def test_open_batches_and_all_of_them(ledger: Ledger, shelf: Shelf) -> None:
    """Oldest first, of one job; and the names of the jobs that have any."""
    other = Shelf(ledger, 3, "other")
    first, _ = shelf.send(1)
    second, _ = shelf.send(1)
    third, _ = other.fill(1)
    fourth, _ = shelf.fill(1)
    ledger.batches.collected(first, now_ms=NOW_MS)
    ledger.batches.dissolve(fourth, EXPIRED, now_ms=NOW_MS)

    def ids(found: list[Batch]) -> list[int]:
        return [batch.id for batch in found]

    assert ids(ledger.batches.open(shelf.job)) == [second]
    assert ids(ledger.batches.open(other.job)) == [third]
    assert ids(ledger.batches.all(shelf.job)) == [first, second, fourth]
    assert ledger.batches.jobs() == ["job", "other"]
    ledger.batches.collected(second, now_ms=NOW_MS)
    assert ledger.batches.jobs() == ["other"]


def test_how_often_a_task_was_tried(shelf: Shelf) -> None:
    """Errors without a bill, and with one or with a doubt; what nobody has worked on counts as neither."""
    task_id = shelf.ledger.todo(shelf.job, -1, 1)[0].task_id
    expected = (0, 0)
    for how, answer, more, tally in (
        ("backoff", FAULT, {}, (1, 0)),
        ("backoff", ODD, {"cost": COST}, (1, 1)),
        ("lost", FAULT, {}, (1, 2)),
        ("expired", EXPIRED, {}, (1, 2)),
        *(("expired", replace(EXPIRED, error_code=code), {}, (1, 2)) for code in UNTRIED),
        ("backoff", Answer(), {}, (2, 2)),
    ):
        assert shelf.ledger.batches.tally(task_id) == expected
        _, (attempt_id,) = shelf.send(1)
        assert shelf.attempt(attempt_id)["task_id"] == task_id
        shelf.end(attempt_id, how, answer, **more)
        expected = tally
    assert shelf.ledger.batches.tally(task_id) == expected


def test_an_attempt_online_is_no_try_in_a_batch(shelf: Shelf) -> None:
    """Each engine counts its own."""
    from runner.ledger import attempts

    task_id = shelf.ledger.todo(shelf.job, -1, 1)[0].task_id
    attempt_id = begin(shelf.ledger, shelf.job, shelf.run_id, task_id)
    with write(shelf.ledger) as connection:
        attempts.unsaved(connection, attempt_id, Event.BACKOFF, task_id=task_id, answer=FAULT, cost=None, now_ms=NOW_MS)
    assert shelf.ledger.batches.tally(task_id) == (0, 0)
    assert shelf.ledger.batches.count_fallen(shelf.job) == 0


def test_what_was_answered_with_a_success_is_counted_as_that(shelf: Shelf) -> None:
    """An image, and a 200 without one: both are among what the provider counts as completed."""
    number, attempts = shelf.send(6)
    for attempt_id, (how, answer, more) in zip(
        attempts,
        [
            ("saved", ANSWER, {}),
            ("backoff", ODD, {"cost": COST}),
            ("lost", ODD, {}),
            ("backoff", FAULT, {}),
            ("refused", REFUSAL, {}),
        ],
        strict=False,
    ):
        shelf.end(attempt_id, how, answer, **more)
    assert shelf.ledger.batches.answered(number) == 3
    assert shelf.ledger.batches.open_ids(number) == attempts[5:]
    assert shelf.ledger.batches.reserved(number) == RESERVED


def test_the_outcome_of_a_batch(shelf: Shelf) -> None:
    """Counts and money, to the micro-dollar; what nobody has worked on apart."""
    number, attempts = shelf.send(8)
    for attempt_id, (how, answer, more) in zip(
        attempts,
        [
            ("saved", ANSWER, {}),
            ("saved", ANSWER, {"cost": ESTIMATE}),
            ("backoff", ODD, {"cost": COST}),
            ("expired", EXPIRED, {}),
            ("refused", REFUSAL, {}),
            ("gave_up", FAULT, {}),
            ("lost", FAULT, {}),
        ],
        strict=False,
    ):
        shelf.end(attempt_id, how, answer, **more)
    assert shelf.ledger.batches.outcome(number) == Outcome(
        saved=2,
        refused=1,
        failed=1,
        planned=2,
        in_doubt=1,
        cost_microusd=2 * COST.microusd + ESTIMATE.microusd,
        in_doubt_microusd=RESERVED,
        untried=1,
    )
    assert shelf.ledger.batches.outcome(999) == Outcome(0, 0, 0, 0, 0, 0, 0)


def test_what_came_back_without_its_image(shelf: Shelf) -> None:
    """Those are for another engine; what was never in a batch, or in one of which nothing was run, is not."""
    _, (expired, failed, saved) = shelf.send(3)
    shelf.end(expired, "expired", EXPIRED)
    shelf.end(failed, "backoff", FAULT)
    shelf.end(saved, "saved")
    never_run, _ = shelf.send(2)
    batches = shelf.ledger.batches
    batches.dissolve(never_run, EXPIRED, now_ms=NOW_MS)

    def positions(fallen: bool | None) -> list[int]:
        return [todo.position for todo in batches.todo(shelf.job, -1, 100, fallen=fallen)]

    assert positions(True) == [0, 1]
    assert positions(False) == list(range(3, 12))
    assert positions(None) == [0, 1, *range(3, 12)]
    assert batches.count_fallen(shelf.job) == 2
    assert [todo.position for todo in batches.todo(shelf.job, 0, 1, fallen=True)] == [1]


def test_an_image_that_is_lost_is_none_that_no_batch_delivered(shelf: Shelf) -> None:
    """Its batch has brought it; that its file is gone since is another matter, and no reason to pay twice as much."""
    _, (attempt_id,) = shelf.send(1)
    shelf.end(attempt_id, "saved")
    shelf.ledger.gone(shelf.ledger.assets_of([shelf.task(attempt_id)["id"]]))
    assert shelf.task(attempt_id)["status"] == "planned"
    assert shelf.ledger.batches.count_fallen(shelf.job) == 0
    assert shelf.ledger.batches.todo(shelf.job, -1, 100, fallen=True) == []


def test_inputs_that_lie_at_a_provider(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until an instant at least, at that place, the newest id of each; however many are asked for."""
    monkeypatch.setattr("runner.ledger.batches.CHUNK", 2)
    batches = ledger.batches
    for identity, file_id, expires_ms in (("a", "f-1", 100), ("b", "f-2", None), ("c", "f-3", 50), ("a", "f-4", 200)):
        batches.remember(HERE, identity, file_id, expires_ms=expires_ms, now_ms=NOW_MS)
    batches.remember("https://elsewhere/v1", "a", "f-9", expires_ms=None, now_ms=NOW_MS)
    asked = ["a", "b", "c", "d", "e"]
    assert batches.remote_files(HERE, asked, good_ms=60) == {"a": "f-4", "b": "f-2"}
    assert batches.remote_files(HERE, asked, good_ms=50) == {"a": "f-4", "b": "f-2", "c": "f-3"}
    assert batches.remote_files(HERE, asked, good_ms=201) == {"b": "f-2"}
    assert batches.remote_files("https://elsewhere/v1", asked, good_ms=0) == {"a": "f-9"}


# -- money by run -----------------------------------------------------------------------------------


def test_a_batch_counts_for_the_run_that_collects_it(shelf: Shelf) -> None:
    """Law 4: reserved for the job while it is open; spent by the run that heard of each answer."""
    ledger = shelf.ledger
    submitted = shelf.run_id
    _, attempts = shelf.send(4)
    assert ledger.spending(shelf.job, simulated=False) == Spending(0, 0, 4 * RESERVED)
    assert ledger.spending(shelf.job, simulated=True) == Spending(0, 0, 0)
    assert ledger.spending(shelf.job, simulated=False, since_ms=NOW_MS) == Spending(0, 0, 4 * RESERVED)
    assert ledger.spending(shelf.job, simulated=False, since_ms=NOW_MS + 1) == Spending(0, 0, 0)
    assert ledger.requests(submitted) == (4, 0)
    collects = begin_run(ledger, shelf.job)
    shelf.end(attempts[0], "saved", run_id=collects)
    shelf.end(attempts[1], "backoff", ODD, cost=ESTIMATE, run_id=collects)
    shelf.end(attempts[2], "held", FAULT, run_id=collects)
    spent = COST.microusd + ESTIMATE.microusd
    assert ledger.spending(shelf.job, simulated=False) == Spending(spent, RESERVED, RESERVED)
    assert ledger.spending(shelf.job, simulated=False, run_id=submitted) == Spending(0, 0, 0)
    assert ledger.spending(shelf.job, simulated=False, run_id=collects) == Spending(spent, RESERVED, 0)
    assert (ledger.requests(submitted), ledger.requests(collects)) == ((4, 0), (0, 1))


def test_a_run_that_submits_collects_and_asks_online(shelf: Shelf) -> None:
    """Each of its images and micro-dollars once."""
    ledger = shelf.ledger
    _, attempts = shelf.send(2)
    for attempt_id in attempts:
        shelf.end(attempt_id, "saved")
    finish(ledger, shelf.job, shelf.run_id, ledger.todo(shelf.job, -1, 1)[0])
    given_back, _ = shelf.send(3)
    ledger.batches.dissolve(given_back, EXPIRED, now_ms=NOW_MS)
    assert ledger.spending(shelf.job, simulated=False, run_id=shelf.run_id) == Spending(3 * COST.microusd, 0, 0)
    assert ledger.requests(shelf.run_id) == (3, 3)


def test_a_request_online_that_is_under_way_is_reserved_by_nobody_else(shelf: Shelf) -> None:
    """The run that makes it reserves it; only batches outlive their run."""
    begin(shelf.ledger, shelf.job, shelf.run_id, shelf.ledger.todo(shelf.job, -1, 1)[0].task_id)
    assert shelf.ledger.spending(shelf.job, simulated=False) == Spending(0, 0, 0)


# -- the plan of every question ---------------------------------------------------------------------


class Busy:
    """A ledger with two jobs, in whose batches everything has happened; one of them is open."""

    def __init__(self, ledger: Ledger) -> None:
        other = Shelf(ledger, 40, "other")
        for attempt_id in other.send(20)[1]:
            other.end(attempt_id, "saved")
        self.shelf = shelf = Shelf(ledger, 60)
        self.job, self.batches = shelf.job, ledger.batches
        for how, answer in (("saved", ANSWER), ("expired", EXPIRED), ("backoff", FAULT), ("lost", FAULT)):
            for attempt_id in shelf.send(5)[1]:
                shelf.end(attempt_id, how, answer)
        self.number, self.attempts = shelf.send(10)
        for at in range(10):
            self.batches.remember(HERE, f"{at}", f"file-{at}", expires_ms=None, now_ms=NOW_MS)

    def end(self, how: str) -> None:
        """One of the open requests ends."""
        self.shelf.end(self.attempts[0], how)

    def at(self, state: str) -> int:
        """The open batch, in this state."""
        change(self.shelf.ledger, "UPDATE batches SET state = ? WHERE id = ?", state, self.number)
        return self.number


HOT: dict[str, Callable[[Busy], object]] = {
    "prepare": lambda busy: busy.batches.prepare(busy.shelf.new(), now_ms=NOW_MS),
    "add": lambda busy: busy.shelf.fill(3),
    "sealed": lambda busy: busy.batches.sealed(busy.at("preparing"), requests=1, size_bytes=1),
    "uploaded": lambda busy: busy.batches.uploaded(busy.at("sealed"), "file"),
    "creating": lambda busy: busy.batches.creating(busy.at("uploaded")),
    "not_created": lambda busy: busy.batches.not_created(busy.at("creating")),
    "submitted": lambda busy: busy.batches.submitted(
        busy.at("creating"), "batch", TOLD, submitted_ms=NOW_MS, now_ms=NOW_MS
    ),
    "told": lambda busy: busy.batches.told(busy.number, TOLD, now_ms=NOW_MS),
    "cancelling": lambda busy: busy.batches.cancelling(busy.number, now_ms=NOW_MS),
    "given_up": lambda busy: busy.batches.given_up(busy.number, now_ms=NOW_MS),
    "read_so_far": lambda busy: busy.batches.read_so_far(busy.number, output=1, errors=2),
    "collected": lambda busy: busy.batches.collected(busy.number, now_ms=NOW_MS),
    "abandoned": lambda busy: busy.batches.abandoned(busy.number, now_ms=NOW_MS, code="x", message=None),
    "dissolve": lambda busy: busy.batches.dissolve(busy.number, EXPIRED, now_ms=NOW_MS),
    "lose": lambda busy: busy.batches.lose(busy.number, EXPIRED, now_ms=NOW_MS),
    "todo": lambda busy: [busy.batches.todo(busy.job, 3, 10, fallen=fallen) for fallen in (True, False, None)],
    "count_fallen": lambda busy: busy.batches.count_fallen(busy.job),
    "open": lambda busy: busy.batches.open(busy.job),
    "all": lambda busy: busy.batches.all(busy.job),
    "one": lambda busy: busy.batches.one(busy.number),
    "jobs": lambda busy: busy.batches.jobs(),
    "open_ids": lambda busy: busy.batches.open_ids(busy.number),
    "nth": lambda busy: busy.batches.nth(busy.number, 3),
    "member": lambda busy: busy.batches.member(busy.attempts[1]),
    "members": lambda busy: busy.batches.members(busy.attempts),
    "tally": lambda busy: busy.batches.tally(1),
    "answered": lambda busy: busy.batches.answered(busy.number),
    "reserved": lambda busy: busy.batches.reserved(busy.number),
    "outcome": lambda busy: busy.batches.outcome(busy.number),
    "saved": lambda busy: busy.end("saved"),
    "unsaved": lambda busy: busy.end("refused"),
    "lost": lambda busy: busy.end("lost"),
    "remote_files": lambda busy: busy.batches.remote_files(HERE, ["1", "2"], good_ms=NOW_MS),
    "remember": lambda busy: busy.batches.remember(HERE, "1", "file", expires_ms=None, now_ms=NOW_MS),
}
SORTED = {
    "nth": "orders the requests of one batch, of which a person may choose how many there are",
    "jobs": "orders the names of the jobs that have open batches",
    "count_fallen": "tells the tasks that came back apart, where they came back more than once",
}
"""What may sort in a scratch table, and what that is bounded by."""


def test_every_question_is_among_those_whose_plan_is_looked_at(ledger: Ledger) -> None:
    """A new method cannot pass this by."""
    public = {name for name, _ in inspect.getmembers(type(ledger.batches)) if not name.startswith("_")}
    assert public == HOT.keys()


@pytest.mark.parametrize("name", HOT)
@pytest.mark.file_only
def test_no_question_about_batches_reads_or_sorts_a_whole_table(ledger: Ledger, name: str) -> None:
    """Law 8: however many tasks and batches there are, what is asked is found through an index."""
    busy = Busy(ledger)
    asked: list[tuple[str, Any]] = []
    with listening(ledger, asked):
        HOT[name](busy)
    seen = [
        (text, values)
        for text, values in asked
        if text.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE") and "sqlite_master" not in text
    ]
    assert seen
    for text, values in seen:
        steps = plan(path_of(ledger), text, values)
        for step in steps:
            words = step.split()
            if words[0] == "SCAN" and words[1] in (*LARGE, "batches", "remote_files"):
                assert "ix_batches_open" in step, (text, steps)
            if "TEMP B-TREE" in step:
                assert name in SORTED, (text, steps)


# -- older ledgers ----------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A ledger of the schema before there were batches, with a job in which everything has happened."""
    with open_ledger(tmp_path / "new") as ledger:
        job = enrolled(ledger, make_tasks(6))
        run_id = begin_run(ledger, job)
        for todo in ledger.todo(job, -1, 3):
            finish(ledger, job, run_id, todo)
        begin(ledger, job, run_id, ledger.todo(job, -1, 1)[0].task_id)
        new = path_of(ledger)
    path = tmp_path / "old" / "ledger.sqlite3"
    path.parent.mkdir()
    engine = sa.create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(importlib.resources.files("runner.ledger") / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
    engine.dispose()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("ATTACH ? AS new", (str(new),))
        for table in ("jobs", "runs", "prompts", "tasks", "attempts", "assets"):
            names = ", ".join(row[1] for row in database.execute(f"PRAGMA main.table_info({table})"))
            database.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM new.{table}")
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "job"),
        ("status", "job", "--json"),
        ("costs",),
        ("costs", "--by", "day"),
        ("export", "job"),
        ("verify", "job"),
        ("collect",),
        ("cancel", "job"),
    ],
)
@pytest.mark.file_only
def test_commands_look_at_a_ledger_that_knows_no_batches_as_it_is(
    old: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is migrated by looking, and nothing fails for want of a table."""
    before = old.read_bytes()
    code = run_app([*arguments, "--ledger", str(old), "--output", str(old.parent)])
    out, err = capsys.readouterr()
    assert code in ((4,) if arguments[0] == "verify" else (0,)), err
    assert out
    assert "unexpected" not in err
    assert old.read_bytes() == before


@pytest.mark.file_only
def test_an_older_ledger_is_asked_about_batches_and_then_has_some(old: Path) -> None:
    """There are none; the first change brings it up to date, and a batch can be put on record."""
    with Ledger.open(old, create=False) as ledger:
        job = ledger.jobs()[0]
        assert (ledger.batches.open(job), ledger.batches.all(job)) == ([], [])
        assert ledger.batches.jobs() == []
        assert ledger.spending(job, simulated=False) == Spending(3 * COST.microusd, 0, 0)
    with Ledger.open(old, create=True) as ledger:
        shelf = Shelf.__new__(Shelf)
        shelf.ledger, shelf.job, shelf.tokens = ledger, ledger.jobs()[0], 0
        shelf.run_id = begin_run(ledger, shelf.job)
        number, _ = shelf.send(2)
        assert [batch.id for batch in ledger.batches.open(shelf.job)] == [number]
        assert ledger.spending(shelf.job, simulated=False) == Spending(3 * COST.microusd, 0, 2 * RESERVED)
        assert ledger.statuses(shelf.job)[Status.SUBMITTED] == 2
        assert ledger.check(deep=True) == []
