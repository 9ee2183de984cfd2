"""Many who begin requests at once: the cap is not passed by a micro-dollar, and no image has two makers."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TypeVar

from runner.ledger import Answer, Begin, Cap, Hindrance, Ledger, attempts
from tests.edges.ledger_support import (
    NOW_MS,
    RESERVED,
    begin_run,
    enrolled,
    make_task,
    open_ledger,
    write,
)

T = TypeVar("T")
HOSTS = 3
IMAGES = 12


def _together(work: Callable[[int], T]) -> list[T]:
    """What `work` comes to for each host, all of them started at the same moment."""
    start = Barrier(HOSTS)

    def one(number: int) -> T:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(HOSTS) as pool:
        return list(pool.map(one, range(HOSTS)))


def _jobs(ledger: Ledger, *, common: bool) -> list[tuple[int, int, list[int]]]:
    """(job, run, tasks) of each host; with `common` they want the same images."""
    made = []
    for number in range(HOSTS):
        tasks = [make_task(f"{'common' if common else number} {n}", name=f"{number}-{n}.png") for n in range(IMAGES)]
        job = enrolled(ledger, tasks, name=f"job-{number}")
        made.append((job, begin_run(ledger, job)))
    return [(job.id, run_id, [todo.task_id for todo in ledger.todo(job, -1, IMAGES)]) for job, run_id in made]


def _begin(ledger: Ledger, job_id: int, run_id: int, task_id: int, reserved: int = RESERVED) -> int | Hindrance:
    what = Begin(task_id, run_id, job_id, "gpt-image-1-mini", False, reserved, "2026-11-22", NOW_MS)
    with write(ledger) as connection:
        return attempts.begin(connection, what)


def test_hosts_that_begin_at_once_never_pass_the_cap(tmp_path: Path) -> None:
    """Each takes what it can get, and gives some of it back; the sum is right to the micro-dollar all along."""
    with open_ledger(tmp_path) as ledger:
        jobs = _jobs(ledger, common=False)
        cap = 10 * RESERVED
        ledger.caps.set(Cap("day", cap), now_ms=NOW_MS)

        def work(number: int) -> int:
            dice = random.Random(number)
            job_id, run_id, tasks = jobs[number]
            begun = 0
            for task_id in tasks:
                found = _begin(ledger, job_id, run_id, task_id, reserved=dice.randrange(1, 2 * RESERVED))
                if isinstance(found, int):
                    begun += 1
                    if dice.random() < 0.5:
                        with write(ledger) as connection:
                            attempts.lost(
                                connection, found, task_id=task_id, answer=Answer(), try_again=False, now_ms=NOW_MS
                            )
                (counted,) = [one.microusd for one in ledger.caps.committed(now_ms=NOW_MS) if not one.simulated]
                assert counted <= cap
            return begun

        assert sum(_together(work)) >= 5
        assert ledger.caps.differences() == []


def test_hosts_that_want_the_same_images_at_once_make_each_once(tmp_path: Path) -> None:
    """In the same order, at the same moment: for each image exactly one begins."""
    with open_ledger(tmp_path) as ledger:
        jobs = _jobs(ledger, common=True)

        def work(number: int) -> list[int | Hindrance]:
            job_id, run_id, tasks = jobs[number]
            return [_begin(ledger, job_id, run_id, task_id) for task_id in tasks]

        found = _together(work)
        for answers in zip(*found, strict=True):
            assert sum(isinstance(answer, int) for answer in answers) <= 1
            assert all(isinstance(answer, int) or answer is Hindrance.ELSEWHERE for answer in answers)
        again = [_begin(ledger, *jobs[0][:2], task_id) for task_id in jobs[0][2] if _is_planned(ledger, task_id)]
        begun = sum(isinstance(answer, int) for answers in found for answer in answers)
        assert begun + sum(isinstance(answer, int) for answer in again) == IMAGES


def _is_planned(ledger: Ledger, task_id: int) -> bool:
    return any(todo.task_id == task_id for job in ledger.jobs() for todo in ledger.todo(job, -1, IMAGES))
