"""What an images answer says beside its image: parsed as JSON, then read with lenience.

Owns `Envelope`, `BadAnswer`, and the shapes of a stranger's fields: a field that is missing or of the wrong type is
None, never an error, because the image beside it is paid for. Refuses to know how the bytes were received and where the
image went.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Final

from runner.errors import Usage

MAX_COUNT_TOKENS: Final = 10**9
"""A token count above this is a fault of the sender, not a bill."""
_MAX_DIGITS: Final = 30


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an answer says beside its image. Fields that are missing, or of the wrong type, are None."""

    created: int | None = None
    size: str | None = None
    quality: str | None = None
    background: str | None = None
    output_format: str | None = None
    usage: Usage | None = None
    usage_json: str | None = None
    """The usage object as it came, whatever its shape, as compact JSON."""
    url: str | None = None
    """`data[0].url`: where some gateways put the image instead of sending it."""
    images: int = 0
    """The length of `data`."""
    image_bytes: int = 0
    """How many bytes went to the sink."""
    error: dict[str, object] | None = field(default=None, hash=False)
    """An `error` object inside an answer that claims success."""


class BadAnswer(Exception):
    """An answer without a usable image.

    `code` is one of `empty_body`, `not_json`, `truncated_json`, `no_data`, `bad_base64`, `answer_too_large`;
    `envelope` is what could be read of the answer, or None if that is nothing.
    """

    def __init__(self, message: str, *, code: str, envelope: Envelope | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.envelope = envelope


def parse(text: bytes | bytearray) -> dict[str, object]:
    """Parse the text of an answer: UTF-8, an object.

    A number that is none, or beyond measure (NaN, 1e999, thousands of digits), is None, as any field of a wrong type.

    Raises:
        ValueError: it is anything else (a `json.JSONDecodeError` and a `UnicodeDecodeError` are ValueErrors too).
    """
    try:
        answer = json.loads(text.decode("utf-8-sig"), parse_int=_int, parse_float=_float, parse_constant=_none)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(answer, dict):
        raise ValueError("it is not an object")
    return answer


def _int(text: str) -> int | None:
    return int(text) if len(text) <= _MAX_DIGITS else None


def _float(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _none(_name: str) -> None:
    return None


def first_item(answer: dict[str, object]) -> dict[str, object]:
    """`data[0]` of a parsed answer, or nothing."""
    data = answer.get("data")
    first = data[0] if isinstance(data, list) and data else None
    return first if isinstance(first, dict) else {}


def describe(answer: dict[str, object], image_bytes: int) -> Envelope:
    """Read the fields of a parsed answer of which `image_bytes` bytes of image were delivered."""
    usage = answer.get("usage")
    data = answer.get("data")
    created = answer.get("created")
    return Envelope(
        # A Unix time in seconds: eleven digits end in the year 5138.
        created=created if type(created) is int and 0 <= created < 10**11 else None,
        size=_text(answer.get("size")),
        quality=_text(answer.get("quality")),
        background=_text(answer.get("background")),
        output_format=_text(answer.get("output_format")),
        usage=read_usage(usage),
        usage_json=_compact(usage) if isinstance(usage, dict) else None,
        url=_text(first_item(answer).get("url")),
        images=len(data) if isinstance(data, list) else 0,
        image_bytes=image_bytes,
        error=read_error(answer.get("error")),
    )


def read_usage(value: object) -> Usage | None:
    """The token counts of a parsed `usage` object; None unless it has the documented shape and sane counts.

    Without (or with empty) input details all input counts as text, which is what a request without images sends.
    """
    if not isinstance(value, dict):
        return None
    input_tokens, output_tokens = _count(value.get("input_tokens")), _count(value.get("output_tokens"))
    if input_tokens is None or output_tokens is None:
        return None
    total = _count(value.get("total_tokens"), absent=input_tokens + output_tokens)
    details = value.get("input_tokens_details")
    details = {} if details is None else details
    if total is None or not isinstance(details, dict):
        return None
    image = _count(details.get("image_tokens"), absent=0)
    if image is None:
        return None
    text = _count(details.get("text_tokens"), absent=max(input_tokens - image, 0))
    if text is None:
        return None
    if text == image == 0:
        text = input_tokens
    cached_text, cached_image = _read_cached(details, text, image)
    return Usage(input_tokens, output_tokens, total, text, image, cached_text, cached_image)


def _read_cached(details: dict[str, object], text: int, image: int) -> tuple[int, int]:
    """Cached (text, image) tokens; zeros where the figures contradict the counts that they are part of."""
    split = details.get("cached_tokens_details")
    if isinstance(split, dict):
        cached_text = _count(split.get("text_tokens"), absent=0)
        cached_image = _count(split.get("image_tokens"), absent=0)
        if cached_text is None or cached_image is None or cached_text > text or cached_image > image:
            return 0, 0
        return cached_text, cached_image
    cached = _count(details.get("cached_tokens"))
    if cached is None or cached > text + image:
        return 0, 0
    # Text is the cheaper kind: counting it first never makes the bill look smaller than it is.
    return min(cached, text), cached - min(cached, text)


def _count(value: object, *, absent: int | None = None) -> int | None:
    if value is None:
        return absent
    return value if type(value) is int and 0 <= value <= MAX_COUNT_TOKENS else None


def _text(value: object) -> str | None:
    """A string that can be written anywhere: a lone surrogate would break the ledger later."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None


def _compact(value: object) -> str | None:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        return None


def read_error(value: object) -> dict[str, object] | None:
    """An error object with its strings made safe; some gateways send a bare sentence, kept as its message."""
    if isinstance(value, str):
        value = {"message": value}
    if not isinstance(value, dict) or not value:
        return None
    try:
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        return dict(json.loads(text))
    except (ValueError, RecursionError):
        return {"message": "an error object that cannot be read"}
