"""The work on a batch: its lines are taken in their turn, answered, billed and written.

Owns what becomes of each line. It goes the way of an online request (`validate`, `faults`, `tokens`, `studio`, `bill`),
at the price of a batch; of the online limits it uses nothing, and `latency_s` does not hold for it. Refuses to know the
states of a batch.

A few lines are worked on at a time, over all batches, and their images go to the disk as they are made: memory grows
with the number of lines by their places in the file alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runner.catalog import Catalog
from runner.simulator import lines, tokens
from runner.simulator.answers import compose
from runner.simulator.batch import Batch
from runner.simulator.bill import Bill
from runner.simulator.depot import Depot
from runner.simulator.faults import REFUSALS, Faults, Verdict, refusal
from runner.simulator.intake import Files, Intake
from runner.simulator.lines import Survey
from runner.simulator.problems import Problem
from runner.simulator.studio import Shot, Studio
from runner.simulator.tokens import Charge
from runner.simulator.validate import Order

AT_A_TIME = 4
"""Lines worked on, over all batches; and workers of each batch."""
_AT_ONCE_BYTES = 1 << 16
"""A line up to this is read where it is wanted; a longer one in a thread."""
Publish = Callable[[str, str, list[Shot], str], list[str]]
"""Has images found under URLs: the server's root, the request's id, the images, their format."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a line needs: the same as an online request."""

    catalog: Catalog
    intake: Intake
    faults: Faults
    studio: Studio
    bill: Bill
    depot: Depot
    next_sample: Callable[[object], int]
    publish: Publish


class Sheet:
    """A file that is being written, a line at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_empty = True
        # Closed by `__exit__`.
        self._file = path.open("wb")
        self._lock = asyncio.Lock()

    def __enter__(self) -> Sheet:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self.is_empty:
            self.path.unlink(missing_ok=True)

    async def write(self, studio: Studio, pieces: Iterable[bytes]) -> None:
        """Adds whole lines."""
        async with self._lock:
            await studio.run(self._write, pieces)
            self.is_empty = False

    def _write(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self._file.write(piece)
        self._file.flush()


@dataclass(frozen=True, slots=True)
class _Task:
    """A line whose turn has come."""

    custom_id: str
    order: Order
    files: Files
    verdict: Verdict
    sample: int


class Work:
    """The work on the lines of one batch."""

    def __init__(
        self,
        shop: Workshop,
        batch: Batch,
        survey: Survey,
        file: BinaryIO,
        output: Sheet,
        errors: Sheet,
        hands: asyncio.Semaphore,
    ) -> None:
        self._shop = shop
        self._batch = batch
        self._survey = survey
        self._file = file
        self._output = output
        self._errors = errors
        self._hands = hands
        self._turn = asyncio.Lock()
        self._taken = 0

    async def do(self, order: list[int], *, begin: float, time_s: float) -> None:
        """All lines in this order, spread evenly over the time (seconds of the loop's clock); less when it ends."""
        fault = self._batch.faults.get("batch_expires")
        until = len(order) if fault is None else int(len(order) * float(fault.value or 0.5))
        step_s = time_s / max(1, len(order))
        numbers = iter(order[:until])

        async def work() -> None:
            is_more = True
            while is_more:
                is_more = await self._next(numbers, begin, step_s)

        async with asyncio.TaskGroup() as workers:
            for _ in range(AT_A_TIME):
                workers.create_task(work())
        if until < len(order):
            self._batch.end("expired")

    async def _next(self, numbers: Iterator[int], begin: float, step_s: float) -> bool:
        """Works on the next line, from its place in the file to its answer; whether there was one."""
        batch = self._batch
        request_id = f"req_{secrets.token_hex(16)}"
        async with contextlib.AsyncExitStack() as open_files:
            # One after the other: with equal seeds equal lines meet equal faults.
            async with self._turn:
                number = next(numbers, None)
                if number is None:
                    return False
                self._taken += 1
                await batch.pause(begin + self._taken * step_s - asyncio.get_running_loop().time())
                if batch.ending is not None:
                    return False
                line = await self._read(number)
                custom_id: str = line["custom_id"]
                self._shop.bill.count_request()
                try:
                    task = await self._begun(custom_id, line["body"], open_files)
                except Problem as problem:
                    await self._refuse(number, custom_id, request_id, problem, self._errors)
                    return True
                del line
            await self._fulfil(number, request_id, task)
            return True

    async def _read(self, number: int) -> Any:
        ends = self._survey.ends
        if ends[number + 1] - ends[number] <= _AT_ONCE_BYTES:
            return self._survey.read(self._file, number)
        return await self._shop.studio.run(self._survey.read, self._file, number)

    async def _begun(self, custom_id: str, body: Mapping[str, Any], open_files: contextlib.AsyncExitStack) -> _Task:
        order, files = await open_files.enter_async_context(
            self._shop.intake.line(body, is_edit=self._batch.endpoint == lines.EDITS)
        )
        verdict = self._shop.faults.decide(order.prompt, "batch")
        self._shop.bill.count_faults(verdict.kinds)
        is_made = verdict.fault is None or not verdict.fault.unbilled
        sample = self._shop.next_sample(order.identity) if is_made else 0
        return _Task(custom_id, order, files, verdict, sample)

    async def _fulfil(self, number: int, request_id: str, task: _Task) -> None:
        batch, fault = self._batch, task.verdict.fault
        await batch.pause(task.verdict.delay_s)
        if task.verdict.delay_s and batch.ending is not None:
            return
        match fault.kind if fault else None:
            case "expired":
                batch.some_expired = True
                return
            case kind if fault and kind in REFUSALS:
                sheet = self._output if fault.value == "output" else self._errors
                problem = refusal(fault, task.order.asked_model)
                await self._refuse(number, task.custom_id, request_id, problem, sheet)
                return
            case "missing_line" if fault and fault.unbilled:
                pass
            case _:
                async with self._hands:
                    try:
                        await self._make(request_id, task)
                    except Problem as problem:
                        await self._refuse(number, task.custom_id, request_id, problem, self._errors)
                        return
        batch.left.discard(number)
        batch.completed += 1

    async def _refuse(self, number: int, custom_id: str, request_id: str, problem: Problem, sheet: Sheet) -> None:
        self._shop.bill.count_rejection(problem.counted_as)
        await sheet.write(self._shop.studio, [lines.refused(custom_id, request_id, problem)])
        self._batch.left.discard(number)
        self._batch.failed += 1

    async def _make(self, request_id: str, task: _Task) -> None:
        """Makes the images, bills them, and writes the line.

        Raises:
            Problem: a picture of the order proves broken when it is decoded.
        """
        batch, order, fault = self._batch, task.order, task.verdict.fault
        kind = fault.kind if fault else None
        charge = tokens.charge(order)
        shots = await self._shop.studio.make(order, task.sample, kind, task.files)
        entry = self._shop.bill.record(
            request_id=request_id,
            order=order,
            charge=charge,
            images=[shot.sha256 for shot in shots],
            delivered=kind or "faulty",
            batch_id=batch.id,
            custom_id=task.custom_id,
        )
        batch.input_tokens += charge.input_tokens
        batch.output_tokens += charge.output_tokens
        for _ in range({"missing_line": 0, "double_line": 2}.get(kind or "", 1)):
            await self._output.write(self._shop.studio, self._line(request_id, task, shots, charge))
        if kind is None:
            self._shop.bill.amend(entry, "whole")

    def _line(self, request_id: str, task: _Task, shots: list[Shot], charge: Charge) -> Iterator[bytes]:
        order, fault = task.order, task.verdict.fault
        kind = fault.kind if fault else None
        urls = self._shop.publish(self._batch.base_url, request_id, shots, order.output_format) if kind == "url" else ()
        body = compose(order, shots, created=int(time.time()), charge=charge, fault=fault, urls=urls, one_line=True)
        return lines.answered(task.custom_id, request_id, body, broken=kind == "broken_line")
