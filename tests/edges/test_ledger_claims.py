"""Whose turn it is: an image is made by one run, a job is worked on by its newest run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.ledger import Hindrance, Job, Ledger, attempts
from runner.tasks import Event, Status
from tests.edges.ledger_support import (
    ANSWER,
    COST,
    NOW_MS,
    begin_run,
    enrolled,
    make_file,
    make_task,
    open_ledger,
    to_begin,
    write,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as opened:
        yield opened


class _Two:
    """Two jobs that want the same image, each with a run."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.jobs = [enrolled(ledger, [make_task(name=f"{name}.png")], name=name) for name in ("one", "two")]
        self.runs = [begin_run(ledger, job) for job in self.jobs]
        self.tasks = [ledger.todo(job, -1, 1)[0].task_id for job in self.jobs]
        self.live = {"one", "two"}

    def begin(self, number: int, *, alone: bool = False, run_id: int | None = None) -> int | Hindrance:
        with write(self.ledger) as connection:
            return attempts.begin(
                connection,
                to_begin(self.jobs[number], run_id or self.runs[number], self.tasks[number]),
                alone=alone,
                is_live=self.live.__contains__,
            )

    def status(self, number: int) -> Status:
        (found,) = [status for status, count in self.ledger.statuses(self.jobs[number]).items() if count]
        return found


def _save(two: _Two, number: int, attempt_id: int) -> None:
    file = make_file(f"{two.jobs[number].name}/images/a.png")
    with write(two.ledger) as connection:
        attempts.received(connection, attempt_id, answer=ANSWER, cost=COST, file=file)
        attempts.saved(
            connection,
            attempt_id,
            task_id=two.tasks[number],
            file=file,
            model="gpt-image-1-mini",
            simulated=False,
            now_ms=NOW_MS,
        )


def test_an_image_that_another_jobs_run_is_making_is_not_asked_for(ledger: Ledger) -> None:
    """Its task stays planned; once the other has failed it is free."""
    two = _Two(ledger)
    first = two.begin(0)
    assert isinstance(first, int)
    assert two.begin(1) is Hindrance.ELSEWHERE
    assert two.begin(1, alone=True) is Hindrance.ELSEWHERE
    assert two.status(1) is Status.PLANNED
    with write(ledger) as connection:
        attempts.unsaved(
            connection, first, Event.BACKOFF, task_id=two.tasks[0], answer=ANSWER, cost=None, now_ms=NOW_MS
        )
    assert isinstance(two.begin(1), int)


def test_an_image_that_a_dead_run_was_making_is_free(ledger: Ledger) -> None:
    """Nobody waits for a process that is gone; its request is in doubt as it always was."""
    two = _Two(ledger)
    assert isinstance(two.begin(0), int)
    two.live = {"two"}
    assert isinstance(two.begin(1), int)


def test_an_image_that_another_job_has_made_meanwhile_is_not_asked_for(ledger: Ledger) -> None:
    """It is to be taken over; only where its file is not to be had it is made again."""
    two = _Two(ledger)
    first = two.begin(0)
    assert isinstance(first, int)
    _save(two, 0, first)
    assert two.begin(1) is Hindrance.ELSEWHERE
    assert ledger.reusable_for(two.jobs[1], two.tasks[1])[0].file.path == "one/images/a.png"
    assert isinstance(two.begin(1, alone=True), int)


def test_how_others_stand_with_an_image_can_be_asked(ledger: Ledger) -> None:
    """RUNNING only while a run holds that job: nobody holds any here. DONE for good."""
    two = _Two(ledger)
    assert ledger.elsewhere(two.tasks[1]) is None
    first = two.begin(0)
    assert isinstance(first, int)
    assert ledger.elsewhere(two.tasks[1]) is None
    with ledger.lock("one", now=dt.datetime.now(dt.UTC)):
        assert ledger.elsewhere(two.tasks[1]) is Status.RUNNING
        assert ledger.elsewhere(two.tasks[0]) is None
    _save(two, 0, first)
    assert ledger.elsewhere(two.tasks[1]) is Status.DONE


def test_a_run_that_another_has_followed_begins_nothing(ledger: Ledger) -> None:
    """Whoever lost the job's lock, by a cut connection, and does not know it yet, cannot pay for anything."""
    job = enrolled(ledger, 2)
    first = begin_run(ledger, job)
    ids = [todo.task_id for todo in ledger.todo(job, -1, 2)]

    def begin(run_id: int, task_id: int) -> int | Hindrance:
        with write(ledger) as connection:
            return attempts.begin(connection, to_begin(job, run_id, task_id))

    assert isinstance(begin(first, ids[0]), int)
    second = begin_run(ledger, job)
    assert begin(first, ids[1]) is Hindrance.SUPERSEDED
    assert isinstance(begin(second, ids[1]), int)


def test_others_are_under_way_until_their_newest_run_says_that_it_is_over(ledger: Ledger) -> None:
    """A run that has ended, or one of the same job, is no other."""
    jobs: list[Job] = [enrolled(ledger, 1, name=name, digest=name) for name in ("one", "two")]
    assert not ledger.others_under_way(jobs[0])
    run_id = begin_run(ledger, jobs[1])
    assert ledger.others_under_way(jobs[0])
    assert not ledger.others_under_way(jobs[1])
    ledger.end_run(run_id, exit_code=0, reason=None, now_ms=NOW_MS)
    assert not ledger.others_under_way(jobs[0])
