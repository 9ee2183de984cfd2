"""The simulator's rate limits: exact sliding windows over images, requests and tokens, booked jointly.

Owns who is let through, and what the headers say about it. Time is an argument; nothing here sleeps or reads a clock.
"""

from __future__ import annotations

import math
from collections import deque

from runner.simulator.problems import rate_limited


class _Gate:
    """One limit. Remembers what passed during the last window, and nothing older."""

    def __init__(self, header: str, kind: str, per_minute: int, window_s: float) -> None:
        self.header = header
        self.kind = kind
        self.per_minute = per_minute
        self.capacity = max(1, math.floor(per_minute * window_s / 60 + 1e-9))
        self._window_s = window_s
        self._passed: deque[tuple[float, int]] = deque()
        self.used = 0

    def forget(self, now: float) -> None:
        while self._passed and self._passed[0][0] + self._window_s <= now:
            self.used -= self._passed.popleft()[1]

    def book(self, now: float, amount: int) -> None:
        self._passed.append((now, amount))
        self.used += amount

    def wait_s(self, now: float, amount: int) -> float:
        """Seconds until `amount` fits, if nobody else comes: 0 when it fits now, infinite when it never does."""
        if amount > self.capacity:
            return math.inf
        excess = self.used + amount - self.capacity
        for when, used in self._passed:
            if excess <= 0:
                break
            excess -= used
            if excess <= 0:
                return max(0.0, when + self._window_s - now)
        return 0.0

    def reset_s(self, now: float) -> float:
        """Seconds until the whole limit is free again."""
        return max(0.0, self._passed[-1][0] + self._window_s - now) if self._passed else 0.0


class Limits:
    """The limits of one server; all models share them."""

    def __init__(
        self,
        *,
        images_per_minute: int | None,
        tokens_per_minute: int | None,
        requests_per_minute: int | None,
        window_s: float,
    ) -> None:
        wanted = (
            ("images", "input-images", images_per_minute),
            ("requests", "requests", requests_per_minute),
            ("tokens", "tokens", tokens_per_minute),
        )
        self._make = [(header, kind, limit, window_s) for header, kind, limit in wanted if limit is not None]
        self.reset()

    def reset(self) -> None:
        """As if nothing had ever passed."""
        self._gates = [_Gate(*arguments) for arguments in self._make]

    def book(self, now: float, *, model: str, images: int, tokens: int) -> None:
        """Lets one request through at `now` (monotonic seconds), or leaves every limit as it was.

        Raises:
            Problem: a limit is passed; Retry-After says when this request would fit.
        """
        amounts = {"images": images, "requests": 1, "tokens": tokens}
        worst: tuple[float, _Gate] | None = None
        for gate in self._gates:
            gate.forget(now)
            wait_s = gate.wait_s(now, amounts[gate.header])
            if wait_s > 0 and (worst is None or wait_s > worst[0]):
                worst = (wait_s, gate)
        if worst is None:
            for gate in self._gates:
                gate.book(now, amounts[gate.header])
            return
        wait_s, gate = worst
        figures = f"Limit {gate.capacity}, Used {gate.used}, Requested {amounts[gate.header]}"
        if math.isinf(wait_s):
            message = f"Request too large for {model} in organization org-simulator on {gate.kind} per min: {figures}."
            raise rate_limited(gate.kind, message, None)
        raise rate_limited(
            gate.kind,
            f"Rate limit reached for {model} in organization org-simulator on {gate.kind} per min: {figures}. "
            f"Please try again in {duration(wait_s)}.",
            wait_s,
        )

    def headers(self, now: float) -> dict[str, str]:
        """What an answer says about the limits that are set."""
        headers = {}
        for gate in self._gates:
            gate.forget(now)
            headers[f"x-ratelimit-limit-{gate.header}"] = str(gate.per_minute)
            headers[f"x-ratelimit-remaining-{gate.header}"] = str(max(0, gate.capacity - gate.used))
            headers[f"x-ratelimit-reset-{gate.header}"] = duration(gate.reset_s(now))
        return headers


def duration(seconds: float) -> str:
    """`350ms`, `1s`, `7.66s`, `6m0s`: as the API writes it, rounded up so that waiting it is enough."""
    ms = math.ceil(seconds * 1000)
    if ms < 1000:
        return f"{ms}ms"
    if ms < 60_000:
        return f"{ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    whole = math.ceil(ms / 1000)
    hours, rest = divmod(whole, 3600)
    return (f"{hours}h" if hours else "") + f"{rest // 60}m{rest % 60}s"
