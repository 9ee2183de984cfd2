"""Who makes what is derived from images: the worker processes of this machine, or others that are given here.

Owns what is asked of them. Refuses to know what is wanted, and to put anything on record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

from runner.engine.workers import Workers, workers
from runner.renditions import Recipe
from runner.renditions.worker import pasting, rendering
from runner.store import Store


@dataclass(frozen=True, slots=True)
class Put:
    """A file that was made and lies in the store already, at `path` (relative to the output place)."""

    path: str
    sha256: str
    bytes: int


Targets = Callable[[], Awaitable[Sequence[str]]]
"""Where files are to lie, for hands that put them there themselves; asked for when the work is about to begin."""


class Hands(Protocol):
    """Whoever makes pictures of pictures."""

    @property
    def count(self) -> int:
        """How many questions they are given at a time, at most."""
        ...

    async def render(self, asset: str, recipes: Sequence[Recipe], targets: Targets) -> Sequence[bytes | Put]:
        """The renditions of the asset at a path of the store, in the order of the recipes.

        Raises:
            RunnerError: they cannot be made.
        """
        ...

    async def paste(self, base: Path, recipe: str, asset: str) -> bytes:
        """A composite; `base` is the manifest's folder.

        Raises:
            RunnerError: it cannot be made.
        """
        ...


OpenHands = Callable[[], AbstractAsyncContextManager[Hands]]
"""Hands for a block."""


class LocalHands:
    """The worker processes of this machine: what they make comes back as bytes."""

    def __init__(self, them: Workers, store: Store) -> None:
        self._workers = them
        self._store = store

    @property
    def count(self) -> int:
        """One more than there are processes: its question is at hand when an answer has come."""
        return self._workers.count + 1

    async def render(self, asset: str, recipes: Sequence[Recipe], targets: Targets) -> Sequence[bytes | Put]:
        """See `Hands`."""
        async with self._file(asset) as file:
            return await self._workers.ask(rendering(file, recipes))

    async def paste(self, base: Path, recipe: str, asset: str) -> bytes:
        """See `Hands`."""
        async with self._file(asset) as file:
            (data,) = await self._workers.ask(pasting(base, recipe, file))
        return data

    @asynccontextmanager
    async def _file(self, path: str) -> AsyncIterator[Path]:
        """An asset as a file of this machine, for the block: there are no more copies than questions at a time."""
        found = self._store.located(path)
        if isinstance(found, Path):
            yield found.absolute()
            return
        copy = self._store.local_copy(path)
        file = await anyio.to_thread.run_sync(copy.__enter__)
        try:
            yield file
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(copy.__exit__, None, None, None)


@asynccontextmanager
async def local_hands(store: Store, most_workers: int) -> AsyncIterator[LocalHands]:
    """Worker processes for the block."""
    async with workers(most_workers) as them:
        yield LocalHands(them, store)
