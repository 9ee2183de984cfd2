"""Brings a batch home: every line of its results, each image into the store as it passes, and what is missing.

Owns the reading of results, where to go on after an interruption, and what silence means. Refuses to know what a line
means for its task (`settling` does), and when a batch is worth collecting (`watching` does).

The results stay at the provider until they are deleted there, so an image needs no record of its own between the disk
and its name: what a death leaves is read once more. A line counts by what is on record of its request: one that has an
ending already is passed over, in whatever order and however often lines come.
"""

from __future__ import annotations

import itertools
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from runner.engine import events
from runner.engine.batch.common import Desk, attempt_of, in_thread
from runner.engine.batch.sending import not_taken
from runner.engine.batch.settling import Settler, in_our_words
from runner.engine.sink import ImageSink
from runner.errors import (
    Expired,
    Lost,
    ProviderError,
    Refused,
    Retryable,
    RunnerError,
    StopRun,
)
from runner.ledger import Answer, Batch
from runner.provider import BatchProblem, Line
from runner.rules import batching, retry

AT_ONCE = 8
"""Images that are being flushed, named and recorded at a time, while further lines come in."""
NOTED_BYTES = 64 << 20
"""How much of a file is read between two notes of how far it was."""
NAMED_S = 600
"""How long a batch that is over may take to name its results."""
_PAGE = 500
_DAY_S = 86_400


@dataclass(slots=True)
class _Reading:
    """How far a file of results is settled: everything before `settled`, and no line after it that is under way."""

    settled: int
    noted: int
    ends: dict[int, bool] = field(default_factory=dict)

    def came(self, end_bytes: int) -> None:
        """A line has come; what becomes of it is not settled."""
        self.ends[end_bytes] = False

    def done(self, end_bytes: int) -> None:
        """It is settled."""
        self.ends[end_bytes] = True
        # In the order in which they came: it is a file.
        for end, is_settled in tuple(self.ends.items()):
            if not is_settled:
                break
            self.settled = end
            del self.ends[end]


class Collector:
    """Collects the batches of one run."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._settler = Settler(desk)
        self._numbers = itertools.count(1)
        self.queue_full: str | None = None
        """The provider's words, once a batch was not run because too much is enqueued."""

    @property
    def stops(self) -> StopRun | None:
        """What an answer said that concerns every further request."""
        return self._settler.stops

    def forget(self) -> None:
        """What was said of the queue is of the past."""
        self.queue_full = None

    async def collect(self, batch: Batch, problems: tuple[BatchProblem, ...] = ()) -> bool:
        """Bring a batch home that is over; True when every one of its requests has an ending.

        Raises:
            ProviderError: its results cannot be read now.
            StoreError, LedgerError: they cannot be kept; the next run goes on where this one was.
        """
        desk = self._desk
        if batch.status == "failed":
            await self._not_run(batch, problems)
            return True
        is_young = desk.now_ms() - (batch.ended_ms or desk.now_ms()) < NAMED_S * 1000
        if is_young and batch.output_file_id is None and _has_results(batch):
            raise Retryable(f"batch {batch.id} is {batch.status}, and its results are not named yet", code="no_results")
        waiting = set(await in_thread(desk.ledger.batches.open_ids, batch.id))
        is_gone = False
        for which, file_id, read in (
            ("output", batch.output_file_id, batch.output_read),
            ("errors", batch.error_file_id, batch.error_read),
        ):
            if file_id is None:
                continue
            try:
                await self._read(batch, which, file_id, read, waiting)
            except Expired as error:
                if desk.now_ms() - (batch.ended_ms or desk.now_ms()) < batching.KEPT_S * 1000 - _DAY_S * 1000:
                    # Not so old that it can have been deleted: it may be there tomorrow.
                    raise Retryable(error.message, code=error.code) from error
                is_gone = True
            if desk.stop.asked:
                return False
        await self._silent(batch, is_gone=is_gone)
        await in_thread(lambda: desk.ledger.batches.collected(batch.id, now_ms=desk.now_ms()))
        outcome = await in_thread(desk.ledger.batches.outcome, batch.id)
        desk.emit(
            events.BatchCollected(
                batch.id,
                batch.batch_id or "",
                batch.status or "",
                outcome.saved,
                outcome.refused,
                outcome.failed,
                outcome.planned,
                outcome.in_doubt,
                outcome.cost_microusd,
                outcome.in_doubt_microusd,
            )
        )
        return True

    # -- reading --------------------------------------------------------------------------------

    async def _read(self, batch: Batch, which: str, file_id: str, read: int, waiting: set[int]) -> None:
        """Read a file of results to its end, from where it was left; as often as it breaks off and has come further."""
        desk = self._desk
        reading = _Reading(read, read)
        tally = retry.Tally()
        while True:
            before = reading.settled
            try:
                await self._stream(batch, which, file_id, reading, waiting)
            except (Retryable, Lost) as error:
                tally = retry.Tally() if reading.settled > before else tally
                tally = tally.plus(error)
                decision = retry.decide(error, tally, desk.terms.policy, desk.jitter())
                if not isinstance(decision, retry.TryAgain) or desk.stop.asked:
                    raise
                desk.emit(events.Warned(f"the results of batch {batch.id} broke off, and are read on: {error.message}"))
                await desk.pause(decision.delay_s)
            else:
                return
            finally:
                reading.ends.clear()
                await self._noted(batch, which, reading, at_once=True)

    async def _stream(self, batch: Batch, which: str, file_id: str, reading: _Reading, waiting: set[int]) -> None:
        desk = self._desk
        places = anyio.Semaphore(AT_ONCE)
        trouble: list[Exception] = []
        opened: set[ImageSink] = set()

        def open_sink(name: str | None) -> ImageSink | None:
            if name is not None and attempt_of(name) not in waiting:
                return None
            sink = ImageSink(desk.store.line(batch.id, next(self._numbers)))
            opened.add(sink)
            return sink

        async def settle(line: Line, attempt_id: int, sink: ImageSink | None) -> None:
            # What is being flushed and recorded is not given up half done.
            with anyio.CancelScope(shield=True):
                try:
                    await self._settler.settle(batch, line, attempt_id, sink)
                    reading.done(line.end_bytes)
                except Exception as error:  # it ends the reading: nothing may be noted as settled that is not
                    trouble.append(error)
                finally:
                    if sink is not None:
                        sink.partial.discard()
                    places.release()

        async def take(line: Line, group: TaskGroup) -> None:
            sink = line.sink if isinstance(line.sink, ImageSink) else None
            if sink is not None:
                opened.discard(sink)
            attempt_id = attempt_of(line.custom_id)
            reading.came(line.end_bytes)
            if attempt_id is None or attempt_id not in waiting:
                # On record already, or nothing of ours.
                if sink is not None:
                    sink.partial.discard()
                reading.done(line.end_bytes)
                return
            waiting.discard(attempt_id)
            await places.acquire()
            group.start_soon(settle, line, attempt_id, sink)

        try:
            async with anyio.create_task_group() as group:
                try:
                    lines = desk.api.lines(file_id, start_bytes=reading.settled, open_sink=open_sink)
                    async with aclosing(lines) as received:
                        async for line in received:
                            await take(line, group)
                            await self._noted(batch, which, reading)
                            if trouble or desk.stop.asked:
                                break
                except RunnerError as error:
                    # Caught before the group would cancel what is under way.
                    trouble.append(error)
        finally:
            for sink in opened:
                sink.partial.discard()
        if trouble:
            raise trouble[0]

    async def _noted(self, batch: Batch, which: str, reading: _Reading, *, at_once: bool = False) -> None:
        """Put on record how far a file is settled, now and then."""
        if reading.settled - reading.noted < (1 if at_once else NOTED_BYTES):
            return
        read = reading.noted = reading.settled
        with anyio.CancelScope(shield=True):
            await in_thread(lambda: self._desk.ledger.batches.read_so_far(batch.id, **{which: read}))

    # -- what has no line -----------------------------------------------------------------------

    async def lose(self, batch: Batch, message: str, *, code: str) -> None:
        """Nobody can bring a batch home any more: whatever has no ending is in doubt."""
        desk = self._desk
        await self._end_all(batch, Lost(message, code=code))
        await in_thread(
            lambda: desk.ledger.batches.abandoned(batch.id, now_ms=desk.now_ms(), code=code, message=message)
        )

    async def _silent(self, batch: Batch, *, is_gone: bool) -> None:
        """Give an ending to the requests to which no line answers: found by comparing, never assumed."""
        desk = self._desk
        answered = await in_thread(desk.ledger.batches.answered, batch.id)
        means = "in_doubt" if is_gone else batching.silence(batch.completed, answered)
        await self._end_all(batch, _silence(batch, means, is_gone=is_gone))

    async def _end_all(self, batch: Batch, error: ProviderError) -> None:
        desk = self._desk
        left = await in_thread(desk.ledger.batches.open_ids, batch.id)
        for start in range(0, len(left), _PAGE):
            page = left[start : start + _PAGE]
            for member in await in_thread(desk.ledger.batches.members, page):
                await self._settler.fail(member, error)

    async def _not_run(self, batch: Batch, problems: tuple[BatchProblem, ...]) -> None:
        """The batch failed before any of it was run: what a line is to blame for is refused, the rest planned again."""
        desk = self._desk
        for problem in problems:
            if problem.line is None:
                continue
            attempt_id = await in_thread(desk.ledger.batches.nth, batch.id, problem.line)
            member = None if attempt_id is None else await in_thread(desk.ledger.batches.member, attempt_id)
            if member is not None:
                await self._settler.fail(member, Refused(problem.message, code=problem.code, http_status=400))
        worst = next((problem for problem in problems if problem.line is None), None)
        if worst is None and problems:
            worst = problems[0]
        code = worst.code if worst else "batch_failed"
        message = worst.message if worst else "the provider does not say why"

        def give_back() -> tuple[int, int]:
            reserved_microusd = desk.ledger.batches.reserved(batch.id)
            answer = Answer(error_code=code, error_message=message)
            return reserved_microusd, desk.ledger.batches.dissolve(batch.id, answer, now_ms=desk.now_ms())

        reserved_microusd, count = await in_thread(give_back)
        desk.release(batch, reserved_microusd)
        desk.emit(events.BatchNotRun(batch.id, batch.batch_id, code, message, count))
        if code == batching.QUEUE_FULL:
            self.queue_full = message
        elif all(problem.line is None for problem in problems):
            self._settler.concerns_everyone(not_taken(message, code, None))


def _has_results(batch: Batch) -> bool:
    """Whether a batch that is over has brought anything, by the provider's own count; without one, where it says so."""
    if batch.completed is None:
        return batch.status == "completed" and batch.error_file_id is None
    return batch.completed > 0


def _silence(batch: Batch, means: str, *, is_gone: bool) -> ProviderError:
    """The error of a request that no line answers."""
    if is_gone:
        return Lost("the provider has deleted the results of its batch", code="results_deleted")
    if means == "in_doubt":
        return Lost("its batch is over, and has no answer to it", code="no_answer")
    match batch.status:
        case "expired":
            return Expired("its batch expired before its turn", code="batch_expired")
        case "cancelled":
            return in_our_words(batch, Expired("its batch was cancelled before its turn", code="batch_cancelled"))
        case _:
            return Retryable("its batch is over, and has no answer to it: it was not run", code="no_answer")
