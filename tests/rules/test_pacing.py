"""What the gates must hold: no minute passes more than its limit, nobody waits longer than needed, all are held."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import InputError
from runner.rules.pacing import SLOW_DOWN, SLOWEST, SPEED_UP, Gate, Heard, Pacer
from runner.rules.retry import MAX_HOLD_S

WINDOW_S = 60.0
ROUNDING = 1e-6
"""Floating-point dust, as a share of a limit and in seconds."""

Passage = tuple[float, float]
"""(the instant, the amount) that passed a gate."""


def most_over_the_limit(passages: Iterable[Passage], per_minute: float) -> float:
    """By how much the fullest window of 60 s passes the limit plus the one request that ends it; below 0 is fine."""
    found = sorted(passages)
    worst = -math.inf
    for last, (end, amount) in enumerate(found):
        within = sum(a for at, a in found[: last + 1] if at > end - WINDOW_S + ROUNDING)
        worst = max(worst, within - per_minute - amount)
    return worst - per_minute * ROUNDING


LIMITS = st.fixed_dictionaries(
    {}, optional={"images": st.integers(1, 300), "requests": st.integers(1, 300), "tokens": st.integers(100, 100_000)}
)
ARRIVALS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0, 1), st.floats(0, 150)),
        st.floats(0, 1),
        st.booleans(),
        st.sampled_from(["", "", "", "slow down", "hold", "speed up"]),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(LIMITS, ARRIVALS)
def test_no_minute_passes_more_than_the_limit_and_one_request(
    limits: dict[str, int], arrivals: list[tuple[float, float, bool, str]]
) -> None:
    """Whatever comes when, with 429s and holds between: no window of 60 s of any gate has more than that."""
    pacer = Pacer({name: Gate(float(limit)) for name, limit in limits.items()})
    passed: dict[str, list[Passage]] = {name: [] for name in limits}
    now = 1_000.0
    for gap_s, share, waits, event in arrivals:
        now += gap_s
        if event == "slow down":
            pacer.slow_down(now, gap_s)
        elif event == "hold":
            pacer.hold(now, gap_s)
        elif event == "speed up":
            pacer.speed_up()
        costs = {"images": 1.0, "requests": 1.0, "tokens": math.ceil(limits.get("tokens", 1) * share)}
        pacer.check(costs)
        expected = pacer.earliest(now)
        at = pacer.book(now, costs)
        assert at == expected >= now
        for name in limits:
            passed[name].append((at, costs[name]))
        if waits:
            now = at
    for name, limit in limits.items():
        assert most_over_the_limit(passed[name], limit) <= 0


@settings(deadline=None)
@given(st.integers(1, 300), st.lists(st.tuples(st.floats(0, 90), st.integers(1, 300)), max_size=40))
def test_a_limit_that_is_lowered_holds_from_then_on(limit: int, told: list[tuple[float, int]]) -> None:
    """Headers lower what the user wrote and never raise it again: the lowest limit told spaces the requests."""
    pacer = Pacer({"images": Gate(float(limit), explicit=True)})
    now, lowest = 0.0, limit
    for wait_s, header in told:
        pacer.heed(now, "images", Heard(limit=float(header)))
        lowest = min(lowest, header)
        assert pacer.gates["images"].per_minute == lowest
        first = pacer.book(now, {"images": 1.0})
        assert pacer.earliest(first) == pytest.approx(first + 60 / lowest)
        now = first + wait_s


# -- joint booking ----------------------------------------------------------------------------------


def one_by_one(gates: Mapping[str, Gate], now: float, costs: Mapping[str, float]) -> float:
    """The mistake: each gate is booked at its own earliest instant, and the request leaves at the latest of them."""
    starts = []
    for name, amount in costs.items():
        starts.append(gates[name].earliest(now))
        gates[name].book(starts[-1], amount, 1.0)
    return max(starts)


def test_gates_are_booked_jointly() -> None:
    """200 requests that tokens delay, then 200 that only count as images: booked one by one, a minute has 73 of 60."""
    crowd = [{"images": 1.0, "tokens": 12.0}] * 200 + [{"images": 1.0}] * 200
    mistaken = {"images": Gate(60), "tokens": Gate(600)}
    assert most_over_the_limit([(one_by_one(mistaken, 0, costs), 1.0) for costs in crowd], 60) > 10

    pacer = Pacer({"images": Gate(60), "tokens": Gate(600)})
    assert most_over_the_limit([(pacer.book(0, costs), 1.0) for costs in crowd], 60) <= 0


def test_a_request_leaves_when_its_slowest_gate_lets_it() -> None:
    """The joint instant is the latest of the gates' earliest ones, and every gate counts from there."""
    pacer = Pacer({"images": Gate(60), "tokens": Gate(600)})
    costs = {"images": 1.0, "tokens": 100.0}
    assert [pacer.book(0, costs) for _ in range(3)] == [0, 10, 20]
    assert pacer.gates["images"].free_at == 21
    assert pacer.gates["tokens"].free_at == 30


def test_a_gate_that_is_asked_for_nothing_is_left_as_it_is() -> None:
    """A cost that is not named, or is zero, books nothing."""
    pacer = Pacer({"images": Gate(60), "tokens": Gate(600)})
    pacer.book(5, {"images": 1.0, "tokens": 0.0})
    assert pacer.gates["tokens"].free_at == 0


def test_without_gates_nothing_waits() -> None:
    """A simulator without limits is as fast as it is."""
    pacer = Pacer({})
    assert [pacer.book(now, {"images": 1.0}) for now in (3.0, 3.0, 4.0)] == [3, 3, 4]
    pacer.slow_down(4, 2)
    assert pacer.earliest(4) == 6


# -- the rate ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 1000), st.lists(st.floats(0, 0.05), min_size=2, max_size=200))
def test_the_limit_is_reached_exactly_when_always_busy(per_minute: int, late_s: list[float]) -> None:
    """A caller that wakes some ms late books at the scheduled instant, so the average rate does not drift."""
    pacer = Pacer({"images": Gate(float(per_minute))})
    now, departures = 0.0, []
    for late in late_s:
        at = pacer.earliest(now)
        now = max(now, at) + min(late, 30 / per_minute)
        departures.append(pacer.book(at, {"images": 1.0}))
    assert departures[-1] == pytest.approx((len(late_s) - 1) * 60 / per_minute)


@settings(deadline=None)
@given(st.integers(1, 300), st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_nothing_is_saved_up_while_idle(per_minute: int, idle_s: list[float]) -> None:
    """A limit per minute may be enforced per second: after a pause the next two are as far apart as ever."""
    pacer = Pacer({"images": Gate(float(per_minute))})
    now = 0.0
    for pause in idle_s:
        now += pause
        first = pacer.book(now, {"images": 1.0})
        second = pacer.book(now, {"images": 1.0})
        assert second - first == pytest.approx(60 / per_minute)
        now = second


def test_the_first_request_leaves_at_once() -> None:
    """A run does not begin with a wait."""
    assert Pacer({"images": Gate(1)}).book(7.5, {"images": 1.0}) == 7.5


# -- a hold for everyone ----------------------------------------------------------------------------


def test_a_hold_serves_everyone_and_the_longest_one_counts() -> None:
    """A second answer that asks for less does not shorten what the first one asked for."""
    pacer = Pacer({"images": Gate(60)})
    pacer.hold(100, 20)
    pacer.hold(101, 5)
    assert [pacer.book(102, {"images": 1.0}) for _ in range(3)] == [120, 121, 122]


def test_a_hold_that_is_over_delays_nobody() -> None:
    """After its end the gates alone decide."""
    pacer = Pacer({"images": Gate(60)})
    pacer.hold(100, 20)
    assert pacer.earliest(121) == 121


@pytest.mark.parametrize("wait_s", [3_600.0, 1_764_000_000.0, math.inf])
def test_an_absurd_wait_is_bounded(wait_s: float) -> None:
    """A reset written as a Unix time would hold the run for half a century."""
    pacer = Pacer({"images": Gate(60)})
    pacer.hold(100, wait_s)
    assert pacer.earliest(100) == 100 + MAX_HOLD_S
    pacer.heed(200, "images", Heard(remaining=0, reset_s=wait_s))
    assert pacer.earliest(200) == 200 + MAX_HOLD_S


# -- the pace ---------------------------------------------------------------------------------------


def test_a_crowd_of_429s_slows_down_once() -> None:
    """128 requests in flight hit the limit together: that is one lesson, and the next crowd another."""
    pacer = Pacer({"images": Gate(60)})
    for n in range(128):
        pacer.slow_down(100 + n / 100, 12)
    assert pacer.pace == pytest.approx(SLOW_DOWN)
    assert pacer.earliest(102) == pytest.approx(100 + 1.27 + 12)
    pacer.slow_down(112, 12)
    assert pacer.pace == pytest.approx(SLOW_DOWN**2)


def test_a_crowd_without_a_wait_is_still_one_crowd() -> None:
    """`Retry-After: 0` makes no second lesson of the answers that come within one interval."""
    pacer = Pacer({"images": Gate(60), "tokens": Gate(1)})
    for n in range(10):
        pacer.slow_down(100 + n / 100, 0)
    assert pacer.pace == pytest.approx(SLOW_DOWN)
    pacer.slow_down(102, 0)
    assert pacer.pace == pytest.approx(SLOW_DOWN**2)


def test_a_slowed_pace_spreads_the_requests() -> None:
    """At 0.7 of 60 a minute one leaves every 1.43 s."""
    pacer = Pacer({"images": Gate(60)})
    pacer.slow_down(0, 0)
    departures = [pacer.book(0, {"images": 1.0}) for _ in range(8)]
    assert departures[-1] == pytest.approx(7 / SLOW_DOWN)


def test_the_pace_has_a_floor() -> None:
    """A thousand 429s slow down, and never stop."""
    pacer = Pacer({"images": Gate(60)})
    for n in range(1000):
        pacer.slow_down(n * 1e6, 1)
    assert pacer.pace == SLOWEST


def test_images_that_come_back_bring_the_pace_back() -> None:
    """It recovers in steps to the full pace, and not beyond."""
    pacer = Pacer({"images": Gate(60)})
    pacer.slow_down(0, 1)
    pacer.speed_up()
    assert pacer.pace == pytest.approx(SLOW_DOWN + SPEED_UP)
    for _ in range(1000):
        pacer.speed_up()
    assert pacer.pace == 1.0


# -- what the provider says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("explicit", "header", "expected"),
    [(True, 20, 20), (False, 20, 20), (True, 200, 50), (False, 200, 200), (True, 50, 50), (True, 0, 50)],
)
def test_the_word_of_the_provider_wins_but_never_raises_what_the_user_wrote(
    explicit: bool, header: float, expected: float
) -> None:
    """Lower always wins; higher only over a default; a limit of zero is no limit that anyone could mean."""
    pacer = Pacer({"images": Gate(50, explicit=explicit)})
    pacer.heed(0, "images", Heard(limit=header))
    assert pacer.gates["images"].per_minute == expected


def test_a_limit_that_nobody_knew_makes_a_gate() -> None:
    """From then on it is booked jointly with the others, and counts from now."""
    pacer = Pacer({"images": Gate(60)})
    pacer.heed(100, "tokens", Heard(limit=600))
    assert [pacer.book(100, {"images": 1.0, "tokens": 100.0}) for _ in range(2)] == [100, 110]


def test_nothing_said_changes_nothing() -> None:
    """Headers that are not there neither make a gate nor hold anyone."""
    pacer = Pacer({"images": Gate(60)})
    for heard in (Heard(), Heard(remaining=3, reset_s=60), Heard(remaining=0), Heard(limit=None, reset_s=9)):
        pacer.heed(100, "images", heard)
        pacer.heed(100, "tokens", heard)
    assert set(pacer.gates) == {"images"}
    assert pacer.gates["images"].per_minute == 60
    assert pacer.earliest(100) == 100


@pytest.mark.parametrize(
    ("heard", "wait_s"),
    [
        (Heard(limit=50, remaining=0, reset_s=60), 1.2),
        (Heard(limit=1, remaining=0, reset_s=60), 60),
        (Heard(limit=0.5, remaining=0, reset_s=60), 60),
        (Heard(remaining=0, reset_s=30), 30),
    ],
)
def test_when_nothing_remains_everyone_waits_for_one_place(heard: Heard, wait_s: float) -> None:
    """The reset tells when the whole allowance is back; one place of fifty is back fifty times sooner."""
    pacer = Pacer({"requests": Gate(1000)})
    pacer.heed(100, "requests", heard)
    assert pacer.earliest(100) == pytest.approx(100 + wait_s)


# -- what can never pass ----------------------------------------------------------------------------


def test_a_cost_larger_than_its_gate_is_an_error_and_no_wait() -> None:
    """Waiting for it would be for ever; the message has both numbers, and the hint names the setting."""
    pacer = Pacer({"tokens": Gate(1000)})
    with pytest.raises(InputError, match=r"6240 tokens.*1000 per minute") as caught:
        pacer.check({"images": 1.0, "tokens": 6240.0})
    assert caught.value.hint is not None
    assert "limits.tokens_per_minute" in caught.value.hint


def test_a_cost_as_large_as_its_gate_passes() -> None:
    """One such request a minute is within the limit."""
    pacer = Pacer({"tokens": Gate(1000)})
    pacer.check({"tokens": 1000.0})
    assert [pacer.book(0, {"tokens": 1000.0}) for _ in range(3)] == [0, 60, 120]


def test_time_may_begin_anywhere() -> None:
    """Monotonic seconds have no zero that means anything: only differences count."""
    runs = []
    for start in (0.0, 1e6):
        pacer = Pacer({"images": Gate(50), "tokens": Gate(7000)})
        at = [pacer.book(start + n, {"images": 1.0, "tokens": 272.0}) - start for n in range(30)]
        runs.append([later - earlier for earlier, later in itertools.pairwise(at)])
    assert runs[0] == pytest.approx(runs[1], abs=1e-6)
