"""What the provider says of a file and of a batch, read with lenience.

Owns the shapes, and what is done with a field that is missing or of a wrong type. Refuses to know how they are asked
for, and what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runner.provider.translate import clean

FINAL = frozenset({"completed", "failed", "expired", "cancelled"})
"""Statuses of a batch after which nothing of it changes. Source: OpenAI's OpenAPI document, `Batch.status`."""

MAX_TIME_S = 10**11
"""Seconds since 1970: eleven digits end in the year 5138."""
MAX_COUNT = 10**9
MAX_BYTES = 10**13
MAX_ID_CHARS = 256
MAX_METADATA = 64
MAX_METADATA_CHARS = 512

_SPELLINGS = {"canceled": "cancelled", "canceling": "cancelling"}
_ENDS = ("completed_at", "failed_at", "expired_at", "cancelled_at")

Redact = Callable[[str], str]
"""Takes the key out of a text."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that lies at the provider. Times are seconds since 1970 (UTC).

    Where the provider does not say it, `bytes` and `created_at` are 0 and `filename` is empty.
    """

    id: str
    bytes: int
    filename: str
    created_at: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class BatchProblem:
    """Why a batch was not run; `line` counts from 1 in its input file, None where it is no line's fault."""

    code: str
    message: str
    line: int | None


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """What the provider says of a batch. Times are seconds since 1970 (UTC); counts are of requests.

    `ended_at` is when it was completed, failed, expired or cancelled. Where the provider does not say it, `endpoint`
    and `input_file_id` are empty and `created_at` is 0.
    """

    id: str
    status: str
    endpoint: str
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    total: int | None
    completed: int | None
    failed: int | None
    created_at: int
    expires_at: int | None
    ended_at: int | None
    metadata: Mapping[str, str]
    problems: tuple[BatchProblem, ...]


def read_file(told: Mapping[str, object], redact: Redact) -> RemoteFile | None:
    """A file object as it was parsed; None where it has no id."""
    name = read_id(told.get("id"), redact)
    if name is None:
        return None
    return RemoteFile(
        id=name,
        bytes=_number(told.get("bytes"), MAX_BYTES) or 0,
        filename=_text(told.get("filename"), redact) or "",
        created_at=_number(told.get("created_at"), MAX_TIME_S) or 0,
        expires_at=_number(told.get("expires_at"), MAX_TIME_S),
    )


def read_batch(told: Mapping[str, object], redact: Redact) -> BatchInfo | None:
    """A batch object as it was parsed; None where it has no id or no status."""
    name, status = read_id(told.get("id"), redact), _text(told.get("status"), redact)
    if name is None or status is None:
        return None
    status = status.lower()
    status = _SPELLINGS.get(status, status)
    ends = {end: _number(told.get(end), MAX_TIME_S) for end in _ENDS}
    counts = _mapping(told.get("request_counts"))
    return BatchInfo(
        id=name,
        status=status,
        endpoint=_text(told.get("endpoint"), redact) or "",
        input_file_id=read_id(told.get("input_file_id"), redact) or "",
        output_file_id=read_id(told.get("output_file_id"), redact),
        error_file_id=read_id(told.get("error_file_id"), redact),
        total=_number(counts.get("total"), MAX_COUNT),
        completed=_number(counts.get("completed"), MAX_COUNT),
        failed=_number(counts.get("failed"), MAX_COUNT),
        created_at=_number(told.get("created_at"), MAX_TIME_S) or 0,
        expires_at=_number(told.get("expires_at"), MAX_TIME_S),
        ended_at=ends.get(f"{status}_at") or next((at for at in ends.values() if at is not None), None),
        metadata=_metadata(_mapping(told.get("metadata")), redact),
        problems=_problems(_mapping(told.get("errors")).get("data"), redact),
    )


def read_id(value: object, redact: Redact) -> str | None:
    """The name of a file or of a batch, None where it is none: it goes into a URL and a ledger as it is."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS:
        return None
    return redact(value) if value.isprintable() and value.isascii() else None


def _problems(data: object, redact: Redact) -> tuple[BatchProblem, ...]:
    listed = [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []
    return tuple(
        BatchProblem(
            code=_text(each.get("code"), redact) or "unknown",
            message=_text(each.get("message"), redact) or "the provider gives no reason",
            line=_number(each.get("line"), MAX_COUNT) or None,
        )
        for each in listed
    )


def _metadata(told: Mapping[str, object], redact: Redact) -> dict[str, str]:
    pairs = [(key, value) for key, value in told.items() if isinstance(value, str)][:MAX_METADATA]
    return {_plain(key, redact): _plain(value, redact) for key, value in pairs}


def _plain(text: str, redact: Redact) -> str:
    return redact("".join(c if c.isprintable() else " " for c in text[:MAX_METADATA_CHARS]))


def _text(value: object, redact: Redact) -> str | None:
    return redact(clean(value)) or None if isinstance(value, str) else None


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _number(value: object, most: int) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None
