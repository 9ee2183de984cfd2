"""The gates of a key in a shared ledger: one limit for all of its runs, in a file as on a server."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from runner.ledger import Ledger
from runner.ledger.gates import ALIVE_S, FARTHEST_S, Gates
from runner.rules.pacing import HEADROOM, LEAST_FALL, Gate, Heard, Pacer, Says
from tests.edges.ledger_support import open_ledger

KEY = "0123456789abcdef"
COST = {"images": 1.0, "requests": 1.0}
FAST, SLOW = Says({"images": 600.0}), Says({"images": 6.0})
STEP_S = 0.1 * (1 + HEADROOM)
"""From one place to the next at 600 a minute."""
EXACT = 1e-5
"""Seconds since 1970 have no more digits than that in a float."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as opened:
        yield opened


def joined(ledger: Ledger, run: str, says: Says) -> Gates:
    gates = ledger.gates(KEY, run)
    gates.join(says)
    return gates


def clock(gates: Gates) -> float:
    """What the ledger's clock says; nothing is booked."""
    reply = gates.claim(0.0, -1.0, {})
    assert reply is not None
    return reply.clock


def claim(gates: Gates, at: float, until: float = math.inf) -> tuple[float, bool]:
    reply = gates.claim(at, until, COST)
    assert reply is not None
    return reply.at, reply.booked


def execute(ledger: Ledger, statement: str, **values: object) -> None:
    with ledger._database.write() as connection:
        connection.execute(sa.text(statement), values)


def row(ledger: Ledger) -> Any:
    with ledger._database.read() as connection:
        return connection.execute(sa.text("SELECT * FROM paces")).one()


def test_places_are_those_of_the_rules_jointly_over_all_gates(ledger: Ledger) -> None:
    """The database's words and the rules' arithmetic give the same instants, before and after a 429."""
    rates = {"images": 600.0, "requests": 900.0, "tokens": 90_000.0}
    gates, pacer = joined(ledger, "run", Says(rates)), Pacer({name: Gate(rate) for name, rate in rates.items()})
    dice, at, booked = random.Random(3), clock(gates) + 10.0, 0
    for number in range(400):
        if number in (100, 130):
            now = clock(gates)
            gates.slow_down(Says(rates), 0.0, now + 1.0)
            pacer.slow_down(now, 0.0, math.inf)
        costs = {"images": dice.choice((0.0, 1.0, 3.0)), "requests": 1.0, "tokens": dice.choice((10.0, 100.0, 700.0))}
        until = at + dice.choice((0.1, 1.0))
        reply = gates.claim(at, until, costs)
        assert reply is not None
        found, granted = pacer.claim(at, until, costs)
        assert reply.at == pytest.approx(found, abs=EXACT)
        assert reply.booked == granted
        booked += granted
        at = max(at, found - dice.choice((0.0, 0.2)))
    assert 100 < booked < 400, "some were refused"


def test_what_is_refused_changes_nothing_for_anyone(ledger: Ledger) -> None:
    gates = joined(ledger, "run", FAST)
    now = clock(gates)
    assert claim(gates, now, now) == pytest.approx((now, True), abs=EXACT)
    before = row(ledger)
    for _ in range(3):
        assert claim(gates, now, now + 0.05) == pytest.approx((now + STEP_S, False), abs=EXACT)
    after = row(ledger)
    assert [getattr(after, name) for name in ("images_at", "requests_at", "tokens_at", "passed")] == [
        getattr(before, name) for name in ("images_at", "requests_at", "tokens_at", "passed")
    ]


def test_a_key_that_nobody_has_joined_with_is_told_as_such(ledger: Ledger) -> None:
    gates = ledger.gates(KEY, "run")
    assert gates.claim(0.0, math.inf, COST) is None
    gates.join(FAST)
    assert gates.claim(0.0, math.inf, COST) is not None
    assert ledger.gates("another", "run").claim(0.0, math.inf, COST) is None


def test_a_gate_that_no_run_knows_of_lets_everything_through(ledger: Ledger) -> None:
    gates = joined(ledger, "run", Says({}))
    now = clock(gates)
    for _ in range(3):
        assert claim(gates, now, now) == pytest.approx((now, True), abs=EXACT)


def test_claims_at_the_same_moment_never_get_the_same_place(ledger: Ledger, tmp_path: Path) -> None:
    """Three runs on connections of their own, all at once: every place is another, and none is lost."""
    each, found, trouble = 40, [], []
    now = clock(joined(ledger, "first", FAST))
    start = threading.Barrier(3)

    def work(number: int) -> None:
        try:
            with open_ledger(tmp_path) as mine:
                gates = mine.gates(KEY, f"run {number}")
                start.wait(20)
                for _ in range(each):
                    found.append(claim(gates, now)[0])
        except Exception as error:  # shown below: a thread has nobody to raise it to
            trouble.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trouble == []
    assert sorted(found) == pytest.approx([now + n * STEP_S for n in range(3 * each)], abs=10 * EXACT)


def test_a_hold_of_one_run_holds_the_others(ledger: Ledger) -> None:
    one, other = joined(ledger, "one", FAST), joined(ledger, "other", FAST)
    now = clock(other)
    one.hold(FAST, 20.0)
    at, booked = claim(other, now, now + 5.0)
    assert not booked
    assert at == pytest.approx(now + 20.0, abs=1.0)
    one.hold(FAST, 1.0)
    assert claim(other, now, now)[0] == pytest.approx(at, abs=EXACT), "a shorter one does not end it"


def test_a_crowd_of_429s_is_one_crowd_whichever_run_hears_it(ledger: Ledger) -> None:
    """Both had sent before either was told: the key slows down once, by what a stray 429 takes; a later one counts."""
    one, other = joined(ledger, "one", FAST), joined(ledger, "other", FAST)
    left = clock(one)
    one.slow_down(FAST, 0.0, left)
    other.slow_down(FAST, 0.0, left)
    assert row(ledger).fall == pytest.approx(LEAST_FALL)
    assert claim(one, left)[1]
    other.slow_down(FAST, 0.0, clock(other))
    assert row(ledger).fall > LEAST_FALL


def test_what_is_let_through_brings_the_pace_back(ledger: Ledger) -> None:
    """`passed` counts in the claim itself, whoever claims."""
    one, other = joined(ledger, "one", FAST), joined(ledger, "other", FAST)
    one.slow_down(FAST, 0.0, clock(one))
    now = clock(one) + 1.0
    for gates in (one, other, one):
        claim(gates, now)
    assert row(ledger).passed == 3


def test_the_fastest_living_run_says_how_fast_the_key_is(ledger: Ledger) -> None:
    """A job that asked for less slows nobody; what a gate owes drains at the rate of who comes."""
    slow = joined(ledger, "slow", SLOW)
    now = clock(slow)
    claim(slow, now)
    assert claim(slow, now, now)[0] == pytest.approx(now + 10.0 * (1 + HEADROOM), abs=EXACT)
    fast = joined(ledger, "fast", FAST)
    assert claim(fast, now, now - 1.0)[0] == pytest.approx(now + STEP_S, abs=0.6)
    slow.join(SLOW)
    assert row(ledger).images == 600.0


def test_a_run_that_died_is_forgotten_with_what_it_believed(ledger: Ledger) -> None:
    """What it had booked still counts; its rate does not, nor how slow the key had become once nobody lives."""
    fast = joined(ledger, "fast", FAST)
    claim(fast, clock(fast))
    fast.slow_down(FAST, 0.0, clock(fast))
    slow = joined(ledger, "slow", SLOW)
    execute(ledger, "UPDATE paced_runs SET seen_at = seen_at - :s WHERE run = 'fast'", s=ALIVE_S + 1)
    slow.join(SLOW)
    assert row(ledger).images == 6.0
    assert row(ledger).passed < 1000, "the other one lives, and goes on as slowly"
    execute(ledger, "UPDATE paced_runs SET seen_at = seen_at - :s", s=ALIVE_S + 1)
    joined(ledger, "next", SLOW)
    assert (row(ledger).images, row(ledger).broke, row(ledger).fall) == (6.0, 1.0, 0.0)


def test_all_book_as_far_ahead_as_the_slowest_of_them_needs(ledger: Ledger) -> None:
    far, near = joined(ledger, "far", Says({}, 0.7)), joined(ledger, "near", Says({}, 0.1))
    assert [gates.claim(0.0, -1.0, {}).lead_s for gates in (near, far)] == [0.7, 0.7]  # type: ignore[union-attr]
    execute(ledger, "UPDATE paced_runs SET seen_at = seen_at - :s WHERE run = 'far'", s=ALIVE_S + 1)
    near.join(Says({}, 0.1))
    assert near.claim(0.0, -1.0, {}).lead_s == 0.1  # type: ignore[union-attr]


def test_what_headers_say_of_the_key_reaches_the_others(ledger: Ledger) -> None:
    """Nothing remains for 30 s of a limit of 2: one place comes free after 15 s, for whoever is first."""
    one, other = joined(ledger, "one", FAST), joined(ledger, "other", Says({"images": 300.0}))
    now = clock(one)
    one.heed(Says({"images": 2.0}), "images", Heard(limit=2, remaining=0, reset_s=30.0))
    assert claim(other, now, now)[0] == pytest.approx(now + 15.0, abs=1.0)
    assert row(ledger).images == 300.0, "as the other one believes"


def test_a_clock_that_was_set_back_holds_nobody_up(ledger: Ledger) -> None:
    """What was booked lies as far ahead as the clock went back, and is brought along."""
    gates = joined(ledger, "run", SLOW)
    joined(ledger, "other", SLOW)
    now = clock(gates)
    claim(gates, now)
    gates.hold(SLOW, 3.0)
    names = ("images_at", "requests_at", "tokens_at", "hold_until", "slowed_at")
    execute(ledger, f"UPDATE paces SET {', '.join(f'{name} = {name} + 1800' for name in names)}")
    execute(ledger, "UPDATE paced_runs SET seen_at = seen_at + 1800")
    gates.join(SLOW)
    at = claim(gates, now, now)[0]
    assert now + 9.0 < at < now + 12.0
    gates.join(SLOW)
    assert claim(gates, now, now)[0] == pytest.approx(at, abs=EXACT), "once"


def test_an_instant_of_another_clock_is_no_booking(ledger: Ledger) -> None:
    gates = joined(ledger, "run", FAST)
    execute(
        ledger, "UPDATE paces SET images_at = images_at + 9e9, hold_until = hold_until + :far", far=9e9 + FARTHEST_S
    )
    gates.join(FAST)
    now = clock(gates)
    assert claim(gates, now, now) == pytest.approx((now, True), abs=EXACT)
