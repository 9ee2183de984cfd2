"""The online engine: bounded workers that turn planned tasks into assets.

Owns which task is attempted next and when: one feeder takes tasks in the manifest's order (those whose backoff is over
first), and waits for a place, for money and for the gates. Each attempt then runs by itself (`attempt`). Refuses to
decide: `rules` says when and may we.
"""

from __future__ import annotations

import datetime as dt
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import assert_never

import anyio
import anyio.to_thread

from runner import planner
from runner.engine import events
from runner.engine.attempt import Attempt
from runner.engine.hindered import AGAIN_S, Elsewhere, Standing, capped
from runner.engine.shared import (
    Again,
    Capped,
    Generator,
    Inputs,
    Landing,
    Settings,
    Shared,
    Turn,
    Work,
    claim,
    kind_of,
    no_inputs,
)
from runner.engine.stop import Stop
from runner.errors import BudgetExceeded, RunnerError
from runner.ledger import Job, Ledger, Todo
from runner.provider import Upload
from runner.rules import pricing
from runner.rules.breaker import Breaker
from runner.rules.budget import Budget, Reservation
from runner.rules.concurrency import Places
from runner.rules.pacing import Pace
from runner.rules.quoting import Quoter
from runner.store import Store

PAGE = 256
"""Planned tasks read from the ledger at a time."""
CAPPED_S = 1.0
"""When a task is tried again for which the ledger's cap had no room, while requests are in flight."""
WAITING_PER_PLACE = 4
"""Tasks that may wait for another attempt, for each place in the pool: what waits is bounded, however long the job."""


class Pool:
    """One run of one job; `run` returns when nothing is left to do or the run was stopped."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: Store,
        job: Job,
        run_id: int,
        client: Generator,
        quoter: Quoter,
        price_version: str,
        pacer: Pace,
        budget: Budget,
        breaker: Breaker,
        settings: Settings,
        stop: Stop,
        emit: events.Listener,
        now: Callable[[], dt.datetime],
        jitter: Callable[[], float],
        inputs: Inputs = no_inputs,
        landing: Landing | None = None,
        folder: Path | None = None,
        todo: Callable[[Job, int, int], list[Todo]] | None = None,
    ) -> None:
        """`todo` gives the next planned tasks, as `Ledger.todo` does; it is that unless something else is given.

        Images come in at the `landing`: that is the store, unless something else is given. `folder` is where the files
        of jobs lie that are in no bucket.
        """
        self._todo = todo or ledger.todo
        self._shared = Shared(
            ledger=ledger,
            writer=ledger.writer(),
            store=store,
            landing=landing or store,
            job=job,
            run_id=run_id,
            client=client,
            quoter=quoter,
            price_version=price_version,
            pacer=pacer,
            budget=budget,
            breaker=breaker,
            settings=settings,
            stop=stop,
            emit=emit,
            now=now,
            jitter=jitter,
            end=self.end,
            inputs=inputs,
            places=Places(settings.concurrency, settings.most_concurrency or settings.concurrency, pacer.per_minute),
        )
        self._elsewhere = Elsewhere(ledger, store, job, emit, now_ms=self._shared.now_ms, folder=folder)
        self._in_flight = 0
        self._begun = 0
        self._page: list[Todo] = []
        self._position = -1
        self._exhausted = False
        self._waiting: list[tuple[float, int, Work]] = []
        self._order = itertools.count()
        self._changed = anyio.Event()
        self.error: RunnerError | None = None
        """What ended the run before its end, if anything did."""

    async def run(self) -> None:
        """Make what is planned. Afterwards `error` says what stopped it, if anything did."""
        self._shared.stop.listen(self._on_stop)
        async with anyio.create_task_group() as writing:
            writing.start_soon(self._shared.writer.run)
            try:
                async with anyio.create_task_group() as attempts:
                    try:
                        await self._feed(attempts.start_soon)
                    except RunnerError as error:
                        # Caught before the group wraps it; what is in flight goes on to its end.
                        self.end(error, "failed")
            finally:
                with anyio.CancelScope(shield=True):
                    await self._shared.writer.close()

    # -- the feeder -----------------------------------------------------------------------------

    async def _feed(self, start: Callable[..., object]) -> None:
        run = self._shared
        while (work := await self._next()) is not None:
            mine = await self._mine(work)
            if mine is None:
                continue
            work = mine
            if not await self._place_is_free():
                return
            # Chosen together with its price: a fallback that takes over while this waits may be dearer (law 4).
            model = run.quoter.model_for(work.todo.request.model)
            quote = run.quoter.quote(work.todo.request)
            tokens = run.meter.expected(kind_of(work.todo.request, model), quote.tokens)
            costs = {"images": 1.0, "requests": 1.0, "tokens": tokens}
            try:
                run.pacer.check(costs)
            except RunnerError as error:
                self.end(error, "limits")
                return
            # More than a limit can hold is let through at the limit's pace: that inputs are counted is not sure.
            images = planner.paced_images(work.todo.request, counts_inputs=run.settings.counts_inputs)
            costs["images"] = float(images)
            uploads = await self._uploads(work.todo)
            if uploads is None:
                return
            reservation = await self._reserve(quote.worst_microusd)
            if reservation is None:
                return
            at = await self._booked(costs)
            if at is None:
                run.budget.settle(reservation, 0)
                return
            if run.budget.is_stale(reservation, run.now()):
                # Midnight passed at the gates.
                run.budget.settle(reservation, 0)
                reservation = await self._reserve(quote.worst_microusd)
                if reservation is None:
                    return
            self._in_flight += 1
            start(self._attempt, Attempt(run, work, model, reservation, Turn(at, costs, quote.tokens, uploads)))

    async def _next(self) -> Work | None:
        """The next task: one whose backoff is over, else the next planned one; None when the feeder's work is done."""
        while not self._shared.stop.asked:
            if self._waiting and self._waiting[0][0] <= anyio.current_time():
                return heapq.heappop(self._waiting)[2]
            room = self._shared.places.allowed * WAITING_PER_PLACE
            if len(self._waiting) < room and (todo := await self._fresh()) is not None:
                return Work(todo)
            # Looked at only now: an attempt may have ended, or a stop been asked, while the ledger was read.
            if self._shared.stop.asked or (not self._waiting and self._in_flight == 0):
                return None
            await self._change(self._waiting[0][0] if self._waiting else None)
        return None

    async def _fresh(self) -> Todo | None:
        if self._shared.settings.limit is not None and self._begun >= self._shared.settings.limit:
            return None
        if not self._page and not self._exhausted:
            self._page = await anyio.to_thread.run_sync(self._todo, self._shared.job, self._position, PAGE)
            self._page.reverse()
            self._exhausted = not self._page
        if not self._page:
            return None
        todo = self._page.pop()
        self._position = todo.position
        self._begun += 1
        return todo

    async def _mine(self, work: Work) -> Work | None:
        """The task as it is to be attempted; None if another job has made its image, or is making it."""
        if not work.is_elsewhere and not await self._others_are_under_way():
            return work
        found = await anyio.to_thread.run_sync(self._elsewhere.look, work.todo)
        match found:
            case Standing.NOBODY:
                return replace(work, is_elsewhere=False)
            case Standing.USELESS:
                return replace(work, is_elsewhere=False, alone=True)
            case Standing.UNDER_WAY:
                ready_at = anyio.current_time() + AGAIN_S
                heapq.heappush(self._waiting, (ready_at, next(self._order), work))
                return None
            case Standing.TAKEN:
                return None
            case _:
                assert_never(found)

    async def _others_are_under_way(self) -> bool:
        if not self._elsewhere.is_due():
            return self._elsewhere.others
        return await anyio.to_thread.run_sync(self._elsewhere.find_others)

    async def _uploads(self, todo: Todo) -> Sequence[Upload] | None:
        """The files that go with a request, before anything of it is on record; None when one of them is not there."""
        if not todo.sources:
            return ()
        try:
            return await anyio.to_thread.run_sync(self._shared.inputs, todo.sources)
        except RunnerError as error:
            self.end(error, "inputs")
            return None

    async def _place_is_free(self) -> bool:
        """Wait for a place; False when the run was stopped meanwhile."""
        run = self._shared
        while self._in_flight >= (1 if run.breaker.is_cut_off else run.places.allowed) and not run.stop.asked:
            await self._change(None)
        return not run.stop.asked

    async def _reserve(self, worst_microusd: int) -> Reservation | None:
        """Money for one request; waits while something in flight may settle below its reservation."""
        run = self._shared
        budget = run.budget
        while not run.stop.asked:
            reservation = budget.reserve(worst_microusd, run.now())
            if reservation is not None:
                return reservation
            if self._in_flight == 0:
                cap, spent = budget.cap_microusd or 0, budget.committed_microusd
                self.end(
                    BudgetExceeded(
                        f"the next image may cost {pricing.usd(budget.price(worst_microusd))}, and "
                        f"{pricing.usd(spent)} of {pricing.usd(cap)} per {budget.per} are spent or in doubt",
                        hint="raise budget.usd or --budget and run again: it goes on where it stopped",
                    ),
                    "budget",
                )
                return None
            await self._change(None)
        return None

    async def _booked(self, costs: Mapping[str, float]) -> float | None:
        """Wait for the gates; the instant that is booked, a little ahead, or None when the run is stopped."""
        pacer = self._shared.pacer
        at = anyio.current_time()
        while not self._shared.stop.asked:
            # A hold may have come while this one waited, or another run have taken the place.
            at, booked = await claim(pacer, at, costs)
            if booked:
                return at
            if not self._shared.stop.asked:
                await self._change(at - pacer.lead_s)
        return None

    async def _change(self, until: float | None) -> None:
        """Wait until an attempt ended or the run is stopped, at the longest until `until`."""
        self._changed = anyio.Event()
        if until is None:
            await self._changed.wait()
        else:
            with anyio.CancelScope(deadline=until):
                await self._changed.wait()

    async def _attempt(self, attempt: Attempt) -> None:
        try:
            again = await attempt.make()
            if isinstance(again, Capped):
                if self._in_flight == 1:
                    run = self._shared
                    self.end(await anyio.to_thread.run_sync(capped, run.ledger, run.now()), "budget")
                else:
                    # What is in flight may settle below what is reserved for it.
                    again = Again(again.work, CAPPED_S)
            if isinstance(again, Again):
                ready_at = anyio.current_time() + again.delay_s
                heapq.heappush(self._waiting, (ready_at, next(self._order), again.work))
        except RunnerError as error:
            # The ledger or the disk failed: nothing further may leave.
            self.end(error, "failed")
        finally:
            self._in_flight -= 1
            self._changed.set()

    # -- stopping -------------------------------------------------------------------------------

    def end(self, error: RunnerError, reason: str) -> None:
        """Stop the run for a reason of its own, not a person's; the first one counts. What is in flight is finished."""
        if self.error is None:
            self.error = error
        self._shared.stop.ask(reason)

    def _on_stop(self) -> None:
        self._changed.set()
        for scope in (*self._shared.waiting, *(self._shared.scopes if self._shared.stop.immediate else ())):
            scope.cancel()
        self._shared.emit(events.Stopping(self._shared.stop.reason, self._in_flight, self._shared.stop.immediate))
