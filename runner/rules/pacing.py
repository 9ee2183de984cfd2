"""When the next request may leave: gates booked jointly, a hold for everyone, and a pace that learns from 429s.

Owns the arithmetic of rates (GCRA: one instant per gate). Refuses to sleep and to look at a clock: `now` is any
monotonic number of seconds, the same one for every call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from runner.errors import InputError
from runner.rules.retry import MAX_HOLD_S

SLOW_DOWN = 0.7
"""What a 429 does to the pace."""
SPEED_UP = 0.02
"""What an image that came back does to a slowed pace, as a share of the full one."""
SLOWEST = 0.02
"""The pace never falls below this share of the limit."""


@dataclass(slots=True)
class Gate:
    """One limit, as an amount per minute. `free_at` is the instant from which the gate owes nothing."""

    per_minute: float
    explicit: bool = False
    """Whether the user wrote this number; then a provider's header may lower it, and never raise it."""
    free_at: float = 0.0

    def earliest(self, now: float) -> float:
        """The first instant at which something may pass: when all that passed before has been paid off by time."""
        return max(now, self.free_at)

    def book(self, at: float, amount: float, pace: float) -> None:
        """Let `amount` pass at the instant `at`; the next may follow once the amount has drained at the pace."""
        self.free_at = max(self.free_at, at) + amount * 60.0 / (self.per_minute * pace)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a provider said of one gate in its headers; None where it said nothing. `reset_s` is seconds from now."""

    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None


class Pace(Protocol):
    """When requests of one key may leave; `Pacer` is one run's, `limiter.SharedPacer` that of all runs of a machine."""

    def check(self, costs: Mapping[str, float]) -> None:
        """Raise InputError for an amount that a gate can never hold."""
        ...

    def earliest(self, now: float) -> float:
        """The first instant at which the next request may leave."""
        ...

    def claim(self, at: float, now: float, costs: Mapping[str, float]) -> float | None:
        """Book one request if its instant has come by `now`; else the instant to wait for."""
        ...

    def hold(self, now: float, wait_s: float) -> None:
        """Nobody leaves for `wait_s` seconds."""
        ...

    def slow_down(self, now: float, wait_s: float) -> None:
        """A 429 came."""
        ...

    def speed_up(self) -> None:
        """An image came back."""
        ...

    def heed(self, now: float, name: str, heard: Heard) -> None:
        """Take over what the provider says of a gate."""
        ...


@dataclass(slots=True)
class Pacer:
    """Every gate of one provider key. Bursts are as small as they can be: passages are spread evenly.

    A limit written per minute may be enforced over a second, so nothing is saved up while the pool is idle.
    """

    gates: dict[str, Gate]
    hold_until: float = 0.0
    pace: float = 1.0
    slowed_until: float = field(default=0.0, repr=False)

    def check(self, costs: Mapping[str, float]) -> None:
        """Raise InputError for an amount that a gate can never hold: waiting for it would be forever."""
        for name, amount in costs.items():
            gate = self.gates.get(name)
            if gate is not None and amount > gate.per_minute:
                raise InputError(
                    f"one request needs {amount:g} {name}, and the limit is {gate.per_minute:g} per minute",
                    hint=f"raise limits.{name}_per_minute, or ask for a smaller size or quality",
                )

    def earliest(self, now: float) -> float:
        """The first instant at which the next request may leave."""
        return max(now, self.hold_until, *(gate.earliest(now) for gate in self.gates.values()), now)

    def book(self, now: float, costs: Mapping[str, float]) -> float:
        """Book one request through every gate at one joint instant, and return that instant.

        Booking the gates one by one would let the slower one delay the request past the place it holds in the faster.
        """
        at = self.earliest(now)
        for name, gate in self.gates.items():
            amount = costs.get(name, 0.0)
            if amount > 0:
                gate.book(at, amount, self.pace)
        return at

    def claim(self, at: float, now: float, costs: Mapping[str, float]) -> float | None:
        """Book one request at the first instant from `at` on, if that has come by `now`; else the instant to wait for.

        The booking is at that instant, not at `now`, when the timer woke up: no rate is lost to a late loop.
        """
        found = self.earliest(at)
        if found > now:
            return found
        self.book(found, costs)
        return None

    def hold(self, now: float, wait_s: float) -> None:
        """Nobody leaves for `wait_s` seconds, at most MAX_HOLD_S: some gateways tell a reset as a Unix time."""
        self.hold_until = max(self.hold_until, now + min(wait_s, MAX_HOLD_S))

    def slow_down(self, now: float, wait_s: float) -> None:
        """A 429 came: hold everyone and lower the pace, once for all the answers of the same crowd."""
        if now >= self.slowed_until:
            self.pace = max(SLOWEST, self.pace * SLOW_DOWN)
            self.slowed_until = now + max(wait_s, self._interval())
        self.hold(now, wait_s)

    def speed_up(self) -> None:
        """An image came back: recover a little of the pace."""
        if self.pace < 1.0:
            self.pace = min(1.0, self.pace + SPEED_UP)

    def heed(self, now: float, name: str, heard: Heard) -> None:
        """Take over what the provider says of a gate: its word wins over what we believe.

        A limit below ours lowers the gate, and one above raises it unless the user wrote the number; a limit that we
        did not know makes a gate. When nothing remains, everyone waits for one place: a reset tells when the *whole*
        allowance is back, and waiting for that would leave most of it unused.
        """
        gate = self.gates.get(name)
        if heard.limit is not None and heard.limit > 0:
            if gate is None:
                self.gates[name] = Gate(heard.limit, free_at=now)
            elif heard.limit < gate.per_minute or not gate.explicit:
                gate.per_minute = heard.limit
        if heard.remaining is not None and heard.remaining <= 0 and heard.reset_s is not None:
            places = heard.limit if heard.limit is not None and heard.limit >= 1 else 1.0
            self.hold(now, heard.reset_s / places)

    def _interval(self) -> float:
        """Seconds between two single passages at the present pace of the slowest gate."""
        images = [g for n, g in self.gates.items() if n != "tokens"]
        return max((60.0 / (gate.per_minute * self.pace) for gate in images), default=1.0)
