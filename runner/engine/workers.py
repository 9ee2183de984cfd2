"""Worker processes for pixels: each begun when there is work for it, all ended with whoever began them.

Owns processes and pipes. Refuses to know what is asked and answered (`renditions.worker`).

Not `anyio.to_process`: that runs the main program's module once more in each worker, and a script of a user that
calls `runner.run` without a guard would be run again.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from runner.errors import InputError
from runner.renditions import worker

_MOST_HEAD_BYTES = 1 << 16
_NO_ANSWER = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    ValueError,
)
"""What reading from a process comes to that has died, or says something else."""


class Workers:
    """At most `most` processes, and no more than there are processors."""

    def __init__(self, most: int) -> None:
        self.count = max(1, min(most, os.cpu_count() or 1))
        self._room = anyio.Semaphore(self.count)
        self._idle: list[tuple[anyio.abc.Process, BufferedByteReceiveStream]] = []
        self._all: set[anyio.abc.Process] = set()

    async def ask(self, question: bytes) -> list[bytes]:
        """What a process makes of a question.

        Raises:
            InputError: it cannot be made.
        """
        async with self._room:
            process, answers = self._idle.pop() if self._idle else await self._begin()
            try:
                told, blobs = await _ask(process, answers, question)
            except _NO_ANSWER as error:
                await self._end(process)
                raise InputError("the process that makes pictures has died", hint="is there enough memory?") from error
            except BaseException:
                # In the middle of an answer: what it says next would be taken for another's.
                process.kill()
                raise
            self._idle.append((process, answers))
        if "error" in told:
            raise InputError(str(told["error"]))
        return blobs

    async def _begin(self) -> tuple[anyio.abc.Process, BufferedByteReceiveStream]:
        try:
            # A session of its own: Ctrl-C is for the run.
            process = await anyio.open_process(worker.COMMAND, stderr=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            raise InputError(f"no process that makes pictures could be begun: {error}") from error
        self._all.add(process)
        if process.stdout is None:
            raise InputError("the process that makes pictures has no pipes")
        return process, BufferedByteReceiveStream(process.stdout)

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
async def workers(most: int) -> AsyncIterator[Workers]:
    """Worker processes for the block."""
    them = Workers(most)
    try:
        yield them
    finally:
        with anyio.CancelScope(shield=True):
            await them.close()


async def _ask(
    process: anyio.abc.Process, answers: BufferedByteReceiveStream, question: bytes
) -> tuple[dict[str, object], list[bytes]]:
    """What a process says, and the bytes that come with it."""
    if process.stdin is None:
        raise anyio.BrokenResourceError
    await process.stdin.send(question)
    told = json.loads(await answers.receive_until(b"\n", _MOST_HEAD_BYTES))
    if not isinstance(told, dict):
        raise ValueError(f"not an answer: {told!r}")
    lengths = told.get("bytes", [])
    if not isinstance(lengths, list):
        raise ValueError(f"not an answer: {told!r}")
    return told, [await answers.receive_exactly(int(length)) if length else b"" for length in lengths]
