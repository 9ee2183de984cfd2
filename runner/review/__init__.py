"""Reviewing: the gallery's page from a server on this machine alone, with choosing switched on.

Owns what a browser may ask and what it is told; each choice goes into the ledger at once. Refuses to write files.
Importing this package is cheap; the web server comes with `serve`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.ledger import Ledger
    from runner.store import Store

__all__ = ["Settings", "serve"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a review is held.

    Attributes:
        reviewer: who judges; None lets the page ask.
        blind: nothing tells which image is which: no labels, sides shuffled for each person and pair.
        axis: only pairs that differ in this axis alone; None takes every axis in turn.
        all_pairs: after the pairs that differ in one axis also those that differ in more.
        stars: one image at a time, 1 to 5 stars, instead of pairs.
        port: where on 127.0.0.1 it listens; 0 takes any free one.
    """

    reviewer: str | None = None
    blind: bool = False
    axis: str | None = None
    all_pairs: bool = False
    stars: bool = False
    port: int = 0


def serve(ledger: Ledger, store: Store, settings: Settings, *, on_ready: Callable[[str], None]) -> None:
    """Serves the job of this store until SIGINT or SIGTERM.

    `on_ready` gets the address (`http://127.0.0.1:PORT/?token=TOKEN`) once connections are accepted. Whoever has it can
    see the job's images and choose.

    Raises:
        InputError: the job has no such axis, the name cannot be one, or the port is taken.
    """
    from runner.review.server import serve as serve_settings

    serve_settings(ledger, store, settings, on_ready=on_ready)
