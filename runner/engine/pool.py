"""The online engine: bounded workers that turn planned tasks into assets.

Owns the order for one task (reserve, wait, record, send, store, record, settle), what runs at the same time, and
how a run stops. Refuses to decide: `rules` says when, whether and how much. One feeder takes tasks in the manifest's
order and waits for a place, for the gates and for money; each attempt then runs by itself, and from the moment its
request may have left it is shielded until its result is on record.
"""

from __future__ import annotations

import datetime as dt
import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, assert_never

import anyio
import anyio.to_thread

from runner.engine import events
from runner.engine.recovery import fits, make_room
from runner.errors import (
    BudgetExceeded,
    Lost,
    ModelGone,
    ProviderError,
    RateLimited,
    RunnerError,
    StopRun,
    StoreError,
    Unusable,
    Usage,
)
from runner.ledger import Answer, Begin, Cost, File, Job, Ledger, Todo, Writer
from runner.planner import Quoter
from runner.provider.decode import Sink
from runner.rules import pricing, retry
from runner.rules.budget import Budget, Reservation
from runner.rules.pacing import Heard, Pacer
from runner.store import BadImage, Partial, Sealed, Store
from runner.tasks import Event, ImageRequest

PAGE = 256
"""Planned tasks read from the ledger at a time."""
WAITING_PER_PLACE = 4
"""Tasks that may wait for another attempt, for each place in the pool: what waits is bounded, however long the job."""


class Envelope(Protocol):
    """What the pool reads of an answer."""

    @property
    def usage(self) -> Usage | None: ...  # noqa: D102  # the protocol's docstring says it
    @property
    def usage_json(self) -> str | None: ...  # noqa: D102


class Made(Protocol):
    """An answer whose image went to the sink."""

    @property
    def envelope(self) -> Envelope: ...  # noqa: D102
    @property
    def http_status(self) -> int: ...  # noqa: D102
    @property
    def request_id(self) -> str | None: ...  # noqa: D102


class Generator(Protocol):
    """Who makes images; `provider.Client` does."""

    async def generate(
        self,
        request: ImageRequest,
        *,
        model: str,
        sink: Sink,
        on_headers: Callable[[Mapping[str, Heard]], None],
    ) -> Made:
        """One request for one image; see `provider.Client.generate`."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How a pool works. `limit` is the most tasks that are begun in this run; `hold_doubt` leaves lost ones alone."""

    concurrency: int
    policy: retry.Policy
    provider: str
    simulated: bool
    fallback_model: str | None = None
    limit: int | None = None
    hold_doubt: bool = False


@dataclass(slots=True)
class Stop:
    """The way to end a run from outside: `ask` lets what is in flight finish, `now` cancels it."""

    asked: bool = False
    immediate: bool = False
    reason: str = "interrupted"
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    def ask(self, reason: str) -> None:
        """No further request leaves."""
        if not self.asked:
            self.asked, self.reason = True, reason
            self._tell()

    def now(self) -> None:
        """What is in flight is given up: on record as in doubt."""
        if not self.immediate:
            self.asked = self.immediate = True
            self._tell()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` at every change."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


@dataclass(frozen=True, slots=True)
class Work:
    """A task on its way, with its bad attempts in this run."""

    todo: Todo
    tally: retry.Tally = field(default_factory=retry.Tally)


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
        pacer: Pacer,
        budget: Budget,
        settings: Settings,
        stop: Stop,
        emit: events.Listener,
        now: Callable[[], dt.datetime],
        jitter: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._writer: Writer = ledger.writer()
        self._store = store
        self._job = job
        self._run_id = run_id
        self._client = client
        self._quoter = quoter
        self._price_version = price_version
        self._pacer = pacer
        self._budget = budget
        self._settings = settings
        self._stop = stop
        self._emit = emit
        self._now = now
        self._jitter = jitter
        self._in_flight = 0
        self._begun = 0
        self._page: list[Todo] = []
        self._position = -1
        self._exhausted = False
        self._waiting: list[tuple[float, int, Work]] = []
        self._order = itertools.count()
        self._changed = anyio.Event()
        self._scopes: set[anyio.CancelScope] = set()
        self._placing = anyio.Lock()
        self.error: RunnerError | None = None
        """What ended the run before its end, if anything did."""

    async def run(self) -> None:
        """Make what is planned. Afterwards `error` says what stopped it, if anything did."""
        self._stop.listen(self._on_stop)
        async with anyio.create_task_group() as writing:
            writing.start_soon(self._writer.run)
            try:
                async with anyio.create_task_group() as attempts:
                    try:
                        await self._feed(attempts.start_soon)
                    except RunnerError as error:
                        # Caught before the group wraps it; what is in flight goes on to its end.
                        self._end(error, "failed")
            finally:
                with anyio.CancelScope(shield=True):
                    await self._writer.close()

    # -- the feeder -----------------------------------------------------------------------------

    async def _feed(self, start: Callable[..., object]) -> None:
        while (work := await self._next()) is not None:
            if not await self._place_is_free():
                return
            # Chosen together with its price: a fallback that takes over while this waits may be dearer (law 4).
            model = self._quoter.model_for(work.todo.request.model)
            quote = self._quoter.quote(work.todo.request)
            costs = {"images": 1.0, "requests": 1.0, "tokens": float(quote.tokens)}
            try:
                self._pacer.check(costs)
            except RunnerError as error:
                self._end(error, "limits")
                return
            reservation = await self._reserve(quote.worst_microusd)
            if reservation is None:
                return
            if not await self._may_leave(costs):
                self._budget.settle(reservation, 0)
                return
            self._in_flight += 1
            start(self._attempt, work, model, reservation)

    async def _next(self) -> Work | None:
        """The next task: one whose backoff is over, else the next planned one; None when the feeder's work is done."""
        room = self._settings.concurrency * WAITING_PER_PLACE
        while not self._stop.asked:
            if self._waiting and self._waiting[0][0] <= anyio.current_time():
                return heapq.heappop(self._waiting)[2]
            if len(self._waiting) < room and (todo := await self._fresh()) is not None:
                return Work(todo)
            # Looked at only now: an attempt may have ended, or a stop been asked, while the ledger was read.
            if self._stop.asked or (not self._waiting and self._in_flight == 0):
                return None
            await self._change(self._waiting[0][0] if self._waiting else None)
        return None

    async def _fresh(self) -> Todo | None:
        if self._settings.limit is not None and self._begun >= self._settings.limit:
            return None
        if not self._page and not self._exhausted:
            self._page = await anyio.to_thread.run_sync(self._ledger.todo, self._job, self._position, PAGE)
            self._page.reverse()
            self._exhausted = not self._page
        if not self._page:
            return None
        todo = self._page.pop()
        self._position = todo.position
        self._begun += 1
        return todo

    async def _place_is_free(self) -> bool:
        while self._in_flight >= self._settings.concurrency and not self._stop.asked:
            await self._change(None)
        return not self._stop.asked

    async def _reserve(self, worst_microusd: int) -> Reservation | None:
        """Money for one request; waits while something in flight may settle below its reservation."""
        while not self._stop.asked:
            reservation = self._budget.reserve(worst_microusd, self._now())
            if reservation is not None:
                return reservation
            if self._in_flight == 0:
                cap, spent = self._budget.cap_microusd or 0, self._budget.committed_microusd
                self._end(
                    BudgetExceeded(
                        f"the next image may cost {pricing.usd(self._budget.price(worst_microusd))}, and "
                        f"{pricing.usd(spent)} of {pricing.usd(cap)} per {self._budget.per} are spent or in doubt",
                        hint="raise budget.usd or --budget and run again: it goes on where it stopped",
                    ),
                    "budget",
                )
                return None
            await self._change(None)
        return None

    async def _may_leave(self, costs: Mapping[str, float]) -> bool:
        """Wait for the gates; False when the run was stopped meanwhile."""
        at = self._pacer.earliest(anyio.current_time())
        while not self._stop.asked:
            if anyio.current_time() < at:
                await self._change(at)
                # A hold may have come while this one waited.
                at = self._pacer.earliest(at)
                continue
            self._pacer.book(at, costs)
            return True
        return False

    async def _change(self, until: float | None) -> None:
        """Wait until an attempt ended or the run is stopped, at the longest until `until`."""
        self._changed = anyio.Event()
        if until is None:
            await self._changed.wait()
        else:
            with anyio.CancelScope(deadline=until):
                await self._changed.wait()

    # -- one attempt ----------------------------------------------------------------------------

    async def _attempt(self, work: Work, model: str, reservation: Reservation) -> None:
        todo = work.todo
        try:
            with anyio.CancelScope(shield=True):
                attempt_id = await self._writer.begin(
                    Begin(
                        todo.task_id,
                        self._run_id,
                        self._job.id,
                        model,
                        self._settings.simulated,
                        reservation.amount_microusd,
                        self._price_version,
                        self._now_ms(),
                    )
                )
                self._emit(events.AttemptBegan(todo.name, attempt_id, model, reservation.amount_microusd))
                await self._send(_Attempt(attempt_id, work, model, reservation, anyio.current_time()))
        except RunnerError as error:
            # The ledger or the disk failed: nothing further may leave, and what is on record stays as it is.
            self._end(error, "failed")
        finally:
            self._in_flight -= 1
            self._changed.set()

    async def _send(self, attempt: _Attempt) -> None:
        """Send the request, and record whatever comes of it."""
        request = attempt.work.todo.request
        try:
            partial = self._store.partial(attempt.id)
        except StoreError as error:
            await self._never_sent(attempt, error)
            return
        sink = _Sink(partial)
        failure: ProviderError | None = None
        trouble: StoreError | None = None
        made: Made | None = None
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._stop.immediate:
                scope.cancel()
            try:
                made = await self._client.generate(request, model=attempt.model, sink=sink, on_headers=self._heed)
            except ProviderError as error:
                failure = error
            except StoreError as error:
                trouble = error
        self._scopes.discard(scope)
        sealed: Sealed | None = None
        if made is not None:
            try:
                sealed = await anyio.to_thread.run_sync(sink.seal)
                if not fits(sealed, request.pixels, request.output_format):
                    raise BadImage(_misfit(sealed, request), code="wrong_image")
            except BadImage as error:
                sealed = None
                failure = Unusable(
                    error.message,
                    code=error.code,
                    http_status=made.http_status,
                    request_id=made.request_id,
                    usage=made.envelope.usage,
                )
            except StoreError as error:
                trouble = error
        if trouble is not None:
            # Before anything is awaited: with a disk that refuses, nothing further may leave.
            self._end(trouble, "failed")
        if made is not None and sealed is not None:
            # From here on the image is whole on disk: whatever fails now, the next run takes it over.
            await self._keep(attempt, made, sealed)
            return
        if made is not None and trouble is not None:
            # Written to its end, and only flushing it failed: it is left for the next run to look at.
            return
        partial.discard()
        if failure is None:
            reason = trouble.message if trouble else "stopped while this request was under way"
            failure = Lost(reason, code="store_failed" if trouble else "interrupted")
        await self._fail(attempt, failure, made.envelope.usage_json if made else None)

    async def _never_sent(self, attempt: _Attempt, error: StoreError) -> None:
        """There is no place to receive an image at, so none was asked for: the task stays planned, with no doubt."""
        self._end(error, "failed")
        todo, answer = attempt.work.todo, Answer(error_code="store_failed", error_message=error.message)
        await self._writer.unsaved(
            attempt.id, Event.BACKOFF, task_id=todo.task_id, answer=answer, cost=None, now_ms=self._now_ms()
        )
        self._budget.settle(attempt.reservation, 0)
        self._emit(
            events.AttemptFailed(
                todo.name, attempt.id, "planned", "store_failed", error.message, None, None, 0, 0, None
            )
        )

    async def _keep(self, attempt: _Attempt, made: Made, sealed: Sealed) -> None:
        """The image is whole under its temporary name: record that, name it, record that, settle."""
        todo, facts = attempt.work.todo, sealed.facts
        path = self._store.path(todo.name)
        file = File(path, sealed.sha256, sealed.bytes, facts.format, facts.width, facts.height, facts.has_c2pa)
        cost = self._cost(attempt, made.envelope.usage, made.envelope.usage_json)
        latency_s = anyio.current_time() - attempt.since
        answer = Answer(made.request_id, made.http_status, round(latency_s * 1000))
        await self._writer.received(attempt.id, answer=answer, cost=cost, file=file)
        self._budget.settle(attempt.reservation, cost.microusd)
        if self._store.occupied(path):
            async with self._placing:
                await anyio.to_thread.run_sync(make_room, self._ledger, self._store, path)
        await anyio.to_thread.run_sync(self._store.place, attempt.id, path)
        await self._writer.saved(
            attempt.id,
            task_id=todo.task_id,
            file=file,
            model=attempt.model,
            simulated=self._settings.simulated,
            now_ms=self._now_ms(),
        )
        self._pacer.speed_up()
        self._emit(
            events.Saved(
                todo.name,
                attempt.id,
                path,
                todo.prompt_id,
                attempt.model,
                sealed.bytes,
                latency_s,
                cost.microusd,
                cost.basis,
            )
        )

    async def _fail(self, attempt: _Attempt, error: ProviderError, usage_json: str | None = None) -> None:
        """The attempt brought no image: decide, record, settle."""
        todo = attempt.work.todo
        if isinstance(error, ModelGone) and self._take_fallback(attempt.model, error):
            decision: retry.Decision = retry.TryAgain(delay_s=0.0)
            tally = attempt.work.tally
        else:
            tally = attempt.work.tally.plus(error)
            decision = retry.decide(error, tally, self._settings.policy, self._jitter())
        answer = Answer(
            error.request_id,
            error.http_status,
            round((anyio.current_time() - attempt.since) * 1000),
            error.code,
            error.message,
        )
        usage = error.usage if isinstance(error, Unusable) else None
        told = usage is not None and usage.is_told
        doubtful = isinstance(error, Lost) or (isinstance(error, Unusable) and not told)
        spent = self._cost(attempt, usage, usage_json) if told else None
        again = isinstance(decision, retry.TryAgain)
        if doubtful:
            status = "in_doubt"
            # When the run is stopping, a person may want to look before it is paid for once more.
            again = again and not self._settings.hold_doubt and not self._stop.asked
            await self._writer.lost(
                attempt.id,
                task_id=todo.task_id,
                answer=answer,
                try_again=again,
                now_ms=self._now_ms(),
            )
            self._budget.doubt(attempt.reservation)
        else:
            event, status = _event(decision)
            await self._writer.unsaved(
                attempt.id, event, task_id=todo.task_id, answer=answer, cost=spent, now_ms=self._now_ms()
            )
            self._budget.settle(attempt.reservation, spent.microusd if spent else 0)
        self._act(attempt, error, decision, tally, again=again)
        self._emit(
            events.AttemptFailed(
                todo.name,
                attempt.id,
                "planned" if again else status,
                error.code,
                error.message,
                error.http_status,
                error.request_id,
                spent.microusd if spent else 0,
                attempt.reservation.amount_microusd if doubtful else 0,
                decision.delay_s if again and isinstance(decision, retry.TryAgain) else None,
            )
        )

    def _act(
        self, attempt: _Attempt, error: ProviderError, decision: retry.Decision, tally: retry.Tally, *, again: bool
    ) -> None:
        now = anyio.current_time()
        if isinstance(error, RateLimited):
            hold_s = decision.hold_s if isinstance(decision, retry.TryAgain) else 0.0
            self._pacer.slow_down(now, hold_s)
            self._emit(events.Held(hold_s, error.message))
        if isinstance(error, StopRun) and isinstance(decision, retry.Stop):
            self._end(error, "provider")
        if again and isinstance(decision, retry.TryAgain):
            work = Work(attempt.work.todo, tally)
            heapq.heappush(self._waiting, (now + decision.delay_s, next(self._order), work))

    def _take_fallback(self, gone: str, error: ModelGone) -> bool:
        """Ask the fallback from now on; whether there is one that was not asked this time."""
        fallback = self._settings.fallback_model
        if fallback is None or gone == fallback:
            return False
        if gone in self._quoter.effective_models:
            self._quoter.replace(gone, fallback)
            self._emit(events.Warned(f"{gone} is gone ({error.message}): {fallback} is used from here on"))
        return True

    def _cost(self, attempt: _Attempt, usage: Usage | None, usage_json: str | None) -> Cost:
        """What an answer was billed; where it told no usage, what was reserved for it: never too little for a cap."""
        if usage is not None and usage.is_told:
            prices = self._quoter.prices(attempt.model)
            return Cost(pricing.cost_microusd(usage, prices), "usage", usage, usage_json)
        return Cost(attempt.reservation.amount_microusd, "estimate", None, usage_json)

    def _heed(self, told: Mapping[str, Heard]) -> None:
        now = anyio.current_time()
        for gate, heard in told.items():
            self._pacer.heed(now, gate, heard)

    # -- stopping -------------------------------------------------------------------------------

    def _end(self, error: RunnerError, reason: str) -> None:
        """Stop the run for a reason of its own; the first one counts."""
        if self.error is None:
            self.error = error
        self._stop.ask(reason)

    def _on_stop(self) -> None:
        self._changed.set()
        if self._stop.immediate:
            for scope in tuple(self._scopes):
                scope.cancel()
        self._emit(events.Stopping(self._stop.reason, self._in_flight, self._stop.immediate))

    def _now_ms(self) -> int:
        return int(self._now().timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One request that is under way. `since` is on the event loop's clock, in seconds."""

    id: int
    work: Work
    model: str
    reservation: Reservation
    since: float


class _Sink:
    """Writes an image until it proves to be none; the rest of the answer is still read, for its bill."""

    def __init__(self, partial: Partial) -> None:
        self._partial = partial
        self._bad: BadImage | None = None

    def write(self, data: bytes, /) -> None:
        """Take the next bytes."""
        if self._bad is None:
            try:
                self._partial.write(data)
            except BadImage as error:
                self._bad = error

    def seal(self) -> Sealed:
        """Finish the file; raises what made it no image."""
        if self._bad is not None:
            raise self._bad
        return self._partial.seal()


def _event(decision: retry.Decision) -> tuple[Event, str]:
    match decision:
        case retry.TryAgain() | retry.Stop():
            return Event.BACKOFF, "planned"
        case retry.GiveUp():
            return Event.GAVE_UP, "failed"
        case retry.Refuse():
            return Event.REFUSED, "refused"
        case _:
            assert_never(decision)


def _misfit(sealed: Sealed, request: ImageRequest) -> str:
    facts = sealed.facts
    return (
        f"the answer is a {facts.format} of {facts.width}x{facts.height}, "
        f"and a {request.output_format} of {request.size} was asked for"
    )
