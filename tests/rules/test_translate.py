"""What the reading of a provider's errors and headers must hold: the right reach, whatever a gateway made of them."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.errors import Lost, ModelGone, ProviderError, RateLimited, Refused, Retryable, StopRun
from runner.provider.translate import MAX_MESSAGE_CHARS, clean, date_of, duration_s, error_of, heard, retry_after_s
from runner.rules.pacing import Heard

NOW = dt.datetime(2026, 11, 22, 12, 0, 0, tzinfo=dt.UTC)
WAIT_12_S = "Rate limit reached on input-images per min: Limit 5, Used 5, Requested 1. Please try again in 12s."
VERIFY = "Your organization must be verified to use the model `gpt-image-1-mini`."
PAGE_502 = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center>nginx</center></body></html>"
KEY = "sk-proj-Abc123_def-456GHI789"


def translated(status: int, body: object, headers: Mapping[str, str] | None = None) -> ProviderError:
    return error_of(status, body, headers or {}, request_id="req_1", model="gpt-image-1-mini", now=NOW)


def said(code: object = None, kind: object = None, message: object = "No.", **more: object) -> dict[str, object]:
    """An error object as the API sends it."""
    return {"code": code, "type": kind, "message": message, "param": None, **more}


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        # slower
        (429, said("rate_limit_exceeded", "input-images", WAIT_12_S), RateLimited, "rate_limit_exceeded"),
        (429, said("rate_limit_exceeded", "requests"), RateLimited, "rate_limit_exceeded"),
        (429, said("429", "requests"), RateLimited, "rate_limit_exceeded"),
        (429, said(429, None), RateLimited, "rate_limit_exceeded"),
        (429, None, RateLimited, "rate_limit_exceeded"),
        (429, "Too Many Requests", RateLimited, "rate_limit_exceeded"),
        (429, said("engine_overloaded"), RateLimited, "engine_overloaded"),
        # no money
        (429, said("insufficient_quota", "insufficient_quota"), StopRun, "insufficient_quota"),
        (429, said("429", "insufficient_quota"), StopRun, "insufficient_quota"),
        (429, said(429, "insufficient_quota"), StopRun, "insufficient_quota"),
        (400, said("billing_hard_limit_reached", "billing_limit_user_error"), StopRun, "billing_hard_limit_reached"),
        (400, said("400", "billing_limit_user_error"), StopRun, "billing_limit_user_error"),
        (403, said("insufficient_user_quota"), StopRun, "insufficient_user_quota"),
        (429, said("billing_not_active"), StopRun, "billing_not_active"),
        (402, said("402"), StopRun, "insufficient_quota"),
        (402, "Payment Required", StopRun, "insufficient_quota"),
        # this image is not made
        (400, said("moderation_blocked", "image_generation_user_error"), Refused, "moderation_blocked"),
        (403, said("moderation_blocked"), Refused, "moderation_blocked"),
        (400, said("content_policy_violation"), Refused, "content_policy_violation"),
        (400, said("invalid_value", "invalid_request_error"), Refused, "invalid_value"),
        (400, said(None, "invalid_request_error"), Refused, "invalid_request_error"),
        (400, said("400", None), Refused, "http_400"),
        (400, None, Refused, "http_400"),
        (413, "Request Entity Too Large", Refused, "http_413"),
        (422, {"detail": [{"msg": "field required"}]}, Refused, "http_422"),
        # the key, the organisation
        (401, said("invalid_api_key"), StopRun, "invalid_api_key"),
        (401, said("401"), StopRun, "invalid_api_key"),
        (401, None, StopRun, "invalid_api_key"),
        (400, said("invalid_api_key"), StopRun, "invalid_api_key"),
        (403, said(None, "invalid_request_error", VERIFY), StopRun, "forbidden"),
        (400, said(None, "invalid_request_error", VERIFY), StopRun, "forbidden"),
        (403, said("unsupported_country_region_territory"), StopRun, "unsupported_country_region_territory"),
        # the model, the path
        (404, said("model_not_found", "invalid_request_error"), ModelGone, "model_not_found"),
        (400, said("model_not_found"), ModelGone, "model_not_found"),
        (404, said(None, None, "The model `gpt-image-1-mini` does not exist"), ModelGone, "model_not_found"),
        (404, said("404", None, "Model is not supported"), ModelGone, "model_not_found"),
        (410, said("model_deprecated"), ModelGone, "model_deprecated"),
        (404, said(None, "invalid_request_error", "Invalid URL (POST /images/generations)"), StopRun, "http_404"),
        (404, "<html><title>404 Not Found</title></html>", StopRun, "http_404"),
        (405, None, StopRun, "http_405"),
        (301, None, StopRun, "http_301"),
        (308, "<html>moved</html>", StopRun, "http_308"),
        # try again
        (500, said(None, "server_error"), Retryable, "http_500"),
        (500, said("server_error", "server_error"), Retryable, "server_error"),
        (502, PAGE_502, Retryable, "http_502"),
        (502, None, Retryable, "http_502"),
        (503, said("503"), Retryable, "http_503"),
        (520, "error code: 520", Retryable, "http_520"),
        (408, None, Retryable, "http_408"),
        (409, said("409"), Retryable, "http_409"),
        (425, None, Retryable, "http_425"),
        # a proxy that stopped waiting: possibly billed
        (504, PAGE_502, Lost, "http_504"),
        (504, said("504"), Lost, "http_504"),
        (524, "error code: 524", Lost, "http_524"),
    ],
)
def test_what_an_answer_means(status: int, body: object, kind: type[ProviderError], code: str) -> None:
    """The table: code and type before the status, the status where a gateway has put it into the code."""
    error = translated(status, body)
    assert type(error) is kind
    assert (error.code, error.http_status, error.request_id) == (code, status, "req_1")
    assert error.message
    if isinstance(error, StopRun):
        assert error.hint, "what ends a run says what to do next"


@pytest.mark.parametrize("status", [504, 524])
def test_a_proxy_that_gave_up_may_have_cost_money(status: int) -> None:
    """Law 4: the upstream may go on and bill, so this is no error that is merely tried again."""
    assert not isinstance(translated(status, PAGE_502), Retryable)


def test_a_gone_model_names_the_lines_to_change() -> None:
    """The hint has the model that was asked for, and both ways out."""
    hint = translated(404, said("model_not_found")).hint
    assert hint is not None
    assert all(word in hint for word in ("gpt-image-1-mini", "`model:`", "`fallback_model:`"))


@pytest.mark.parametrize(
    ("details", "ending"),
    [
        (
            {"moderation_stage": "input", "categories": ["violence", "self-harm"]},
            " (stage: input; violence, self-harm)",
        ),
        ({"moderation_stage": "output"}, " (stage: output)"),
        ({"categories": ["violence"]}, " (violence)"),
        ({"categories": []}, ""),
        ({"categories": "violence", "moderation_stage": ["input"]}, ""),
        ({}, ""),
        (None, ""),
        ("violence", ""),
    ],
)
def test_a_refusal_says_what_the_moderation_said(details: object, ending: str) -> None:
    """The stage and the categories where they were told; nothing where they were not."""
    error = translated(400, said("moderation_blocked", message="Rejected.", moderation_details=details))
    assert error.message == "Rejected." + ending


def test_the_details_of_a_refusal_are_clean_and_bounded() -> None:
    """A thousand categories with escape sequences are still one short line."""
    details = {"moderation_stage": "\x1b[31m" * 500, "categories": ["\x1b]0;owned\x07" * 9] * 1000}
    error = translated(400, said("moderation_blocked", message="x" * 5000, moderation_details=details))
    assert error.message.isprintable()
    assert len(error.message) <= 3 * MAX_MESSAGE_CHARS


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (PAGE_502, "HTTP 502: 502 Bad Gateway"),
        ("upstream connect error", "HTTP 502: upstream connect error"),
        ("<html><body>no title</body></html>", "HTTP 502: <html><body>no title</body></html>"),
        ("<TITLE lang=en>\n Down \n for now </TITLE>", "HTTP 502: Down for now"),
        ("", "HTTP 502"),
        (" \n", "HTTP 502"),
        (None, "HTTP 502"),
        ({}, "HTTP 502"),
        ({"message": ""}, "HTTP 502"),
        ({"message": ["odd"]}, "HTTP 502"),
        ({"message": " told \n so "}, "told so"),
    ],
)
def test_a_body_that_is_no_documented_error_still_says_something(body: object, message: str) -> None:
    """A proxy's page is known by its title, and nothing at all by its status."""
    assert translated(502, body).message == message


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_retry_after_reaches_the_error(status: int) -> None:
    """Every answer that is tried again can say when."""
    error = translated(status, said(), {"retry-after": "7"})
    assert isinstance(error, Retryable)
    assert error.retry_after_s == 7
    silent = translated(status, said())
    assert isinstance(silent, Retryable)
    assert silent.retry_after_s is None


def test_the_message_of_a_429_says_when() -> None:
    """The documented sentence, where no header came with it."""
    error = translated(429, said("rate_limit_exceeded", "input-images", WAIT_12_S))
    assert isinstance(error, RateLimited)
    assert error.retry_after_s == 12


# -- when to come back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "message", "expected"),
    [
        ({"retry-after": "20"}, "", 20),
        ({"retry-after": "0"}, "", 0),
        ({"retry-after": "1.5"}, "", 1.5),
        ({"retry-after-ms": "350"}, "", 0.35),
        ({"retry-after-ms": "350", "retry-after": "1"}, "", 0.35),
        ({"retry-after-ms": "soon", "retry-after": "1"}, "", 1),
        ({"retry-after-ms": "-5", "retry-after": "1"}, "", 1),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, "", 30),
        ({"retry-after": "Sun, 22 Nov 2026 13:00:30 +0100"}, "", 30),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 -0000"}, "", 30),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, "", 0),
        ({"retry-after": "999999999"}, "", 999_999_999),
        ({"retry-after": "-1"}, "", None),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "inf"}, "", None),
        ({"retry-after": "1e999"}, "", None),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": ""}, "", None),
        ({"retry-after": "Sun, 22 Nov 99999999999999 12:00:30 GMT"}, "", None),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 +99999999999999"}, "", None),
        ({"retry-after": "-1"}, "Please try again in 12s.", 12),
        ({"retry-after": "3"}, "Please try again in 12s.", 3),
        ({}, "Please try again in 12s.", 12),
        ({}, "please TRY AGAIN IN 350ms.", 0.35),
        ({}, "Please try again in 1m2s.", 62),
        ({}, "Please try again in 1m 2.5s or later", 62.5),
        ({}, "Please try again in 1h0m0s", 3600),
        ({}, "Please try again in a moment", None),
        ({}, f"Please try again in {'9' * 350}s", None),
        ({}, "Limit 5, Used 5", None),
        ({}, "", None),
    ],
)
def test_how_long_to_wait(headers: Mapping[str, str], message: str, expected: float | None) -> None:
    """Milliseconds before seconds, seconds or a date, then the message; nonsense is as if nothing had been said."""
    assert retry_after_s(headers, message, NOW) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("350ms", 0.35),
        ("1h2m3s", 3723),
        ("7.66s", 7.66),
        ("12", 12),
        ("0", 0),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("inf", None),
        ("9" * 400 + "s", None),
    ],
)
def test_durations_are_read_as_the_api_writes_them(text: str, expected: float | None) -> None:
    """Seconds; a bare number is seconds too."""
    assert duration_s(text) == (None if expected is None else pytest.approx(expected))


# -- what headers say of the limits -----------------------------------------------------------------


def limits(kind: str, limit: str = "50", remaining: str = "0", reset: str = "6m0s") -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": limit,
        f"x-ratelimit-remaining-{kind}": remaining,
        f"x-ratelimit-reset-{kind}": reset,
    }


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, {}),
        (limits("requests"), {"requests": Heard(50, 0, 360)}),
        (limits("tokens", "800000", "799728", "20ms"), {"tokens": Heard(800_000, 799_728, 0.02)}),
        (limits("input-images", reset="1s"), {"images": Heard(50, 0, 1)}),
        (limits("images", reset="1s"), {"images": Heard(50, 0, 1)}),
        (limits("images", "9") | limits("input-images", "5"), {"images": Heard(5, 0, 360)}),
        (limits("requests") | limits("tokens", "9"), {"requests": Heard(50, 0, 360), "tokens": Heard(9, 0, 360)}),
        ({"x-ratelimit-limit-requests": "50"}, {"requests": Heard(50)}),
        ({"x-ratelimit-remaining-requests": "0"}, {"requests": Heard(remaining=0)}),
        ({"x-ratelimit-reset-requests": "1s"}, {}),
        (limits("requests", "many", "-1", "soon"), {}),
        (limits("requests", "nan", "inf", "1s"), {}),
        (limits("requests", "0.01", "3", "1s"), {"requests": Heard(None, 3, 1)}),
        (limits("requests", "0", "", ""), {}),
        (limits("requests", "50", "3", "soon"), {"requests": Heard(50, 3)}),
        (limits("unicorns"), {}),
    ],
)
def test_what_headers_say_of_each_gate(headers: Mapping[str, str], expected: dict[str, Heard]) -> None:
    """None of them is sure to be there, and nonsense says nothing."""
    assert heard(headers) == expected


# -- the server's clock -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sun, 22 Nov 2026 12:00:00 GMT", NOW),
        ("Sun, 22 Nov 2026 12:00:00 -0000", NOW),
        ("Sun, 22 Nov 2026 07:00:00 -0500", NOW),
        ("yesterday", None),
        ("", None),
        ("Sun, 32 Nov 2026 12:00:00 GMT", None),
        ("Sun, 22 Nov 99999999999999 12:00:00 GMT", None),
    ],
)
def test_the_server_tells_the_time_or_nothing(text: str, expected: dt.datetime | None) -> None:
    """Aware always: comparing it with our own clock must not raise."""
    found = date_of({"date": text})
    assert found == expected
    assert found is None or found.tzinfo is not None


def test_no_date_is_no_time() -> None:
    """A header that did not come."""
    assert date_of({}) is None


# -- a stranger's text ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Incorrect API key provided: {KEY}.", "Incorrect API key provided: [key]."),
        (f"key='{KEY}', retry", "key='[key]', retry"),
        (f'{{"key":"{KEY}"}}', '{"key":"[key]"}'),
        ("sess-AbCdEf123 and rk-live-99999", "[key] and [key]"),
        ("Incorrect API key provided: sk-proj-****6789", "Incorrect API key provided: [key]"),
        ("task-1234 and risk-free desk-lamp", "task-1234 and risk-free desk-lamp"),
        ("one\ntwo\r\n\tthree  four", "one two three four"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("\x1b]0;title\x07\x9b2Jtext", "]0;title 2Jtext"),
        ("left\u202eright\u200b\u2028", "left right"),
        ("half \ud83d pair", "half pair"),
        ("\x00\x7f", ""),
        ("Käfer 雨 🐈", "Käfer 雨 🐈"),
    ],
)
def test_a_strangers_text_is_made_fit_for_a_terminal(text: str, expected: str) -> None:
    """No key, no control character, nothing that a terminal obeys, one line."""
    assert clean(text) == expected


@settings(deadline=None)
@given(st.text(max_size=3000))
@example("x" * 401)
@example("x" * 400)
@example(f"{KEY} " * 100)
def test_clean_text_is_one_printable_bounded_line(text: str) -> None:
    """Whatever came; and cleaning it once more changes nothing."""
    line = clean(text)
    assert line.isprintable()
    assert len(line) <= MAX_MESSAGE_CHARS
    assert line == line.strip()
    line.encode("utf-8")
    assert KEY not in line
    assert clean(line) == line


def test_a_long_text_shows_that_it_was_cut() -> None:
    """The last character says that there was more."""
    assert clean("x" * 1000) == "x" * (MAX_MESSAGE_CHARS - 1) + "…"


@settings(deadline=None)
@given(st.text(max_size=50), st.integers(0, 2000))
def test_no_key_survives_wherever_it_stands(before: str, spaces: int) -> None:
    """At the start, behind a wall of text, or where the text is cut."""
    assert KEY[8:20] not in clean(f"{before} {'x' * spaces} {KEY} after")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 504])
def test_no_error_carries_a_key(status: int) -> None:
    """Wherever a provider repeats it: in the message, the code, the type, or a page."""
    for body in (said(KEY, KEY, KEY), f"<title>{KEY}</title>", KEY, said("moderation_blocked", message=KEY)):
        error = translated(status, body)
        assert KEY not in f"{error} {error.code} {error.hint}"


# -- anything ---------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
CODES = st.sampled_from(["insufficient_quota", "moderation_blocked", "model_not_found", "429", "server_error"])
BODIES = JSON | st.fixed_dictionaries(
    {},
    optional={"code": CODES | JSON, "type": CODES | JSON, "message": JSON, "moderation_details": JSON, "param": JSON},
)
NUMBERISH = st.text("0123456789.-+emshinfa ,:GMTSunNov", max_size=30) | st.text(max_size=20)
NAMES = ["retry-after", "retry-after-ms", "date", "x-request-id"] + [
    f"x-ratelimit-{what}-{kind}"
    for what in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens", "images", "input-images")
]
HEADERS = st.dictionaries(st.sampled_from(NAMES), NUMBERISH, max_size=8)


@settings(deadline=None)
@given(st.integers(300, 999), BODIES, HEADERS)
def test_no_answer_is_too_odd_to_be_understood(status: int, body: object, headers: dict[str, str]) -> None:
    """Every body and every header becomes exactly one error with a clean message, a code and sane waits."""
    error = translated(status, body, headers)
    assert error.message.isprintable()
    assert 0 < len(error.message) <= 3 * MAX_MESSAGE_CHARS
    assert error.code.isprintable()
    assert 0 < len(error.code) <= 100
    if isinstance(error, Retryable) and error.retry_after_s is not None:
        assert math.isfinite(error.retry_after_s)
        assert error.retry_after_s >= 0
    for told in heard(headers).values():
        for figure in (told.limit, told.remaining, told.reset_s):
            assert figure is None or (math.isfinite(figure) and figure >= 0)
    date_of(headers)


DATES = st.tuples(
    st.sampled_from(["Sun, ", "", "Xyz "]),
    st.integers(-(10**20), 10**20) | st.integers(0, 40),
    st.sampled_from(["Nov", "Foo", "1"]),
    st.integers(-(10**20), 10**20) | st.integers(0, 10_000),
    st.integers(-9, 99),
    st.sampled_from(["GMT", "-0000", "+99999999999999", "-9999", "+2359", ""]),
).map(lambda d: f"{d[0]}{d[1]} {d[2]} {d[3]} {d[4]}:00:00 {d[5]}")


@settings(deadline=None)
@given(DATES | st.text(max_size=40))
def test_no_date_is_too_odd_to_be_read(text: str) -> None:
    """A date that no calendar has is no date; a wait is never negative."""
    date_of({"date": text})
    wait_s = retry_after_s({"retry-after": text}, "", NOW)
    assert wait_s is None or (wait_s >= 0 and math.isfinite(wait_s))
