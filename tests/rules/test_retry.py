"""What the decision about another attempt must hold: which error, which attempt, how long."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import (
    Lost,
    ModelGone,
    ProviderError,
    RateLimited,
    Refused,
    Retryable,
    StopRun,
    Unusable,
    Usage,
)
from runner.rules.retry import MAX_HOLD_S, Decision, GiveUp, Policy, Refuse, Stop, Tally, TryAgain, decide

POLICY = Policy(attempts=3, billed_attempts=2, rate_limited_attempts=4, base_s=1.0, max_s=60.0)
JITTER = st.floats(0, 1, exclude_max=True)


def retryable(asked_s: float | None = None) -> Retryable:
    return Retryable("busy", code="server_error", retry_after_s=asked_s)


def rate_limited(asked_s: float | None = None) -> RateLimited:
    return RateLimited("slower", code="rate_limit_exceeded", retry_after_s=asked_s)


LOST = Lost("cut", code="connection_cut")
UNUSABLE = Unusable("no image", code="no_data")
BILLED = Unusable("no image", code="no_data", usage=Usage(10, 272, 282, 10, 0))
REFUSED = Refused("no", code="moderation_blocked")
STOP = StopRun("no money", code="insufficient_quota")
GONE = ModelGone("gone", code="model_not_found")
UNKNOWN = ProviderError("what", code="?")


@pytest.mark.parametrize(
    ("error", "tally", "expected"),
    [
        (STOP, Tally(1), Stop()),
        (STOP, Tally(99, 99, 99), Stop()),
        (GONE, Tally(1), Stop()),
        (REFUSED, Tally(1), Refuse()),
        (REFUSED, Tally(99, 99, 99), Refuse()),
        (retryable(), Tally(1), TryAgain(0.5)),
        (retryable(), Tally(2), TryAgain(1.0)),
        (retryable(), Tally(3), GiveUp()),
        (retryable(), Tally(4), GiveUp()),
        (retryable(), Tally(1, 99, 99), TryAgain(0.5)),
        (retryable(7), Tally(1), TryAgain(7.0)),
        (retryable(0.1), Tally(2), TryAgain(1.0)),
        (retryable(7), Tally(3), GiveUp()),
        (rate_limited(), Tally(0, 0, 1), TryAgain(0.5, 0.5)),
        (rate_limited(), Tally(0, 0, 3), TryAgain(2.0, 2.0)),
        (rate_limited(), Tally(0, 0, 4), GiveUp()),
        (rate_limited(), Tally(99, 99, 1), TryAgain(0.5, 0.5)),
        (rate_limited(12), Tally(0, 0, 3), TryAgain(12.0, 12.0)),
        (rate_limited(0), Tally(0, 0, 3), TryAgain(0.0, 0.0)),
        (rate_limited(12), Tally(0, 0, 4), GiveUp()),
        (LOST, Tally(0, 1), TryAgain(0.5)),
        (LOST, Tally(0, 2), GiveUp()),
        (LOST, Tally(99, 1, 99), TryAgain(0.5)),
        (UNUSABLE, Tally(0, 1), TryAgain(0.5)),
        (UNUSABLE, Tally(0, 2), GiveUp()),
        (BILLED, Tally(0, 1), TryAgain(0.5)),
        (BILLED, Tally(0, 2), GiveUp()),
        (UNKNOWN, Tally(1), GiveUp()),
    ],
)
def test_what_becomes_of_a_task(error: ProviderError, tally: Tally, expected: Decision) -> None:
    """The table: which error, which attempt, with the dice at one half."""
    assert decide(error, tally, POLICY, 0.5) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (retryable(), Tally(1, 0, 0)),
        (rate_limited(), Tally(0, 0, 1)),
        (LOST, Tally(0, 1, 0)),
        (UNUSABLE, Tally(0, 1, 0)),
        (BILLED, Tally(0, 1, 0)),
        (REFUSED, Tally(1, 0, 0)),
        (STOP, Tally(1, 0, 0)),
    ],
)
def test_each_kind_of_error_is_counted_by_itself(error: ProviderError, expected: Tally) -> None:
    """A task that was told to slow down has not failed; one that may have been billed has cost money."""
    assert Tally().plus(error) == expected
    assert Tally(5, 6, 7).plus(error) == Tally(5 + expected.unbilled, 6 + expected.billed, 7 + expected.rate_limited)


def attempts(error: ProviderError, policy: Policy) -> int:
    """How many attempts a task gets that always ends in `error`."""
    tally = Tally()
    for number in range(1, 1000):
        tally = tally.plus(error)
        if not isinstance(decide(error, tally, policy, 0.0), TryAgain):
            return number
    raise AssertionError("it is tried for ever")


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_a_task_gets_exactly_the_attempts_of_the_policy(unbilled: int, billed: int, limited: int) -> None:
    """Never more, so that no fault of a provider can turn into an endless bill."""
    policy = Policy(unbilled, billed, limited)
    assert attempts(retryable(), policy) == unbilled
    assert attempts(LOST, policy) == attempts(UNUSABLE, policy) == attempts(BILLED, policy) == billed
    assert attempts(rate_limited(), policy) == limited
    assert attempts(REFUSED, policy) == attempts(STOP, policy) == attempts(UNKNOWN, policy) == 1


@settings(deadline=None)
@given(st.sampled_from([retryable(), rate_limited(), LOST, UNUSABLE]), st.integers(1, 2000), JITTER)
def test_a_wait_is_full_jitter_below_its_ceiling(error: ProviderError, failures: int, jitter: float) -> None:
    """Uniform from zero to base x 2^(n-1), never above the policy's maximum, however often it failed."""
    policy = Policy(10**6, 10**6, 10**6, base_s=2.0, max_s=60.0)
    decision = decide(error, Tally(failures, failures, failures), policy, jitter)
    assert isinstance(decision, TryAgain)
    ceiling = min(60.0, 2.0 * 2.0 ** min(failures - 1, 100))
    assert decision.delay_s == pytest.approx(ceiling * jitter)
    assert 0 <= decision.delay_s < ceiling


@settings(deadline=None)
@given(st.floats(0, allow_nan=False), JITTER)
def test_an_absurd_retry_after_is_bounded(asked_s: float, jitter: float) -> None:
    """A provider can ask for ten minutes, not for a week; what it asks for is otherwise the least that is waited."""
    for error in (retryable(asked_s), rate_limited(asked_s)):
        decision = decide(error, Tally(1, 0, 1), POLICY, jitter)
        assert isinstance(decision, TryAgain)
        assert min(asked_s, MAX_HOLD_S) <= decision.delay_s <= MAX_HOLD_S


@settings(deadline=None)
@given(st.none() | st.floats(0, 1e9), JITTER)
def test_only_a_429_holds_everyone_and_for_as_long_as_its_own_task(asked_s: float | None, jitter: float) -> None:
    """A broken upstream says nothing of the others' pace."""
    told = decide(rate_limited(asked_s), Tally(0, 0, 1), POLICY, jitter)
    assert isinstance(told, TryAgain)
    assert told.hold_s == told.delay_s
    for error in (retryable(asked_s), LOST, UNUSABLE):
        other = decide(error, Tally(1, 1), POLICY, jitter)
        assert isinstance(other, TryAgain)
        assert other.hold_s == 0


def test_the_default_policy_is_more_patient_with_a_pace_than_with_a_bill() -> None:
    """A 429 costs nothing; an attempt that was billed costs money every time."""
    policy = Policy()
    assert policy.billed_attempts < policy.attempts < policy.rate_limited_attempts
    assert all(value > 0 for value in dataclasses.astuple(policy))
