"""What to do about batches: how large the next one is, when to look again, when to stop waiting, what silence means.

Owns those decisions as functions of what is known. Refuses to wait, to ask and to read the clock: ages are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MAX_FILE_BYTES = 200_000_000
"""The longest input file: 200 MB, read in the stricter of its two senses. Source: OpenAI, Files API reference."""
KEPT_S = 30 * 86_400
"""How long results are kept after a batch has ended. Source: OpenAI, Batch API guide."""
WARN_KEPT_S = 20 * 86_400
"""From this age on, results that nobody has collected are warned of."""
QUEUE_FULL = "token_limit_exceeded"
"""What a batch is refused with that does not fit into what is enqueued already."""

_SOONEST_S, _LATEST_S = 1.0, 60.0
_GLANCES = 20
_QUEUE_SOONEST_S, _QUEUE_LATEST_S = 10.0, 600.0


def poll_delay_s(age_s: float) -> float:
    """How long to wait before a batch of this age is looked at again: a twentieth of its age, 1 to 60 seconds."""
    return min(_LATEST_S, max(_SOONEST_S, age_s / _GLANCES))


def queue_delay_s(refusals: int) -> float:
    """How long to wait for room in the queue after so many refusals in a row; none of our own batches is under way."""
    return min(_QUEUE_LATEST_S, _QUEUE_SOONEST_S * 2.0 ** min(refusals - 1, 20))


@dataclass(frozen=True, slots=True)
class Past:
    """A batch before the next one: its requests, what it was refused with (if it was), and from when to when it lay in
    the queue, in milliseconds since 1970; `ended_ms` None while it does."""

    requests: int
    code: str | None
    submitted_ms: int
    ended_ms: int | None


def was_queue_full(history: Sequence[Past]) -> bool:
    """Whether the queue was too full for one of these: then another is sent only when the one before is accepted."""
    return any(past.code == QUEUE_FULL for past in history)


def size_of_next(most: int, history: Sequence[Past]) -> int:
    """Requests in the next batch, from the batches before it, oldest first.

    One that did not fit into the queue although none of ours was there halves it: beside others it may fit later. One
    that was run lets it double, up to `most`, and to less than what did not fit.
    """
    size, too_large = most, most + 1
    for past in history:
        if past.code == QUEUE_FULL:
            if not any(_lay_beside(other, past) for other in history):
                too_large = min(too_large, past.requests)
                size = max(1, min(size, past.requests) // 2)
        elif past.code is None and past.requests:
            size = max(1, min(most, max(size, past.requests * 2), too_large - 1))
    return size


def _lay_beside(other: Past, past: Past) -> bool:
    """Whether `other` was accepted, and in the queue while `past` was refused."""
    if other is past or other.code is not None or other.submitted_ms > (past.ended_ms or past.submitted_ms):
        return False
    return other.ended_ms is None or other.ended_ms >= past.submitted_ms


def silence(completed: int | None, answered: int) -> Literal["not_run", "in_doubt"]:
    """What it means that a batch which is over has no answer to some of its requests.

    `completed` is how many the provider says it has completed, and so bills; `answered` how many successful answers
    were found. Only where the two are the same is it sure that nothing is billed for the missing: a provider that
    counts fewer than it has answered does not count.
    """
    return "not_run" if completed == answered else "in_doubt"


def is_late(over_ms: int | None, now_ms: float) -> bool:
    """Whether the results of a batch that was over then (milliseconds since 1970) should be collected soon."""
    return over_ms is not None and now_ms - over_ms >= WARN_KEPT_S * 1000


def is_overdue(age_s: float, after_s: float | None) -> bool:
    """Whether a batch of this age is no longer waited for."""
    return after_s is not None and age_s >= after_s
