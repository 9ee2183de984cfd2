"""May we: a cap that reserves the worst case before a request and settles the real cost after it (law 4).

Owns the arithmetic of one cap over one period. Refuses to know where past spending is recorded (the caller reads it
from the ledger) and what anything costs (`pricing`). All amounts are micro-dollars.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

Per = Literal["run", "day", "month", "job"]


def period_start(per: Per, now: dt.datetime) -> dt.datetime | None:
    """When the period that `now` (aware, UTC) lies in began: None for `run` and `job`, which no clock ends."""
    match per:
        case "day":
            return now.replace(hour=0, minute=0, second=0, microsecond=0)
        case "month":
            return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        case "run" | "job":
            return None


def period_end(per: Per, start: dt.datetime) -> dt.datetime | None:
    """When the period that began at `start` ends: None for one that no clock ends."""
    match per:
        case "day":
            return start + dt.timedelta(days=1)
        case "month":
            return (start + dt.timedelta(days=32)).replace(day=1)
        case "run" | "job":
            return None


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for one request: `amount_microusd` is its worst case with the surcharge of that moment."""

    amount_microusd: int
    worst_microusd: int
    period: dt.datetime | None


@dataclass(slots=True)
class Budget:
    """One cap and what counts against it: settled + in doubt + reserved never exceeds `cap_microusd`.

    `cap_microusd` None means no cap. `surcharge` grows when a provider bills above the worst case that was reserved:
    from then on every reservation is made larger in the same proportion, so that a wrong catalog cannot run away.
    """

    cap_microusd: int | None
    per: Per = "run"
    settled_microusd: int = 0
    in_doubt_microusd: int = 0
    reserved_microusd: int = 0
    period: dt.datetime | None = None
    surcharge: float = 1.0

    @property
    def committed_microusd(self) -> int:
        """Everything that counts against the cap."""
        return self.settled_microusd + self.in_doubt_microusd + self.reserved_microusd

    @property
    def left_microusd(self) -> int | None:
        """What may still be reserved, or None without a cap."""
        return None if self.cap_microusd is None else max(0, self.cap_microusd - self.committed_microusd)

    def price(self, worst_microusd: int) -> int:
        """What would be reserved for a request of this worst case."""
        return worst_microusd if self.surcharge == 1.0 else int(worst_microusd * self.surcharge) + 1

    def reserve(self, worst_microusd: int, now: dt.datetime) -> Reservation | None:
        """Set aside the worst case of one request; None when it could pass the cap. `now` is aware, UTC."""
        self._roll(now)
        amount = self.price(worst_microusd)
        if self.cap_microusd is not None and self.committed_microusd + amount > self.cap_microusd:
            return None
        self.reserved_microusd += amount
        return Reservation(amount, worst_microusd, self.period)

    def is_stale(self, reservation: Reservation, now: dt.datetime) -> bool:
        """Whether a new day or month has begun since: a request that leaves now is paid from that one."""
        start = period_start(self.per, now)
        return start is not None and reservation.period is not None and start > reservation.period

    def settle(self, reservation: Reservation, cost_microusd: int) -> None:
        """The request ended and cost this much (0 for one that was not billed)."""
        if cost_microusd > reservation.amount_microusd and reservation.worst_microusd > 0:
            # Measured against the worst case, not the amount: several at a time teach the same lesson only once.
            self.surcharge = max(self.surcharge, cost_microusd / reservation.worst_microusd)
        if self._release(reservation):
            self.settled_microusd += cost_microusd

    def doubt(self, reservation: Reservation) -> None:
        """The request was lost: its worst case goes on counting against the cap."""
        if self._release(reservation):
            self.in_doubt_microusd += reservation.amount_microusd

    def _release(self, reservation: Reservation) -> bool:
        """Give the reservation back; whether it belongs to the present period."""
        if reservation.period != self.period:
            return False
        self.reserved_microusd -= reservation.amount_microusd
        return True

    def _roll(self, now: dt.datetime) -> None:
        """A new day or month begins with nothing spent; what is still in flight counts where it was begun.

        A clock that is set back begins nothing: else the same day would begin, with nothing spent, a second time.
        """
        start = period_start(self.per, now)
        if start is None or (self.period is not None and start <= self.period):
            return
        if self.period is not None:
            self.settled_microusd = self.in_doubt_microusd = self.reserved_microusd = 0
        self.period = start
