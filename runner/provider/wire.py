"""What every request to one endpoint has in common: bounded waits, a stranger's body, and no key in what comes of it.

Owns how a body is received, which addresses of others are followed, and that whatever is raised is one of
`runner.errors`. Refuses to know what is asked for.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import aiohttp
import anyio
import httpx2
import openai

from runner.errors import Lost, ProviderError, Refused, Retryable, StopRun, Unreached
from runner.provider.answer import Answer, Made, request_id_of
from runner.provider.decode import Sink
from runner.provider.endpoint import Endpoint, Timeouts, is_loopback
from runner.provider.envelope import parse
from runner.provider.redact import Redaction
from runner.provider.translate import clean, error_of
from runner.provider.transport import Sdk, causes, never_left, pieces, reason, timed_out

MAX_ANSWER_BYTES = 512 << 20
"""A body longer than this is no image answer."""
MAX_DOCUMENT_BYTES = 32 << 20
"""A body longer than this describes no file and no batch, and no page of them."""

UNREADABLE = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, aiohttp.ClientError, OSError, ValueError)
"""What goes wrong while bytes of another are read, time-outs among it."""
BROKEN = (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError)
"""The same, of a body that breaks off or cannot be unpacked."""

_Error = TypeVar("_Error", bound=ProviderError)


class NoSuch(Refused):
    """The provider says, in the words of the API, that there is nothing of the name that was asked for."""


class Raising(Protocol):
    """Something of the caller's, and the error of its own that it has raised."""

    @property
    def raised(self) -> Exception | None:
        """None as long as it has raised nothing."""


class TooLong(ValueError):
    """A body that goes on and on."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(f"longer than {most_bytes} bytes")


class PassingSink:
    """The sink of a caller, whose own errors are told apart from those of an answer."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.raised: Exception | None = None

    def write(self, data: bytes, /) -> object:
        """As the sink has it."""
        try:
            return self.sink.write(data)
        except Exception as error:
            self.raised = error
            raise


@dataclass(frozen=True, slots=True)
class Wire:
    """One provider endpoint, and how it is reached."""

    endpoint: Endpoint
    timeouts: Timeouts
    sdk: Sdk
    http: httpx2.AsyncClient
    redaction: Redaction

    async def document(
        self, call: AbstractAsyncContextManager[Any], *, about: str, answer: Answer | None = None
    ) -> dict[str, object]:
        """One answer of JSON; `call` is one of the SDK's streamed ones, `about` says what it is of.

        Raises:
            ProviderError: by the table, and NoSuch; Lost wherever the request may have done its work.
        """
        answer = answer or Answer()
        body = bytearray()
        try:
            async with AsyncExitStack() as stack:
                with anyio.fail_after(self.timeouts.first_byte_s) as scope:
                    answer.waits(scope, self.timeouts.first_byte_s)
                    response = await stack.enter_async_context(call)
                answer.http_status = response.status_code
                answer.request_id = request_id_of(response.headers)
                answer.waiting_for = "timeout_stall"
                with anyio.move_on_after(self.timeouts.total_s):
                    await self.receive(response.http_response, body.extend, most_bytes=MAX_DOCUMENT_BYTES)
                    return parse(body)
                answer.waiting_for = "timeout_total"
        except openai.APIStatusError as error:
            raise self.translated_of_one(error) from None
        except openai.OpenAIError as error:
            unsent = answer.unsent() if never_left(error) is None else None
            raise unsent or self.translated(error, "the model") from error
        except TimeoutError:
            pass
        except UNREADABLE as error:
            raise Lost(
                f"what the provider says of {about} cannot be read ({reason(error)})",
                code="bad_answer",
                http_status=answer.http_status,
                request_id=answer.request_id,
            ) from error
        raise answer.overdue(self.timeouts)

    async def receive(
        self, response: httpx2.Response, take: Callable[[bytes], object], *, most_bytes: int | None = None
    ) -> None:
        """Hand a body on, piece by piece; `most_bytes` of it, by default as many as an image answer may have.

        Raises:
            TimeoutError: nothing came for too long.
            TooLong: no answer is so long.
        """
        received, limit_bytes = 0, MAX_ANSWER_BYTES if most_bytes is None else most_bytes
        # To move the deadline with every piece would cost more than to decode it: it is moved when an eighth is gone.
        renewal_s = self.timeouts.stall_s / 8
        clock = asyncio.get_running_loop().time  # anyio's own, without finding out which loop this is
        with anyio.fail_after(self.timeouts.stall_s + renewal_s) as scope:
            async with aclosing(pieces(response)) as received_pieces:
                async for piece in received_pieces:
                    received += len(piece)
                    if received > limit_bytes:
                        raise TooLong(limit_bytes)
                    take(piece)
                    latest = clock() + self.timeouts.stall_s
                    if scope.deadline < latest:
                        scope.deadline = latest + renewal_s

    async def fetch(self, url: str, sink: Sink, answer: Answer) -> None:
        """Get an image that a gateway has put behind a URL: it is paid for, so it is not thrown away.

        Raises:
            Unusable: it cannot be had.
            Exception: whatever the sink raises, as it is.
        """
        try:
            loopback = self.is_on_this_machine(url)
            self.check_address(url)
            async with AsyncExitStack() as stack:
                with anyio.fail_after(self.timeouts.first_byte_s):
                    response = await stack.enter_async_context(
                        self.http.stream("GET", url, follow_redirects=not loopback)
                    )
                if response.status_code != 200:
                    raise ValueError(f"HTTP {response.status_code}")
                await self.receive(response, sink.write)
        except UNREADABLE as error:
            if isinstance(sink, PassingSink) and error is sink.raised:
                raise
            raise answer.not_fetched(reason(error)) from error

    def is_on_this_machine(self, url: str) -> bool:
        """Whether an address is on this very machine, as the provider is."""
        own_host = urlsplit(self.endpoint.base_url).hostname or ""
        return is_loopback(urlsplit(url).hostname or "") and is_loopback(own_host)

    def check_address(self, url: str) -> None:
        """Whether an address that the provider names may be asked.

        Raises:
            ValueError: it may not.
        """
        scheme = urlsplit(url).scheme
        if scheme != "https" and not (scheme == "http" and self.is_on_this_machine(url)):
            raise ValueError("it is not an https URL")

    @contextmanager
    def keyless(self, *passing: Raising) -> Iterator[None]:
        """Take the key, and what could carry it, out of whatever the block raises.

        A gateway may repeat the key anywhere in its answer, and the errors of SDK and HTTP client hold the answer and
        the request: a chain of causes would show them in a traceback. Their words are in the message already. What
        nobody foresaw becomes an error of this request instead of ending the run. What those in `passing` have raised
        is the caller's own.
        """
        try:
            yield
        except ProviderError as error:
            clear = error
        except Exception as error:
            if any(error is each.raised for each in passing):
                raise
            clear = Lost(f"the answer could not be read ({reason(error)})", code="unexpected_answer")
        else:
            return
        raise self.without_key(clear)

    def without_key(self, error: _Error) -> _Error:
        """The same error without the key, and without a cause that holds it."""
        text, optional = self.redaction.text, self.redaction.optional
        error.message = text(error.message)
        error.args = (error.message,)
        error.code = text(error.code)
        error.hint = optional(error.hint)
        error.request_id = optional(error.request_id)
        error.__cause__ = error.__context__ = None
        return error

    def fit_to_keep(self, made: Made) -> Made:
        """The same answer, fit for a ledger."""
        told = made.envelope
        optional = self.redaction.optional
        envelope = replace(
            told,
            size=optional(told.size),
            quality=optional(told.quality),
            background=optional(told.background),
            output_format=optional(told.output_format),
            usage_json=optional(told.usage_json),
            url=optional(told.url),
            error=None,
        )
        return replace(made, envelope=envelope, request_id=optional(made.request_id))

    def translated(self, error: openai.OpenAIError, model: str) -> ProviderError:
        """What an error of the SDK stands for."""
        if isinstance(error, openai.APIStatusError):
            return error_of(
                error.status_code,
                error.body,
                error.response.headers,
                request_id=request_id_of(error.response.headers),
                model=model,
                now=dt.datetime.now(dt.UTC),
            )
        if isinstance(error, openai.APIConnectionError):
            cause = never_left(error)
            if cause is not None:
                return Unreached(
                    f"cannot reach {self.endpoint.base_url} ({reason(cause)})",
                    code="timeout_connect" if timed_out(cause) else "connection_failed",
                )
            innermost = reason(causes(error)[-1])
            return Lost(f"the connection broke before an answer came ({innermost})", code="connection_cut")
        if isinstance(error, openai.APIResponseValidationError):
            return Lost(clean(str(error)), code="bad_answer", http_status=error.status_code)
        return StopRun(clean(str(error)), code="sdk_error", hint="this is not an answer of the provider: see the log")

    def translated_of_one(self, error: openai.APIStatusError) -> ProviderError:
        """The same, of a question that names one thing: a 404 of the API's own says that there is no such thing.

        A 404 in any other words is that of a server that does not have the Batch API, or not there.
        """
        found = self.translated(error, "the model")
        message = error.body.get("message") if isinstance(error.body, dict) else None
        if error.status_code != 404 or type(found) is not StopRun or not isinstance(message, str):
            return found
        if not message.strip() or "invalid url" in message.lower():
            return found
        return NoSuch(found.message, code=found.code, http_status=404, request_id=found.request_id)


def harmless(error: ProviderError) -> ProviderError:
    """The error of a question that may be asked as often as one likes: what may have been heard may be asked again."""
    if not isinstance(error, Lost):
        return error
    return Retryable(error.message, code=error.code, http_status=error.http_status, request_id=error.request_id)
