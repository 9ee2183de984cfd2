"""When the next request may leave: gates booked jointly, a hold for everyone, and a pace that learns from 429s.

Owns the arithmetic of rates (GCRA: one instant per gate). Refuses to sleep and to look at a clock: `now` is any
monotonic number of seconds, the same one for every call.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from runner.errors import InputError
from runner.rules.retry import MAX_HOLD_S

HEADROOM = 0.004
"""What is left of every limit. Requests that leave exactly at the limit arrive exactly one window after those that the
server is about to forget: without a few milliseconds in a second between them, every jitter of the way is a 429."""
HARDEST_FALL = 0.3
"""The most that one crowd of 429s takes from the pace, as a share of it."""
LEAST_FALL = 0.001
"""The least. Between them the pace falls by the share of requests that was refused: by how much it was too fast."""
TRUSTED = 1000.0
"""Requests without a 429 for which a limit counts that nobody has tried yet."""
RECOVERY = 1000
"""Requests after which the pace is back where it broke from the hardest fall; from smaller ones sooner."""
RECOVERY_S = 300.0
"""The same in seconds, where a limit is so low that so many requests would take hours."""
SLOWEST = 0.02
"""The pace never falls below this share of the limit."""
GUARD_S = 1.0
"""No second sees more departures than it may, however late single ones were: windows are whole seconds."""
STARTING_S = 0.03
"""Added to the distance from the first request after a pause: it finds everything cold, and arrives late."""
MOST_GUARDED = 1024
"""Departures that are remembered, at most."""
LEAD_S = 0.1
"""How long before its instant a request is booked and put on record: longer than a disk mostly takes to flush."""
_DUST_S = 1e-6


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
        self.free_at = max(self.free_at, at) + amount * (1.0 + HEADROOM) * 60.0 / (self.per_minute * pace)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a provider said of one gate in its headers; None where it said nothing. `reset_s` is seconds from now."""

    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None


Claimed = tuple[float, bool]
"""The first instant at which a request may leave, and whether that place is booked."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What gates that lie elsewhere answer to a claim, in seconds of their own `clock`, which is read with it."""

    at: float
    booked: bool
    clock: float
    lead_s: float = 0.0
    """How far ahead the run books that has to begin earliest: so do all, or it would take every place."""


@dataclass(frozen=True, slots=True)
class Says:
    """What a run tells the others: what it believes of each gate, per minute, and how far ahead it has to book."""

    rates: Mapping[str, float]
    lead_s: float = 0.0


class Pace(Protocol):
    """When requests of one key may leave.

    `Pacer` is one run's, `limiter.SharedPacer` that of all runs of a machine, `limiter.LedgerPacer` that of all runs
    that share a ledger.
    """

    @property
    def lead_s(self) -> float:
        """How long before its instant a place is to be claimed, at most."""
        ...

    @property
    def per_minute(self) -> float | None:
        """Requests that the slowest gate of them lets through in a minute; None without such a gate."""
        ...

    def check(self, costs: Mapping[str, float]) -> None:
        """Raise InputError for an amount that a gate can never hold."""
        ...

    def claim(self, at: float, until: float, costs: Mapping[str, float]) -> Claimed | Awaitable[Claimed]:
        """The first instant from `at` on at which a request may leave; booked if it is by `until`, as is told too.

        To be awaited where that takes a while.
        """
        ...

    def void(self, at: float, now: float) -> bool:
        """Whether a place that was booked for `at` is of no use now: nobody may leave, or it has passed."""
        ...

    def recorded(self, took_s: float) -> None:
        """Note how long it took to put a request on record whose place was booked."""
        ...

    def depart(self, at: float, now: float, costs: Mapping[str, float]) -> float:
        """Note that a request which was booked for `at` leaves `now`; a later instant instead, if it has to wait."""
        ...

    def hold(self, now: float, wait_s: float) -> None:
        """Nobody leaves for `wait_s` seconds."""
        ...

    def slow_down(self, now: float, wait_s: float, left_at: float) -> None:
        """A 429 came for a request that had left at `left_at`."""
        ...

    def heed(self, now: float, name: str, heard: Heard) -> None:
        """Take over what the provider says of a gate."""
        ...


@dataclass(slots=True)
class Tempo:
    """The share of the limits that is used: all of it until 429s come.

    It falls by the share of requests that was refused, returns quickly to just below where it broke, dwells there, and
    then goes on faster and faster (a cubic curve over the requests that have passed): a stray 429 costs next to
    nothing, and a limit that is lower than believed is not run into again and again.
    """

    broke: float = 1.0
    """The pace at which the last 429 came."""
    fall: float = 0.0
    """What it took, as a share of that."""
    passed: float = TRUSTED
    """Requests since."""
    before: float = TRUSTED
    """Requests between that 429 and the one before it."""

    def pace(self, per_minute: float) -> float:
        """The present share, where so many requests a minute would be all."""
        recovery, whole = self.curve(per_minute)
        grown = HARDEST_FALL * ((self.passed - whole) / recovery) ** 3
        return min(1.0, max(SLOWEST, self.broke * (1.0 + grown)))

    def curve(self, per_minute: float) -> tuple[float, float]:
        """How long the curve is and where on it the pace is back where it broke, both in requests."""
        recovery = min(RECOVERY, RECOVERY_S / 60.0 * per_minute)
        return recovery, recovery * math.cbrt(self.fall / HARDEST_FALL)

    def lower(self, per_minute: float) -> None:
        """A crowd of 429s came. One that comes early once is bad luck, and twice it is too fast: the last two count."""
        self.broke = self.pace(per_minute)
        passed = max(1.0, self.passed)
        self.fall = min(HARDEST_FALL, max(LEAST_FALL, 1.0 / math.sqrt(passed * self.before)))
        self.before, self.passed = passed, 0.0


@dataclass(slots=True)
class Pacer:
    """All gates of one provider key, what a 429 has taught, and until when nobody may leave."""

    gates: dict[str, Gate] = field(default_factory=dict)
    hold_until: float = 0.0
    tempo: Tempo = field(default_factory=Tempo)
    slowed_at: float = -math.inf
    """When the last crowd of 429s was heeded."""
    _left: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_GUARDED))
    """The departures of the last second, each with the time at the full limit that all before it had taken."""
    _taken_s: float = 0.0

    @property
    def lead_s(self) -> float:
        """How long before its instant a place is to be claimed, at most."""
        return LEAD_S

    @property
    def pace(self) -> float:
        """The share of the limits that is used at present."""
        return self.tempo.pace(self.per_minute or 60.0)

    @property
    def per_minute(self) -> float | None:
        """Requests that the slowest gate of them lets through in a minute; None without such a gate."""
        return min((gate.per_minute for name, gate in self.gates.items() if name != "tokens"), default=None)

    def check(self, costs: Mapping[str, float]) -> None:
        """Raise InputError for an amount that a gate can never hold: waiting for it would be for ever."""
        for name, amount in costs.items():
            gate = self.gates.get(name)
            if gate is not None and amount > gate.per_minute:
                raise InputError(
                    f"one request needs {amount:g} {name}, and the limit is {gate.per_minute:g} per minute",
                    hint=f"raise limits.{name}_per_minute, or ask for a smaller size or quality",
                )

    def earliest(self, now: float) -> float:
        """The first instant at which the next request may leave."""
        at = max(now, self.hold_until)
        for gate in self.gates.values():
            at = max(at, gate.free_at)
        return at

    def book(self, now: float, costs: Mapping[str, float]) -> float:
        """Book one request through every gate at one joint instant, and return that instant.

        Booking the gates one by one would let the slower one delay the request past the place it holds in the faster.
        """
        at, pace = self.earliest(now), self.pace
        for name, gate in self.gates.items():
            amount = costs.get(name, 0.0)
            if amount > 0:
                gate.book(at, amount, pace)
        self.tempo.passed += 1.0
        return at

    def claim(self, at: float, until: float, costs: Mapping[str, float]) -> Claimed:
        """The first instant from `at` on at which a request may leave, and whether it is booked: if it is by `until`.

        The booking is at that instant, not at the one when a timer woke up: no rate is lost to a late loop.
        """
        found = self.earliest(at)
        if found > until:
            return found, False
        return self.book(found, costs), True

    def held(self, now: float) -> bool:
        """Whether nobody may leave now, whatever was booked."""
        return now < self.hold_until

    def void(self, at: float, now: float) -> bool:
        """Whether a place that was booked for `at` is of no use now. Who is late keeps its distance: see `depart`."""
        return self.held(now)

    def recorded(self, took_s: float) -> None:
        """Note how long it took to put a request on record: on this machine, never longer than the lead for long."""

    def depart(self, at: float, now: float, costs: Mapping[str, float]) -> float:
        """Note that a request which was booked for `at` leaves `now`; a later instant instead, if it has to wait.

        A request that left late keeps its distance from the one that comes as many places behind it as a second has:
        else both are in one window of the server. Where a second has no whole place it is the next one. After a pause
        there is nothing to make up for: whatever follows is moved by as much as the first one is late.
        """
        takes_s = max(
            (amount * 60.0 / self.gates[name].per_minute for name, amount in costs.items() if name in self.gates),
            default=0.0,
        )
        left = self._left
        while len(left) > 1 and left[0][1] < self._taken_s - GUARD_S - _DUST_S:
            left.popleft()
        if left and (clear := left[0][0] + self._taken_s - left[0][1]) > now:
            return clear
        if not left or left[-1][0] + 2 * max(GUARD_S, takes_s) < at:
            for gate in self.gates.values():
                gate.free_at += now - at + STARTING_S
        left.append((now, self._taken_s))
        self._taken_s += takes_s
        return now

    def hold(self, now: float, wait_s: float) -> None:
        """Nobody leaves for `wait_s` seconds, at most MAX_HOLD_S: some gateways tell a reset as a Unix time."""
        self.hold_until = max(self.hold_until, now + min(wait_s, MAX_HOLD_S))

    def slow_down(self, now: float, wait_s: float, left_at: float) -> None:
        """A 429 came for a request that had left at `left_at`: hold everyone, and lower the pace.

        Once for each crowd: what had left before the last 429 was heeded tells nothing new.
        """
        if left_at > self.slowed_at:
            self.tempo.lower(self.per_minute or 60.0)
            self.slowed_at = now
        self.hold(now, wait_s)

    def heed(self, now: float, name: str, heard: Heard) -> None:
        """Take over what the provider says of a gate: its word wins over what we believe.

        A limit below ours lowers the gate, and one above raises it unless the user wrote the number; a limit that we
        did not know makes a gate. When nothing remains, everyone waits for one place: a reset tells when the *whole*
        allowance is back, and waiting for that would leave most of it unused. A gate that keeps to that limit and has
        just let something through has its next place one such wait later anyway: at a limit that is used to the full
        nothing ever remains, and that is no news.
        """
        gate = self.gates.get(name)
        kept = gate is not None and gate.free_at > now and gate.per_minute <= (heard.limit or 0.0)
        if heard.limit is not None and heard.limit > 0:
            if gate is None:
                self.gates[name] = Gate(heard.limit, free_at=now)
            elif heard.limit < gate.per_minute or not gate.explicit:
                gate.per_minute = heard.limit
        if heard.remaining is not None and heard.remaining <= 0 and heard.reset_s is not None and not kept:
            places = heard.limit if heard.limit is not None and heard.limit >= 1 else 1.0
            self.hold(now, heard.reset_s / places)


@dataclass(slots=True)
class _Told:
    """Tokens of one kind of request, with those of long ago forgotten."""

    quoted: float = 0.0
    used: float = 0.0


@dataclass(slots=True)
class TokenMeter:
    """What requests really take in tokens, against what was quoted for them.

    A provider counts a request against its limit when it arrives, by an estimate that it does not tell. Assumed is that
    this is near what it reports afterwards: by as much as quotes of a kind (one model, size and quality) were wrong on
    average, the next ones are corrected.
    """

    MEMORY = 100
    """Answers of a kind over which the average goes, about."""
    MOST_KINDS = 1000

    _kinds: dict[Hashable, _Told] = field(default_factory=dict)

    def expected(self, kind: Hashable, quoted: float) -> float:
        """What to book for a request of this kind."""
        told = self._kinds.get(kind)
        return quoted if told is None else quoted * told.used / told.quoted

    def told(self, kind: Hashable, quoted: float, used: float) -> None:
        """An answer came: it had been quoted so many tokens, and used so many."""
        if quoted <= 0 or used <= 0 or (kind not in self._kinds and len(self._kinds) >= self.MOST_KINDS):
            return
        told = self._kinds.setdefault(kind, _Told())
        kept = 1.0 - 1.0 / self.MEMORY
        told.quoted = told.quoted * kept + quoted
        told.used = told.used * kept + used
