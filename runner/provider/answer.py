"""What is known of an answer while it is waited for and read, and the error that may come of it.

Owns the words for waits that were too long, and for answers that are none. Refuses to ask and to read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from runner.errors import Lost, ProviderError, Retryable, Unusable, Usage
from runner.provider.decode import BadAnswer
from runner.provider.endpoint import Timeouts
from runner.provider.envelope import Envelope
from runner.provider.translate import clean, error_of
from runner.provider.upload import Sending


@dataclass(frozen=True, slots=True)
class Made:
    """An answer whose image has gone to the sink, whole as far as the JSON can tell."""

    envelope: Envelope
    http_status: int
    request_id: str | None


@dataclass(slots=True)
class Answer:
    """What is known of an answer so far, for the error that may end it."""

    waiting_for: str = "timeout_first_byte"
    http_status: int | None = None
    request_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: Usage | None = None
    """What an answer without its image said of its cost."""
    uploads: Sending | None = None
    """The files that go with the request."""
    scope: anyio.CancelScope | None = None
    """The wait for the answer, and how long it may be."""
    patience_s: float = 0.0

    def waits(self, scope: anyio.CancelScope, patience_s: float) -> None:
        """The request is being sent, and its answer waited for."""
        self.scope, self.patience_s = scope, patience_s

    def has_moved(self) -> None:
        """A piece of a file was read to be sent."""
        if self.scope is not None:
            self.scope.deadline = anyio.current_time() + self.patience_s

    def unsent(self) -> Retryable | None:
        """The error of a request whose files have not all left: nobody can have worked on that."""
        uploads = self.uploads
        if uploads is None or uploads.are_whole:
            return None
        if uploads.problem is not None:
            return Retryable(uploads.problem, code="input_unreadable")
        return Retryable(f"the connection broke while {uploads.what} were being sent", code="upload_cut")

    def overdue(self, timeouts: Timeouts) -> ProviderError:
        """The error of a wait that was too long."""
        match self.waiting_for:
            case "timeout_first_byte":
                waited_s, what = timeouts.first_byte_s, "no answer"
            case "timeout_stall":
                waited_s, what = timeouts.stall_s, "the answer stalled: nothing more came"
            case _:
                waited_s, what = timeouts.total_s, "no whole answer"
        words = f"{what} within {waited_s:g} s"
        if self.http_status is None and self.uploads is not None and self.unsent() is not None:
            return Retryable(f"{self.uploads.what} could not be sent: {words}", code="upload_stalled")
        if self.usage is not None:
            return self.not_fetched(words)
        return Lost(words, code=self.waiting_for, http_status=self.http_status, request_id=self.request_id)

    def not_fetched(self, why: str) -> Unusable:
        """The error of an image that a gateway put elsewhere: what the answer said of its cost still counts."""
        return Unusable(
            f"the answer names a URL instead of carrying the image, and that cannot be fetched ({why})",
            code="url_not_fetched",
            http_status=self.http_status,
            request_id=self.request_id,
            usage=self.usage,
        )


def explained(error: BadAnswer, answer: Answer) -> ProviderError:
    """The error of a 200 without an image; some gateways put an error of the documented shape into one."""
    envelope = error.envelope
    if envelope is not None and envelope.error is not None and envelope.usage is None:
        inner = error_of(
            500,
            envelope.error,
            answer.headers,
            request_id=answer.request_id,
            model="the model",
            now=dt.datetime.now(dt.UTC),
        )
        inner.http_status = answer.http_status
        return inner
    return Unusable(
        clean(error.message),
        code=error.code,
        http_status=answer.http_status,
        request_id=answer.request_id,
        usage=envelope.usage if envelope else None,
    )


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The request's id at the provider, where it tells one."""
    value = headers.get("x-request-id")
    return clean(value)[:200] if value else None
