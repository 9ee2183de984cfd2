"""Composites: the masked part of an answer pasted back onto its original, while the run goes on.

Owns which are made when: whatever is done and lacks its own, in the order in which assets came, those of earlier runs
first. Refuses to know how pixels are pasted (`inputs`), and to keep a request waiting: worker processes do the work.
A composite that cannot be made is told, and leaves the image as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from runner.engine.events import Composed, Listener, Warned
from runner.errors import InputError, RunnerError
from runner.inputs.worker import question
from runner.ledger import Job, Ledger, Rendition, Wanting
from runner.store import Store

MOST_WORKERS = 4
"""Worker processes at most; each has a picture or two in memory."""
MOST_TOLD = 5
"""Failures that are told one by one; all of them are counted."""
PAGE = 32
_MOST_HEAD_BYTES = 1 << 16
_COMMAND = [sys.executable, "-m", "runner.inputs.worker"]
_NO_ANSWER = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    ValueError,
)
"""What reading from a process comes to that has died, or says something else."""


class Compositor:
    """Makes the composites of one job; `made` and `failed` count those of this run."""

    def __init__(
        self, *, ledger: Ledger, store: Store, job: Job, base: Path, emit: Listener, now_ms: Callable[[], int]
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._job = job
        self._base = base.absolute()
        self._emit = emit
        self._now_ms = now_ms
        self._last = 0
        self._more = anyio.Event()
        self._ending = False
        self.made = 0
        self.failed = 0

    def saved(self) -> None:
        """Another image is done."""
        self._more.set()

    def end(self) -> None:
        """No further image comes: `run` returns when all of them have been looked at."""
        self._ending = True
        self._more.set()

    async def run(self) -> None:
        """Make what is lacking, and go on as images are done, until `end`.

        Raises:
            RunnerError: the ledger or the disk failed.
        """
        await anyio.to_thread.run_sync(self._forget_missing)
        async with _workers() as workers:
            while True:
                self._more, ending = anyio.Event(), self._ending
                # Asked first: what comes while these are looked through is looked at the next time.
                newest = await anyio.to_thread.run_sync(self._ledger.newest_asset)
                while page := await anyio.to_thread.run_sync(self._ledger.wanting, self._job, self._last, PAGE):
                    self._last = page[-1].asset_id
                    async with anyio.create_task_group() as group:
                        for item in page:
                            group.start_soon(self._make, item, workers)
                self._last = max(self._last, newest)
                if ending:
                    return
                await self._more.wait()

    def _forget_missing(self) -> None:
        """What someone has removed, to have it again or by mistake, is wanted again."""
        for page in self._ledger.renditions(self._job):
            missing = [number for number, path, length in page if not self._store.has(path, length)]
            if missing:
                self._ledger.forget(missing)

    async def _make(self, item: Wanting, workers: _Workers) -> None:
        try:
            data = await workers.paste(self._base, item.recipe, (self._store.output / item.path).absolute())
            path = await anyio.to_thread.run_sync(self._keep, item, data)
        except RunnerError as error:
            self.failed += 1
            if self.failed <= MOST_TOLD:
                self._emit(Warned(f"the composite of {item.name} could not be made: {error}"))
        else:
            self.made += 1
            self._emit(Composed(item.name, path))

    def _keep(self, item: Wanting, data: bytes) -> str:
        path = self._store.composite_path(item.name)
        self._store.put(path, data)
        made = Rendition(path, hashlib.sha256(data).hexdigest(), len(data))
        self._ledger.rendered(item, made, now_ms=self._now_ms())
        old = item.old_path
        if old is not None and old != path and not self._ledger.is_rendition(old, but_task=item.task_id):
            self._store.release(old)
        return path


class _Workers:
    """Processes that paste, each begun when there is work for it; they end with whoever began them, however that ends.

    Not `anyio.to_process`: that runs the main program's module once more in each worker, and a script of a user that
    calls `runner.run` without a guard would be run again.
    """

    def __init__(self) -> None:
        self._room = anyio.Semaphore(min(MOST_WORKERS, os.cpu_count() or 1))
        self._idle: list[anyio.abc.Process] = []
        self._all: set[anyio.abc.Process] = set()

    async def paste(self, base: Path, recipe: str, answer: Path) -> bytes:
        """A composite, as PNG.

        Raises:
            InputError: it cannot be made.
        """
        async with self._room:
            process = self._idle.pop() if self._idle else await self._begin()
            try:
                told, data = await _ask(process, question(base, recipe, answer))
            except _NO_ANSWER as error:
                await self._end(process)
                raise InputError("the process that pastes has died", hint="is there enough memory?") from error
            except BaseException:
                # In the middle of an answer: what it says next would be taken for another's.
                process.kill()
                raise
            self._idle.append(process)
        if "error" in told:
            raise InputError(str(told["error"]))
        return data

    async def _begin(self) -> anyio.abc.Process:
        try:
            # A session of its own: Ctrl-C is for the run.
            process = await anyio.open_process(_COMMAND, stderr=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            raise InputError(f"no process that pastes could be begun: {error}") from error
        self._all.add(process)
        return process

    async def _end(self, process: anyio.abc.Process) -> None:
        self._all.discard(process)
        if process.returncode is None:
            process.kill()
        await process.aclose()

    async def close(self) -> None:
        """End all of them."""
        for process in tuple(self._all):
            await self._end(process)


@asynccontextmanager
async def _workers() -> AsyncIterator[_Workers]:
    workers = _Workers()
    try:
        yield workers
    finally:
        with anyio.CancelScope(shield=True):
            await workers.close()


async def _ask(process: anyio.abc.Process, text: bytes) -> tuple[dict[str, object], bytes]:
    """What a process says, and the bytes that come with it."""
    if process.stdin is None or process.stdout is None:
        raise anyio.BrokenResourceError
    await process.stdin.send(text)
    stream = BufferedByteReceiveStream(process.stdout)
    told = json.loads(await stream.receive_until(b"\n", _MOST_HEAD_BYTES))
    if not isinstance(told, dict):
        raise ValueError(f"not an answer: {told!r}")
    length = told.get("bytes", 0)
    return told, await stream.receive_exactly(length) if length else b""
