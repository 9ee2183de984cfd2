"""One run's dealings with batches: what a dead run left, what is over, what is to be sent, and the wait for it.

Owns the order of things. Refuses to know how any of it is done: `sending`, `collecting` and `drafting` do.

Before anything new is submitted, every batch that is on record is found again and whatever is over is brought home:
tasks in a batch that nobody can ask for at the moment stay `submitted`, and so are never asked for a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from runner.engine import events
from runner.engine.batch.collecting import Collector
from runner.engine.batch.common import Desk, history, in_thread, told_of
from runner.engine.batch.drafting import Drafter
from runner.engine.batch.inputs import RemoteInputs
from runner.engine.batch.sending import PATIENCE_S, Sender
from runner.errors import Lost, ProviderError, Refused, Retryable, RunnerError, StopRun, TooManyFailures
from runner.ledger import Answer, Batch
from runner.provider import FINAL, BatchProblem
from runner.rules import batching
from runner.tasks import NOT_SENT

VALIDATION_S = 60.0
"""How long a run that does not wait stays to see whether its batches are accepted."""
OUTAGE_S = 60.0
"""How long a run that waits leaves a provider alone that does not answer."""
CANCELLING_S = 900.0
"""How long a batch that is given up is waited for: the provider says up to 10 minutes."""
_LOOK_S = 1.0
_UNKNOWN_S = 600.0
"""A batch of this age that the provider does not know is not waited for; a younger one may not be listed yet."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait for what, in seconds; tests wait less."""

    validation_s: float = VALIDATION_S
    cancelling_s: float = CANCELLING_S
    look_s: float = _LOOK_S
    search_s: Sequence[float] = PATIENCE_S


@dataclass(slots=True)
class _Round:
    """What this run has seen since it last submitted anything."""

    submitted: int = 0
    ended: int = 0
    fruitless: int = 0
    cancelled_by_others: int = 0
    refusals: int = 0


class Courier:
    """The batch engine of one run; `run` returns when nothing is left to do, or to wait for."""

    def __init__(self, desk: Desk, *, pauses: Pauses | None = None) -> None:
        self._desk = desk
        self._pauses = pauses or Pauses()
        self._sender = Sender(desk, patience_s=self._pauses.search_s)
        self._collector = Collector(desk)
        self._drafter = Drafter(desk, RemoteInputs(desk), self._hand_over)
        self._round = _Round()
        self._is_careful = False
        self._told: dict[int, tuple[object, ...]] = {}
        self._warned: set[int] = set()
        self._unknown: set[int] = set()
        self._unread: dict[int, ProviderError] = {}
        self._problems: dict[int, tuple[BatchProblem, ...]] = {}

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
            if self._round.submitted and not self._desk.stopped():
                await self._see_them_accepted()
        await self._warn_of_late()
        for error in self._unread.values():
            self._desk.end(error, "failed")

    async def _begin(self) -> None:
        """What there is to do at once: find again, bring home, and submit."""
        await self._find_again()
        await self._look_at_all()
        await self._give_up_the_overdue()
        if self._desk.terms.submit:
            await self._submit()

    # -- what a dead run left -------------------------------------------------------------------

    async def _find_again(self) -> None:
        """Bring every batch that had not reached the provider for certain to where that is known."""
        desk = self._desk
        found = await self._open()
        unsent = [batch.id for batch in found if batch.state in ("sealed", "uploaded", "creating")]
        await in_thread(desk.store.batches.keep, unsent)
        for batch in found:
            if desk.stopped():
                return
            if self._ended_with_its_simulator(batch):
                await self._lose(batch)
            elif batch.state == "preparing" or (batch.state in ("sealed", "uploaded") and not self._is_here(batch)):
                # It was certainly never created.
                await self._sender.dissolve(batch, Answer(error_code=NOT_SENT, error_message="its run ended before it"))
            elif batch.state != "submitted" and self._is_ours(batch):
                await self._sender.send(batch.id, found=True)

    def _ended_with_its_simulator(self, batch: Batch) -> bool:
        return batch.base_url is None and batch.run_id != self._desk.run_id

    async def _lose(self, batch: Batch) -> None:
        """Its simulator ended with its run: what it may have made is lost, and nothing real was spent."""
        desk = self._desk
        if batch.state in ("submitted", "creating"):
            await self._collector.lose(batch, "its simulator ended with its run", code="simulator_ended")
        else:
            await self._sender.dissolve(batch, Answer(error_code=NOT_SENT, error_message="its simulator has ended"))
        desk.emit(events.Warned(f"batch {batch.id} ended with the simulator that it was submitted to"))

    def _is_here(self, batch: Batch) -> bool:
        """Whether a batch lies where this run asks."""
        return batch.base_url == self._desk.terms.base_url

    def _is_ours(self, batch: Batch) -> bool:
        """The same; and it is said once where it does not."""
        desk = self._desk
        if self._is_here(batch):
            return True
        if batch.id not in self._warned:
            self._warned.add(batch.id)
            desk.emit(
                events.Warned(
                    f"batch {batch.id} was submitted to {batch.provider} at {batch.base_url}, and this run asks "
                    f"{desk.terms.base_url}: its {batch.requests} images wait for a run with that --provider or "
                    "--base-url"
                )
            )
        return False

    # -- what is over ---------------------------------------------------------------------------

    async def _look_at_all(self) -> list[Batch]:
        """Ask how far each batch is, and collect what is over; those that are still under way."""
        desk = self._desk
        under_way = []
        for batch in await self._open():
            if desk.stopped():
                break
            if batch.state == "submitted" and self._is_ours(batch):
                looked_at = await self._look(batch)
                if batch.id in self._unknown and desk.age_s(batch) >= _UNKNOWN_S:
                    continue  # nobody knows when it would be over
                if looked_at.status not in FINAL:
                    under_way.append(looked_at)
                elif not await self._collect_if_readable(looked_at):
                    break
        return under_way

    async def _collect_if_readable(self, batch: Batch) -> bool:
        """Collect a batch; one whose results cannot be read now keeps no other from being collected."""
        self._unread.pop(batch.id, None)
        try:
            return await self._collect(batch)
        except (Retryable, Lost) as error:
            self._unread[batch.id] = error
            if batch.id not in self._warned:
                self._warned.add(batch.id)
                self._desk.emit(
                    events.Warned(
                        f"the results of batch {batch.id} cannot be read now, the next run tries again: {error.message}"
                    )
                )
            return not self._desk.stopped()

    async def _look(self, batch: Batch) -> Batch:
        """What the provider says of a batch now, on record; as it was, where it does not know it."""
        desk = self._desk
        info = await desk.persist(lambda: desk.api.retrieve(batch.batch_id or ""))
        if info is None:
            self._unknown.add(batch.id)
            if batch.id not in self._warned:
                self._warned.add(batch.id)
                desk.emit(
                    events.Warned(
                        f"the provider knows no batch {batch.batch_id}: is this the key of another project? Its "
                        f"{batch.requests} images stay submitted (`runner cancel {desk.job.name} --forget` gives "
                        "them up as in doubt)"
                    )
                )
            return batch
        self._unknown.discard(batch.id)
        self._problems[batch.id] = info.problems
        await in_thread(lambda: desk.ledger.batches.told(batch.id, told_of(info), now_ms=desk.now_ms()))
        looked_at = await in_thread(desk.ledger.batches.one, batch.id)
        told = (looked_at.status, looked_at.completed, looked_at.failed)
        if self._told.get(batch.id) != told:
            self._told[batch.id] = told
            desk.emit(
                events.BatchWaits(
                    batch.id,
                    batch.batch_id or "",
                    looked_at.status or "",
                    batch.requests,
                    looked_at.completed or 0,
                    looked_at.failed or 0,
                    desk.age_s(batch),
                )
            )
        return looked_at

    async def _collect(self, batch: Batch) -> bool:
        desk = self._desk
        done = await self._collector.collect(batch, self._problems.get(batch.id, ()))
        if not done:
            return False
        if batch.status != "failed":
            self._round.ended += 1
        outcome = await in_thread(desk.ledger.batches.outcome, batch.id)
        if batch.status != "failed" and outcome.untried == batch.requests:
            # What was tried ends by itself, after as many attempts as it has.
            self._round.fruitless += 1
        if batch.status == "cancelled" and batch.given_up_ms is None:
            self._round.cancelled_by_others += 1
        if self._collector.stops is not None:
            desk.end(self._collector.stops, "provider")
        return True

    async def _give_up_the_overdue(self) -> None:
        """With `after`: end what takes too long, and bring home what it has made so far."""
        desk = self._desk
        overdue = [batch for batch in await self._open() if self._is_overdue(batch)]
        for batch in overdue:
            await self._cancel(batch)
        until = anyio.current_time() + self._pauses.cancelling_s
        while overdue and not desk.stopped() and anyio.current_time() < until:
            left = {batch.id for batch in await self._look_at_all()}
            overdue = [batch for batch in overdue if batch.id in left]
            if overdue:
                await desk.pause(self._pauses.look_s)
        for batch in overdue:
            desk.emit(events.Warned(f"batch {batch.id} was cancelled, and is not over yet: the next run collects it"))

    def _is_overdue(self, batch: Batch) -> bool:
        desk = self._desk
        return (
            batch.state == "submitted"
            and self._is_ours(batch)
            and batch.status not in FINAL
            and batching.is_overdue(desk.age_s(batch), desk.terms.after_s)
        )

    async def _cancel(self, batch: Batch) -> None:
        desk = self._desk
        if batch.status == "cancelling":
            return
        # Said first: what comes of it is to be made online, and not taken for what a person has ended.
        await in_thread(lambda: desk.ledger.batches.given_up(batch.id, now_ms=desk.now_ms()))
        try:
            info = await desk.persist(lambda: desk.api.cancel(batch.batch_id or ""))
        except Refused:
            return  # over, or being ended: the next look says what came of it
        if info is not None:
            await in_thread(lambda: desk.ledger.batches.told(batch.id, told_of(info), now_ms=desk.now_ms()))

    # -- what is to be sent ---------------------------------------------------------------------

    async def _submit(self) -> None:
        desk = self._desk
        if desk.stopped():
            return
        self._is_careful = batching.was_queue_full(await history(desk))
        self._sender.forget()
        self._collector.forget()
        self._round = _Round(refusals=self._round.refusals)
        self._round.submitted = await self._drafter.fill()
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
                batch = await self._look(batch)
            if batch.status in FINAL and batch.state == "submitted":
                await self._collect_if_readable(batch)
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
            under_way = await self._look_at_all()
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
                if not any(batch.state in ("creating", "submitted") for batch in await self._open()):
                    raise
                # A night is long: what does not answer now may do so in an hour, and the batches go on meanwhile.
                begun = False
                desk.emit(events.Warned(f"the provider does not answer, and is asked again later: {error.message}"))
                await desk.pause(OUTAGE_S * self._pauses.look_s)

    async def _is_over(self) -> bool:
        """Look at every batch, and do what there is to do; whether there is nothing left to wait for."""
        desk = self._desk
        under_way = await self._look_at_all()
        if desk.stopped():
            return True
        for batch in under_way:
            if self._is_overdue(batch):
                await self._cancel(batch)
        if desk.terms.submit and await self._may_submit_again(under_way):
            await self._submit()
            return False
        if under_way:
            age_s = min(desk.age_s(batch) for batch in under_way)
            await desk.pause(batching.poll_delay_s(age_s) * self._pauses.look_s)
        return not under_way

    async def _may_submit_again(self, under_way: Sequence[Batch]) -> bool:
        """Whether anything is planned that another batch can be made of now."""
        desk = self._desk
        seen = self._round
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
            seen.refusals = 0
        elif queue_full is not None:
            seen.refusals += 1
            wait_s = batching.queue_delay_s(seen.refusals)
            desk.emit(events.Held(wait_s, queue_full))
            await desk.pause(wait_s * self._pauses.look_s)
            return not desk.stopped()
        if desk.terms.limit is not None:
            return False
        if self._drafter.short is not None and seen.submitted == 0:
            desk.end(self._drafter.short, "budget")
            return False
        if seen.submitted and seen.ended and seen.fruitless == seen.ended:
            desk.end(
                TooManyFailures(
                    "no image came of the batches that were submitted last",
                    hint="`runner status` says what became of them; run again to go on",
                ),
                "too many failures",
            )
            return False
        return True

    async def _warn_of_late(self) -> None:
        """What lies where this run does not ask is paid for, and will not lie there for ever."""
        desk = self._desk
        for batch in await self._open():
            if batching.is_late(batch.ended_ms or batch.expires_ms, desk.now_ms()):
                desk.emit(
                    events.Warned(
                        f"batch {batch.id} has been over for weeks and is not collected: {batch.provider} deletes its "
                        "results 30 days after its end"
                    )
                )

    async def _open(self) -> list[Batch]:
        return await in_thread(lambda: self._desk.ledger.batches.open(self._desk.job))


def _unanswered(error: Retryable) -> StopRun:
    """The end of a run whose provider does not answer."""
    return StopRun(
        f"the provider does not answer: {error.message}",
        code=error.code,
        http_status=error.http_status,
        request_id=error.request_id,
        hint="what it works on goes on there; run it again, or `runner collect`, when it is back",
    )
