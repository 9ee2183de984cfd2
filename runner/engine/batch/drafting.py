"""Fills batches: planned tasks in the manifest's order, each on record before anything of it can leave (law 1).

Owns what goes into which batch (one model and one endpoint each, as many requests and bytes as may be) and the
reserving of money for it (law 4). Refuses to send: what is full is handed over.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from runner.engine.batch.common import Desk, custom_id, history, in_thread
from runner.engine.batch.inputs import RemoteInputs
from runner.engine.hindered import capped, superseded
from runner.errors import BudgetExceeded, RunnerError
from runner.ledger import Answer, Batch, Hindrance, NewBatch, Todo
from runner.provider import ENDPOINTS, batch_line
from runner.rules import batching
from runner.rules.pricing import usd
from runner.store import Lines
from runner.tasks import NOT_SENT

PAGE = 200
"""Planned tasks that are read from the ledger, and put on record, at a time."""
_GIVEN_BACK = Answer(error_code=NOT_SENT, error_message="the batch was not submitted")


@dataclass(slots=True)
class _Draft:
    """A batch that is being filled; `waiting` is not on record yet: (task, micro-dollars, line around its name)."""

    number: int
    new: NewBatch
    file: Lines
    waiting: list[tuple[Todo, int, bytes, bytes]] = field(default_factory=list)
    requests: int = 0
    bytes: int = 0
    reserved_microusd: int = 0


class Drafter:
    """Fills batches and hands each over once it is full; the rest at the end."""

    def __init__(self, desk: Desk, inputs: RemoteInputs, hand_over: Callable[[int], Awaitable[bool]]) -> None:
        self._desk = desk
        self._inputs = inputs
        self._hand_over = hand_over
        self.begun = 0
        """Tasks that this run has put into batches."""
        self._drafts: dict[tuple[str, str], _Draft] = {}
        self._most = desk.terms.max_requests
        self._is_open = True  # whether anything more goes into batches
        self._may_send = True
        self.short: BudgetExceeded | None = None
        """Why tasks were left planned: the cap."""
        self.elsewhere = 0
        """Tasks of the last `fill` that were left planned because another job makes, or has made, the same image."""

    async def fill(self) -> int:
        """Put planned tasks into batches until there is no more of them, of money, or of room; how many there were.

        Raises:
            RunnerError: the ledger, the disk, or an input; what is not sealed is planned again.
        """
        desk = self._desk
        self._is_open, self._may_send, self.short, self.elsewhere = True, True, None, 0
        self._most = batching.size_of_next(desk.terms.max_requests, await history(desk))
        before = self.begun
        position = -1
        fallen = False if desk.terms.fall_back else None
        try:
            while self._is_open and not desk.stop.asked:
                page = await in_thread(partial(desk.ledger.batches.todo, fallen=fallen), desk.job, position, PAGE)
                if not page:
                    break
                position = page[-1].position
                await self._take(page)
            if not desk.stop.asked:
                for place in tuple(self._drafts):
                    if self._may_send and not desk.stop.asked:
                        await self._seal(place)
        finally:
            await self._abandon()
        return self.begun - before

    async def _take(self, page: Sequence[Todo]) -> None:
        desk = self._desk
        ids = await self._inputs.ids(page)
        for todo in page:
            if desk.terms.limit is not None and self.begun >= desk.terms.limit:
                self._is_open = False
                break
            edit = todo.request.edit
            model = desk.quoter.model_for(todo.request.model)
            place = (model, ENDPOINTS[0 if edit is None else 1])
            names = [ids[source.identity] for source in todo.sources]
            mask = names.pop() if edit is not None and edit.mask is not None else None
            # Its number is not known yet, and always as long as this one.
            stand_in = custom_id(0, todo.key)
            line = batch_line(stand_in, todo.request, model=model, images=names, mask=mask)
            head, _, tail = line.partition(stand_in.encode())
            draft = self._drafts.get(place)
            if draft is not None and (
                draft.requests >= self._most or draft.bytes + len(line) > batching.MAX_FILE_BYTES
            ):
                await self._seal(place)
                draft = None
                if not self._is_open or desk.stop.asked:
                    break
            reservation = desk.budget.reserve(desk.quoter.quote(todo.request).worst_microusd, desk.now())
            if reservation is None:
                self._is_short(desk.budget.price(desk.quoter.quote(todo.request).worst_microusd))
                break
            if draft is None:
                draft = self._drafts[place] = await in_thread(self._begin, *place)
            draft.waiting.append((todo, reservation.amount_microusd, head, tail))
            draft.requests += 1
            draft.bytes += len(line)
            draft.reserved_microusd += reservation.amount_microusd
            self.begun += 1
        for draft in self._drafts.values():
            await in_thread(self._record, draft)

    def _begin(self, model: str, endpoint: str) -> _Draft:
        desk = self._desk
        new = NewBatch(
            job_id=desk.job.id,
            run_id=desk.run_id,
            provider=desk.terms.provider,
            base_url=desk.terms.base_url,
            simulated=desk.terms.simulated,
            token=secrets.token_hex(16),
            endpoint=endpoint,
            model=model,
            price_version=desk.price_version,
        )
        number = desk.ledger.batches.prepare(new, now_ms=desk.now_ms())
        return _Draft(number, new, desk.store.batches.begin(number))

    def _record(self, draft: _Draft) -> None:
        """Put what waits on record, all of it at once, and write its lines."""
        if not draft.waiting:
            return
        tasks = [(todo.task_id, reserved) for todo, reserved, _, _ in draft.waiting]
        ids = self._desk.ledger.batches.add(draft.number, draft.new, tasks, now_ms=self._desk.now_ms())
        for begun, (todo, reserved, head, tail) in zip(ids, draft.waiting, strict=True):
            line = custom_id(0, todo.key).encode()
            if isinstance(begun, Hindrance):
                self._hindered(begun, draft, reserved, size_bytes=len(head) + len(line) + len(tail))
            else:
                draft.file.write(head + custom_id(begun, todo.key).encode() + tail)
        draft.waiting.clear()

    def _hindered(self, hindrance: Hindrance, draft: _Draft, reserved_microusd: int, *, size_bytes: int) -> None:
        """A task may not be asked for now, and is left planned."""
        draft.requests -= 1
        draft.bytes -= size_bytes
        draft.reserved_microusd -= reserved_microusd
        self.begun -= 1
        self._desk.budget.reserved_microusd -= reserved_microusd
        if hindrance is Hindrance.SUPERSEDED:
            raise superseded(self._desk.job.name)
        if hindrance is Hindrance.ELSEWHERE:
            self.elsewhere += 1
        else:
            self._is_open, self.short = False, capped(self._desk.ledger, self._desk.now())

    async def _seal(self, place: tuple[str, str]) -> None:
        """From here on the batch is going to be sent, whatever is killed."""
        draft = self._drafts[place]

        def seal() -> bool:
            self._record(draft)
            if draft.requests == 0:
                draft.file.discard()
                self._desk.ledger.batches.dissolve(draft.number, _GIVEN_BACK, now_ms=self._desk.now_ms())
                return False
            draft.file.seal()
            self._desk.ledger.batches.sealed(draft.number, requests=draft.file.lines, size_bytes=draft.file.bytes)
            return True

        is_sealed = await in_thread(seal)
        del self._drafts[place]
        if is_sealed and not await self._hand_over(draft.number):
            self._is_open = self._may_send = False

    async def _abandon(self) -> None:
        """Let what was not sealed be planned again: nothing of it has left."""
        desk = self._desk
        for draft in self._drafts.values():
            self.begun -= draft.requests

            def undo(it: _Draft = draft) -> Batch:
                it.file.discard()
                desk.ledger.batches.dissolve(it.number, _GIVEN_BACK, now_ms=desk.now_ms())
                return desk.ledger.batches.one(it.number)

            try:
                desk.release(await in_thread(undo), draft.reserved_microusd)
            except RunnerError as error:
                # It is done by the next run as well; what is wrong here has been said, or is said now.
                desk.end(error, "failed")
        self._drafts.clear()

    def _is_short(self, amount_microusd: int) -> None:
        budget = self._desk.budget
        self._is_open = False
        self.short = BudgetExceeded(
            f"the next image may cost {usd(amount_microusd)}, and {usd(budget.committed_microusd)} of "
            f"{usd(budget.cap_microusd or 0)} per {budget.per} are spent, reserved or in doubt",
            hint="raise budget.usd or --budget and run again: it goes on where it stopped",
        )
