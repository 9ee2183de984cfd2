"""Batches as the rest of the house sees them: every method one transaction, as those of `Ledger`.

Owns nothing but the way to what `batching` does. A ledger of an older version has no batches, and is looked at as it
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import sqlalchemy as sa

from runner.ledger import batching, remote
from runner.ledger.database import Database, once_more
from runner.ledger.types import Answer, Batch, Cost, File, Hindrance, Job, Member, NewBatch, Outcome, Todo, Told
from runner.ledger.writer import Change
from runner.planner import CHUNK, chunks
from runner.tasks import Event


class _EndSome(Protocol):
    """Gives some of the open requests of a batch an ending; how many there were."""

    def __call__(self, connection: sa.Connection, number: int, limit: int, answer: Answer, *, now_ms: int) -> int: ...


class Batches:
    """What is on record of batches. `known` False: this ledger is of an older version, and is only looked at."""

    def __init__(self, database: Database, *, known: bool) -> None:
        self._database = database
        self._known = known

    # -- the life of a batch --------------------------------------------------------------------

    @once_more
    def prepare(self, new: NewBatch, *, now_ms: int) -> int:
        """Begin a batch that has nothing in it yet; its number."""
        with self._database.write() as connection:
            return batching.prepare(connection, new, now_ms=now_ms)

    @once_more
    def add(
        self, number: int, new: NewBatch, tasks: Sequence[tuple[int, int]], *, now_ms: int
    ) -> list[int | Hindrance]:
        """Put an attempt on record (law 1) for each of these (task, micro-dollars reserved): its id, or why not."""
        with self._database.write() as connection:
            return batching.add(connection, number, new, tasks, now_ms=now_ms, is_live=self._database.is_held)

    def sealed(self, number: int, *, requests: int, size_bytes: int) -> None:
        """Its file is whole and durable: from here on it is going to be sent."""
        self._go_on(number, ["preparing"], "sealed", requests=requests, bytes=size_bytes)

    def uploaded(self, number: int, file_id: str) -> None:
        """Its file lies at the provider."""
        self._go_on(number, ["sealed", "creating"], "uploaded", input_file_id=file_id)

    def creating(self, number: int) -> None:
        """It is about to be created: from here on it may exist."""
        self._go_on(number, ["uploaded"], "creating")

    def not_created(self, number: int) -> None:
        """It was certainly not created, and its file cannot be used any more: to be uploaded again."""
        self._go_on(number, ["uploaded", "creating"], "sealed", input_file_id=None)

    @once_more
    def submitted(self, number: int, batch_id: str, told: Told, *, submitted_ms: int, now_ms: int) -> None:
        """The provider has it."""
        with self._database.write() as connection:
            batching.go_on(connection, number, ["creating"], "submitted", batch_id=batch_id, submitted_ms=submitted_ms)
            batching.told(connection, number, told, now_ms=now_ms)

    @once_more
    def told(self, number: int, told: Told, *, now_ms: int) -> None:
        """What the provider says of it now."""
        with self._database.write() as connection:
            batching.told(connection, number, told, now_ms=now_ms)

    @once_more
    def cancelling(self, number: int, *, now_ms: int) -> None:
        """A person has asked the provider to end it."""
        with self._database.write() as connection:
            batching.note(connection, number, cancel_ms=now_ms)

    @once_more
    def given_up(self, number: int, *, now_ms: int) -> None:
        """A run has asked the provider to end it, because it takes too long."""
        with self._database.write() as connection:
            batching.note(connection, number, given_up_ms=now_ms)

    @once_more
    def read_so_far(self, number: int, *, output: int | None = None, errors: int | None = None) -> None:
        """So many bytes of a file of results need not be read again."""
        read = {name: value for name, value in (("output_read", output), ("error_read", errors)) if value is not None}
        with self._database.write() as connection:
            batching.note(connection, number, **read)

    def collected(self, number: int, *, now_ms: int) -> None:
        """Every one of its requests has an ending."""
        self._go_on(number, ["submitted"], "collected", collected_ms=now_ms)

    def abandoned(self, number: int, *, now_ms: int, code: str | None, message: str | None) -> None:
        """Nobody will bring it home: every one of its requests has an ending all the same."""
        self._go_on(
            number,
            ["creating", "submitted"],
            "collected",
            collected_ms=now_ms,
            error_code=code,
            error_message=message,
        )

    def dissolve(self, number: int, answer: Answer, *, now_ms: int) -> int:
        """Nothing of it was run: its requests are planned again; how many there were.

        In transactions of a fraction of a second each; what is cut off is taken up by the next call.
        """
        count = self._all_of(batching.give_back, number, answer, now_ms)
        self._go_on(
            number,
            ["preparing", "sealed", "uploaded", "creating", "submitted"],
            "dissolved",
            collected_ms=now_ms,
            error_code=answer.error_code,
            error_message=answer.error_message,
        )
        return count

    def lose(self, number: int, answer: Answer, *, now_ms: int) -> int:
        """Nobody can bring it home any more: whatever of it has no ending is in doubt; how much that is."""
        count = self._all_of(batching.lose_some, number, answer, now_ms)
        self.abandoned(number, now_ms=now_ms, code=answer.error_code, message=answer.error_message)
        return count

    # -- reads ----------------------------------------------------------------------------------

    @once_more
    def todo(self, job: Job, after_position: int, limit: int, *, fallen: bool | None = None) -> list[Todo]:
        """The next planned tasks: of those that came back from a batch without their image, only (`fallen`), none
        (False), or also (None)."""
        with self._database.read() as connection:
            return batching.todo(connection, job, after_position, limit, fallen=fallen)

    @once_more
    def count_fallen(self, job: Job) -> int:
        """How many planned tasks came back from a batch without their image."""
        with self._database.read() as connection:
            return batching.count_fallen(connection, job)

    def open(self, job: Job) -> list[Batch]:
        """The batches of a job that are not over here, oldest first."""
        return self._list(job, only_open=True)

    def all(self, job: Job, *, limit: int = 1000) -> list[Batch]:
        """The newest batches of a job, oldest first."""
        return self._list(job, only_open=False, limit=limit)

    @once_more
    def one(self, number: int) -> Batch:
        """One batch."""
        with self._database.read() as connection:
            return batching.batch(connection, number)

    @once_more
    def jobs(self) -> list[str]:
        """The names of the jobs with batches that are not over here."""
        if not self._known:
            return []
        with self._database.read() as connection:
            return batching.open_jobs(connection)

    @once_more
    def open_ids(self, number: int) -> list[int]:
        """The attempts of a batch whose answer is not known yet: at most as many as a batch may have requests."""
        with self._database.read() as connection:
            return batching.open_ids(connection, number)

    @once_more
    def nth(self, number: int, line: int) -> int | None:
        """The attempt that stands in this line (from 1) of a batch's file."""
        with self._database.read() as connection:
            return batching.nth(connection, number, line)

    def member(self, attempt_id: int) -> Member | None:
        """One request of a batch; None if its answer is known already."""
        return next(iter(self.members([attempt_id])), None)

    @once_more
    def members(self, attempt_ids: Sequence[int]) -> list[Member]:
        """These requests (at most CHUNK), as far as their answer is not known yet."""
        with self._database.read() as connection:
            return batching.members(connection, attempt_ids)

    @once_more
    def tally(self, task_id: int) -> tuple[int, int]:
        """How often a task came back from a batch with an error: without a bill, and with one or a doubt."""
        with self._database.read() as connection:
            return batching.tally(connection, task_id)

    @once_more
    def answered(self, number: int) -> int:
        """How many requests of a batch were answered with a success, whether an image came of it or not."""
        with self._database.read() as connection:
            return batching.answered(connection, number)

    @once_more
    def reserved(self, number: int) -> int:
        """What the requests of a batch reserve whose answer is not known yet, in micro-dollars."""
        with self._database.read() as connection:
            return batching.reserved(connection, number)

    @once_more
    def outcome(self, number: int) -> Outcome:
        """What has become of a batch's requests so far."""
        with self._database.read() as connection:
            return batching.outcome(connection, number)

    # -- how requests end: changes for the run's `Writer` ---------------------------------------

    def saved(self, member: Member, *, answer: Answer, cost: Cost, file: File, run_id: int, now_ms: int) -> Change:
        """`batching.saved`: the image of a line has its own name, and its task is done."""
        return lambda connection: batching.saved(
            connection, member, answer=answer, cost=cost, file=file, run_id=run_id, now_ms=now_ms
        )

    def unsaved(
        self, member: Member, event: Event, *, answer: Answer, cost: Cost | None, run_id: int, now_ms: int
    ) -> Change:
        """`batching.unsaved`: no image, and no doubt about the bill."""
        return lambda connection: batching.unsaved(
            connection, member, event, answer=answer, cost=cost, run_id=run_id, now_ms=now_ms
        )

    def lost(self, member: Member, *, answer: Answer, try_again: bool, run_id: int, now_ms: int) -> Change:
        """`batching.lost`: no image, and possibly a bill."""
        return lambda connection: batching.lost(
            connection, member, answer=answer, try_again=try_again, run_id=run_id, now_ms=now_ms
        )

    # -- inputs that lie at a provider ----------------------------------------------------------

    def remote_files(self, base_url: str, identities: Sequence[str], *, good_ms: int) -> dict[str, str]:
        """The ids of those of these inputs that lie at a provider until `good_ms` at least."""
        found: dict[str, str] = {}
        for page in chunks(identities, CHUNK):
            with self._database.read() as connection:
                found |= remote.remote_files(connection, base_url, page, good_ms)
        return found

    @once_more
    def remember(self, base_url: str, identity: str, file_id: str, *, expires_ms: int | None, now_ms: int) -> None:
        """An input lies at a provider now."""
        with self._database.write() as connection:
            remote.remember(connection, base_url, identity, file_id, expires_ms=expires_ms, now_ms=now_ms)

    def _all_of(self, end_some: _EndSome, number: int, answer: Answer, now_ms: int) -> int:
        """Give all open requests of a batch an ending, a transaction for each page of them; how many there were."""
        count = 0
        while True:
            with self._database.write() as connection:
                done = end_some(connection, number, CHUNK, answer, now_ms=now_ms)
            if not done:
                return count
            count += done

    @once_more
    def _list(self, job: Job, *, only_open: bool, limit: int | None = None) -> list[Batch]:
        if not self._known:
            return []
        with self._database.read() as connection:
            return batching.batches(connection, job.id, only_open=only_open, limit=limit)

    @once_more
    def _go_on(self, number: int, from_states: Sequence[str], state: str, **values: object) -> None:
        with self._database.write() as connection:
            batching.go_on(connection, number, from_states, state, **values)
