"""How long a benchmark's server lets an image take before the first byte of its answer.

Owns the distribution. What is measured at OpenAI's models is skewed: half of the images take 18 s, one in twenty 46 s.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

P50_S, P95_S = 18.0, 46.0
_Z95 = 1.6448536269514722
"""Of a normal distribution, 95 % lie below the mean and this many standard deviations."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Lognormal with this median and 95th percentile, in seconds; fixed when they are the same."""

    p50_s: float
    p95_s: float

    @classmethod
    def fixed(cls, seconds: float) -> Latency:
        """The same for every request."""
        return cls(seconds, seconds)

    @classmethod
    def scaled(cls, factor: float) -> Latency:
        """The real one, `factor` times as long."""
        return cls(P50_S * factor, P95_S * factor)

    def draw(self, dice: random.Random) -> float:
        """The seconds of one request."""
        if self.p50_s <= 0 or self.p50_s == self.p95_s:
            return self.p50_s
        return self.p50_s * math.exp(dice.gauss(0, 1) * math.log(self.p95_s / self.p50_s) / _Z95)
