"""One image of one request: through the `openai` SDK, its body streamed into a sink.

Owns the SDK, time-outs, and the line between "the request never left" and "it may have been billed". Everything it
raises is one of `runner.errors`, and nothing that it raises or returns has the key in it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import httpx2
import openai

from runner.errors import Lost, ProviderError, Retryable, StopRun, Unusable
from runner.provider.answer import Answer, explained, request_id_of
from runner.provider.decode import AnswerDecoder, BadAnswer, Envelope, Sink
from runner.provider.endpoint import Endpoint, Timeouts, is_loopback
from runner.provider.redact import Redaction
from runner.provider.translate import clean, date_of, error_of, heard
from runner.provider.transport import Sdk, causes, http_client, keyless_logs, never_left, pieces, reason, timed_out
from runner.provider.upload import Upload, Uploads
from runner.rules.pacing import Heard
from runner.tasks import API_DEFAULTS, ImageRequest

MAX_ANSWER_BYTES = 512 << 20
"""A body longer than this is no image answer."""

_Call = Callable[..., Any]
_UNREADABLE = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, aiohttp.ClientError, OSError, ValueError)
"""What goes wrong while bytes of another are read, time-outs among it."""


class _TooLong(ValueError):
    """A body that goes on and on."""

    def __str__(self) -> str:
        return f"longer than {MAX_ANSWER_BYTES} bytes"


@dataclass(frozen=True, slots=True)
class Made:
    """An answer whose image has gone to the sink, whole as far as the JSON can tell."""

    envelope: Envelope
    http_status: int
    request_id: str | None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the provider says of a model: `shutdown_date` as ISO text, `server_time` (aware) from its Date header."""

    id: str
    owned_by: str | None
    shutdown_date: str | None
    server_time: dt.datetime | None


@asynccontextmanager
async def connect(endpoint: Endpoint, timeouts: Timeouts, *, connections: int) -> AsyncIterator[Client]:
    """A client for the block, with room for `connections` requests at a time."""
    http = http_client(connect_s=timeouts.connect_s, stall_s=timeouts.stall_s, connections=connections)
    redaction = Redaction(endpoint.api_key, public=endpoint.provider)
    with keyless_logs(redaction):
        async with Sdk(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            max_retries=0,
            http_client=http,
            timeout=None,
        ) as sdk:
            if endpoint.provider != "openai":
                # The SDK reads them from the environment for every server; they are nobody else's business.
                sdk.organization = sdk.project = None
            yield Client(endpoint, timeouts, sdk, http, redaction)


class Client:
    """One provider endpoint; safe for many requests at a time."""

    def __init__(
        self,
        endpoint: Endpoint,
        timeouts: Timeouts,
        sdk: openai.AsyncOpenAI,
        http: httpx2.AsyncClient,
        redaction: Redaction,
    ) -> None:
        self.endpoint = endpoint
        self._timeouts = timeouts
        self._sdk = sdk
        # Named here: the SDK reads its modules when they are first named, and the first request is to leave in time.
        self._images = sdk.images.with_streaming_response
        self._http = http
        self._redaction = redaction

    async def generate(
        self,
        request: ImageRequest,
        *,
        model: str,
        sink: Sink,
        on_headers: Callable[[Mapping[str, Heard]], None],
        uploads: Sequence[Upload] = (),
    ) -> Made:
        """Ask for one image and stream it into `sink`; one request, never repeated.

        `uploads` are the files of an edit's images in their order, and that of its mask after them.

        Raises:
            ProviderError: Retryable (not billed), Lost (possibly billed), Unusable (billed, no image), Refused,
                StopRun.
            Exception: whatever `sink.write` raises, as it is.
        """
        words: dict[str, Any] = {
            name: value for name, default in API_DEFAULTS.items() if (value := getattr(request, name)) != default
        }
        answer = Answer()
        outer = _PassingSink(sink)
        with self._keyless(outer):
            with suppress(TimeoutError):
                with anyio.move_on_after(self._timeouts.total_s), self._call(request, uploads, answer) as call:
                    made = await self._generate(call, model, words, outer, on_headers, answer)
                    return self._without_key(made)
                answer.waiting_for = "timeout_total"
            raise answer.overdue(self._timeouts)

    async def model(self, name: str) -> ModelInfo:
        """What the provider says of a model; free of charge.

        Raises:
            ProviderError: it is not served, or there is no answer that can be read.
        """
        with self._keyless(None):
            info = await self._model(name)
        text, optional = self._redaction.text, self._redaction.optional
        return replace(
            info,
            id=text(info.id),
            owned_by=optional(info.owned_by),
            shutdown_date=optional(info.shutdown_date),
        )

    async def _model(self, name: str) -> ModelInfo:
        try:
            with anyio.fail_after(self._timeouts.connect_s + 20):
                raw = await self._sdk.models.with_raw_response.retrieve(name)
                found = raw.parse()
        except TimeoutError:
            raise Retryable("no answer to a question about a model", code="timeout_first_byte") from None
        except openai.OpenAIError as error:
            raise self._translated(error, name) from error
        except _UNREADABLE as error:
            raise Retryable(f"the answer about a model cannot be read ({reason(error)})", code="bad_answer") from error
        told = {field: getattr(found, field, None) for field in ("id", "owned_by", "shutdown_date")}
        words = {field: clean(value) for field, value in told.items() if isinstance(value, str)}
        if "id" not in words:
            raise Retryable("the answer about a model is not what the API documents", code="bad_answer")
        return ModelInfo(words["id"], words.get("owned_by"), words.get("shutdown_date"), date_of(raw.headers))

    @contextmanager
    def _call(self, request: ImageRequest, files: Sequence[Upload], answer: Answer) -> Iterator[_Call]:
        """The SDK's method for a request, with what it starts from."""
        edit = request.edit
        if edit is None:
            yield partial(self._images.generate, prompt=request.prompt)
            return
        count = len(edit.images)
        mask = files[count] if edit.mask is not None else None
        uploads = answer.uploads = Uploads(files[:count], mask, answer.has_moved)
        words: dict[str, Any] = {"image": uploads.images, "prompt": request.prompt}
        if uploads.mask is not None:
            words["mask"] = uploads.mask
        if edit.fidelity is not None:
            words["input_fidelity"] = edit.fidelity
        with closing(uploads):
            yield partial(self._images.edit, **words)

    async def _generate(
        self,
        call: _Call,
        model: str,
        words: dict[str, Any],
        sink: Sink,
        on_headers: Callable[[Mapping[str, Heard]], None],
        answer: Answer,
    ) -> Made:
        decoder = AnswerDecoder(sink)
        async with AsyncExitStack() as stack:
            try:
                with anyio.fail_after(self._timeouts.first_byte_s) as scope:
                    # While files are being sent, the wait for the answer has not begun.
                    answer.waits(scope, self._timeouts.first_byte_s)
                    response = await stack.enter_async_context(call(model=model, n=1, **words))
                answer.http_status = response.status_code
                answer.request_id = request_id_of(response.headers)
                answer.headers = response.headers
                on_headers(heard(response.headers))
                answer.waiting_for = "timeout_stall"
                await self._receive(response.http_response, decoder.feed)
            except BadAnswer as error:
                raise explained(error, answer) from None
            except _TooLong as error:
                raise Unusable(f"the answer is {error}", code="answer_too_large") from None
            except openai.APIStatusError as error:
                on_headers(heard(error.response.headers))
                raise self._translated(error, model) from None
            except openai.OpenAIError as error:
                unsent = answer.unsent() if never_left(error) is None else None
                raise unsent or self._translated(error, model) from error
            except (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise
                raise Lost(
                    f"the connection broke in the middle of the answer ({reason(error)})",
                    code="connection_cut",
                    http_status=answer.http_status,
                    request_id=answer.request_id,
                ) from error
        answer.waiting_for = "timeout_total"
        try:
            envelope = decoder.finish()
        except BadAnswer as error:
            raise explained(error, answer) from None
        if envelope.image_bytes == 0 and envelope.url is not None:
            answer.usage = envelope.usage
            await self._fetch(envelope.url, sink, answer)
        return Made(envelope, answer.http_status or 200, answer.request_id)

    async def _receive(self, response: httpx2.Response, take: Callable[[bytes], object]) -> None:
        """Hand a body on, piece by piece.

        Raises:
            TimeoutError: nothing came for too long.
            _TooLong: no image is so long.
        """
        received = 0
        # To move the deadline with every piece would cost more than to decode it: it is moved when an eighth is gone.
        renewal_s = self._timeouts.stall_s / 8
        clock = asyncio.get_running_loop().time  # anyio's own, without finding out which loop this is
        with anyio.fail_after(self._timeouts.stall_s + renewal_s) as scope:
            async with aclosing(pieces(response)) as received_pieces:
                async for piece in received_pieces:
                    received += len(piece)
                    if received > MAX_ANSWER_BYTES:
                        raise _TooLong
                    take(piece)
                    latest = clock() + self._timeouts.stall_s
                    if scope.deadline < latest:
                        scope.deadline = latest + renewal_s

    async def _fetch(self, url: str, sink: Sink, answer: Answer) -> None:
        """Get an image that a gateway has put behind a URL: it is paid for, so it is not thrown away."""
        try:
            parts = urlsplit(url)
            own_host = urlsplit(self.endpoint.base_url).hostname or ""
            loopback = is_loopback(parts.hostname or "") and is_loopback(own_host)
            if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
                raise ValueError("it is not an https URL")
            async with AsyncExitStack() as stack:
                with anyio.fail_after(self._timeouts.first_byte_s):
                    response = await stack.enter_async_context(
                        self._http.stream("GET", url, follow_redirects=not loopback)
                    )
                if response.status_code != 200:
                    raise ValueError(f"HTTP {response.status_code}")
                await self._receive(response, sink.write)
        except _UNREADABLE as error:
            raise answer.not_fetched(reason(error)) from error

    @contextmanager
    def _keyless(self, sink: _PassingSink | None) -> Iterator[None]:
        """Take the key, and what could carry it, out of whatever the block raises.

        A gateway may repeat the key anywhere in its answer, and the errors of SDK and HTTP client hold the answer and
        the request: a chain of causes would show them in a traceback. Their words are in the message already. What
        nobody foresaw becomes an error of this request instead of ending the run.
        """
        try:
            yield
        except ProviderError as error:
            clear = error
        except Exception as error:
            if sink is not None and error is sink.raised:
                raise
            clear = Lost(f"the answer could not be read ({reason(error)})", code="unexpected_answer")
        else:
            return
        text = self._redaction.text
        clear.message = text(clear.message)
        clear.args = (clear.message,)
        clear.code = text(clear.code)
        clear.hint = self._redaction.optional(clear.hint)
        clear.request_id = self._redaction.optional(clear.request_id)
        clear.__cause__ = clear.__context__ = None
        raise clear

    def _without_key(self, made: Made) -> Made:
        """The same answer, fit for a ledger."""
        told = made.envelope
        optional = self._redaction.optional
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

    def _translated(self, error: openai.OpenAIError, model: str) -> ProviderError:
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
                return Retryable(
                    f"cannot reach {self.endpoint.base_url} ({reason(cause)})",
                    code="timeout_connect" if timed_out(cause) else "connection_failed",
                )
            innermost = reason(causes(error)[-1])
            return Lost(f"the connection broke before an answer came ({innermost})", code="connection_cut")
        if isinstance(error, openai.APIResponseValidationError):
            return Lost(clean(str(error)), code="bad_answer", http_status=error.status_code)
        return StopRun(clean(str(error)), code="sdk_error", hint="this is not an answer of the provider: see the log")


class _PassingSink:
    """The sink of a caller, whose own errors are told apart from those of an answer."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.raised: Exception | None = None

    def write(self, data: bytes, /) -> object:
        """As the sink has it."""
        try:
            return self._sink.write(data)
        except Exception as error:
            self.raised = error
            raise
