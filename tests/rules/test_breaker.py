"""What the breaker must hold: it ends a run at its limit and not before, and an outage makes everyone wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import Lost, ProviderError, RateLimited, Refused, Retryable, TooManyFailures, Unreached, Unusable
from runner.rules.breaker import (
    LONGEST_CUT_WAIT_S,
    LONGEST_OUTAGE_WAIT_S,
    OUTAGE_AFTER,
    Breaker,
    FailureLimit,
    default_limit,
)

DOWN = Retryable("HTTP 503", code="http_503")
SLOWER = RateLimited("slower", code="rate_limit_exceeded")
KINDS: list[ProviderError] = [
    DOWN,
    Lost("cut", code="connection_cut"),
    Unusable("no image", code="no_data"),
    Refused("no", code="moderation_blocked"),
]


def breaker(in_a_row: int | None = None, share: float | None = None, tasks: int = 100) -> Breaker:
    return Breaker(FailureLimit(in_a_row, share), tasks, base_s=1.0)


@given(st.lists(st.one_of(st.none(), st.sampled_from(KINDS)), max_size=60), st.integers(1, 10))
def test_it_ends_the_run_at_the_first_nth_failure_in_a_row(story: list[ProviderError | None], limit: int) -> None:
    """None is an image. The verdict comes exactly when the last `limit` answers were all failures."""
    subject = breaker(in_a_row=limit)
    row = 0
    for what in story:
        if what is None:
            subject.image()
            row = 0
            continue
        row += 1
        verdict = subject.failure(what, final=False)
        assert (verdict is not None) == (row >= limit)


@given(st.integers(1, 300), st.floats(0, 1), st.lists(st.booleans(), max_size=300))
def test_a_share_counts_the_tasks_that_ended_without_an_image(tasks: int, share: float, finals: list[bool]) -> None:
    """Attempts that are tried again are no lost images, and images in between take nothing back."""
    subject = breaker(share=share, tasks=tasks)
    ended = 0
    for final in finals:
        ended += final
        assert (subject.failure(DOWN, final=final) is not None) == (ended > share * tasks)
        subject.image()


def test_slower_is_no_failure_until_its_task_is_given_up() -> None:
    subject = breaker(in_a_row=1)
    for _ in range(100):
        assert subject.failure(SLOWER, final=False) is None
    assert isinstance(subject.failure(SLOWER, final=True), TooManyFailures)


def test_what_ends_the_run_says_how_many_and_what_the_last_was() -> None:
    subject = breaker(in_a_row=2)
    subject.failure(DOWN, final=False)
    ended = subject.failure(KINDS[1], final=False)
    assert ended is not None
    assert ended.message == "2 requests in a row brought no image; the last: cut (connection_cut)"
    assert ended.hint
    assert "--max-failures" in ended.hint
    assert ended.exit_code == 4


def test_nothing_ends_a_run_that_bears_everything() -> None:
    subject = breaker()
    assert not any(subject.failure(kind, final=True) for kind in KINDS * 1000)


@given(st.integers(1, 256))
def test_the_default_survives_a_bad_moment_of_everyone_in_flight(concurrency: int) -> None:
    """All that is in flight may fail twice without ending the run."""
    subject = Breaker(default_limit(concurrency), 10_000, base_s=1.0)
    assert not any(subject.failure(DOWN, final=False) for _ in range(2 * concurrency))
    assert any(subject.failure(DOWN, final=False) for _ in range(max(100, 4 * concurrency)))


def test_an_outage_makes_everyone_wait_once_for_each_crowd_and_longer_each_time() -> None:
    """Eight unbilled failures in a row are an outage; those that were in flight together are one crowd."""
    subject = breaker()
    now = 0.0
    for _ in range(OUTAGE_AFTER - 1):
        subject.failure(DOWN, final=False)
        assert subject.wait_s(now, 0.5) == 0.0
    waits = []
    for _ in range(8):
        subject.failure(DOWN, final=False)
        waits.append(subject.wait_s(now, 1 - 2**-53))
        subject.failure(DOWN, final=False)
        assert subject.wait_s(now + waits[-1] / 2, 0.5) == 0.0, "the same crowd"
        now += waits[-1]
    assert waits == sorted(waits)
    assert waits[:3] == pytest.approx([1.0, 2.0, 4.0])
    assert waits[-1] == pytest.approx(LONGEST_OUTAGE_WAIT_S)
    subject.image()
    subject.failure(DOWN, final=False)
    assert subject.wait_s(now, 0.5) == 0.0, "an image ends an outage"


@pytest.mark.parametrize("kind", KINDS[1:])
def test_what_is_billed_or_refused_is_no_outage(kind: ProviderError) -> None:
    """The provider answers, or may have been paid: waiting mends neither."""
    subject = breaker()
    for _ in range(50):
        subject.failure(kind, final=True)
    assert subject.wait_s(0.0, 0.5) == 0.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1, exclude_max=True)), max_size=40))
def test_a_wait_is_bounded(story: list[tuple[float, float]]) -> None:
    """However long an outage lasts, and however the clock and the dice fall."""
    subject = breaker()
    now = 0.0
    for passed, jitter in story:
        now += passed
        subject.failure(DOWN, final=False)
        assert 0.0 <= subject.wait_s(now, jitter) <= LONGEST_OUTAGE_WAIT_S


UNREACHED = Unreached("cannot reach the provider", code="connection_failed")


def test_a_provider_that_is_out_of_reach_is_no_tasks_fault() -> None:
    """Once it has worked, and until anything else is heard of it, no failure is counted against a task."""
    subject = breaker(in_a_row=100)
    for _ in range(2 * OUTAGE_AFTER):
        subject.failure(UNREACHED, final=False)
    assert not subject.is_cut_off, "it has never worked: the address may be wrong"
    subject.image()
    spared = []
    for _ in range(OUTAGE_AFTER + 1):
        spared.append(subject.spares(UNREACHED))
        subject.failure(UNREACHED, final=False)
    assert spared == [False] * OUTAGE_AFTER + [True]
    assert not any(subject.spares(kind) for kind in KINDS)


@pytest.mark.parametrize("kind", [*KINDS, SLOWER, None])
def test_whatever_comes_from_the_provider_ends_that(kind: ProviderError | None) -> None:
    """An image, or an error of any other kind."""
    subject = breaker(in_a_row=100)
    subject.image()
    for _ in range(OUTAGE_AFTER):
        subject.failure(UNREACHED, final=False)
    assert subject.spares(UNREACHED)
    if kind is None:
        subject.image()
    else:
        subject.failure(kind, final=False)
    assert not subject.is_cut_off


def test_without_a_limit_of_failures_in_a_row_the_tasks_attempts_end_a_run() -> None:
    subject = breaker(share=0.5)
    subject.image()
    for _ in range(2 * OUTAGE_AFTER):
        subject.failure(UNREACHED, final=False)
    assert not subject.is_cut_off


def test_who_is_cut_off_waits_longer() -> None:
    """One request in half a minute: a hundred failures in a row, which would end the run, take half an hour."""
    subject = breaker(in_a_row=100)
    subject.image()
    now, waits = 0.0, []
    for _ in range(OUTAGE_AFTER + 9):
        subject.failure(UNREACHED, final=False)
        waits.append(subject.wait_s(now, 1 - 2**-53))
        now += waits[-1]
    assert waits[OUTAGE_AFTER - 1 :][:3] == pytest.approx([1.0, 2.0, 4.0])
    assert waits[-1] == pytest.approx(LONGEST_CUT_WAIT_S)
