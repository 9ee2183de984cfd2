"""What a run does where a request may not be begun: another has its job, another makes its image, the cap is reached.

Owns the words for it, and the taking over of an image that another job has made since this run began. Refuses to judge:
the ledger says what stands in the way (`ledger.claims`, `ledger.caps`).
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path

from runner.engine import recovery
from runner.engine.events import Listener
from runner.errors import BudgetExceeded, LedgerError
from runner.ledger import Job, Ledger, Todo
from runner.rules.pricing import usd
from runner.store import Store
from runner.tasks import Status

LOOK_S = 5.0
"""How long it is taken for true that no other job has a run under way."""
AGAIN_S = 1.0
"""When an image is looked at again that another job is making."""


def superseded(job: str) -> LedgerError:
    """The end of a run that has lost its job."""
    return LedgerError(
        f"another run has taken over the job {job!r}: the connection that held it here was lost",
        hint="nothing is lost: what was under way here is on record, and the other run goes on",
    )


def capped(ledger: Ledger, now: dt.datetime) -> BudgetExceeded:
    """The end of a run that the ledger's cap leaves nothing for."""
    cap = ledger.caps.cap()
    committed = ledger.caps.committed(now_ms=int(now.timestamp() * 1000))
    of = f"{usd(max((one.microusd for one in committed), default=0))} of {usd(cap.microusd)}" if cap else "the cap"
    per = f" per {cap.per}" if cap is not None and cap.per != "ever" else ""
    return BudgetExceeded(
        f"{of}{per} are spent, reserved or in doubt by all jobs of the ledger {ledger.place} together",
        hint="raise it with `runner ledger cap` and run again: it goes on where it stopped",
    )


class Standing(Enum):
    """How other jobs stand with an image."""

    NOBODY = auto()
    """None of them has it, or makes it just now."""
    UNDER_WAY = auto()
    """One of them is making it."""
    TAKEN = auto()
    """One of them had made it, and it was taken over: the task is done."""
    USELESS = auto()
    """One of them has made it, and its file is not to be had."""


class Elsewhere:
    """Images that other jobs have made, or are making, while this run goes on.

    `folder` is where the files of jobs lie that are in no bucket.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        job: Job,
        emit: Listener,
        *,
        now_ms: Callable[[], int],
        folder: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._job = job
        self._emit = emit
        self._now_ms = now_ms
        self._folder = folder
        self._monotonic = monotonic
        self._looked_at = -LOOK_S
        self.others = False
        """What `find_others` has found last."""

    def is_due(self) -> bool:
        """Whether it is time to `find_others` again."""
        return self._monotonic() >= self._looked_at + LOOK_S

    def find_others(self) -> bool:
        """Whether any other job has a run under way, so that it is worth looking at each task. Blocking."""
        self._looked_at = self._monotonic()
        self.others = self._ledger.others_under_way(self._job)
        return self.others

    def look(self, todo: Todo) -> Standing:
        """How other jobs stand with the image of this task, which is taken over if it is there. Blocking."""
        found = self._ledger.elsewhere(todo.task_id)
        if found is None:
            return Standing.NOBODY
        if found is Status.RUNNING:
            return Standing.UNDER_WAY
        taken = recovery.reuse_one(
            self._ledger, self._store, todo.task_id, self._job, self._emit, now_ms=self._now_ms(), folder=self._folder
        )
        return Standing.TAKEN if taken else Standing.USELESS
