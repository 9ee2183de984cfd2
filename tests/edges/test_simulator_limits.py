"""The simulator's rate limits: exact windows, true headers, and refusals that cost nothing."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.simulator.limits import Limits, duration
from runner.simulator.problems import Problem
from tests.edges.simulator_support import running


def _limits(images: int | None = None, tokens: int | None = None, requests: int | None = None) -> Limits:
    return Limits(images_per_minute=images, tokens_per_minute=tokens, requests_per_minute=requests, window_s=60)


def _book(limits: Limits, now: float, images: int = 1, tokens: int = 1) -> Problem | None:
    try:
        limits.book(now, model="m", images=images, tokens=tokens)
    except Problem as problem:
        return problem
    return None


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 4), st.integers(1, 300)), max_size=80))
def test_no_window_holds_more_than_the_limit(calls: list[tuple[float, int, int]]) -> None:
    """In any 60 seconds at most the limit passes, of images, tokens and requests each; and what is refused would not
    have fitted."""
    limits = _limits(10, 500, 7)
    passed: list[tuple[float, int, int]] = []
    now = 0.0
    for pause, images, tokens in calls:
        now += pause
        recent = [each for each in passed if each[0] + 60 > now]
        fits = (
            sum(each[1] for each in recent) + images <= 10
            and sum(each[2] for each in recent) + tokens <= 500
            and len(recent) + 1 <= 7
        )
        problem = _book(limits, now, images, tokens)
        assert (problem is None) == fits
        if fits:
            passed.append((now, images, tokens))


# Pauses are in 1024ths of a second, so that sums of them are exact.
@given(st.lists(st.tuples(st.integers(0, 20_000).map(lambda n: n / 1024), st.integers(1, 5)), min_size=1, max_size=40))
def test_retry_after_is_true(calls: list[tuple[float, int]]) -> None:
    """After retry-after-ms the refused request passes, if nobody else came; a second earlier it would not have."""
    now = 0.0
    for pause, images in calls:
        now += pause
        limits = _limits(5)
        for earlier in range(5):
            assert _book(limits, now + earlier) is None
        problem = _book(limits, now + 10, images)
        assert problem is not None
        wait_s = int(problem.headers["retry-after-ms"]) / 1000
        assert int(problem.headers["retry-after"]) >= wait_s
        assert _book(limits, now + 10 + wait_s - 1, images) is not None
        assert _book(limits, now + 10 + wait_s, images) is None


def test_a_refusal_uses_nothing_of_any_limit() -> None:
    """Limits are booked jointly: what one gate refuses, the others do not count."""
    limits = _limits(images=5, requests=3)
    assert _book(limits, 0, images=5) is None
    for _ in range(10):
        assert _book(limits, 1) is not None
    assert limits.headers(1)["x-ratelimit-remaining-requests"] == "2"


def test_a_request_that_can_never_pass_is_not_told_to_wait() -> None:
    """Ten images against five a minute: an error without Retry-After."""
    problem = _book(_limits(5), 0, images=10)
    assert problem is not None
    assert "too large" in problem.message
    assert problem.headers == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.35, "350ms"), (1, "1s"), (7.66, "7.66s"), (59.9999, "1m0s"), (360, "6m0s"), (3661, "1h1m1s")],
)
def test_resets_are_written_as_the_api_writes_them(seconds: float, text: str) -> None:
    """Go's notation, rounded up."""
    assert duration(seconds) == text


def test_a_limit_that_is_passed_answers_429_in_the_providers_words() -> None:
    """Code, type, message and headers of the refusal; it is not billed."""
    with running(images_per_minute=3, tokens_per_minute=10_000) as it:
        answers = [it.generate() for _ in range(3)]
        assert [answer.headers["x-ratelimit-remaining-images"] for answer in answers] == ["2", "1", "0"]
        assert answers[0].headers["x-ratelimit-limit-images"] == "3"
        assert answers[0].headers["x-ratelimit-limit-tokens"] == "10000"
        assert re.fullmatch(r"\d+(\.\d+)?s|1m0s", answers[2].headers["x-ratelimit-reset-images"])
        assert "x-ratelimit-limit-requests" not in answers[0].headers
        refused = it.generate()
        assert refused.status == 429
        assert (refused.error["code"], refused.error["type"]) == ("rate_limit_exceeded", "input-images")
        assert "gpt-image-1-mini" in refused.error["message"]
        assert "on input-images per min: Limit 3, Used 3, Requested 1. Please try again in" in refused.error["message"]
        assert 0 < int(refused.headers["retry-after-ms"]) <= 1000 * int(refused.headers["retry-after"])
        assert it.bill()["billed_requests"] == 3
        assert it.bill()["rejected"] == {"rate_limit_exceeded": 1}
        it.call("POST", "/simulator/reset")
        assert it.generate().status == 200


def test_a_short_window_holds_a_minutes_rate() -> None:
    """60 a minute over two seconds: two pass at once, and waiting as long as was said lets the next one through."""
    with running(images_per_minute=60, window_s=2, art="flat") as it:
        first = it.generate()
        assert first.headers["x-ratelimit-limit-images"] == "60"
        assert first.headers["x-ratelimit-remaining-images"] == "1"
        while (answer := it.generate()).status == 200:
            pass
        time.sleep(int(answer.headers["retry-after-ms"]) / 1000)
        assert it.generate().status == 200
