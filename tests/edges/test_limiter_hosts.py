"""A run whose gates lie in a ledger far away: never unpaced, never too early, and the event loop waits for nothing."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import anyio
import pytest

from runner.errors import LedgerError
from runner.limiter import LedgerPacer, hosts
from runner.limiter.hosts import LATE_S, Bridge
from runner.rules.pacing import HEADROOM, LEAD_S, Gate, Heard, Pacer, Reply, Says

COST = {"images": 1.0}
pytestmark = pytest.mark.anyio


class Far:
    """Gates in memory by a clock of their own; a trip there takes time on the same clock, as a script says."""

    def __init__(self, per_minute: float = 600.0) -> None:
        self.now = 5000.0
        self.theirs_s = 1_800_000_000.0
        """Added to this process's clock to make theirs."""
        self.pacer = Pacer({"images": Gate(per_minute)})
        self.there_s = self.back_s = 0.01
        self.lead_s = 0.0
        self.lost = False
        self.known = True
        self.told: list[object] = []
        self.asked: list[tuple[float, float]] = []
        self.during: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    def claim(self, at: float, until: float, costs: Mapping[str, float]) -> Reply | None:
        self.now += self.there_s
        self._reached()
        self.during()
        if not self.known:
            self.now += self.back_s
            return None
        if until > 0:
            self.asked.append((at - self.theirs_s, until - self.theirs_s))
        found, booked = self.pacer.claim(at, until, costs)
        reply = Reply(found, booked, self.now + self.theirs_s, self.lead_s)
        self.now += self.back_s
        return reply

    def join(self, says: Says) -> None:
        self._reached()
        self.known = True
        self.told.append(("join", says.rates))

    def hold(self, says: Says, wait_s: float) -> None:
        self._reached()
        self.told.append(("hold", wait_s))

    def slow_down(self, says: Says, wait_s: float, left_at: float) -> None:
        self._reached()
        self.told.append(("slow_down", wait_s, round(left_at - self.theirs_s, 3)))

    def heed(self, says: Says, name: str, heard: Heard) -> None:
        self._reached()
        self.told.append(("heed", name, heard, says.rates))

    def _reached(self) -> None:
        if self.lost:
            raise LedgerError("the server is away", hint="wait")


@pytest.fixture
def far() -> Far:
    return Far()


@pytest.fixture
def pacer(far: Far, monkeypatch: pytest.MonkeyPatch) -> Iterator[LedgerPacer]:
    monkeypatch.setattr(hosts, "AGAIN_S", 0.01)
    made = LedgerPacer(Pacer({"images": Gate(6000.0)}), far, clock=far.clock, patience_s=30.0)
    yield made
    made.close()


async def claim(pacer: LedgerPacer, far: Far, ahead_s: float | None = None) -> tuple[float, bool]:
    return await pacer.claim(far.now, far.now + (pacer.lead_s if ahead_s is None else ahead_s), COST)


async def test_a_place_is_never_earlier_than_the_gates_mean_it(far: Far, pacer: LedgerPacer) -> None:
    """However long a trip takes, and in whichever direction: an instant of theirs becomes that of ours, or a later."""
    for there_s, back_s in ((0.2, 0.001), (0.001, 0.2), (0.01, 0.01), (0.5, 0.5), (0.0, 0.0), (0.3, 0.01)):
        far.there_s, far.back_s = there_s, back_s
        at, booked = await claim(pacer, far, 5.0)
        assert booked
        meant = far.pacer.gates["images"].free_at - 0.1 * (1 + HEADROOM) - far.theirs_s
        assert meant - 1e-6 <= at <= meant + 0.21, "by no more than the way back took"
        far.now += 1.0


async def test_no_place_is_booked_that_has_passed_when_the_answer_comes(far: Far, pacer: LedgerPacer) -> None:
    """Gates that are free let nobody leave late: that would be too near to the requests of other hosts."""
    for _ in range(20):
        far.now += 3.0
        at, booked = await claim(pacer, far)
        assert booked
        assert at >= far.now - 1e-6


async def test_a_trip_that_was_held_up_is_no_measure_of_the_next(far: Far, pacer: LedgerPacer) -> None:
    """A line that was cut for half a minute: afterwards the key is used as before, and not once in half a minute."""
    await claim(pacer, far)
    for held_up_s in ([30.0], [30.0, 20.0]):
        for far.back_s in held_up_s:
            await claim(pacer, far)
        far.back_s = 0.01
        began, places = far.now, 0
        while places < 50:
            at, booked = await claim(pacer, far)
            places += booked
            # As the pool does: the next is asked for when its place comes near.
            far.now = max(far.now, at - pacer.lead_s)
        assert 5.0 < at - began < 5.0 + hosts.MOST_AHEAD_S + 2 * sum(held_up_s[1:])


async def test_a_ledger_that_is_always_slow_is_booked_that_far_ahead(far: Far, pacer: LedgerPacer) -> None:
    """Else every place would have passed when the answer comes."""
    far.there_s = far.back_s = 2.0
    places = [await claim(pacer, far) for _ in range(4)]
    assert all(booked for _, booked in places)
    assert places[-1][0] >= far.now - 1e-6
    assert pacer._bridge.trip_s == pytest.approx(4.0)


async def test_its_own_gates_come_first(far: Far, pacer: LedgerPacer) -> None:
    """A job that asks for less goes by that, and does not lose rate by the way to the ledger."""
    pacer._own.gates["images"].per_minute = 60.0
    first, _ = await claim(pacer, far)
    for number in range(1, 5):
        count = len(far.asked)
        at, booked = await claim(pacer, far)
        assert not booked
        assert len(far.asked) == count, "nobody is asked for a place that it may not take"
        far.now = at - pacer.lead_s
        at, booked = await claim(pacer, far)
        assert booked
        assert at == pytest.approx(first + number * (1 + HEADROOM), abs=0.002 * number)


async def test_who_is_refused_asks_again_when_the_place_comes_near_and_gets_it(far: Far, pacer: LedgerPacer) -> None:
    """Whenever exactly it asks, the place is at the instant of the gates: waiting costs no rate."""
    far.pacer.gates["images"].per_minute = 12.0
    first, _ = await claim(pacer, far)
    at, booked = await claim(pacer, far)
    assert not booked
    assert first + 5.0 <= at <= first + 5.02 + hosts.STRAGGLE_S + 0.001
    far.now = at - pacer.lead_s
    at, booked = await pacer.claim(at, far.now + pacer.lead_s, COST)
    assert booked
    assert at == pytest.approx(first + 5.0 * (1 + HEADROOM), abs=0.002)


async def test_gates_that_are_closed_for_long_are_asked_again_before(far: Far, pacer: LedgerPacer) -> None:
    """A faster run may come meanwhile, or a clock be set."""
    far.pacer.hold_until = far.now + far.theirs_s + 500.0
    at, booked = await claim(pacer, far)
    assert not booked
    assert at <= far.now + hosts.SEEN_S + hosts.STRAGGLE_S


async def test_without_the_gates_nothing_is_booked_and_the_run_waits(far: Far, pacer: LedgerPacer) -> None:
    """Never unpaced; when they are back it goes on, and when they stay away the run ends."""
    await claim(pacer, far)
    far.lost = True
    for _ in range(3):
        assert not (await claim(pacer, far))[1]
        far.now += 5.0
    far.lost = False
    assert (await claim(pacer, far))[1]
    far.lost = True
    assert not (await claim(pacer, far))[1]
    far.now += 31.0
    with pytest.raises(LedgerError, match="away"):
        await claim(pacer, far)


async def test_a_run_that_was_forgotten_joins_again(far: Far, pacer: LedgerPacer) -> None:
    await claim(pacer, far)
    far.known = False
    assert (await claim(pacer, far, 5.0))[1]
    assert [what for what, *_ in far.told] == ["join", "join"]  # type: ignore[has-type, misc]


async def test_what_a_429_says_holds_this_run_at_once_and_is_told_in_the_background(
    far: Far, pacer: LedgerPacer
) -> None:
    """The event loop waits for nothing; what happened first is told first, also if the gates are away for a while."""
    await claim(pacer, far)
    far.told.clear()
    far.lost = True
    left = far.now - 0.5
    pacer.slow_down(far.now, 2.0, left)
    assert pacer.void(far.now + 1.9, far.now + 1.9)
    pacer.hold(far.now, 7.0)
    pacer.heed(far.now, "images", Heard(limit=30.0))
    pacer.heed(far.now, "images", Heard(limit=30.0))
    assert pacer.void(far.now, far.now)
    assert not (await claim(pacer, far))[1]
    far.lost = False
    with anyio.fail_after(10):
        while len(far.told) < 3:
            await anyio.sleep(0.005)
    assert [told[0] for told in far.told] == ["slow_down", "hold", "heed"]  # type: ignore[index]
    assert far.told[0] == ("slow_down", 2.0, pytest.approx(left, abs=0.011))
    assert far.told[2] == ("heed", "images", Heard(limit=30.0), {"images": 30.0})
    pacer.close()
    assert len(far.told) == 3, "what is no news is not told"


async def test_what_was_said_last_is_told_before_the_end_once(
    far: Far, pacer: LedgerPacer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await claim(pacer, far)
    tell = far.hold

    def slowly(says: Says, wait_s: float) -> None:
        time.sleep(0.1)
        tell(says, wait_s)

    monkeypatch.setattr(far, "hold", slowly)
    pacer.hold(far.now, 7.0)
    pacer.close()
    assert far.told[-1] == ("hold", 7.0)


async def test_the_end_does_not_wait_for_gates_that_are_away(far: Far, pacer: LedgerPacer) -> None:
    far.lost = True
    pacer.hold(far.now, 7.0)
    pacer.close()
    assert far.told == []


async def test_the_event_loop_goes_on_while_a_claim_is_under_way(far: Far, pacer: LedgerPacer) -> None:
    """And two tasks that claim at once have one place each, by the run's own gates as well."""
    pacer._own.gates["images"].per_minute = 60.0
    await claim(pacer, far)
    under_way, go_on = threading.Event(), threading.Event()

    def during() -> None:
        under_way.set()
        assert go_on.wait(20)

    far.during = during
    found: list[float] = []

    async def one() -> None:
        at, booked = await claim(pacer, far, 5.0)
        assert booked
        found.append(at)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)
            while not under_way.is_set():
                await anyio.sleep(0.001)
            assert found == []
            go_on.set()
    assert abs(found[1] - found[0]) >= 1.0


async def test_how_far_ahead_is_booked_follows_what_it_takes(far: Far, pacer: LedgerPacer) -> None:
    """The longest trip and record of late, and what the slowest of all runs needs; a bound holds for all of it."""
    await claim(pacer, far)
    near = pacer.lead_s
    assert LEAD_S < near < LEAD_S + 0.1
    pacer.recorded(0.6)
    assert pacer.lead_s == pytest.approx(near + 0.6)
    for _ in range(300):
        pacer.recorded(0.001)
    assert pacer.lead_s == pytest.approx(near, abs=0.01)
    far.lead_s = 1.5
    await claim(pacer, far)
    assert pacer.lead_s > 1.5
    pacer.recorded(100.0)
    assert pacer.lead_s < hosts.MOST_AHEAD_S + 0.1


async def test_a_run_says_every_few_seconds_that_it_lives_and_at_once_that_it_is_slower(
    far: Far, pacer: LedgerPacer
) -> None:
    await claim(pacer, far)
    await claim(pacer, far)
    far.now += hosts.SEEN_S
    await claim(pacer, far)
    pacer.recorded(1.0)
    await claim(pacer, far)
    await claim(pacer, far)
    pacer.close()
    assert far.told == [("join", {"images": 6000.0})] * 3


async def test_a_place_that_was_missed_is_left_unused(far: Far, pacer: LedgerPacer) -> None:
    assert not pacer.void(100.0, 100.0 + LATE_S)
    assert pacer.void(100.0, 100.0 + LATE_S + 0.001)


def test_clocks_that_drift_apart_or_are_set_are_followed() -> None:
    """The best trip is believed for as long as no clock can have run away from it."""
    bridge = Bridge()
    bridge.learn(10.0, 10.002, 1010.001)
    assert bridge.ours(1010.001) == pytest.approx(10.002)
    bridge.learn(11.0, 11.2, 1011.1)
    assert bridge.ours(1011.1) == pytest.approx(11.101, abs=2 * hosts.DRIFT)
    bridge.learn(12.0, 12.2, 900.1)
    assert bridge.ours(900.1) == pytest.approx(12.2), "theirs was set back"
    bridge.learn(13.0, 13.2, 2000.1)
    assert bridge.ours(2000.1) == pytest.approx(13.2), "and forward"
    assert math.isclose(bridge.theirs(bridge.ours(5.0)), 5.0)
