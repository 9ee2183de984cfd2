"""The pace of one provider key among the runs of many hosts: the gates that lie in their common ledger.

Owns the way to gates that lie elsewhere: what is asked and told in which thread, how their clock becomes that of this
process, and what happens while they cannot be reached. A run goes by its own gates first, as on one machine. Refuses to
send unpaced: without an answer nothing is booked.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import anyio
import anyio.to_thread

from runner.errors import LedgerError
from runner.rules.pacing import LEAD_S, Claimed, Heard, Pacer, Reply, Says

SEEN_S = 5.0
"""How often a run says that it is alive; and the longest sleep before the gates are asked again."""
AGAIN_S = 1.0
"""How long is waited before gates that could not be reached are asked again."""
PATIENCE_S = 60.0
"""How long they are waited for."""
MOST_AHEAD_S = 2.0
"""However slow the ledger is, no place is booked earlier."""
LATE_S = 0.1
"""A place that was missed by more is left unused."""
STRAGGLE_S = 0.03
"""By so much runs that wait for the same place ask earlier or later than each other."""
DRIFT = 1e-4
"""How fast two clocks may come apart, as a share of the time."""
SAMPLES = 3
"""Claims for nothing at the beginning, by which the clocks are compared."""
_EASED = 0.95
"""What is left of a long trip with each that is shorter."""
_RELIEVED = 0.5
"""The same while it is longer than places are booked ahead: what held it up is forgotten sooner."""


class Gates(Protocol):
    """The key's gates, as one run asks for them; `ledger.gates` is that. Instants are of their own clock.

    Every method blocks, may be called in any thread, and raises LedgerError.
    """

    def claim(self, at: float, until: float, costs: Mapping[str, float]) -> Reply | None:
        """The first instant from `at` on, booked if it is by `until`; None while nobody has joined."""
        ...

    def join(self, says: Says) -> None:
        """This run is alive."""
        ...

    def hold(self, says: Says, wait_s: float) -> None:
        """No run of this key sends for `wait_s` seconds."""
        ...

    def slow_down(self, says: Says, wait_s: float, left_at: float) -> None:
        """A 429 came for a request that had left at `left_at`."""
        ...

    def heed(self, says: Says, name: str, heard: Heard) -> None:
        """The provider has said something of a gate that was news to this run."""
        ...


@dataclass(slots=True)
class Bridge:
    """Between the clock of the gates and that of this process, from what single exchanges tell.

    `ahead_s` is added to an instant of theirs to make it one of ours. An answer was given no later than it came: by
    that, no instant becomes one that is too early. The shortest trip of late tells it best.
    """

    ahead_s: float | None = None
    trip_s: float = 0.0
    """How long a trip takes, at the longest of late."""
    _learnt: float = 0.0
    _was_held_up: bool = False

    def learn(self, asked: float, answered: float, theirs: float) -> None:
        """Between these two instants of ours, their clock said `theirs`."""
        trip_s = answered - asked
        # One that long was held up: a line was cut, a server began anew. After another one, that is how long it takes.
        usual_s = trip_s if self._was_held_up else min(trip_s, MOST_AHEAD_S)
        self._was_held_up = trip_s > MOST_AHEAD_S
        self.trip_s = max(usual_s, self.trip_s * (_EASED if self.trip_s <= MOST_AHEAD_S else _RELIEVED))
        latest = answered - theirs
        if self.ahead_s is not None:
            known = self.ahead_s + DRIFT * (answered - self._learnt)
            # Below what this trip allows, one of the clocks was set: what was known before is void.
            if asked - theirs <= known < latest:
                latest = known
        self.ahead_s, self._learnt = latest, answered

    def ours(self, theirs: float) -> float:
        """An instant of theirs, by our clock."""
        return theirs + (self.ahead_s or 0.0)

    def theirs(self, ours: float) -> float:
        """An instant of ours, by their clock."""
        return ours - (self.ahead_s or 0.0)


class LedgerPacer:
    """A `rules.pacing.Pace` whose gates are also those of every other run that shares the ledger.

    `clock` is the event loop's, in seconds. Claims are made one after the other, each in a thread; what is only told
    goes there in the background, in the order in which it happened.
    """

    def __init__(
        self,
        own: Pacer,
        gates: Gates,
        *,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._own = own
        self._gates = gates
        self._clock = clock
        self._patience_s = patience_s
        self._bridge = Bridge()
        self._line = anyio.Lock()
        self._seat = anyio.CapacityLimiter(1)
        self._teller = ThreadPoolExecutor(1, "pace")
        self._closing = threading.Event()
        self._seen_at: float | None = None
        self._lost_at: float | None = None
        self._lead_s = 0.0
        self._record_s = 0.0
        self._said_s = 0.0

    def close(self) -> None:
        """Tell what there is to tell, once; blocking."""
        self._closing.set()
        self._teller.shutdown()

    @property
    def lead_s(self) -> float:
        """How long before its instant a place is to be claimed, at most: as long as the slowest of all runs needs.

        A claim is under way for half a trip, and leaves a little earlier or later than that, at random: else the same
        run would come first for every place.
        """
        return max(self._lead_s, self._need_s) + self._bridge.trip_s / 2 + STRAGGLE_S

    @property
    def _need_s(self) -> float:
        """How far ahead this run has to book: the answer comes back, and the request is put on record."""
        return min(MOST_AHEAD_S, LEAD_S + self._bridge.trip_s + self._record_s)

    @property
    def per_minute(self) -> float | None:
        """Requests a minute that this run may send at most."""
        return self._own.per_minute

    def check(self, costs: Mapping[str, float]) -> None:
        """Raise InputError for an amount that a gate of this run can never hold."""
        self._own.check(costs)

    async def claim(self, at: float, until: float, costs: Mapping[str, float]) -> Claimed:
        """The first instant from now on, and whether it is booked with everyone: if it is by `until`.

        An `at` to come is what was answered before: when to ask again, and no bound.

        Raises:
            LedgerError: the gates could not be reached for so long that the run is to end.
        """
        async with self._line:
            own = self._own.earliest(min(at, self._clock()))
            if own > until:
                return own, False
            found, booked = await anyio.to_thread.run_sync(self._ask, own, until, costs, limiter=self._seat)
            if booked:
                self._own.book(found, costs)
        self._be_heard()
        return found, booked

    def void(self, at: float, now: float) -> bool:
        """Whether nobody of this run may leave now, or a place has passed: by now it would be too near to another's.

        What holds the others is heard with the next claim.
        """
        return self._own.void(at, now) or now - at > LATE_S

    def recorded(self, took_s: float) -> None:
        """Note how long it took to put a request on record: its place has to be booked that much earlier."""
        self._record_s = max(took_s, self._record_s * _EASED)

    def depart(self, at: float, now: float, costs: Mapping[str, float]) -> float:
        """Note that a request of this run that was booked for `at` leaves `now`; a later instant, if it has to wait."""
        return self._own.depart(at, now, costs)

    def hold(self, now: float, wait_s: float) -> None:
        """No run of this key sends for `wait_s` seconds."""
        self._own.hold(now, wait_s)
        self._tell(lambda says: self._gates.hold(says, wait_s))

    def slow_down(self, now: float, wait_s: float, left_at: float) -> None:
        """A 429 came: it concerns every run of this key."""
        self._own.slow_down(now, wait_s, left_at)
        self._tell(lambda says: self._gates.slow_down(says, wait_s, self._bridge.theirs(left_at)))

    def heed(self, now: float, name: str, heard: Heard) -> None:
        """Take over what the provider says of a gate; what is no news to this run is none to the others."""
        before = self._own.hold_until, self._rates()
        self._own.heed(now, name, heard)
        if before != (self._own.hold_until, self._rates()):
            self._tell(lambda says: self._gates.heed(says, name, heard))

    def _be_heard(self) -> None:
        """Say every few seconds that this run is alive; at once that it has to book earlier than the others know."""
        now = self._clock()
        if self._seen_at is not None and (now - self._seen_at >= SEEN_S or self._need_s > self._said_s + LEAD_S / 2):
            self._seen_at = now
            self._tell(self._gates.join)

    # -- in other threads -----------------------------------------------------------------------

    def _ask(self, own: float, until: float, costs: Mapping[str, float]) -> Claimed:
        """What the gates say to a claim from `own` on. Who cannot reach them is to ask again a little later."""
        try:
            reply = self._reply(own, until, costs)
        except LedgerError:
            now = self._clock()
            if self._lost_at is None:
                self._lost_at = now
            if now - self._lost_at >= self._patience_s:
                raise
            return now + AGAIN_S, False
        self._lost_at = None
        self._lead_s = reply.lead_s
        found = self._bridge.ours(reply.at)
        if reply.booked:
            return found, True
        # Whoever is refused hears of what changes meanwhile before long.
        return min(found, self._clock() + SEEN_S) + random.uniform(0, STRAGGLE_S), False  # noqa: S311  # no secret

    def _reply(self, own: float, until: float, costs: Mapping[str, float]) -> Reply:
        """What the gates say to a claim; whoever is not known there joins first."""
        bridge = self._bridge
        while True:
            if self._seen_at is not None:
                # No place that has passed when the answer comes: who leaves late is too near to those of other hosts.
                first = max(own, self._clock() + bridge.trip_s)
                reply = self._exchange(bridge.theirs(first), bridge.theirs(max(first, until)), costs)
                if reply is not None:
                    return reply
            self._gates.join(self._says())
            self._seen_at = self._clock()
            for _ in range(SAMPLES):
                self._exchange(0.0, -1.0, {})

    def _exchange(self, at: float, until: float, costs: Mapping[str, float]) -> Reply | None:
        asked = self._clock()
        reply = self._gates.claim(at, until, costs)
        if reply is not None:
            self._bridge.learn(asked, self._clock(), reply.clock)
        return reply

    def _tell(self, act: Callable[[Says], None]) -> None:
        self._teller.submit(self._told, act, self._says())

    def _told(self, act: Callable[[Says], None], says: Says) -> None:
        while True:
            try:
                return act(says)
            except LedgerError:
                # Without the gates nobody books; it is told as soon as they are there.
                if self._closing.wait(AGAIN_S):
                    return None

    def _says(self) -> Says:
        self._said_s = self._need_s
        return Says(self._rates(), self._said_s)

    def _rates(self) -> dict[str, float]:
        return {name: gate.per_minute for name, gate in self._own.gates.items()}
