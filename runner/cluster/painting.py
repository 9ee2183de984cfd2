"""In the driver: the engine's hands, which have renditions made on the nodes of a cluster.

Owns that what a dead node was making is made on another. Composites stay with the processes of this machine: they need
the files that the manifest names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from runner.cluster.crew import Crew, Gone, Kind
from runner.cluster.joining import Cluster
from runner.cluster.messages import Unmade
from runner.cluster.painter import QUEUE, Painter
from runner.cluster.sending import seen
from runner.engine.hands import LocalHands, Put, Targets, local_hands
from runner.errors import InputError
from runner.renditions import Recipe
from runner.store import Store

_TRIES = 3
"""Nodes that may die over one asset before it is given up: it may be what kills them."""
_LEAST = 32
"""Questions at a time at least: nodes may come."""


class NodeHands:
    """Painters on all nodes, and worker processes for composites."""

    def __init__(self, crew: Crew, count: int, local: LocalHands) -> None:
        self._crew = crew
        self._local = local
        self.count = count

    async def render(self, asset: str, recipes: Sequence[Recipe], targets: Targets) -> Sequence[bytes | Put]:
        """See `engine.hands.Hands`: the files lie in the store when this returns."""
        told = [recipe.told() for recipe in recipes]
        paths: Sequence[str] | None = None
        for _ in range(_TRIES):
            member = await self._crew.choose()
            try:
                # With the node, not before: what waits for one holds no names.
                paths = paths or await targets()
                made: list[Put] | Unmade = await self._crew.ask(member, "render", asset, told, list(paths))
            except Gone:
                continue
            finally:
                self._crew.done(member)
            if isinstance(made, Unmade):
                raise InputError(made.message)
            return made
        raise InputError(f"{_TRIES} nodes died while they worked on {asset}", hint="is there enough memory on them?")

    async def paste(self, base: Path, recipe: str, asset: str) -> bytes:
        """See `engine.hands.Hands`."""
        return await self._local.paste(base, recipe, asset)


@asynccontextmanager
async def painting(
    cluster: Cluster, store: Store, *, most_workers: int, warn: Callable[[str], None]
) -> AsyncIterator[NodeHands]:
    """A painter for each processor of the cluster for the block; they begin while it goes on, as nodes come.

    Raises:
        InputError: the cluster has no processors.
        StoreError: the store cannot be written.
    """
    nodes = await anyio.to_thread.run_sync(cluster.nodes)
    cpus = sum(node.cpus for node in nodes)
    if not cpus:
        raise InputError("the cluster has no processors for renditions", hint="see `ray status`")
    async with seen(store) as place, local_hands(store, most_workers) as local:
        kind = Kind("renditions", Painter, (place,), cpus=1, at_once=1, count=lambda node: node.cpus)
        crew = Crew(cluster, kind, warn=warn)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(crew.run)
                yield NodeHands(crew, max(_LEAST, cpus * QUEUE * 2), local)
                group.cancel_scope.cancel()
        finally:
            crew.close()
