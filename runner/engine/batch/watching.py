"""An eye on the batches that are on record: what a dead run left, how far each is, and what is over and comes home.

Owns what is believed of a batch between two looks, and what is said of one that cannot be asked for. Refuses to submit
anything new: `courier` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from runner.engine import events
from runner.engine.batch.collecting import Collector
from runner.engine.batch.common import Desk, in_thread, told_of
from runner.engine.batch.sending import PATIENCE_S, Sender
from runner.errors import Lost, ProviderError, Refused, Retryable
from runner.ledger import Answer, Batch
from runner.provider import FINAL, BatchProblem
from runner.rules import batching
from runner.tasks import NOT_SENT

VALIDATION_S = 60.0
"""How long a run that does not wait stays to see whether its batches are accepted."""
CANCELLING_S = 900.0
"""How long a batch that is given up is waited for: the provider says up to 10 minutes."""
OUTAGE_S = 60.0
"""How long a run that waits leaves a provider alone that does not answer."""
_LOOK_S = 1.0
_UNKNOWN_S = 600.0
"""A batch of this age that the provider does not know is not waited for; a younger one may not be listed yet."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait for what, in seconds; tests wait less."""

    validation_s: float = VALIDATION_S
    cancelling_s: float = CANCELLING_S
    outage_s: float = OUTAGE_S
    look_s: float = _LOOK_S
    search_s: Sequence[float] = PATIENCE_S


@dataclass(slots=True)
class Seen:
    """What came of batches since anything was last submitted: `fruitless` are those on which nobody has worked."""

    ended: int = 0
    fruitless: int = 0
    cancelled_by_others: int = 0


class Watcher:
    """Watches the batches of one run's job."""

    def __init__(self, desk: Desk, sender: Sender, collector: Collector, pauses: Pauses) -> None:
        self._desk = desk
        self._sender = sender
        self._collector = collector
        self._pauses = pauses
        self.seen = Seen()
        self.unread: dict[int, ProviderError] = {}
        """Batches that are over, and whose results could not be read, with the reason."""
        self._told: dict[int, tuple[object, ...]] = {}
        self._warned: set[int] = set()
        self._unknown: set[int] = set()
        self._problems: dict[int, tuple[BatchProblem, ...]] = {}

    # -- what a dead run left -------------------------------------------------------------------

    async def find_again(self) -> None:
        """Bring every batch that had not reached the provider for certain to where that is known."""
        desk = self._desk
        found = await self.on_record()
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

    async def look_at_all(self) -> list[Batch]:
        """Ask how far each batch is, and collect what is over; those that are still under way."""
        desk = self._desk
        under_way = []
        for batch in await self.on_record():
            if desk.stopped():
                break
            if batch.state == "submitted" and self._is_ours(batch):
                looked_at = await self.look(batch)
                if batch.id in self._unknown and desk.age_s(batch) >= _UNKNOWN_S:
                    continue  # nobody knows when it would be over
                if looked_at.status not in FINAL:
                    under_way.append(looked_at)
                elif not await self.collect_if_readable(looked_at):
                    break
        return under_way

    async def collect_if_readable(self, batch: Batch) -> bool:
        """Collect a batch; one whose results cannot be read now keeps no other from being collected."""
        self.unread.pop(batch.id, None)
        try:
            return await self._collect(batch)
        except (Retryable, Lost) as error:
            self.unread[batch.id] = error
            if batch.id not in self._warned:
                self._warned.add(batch.id)
                self._desk.emit(
                    events.Warned(
                        f"the results of batch {batch.id} cannot be read now, the next run tries again: {error.message}"
                    )
                )
            return not self._desk.stopped()

    async def look(self, batch: Batch) -> Batch:
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
            self.seen.ended += 1
        outcome = await in_thread(desk.ledger.batches.outcome, batch.id)
        if batch.status != "failed" and outcome.untried == batch.requests:
            # What was tried ends by itself, after as many attempts as it has.
            self.seen.fruitless += 1
        if batch.status == "cancelled" and batch.given_up_ms is None:
            self.seen.cancelled_by_others += 1
        if self._collector.stops is not None:
            desk.end(self._collector.stops, "provider")
        return True

    async def give_up_the_overdue(self) -> None:
        """With `after`: end what takes too long, and bring home what it has made so far."""
        desk = self._desk
        overdue = [batch for batch in await self.on_record() if self.is_overdue(batch)]
        for batch in overdue:
            await self.give_up(batch)
        until = anyio.current_time() + self._pauses.cancelling_s
        while overdue and not desk.stopped() and anyio.current_time() < until:
            left = {batch.id for batch in await self.look_at_all()}
            overdue = [batch for batch in overdue if batch.id in left]
            if overdue:
                await desk.pause(self._pauses.look_s)
        for batch in overdue:
            desk.emit(events.Warned(f"batch {batch.id} was cancelled, and is not over yet: the next run collects it"))

    def is_overdue(self, batch: Batch) -> bool:
        """Whether a batch that is under way is no longer waited for."""
        desk = self._desk
        return (
            batch.state == "submitted"
            and self._is_ours(batch)
            and batch.status not in FINAL
            and batching.is_overdue(desk.age_s(batch), desk.terms.after_s)
        )

    async def give_up(self, batch: Batch) -> None:
        """Ask the provider to end a batch that takes too long."""
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

    async def warn_of_late(self) -> None:
        """What lies where this run does not ask is paid for, and will not lie there for ever."""
        desk = self._desk
        for batch in await self.on_record():
            if batching.is_late(batch.ended_ms or batch.expires_ms, desk.now_ms()):
                desk.emit(
                    events.Warned(
                        f"batch {batch.id} has been over for weeks and is not collected: {batch.provider} deletes its "
                        "results 30 days after its end"
                    )
                )

    async def on_record(self) -> list[Batch]:
        """The batches of the job that are not over here, oldest first."""
        return await in_thread(lambda: self._desk.ledger.batches.open(self._desk.job))
