"""The way to end a run from outside.

Owns what was asked and by whom it is heard. Refuses to know what a run does about it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stop:
    """The way to end a run from outside: `ask` lets what is in flight finish, `now` cancels it.

    To be called in the event loop of the run: from a listener, or through the loop from another thread.
    """

    asked: bool = False
    immediate: bool = False
    reason: str = "interrupted"
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    def ask(self, reason: str) -> None:
        """No further request leaves."""
        if not self.asked:
            self.asked, self.reason = True, reason
            self._tell()

    def now(self) -> None:
        """What is in flight is given up: on record as in doubt."""
        if not self.immediate:
            self.asked = self.immediate = True
            self._tell()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` at every change."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
