"""The ledger's cap: what all jobs together may spend is never passed, and its sums are always those of the attempts."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.ledger import Answer, Cap, Cost, Hindrance, Job, Ledger, attempts
from runner.tasks import Event
from tests.edges.ledger_support import (
    ANSWER,
    ESTIMATE,
    NOW_MS,
    RESERVED,
    begin_run,
    enrolled,
    make_file,
    make_task,
    open_ledger,
    to_begin,
    write,
)

DAY_MS = 86_400_000
TODAY_MS = NOW_MS - NOW_MS % DAY_MS


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as opened:
        yield opened


def _begin(ledger: Ledger, job: Job, run_id: int, task_id: int, **changes: object) -> int | Hindrance:
    with write(ledger) as connection:
        return attempts.begin(connection, to_begin(job, run_id, task_id, **changes))


def _counted(ledger: Ledger, *, simulated: bool = False, now_ms: int = NOW_MS) -> int:
    (found,) = [one.microusd for one in ledger.caps.committed(now_ms=now_ms) if one.simulated == simulated]
    return found


def _task_ids(ledger: Ledger, job: Job) -> list[int]:
    return [todo.task_id for todo in ledger.todo(job, -1, 100)]


def test_no_request_begins_that_could_pass_the_cap_of_all_jobs(ledger: Ledger) -> None:
    """Two jobs, room for three requests: the fourth is refused, whoever asks, and leaves its task planned."""
    jobs = [enrolled(ledger, [make_task(f"{name} {n}") for n in range(3)], name=name) for name in ("one", "two")]
    runs = [begin_run(ledger, job) for job in jobs]
    ledger.caps.set(Cap("ever", 3 * RESERVED + RESERVED - 1), now_ms=NOW_MS)
    order = [(job, run, task) for job, run in zip(jobs, runs, strict=True) for task in _task_ids(ledger, job)]
    begun = [_begin(ledger, job, run, task) for job, run, task in order]
    assert [isinstance(one, int) for one in begun] == [True, True, True, False, False, False]
    assert begun[3] is Hindrance.CAPPED
    assert len(ledger.todo(jobs[1], -1, 10)) == 3
    assert _counted(ledger) == 3 * RESERVED
    assert ledger.caps.differences() == []


def test_what_settles_below_its_reservation_makes_room(ledger: Ledger) -> None:
    """A request that cost less, or nothing, gives the rest back; one that was lost goes on counting."""
    job = enrolled(ledger, 5)
    run_id = begin_run(ledger, job)
    ids = _task_ids(ledger, job)
    ledger.caps.set(Cap("ever", 2 * RESERVED), now_ms=NOW_MS)
    first, second = _begin(ledger, job, run_id, ids[0]), _begin(ledger, job, run_id, ids[1])
    assert isinstance(first, int)
    assert isinstance(second, int)
    assert _begin(ledger, job, run_id, ids[2]) is Hindrance.CAPPED
    with write(ledger) as connection:
        attempts.received(connection, first, answer=ANSWER, cost=Cost(1000, "usage"), file=make_file())
    assert _counted(ledger) == 1000 + RESERVED
    assert _begin(ledger, job, run_id, ids[2]) is Hindrance.CAPPED
    with write(ledger) as connection:
        attempts.unsaved(connection, second, Event.BACKOFF, task_id=ids[1], answer=Answer(), cost=None, now_ms=NOW_MS)
    assert _counted(ledger) == 1000
    third = _begin(ledger, job, run_id, ids[2])
    assert isinstance(third, int)
    with write(ledger) as connection:
        attempts.lost(connection, third, task_id=ids[2], answer=Answer(), try_again=False, now_ms=NOW_MS)
    assert _counted(ledger) == 1000 + RESERVED
    assert _begin(ledger, job, run_id, ids[3]) is Hindrance.CAPPED
    assert ledger.caps.differences() == []


def test_a_cap_counts_what_its_period_has_cost_before_it_was_set(ledger: Ledger) -> None:
    """Of the same day all of it, under way or over; of the day before nothing."""
    job = enrolled(ledger, 4)
    run_id = begin_run(ledger, job)
    ids = _task_ids(ledger, job)
    for task_id, at_ms in zip(ids[:3], (TODAY_MS - 1, TODAY_MS, NOW_MS), strict=True):
        assert isinstance(_begin(ledger, job, run_id, task_id, now_ms=at_ms), int)
    ledger.caps.set(Cap("day", 10 * RESERVED), now_ms=NOW_MS)
    assert _counted(ledger) == 2 * RESERVED
    ledger.caps.set(Cap("ever", 10 * RESERVED), now_ms=NOW_MS)
    assert _counted(ledger) == 3 * RESERVED
    ledger.caps.set(Cap("day", 2 * RESERVED), now_ms=NOW_MS)
    assert _begin(ledger, job, run_id, ids[3], now_ms=NOW_MS) is Hindrance.CAPPED
    ledger.caps.set(None, now_ms=NOW_MS)
    assert ledger.caps.cap() is None
    assert isinstance(_begin(ledger, job, run_id, ids[3], now_ms=NOW_MS), int)


def test_a_new_day_begins_with_nothing_spent(ledger: Ledger) -> None:
    """What was begun yesterday and ends today counts there; the month goes on."""
    job = enrolled(ledger, 4)
    run_id = begin_run(ledger, job)
    ids = _task_ids(ledger, job)
    ledger.caps.set(Cap("day", RESERVED), now_ms=NOW_MS)
    yesterday = _begin(ledger, job, run_id, ids[0])
    assert isinstance(yesterday, int)
    assert _begin(ledger, job, run_id, ids[1]) is Hindrance.CAPPED
    tomorrow_ms = TODAY_MS + DAY_MS
    assert isinstance(_begin(ledger, job, run_id, ids[1], now_ms=tomorrow_ms), int)
    assert _begin(ledger, job, run_id, ids[2], now_ms=tomorrow_ms + 5) is Hindrance.CAPPED
    with write(ledger) as connection:
        attempts.lost(connection, yesterday, task_id=ids[0], answer=Answer(), try_again=True, now_ms=tomorrow_ms)
    assert _counted(ledger, now_ms=tomorrow_ms) == RESERVED
    assert _counted(ledger) == RESERVED
    assert ledger.caps.differences() == []
    ledger.caps.set(Cap("month", 5 * RESERVED), now_ms=tomorrow_ms)
    assert _counted(ledger, now_ms=tomorrow_ms) == 2 * RESERVED


def test_months_end_where_the_calendar_says(ledger: Ledger) -> None:
    """The last moment of a long month, and the first of the next; December too."""
    ledger.caps.set(Cap("month", RESERVED), now_ms=NOW_MS)
    for year, month in ((2026, 12), (2027, 1), (2028, 2)):
        start = dt.datetime(year, month, 1, tzinfo=dt.UTC)
        end = dt.datetime(year + month // 12, month % 12 + 1, 1, tzinfo=dt.UTC)
        last_ms = int(end.timestamp() * 1000) - 1
        ledger.caps.set(Cap("month", RESERVED), now_ms=last_ms)
        assert {one.start_ms for one in ledger.caps.committed(now_ms=last_ms)} == {int(start.timestamp() * 1000)}
        assert ledger.caps.committed(now_ms=last_ms + 1) == []


def test_simulated_money_is_counted_apart(ledger: Ledger) -> None:
    """A test run with the simulator takes nothing of what real requests may cost, and has the same cap."""
    job = enrolled(ledger, 4)
    run_id = begin_run(ledger, job)
    ids = _task_ids(ledger, job)
    ledger.caps.set(Cap("ever", RESERVED), now_ms=NOW_MS)
    assert isinstance(_begin(ledger, job, run_id, ids[0], simulated=True), int)
    assert _begin(ledger, job, run_id, ids[1], simulated=True) is Hindrance.CAPPED
    assert isinstance(_begin(ledger, job, run_id, ids[1]), int)
    assert (_counted(ledger), _counted(ledger, simulated=True)) == (RESERVED, RESERVED)


@pytest.mark.parametrize("seed", range(5))
def test_the_sums_are_those_of_the_attempts_whatever_becomes_of_them(ledger: Ledger, seed: int) -> None:
    """Requests begun, received, saved, lost and refused in any order: never a micro-dollar off, never above the cap."""
    dice = random.Random(seed)
    job = enrolled(ledger, 30)
    run_id = begin_run(ledger, job)
    cap = 8 * RESERVED
    ledger.caps.set(Cap("ever", cap), now_ms=NOW_MS)
    refused = 0
    for number, task_id in enumerate(_task_ids(ledger, job)):
        begun = _begin(ledger, job, run_id, task_id, reserved_microusd=dice.randrange(RESERVED))
        if isinstance(begun, Hindrance):
            refused += 1
            continue
        cost = dice.choice([Cost(dice.randrange(2000), "usage"), ESTIMATE, None])
        with write(ledger) as connection:
            match dice.choice(["open", "received", "saved", "lost", "backoff"]):
                case "received" if cost is not None:
                    attempts.received(connection, begun, answer=ANSWER, cost=cost, file=make_file())
                case "saved" if cost is not None:
                    file = make_file(f"job/images/{number}.png")
                    attempts.received(connection, begun, answer=ANSWER, cost=cost, file=file)
                    attempts.saved(
                        connection, begun, task_id=task_id, file=file, model="m", simulated=False, now_ms=NOW_MS
                    )
                case "lost":
                    attempts.lost(connection, begun, task_id=task_id, answer=Answer(), try_again=False, now_ms=NOW_MS)
                case "backoff":
                    attempts.unsaved(
                        connection, begun, Event.BACKOFF, task_id=task_id, answer=Answer(), cost=cost, now_ms=NOW_MS
                    )
        assert ledger.caps.differences() == []
        assert _counted(ledger) <= cap + 9_000  # an estimate may be above what was reserved for it here
    assert refused
