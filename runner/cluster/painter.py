"""On a node: an actor that makes renditions of assets that are in the store, and puts them there itself.

Owns that no picture goes through the driver. Refuses to know which are wanted, and to put anything on record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from runner.cluster.looking import opened
from runner.cluster.messages import Place, Ready, Unmade
from runner.engine.hands import Put
from runner.errors import RunnerError
from runner.inputs.types import BadInput
from runner.renditions.recipe import recipe_of
from runner.store import Store

QUEUE = 2
"""Questions at a time: one is worked on, and the next is at hand when it is answered."""


class Painter:
    """One for each processor of a node. Blocking: it does one thing at a time."""

    def __init__(self) -> None:
        self._store: Store | None = None

    def open(self, place: Place) -> Ready:
        """Begin: look at the store."""
        store = opened(place)
        if isinstance(store, Ready):
            return store
        self._store = store
        return Ready(room=QUEUE)

    def render(self, asset: str, recipes: Sequence[str], targets: Sequence[str]) -> list[Put] | Unmade:
        """Make renditions of the asset at a path, and put each where it belongs."""
        from runner.renditions.rendering import render

        if self._store is None:
            return Unmade("this node has not begun")
        try:
            with self._store.local_copy(asset) as file:
                blobs = render(file, [recipe_of(told) for told in recipes])
            self._store.derived.put_all(list(zip(targets, blobs, strict=True)))
        except BadInput as error:
            return Unmade(f"{error.message} ({error.hint})")
        except RunnerError as error:
            return Unmade(str(error))
        except Exception as error:
            return Unmade(f"{type(error).__name__}: {error}")
        return [
            Put(path, hashlib.sha256(blob).hexdigest(), len(blob)) for path, blob in zip(targets, blobs, strict=True)
        ]
