"""How many requests may be in flight: what the rate and the latency ask for, and no more than the machine can hold.

Owns the number of places of a run. Refuses to count what is in flight and to look at a clock: the pool tells what it
sees, and asks before a request leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST, MOST, FREE = 4, 1024, 16
"""Places that a run begins with at least, has at most, and has without any limit of the provider's.

What answers without a limit is a simulator on this machine, and what holds it back is the processor: more requests in
flight would not be made sooner."""
LONG_LATENCY_S = 46.0
"""How long an image may take (the 95th percentile): a run begins with the allowed rate times this."""
SPARE = 1.5
"""Latencies vary: so many times what the rate and the average latency ask for is kept."""
MEMORY = 64
"""Answers over which the average latency goes, about."""
SHRINK_EVERY = 4
"""Answers for each place that is given up."""
DESCRIPTORS_EACH = 2
"""A connection and a file."""
DESCRIPTORS_BESIDE = 128
"""What the ledger, the log, locks and libraries have open beside them."""


def start_for(per_minute: float | None) -> int:
    """The places to begin with where requests a minute are limited to `per_minute`."""
    if per_minute is None:
        return FREE
    return max(LEAST, min(MOST, round(per_minute / 60.0 * LONG_LATENCY_S) + 1))


def descriptors_for(places: int) -> int:
    """File descriptors that a run with so many places needs."""
    return places * DESCRIPTORS_EACH + DESCRIPTORS_BESIDE


def places_for(descriptors: int) -> int:
    """Places for which so many file descriptors are enough; at least one."""
    return max(1, (descriptors - DESCRIPTORS_BESIDE) // DESCRIPTORS_EACH)


@dataclass(slots=True)
class Places:
    """The places of one run: `allowed` at present, between `start` and `most`.

    Where the latencies ask for more than there are, each image that comes adds one: twice as many after one latency,
    and none while a provider stalls. They shrink slowly to what is asked for, so that one that stalls later finds no
    more in flight than was of use.
    """

    start: int
    most: int
    per_minute: float | None = None
    """What the gates let through; without it there is nothing to adapt to."""
    allowed: int = 0
    _latency_s: float = 0.0
    _answers: int = 0

    def __post_init__(self) -> None:
        self.allowed = self.start

    @property
    def needed(self) -> int:
        """What the limit asks for at the latencies that are seen; at least what the run began with."""
        rate_s = (self.per_minute or 0.0) / 60.0
        return min(self.most, max(self.start, math.ceil(rate_s * self._latency_s * SPARE)))

    def answered(self, latency_s: float) -> None:
        """An image came back, so long after its request left."""
        self._answers += 1
        self._latency_s += (latency_s - self._latency_s) / min(self._answers, MEMORY)
        if self.allowed < self.needed:
            self.allowed += 1
        elif self.allowed > self.needed and self._answers % SHRINK_EVERY == 0:
            self.allowed -= 1
