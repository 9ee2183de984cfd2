"""What choices say, held against other ways to compute it: a root search for Wilson, gradient ascent for strengths."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.rules import ranking
from runner.rules.ranking import PRIOR_TIES, Ranked, Tally, bradley_terry, wilson

Meetings = dict[tuple[str, str], Tally]
_counts = st.integers(0, 12)
_tallies = st.builds(Tally, _counts, _counts, _counts)


@st.composite
def _meetings(draw: st.DrawFn) -> Meetings:
    names = "abcdef"[: draw(st.integers(2, 6))]
    pairs = draw(st.lists(st.sampled_from(list(combinations(names, 2))), unique=True, min_size=1))
    return {(a, b) if draw(st.booleans()) else (b, a): draw(_tallies) for a, b in pairs}


def _score_root(wins: int, n: int, far: float) -> float:
    """Between the observed share and `far`: where that is just 1.96 standard errors (of the supposed share) away."""
    near = wins / n
    for _ in range(200):
        middle = (near + far) / 2
        if abs(wins / n - middle) > 1.959963984540054 * math.sqrt(middle * (1 - middle) / n):
            far = middle
        else:
            near = middle
    return near


def _ascended(meetings: Meetings) -> dict[str, float]:
    """Log strengths by plain gradient ascent on the penalised likelihood, written from its definition."""
    names = sorted({name for pair in meetings for name in pair})
    at = dict.fromkeys(names, 0.0)
    most = 1 + max(sum(t.wins + t.losses + t.ties for pair, t in meetings.items() if name in pair) for name in names)
    for _ in range(200_000):
        slope = {name: PRIOR_TIES * (0.5 - 1 / (1 + math.exp(-at[name]))) for name in names}
        for (a, b), tally in meetings.items():
            n = tally.wins + tally.losses + tally.ties
            surplus = tally.wins + tally.ties / 2 - n / (1 + math.exp(at[b] - at[a]))
            slope[a] += surplus
            slope[b] -= surplus
        for name in names:
            at[name] += slope[name] * 2 / most
        if max(map(abs, slope.values())) < 1e-9:
            break
    return at


def _by_name(ranked: list[Ranked[str]]) -> dict[str, Ranked[str]]:
    return {each.item: each for each in ranked}


@pytest.mark.parametrize(
    ("wins", "losses", "low", "high"),
    [
        # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29, to four places.
        (81, 182, 0.2553, 0.3662),
        (15, 133, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 28, 0.0061, 0.1718),
    ],
)
def test_wilson_has_the_published_values(wins: int, losses: int, low: float, high: float) -> None:
    """The interval is the one that the literature prints."""
    assert wilson(wins, losses) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 400), st.integers(0, 400))
def test_wilson_is_where_the_score_test_turns(wins: int, losses: int) -> None:
    """Its ends are the shares that the score test just does not reject; it holds the share, and mirrors."""
    low, high = wilson(wins, losses)
    mirrored = wilson(losses, wins)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)
    if wins + losses == 0:
        assert (low, high) == (0, 1)
        return
    n = wins + losses
    assert low <= wins / n <= high
    assert low == pytest.approx(_score_root(wins, n, 0.0), abs=1e-9)
    assert high == pytest.approx(_score_root(wins, n, 1.0), abs=1e-9)


@given(_meetings())
def test_strengths_are_those_of_gradient_ascent(meetings: Meetings) -> None:
    """The maximum that is found is the maximum, however it is looked for."""
    expected = _ascended(meetings)
    for ranked in bradley_terry(meetings):
        assert ranked.chance == pytest.approx(1 / (1 + math.exp(-expected[ranked.item])), abs=1e-6)


@given(_meetings())
def test_the_average_is_one_half(meetings: Meetings) -> None:
    """Over all items the chances have the mean 50 %, also where groups never met."""
    ranked = bradley_terry(meetings)
    assert sum(each.chance for each in ranked) / len(ranked) == pytest.approx(0.5, abs=1e-9)
    assert [each.chance for each in ranked] == sorted((each.chance for each in ranked), reverse=True)
    assert all(each.low is not None and each.high is not None for each in ranked)
    assert all((each.low or 0) <= each.chance <= (each.high or 0) for each in ranked)


@given(_meetings())
def test_sides_and_order_mean_nothing(meetings: Meetings) -> None:
    """A pair the other way round, or split in two, says the same."""
    turned: Meetings = {}
    for (a, b), tally in reversed(meetings.items()):
        turned[b, a] = Tally(tally.losses, tally.wins)
        turned[a, b] = Tally(ties=tally.ties)
    before, after = _by_name(bradley_terry(meetings)), _by_name(bradley_terry(turned))
    assert before.keys() == after.keys()
    for name, each in before.items():
        assert after[name].chance == pytest.approx(each.chance, abs=1e-7)
        assert after[name].tally == each.tally
        assert (after[name].low, after[name].high) == pytest.approx((each.low, each.high), abs=1e-6)


def test_two_items_have_a_closed_form() -> None:
    """Of two, the log odds of their chances follow from one equation, and the interval from its slope."""
    (best, other) = bradley_terry({("a", "b"): Tally(9, 3)})
    assert (best.item, best.rank, other.rank) == ("a", 1, 2)
    at = math.log(best.chance / (1 - best.chance))
    assert other.chance == pytest.approx(1 - best.chance)
    # The two lie at at and -at: 9.25 - 12 s(2 at) - 0.5 s(at) = 0.
    assert 9.25 - 12 / (1 + math.exp(-2 * at)) - 0.5 * best.chance == pytest.approx(0, abs=1e-8)
    met = 12 * math.exp(-2 * at) / (1 + math.exp(-2 * at)) ** 2
    prior = 0.5 * best.chance * (1 - best.chance)
    error = math.sqrt(1 / (2 * (2 * met + prior)))
    assert best.high == pytest.approx(1 / (1 + math.exp(-at - 1.959963984540054 * error)), abs=1e-8)


def test_one_that_always_wins_stays_finite() -> None:
    """Without a single loss a strength is large, and not without end; equal ones share a rank."""
    ranked = bradley_terry({("a", "b"): Tally(50), ("a", "c"): Tally(50), ("b", "c"): Tally(ties=4)})
    assert [(each.item, each.rank) for each in ranked] == [("a", 1), ("b", 2), ("c", 2)]
    assert 0.9 < ranked[0].chance < 1


def test_a_long_chain_is_told_apart() -> None:
    """Chances so near to 1 that they print alike still have the right order, and each its own rank."""
    chain = {(str(n), str(n + 1)): Tally(1000) for n in range(20)}
    assert [(each.item, each.rank) for each in bradley_terry(chain)] == [(str(n), n + 1) for n in range(21)]


def test_more_choices_make_intervals_narrower() -> None:
    """Ten times as many choices of the same kind leave about a third of the doubt."""
    few = bradley_terry({("a", "b"): Tally(6, 4), ("b", "c"): Tally(6, 4), ("a", "c"): Tally(7, 3)})
    many = bradley_terry({("a", "b"): Tally(60, 40), ("b", "c"): Tally(60, 40), ("a", "c"): Tally(70, 30)})
    for one, other in zip(few, many, strict=True):
        assert one.item == other.item
        assert one.low is not None and one.high is not None and other.low is not None and other.high is not None
        assert 2 < (one.high - one.low) / (other.high - other.low) < 4


def test_nothing_met_is_no_ranking() -> None:
    """Without a meeting there is nobody to rank."""
    assert bradley_terry({}) == []


def test_very_many_have_strengths_without_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the matrix would be too large, the iteration alone says nearly the same, and no interval is made up."""
    meetings = {(a, b): Tally(3 + (a < "c"), 2, 1) for a, b in combinations("abcdefgh", 2)}
    exact = _by_name(bradley_terry(meetings))
    monkeypatch.setattr(ranking, "MOST_EXACT", 5)
    for each in bradley_terry(meetings):
        assert (each.low, each.high) == (None, None)
        assert each.chance == pytest.approx(exact[each.item].chance, abs=1e-5)
