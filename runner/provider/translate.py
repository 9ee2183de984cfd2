"""What a provider's errors and headers mean, as pure functions of status, body and headers.

Owns the error table of `docs/design.md`: it looks at `code` and `type` before the status, because one status says
several things (a 429 is "slower" or "you have no money"), and at the status where a gateway has put that into the code.
Refuses to know the SDK.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import math
import re
from collections.abc import Mapping
from typing import Any

from runner.errors import Lost, ModelGone, ProviderError, RateLimited, Refused, Retryable, StopRun
from runner.rules.pacing import Heard

MAX_MESSAGE_CHARS = 400
MAX_DURATION_CHARS = 100
"""What is longer is no duration, and a row of digits takes the square of its length to look through."""

_KEY = re.compile(r"\b(sk|sess|rk)-[^\s'\",.]{4,}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_TRY_AGAIN = re.compile(r"try again in ((?:\d+(?:\.\d+)?(?:ms|h|m|s)\s*)+)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_user_quota"}
_MODERATION_CODES = {"moderation_blocked", "content_policy_violation"}
_QUOTA_WORDS = ("exceeded your current quota", "billing hard limit", "insufficient balance")
_GONE_CODES = {"model_not_found", "model_not_available", "model_deprecated"}
_PROXY_GAVE_UP = {504, 524}
"""A proxy that stopped waiting for an upstream which may have gone on to make, and to bill, the image."""
_PASSING = {408, 409, 425}

_GATES = {
    "images": ("input-images", "images"),
    "requests": ("requests",),
    "tokens": ("tokens",),
}


def error_of(
    status: int, body: object, headers: Mapping[str, str], *, request_id: str | None, model: str, now: dt.datetime
) -> ProviderError:
    """The error that an answer with this HTTP status (300 and above) stands for. `now` is aware."""
    fields: Mapping[str, Any] = body if isinstance(body, dict) else {}
    kind = _word(fields.get("type"))
    code = _word(fields.get("code")) or ""
    if code.isdigit():  # a gateway put the status where the code belongs
        code = ""
    told = fields.get("message")
    message = clean(told) if isinstance(told, str) and told.strip() else _page(body, status)
    lower = message.lower()
    named: dict[str, Any] = {"http_status": status, "request_id": request_id}

    out_of_money = code in _QUOTA_CODES or kind in {"insufficient_quota", "billing_limit_user_error"} or status == 402
    # A gateway that lost the code has mostly kept the words.
    if out_of_money or (status < 500 and any(words in lower for words in _QUOTA_WORDS)):
        return StopRun(
            message,
            code=code or kind or "insufficient_quota",
            hint="the account has no credit or has reached its limit: see the provider's billing page, then run again",
            **named,
        )
    if code in _MODERATION_CODES:
        return Refused(message + _moderation(fields.get("moderation_details")), code=code, **named)
    if status == 401 or code == "invalid_api_key":
        return StopRun(
            message, code=code or "invalid_api_key", hint="check the key in the environment (`runner doctor`)", **named
        )
    if code in _GONE_CODES or (status == 404 and "model" in lower):
        return ModelGone(
            message,
            code=code or "model_not_found",
            hint=f"{model} is not served here: change `model:`, or name a `fallback_model:` in the manifest",
            **named,
        )
    if status == 403 or "must be verified" in lower:
        return StopRun(
            message,
            code=code or "forbidden",
            hint="the organisation may have to be verified for this model, or the key lacks permission",
            **named,
        )
    if status == 429 or code == "rate_limit_exceeded":
        return RateLimited(
            message,
            code=code or "rate_limit_exceeded",
            retry_after_s=retry_after_s(headers, message, now),
            **named,
        )
    if status in _PROXY_GAVE_UP:
        return Lost(message, code=code or f"http_{status}", **named)
    if status >= 500 or status in _PASSING:
        return Retryable(message, code=code or f"http_{status}", retry_after_s=retry_after_s(headers, "", now), **named)
    if status == 404 or 300 <= status < 400 or status == 405:
        return StopRun(message, code=code or f"http_{status}", hint="check the base URL: it ends in /v1", **named)
    return Refused(message, code=code or kind or f"http_{status}", **named)


def retry_after_s(headers: Mapping[str, str], message: str, now: dt.datetime) -> float | None:
    """Seconds to wait, from `retry-after-ms`, `retry-after` (seconds or a date), or the message; None if not told."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * scale
        except ValueError:
            seconds = _until(text, now)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    told = _TRY_AGAIN.search(message)
    return duration_s(told.group(1)) if told else None


def heard(headers: Mapping[str, str]) -> dict[str, Heard]:
    """What the rate-limit headers of an answer say of each gate; nothing where they say nothing."""
    found: dict[str, Heard] = {}
    for gate, names in _GATES.items():
        for name in names:
            limit = _number(headers.get(f"x-ratelimit-limit-{name}"))
            if limit is not None and limit < 1:
                limit = None  # with such a limit nothing could ever be asked, and something was just answered
            remaining = _number(headers.get(f"x-ratelimit-remaining-{name}"))
            reset = headers.get(f"x-ratelimit-reset-{name}")
            reset_s = duration_s(reset) if reset is not None else None
            if limit is not None or remaining is not None:
                found[gate] = Heard(limit, remaining, reset_s)
                break
    return found


def duration_s(text: str) -> float | None:
    """Seconds in `1s`, `6m0s`, `350ms`, `1h2m3s` or a bare number."""
    parts = _DURATION.findall(text[:MAX_DURATION_CHARS])
    if parts:
        seconds = float(sum(float(amount) * _SECONDS[unit] for amount, unit in parts))
        return seconds if math.isfinite(seconds) else None
    return _number(text)


def clean(text: str) -> str:
    """A stranger's text, fit for a ledger and a terminal: one line, printable, bounded, without keys."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: MAX_MESSAGE_CHARS * 4]).split())
    line = _KEY.sub("[key]", line)
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"


def _word(value: object) -> str | None:
    if value is None or isinstance(value, (dict, list)):
        return None
    word = clean(str(value))[:100]
    return word or None


def _page(body: object, status: int) -> str:
    """What to say of a body that is not the documented error: a proxy's page, mostly."""
    if isinstance(body, str) and body.strip():
        title = re.search(r"<title[^>]*>(.*?)</title>", body[:10_000], re.IGNORECASE | re.DOTALL)
        return f"HTTP {status}: {clean(title.group(1) if title else body)[:120]}"
    return f"HTTP {status}"


def _moderation(details: object) -> str:
    if not isinstance(details, dict):
        return ""
    stage = _word(details.get("moderation_stage"))
    categories = details.get("categories")
    listed = clean(", ".join(str(c) for c in categories[:20])) if isinstance(categories, list) else ""
    told = "; ".join(part for part in (f"stage: {stage}" if stage else "", listed) if part)
    return f" ({told})" if told else ""


def date_of(headers: Mapping[str, str]) -> dt.datetime | None:
    """The server's clock, from its Date header; aware."""
    try:
        when = email.utils.parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=dt.UTC)


def _until(text: str, now: dt.datetime) -> float:
    when = date_of({"date": text})
    return math.nan if when is None else max(0.0, (when - now).total_seconds())


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
