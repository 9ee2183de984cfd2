"""The sole importer of `ray`: requests and renditions made by actors on the nodes of a cluster.

Owns which node does what, and what the death of one means. Refuses to know the ledger, the plan, the pace and the
budget: they stay with the driver, the process that a person started.

    joining    the cluster, and its nodes
    crew       actors of one kind on all nodes: recruited, asked, mourned
    messages   what driver and nodes say to each other
    sender     on a node: requests, received into the store
    sending    in the driver: the engine's `Generator` and `Landing`, which speak to senders
    painter    on a node: renditions
    painting   in the driver: the engine's `Hands`, which speak to painters

Ray's own retries are off everywhere: they would send a request a second time behind the ledger's back (law 3).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from runner.errors import InputError

if TYPE_CHECKING:
    from runner.cluster.joining import Cluster


@asynccontextmanager
async def cluster_for(engine: str, address: str | None) -> AsyncIterator[Cluster | None]:
    """The cluster that an engine works on, joined for the block; None where it is this process.

    Raises:
        InputError: there is no such engine; Ray is not installed; there is no cluster, or it cannot be joined.
    """
    if engine not in ("local", "ray"):
        raise InputError(f"there is no engine {engine!r}", hint="name one of: local, ray")
    if engine == "local":
        yield None
        return
    from runner.cluster.joining import joined

    async with joined(address) as cluster:
        yield cluster
