"""Brings a sealed batch to the provider: uploaded, created, and on record with its id there. Once, whatever is killed.

Owns the order of those steps, each on record before the next begins, and what is done when nobody knows whether a step
took place. Refuses to know what is in a batch.

An upload may be repeated: a file costs nothing. A batch may not. Where it is not known whether one was created, it is
looked for among all batches, by its file and by its token; where it is not found after a while, its file is taken away,
so that a request which is still on its way finds nothing to run, it is looked for once more, and only then is the file
sent anew.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import suppress

from runner.engine import events
from runner.engine.batch.common import Desk, in_thread, told_of
from runner.errors import Lost, ModelGone, ProviderError, Retryable, StopRun
from runner.ledger import Answer, Batch
from runner.provider import BatchInfo, NoSuch
from runner.rules import retry
from runner.rules.batching import QUEUE_FULL

PATIENCE_S = (0.0, 1.0, 3.0, 6.0)
"""How long to wait before each look for a batch that may have been created."""
_MARGIN_S = 3600
"""Clocks differ: a batch that was made longer than this before ours was begun cannot be ours."""
_OLDER = 200
"""Batches that cannot be ours, after which a list that is in order has no more of ours."""
_MAX_NAME = 512


class Sender:
    """Sends the batches of one run."""

    def __init__(self, desk: Desk, *, patience_s: Sequence[float] = PATIENCE_S) -> None:
        self._desk = desk
        self._patience_s = patience_s
        self.queue_full: str | None = None
        """The provider's words, once it has refused a batch because too much is enqueued."""
        self._lost = "its run ended before it was known"
        """What was said instead of an answer, the last time that a batch was to be created."""

    def forget(self) -> None:
        """What was said of the queue is of the past."""
        self.queue_full = None

    async def send(self, number: int, *, found: bool = False) -> bool:
        """Go on with a batch from wherever it is; whether another may be sent after it.

        `found` is for one that a dead run has left: its file may lie there already.

        Raises:
            ProviderError: the provider does not answer; what is on record stays, and the next run goes on from there.
            StoreError: its file cannot be read.
        """
        desk = self._desk
        sent_anew = False
        not_created = 0
        while True:
            batch = await in_thread(desk.ledger.batches.one, number)
            match batch.state:
                case "sealed":
                    if not_created >= desk.terms.policy.attempts:
                        raise Retryable(f"the batch was not created: {self._lost}", code="batch_not_created")
                    if not await self._upload(batch, look_first=found):
                        return True
                case "uploaded":
                    await in_thread(desk.ledger.batches.creating, number)
                    try:
                        if not await self._create(batch):
                            return self.queue_full is None and not desk.stop.asked
                    except NoSuch as error:
                        if sent_anew:
                            await self._refused(batch, error)
                            return False
                        # Its file has expired there, or was deleted.
                        sent_anew, found = True, False
                        await in_thread(desk.ledger.batches.not_created, number)
                case "creating":
                    if not await self._search(batch):
                        return False
                    # Where it was found, this is not come to again; else its file may not have been taken away.
                    found = True
                    not_created += 1
                case _:
                    return not desk.stop.asked

    async def _upload(self, batch: Batch, *, look_first: bool) -> bool:
        """Send its file; False where that is gone, and the batch with it."""
        desk = self._desk
        path = desk.store.batches.path(batch.id)
        filename = f"runner-{batch.token}.jsonl"
        if look_first:
            file_id = await self._lies_there(filename, batch.bytes)
            if file_id is not None:
                await in_thread(lambda: desk.ledger.batches.uploaded(batch.id, file_id))
                return True
        if not path.is_file() or path.stat().st_size != batch.bytes:
            await self.dissolve(batch, Answer(error_code="file_missing", error_message=f"{path} is not there any more"))
            return False
        file = await desk.persist(
            lambda: desk.api.upload(path, filename=filename, purpose="batch", media_type="application/jsonl")
        )
        await in_thread(lambda: desk.ledger.batches.uploaded(batch.id, file.id))
        return True

    async def _lies_there(self, filename: str, size_bytes: int) -> str | None:
        """The id of a file that a dead run has sent; where the provider does not tell, it is sent again."""
        with suppress(ProviderError):
            async for file in self._desk.api.files("batch"):
                if file.filename == filename and file.bytes == size_bytes:
                    return file.id
        return None

    async def _create(self, batch: Batch) -> bool:
        """Have it created; False where the provider has refused it, and it is dissolved.

        Where that is not known, it stays on record as being created.

        Raises:
            NoSuch: its file does not lie there.
            ProviderError: it was certainly not created, and will not be now: it is on record as uploaded.
        """
        desk = self._desk
        tally = retry.Tally()
        metadata = {
            "runner_job": desk.job.name[:_MAX_NAME],
            "runner_run": str(batch.run_id),
            "runner_batch": batch.token,
        }
        while True:
            try:
                info = await desk.api.create(
                    input_file_id=batch.input_file_id or "", endpoint=batch.endpoint, metadata=metadata
                )
            except Lost as error:
                self._lost = error.message
                return True
            except Retryable as error:
                tally = tally.plus(error)
                decision = retry.decide(error, tally, desk.terms.policy, desk.jitter())
                if error.code != QUEUE_FULL:
                    if not isinstance(decision, retry.TryAgain) or desk.stop.asked:
                        await in_thread(lambda: desk.ledger.batches.uploaded(batch.id, batch.input_file_id or ""))
                        raise
                    desk.emit(events.Held(decision.delay_s, error.message))
                    await desk.pause(decision.delay_s)
                    continue
                await self._refused(batch, error)
                return False
            except NoSuch:
                raise
            except ProviderError as error:
                await self._refused(batch, error)
                return False
            await self._has(batch, info, found=False)
            return True

    async def _refused(self, batch: Batch, error: ProviderError) -> None:
        desk = self._desk
        await self.dissolve(batch, Answer(error.request_id, error.http_status, None, error.code, error.message))
        if error.code == QUEUE_FULL:
            self.queue_full = error.message
        elif isinstance(error, ModelGone) and desk.terms.fallback_model not in (None, batch.model):
            desk.quoter.replace(batch.model, desk.terms.fallback_model or "")
        else:
            desk.end(not_taken(error.message, error.code, error.hint), "provider")

    async def _search(self, batch: Batch) -> bool:
        """Find out whether it was created: afterwards it is on record as submitted, or as to be uploaded again.

        False when the run was stopped before that was known: it stays on record as being created.
        """
        desk = self._desk
        for wait_s in self._patience_s:
            await desk.pause(wait_s)
            info = await self._find(batch)
            if info is not None:
                await self._has(batch, info, found=True)
                return True
            if desk.stop.asked:
                return False
        with suppress(ProviderError):
            await desk.api.delete(batch.input_file_id or "")
        info = await self._find(batch)
        if info is not None:
            await self._has(batch, info, found=True)
        else:
            await in_thread(desk.ledger.batches.not_created, batch.id)
        return True

    async def _find(self, batch: Batch) -> BatchInfo | None:
        desk = self._desk
        oldest = batch.created_ms / 1000 - _MARGIN_S

        async def look() -> BatchInfo | None:
            older = 0
            async for info in desk.api.batches():
                if info.input_file_id == batch.input_file_id or info.metadata.get("runner_batch") == batch.token:
                    return info
                # Not at the first of them: not every list is in order.
                older += 0 < info.created_at < oldest
                if older > _OLDER:
                    break
            return None

        return await desk.persist(look)

    async def _has(self, batch: Batch, info: BatchInfo, *, found: bool) -> None:
        """The provider has it."""
        desk = self._desk

        def record() -> int:
            now_ms = desk.now_ms()
            # A provider that does not say when it was created has just heard of it.
            submitted_ms = info.created_at * 1000 or now_ms
            desk.ledger.batches.submitted(batch.id, info.id, told_of(info), submitted_ms=submitted_ms, now_ms=now_ms)
            desk.store.batches.drop(batch.id)
            return desk.ledger.batches.reserved(batch.id)

        reserved_microusd = await in_thread(record)
        expires = None if info.expires_at is None else dt.datetime.fromtimestamp(info.expires_at, dt.UTC)
        desk.emit(
            events.BatchSubmitted(
                batch.id,
                info.id,
                batch.model,
                batch.endpoint,
                batch.requests,
                reserved_microusd,
                None if expires is None else expires.isoformat(timespec="seconds"),
                found,
            )
        )

    async def dissolve(self, batch: Batch, answer: Answer) -> None:
        """Nothing of it was run, and nothing of it will be: its requests are planned again."""
        desk = self._desk

        def undo() -> tuple[int, int]:
            reserved_microusd = desk.ledger.batches.reserved(batch.id)
            count = desk.ledger.batches.dissolve(batch.id, answer, now_ms=desk.now_ms())
            desk.store.batches.drop(batch.id)
            return reserved_microusd, count

        reserved_microusd, count = await in_thread(undo)
        desk.release(batch, reserved_microusd)
        if answer.error_code is not None:
            desk.emit(
                events.BatchNotRun(batch.id, batch.batch_id, answer.error_code, answer.error_message or "", count)
            )


def not_taken(message: str, code: str, hint: str | None) -> StopRun:
    """The error of a run whose batches the provider does not take: another would not be taken either."""
    return StopRun(
        f"the provider did not run a batch ({code}: {message})",
        code=code,
        hint=hint or "nothing of it was made or billed; mend what it complains of, or use `--delivery online`",
    )
