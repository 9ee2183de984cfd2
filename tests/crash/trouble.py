"""What else can go wrong while a run is about to be killed: its connections with the ledger break, its store refuses.

Owns when it does. Refuses to know what a run makes of it.
"""

from __future__ import annotations

import random
import threading
from types import TracebackType
from typing import Self

from tests.crash.grounds import Ground

MOST_S = 0.8
"""The longest time between two cuts of all connections with the ledger."""


class Trouble:
    """Cuts every connection with the ledger now and then while a block lasts, and harms the store.

    Afterwards `cuts` and `faults` are how many it was.
    """

    def __init__(self, ground: Ground, dice: random.Random) -> None:
        self._ground = ground
        self._dice = dice
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._make, daemon=True)
        self.cuts = 0
        self.faults = 0

    def __enter__(self) -> Self:
        self._ground.files.harm(self._dice)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self.faults = self._ground.files.heal()

    def _make(self) -> None:
        while not self._over.wait(self._dice.uniform(0.05, MOST_S)):
            self.cuts += self._ground.ledger.cut()
