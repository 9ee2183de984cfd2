"""One line of a batch's results: what it means for its task, its money and the run.

Owns the order of writes for an image that came in a batch, and what is on record of one that did not come. Refuses to
know how lines are read: `collecting` does.
"""

from __future__ import annotations

from runner.engine import events
from runner.engine.batch.common import Desk, in_thread
from runner.engine.outcome import cost_of, ending_of, is_doubtful, is_told, misfit, spoilt
from runner.engine.recovery import file_of, fits, make_room
from runner.engine.sink import ImageSink
from runner.errors import Expired, ModelGone, ProviderError, RateLimited, Retryable, StopRun, Unusable, Usage
from runner.ledger import Answer, Batch, Change, Cost, File, Member, Steps
from runner.provider import Line, Made
from runner.rules import retry
from runner.store import BadImage
from runner.tasks import Event


class Settler:
    """Settles the requests of batches in one run."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.stops: StopRun | None = None
        """What an answer said that concerns every further request."""

    def concerns_everyone(self, error: StopRun) -> None:
        """Nothing is submitted after this; the first one counts."""
        self.stops = self.stops or error

    async def settle(self, batch: Batch, line: Line, attempt_id: int, sink: ImageSink | None) -> None:
        """Give a request its ending, from the line that answers it; a line that proves to be none of ours is let go.

        Raises:
            StoreError, LedgerError: nothing is on record of it; the next run reads the line again.
        """
        desk = self._desk
        member = await in_thread(desk.ledger.batches.member, attempt_id)
        if member is None or member.batch != batch.id or (line.custom_id or "")[-16:] != member.key[:16]:
            return
        error = None if line.error is None else in_our_words(batch, line.error)
        made = line.made
        if error is None and made is not None:
            if sink is not None:
                try:
                    await self._keep(member, made, sink)
                    return
                except BadImage as bad:
                    error = spoilt(bad, made)
            else:
                error = Unusable("the line has no image", code="no_data", usage=made.envelope.usage)
        if error is not None:
            await self.fail(member, error, made.envelope.usage_json if made else None)

    async def _keep(self, member: Member, made: Made, sink: ImageSink) -> None:
        """Flush the image, name it, record it, settle.

        Raises:
            BadImage: it is not the image that was asked for.
        """
        desk = self._desk
        cost = self._cost(member, made.envelope.usage, made.envelope.usage_json)
        answer = Answer(made.request_id, made.http_status)
        if desk.store.is_remote:
            # The ledger's thread does not wait for a network.
            file = await in_thread(self._placed, member, sink)
            await desk.writer.commit(self._saved(member, answer, cost, file))
        else:
            file = await desk.writer.through(self._steps(member, sink, answer, cost))
        desk.settle(member, cost.microusd)
        desk.emit(
            events.Saved(
                member.name,
                member.attempt_id,
                file.path,
                member.prompt_id,
                member.model,
                file.bytes,
                None,
                cost.microusd,
                cost.basis,
                member.batch,
            )
        )

    def _steps(self, member: Member, sink: ImageSink, answer: Answer, cost: Cost) -> Steps[File]:
        """The order of writes, in the ledger's thread; before the last of them, the next run reads the line again."""
        file = self._placed(member, sink)
        yield self._saved(member, answer, cost, file)
        return file

    def _placed(self, member: Member, sink: ImageSink) -> File:
        desk = self._desk
        sealed, request = sink.seal(), member.request
        if not fits(sealed, request.pixels, request.output_format):
            raise BadImage(misfit(sealed, request), code="wrong_image")
        if member.wanted:
            path = desk.store.path(member.name)
            make_room(desk.ledger, desk.store, path, keep_sha256=sealed.sha256)
        else:
            # The manifest was edited meanwhile. It is paid for, and its name may be another image's now.
            path = desk.store.superseded(member.name, tag=f"late-{member.attempt_id}", sha256=sealed.sha256)
        if not desk.store.occupied(path):
            desk.store.place_line(sink.partial, path)
        return file_of(sealed, path)

    def _saved(self, member: Member, answer: Answer, cost: Cost, file: File) -> Change:
        desk = self._desk
        return desk.ledger.batches.saved(
            member, answer=answer, cost=cost, file=file, run_id=desk.run_id, now_ms=desk.now_ms()
        )

    def _cost(self, member: Member, usage: Usage | None, usage_json: str | None) -> Cost:
        return cost_of(self._desk.quoter, member.model, usage, usage_json, member.reserved_microusd)

    async def fail(self, member: Member, error: ProviderError, usage_json: str | None = None) -> None:
        """A line brought no image: decide, record, settle."""
        desk = self._desk
        answer = Answer(error.request_id, error.http_status, None, error.code, error.message)
        told, doubtful = is_told(error), is_doubtful(error)
        usage = error.usage if isinstance(error, Unusable) else None
        spent = self._cost(member, usage, usage_json) if told else None
        again, event, status = True, Event.EXPIRED, "planned"
        if not isinstance(error, Expired):
            unbilled, billed = await in_thread(desk.ledger.batches.tally, member.task_id)
            # In a line, "slower" asks nobody to wait: it is an attempt like any other, or it would never end.
            judged = Retryable(error.message, code=error.code) if isinstance(error, RateLimited) else error
            tally = retry.Tally(unbilled, billed).plus(judged)
            decision = retry.decide(judged, tally, desk.terms.policy, desk.jitter())
            again = isinstance(decision, retry.TryAgain)
            event, status = ending_of(decision)
            if isinstance(error, StopRun):
                self._heed(member, error)
        if doubtful:
            again = again and not desk.terms.hold_doubt
            status = "planned" if again else "in_doubt"
            await desk.writer.commit(
                desk.ledger.batches.lost(
                    member, answer=answer, try_again=again, run_id=desk.run_id, now_ms=desk.now_ms()
                )
            )
            desk.doubt(member)
        else:
            await desk.writer.commit(
                desk.ledger.batches.unsaved(
                    member, event, answer=answer, cost=spent, run_id=desk.run_id, now_ms=desk.now_ms()
                )
            )
            desk.settle(member, spent.microusd if spent else 0)
        desk.emit(
            events.AttemptFailed(
                member.name,
                member.attempt_id,
                status,
                error.code,
                error.message,
                error.http_status,
                error.request_id,
                spent.microusd if spent else 0,
                member.reserved_microusd if doubtful else 0,
                None,
                member.batch,
            )
        )

    def _heed(self, member: Member, error: StopRun) -> None:
        """What holds for every further request: no batch is submitted after it, unless another model can take over."""
        desk = self._desk
        fallback = desk.terms.fallback_model
        if isinstance(error, ModelGone) and fallback not in (None, member.model):
            desk.quoter.replace(member.model, fallback or "")
        else:
            self.concerns_everyone(error)


def in_our_words(batch: Batch, error: ProviderError) -> ProviderError:
    """What was cancelled because it took too long is made in another way; what a person has cancelled is not."""
    if isinstance(error, Expired) and error.code == "batch_cancelled" and batch.given_up_ms is not None:
        return Expired("its batch took too long, and was given up before its turn", code="batch_given_up")
    return error
