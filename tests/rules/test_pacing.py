"""What the gates must hold: no minute passes more than its limit, nobody waits longer than needed, all are held."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import InputError
from runner.rules.pacing import (
    HARDEST_FALL,
    HEADROOM,
    LEAST_FALL,
    RECOVERY,
    SLOWEST,
    STARTING_S,
    TRUSTED,
    Gate,
    Heard,
    Pacer,
    Tempo,
    TokenMeter,
)
from runner.rules.retry import MAX_HOLD_S

WINDOW_S = 60.0
ONE = {"images": 1.0}
ROUNDING = 1e-6
"""Floating-point dust, as a share of a limit and in seconds."""

Passage = tuple[float, float]
"""(the instant, the amount) that passed a gate."""
Answer = tuple[float, bool]
"""(when a request arrived, whether it was let through)."""


def apart_s(per_minute: float) -> float:
    """Seconds between two requests at the full pace."""
    return 60 / per_minute * (1 + HEADROOM)


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
        st.sampled_from(["", "", "", "slow down", "hold"]),
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
            pacer.slow_down(now, gap_s, now)
        elif event == "hold":
            pacer.hold(now, gap_s)
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
        assert pacer.earliest(first) == pytest.approx(first + apart_s(lowest))
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
    assert [pacer.book(0, costs) for _ in range(3)] == pytest.approx([0, apart_s(6), 2 * apart_s(6)])
    assert pacer.gates["images"].free_at == pytest.approx(2 * apart_s(6) + apart_s(60))
    assert pacer.gates["tokens"].free_at == pytest.approx(3 * apart_s(6))


def test_a_gate_that_is_asked_for_nothing_is_left_as_it_is() -> None:
    """A cost that is not named, or is zero, books nothing."""
    pacer = Pacer({"images": Gate(60), "tokens": Gate(600)})
    pacer.book(5, {"images": 1.0, "tokens": 0.0})
    assert pacer.gates["tokens"].free_at == 0


def test_without_gates_nothing_waits() -> None:
    """A simulator without limits is as fast as it is."""
    pacer = Pacer({})
    assert [pacer.book(now, {"images": 1.0}) for now in (3.0, 3.0, 4.0)] == [3, 3, 4]
    pacer.slow_down(4, 2, 4)
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
    assert departures[-1] == pytest.approx((len(late_s) - 1) * apart_s(per_minute))


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
        assert second - first == pytest.approx(apart_s(per_minute))
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
    assert [pacer.book(102, {"images": 1.0}) for _ in range(3)] == pytest.approx(
        [120, 120 + apart_s(60), 120 + 2 * apart_s(60)]
    )


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


# -- ahead of its instant ---------------------------------------------------------------------------


def test_a_place_is_booked_a_little_ahead_and_no_earlier() -> None:
    """What comes later than `until` is told and not booked; what is booked is booked at its instant, not at `until`."""
    pacer = Pacer({"images": Gate(60)})
    assert pacer.claim(0, 0.1, {"images": 1.0}) == (0, True)
    found, booked = pacer.claim(0.2, 0.3, {"images": 1.0})
    assert found == pytest.approx(apart_s(60))
    assert not booked
    assert pacer.claim(found, found + 0.09, {"images": 1.0}) == (found, True)
    assert pacer.earliest(0) == pytest.approx(2 * apart_s(60))


def test_a_hold_is_seen_by_what_was_booked_before_it() -> None:
    pacer = Pacer({"images": Gate(60)})
    assert not pacer.held(100)
    pacer.hold(100, 5)
    assert pacer.held(104.9)
    assert not pacer.held(105)


@settings(deadline=None)
@given(st.integers(1, 3000), st.lists(st.floats(0, 2), min_size=1, max_size=150))
def test_however_late_single_requests_are_no_second_sees_too_many(per_minute: int, late_s: list[float]) -> None:
    """And none is kept longer than that asks for: where nobody is late, each leaves at its own instant."""
    pacer = Pacer({"images": Gate(float(per_minute))})
    left: list[float] = []
    for number, late in enumerate(late_s):
        at = max(number * apart_s(per_minute), left[-1] if left else 0.0) + late
        clear = pacer.depart(at, at, ONE)
        if clear > at:
            assert pacer.depart(clear, clear, ONE) == clear
        left.append(clear)
    places = max(1, per_minute // 60)
    for first, last in zip(left, left[places:], strict=False):
        assert last - first >= places * 60 / per_minute - ROUNDING
    on_time = Pacer({"images": Gate(float(per_minute))})
    for at in (n * apart_s(per_minute) for n in range(100)):
        assert on_time.depart(at, at, ONE) == at


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 900), st.floats(0, 0.3)), min_size=1, max_size=150))
def test_requests_of_different_sizes_keep_their_distances_and_no_others(sizes: list[tuple[int, float]]) -> None:
    """60,000 tokens a minute: what left in a second has had its time before the next one leaves, and no more."""
    pacer, on_time = Pacer({"tokens": Gate(60_000.0)}), Pacer({"tokens": Gate(60_000.0)})
    left: list[Passage] = []
    for size, late in sizes:
        costs = {"tokens": float(size)}
        at = on_time.book(0.0, costs)
        assert on_time.depart(at, at, costs) == at
        at = max(at, left[-1][0] if left else 0.0) + late
        clear = pacer.depart(at, at, costs)
        if clear > at:
            assert pacer.depart(clear, clear, costs) == clear
        within_s = [(began, sum(amount for _, amount in left[n:]) / 1000) for n, (began, _) in enumerate(left)]
        began, taken_s = next((pair for pair in within_s if pair[1] <= 1.0), (clear, 0.0))
        assert clear - began >= taken_s - ROUNDING
        left.append((clear, size))


def test_without_a_limit_nothing_keeps_a_distance() -> None:
    pacer = Pacer({"tokens": Gate(1.0)})
    assert [pacer.depart(5.0, 5.0, ONE) for _ in range(3)] == [5.0] * 3


def test_what_is_late_after_a_pause_moves_what_follows() -> None:
    """Else the next ones would have to make up for it. In the middle of a row it moves only its own follower."""
    pacer = Pacer({"images": Gate(600)})
    for began in (0.0, 100.0):
        assert pacer.depart(pacer.book(began, ONE), began + 0.03, ONE) == began + 0.03
        assert pacer.earliest(began) == pytest.approx(began + 0.03 + STARTING_S + apart_s(600))
    at = pacer.book(100.0, ONE)
    pacer.depart(at, at + 0.01, ONE)
    assert pacer.earliest(100.0) == pytest.approx(at + apart_s(600))


# -- the pace ---------------------------------------------------------------------------------------


def tried(per_minute: float = 600.0) -> Pacer:
    """A pacer that has just met two 429s, one after the other."""
    pacer = Pacer({"images": Gate(per_minute)}, tempo=Tempo(passed=0.0, before=1.0))
    pacer.slow_down(0, 0, 0)
    return pacer


def test_a_crowd_of_429s_slows_down_once() -> None:
    """128 requests that had left together hit the limit: that is one lesson, whenever they say so."""
    pacer = tried()
    for n in range(128):
        pacer.slow_down(100 + n / 100, 12, 99)
    once = pacer.pace
    assert pacer.earliest(102) == pytest.approx(100 + 1.27 + 12)
    pacer.slow_down(200, 12, 99.9)
    assert pacer.pace == once
    pacer.slow_down(200, 12, 113)
    assert pacer.pace < once


def test_a_stray_429_costs_next_to_nothing_and_two_in_a_row_a_third() -> None:
    """What it takes is the share of requests that was refused, over the last two crowds."""
    stray = Pacer({"images": Gate(600)})
    stray.slow_down(0, 0.1, 0)
    assert stray.pace == pytest.approx(1 - LEAST_FALL)
    assert tried().pace == pytest.approx(1 - HARDEST_FALL)
    unlucky = Pacer({"images": Gate(600)}, tempo=Tempo(passed=10.0, before=TRUSTED))
    unlucky.slow_down(0, 0.1, 0)
    assert unlucky.pace == pytest.approx(1 - 1 / math.sqrt(10 * TRUSTED))


def test_a_slowed_pace_spreads_the_requests() -> None:
    pacer = tried()
    first = pacer.book(0, {"images": 1.0})
    assert pacer.earliest(0) - first == pytest.approx(apart_s(600) / (1 - HARDEST_FALL))


def test_the_pace_has_a_floor() -> None:
    """A thousand 429s slow down, and never stop."""
    pacer = Pacer({"images": Gate(60)})
    for n in range(1000):
        pacer.slow_down(n * 1e6, 1, n * 1e6)
    assert pacer.pace == SLOWEST
    assert pacer.book(1e9, {"images": 1.0}) < pacer.earliest(1e9) < 1e9 + 60


def test_the_pace_comes_back_fast_dwells_where_it_broke_and_goes_on() -> None:
    """Half of the way in a fifth of the requests; below where it broke until the last of them; then faster again."""
    tempo = Tempo(broke=0.5, fall=HARDEST_FALL, passed=0.0)
    paces = []
    for _ in range(3 * RECOVERY):
        paces.append(tempo.pace(600))
        tempo.passed += 1
    low = 0.5 * (1 - HARDEST_FALL)
    assert paces[0] == pytest.approx(low)
    assert paces[RECOVERY // 5] > low + (0.5 - low) * 0.48
    assert all(later >= earlier for earlier, later in itertools.pairwise(paces))
    assert max(paces[: RECOVERY + 1]) == pytest.approx(0.5)
    assert paces[RECOVERY + 300] < 0.5 * 1.01
    assert paces[-1] == 1.0


def test_a_slow_limit_recovers_in_minutes_and_not_in_hours() -> None:
    """At 5 a minute 1,000 requests would be three hours: 25 are five minutes."""
    tempo = Tempo(fall=HARDEST_FALL, passed=25.0)
    assert tempo.pace(5) == pytest.approx(1.0)
    assert tempo.pace(600) < 0.8


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e5), st.booleans()), max_size=60), st.floats(0.1, 1e5))
def test_the_pace_is_always_a_share_of_the_limit(events: list[tuple[float, bool]], per_minute: float) -> None:
    """Whatever came: never above the limit, never stopped, and a 429 never makes it faster."""
    tempo = Tempo()
    for passed, refused in events:
        tempo.passed += passed
        before = tempo.pace(per_minute)
        assert SLOWEST <= before <= 1.0
        if refused:
            tempo.lower(per_minute)
            assert tempo.pace(per_minute) <= before


def served(believed: float, per_window: int, window_s: float, minutes: int, way_s: Callable[[], float]) -> list[Answer]:
    """What a server says that lets no window of its own pass more than so many images (a strict sliding window)."""
    pacer = Pacer({"images": Gate(believed)})
    let: deque[float] = deque()
    answers: list[Answer] = []
    lessons: list[tuple[float, float, float]] = []
    at = 0.0
    while at < minutes * 60:
        at = pacer.earliest(at)
        while lessons and lessons[0][0] <= at:
            pacer.slow_down(*lessons.pop(0))
            at = pacer.earliest(at)
        at = pacer.book(at, {"images": 1.0})
        arrives = max(at + way_s(), answers[-1][0] if answers else 0.0)
        while let and let[0] + window_s <= arrives:
            let.popleft()
        passes = len(let) < per_window
        answers.append((arrives, passes))
        if passes:
            let.append(arrives)
        else:
            lessons.append((arrives + 0.005, let[0] + window_s - arrives, at))
    return answers


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([(4, 1.0), (10, 1.0), (50, 1.0), (20, 2.0), (21, 5.0), (250, 60.0), (5, 60.0)]),
    st.integers(),
)
def test_a_limit_that_is_known_is_used_to_995_of_1000_without_a_429(window: tuple[int, float], seed: int) -> None:
    """Ten minutes against strict windows of 1 to 60 s, with a millisecond of jitter on the way."""
    per_window, window_s = window
    dice = Random(seed)
    answers = served(60 / window_s * per_window, per_window, window_s, 10, lambda: 0.002 + dice.uniform(0, 0.001))
    assert all(passes for _, passes in answers)
    assert len(answers) >= 0.995 * per_window / window_s * 600


@pytest.mark.parametrize(("per_window", "window_s"), [(5, 1.0), (25, 5.0), (300, 60.0)])
def test_a_lower_limit_than_believed_is_found_and_then_kept(per_window: int, window_s: float) -> None:
    """300 a minute, believed to be 600, and no header: after a minute under 1 % are refused, and over 97 % are used."""
    dice = Random(7)
    answers = served(600, per_window, window_s, 30, lambda: 0.002 + dice.expovariate(1000))
    later = [passes for at, passes in answers if at > 60]
    assert later.count(False) < 0.01 * len(later)
    assert later.count(True) > 0.97 * per_window / window_s * 29 * 60
    assert sum(not passes for at, passes in answers if at <= 60) < 25


def test_a_way_that_jitters_costs_pace_and_not_429s() -> None:
    """10 in a second, and 5 ms of jitter on the way: requests are spread until under 1 % are refused."""
    dice = Random(7)
    answers = served(600, 10, 1.0, 30, lambda: 0.002 + dice.expovariate(200))
    assert sum(not passes for _, passes in answers) < 0.01 * len(answers)
    assert sum(passes for _, passes in answers) > 0.96 * 10 * 1800


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
    assert [pacer.book(100, {"images": 1.0, "tokens": 100.0}) for _ in range(2)] == pytest.approx(
        [100, 100 + apart_s(6)]
    )


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


def test_at_the_limit_nothing_ever_remains_and_that_holds_nobody() -> None:
    """A gate that keeps to the limit has its next place when one is free; only who believed in more has to wait."""
    pacer = Pacer({"images": Gate(5)})
    first = pacer.book(100, {"images": 1.0})
    pacer.heed(first + 10, "images", Heard(limit=5, remaining=0, reset_s=60))
    assert pacer.earliest(first) == pytest.approx(first + apart_s(5))
    idle = Pacer({"images": Gate(5)})
    idle.heed(100, "images", Heard(limit=5, remaining=0, reset_s=60))
    assert idle.earliest(100) == pytest.approx(112), "someone else has used it up"


# -- tokens -----------------------------------------------------------------------------------------


def test_what_answers_took_corrects_the_next_quotes_of_their_kind() -> None:
    """A quarter more than quoted, again and again: that is booked. Another kind knows nothing of it."""
    meter = TokenMeter()
    assert meter.expected("low", 100) == 100
    for _ in range(10):
        meter.told("low", 100, 125)
    assert meter.expected("low", 200) == pytest.approx(250)
    assert meter.expected("high", 200) == 200


@given(st.lists(st.tuples(st.floats(1, 1e5), st.floats(0.1, 3)), min_size=1, max_size=50))
def test_the_correction_lies_within_what_was_told(told: list[tuple[float, float]]) -> None:
    meter = TokenMeter()
    for quoted, factor in told:
        meter.told("kind", quoted, quoted * factor)
    low, high = min(factor for _, factor in told), max(factor for _, factor in told)
    assert low * (1 - ROUNDING) <= meter.expected("kind", 1.0) <= high * (1 + ROUNDING)


def test_the_correction_follows_what_changes_and_ignores_nonsense() -> None:
    meter = TokenMeter()
    for _ in range(1000):
        meter.told("kind", 100, 300)
    for _ in range(5 * TokenMeter.MEMORY):
        meter.told("kind", 100, 50)
    meter.told("kind", 0, 50)
    meter.told("kind", 100, 0)
    assert meter.expected("kind", 100) == pytest.approx(50, rel=0.05)
    for n in range(2 * TokenMeter.MOST_KINDS):
        meter.told(n, 1, 2)
    assert meter.expected(2 * TokenMeter.MOST_KINDS - 1, 1) == 1, "kinds are bounded"


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
    assert [pacer.book(0, {"tokens": 1000.0}) for _ in range(3)] == pytest.approx([0, apart_s(1), 2 * apart_s(1)])


def test_time_may_begin_anywhere() -> None:
    """Monotonic seconds have no zero that means anything: only differences count."""
    runs = []
    for start in (0.0, 1e6):
        pacer = Pacer({"images": Gate(50), "tokens": Gate(7000)})
        at = [pacer.book(start + n, {"images": 1.0, "tokens": 272.0}) - start for n in range(30)]
        runs.append([later - earlier for earlier, later in itertools.pairwise(at)])
    assert runs[0] == pytest.approx(runs[1], abs=1e-6)
