"""How many requests may be in flight: as many as the limit asks for, and what makes them more and fewer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.rules.concurrency import (
    DESCRIPTORS_EACH,
    FREE,
    LEAST,
    MOST,
    SHRINK_EVERY,
    Places,
    descriptors_for,
    places_for,
    start_for,
)


@pytest.mark.parametrize(
    ("per_minute", "places"), [(None, FREE), (1, LEAST), (5, 5), (250, 193), (1000, 768), (3000, MOST)]
)
def test_a_run_begins_with_its_rate_times_how_long_an_image_may_take(per_minute: float | None, places: int) -> None:
    """46 s of the allowed rate and one more, within bounds; 16 without a limit."""
    assert start_for(per_minute) == places


@given(st.integers(1, 5000))
def test_so_many_places_need_so_many_descriptors(places: int) -> None:
    assert places_for(descriptors_for(places)) == places
    assert descriptors_for(places) >= places * DESCRIPTORS_EACH


def test_however_few_descriptors_there_are_one_request_is_made() -> None:
    assert places_for(0) == places_for(64) == 1


def test_places_that_are_too_few_double_while_one_latency_passes() -> None:
    """Two minutes an image at 250 a minute: 193 places become the 500 that this takes, and half as many to spare."""
    places = Places(start_for(250), MOST, 250)
    for _ in range(193):
        places.answered(120.0)
    assert places.allowed == 2 * 193
    for _ in range(2 * 193):
        places.answered(120.0)
    assert 750 <= places.allowed <= 751
    for _ in range(10_000):
        places.answered(120.0)
    assert 750 <= places.allowed <= 751, "and they are kept while they are of use"


def test_places_go_back_slowly_to_what_the_latencies_ask_for() -> None:
    """After a bad hour everything is quick again: one place in so many answers, down to where the run began."""
    places = Places(193, MOST, 250)
    for _ in range(2000):
        places.answered(400.0)
    assert places.allowed == MOST
    before = places.allowed
    for _ in range(20 * SHRINK_EVERY):
        places.answered(1.0)
    assert before - 20 <= places.allowed < before
    for _ in range(10_000):
        places.answered(1.0)
    assert places.allowed == 193


def test_what_the_manifest_says_stays() -> None:
    """As many to begin with as at most: neither more nor fewer, whatever comes. The same where nothing is limited."""
    for places in (Places(7, 7, 250), Places(FREE, FREE, None), Places(FREE, MOST, None)):
        start = places.allowed
        for _ in range(500):
            places.answered(300.0)
        assert places.allowed == start


@given(
    st.integers(1, 300),
    st.integers(0, 300),
    st.floats(0.1, 10_000),
    st.lists(st.floats(0, 1e4), max_size=200),
)
def test_places_stay_within_their_bounds(start: int, more: int, per_minute: float, seen: list[float]) -> None:
    """Whatever comes: between the start and the most, and one step at a time."""
    places = Places(start, start + more, per_minute)
    for latency_s in seen:
        before = places.allowed
        places.answered(latency_s)
        assert start <= places.allowed <= start + more
        assert abs(places.allowed - before) <= 1
