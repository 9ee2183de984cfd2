"""How long the simulator takes for an image: reads the setting and draws from it, repeatably.

Refuses to sleep: it only says for how long.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable

from runner.errors import InputError

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_FIXED = re.compile(_NUMBER)
_UNIFORM = re.compile(_NUMBER + "-" + _NUMBER)
_LOG_NORMAL = re.compile(f"p50={_NUMBER},p95={_NUMBER}")
_SCALE = re.compile(f"(.+),scale={_NUMBER}")
_Z95 = 1.6448536269514722
"""How many standard deviations above the median the 95th percentile of a normal distribution lies."""


def parse(text: str, seed: int) -> Callable[[], float]:
    """A function that gives the next request's latency in seconds.

    Raises:
        InputError: the text is none of the known forms.
    """
    chance = random.Random(f"latency/{seed}")  # noqa: S311 - repeatable, not secret
    plain = text.replace(" ", "")
    scale = 1.0
    if match := _SCALE.fullmatch(plain):
        plain, scale = match[1], float(match[2])
    if match := _FIXED.fullmatch(plain):
        fixed = float(match[1]) * scale
        return lambda: fixed
    if match := _UNIFORM.fullmatch(plain):
        low, high = sorted((float(match[1]) * scale, float(match[2]) * scale))
        return lambda: chance.uniform(low, high)
    if (match := _LOG_NORMAL.fullmatch(plain)) and 0 < float(match[1]) <= float(match[2]):
        mu = math.log(float(match[1]))
        sigma = (math.log(float(match[2])) - mu) / _Z95
        return lambda: chance.lognormvariate(mu, sigma) * scale
    raise InputError(
        f"latency {text!r} is not understood",
        hint="write seconds (0.5), a range (0.2-1.5), or p50=18,p95=46; each may be followed by ,scale=0.1",
    )
