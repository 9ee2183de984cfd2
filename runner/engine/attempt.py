"""One attempt: a request that may cost money, from its record to its result.

Owns the order for one attempt (record, send, store, record, settle) and what each outcome means for its task, its money
and the pace. Refuses to choose what is attempted and when: `pool` does. From the moment the request may have left,
nothing but `Stop.now` cuts it before its result is on record.

A request is put on record a little before the instant that was booked for it (`Pace.lead_s`), and leaves at that
instant: how long the disk takes for the record does not move it. So SIGKILL finds, beside what is in flight, the
requests of that moment (the lead times the rate, and what waits for the end of a hold) on record although they never
left; no one can know that of them afterwards, and they are in doubt like the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

import anyio
import anyio.to_thread

from runner.engine import events
from runner.engine.hindered import superseded
from runner.engine.outcome import cost_of, ending_of, is_doubtful, is_told, misfit, spoilt
from runner.engine.recovery import file_of, fits, make_room
from runner.engine.shared import Again, Capped, Shared, Turn, Work, claim, kind_of
from runner.engine.sink import ImageSink
from runner.errors import (
    LedgerError,
    Lost,
    ModelGone,
    ProviderError,
    RateLimited,
    StopRun,
    StoreError,
    Unusable,
    Usage,
)
from runner.ledger import Answer, Begin, Change, Cost, File, Hindrance, Steps
from runner.provider import Made
from runner.rules import retry
from runner.rules.budget import Reservation
from runner.rules.pacing import Claimed, Heard
from runner.store import BadImage, Partial
from runner.tasks import NOT_SENT, Event


class Attempt:
    """One request for one task, with the model that is asked, the money that is reserved for it, and its turn."""

    def __init__(self, shared: Shared, work: Work, model: str, reservation: Reservation, turn: Turn) -> None:
        self._run = shared
        self._turn = turn
        self._work = work
        self._todo = work.todo
        self._model = model
        self._reservation = reservation
        self._id = 0
        self._since = 0.0
        self._billed_microusd: int | None = None
        """What it has cost, once that is on record."""

    async def make(self) -> Again | Capped | None:
        """Make the attempt; whether the task is to be tried again.

        Raises:
            RunnerError: the ledger or the disk failed; what is on record stays as it is, for the next run.
        """
        run = self._run
        with anyio.CancelScope(shield=True):
            booked_at = anyio.current_time()
            begun = await run.writer.begin(
                Begin(
                    self._todo.task_id,
                    run.run_id,
                    run.job.id,
                    self._model,
                    run.settings.simulated,
                    self._reservation.amount_microusd,
                    run.price_version,
                    run.now_ms(),
                ),
                alone=self._work.alone,
            )
            if isinstance(begun, Hindrance):
                return self._hindered(begun)
            self._id = begun
            run.pacer.recorded(anyio.current_time() - booked_at)
            partial, trouble = self._partial()
            may_leave = partial is not None and await self._may_leave()
            self._since = anyio.current_time()
            run.emit(events.AttemptBegan(self._todo.name, self._id, self._model, self._reservation.amount_microusd))
            stale = run.budget.is_stale(self._reservation, run.now())
            if partial is not None and may_leave and not stale and not run.nothing_leaves:
                return await self._send(partial)
            if partial is None:
                await self._never_sent(trouble)
                return None
            partial.discard()
            if stale and not run.stop.asked:
                await self._never_sent("a new period of the budget began before this request left")
                return Again(self._work, 0.0)
            await self._never_sent("stopped before this request left")
        return None

    def _hindered(self, why: Hindrance) -> Again | Capped | None:
        """Nothing is on record, and nothing leaves."""
        run = self._run
        run.budget.settle(self._reservation, 0)
        match why:
            case Hindrance.SUPERSEDED:
                run.end(superseded(run.job.name), "failed")
                return None
            case Hindrance.ELSEWHERE:
                return Again(replace(self._work, is_elsewhere=True), 0.0)
            case Hindrance.CAPPED:
                return Capped(self._work)
            case _:
                assert_never(why)

    def _partial(self) -> tuple[Partial | None, str]:
        """Where the image goes; None, and why, with a disk that refuses: then nothing further may leave."""
        try:
            return self._run.landing.partial(self._id), ""
        except StoreError as error:
            self._run.end(error, "failed")
            return None, error.message

    async def _may_leave(self) -> bool:
        """Wait for the instant that was booked; False when the run was stopped before this request could leave."""
        run = self._run
        at, booked = self._turn.at, True
        while not run.nothing_leaves:
            now = anyio.current_time()
            if booked and now >= at:
                if not run.pacer.void(at, now):
                    at = run.pacer.depart(at, now, self._turn.costs)
                    if at <= now:
                        return True
                else:
                    # The place that was booked passes unused.
                    at, booked = now, False
            if not booked:
                another = await self._another(at)
                if another is None:
                    return False
                at, booked = another
            with anyio.CancelScope(deadline=at if booked else at - run.pacer.lead_s) as scope:
                run.waiting.add(scope)
                await anyio.sleep_forever()
            run.waiting.discard(scope)
        return False

    async def _another(self, at: float) -> Claimed | None:
        """Another place, booked or to be asked for again; None when the run was stopped, also while this was asked."""
        run = self._run
        if run.stop.asked:
            return None
        try:
            another = await claim(run.pacer, at, self._turn.costs)
        except LedgerError as error:
            run.end(error, "failed")
            return None
        return another if another[1] or not run.stop.asked else None

    async def _send(self, partial: Partial) -> Again | None:
        """Send the request, and record whatever comes of it."""
        run = self._run
        request = self._todo.request
        sink = ImageSink(partial)
        failure: ProviderError | None = None
        trouble: StoreError | None = None
        made: Made | None = None
        with anyio.CancelScope() as scope:
            run.scopes.add(scope)
            try:
                made = await run.client.generate(
                    request, model=self._model, sink=sink, on_headers=self._heed, uploads=self._turn.uploads
                )
            except ProviderError as error:
                failure = error
            except StoreError as error:
                trouble = error
        run.scopes.discard(scope)
        if made is not None:
            try:
                await self._keep(made, sink)
                return None
            except BadImage as error:
                failure = spoilt(error, made)
            except Lost as error:
                # It was received, and is gone with whoever had it.
                failure = error
            except StoreError as error:
                # Whole on disk or nearly: it is left for the next run to look at.
                run.end(error, "failed")
                return None
        if trouble is not None:
            # Before anything is awaited: with a disk that refuses, nothing further may leave.
            run.end(trouble, "failed")
        partial.discard()
        if failure is None:
            reason = trouble.message if trouble else "stopped while this request was under way"
            failure = Lost(reason, code="store_failed" if trouble else "interrupted")
        return await self._fail(failure, made.envelope.usage_json if made else None)

    async def _never_sent(self, message: str) -> None:
        """The request is on record and was not sent after all: the task stays planned, with no doubt."""
        run = self._run
        todo, answer = self._todo, Answer(error_code=NOT_SENT, error_message=message)
        await run.writer.unsaved(
            self._id, Event.BACKOFF, task_id=todo.task_id, answer=answer, cost=None, now_ms=run.now_ms()
        )
        run.budget.settle(self._reservation, 0)
        run.emit(events.AttemptFailed(todo.name, self._id, "planned", NOT_SENT, message, None, None, 0, 0, None))

    async def _keep(self, made: Made, sink: ImageSink) -> None:
        """The answer has ended: flush its image, record it, name it, record that, settle.

        Raises:
            BadImage: it is not the image that was asked for.
            StoreError, LedgerError: what is on record and on disk stays as it is, for the next run.
        """
        run = self._run
        latency_s = anyio.current_time() - self._since
        run.places.answered(latency_s)
        self._meter(made.envelope.usage)
        cost = self._cost(made.envelope.usage, made.envelope.usage_json)
        answer = Answer(made.request_id, made.http_status, round(latency_s * 1000))
        if run.landing.is_remote:
            file = await self._keep_afar(sink, answer, cost)
        else:
            file = await run.writer.through(self._steps(sink, answer, cost, run.now_ms()))
        run.budget.settle(self._reservation, cost.microusd)
        run.breaker.image()
        run.emit(
            events.Saved(
                self._todo.name,
                self._id,
                file.path,
                self._todo.prompt_id,
                self._model,
                file.bytes,
                latency_s,
                cost.microusd,
                cost.basis,
            )
        )

    def _steps(self, sink: ImageSink, answer: Answer, cost: Cost, now_ms: int) -> Steps[File]:
        """The order of writes, in the ledger's thread: from the first on, the next run takes the image over."""
        run = self._run
        file = self._sealed(sink)
        yield run.writer.received(self._id, answer=answer, cost=cost, file=file)
        self._billed_microusd = cost.microusd
        self._place(file.path)
        yield self._saved(file, now_ms)
        return file

    async def _keep_afar(self, sink: ImageSink, answer: Answer, cost: Cost) -> File:
        """The same order where a name is given over a network: the ledger's thread does not wait for that."""
        run = self._run
        file = await anyio.to_thread.run_sync(self._sealed, sink, limiter=run.placing)
        await run.writer.commit(run.writer.received(self._id, answer=answer, cost=cost, file=file))
        self._billed_microusd = cost.microusd
        await anyio.to_thread.run_sync(self._place, file.path, limiter=run.placing)
        await run.writer.commit(self._saved(file, run.now_ms()))
        return file

    def _sealed(self, sink: ImageSink) -> File:
        """What goes on record of an image that is whole and flushed; raises BadImage where it is another."""
        sealed, request = sink.seal(), self._todo.request
        if not fits(sealed, request.pixels, request.output_format):
            raise BadImage(misfit(sealed, request), code="wrong_image")
        return file_of(sealed, self._run.store.path(self._todo.name))

    def _place(self, path: str) -> None:
        run = self._run
        if run.store.occupied(path):
            make_room(run.ledger, run.store, path)
        run.landing.place(self._id, path)

    def _saved(self, file: File, now_ms: int) -> Change:
        run = self._run
        return run.writer.saved(
            self._id,
            task_id=self._todo.task_id,
            file=file,
            model=self._model,
            simulated=run.settings.simulated,
            now_ms=now_ms,
        )

    async def _fail(self, error: ProviderError, usage_json: str | None = None) -> Again | None:
        """The attempt brought no image: decide, record, settle."""
        run = self._run
        todo = self._todo
        if isinstance(error, ModelGone) and self._take_fallback(self._model, error):
            decision: retry.Decision = retry.TryAgain(delay_s=0.0)
            tally = self._work.tally
        else:
            tally = self._work.tally if run.breaker.spares(error) else self._work.tally.plus(error)
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
        told = is_told(error)
        doubtful = is_doubtful(error)
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
            if self._billed_microusd is None:
                run.budget.doubt(self._reservation)
            else:
                run.budget.settle(self._reservation, self._billed_microusd)
        else:
            event, status = ending_of(decision)
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
                spent.microusd if spent else self._billed_microusd or 0,
                self._reservation.amount_microusd if doubtful and self._billed_microusd is None else 0,
                decision.delay_s if again and isinstance(decision, retry.TryAgain) else None,
            )
        )
        if again and isinstance(decision, retry.TryAgain):
            return Again(replace(self._work, tally=tally), decision.delay_s)
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
            run.pacer.slow_down(anyio.current_time(), hold_s, self._since)
            run.emit(events.Held(hold_s, error.message))
        too_many = run.breaker.failure(error, final=not again or (is_doubtful(error) and run.settings.hold_doubt))
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
        return cost_of(self._run.quoter, self._model, usage, usage_json, self._reservation.amount_microusd)

    def _meter(self, usage: Usage | None) -> None:
        """What an answer took in tokens corrects what is booked for the next of its kind."""
        if usage is not None and usage.is_told:
            used = usage.input_tokens + usage.output_tokens
            self._run.meter.told(kind_of(self._todo.request, self._model), self._turn.quoted_tokens, used)

    def _heed(self, told: Mapping[str, Heard]) -> None:
        for gate, heard in told.items():
            self._run.pacer.heed(anyio.current_time(), gate, heard)
        self._run.places.per_minute = self._run.pacer.per_minute
