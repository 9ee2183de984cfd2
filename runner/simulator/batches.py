"""The life of a batch: validated, worked on, written out, over.

Owns its states and when they change, and the queue. Refuses to know HTTP, and what becomes of a line (`work`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
import time
from collections.abc import Mapping
from typing import BinaryIO

from runner.simulator import lines
from runner.simulator.batch import OVER, Batch
from runner.simulator.depot import DAYS_30_S, Stored
from runner.simulator.lines import Flaw, Survey
from runner.simulator.work import AT_A_TIME, Sheet, Work, Workshop

_VALIDATING, _FINALIZING = 0.1, 0.1
"""The shares of a batch's time that are not its work."""
_log = logging.getLogger("runner.simulator")


class Batches:
    """The batches of one server. Every method is for the event loop's thread."""

    def __init__(
        self, workshop: Workshop, *, seed: int, batch_time_s: float, window_s: float, queue_tokens: int | None
    ) -> None:
        self._shop = workshop
        self._seed = seed
        self._batch_time_s = batch_time_s
        self._window_s = window_s
        self._queue_tokens = queue_tokens
        self._hands = asyncio.Semaphore(AT_A_TIME)
        self._tasks: set[asyncio.Task[None]] = set()
        self.all: dict[str, Batch] = {}
        """Every batch by its id, the oldest first."""

    async def reset(self) -> None:
        """No batches any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.all.clear()

    def create(
        self,
        *,
        endpoint: str,
        stored: Stored,
        metadata: Mapping[str, str] | None,
        output_expires_after_s: int | None,
        base_url: str,
    ) -> Batch:
        """A new batch of the requests in a file, which begins to live at once."""
        now = time.time()
        batch = Batch(
            id=f"batch_{secrets.token_hex(12)}",
            endpoint=endpoint,
            input_file_id=stored.id,
            metadata=metadata,
            output_expires_after_s=output_expires_after_s or DAYS_30_S,
            born_at=now,
            expires_at=int(now + self._window_s),
            base_url=base_url,
            faults=self._shop.faults.of_batch(json.dumps(metadata or {}, sort_keys=True)),
        )
        self._shop.bill.count_faults(list(batch.faults))
        self.all[batch.id] = batch
        # Opened now: whoever deletes the file does not take it from under the batch.
        task = asyncio.create_task(self._live(batch, stored.path.open("rb"), len(self.all)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return batch

    def cancel(self, batch: Batch) -> bool:
        """Has a batch end; False when it is over."""
        if batch.status in OVER:
            return False
        if batch.end("cancelled"):
            batch.move("cancelling")
        return True

    async def _live(self, batch: Batch, file: BinaryIO, number: int) -> None:
        began = asyncio.get_running_loop().time()
        window = asyncio.get_running_loop().call_later(self._window_s, batch.end, "expired")
        new_path = self._shop.depot.new_path
        try:
            with file, Sheet(new_path()) as output, Sheet(new_path()) as errors:
                survey = await self._shop.studio.run(lines.survey, file, batch.endpoint, self._shop.catalog)
                batch.survey = survey
                await batch.pause(self._batch_time_s * _VALIDATING)
                if flaws := self._flaws(batch, survey):
                    batch.flaws = flaws
                    batch.move("failed")
                    return
                batch.left = set(range(survey.lines))
                await self._stay(batch, "validating")
                if batch.ending is None:
                    batch.total = survey.lines
                    batch.move("in_progress")
                    await self._stay(batch, "in_progress")
                    order = list(range(survey.lines))
                    random.Random(f"batch/{self._seed}/{number}").shuffle(order)  # noqa: S311 - repeatable, not secret
                    await Work(self._shop, batch, survey, file, output, errors, self._hands).do(
                        order, begin=began + self._batch_time_s * _VALIDATING, time_s=self._work_time_s
                    )
                await self._finish(batch, survey, file, output, errors)
        except Exception:
            _log.exception("the simulator failed in batch %s", batch.id)
            batch.flaws = (Flaw("server_error", "The simulator itself failed; its log says why."),)
            batch.move("failed")
        finally:
            window.cancel()

    @property
    def _work_time_s(self) -> float:
        return self._batch_time_s * (1 - _VALIDATING - _FINALIZING)

    async def _stay(self, batch: Batch, status: str) -> None:
        fault = batch.faults.get("batch_stuck")
        if fault is not None and (fault.value or "in_progress") == status:
            await batch.ended.wait()

    def _flaws(self, batch: Batch, survey: Survey) -> tuple[Flaw, ...]:
        if survey.flaws:
            return survey.flaws
        fault = batch.faults.get("batch_fails")
        code, _, line = (fault.value or "invalid_request" if fault else "").partition("@")
        enqueued = sum(
            other.survey.prompt_tokens
            for other in self.all.values()
            if other.total and other.status not in OVER and other.survey and other.survey.model == survey.model
        )
        limit = self._queue_tokens
        if code == "token_limit_exceeded" or (limit is not None and enqueued + survey.prompt_tokens > limit):
            message = (
                f"Enqueued token limit reached for {survey.model} in organization org-simulator. "
                f"Limit: {limit or survey.prompt_tokens:,} enqueued tokens. "
                "Please try again once some in_progress batches have been completed."
            )
            return (Flaw("token_limit_exceeded", message),)
        if code:
            return (Flaw(code, "The batch failed (as was asked for).", line=int(line) if line else None),)
        return ()

    async def _finish(self, batch: Batch, survey: Survey, file: BinaryIO, output: Sheet, errors: Sheet) -> None:
        if batch.ending is None:
            batch.move("finalizing")
            await batch.pause(self._batch_time_s * _FINALIZING)
            await self._stay(batch, "finalizing")
        elif batch.ending == "cancelled":
            # It has ended: there is nothing left that could cut this short.
            await asyncio.sleep(self._batch_time_s * _FINALIZING)
        status = batch.ending or ("expired" if batch.some_expired else "completed")
        told = {"expired": "batch_hides" not in batch.faults, "cancelled": "batch_tells" in batch.faults}
        if told.get(status) and batch.left:
            pieces = lines.unreached(survey, file, sorted(batch.left), f"batch_{status}")
            await errors.write(self._shop.studio, pieces)
        batch.output_file_id = self._filed(batch, output, "output")
        batch.error_file_id = self._filed(batch, errors, "error")
        batch.move(status)

    def _filed(self, batch: Batch, sheet: Sheet, what: str) -> str | None:
        if sheet.is_empty:
            return None
        stored = self._shop.depot.keep(
            sheet.path,
            filename=f"{batch.id}_{what}.jsonl",
            purpose="batch_output",
            expires_after_s=batch.output_expires_after_s,
        )
        return stored.id
