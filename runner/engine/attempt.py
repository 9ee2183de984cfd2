"""One attempt: a request that may cost money, from its record to its result.

Owns the order for one attempt (record, send, store, record, settle) and what each outcome means for its task, its money
and the pace. Refuses to choose what is attempted and when: `pool` does. From the moment the request may have left,
nothing but `Stop.now` cuts it before its result is on record.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, assert_never

import anyio
import anyio.to_thread

from runner.engine import events
from runner.engine.recovery import fits, make_room
from runner.engine.sink import ImageSink
from runner.engine.stop import Stop
from runner.errors import (
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
from runner.provider import Made
from runner.provider.decode import Sink
from runner.rules import pricing, retry
from runner.rules.breaker import Breaker
from runner.rules.budget import Budget, Reservation
from runner.rules.pacing import Heard, Pace
from runner.store import BadImage, Sealed, Store
from runner.tasks import Event, ImageRequest


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
    simulated: bool
    fallback_model: str | None = None
    limit: int | None = None
    hold_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """A task on its way, with its bad attempts in this run."""

    todo: Todo
    tally: retry.Tally = field(default_factory=retry.Tally)


@dataclass(slots=True)
class Shared:
    """What all attempts of one run have in common. `end` stops the run for a reason of its own."""

    ledger: Ledger
    writer: Writer
    store: Store
    job: Job
    run_id: int
    client: Generator
    quoter: Quoter
    price_version: str
    pacer: Pace
    budget: Budget
    breaker: Breaker
    settings: Settings
    stop: Stop
    emit: events.Listener
    now: Callable[[], dt.datetime]
    jitter: Callable[[], float]
    end: Callable[[RunnerError, str], None]
    scopes: set[anyio.CancelScope] = field(default_factory=set)
    placing: anyio.Lock = field(default_factory=anyio.Lock)

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self.now().timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Again:
    """The task may be tried again after `delay_s` seconds."""

    work: Work
    delay_s: float


class Attempt:
    """One request for one task, with the model that is asked and the money that is reserved for it."""

    def __init__(self, shared: Shared, work: Work, model: str, reservation: Reservation) -> None:
        self._run = shared
        self._work = work
        self._todo = work.todo
        self._model = model
        self._reservation = reservation
        self._id = 0
        self._since = 0.0

    async def make(self) -> Again | None:
        """Make the attempt; whether the task is to be tried again.

        Raises:
            RunnerError: the ledger or the disk failed; what is on record stays as it is, for the next run.
        """
        run = self._run
        with anyio.CancelScope(shield=True):
            self._id = await run.writer.begin(
                Begin(
                    self._todo.task_id,
                    run.run_id,
                    run.job.id,
                    self._model,
                    run.settings.simulated,
                    self._reservation.amount_microusd,
                    run.price_version,
                    run.now_ms(),
                )
            )
            self._since = anyio.current_time()
            run.emit(events.AttemptBegan(self._todo.name, self._id, self._model, self._reservation.amount_microusd))
            return await self._send()
        return None

    async def _send(self) -> Again | None:
        """Send the request, and record whatever comes of it."""
        run = self._run
        request = self._todo.request
        if run.stop.immediate:
            await self._never_sent("interrupted", "stopped before this request left")
            return None
        try:
            partial = run.store.partial(self._id)
        except StoreError as error:
            run.end(error, "failed")
            await self._never_sent("store_failed", error.message)
            return None
        sink = ImageSink(partial)
        failure: ProviderError | None = None
        trouble: StoreError | None = None
        made: Made | None = None
        with anyio.CancelScope() as scope:
            run.scopes.add(scope)
            try:
                made = await run.client.generate(request, model=self._model, sink=sink, on_headers=self._heed)
            except ProviderError as error:
                failure = error
            except StoreError as error:
                trouble = error
        run.scopes.discard(scope)
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
            run.end(trouble, "failed")
        if made is not None and sealed is not None:
            # From here on the image is whole on disk: whatever fails now, the next run takes it over.
            await self._keep(made, sealed)
            return None
        if made is not None and trouble is not None:
            # Written to its end, and only flushing it failed: it is left for the next run to look at.
            return None
        partial.discard()
        if failure is None:
            reason = trouble.message if trouble else "stopped while this request was under way"
            failure = Lost(reason, code="store_failed" if trouble else "interrupted")
        return await self._fail(failure, made.envelope.usage_json if made else None)

    async def _never_sent(self, code: str, message: str) -> None:
        """The request is on record and was not sent after all: the task stays planned, with no doubt."""
        run = self._run
        todo, answer = self._todo, Answer(error_code=code, error_message=message)
        await run.writer.unsaved(
            self._id, Event.BACKOFF, task_id=todo.task_id, answer=answer, cost=None, now_ms=run.now_ms()
        )
        run.budget.settle(self._reservation, 0)
        run.emit(events.AttemptFailed(todo.name, self._id, "planned", code, message, None, None, 0, 0, None))

    async def _keep(self, made: Made, sealed: Sealed) -> None:
        """The image is whole under its temporary name: record that, name it, record that, settle."""
        run = self._run
        todo, facts = self._todo, sealed.facts
        path = run.store.path(todo.name)
        file = File(path, sealed.sha256, sealed.bytes, facts.format, facts.width, facts.height, facts.has_c2pa)
        cost = self._cost(made.envelope.usage, made.envelope.usage_json)
        latency_s = anyio.current_time() - self._since
        answer = Answer(made.request_id, made.http_status, round(latency_s * 1000))
        await run.writer.received(self._id, answer=answer, cost=cost, file=file)
        run.budget.settle(self._reservation, cost.microusd)
        if run.store.occupied(path):
            async with run.placing:
                await anyio.to_thread.run_sync(make_room, run.ledger, run.store, path)
        await anyio.to_thread.run_sync(run.store.place, self._id, path)
        await run.writer.saved(
            self._id,
            task_id=todo.task_id,
            file=file,
            model=self._model,
            simulated=run.settings.simulated,
            now_ms=run.now_ms(),
        )
        run.pacer.speed_up()
        run.breaker.image()
        run.emit(
            events.Saved(
                todo.name,
                self._id,
                path,
                todo.prompt_id,
                self._model,
                sealed.bytes,
                latency_s,
                cost.microusd,
                cost.basis,
            )
        )

    async def _fail(self, error: ProviderError, usage_json: str | None = None) -> Again | None:
        """The attempt brought no image: decide, record, settle."""
        run = self._run
        todo = self._todo
        if isinstance(error, ModelGone) and self._take_fallback(self._model, error):
            decision: retry.Decision = retry.TryAgain(delay_s=0.0)
            tally = self._work.tally
        else:
            tally = self._work.tally.plus(error)
            decision = retry.decide(error, tally, run.settings.policy, run.jitter())
            # Before anything is awaited: what concerns everyone holds for the very next request.
            self._concerns_everyone(error, decision)
        answer = Answer(
            error.request_id,
            error.http_status,
            round((anyio.current_time() - self._since) * 1000),
            error.code,
            error.message,
        )
        usage = error.usage if isinstance(error, Unusable) else None
        told = _is_told(error)
        doubtful = _is_doubtful(error)
        spent = self._cost(usage, usage_json) if told else None
        again = isinstance(decision, retry.TryAgain)
        if doubtful:
            status = "in_doubt"
            # When the run is stopping, a person may want to look before it is paid for once more.
            again = again and not run.settings.hold_doubt and not run.stop.asked
            await run.writer.lost(
                self._id,
                task_id=todo.task_id,
                answer=answer,
                try_again=again,
                now_ms=run.now_ms(),
            )
            run.budget.doubt(self._reservation)
        else:
            event, status = _event(decision)
            await run.writer.unsaved(
                self._id, event, task_id=todo.task_id, answer=answer, cost=spent, now_ms=run.now_ms()
            )
            run.budget.settle(self._reservation, spent.microusd if spent else 0)
        run.emit(
            events.AttemptFailed(
                todo.name,
                self._id,
                "planned" if again else status,
                error.code,
                error.message,
                error.http_status,
                error.request_id,
                spent.microusd if spent else 0,
                self._reservation.amount_microusd if doubtful else 0,
                decision.delay_s if again and isinstance(decision, retry.TryAgain) else None,
            )
        )
        if again and isinstance(decision, retry.TryAgain):
            return Again(Work(todo, tally), decision.delay_s)
        return None

    def _concerns_everyone(self, error: ProviderError, decision: retry.Decision) -> None:
        """Slow down, wait or stop together, if this failure says so."""
        run = self._run
        if isinstance(error, StopRun):
            run.end(error, "provider")
            return
        if run.stop.immediate:
            return  # given up by a person: it says nothing of the provider
        again = isinstance(decision, retry.TryAgain)
        if isinstance(error, RateLimited):
            hold_s = decision.hold_s if isinstance(decision, retry.TryAgain) else 0.0
            run.pacer.slow_down(anyio.current_time(), hold_s)
            run.emit(events.Held(hold_s, error.message))
        too_many = run.breaker.failure(error, final=not again or (_is_doubtful(error) and run.settings.hold_doubt))
        if too_many is not None:
            run.end(too_many, "too many failures")
        elif (wait_s := run.breaker.wait_s(anyio.current_time(), run.jitter())) > 0:
            run.pacer.hold(anyio.current_time(), wait_s)
            run.emit(events.Held(wait_s, error.message, outage=True))

    def _take_fallback(self, gone: str, error: ModelGone) -> bool:
        """Ask the fallback from now on; whether there is one that was not asked this time."""
        run = self._run
        fallback = run.settings.fallback_model
        if fallback is None or gone == fallback:
            return False
        if gone in run.quoter.effective_models:
            run.quoter.replace(gone, fallback)
            run.emit(events.Warned(f"{gone} is gone ({error.message}): {fallback} is used from here on"))
        return True

    def _cost(self, usage: Usage | None, usage_json: str | None) -> Cost:
        """What an answer was billed; where it told no usage, what was reserved for it: never too little for a cap."""
        run = self._run
        if usage is not None and usage.is_told:
            prices = run.quoter.prices(self._model)
            return Cost(pricing.cost_microusd(usage, prices), "usage", usage, usage_json)
        return Cost(self._reservation.amount_microusd, "estimate", None, usage_json)

    def _heed(self, told: Mapping[str, Heard]) -> None:
        for gate, heard in told.items():
            self._run.pacer.heed(anyio.current_time(), gate, heard)


def _is_told(error: ProviderError) -> bool:
    """Whether an answer without an image has said what it costs."""
    return isinstance(error, Unusable) and error.usage is not None and error.usage.is_told


def _is_doubtful(error: ProviderError) -> bool:
    """Whether the provider may have billed an amount that nobody has told."""
    return isinstance(error, Lost | Unusable) and not _is_told(error)


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
