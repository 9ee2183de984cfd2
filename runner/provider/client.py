"""One image of one request: through the `openai` SDK, its body streamed into a sink.

Owns the SDK, the HTTP client under it, time-outs, and the line between "the request never left" and "it may have been
billed". Everything it raises is one of `runner.errors`.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import httpx2
import openai

from runner.errors import InputError, Lost, ProviderError, Retryable, StopRun, Unusable
from runner.provider.decode import AnswerDecoder, BadAnswer, Envelope, Sink
from runner.provider.translate import clean, date_of, error_of, heard
from runner.rules.pacing import Heard
from runner.tasks import API_DEFAULTS, ImageRequest

MAX_ANSWER_BYTES = 512 << 20
"""A body longer than this is no image answer."""
LEAST_KEY_CHARS = 12
"""What is shorter is a word that a simulator takes for a key, and no secret."""

_NEVER_LEFT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go. The key is kept out of every text that is made of this."""

    provider: str
    base_url: str
    api_key: str = field(repr=False)

    @classmethod
    def checked(cls, provider: str, base_url: str, api_key: str, *, insecure: bool) -> Endpoint:
        """An endpoint whose URL is fit to carry a key.

        Raises:
            InputError: not an http(s) URL, or plain HTTP to another machine without `insecure`.
        """
        try:
            parts = urlsplit(base_url)
            host, port_is_fine = parts.hostname, parts.port is None or parts.port > 0
        except ValueError:
            parts, host, port_is_fine = urlsplit(""), None, False
        if parts.scheme not in ("http", "https") or not host or not port_is_fine:
            shown = clean(base_url.rpartition("@")[2])  # what stands before an @ may be a password
            raise InputError(f"{shown!r} is not a base URL", hint="it looks like https://api.openai.com/v1")
        if parts.username or parts.password:
            raise InputError(f"the base URL of {host} carries a password", hint="give the key with --api-key-env NAME")
        if parts.query or parts.fragment:
            raise InputError(f"the base URL of {host} has a query or a fragment", hint="it ends in a path such as /v1")
        if parts.scheme == "http" and not _is_loopback(host) and not insecure:
            raise InputError(
                f"the base URL {clean(base_url)} is plain HTTP: key and prompts would cross the network in the clear",
                hint="use https://, or --insecure if that network is yours",
            )
        return cls(provider, base_url.rstrip("/"), api_key)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds: for a connection, the first byte, the next byte, and the whole answer."""

    connect_s: float = 10.0
    first_byte_s: float = 300.0
    stall_s: float = 60.0
    total_s: float = 600.0


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
    http = openai.DefaultAioHttpClient(
        timeout=httpx2.Timeout(None, connect=timeouts.connect_s),
        limits=httpx2.Limits(max_connections=connections + 4, max_keepalive_connections=connections + 4),
        follow_redirects=False,
    )
    async with openai.AsyncOpenAI(
        api_key=endpoint.api_key,
        base_url=endpoint.base_url,
        max_retries=0,
        http_client=http,
        timeout=httpx2.Timeout(None, connect=timeouts.connect_s),
    ) as sdk:
        if endpoint.provider != "openai":
            # The SDK reads them from the environment for every server; they are nobody else's business.
            sdk.organization = sdk.project = None
        yield Client(endpoint, timeouts, sdk, http)


class Client:
    """One provider endpoint; safe for many requests at a time."""

    def __init__(
        self, endpoint: Endpoint, timeouts: Timeouts, sdk: openai.AsyncOpenAI, http: httpx2.AsyncClient
    ) -> None:
        self.endpoint = endpoint
        self._timeouts = timeouts
        self._sdk = sdk
        self._http = http

    async def generate(
        self,
        request: ImageRequest,
        *,
        model: str,
        sink: Sink,
        on_headers: Callable[[Mapping[str, Heard]], None],
    ) -> Made:
        """Ask for one image and stream it into `sink`; one request, never repeated.

        Raises:
            ProviderError: Retryable (not billed), Lost (possibly billed), Unusable (billed, no image), Refused,
                StopRun.
            Exception: whatever `sink.write` raises, as it is.
        """
        words: dict[str, Any] = {
            name: value for name, default in API_DEFAULTS.items() if (value := getattr(request, name)) != default
        }
        answer = _Answer()
        with self._keyless(), suppress(TimeoutError):
            with anyio.move_on_after(self._timeouts.total_s):
                return await self._generate(request.prompt, model, words, sink, on_headers, answer)
            answer.waiting_for = "timeout_total"
        waited, what = answer.overdue(self._timeouts)
        raise Lost(
            f"{what} within {waited:g} s",
            code=answer.waiting_for,
            http_status=answer.http_status,
            request_id=answer.request_id,
        )

    async def model(self, name: str) -> ModelInfo:
        """What the provider says of a model; free of charge.

        Raises:
            ProviderError: it is not served, or there is no answer that can be read.
        """
        with self._keyless():
            return await self._model(name)

    async def _model(self, name: str) -> ModelInfo:
        try:
            with anyio.fail_after(self._timeouts.connect_s + 20):
                raw = await self._sdk.models.with_raw_response.retrieve(name)
                found = raw.parse()
        except TimeoutError:
            raise Retryable("no answer to a question about a model", code="timeout_first_byte") from None
        except openai.OpenAIError as error:
            raise self._translated(error, name) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise Retryable(f"the answer about a model cannot be read ({_reason(error)})", code="bad_answer") from error
        told = {field: getattr(found, field, None) for field in ("id", "owned_by", "shutdown_date")}
        words = {field: clean(value) for field, value in told.items() if isinstance(value, str)}
        if "id" not in words:
            raise Retryable("the answer about a model is not what the API documents", code="bad_answer")
        return ModelInfo(words["id"], words.get("owned_by"), words.get("shutdown_date"), date_of(raw.headers))

    async def _generate(
        self,
        prompt: str,
        model: str,
        words: dict[str, Any],
        sink: Sink,
        on_headers: Callable[[Mapping[str, Heard]], None],
        answer: _Answer,
    ) -> Made:
        decoder = AnswerDecoder(sink)
        async with AsyncExitStack() as stack:
            try:
                with anyio.fail_after(self._timeouts.first_byte_s):
                    response = await stack.enter_async_context(
                        self._sdk.images.with_streaming_response.generate(prompt=prompt, model=model, n=1, **words)
                    )
                answer.http_status = response.status_code
                answer.request_id = _request_id(response.headers)
                on_headers(heard(response.headers))
                answer.waiting_for = "timeout_stall"
                await self._feed(decoder, response.http_response)
            except BadAnswer as error:
                raise _explained(error, answer) from None
            except openai.APIStatusError as error:
                on_headers(heard(error.response.headers))
                raise self._translated(error, model) from None
            except openai.OpenAIError as error:
                raise self._translated(error, model) from error
            except (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise
                raise Lost(
                    f"the connection broke in the middle of the answer ({_reason(error)})",
                    code="connection_cut",
                    http_status=answer.http_status,
                    request_id=answer.request_id,
                ) from error
        answer.waiting_for = "timeout_total"
        try:
            envelope = decoder.finish()
        except BadAnswer as error:
            raise _explained(error, answer) from None
        if envelope.image_bytes == 0 and envelope.url is not None:
            await self._fetch(envelope.url, sink, envelope, answer)
        return Made(envelope, answer.http_status or 200, answer.request_id)

    async def _feed(self, decoder: AnswerDecoder, response: httpx2.Response) -> None:
        chunks = response.aiter_bytes()
        received = 0
        while True:
            with anyio.fail_after(self._timeouts.stall_s):
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
            received += len(chunk)
            if received > MAX_ANSWER_BYTES:
                raise Unusable(f"the answer is longer than {MAX_ANSWER_BYTES} bytes", code="answer_too_large")
            decoder.feed(chunk)

    async def _fetch(self, url: str, sink: Sink, envelope: Envelope, answer: _Answer) -> None:
        """Get an image that a gateway has put behind a URL: it is paid for, so it is not thrown away."""
        try:
            parts = urlsplit(url)
            own_host = urlsplit(self.endpoint.base_url).hostname or ""
            loopback = _is_loopback(parts.hostname or "") and _is_loopback(own_host)
            if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
                raise ValueError("it is not an https URL")
            async with self._http.stream("GET", url, follow_redirects=not loopback) as response:
                if response.status_code != 200:
                    raise ValueError(f"HTTP {response.status_code}")
                received = 0
                async for chunk in response.aiter_bytes():
                    received += len(chunk)
                    if received > MAX_ANSWER_BYTES:
                        raise ValueError(f"it is longer than {MAX_ANSWER_BYTES} bytes")
                    sink.write(chunk)
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, aiohttp.ClientError, ValueError) as error:
            raise Unusable(
                f"the answer names a URL instead of carrying the image, and that cannot be fetched ({_reason(error)})",
                code="url_not_fetched",
                http_status=answer.http_status,
                request_id=answer.request_id,
                usage=envelope.usage,
            ) from error

    @contextmanager
    def _keyless(self) -> Iterator[None]:
        """Take the key out of what the block raises: a gateway may repeat it in its errors."""
        try:
            yield
        except ProviderError as error:
            if len(self.endpoint.api_key) >= LEAST_KEY_CHARS:
                error.message = error.message.replace(self.endpoint.api_key, "[key]")
                error.args = (error.message,)
            raise

    def _translated(self, error: openai.OpenAIError, model: str) -> ProviderError:
        if isinstance(error, openai.APIStatusError):
            return error_of(
                error.status_code,
                error.body,
                error.response.headers,
                request_id=_request_id(error.response.headers),
                model=model,
                now=dt.datetime.now(dt.UTC),
            )
        if isinstance(error, openai.APIConnectionError):
            causes = _causes(error)
            never_left = next((cause for cause in causes if isinstance(cause, _NEVER_LEFT)), None)
            if never_left is not None:
                reason = _reason(never_left)
                return Retryable(f"cannot reach {self.endpoint.base_url} ({reason})", code="connection_failed")
            return Lost(f"the connection broke before an answer came ({_reason(causes[-1])})", code="connection_cut")
        if isinstance(error, openai.APIResponseValidationError):
            return Lost(clean(str(error)), code="bad_answer", http_status=error.status_code)
        return StopRun(clean(str(error)), code="sdk_error", hint="this is not an answer of the provider: see the log")


@dataclass(slots=True)
class _Answer:
    """What is known of an answer so far, for the error that may end it."""

    waiting_for: str = "timeout_first_byte"
    http_status: int | None = None
    request_id: str | None = None

    def overdue(self, timeouts: Timeouts) -> tuple[float, str]:
        """Which wait ended in a time-out: its length in seconds, and what did not come."""
        match self.waiting_for:
            case "timeout_first_byte":
                return timeouts.first_byte_s, "no answer"
            case "timeout_stall":
                return timeouts.stall_s, "the answer stalled: nothing more came"
            case _:
                return timeouts.total_s, "no whole answer"


def _explained(error: BadAnswer, answer: _Answer) -> ProviderError:
    """The error of a 200 without an image; some gateways put an error of the documented shape into one."""
    envelope = error.envelope
    if envelope is not None and envelope.error is not None and envelope.usage is None:
        inner = error_of(
            500, envelope.error, {}, request_id=answer.request_id, model="the model", now=dt.datetime.now(dt.UTC)
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


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _request_id(headers: Mapping[str, str]) -> str | None:
    value = headers.get("x-request-id")
    return clean(value)[:200] if value else None


def _causes(error: BaseException) -> list[BaseException]:
    """An error and its causes, the innermost last.

    All of them count: the HTTP client maps every lost connection to a time-out of connecting, and under the word for a
    connection that was never made lies the system's own.
    """
    found = [error]
    while (cause := found[-1].__cause__) is not None:
        found.append(cause)
    return found


def _reason(error: BaseException) -> str:
    return clean(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
