"""What a cap must hold (law 4), whatever the order of requests, answers, losses, days and months."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from runner.rules.budget import Budget, Per, Reservation, period_start

NOON = dt.datetime(2026, 11, 22, 12, 0, 0, tzinfo=dt.UTC)
PERIODS: tuple[Per, ...] = ("run", "day", "month", "job")


def reserved(budget: Budget, worst_microusd: int, now: dt.datetime = NOON) -> Reservation:
    """A reservation that is expected to be granted."""
    reservation = budget.reserve(worst_microusd, now)
    assert reservation is not None
    return reservation


class UnderTheCap(RuleBasedStateMachine):
    """Requests begin, end, are lost and cross midnight in any order; a second account is kept beside the budget."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(None)
        self.now = NOON
        self.newest = ""
        self.spent: dict[str, int] = defaultdict(int)
        self.doubted: dict[str, int] = defaultdict(int)
        self.open: dict[int, tuple[str, Reservation]] = {}
        self.numbers = itertools.count()

    reservations: Bundle[int] = Bundle("reservations")

    @initialize(cap=st.none() | st.integers(0, 60_000), per=st.sampled_from(PERIODS))
    def begin(self, cap: int | None, per: Per) -> None:
        self.budget = Budget(cap, per, period=period_start(per, self.now))
        self.newest = self.period()

    def period(self) -> str:
        """The day or month of now as text, "" where the period never ends."""
        return self.now.isoformat()[: {"day": 10, "month": 7}.get(self.budget.per, 0)]

    @rule(hours=st.floats(-30, 40 * 24))
    def the_clock_moves(self, hours: float) -> None:
        """Forward for the most part; a clock that is set right can go back, over midnight too."""
        self.now += dt.timedelta(hours=hours)

    @rule(target=reservations, worst=st.integers(0, 20_000))
    def reserve(self, worst: int) -> int | MultipleResults[int]:
        reservation = self.budget.reserve(worst, self.now)
        self.newest = max(self.newest, self.period())
        counted = self.committed()
        fits = self.budget.cap_microusd is None or counted + worst <= self.budget.cap_microusd
        assert (reservation is not None) == fits
        if reservation is None:
            return multiple()
        number = next(self.numbers)
        self.open[number] = (self.newest, reservation)
        return number

    @rule(number=reservations, share=st.floats(0, 1))
    def settle(self, number: int, share: float) -> None:
        if number in self.open:
            period, reservation = self.open.pop(number)
            cost = int(reservation.amount_microusd * share)
            self.budget.settle(reservation, cost)
            self.spent[period] += cost

    @rule(number=reservations)
    def doubt(self, number: int) -> None:
        if number in self.open:
            period, reservation = self.open.pop(number)
            self.budget.doubt(reservation)
            self.doubted[period] += reservation.amount_microusd

    def committed(self) -> int:
        """What counts in the newest period, from the second account."""
        outstanding = sum(r.amount_microusd for period, r in self.open.values() if period == self.newest)
        return self.spent[self.newest] + self.doubted[self.newest] + outstanding

    @invariant()
    def the_cap_holds(self) -> None:
        budget = self.budget
        assert budget.committed_microusd == self.committed()
        assert budget.settled_microusd == self.spent[self.newest]
        assert budget.in_doubt_microusd == self.doubted[self.newest]
        assert budget.surcharge == 1.0
        if budget.cap_microusd is None:
            assert budget.left_microusd is None
        else:
            assert budget.committed_microusd <= budget.cap_microusd
            assert budget.left_microusd == budget.cap_microusd - budget.committed_microusd


def test_the_cap_holds_whatever_the_order_of_things() -> None:
    """Law 4: settled + in doubt + reserved never exceeds the cap while no real cost exceeds its worst case."""
    run_state_machine_as_test(UnderTheCap, settings=settings(max_examples=200, stateful_step_count=40, deadline=None))


@pytest.mark.parametrize(
    ("per", "expected"),
    [
        ("day", dt.datetime(2026, 11, 22, tzinfo=dt.UTC)),
        ("month", dt.datetime(2026, 11, 1, tzinfo=dt.UTC)),
        ("run", None),
        ("job", None),
    ],
)
def test_a_period_begins_at_midnight_utc(per: Per, expected: dt.datetime | None) -> None:
    """The day and the month are those of UTC; a run and a job are ended by no clock."""
    assert period_start(per, NOON.replace(microsecond=5)) == expected


def test_the_last_micro_dollar_can_be_reserved_and_no_more() -> None:
    """Law 4 at its edge: the cap itself may be reached."""
    budget = Budget(10_000)
    reserved(budget, 4_000)
    reserved(budget, 6_000)
    assert budget.left_microusd == 0
    assert budget.reserve(1, NOON) is None
    assert budget.committed_microusd == 10_000


def test_a_refused_reservation_changes_nothing() -> None:
    """What did not fit may fit later, and something smaller fits now."""
    budget = Budget(10_000)
    assert budget.reserve(10_001, NOON) is None
    assert budget.committed_microusd == 0
    reserved(budget, 10_000)


def test_what_a_request_did_not_cost_is_free_again() -> None:
    """The worst case is held only until the real cost is known."""
    budget = Budget(10_000)
    budget.settle(reserved(budget, 10_000), 2_176)
    assert budget.left_microusd == 10_000 - 2_176
    budget.settle(reserved(budget, 7_000), 0)
    assert budget.settled_microusd == 2_176
    assert budget.reserved_microusd == 0


def test_a_lost_request_counts_at_its_worst() -> None:
    """Law 4: in doubt means possibly billed, so it goes on counting."""
    budget = Budget(10_000)
    budget.doubt(reserved(budget, 6_000))
    assert (budget.settled_microusd, budget.in_doubt_microusd, budget.reserved_microusd) == (0, 6_000, 0)
    assert budget.reserve(4_001, NOON) is None


def test_what_was_spent_before_counts() -> None:
    """Law 4 across runs: the ledger's sums are where a budget begins."""
    budget = Budget(10_000, "job", settled_microusd=5_000, in_doubt_microusd=4_000)
    assert budget.left_microusd == 1_000
    assert budget.reserve(1_001, NOON) is None


def test_a_budget_that_is_overdrawn_has_nothing_left() -> None:
    """A cap that was lowered below what is spent leaves zero, not a debt."""
    assert Budget(1_000, "job", settled_microusd=5_000).left_microusd == 0


def test_without_a_cap_everything_passes_and_is_counted() -> None:
    """No cap is no limit, and the sums are kept all the same."""
    budget = Budget(None)
    budget.settle(reserved(budget, 10**12), 10**12)
    budget.doubt(reserved(budget, 10**12))
    assert budget.left_microusd is None
    assert budget.committed_microusd == 2 * 10**12


def test_a_cap_of_zero_lets_only_what_is_free_pass() -> None:
    """A budget of nothing is a budget."""
    budget = Budget(0)
    assert budget.reserve(1, NOON) is None
    reserved(budget, 0)
    assert budget.left_microusd == 0


@pytest.mark.parametrize(
    ("per", "before", "after"),
    [
        ("day", "2026-11-22T23:59:59.999999", "2026-11-23T00:00:00"),
        ("day", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
        ("month", "2026-11-30T23:59:59", "2026-12-01T00:00:00"),
        ("month", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
    ],
)
def test_a_new_period_begins_with_nothing_spent(per: Per, before: str, after: str) -> None:
    """The same cap is there again in the first instant of a day or month, and not in the last one before."""
    then, now = (dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC) for text in (before, after))
    budget = Budget(10_000, per, period=period_start(per, then))
    budget.doubt(reserved(budget, 4_000, then))
    budget.settle(reserved(budget, 6_000, then), 6_000)
    assert budget.reserve(1, then) is None
    reserved(budget, 10_000, now)
    assert budget.committed_microusd == 10_000


def test_a_new_day_is_no_new_month() -> None:
    """A cap per month counts on at midnight."""
    budget = Budget(10_000, "month", period=period_start("month", NOON))
    budget.settle(reserved(budget, 10_000), 10_000)
    assert budget.reserve(1, NOON + dt.timedelta(days=1)) is None


@pytest.mark.parametrize("per", ["run", "job"])
def test_no_clock_ends_a_run_or_a_job(per: Per) -> None:
    """A run that lasts for months keeps its cap."""
    budget = Budget(10_000, per)
    reservation = reserved(budget, 10_000)
    assert budget.reserve(1, NOON + dt.timedelta(days=400)) is None
    budget.settle(reservation, 9_000)
    assert budget.committed_microusd == 9_000


@pytest.mark.parametrize("ends", ["settle", "doubt"])
def test_a_reservation_of_yesterday_settles_into_nothing_of_today(ends: str) -> None:
    """It was reserved under yesterday's cap: today's neither pays it nor gets it back."""
    budget = Budget(10_000, "day", period=period_start("day", NOON))
    yesterday = reserved(budget, 8_000)
    today = reserved(budget, 3_000, NOON + dt.timedelta(days=1))
    if ends == "settle":
        budget.settle(yesterday, 8_000)
    else:
        budget.doubt(yesterday)
    assert (budget.settled_microusd, budget.in_doubt_microusd, budget.reserved_microusd) == (0, 0, 3_000)
    budget.settle(today, 1_000)
    assert budget.committed_microusd == 1_000


def test_an_answer_after_midnight_counts_for_the_day_it_was_begun_on() -> None:
    """Nothing was reserved since midnight: the day that the budget is in is still yesterday."""
    budget = Budget(10_000, "day", period=period_start("day", NOON))
    budget.settle(reserved(budget, 8_000), 8_000)
    assert budget.settled_microusd == 8_000
    assert reserved(budget, 10_000, NOON + dt.timedelta(days=1)).amount_microusd == 10_000


def test_a_clock_that_is_set_back_over_midnight_gives_no_second_cap() -> None:
    """Law 4: today's spending is neither forgotten when the clock goes back nor when it comes forward again."""
    midnight = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
    budget = Budget(10_000, "day", period=midnight)
    reservation = reserved(budget, 10_000, midnight)
    assert budget.reserve(1, midnight - dt.timedelta(seconds=1)) is None
    budget.settle(reservation, 10_000)
    assert budget.reserve(1, midnight + dt.timedelta(seconds=1)) is None
    assert budget.settled_microusd == 10_000


def test_a_provider_that_bills_more_makes_every_later_reservation_larger() -> None:
    """Law 4 against a wrong catalog: what was billed above the worst case is expected from then on."""
    budget = Budget(100_000)
    budget.settle(reserved(budget, 5_000), 20_000)
    assert budget.settled_microusd == 20_000
    assert budget.price(5_000) >= 20_000
    assert budget.price(10_000) >= 40_000
    assert reserved(budget, 5_000).amount_microusd == budget.price(5_000)


def test_many_in_flight_teach_the_same_lesson_only_once() -> None:
    """Eight answers of four times their worst case make reservations four times as large, not 65,536 times."""
    budget = Budget(None)
    for reservation in [reserved(budget, 5_000) for _ in range(8)]:
        budget.settle(reservation, 20_000)
    assert budget.surcharge == 4.0
    assert budget.price(5_000) == 20_001


def test_a_surcharge_is_never_forgotten_by_a_cheaper_answer() -> None:
    """One cheap image does not make the catalog right again."""
    budget = Budget(None)
    budget.settle(reserved(budget, 5_000), 10_000)
    budget.settle(reserved(budget, 5_000), 1)
    assert budget.surcharge == 2.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50_000), st.floats(0.1, 9)), min_size=1, max_size=30))
def test_after_an_overcharge_its_worst_case_covers_the_same_overcharge(bills: list[tuple[int, float]]) -> None:
    """Law 4: what was billed once for a worst case is reserved for that worst case ever after."""
    budget = Budget(None)
    known: dict[int, int] = {}
    for worst, factor in bills:
        cost = int(worst * factor)
        budget.settle(reserved(budget, worst), cost)
        known[worst] = max(known.get(worst, 0), cost)
        assert all(budget.price(worst) >= cost for worst, cost in known.items())


@settings(deadline=None)
@given(st.floats(1, 20), st.integers(1_000, 50_000), st.integers(0, 300))
def test_a_wrong_catalog_passes_the_cap_by_the_first_requests_alone(factor: float, worst: int, cap: int) -> None:
    """With one request at a time only the first overcharge can pass the cap; every one after it was reserved for."""
    budget = Budget(cap * 1_000)
    cost = int(worst * factor)
    first = budget.reserve(worst, NOON)
    if first is None:
        return
    budget.settle(first, cost)
    while (reservation := budget.reserve(worst, NOON)) is not None:
        budget.settle(reservation, cost)
        assert budget.committed_microusd <= cap * 1_000


def test_a_reservation_of_yesterday_is_stale_today() -> None:
    """Law 4: a request that waited at the gates past midnight is paid from the day on which it leaves."""
    evening = dt.datetime(2026, 11, 22, 23, 59, 59, tzinfo=dt.UTC)
    morning = evening + dt.timedelta(seconds=2)
    for per, stale in (("day", True), ("month", False), ("job", False), ("run", False)):
        budget = Budget(10_000, per)  # type: ignore[arg-type]  # each of them is one
        reservation = budget.reserve(5_000, evening)
        assert reservation is not None
        assert not budget.is_stale(reservation, evening)
        assert budget.is_stale(reservation, morning) is stale
