"""What a benchmark's server enforces: a limit per minute, over a window, in one of three ways.

Owns who is let through at which instant. Time is an argument, in seconds; nothing here sleeps or reads a clock. Knows
nothing of the runner's own pacing, nor of the simulator's limits: it is what both are measured against.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

_SLACK = 1e-9
"""Sums of floats are not exact: a limit is not passed by a rounding."""


class Window(Protocol):
    """One limit, enforced in one way."""

    capacity: float

    def wait_s(self, now: float, cost: float) -> float:
        """Seconds until `cost` fits if nobody else comes: 0 when it fits now, infinite when it never does."""
        ...

    def book(self, now: float, cost: float) -> None:
        """Let `cost` through at `now`."""
        ...


class Sliding:
    """No stretch of `window_s` seconds, wherever it begins, lets through more than its share of a minute."""

    def __init__(self, per_minute: float, window_s: float) -> None:
        self.capacity = per_minute * window_s / 60
        self._window_s = window_s
        self._passed: deque[tuple[float, float]] = deque()
        self._used = 0.0

    def wait_s(self, now: float, cost: float) -> float:
        while self._passed and self._passed[0][0] + self._window_s <= now:
            self._used -= self._passed.popleft()[1]
        if cost > self.capacity + _SLACK:
            return math.inf
        excess = self._used + cost - self.capacity - _SLACK
        for when, used in self._passed:
            if excess <= 0:
                return 0.0
            excess -= used
            if excess <= 0:
                return when + self._window_s - now
        return 0.0

    def book(self, now: float, cost: float) -> None:
        self._passed.append((now, cost))
        self._used += cost


class Fixed:
    """Every window begins anew with its whole share, wherever in it that is used."""

    def __init__(self, per_minute: float, window_s: float) -> None:
        self.capacity = per_minute * window_s / 60
        self._window_s = window_s
        self._window = -1
        self._used = 0.0

    def wait_s(self, now: float, cost: float) -> float:
        window = math.floor(now / self._window_s)
        if window != self._window:
            self._window, self._used = window, 0.0
        if cost > self.capacity + _SLACK:
            return math.inf
        return 0.0 if self._used + cost <= self.capacity + _SLACK else (window + 1) * self._window_s - now

    def book(self, now: float, cost: float) -> None:
        self._used += cost


class Bucket:
    """A bucket that holds one window's share and fills at the rate of the limit; it is full at first."""

    def __init__(self, per_minute: float, window_s: float) -> None:
        self.capacity = per_minute * window_s / 60
        self._per_s = per_minute / 60
        self._level = self.capacity
        self._at = 0.0

    def wait_s(self, now: float, cost: float) -> float:
        self._level = min(self.capacity, self._level + max(0.0, now - self._at) * self._per_s)
        self._at = max(self._at, now)
        if cost > self.capacity + _SLACK:
            return math.inf
        return max(0.0, (cost - self._level - _SLACK) / self._per_s)

    def book(self, now: float, cost: float) -> None:
        self._level -= cost


KINDS: dict[str, type[Sliding] | type[Fixed] | type[Bucket]] = {"sliding": Sliding, "fixed": Fixed, "bucket": Bucket}


def admit(windows: Sequence[tuple[Window, float]], now: float) -> tuple[float, int]:
    """Let one request through all windows, each with its own cost, or through none.

    Returns the seconds until it would fit (0: it was let through) and the index of the window that says so.
    """
    waits = [window.wait_s(now, cost) for window, cost in windows]
    longest = max(range(len(waits)), key=waits.__getitem__, default=0)
    if waits and waits[longest] > 0:
        return waits[longest], longest
    for window, cost in windows:
        window.book(now, cost)
    return 0.0, longest
