"""One run's dealings with batches: what a dead run left, what is over, what is to be sent, and the wait for it.

Owns the order of things. Refuses to know how any of it is done: `watching`, `drafting`, `sending` and `collecting` do.

Before anything new is submitted, every batch that is on record is found again and whatever is over is brought home:
tasks in a batch that nobody can ask for at the moment stay `submitted`, and so are never asked for a second time.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from runner.engine import events
from runner.engine.batch.collecting import Collector
from runner.engine.batch.common import Desk, history, in_thread
from runner.engine.batch.drafting import Drafter
from runner.engine.batch.inputs import RemoteInputs
from runner.engine.batch.sending import Sender
from runner.engine.batch.watching import Pauses, Seen, Watcher
from runner.errors import ProviderError, Retryable, RunnerError, StopRun, TooManyFailures
from runner.ledger import Batch
from runner.provider import FINAL
from runner.rules import batching

REREADS = 10
"""How often it comes back to results that cannot be read."""


class Courier:
    """The batch engine of one run; `run` returns when nothing is left to do, or to wait for."""

    def __init__(self, desk: Desk, *, pauses: Pauses | None = None) -> None:
        self._desk = desk
        self._pauses = pauses or Pauses()
        self._sender = Sender(desk, patience_s=self._pauses.search_s)
        self._collector = Collector(desk)
        self._drafter = Drafter(desk, RemoteInputs(desk), self._hand_over)
        self._watcher = Watcher(desk, self._sender, self._collector, self._pauses)
        self._submitted = 0
        self._refusals = 0
        self._rereads = 0
        self._is_careful = False

    @property
    def begun(self) -> int:
        """How many tasks this run has put into batches."""
        return self._drafter.begun

    async def run(self) -> None:
        """Find, collect, submit, and wait if asked. Afterwards `Desk.error` says what stopped it, if anything did."""
        desk = self._desk
        desk.listen()
        async with anyio.create_task_group() as writing:
            writing.start_soon(desk.writer.run)
            try:
                with anyio.CancelScope() as scope:
                    desk.given_up_with(scope)
                    await self._run()
            except Retryable as error:
                desk.end(_unanswered(error), "provider")
            except RunnerError as error:
                desk.end(error, "failed")
            finally:
                with anyio.CancelScope(shield=True):
                    await desk.writer.close()

    async def _run(self) -> None:
        if self._desk.terms.wait:
            await self._wait()
        else:
            await self._begin()
            if self._submitted and not self._desk.stopped():
                await self._see_them_accepted()
        await self._watcher.warn_of_late()
        for error in self._watcher.unread.values():
            self._desk.end(_unanswered(error), "provider")

    async def _begin(self) -> None:
        """What there is to do at once: find again, bring home, and submit."""
        await self._watcher.find_again()
        await self._watcher.look_at_all()
        await self._watcher.give_up_the_overdue()
        if self._desk.terms.submit:
            await self._submit()

    # -- what is to be sent ---------------------------------------------------------------------

    async def _submit(self) -> None:
        desk = self._desk
        if desk.stopped():
            return
        self._is_careful = batching.was_queue_full(await history(desk))
        self._sender.forget()
        self._collector.forget()
        self._watcher.seen = Seen()
        self._submitted = await self._drafter.fill()
        if self._drafter.elsewhere:
            desk.emit(
                events.Warned(
                    f"{self._drafter.elsewhere} images are being made by another job, or were since this run began: "
                    "run it again to take them over"
                )
            )
        if not desk.terms.wait:
            if self._drafter.short is not None:
                desk.end(self._drafter.short, "budget")
            self._end_if_queue_is_full()

    async def _hand_over(self, number: int) -> bool:
        """Send a batch; whether another may be sent. Once the queue was full, only after this one is accepted."""
        if not await self._sender.send(number):
            return False
        return not self._is_careful or await self._is_accepted(number)

    async def _is_accepted(self, number: int) -> bool:
        desk = self._desk
        until = anyio.current_time() + self._pauses.validation_s
        while not desk.stopped() and anyio.current_time() < until:
            batch = await in_thread(desk.ledger.batches.one, number)
            if batch.state == "submitted":
                batch = await self._watcher.look(batch)
            if batch.status in FINAL and batch.state == "submitted":
                await self._watcher.collect_if_readable(batch)
            if batch.status != "validating":
                break
            await desk.pause(self._pauses.look_s)
        return self._collector.queue_full is None and not desk.stopped()

    def _end_if_queue_is_full(self) -> None:
        """A run that does not wait cannot submit what is left: whoever reads the exit code is to know."""
        words = self._sender.queue_full or self._collector.queue_full
        if words is not None:
            self._desk.end(
                StopRun(
                    f"the provider's queue is full, and what is left stays planned: {words}",
                    code=batching.QUEUE_FULL,
                    hint="run it again when a batch is over, or with --wait",
                ),
                "queue",
            )

    async def _see_them_accepted(self) -> None:
        """Stay a moment: a batch that fails its validation mostly does so at once, and then it can be said."""
        desk = self._desk
        until = anyio.current_time() + self._pauses.validation_s
        while not desk.stopped() and anyio.current_time() < until:
            under_way = await self._watcher.look_at_all()
            if not any(batch.status == "validating" for batch in under_way):
                break
            await desk.pause(self._pauses.look_s)
        self._end_if_queue_is_full()

    # -- the wait -------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Stay until every batch is over, and submit again what came back planned."""
        desk = self._desk
        begun = False
        while not desk.stopped():
            try:
                if not begun:
                    await self._begin()
                    begun = True
                if await self._is_over():
                    return
            except Retryable as error:
                if not any(batch.state in ("creating", "submitted") for batch in await self._watcher.on_record()):
                    raise
                # A night is long: what does not answer now may do so in an hour, and the batches go on meanwhile.
                begun = False
                desk.emit(events.Warned(f"the provider does not answer, and is asked again later: {error.message}"))
                await desk.pause(self._pauses.outage_s)

    async def _is_over(self) -> bool:
        """Look at every batch, and do what there is to do; whether there is nothing left to wait for."""
        desk = self._desk
        under_way = await self._watcher.look_at_all()
        if desk.stopped():
            return True
        for batch in under_way:
            if self._watcher.is_overdue(batch):
                await self._watcher.give_up(batch)
        if desk.terms.submit and await self._may_submit_again(under_way):
            await self._submit()
            return False
        if under_way:
            age_s = min(desk.age_s(batch) for batch in under_way)
            await desk.pause(batching.poll_delay_s(age_s) * self._pauses.look_s)
            return False
        if self._watcher.unread and self._rereads < REREADS:
            self._rereads += 1
            await desk.pause(self._pauses.outage_s)
            return False
        return True

    async def _may_submit_again(self, under_way: Sequence[Batch]) -> bool:
        """Whether anything is planned that another batch can be made of now."""
        desk = self._desk
        seen = self._watcher.seen
        queue_full = self._sender.queue_full or self._collector.queue_full
        if seen.cancelled_by_others:
            return False  # a person has ended it
        fallen = False if desk.terms.fall_back else None
        if not await in_thread(lambda: desk.ledger.batches.todo(desk.job, -1, 1, fallen=fallen)):
            return False
        if under_way:
            # Room in the queue, and money, come free when one of them ends.
            return seen.ended > 0 and (queue_full is not None or self._drafter.short is not None)
        if seen.ended:
            self._refusals = 0
        elif queue_full is not None:
            self._refusals += 1
            wait_s = batching.queue_delay_s(self._refusals)
            desk.emit(events.Held(wait_s, queue_full))
            await desk.pause(wait_s * self._pauses.look_s)
            return not desk.stopped()
        if desk.terms.limit is not None or (self._drafter.elsewhere and self._submitted == 0):
            return False
        if self._drafter.short is not None and self._submitted == 0:
            desk.end(self._drafter.short, "budget")
            return False
        if self._submitted and seen.ended and seen.fruitless == seen.ended:
            desk.end(
                TooManyFailures(
                    "the provider has worked on nothing of the batches that were submitted last",
                    hint="`runner status` says what became of them; run again to go on",
                ),
                "too many failures",
            )
            return False
        return True


def _unanswered(error: ProviderError) -> StopRun:
    """The end of a run whose provider does not answer."""
    return StopRun(
        f"the provider does not answer: {error.message}",
        code=error.code,
        http_status=error.http_status,
        request_id=error.request_id,
        hint="what it works on goes on there; run it again, or `runner collect`, when it is back",
    )
