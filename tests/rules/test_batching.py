"""Decisions about batches: how large, when to look again, what silence means, when it is too late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.rules.batching import (
    KEPT_S,
    QUEUE_FULL,
    WARN_KEPT_S,
    Past,
    is_late,
    is_overdue,
    poll_delay_s,
    queue_delay_s,
    silence,
    size_of_next,
    was_queue_full,
)

DAY_S = 86_400


def refused(requests: int, at: int, *, ended: int | None = None) -> Past:
    """A batch that did not fit into the queue."""
    return Past(requests, QUEUE_FULL, at, at if ended is None else ended)


def ran(requests: int, at: int, ended: int | None) -> Past:
    """A batch that was accepted; it lies in the queue as long as `ended` is None."""
    return Past(requests, None, at, ended)


PASTS = st.lists(
    st.builds(
        Past,
        requests=st.integers(0, 5000),
        code=st.sampled_from([None, QUEUE_FULL, "invalid_request", "not_sent"]),
        submitted_ms=st.integers(0, 10_000),
        ended_ms=st.none() | st.integers(0, 10_000),
    ),
    max_size=20,
)


# -- when to look again -----------------------------------------------------------------------------


@given(st.floats(0, 10 * DAY_S))
def test_a_batch_is_looked_at_every_second_to_every_minute(age_s: float) -> None:
    """Neither does a young one wait for a minute, nor is an old one asked about each second."""
    assert 1.0 <= poll_delay_s(age_s) <= 60.0


@given(st.floats(0, 10 * DAY_S), st.floats(0, DAY_S))
def test_the_older_the_batch_the_rarer_the_look(age_s: float, more_s: float) -> None:
    """Never more often again."""
    assert poll_delay_s(age_s) <= poll_delay_s(age_s + more_s)


def test_what_is_lost_by_looking_rarely_is_a_twentieth_of_the_wait() -> None:
    """Ten minutes old: every 30 seconds; 24 hours: every minute."""
    assert [poll_delay_s(age_s) for age_s in (0, 20, 600, 1200, DAY_S)] == [1, 1, 30, 60, 60]


@given(st.integers(1, 10_000))
def test_a_full_queue_is_asked_ever_more_rarely_but_within_ten_minutes(refusals: int) -> None:
    """However often it was full, no wait is without an end."""
    assert 10.0 <= queue_delay_s(refusals) <= queue_delay_s(refusals + 1) <= 600.0


# -- how large --------------------------------------------------------------------------------------


@given(st.integers(1, 50_000), PASTS)
def test_a_batch_has_at_least_one_request_and_no_more_than_the_manifest_says(most: int, history: list[Past]) -> None:
    """Whatever has happened before."""
    assert 1 <= size_of_next(most, history) <= most


@given(st.integers(1, 50_000), PASTS)
def test_without_a_full_queue_batches_are_as_large_as_may_be(most: int, history: list[Past]) -> None:
    """Other errors say nothing about the size."""
    assert size_of_next(most, [past for past in history if past.code != QUEUE_FULL]) == most


@given(st.integers(2, 5000), st.integers(1, 12))
def test_each_refusal_of_an_empty_queue_halves_the_next(size: int, times: int) -> None:
    """Until one fits, and down to a single request: that one is tried for ever."""
    history: list[Past] = []
    for at in range(times):
        history.append(refused(size_of_next(size, history), at))
    assert size_of_next(size, history) == max(1, size >> times)


def test_one_that_was_refused_beside_another_may_fit_later() -> None:
    """The queue was full of our own: nothing is learnt about the size of one alone."""
    assert size_of_next(1000, [ran(1000, 0, None), refused(1000, 5)]) == 1000
    assert size_of_next(1000, [ran(1000, 0, 9), refused(1000, 5)]) == 1000
    assert size_of_next(1000, [ran(1000, 0, 4), refused(1000, 5)]) == 500


def test_after_one_that_fits_the_next_may_be_twice_as_large() -> None:
    """But never as large again as what did not fit."""
    history = [refused(1000, 0), refused(500, 1), ran(250, 2, 3)]
    assert size_of_next(1000, history) == 499
    assert size_of_next(1000, [refused(1000, 0), ran(500, 1, 2)]) == 999
    assert size_of_next(1000, [refused(1000, 0), refused(500, 1), refused(250, 2), ran(125, 3, 4)]) == 249


@pytest.mark.parametrize(
    ("history", "full"),
    [([], False), ([ran(5, 0, 1)], False), ([refused(5, 0)], True), ([refused(5, 0), ran(2, 1, 2)], True)],
)
def test_whether_the_queue_was_full_lately(history: list[Past], full: bool) -> None:
    """Then one batch at a time is sent, and seen accepted."""
    assert was_queue_full(history) is full


# -- what silence means -----------------------------------------------------------------------------


@given(st.none() | st.integers(0, 5000), st.integers(0, 5000))
def test_silence_is_no_doubt_only_where_everything_that_is_billed_has_been_seen(
    completed: int | None, answered: int
) -> None:
    """Law 3: whatever may have been billed is in doubt, and a provider that does not count leaves it all so."""
    assert (silence(completed, answered) == "not_run") is (completed is not None and answered == completed)


@pytest.mark.parametrize(
    ("completed", "answered", "means"),
    [(5, 5, "not_run"), (5, 4, "in_doubt"), (0, 0, "not_run"), (None, 5, "in_doubt"), (4, 5, "in_doubt")],
)
def test_what_silence_means(completed: int | None, answered: int, means: str) -> None:
    """By example."""
    assert silence(completed, answered) == means


# -- too late ---------------------------------------------------------------------------------------


def test_results_are_warned_of_ten_days_before_they_are_deleted() -> None:
    """From the twentieth day on, to the second; never of a batch that is not over."""
    over_ms = 1_000_000
    assert not is_late(over_ms, over_ms + WARN_KEPT_S * 1000 - 1)
    assert is_late(over_ms, over_ms + WARN_KEPT_S * 1000)
    assert not is_late(None, over_ms + KEPT_S * 1000)
    assert KEPT_S - WARN_KEPT_S == 10 * DAY_S


@given(st.floats(0, DAY_S), st.none() | st.floats(0, DAY_S))
def test_a_batch_is_given_up_at_its_age_and_never_without_one(age_s: float, after_s: float | None) -> None:
    """Without `after` it is waited for until it is over."""
    assert is_overdue(age_s, after_s) is (after_s is not None and age_s >= after_s)
