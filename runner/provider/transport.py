"""The SDK and the HTTP client under it: how they are opened, what they log, what an error may take, what was sent.

Owns the classes of the HTTP client and what they say about a connection. Refuses to know what an answer means.
"""

from __future__ import annotations

import logging
import ssl
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any

import aiohttp
import anyio
import httpx2
import openai
from aiohttp.connector import Connection

from runner.provider.redact import Redaction
from runner.provider.translate import clean

MAX_ERROR_BYTES = 65_536
"""No error needs a longer body; what comes after that is not read."""
ROOM_BYTES = 8 << 20
"""What all connections together may receive before it is worked on, as far as their least shares fit into it."""
MIN_PIECE_BYTES, MAX_PIECE_BYTES = 32 << 10, 128 << 10
"""The least and the most that one of them receives at a time."""

_BODY = "runner.body"
_LIBRARIES = {"openai", "httpx2", "httpcore2", "aiohttp"}

_NEVER_LEFT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    # A proxy that refused to lead through: the request itself was never written.
    aiohttp.ClientHttpProxyError,
)

_BROKEN = (
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    TimeoutError,
)
"""What says that a connection is at fault; an answer that is no HTTP is not among it."""


def http_client(*, connect_s: float, stall_s: float, connections: int) -> httpx2.AsyncClient:
    """A client with no time-out but for connecting; it follows no redirect, and keeps no connection.

    A kept connection that the server closes just then takes the next request with it, and nobody can tell whether that
    was billed; and what a server sends beyond an answer would spoil the next one. An image takes many seconds, so the
    handshake is nothing beside it.

    The SDK reads the body of an error to its end before it says anything. Here that end is reached after
    `MAX_ERROR_BYTES`, after `stall_s` seconds without a byte, or where the connection breaks: the status is known by
    then, and it is what counts.
    """
    return httpx2.AsyncClient(
        transport=_Transport(connect_s=connect_s, stall_s=stall_s, connections=connections),
        timeout=None,  # the client waits as long as `Timeouts` says, for each part of an answer by itself
        follow_redirects=False,
        trust_env=False,  # the transport finds the proxy
    )


class Sdk(openai.AsyncOpenAI):
    """The SDK, which works out the address of a request once, not for every image; as it is, should the SDK change."""

    @cached_property
    def _addresses(self) -> dict[str, httpx2.URL]:
        return {}

    def _prepare_url(self, url: str) -> httpx2.URL:
        if url not in self._addresses:
            self._addresses[url] = super()._prepare_url(url)
        return self._addresses[url]


class _Transport(httpx2.AsyncBaseTransport):
    """Sends the SDK's requests with aiohttp, and hands a body on in the pieces in which the system gives it.

    The SDK's own transport cuts every body into pieces of 16 KB, and maps every lost connection to a time-out of
    connecting. Here what has broken is told by aiohttp's own error, as the cause.
    """

    def __init__(self, *, connect_s: float, stall_s: float, connections: int) -> None:
        self._connect_s = connect_s
        self._stall_s = stall_s
        self._connections = connections
        self._open = 0
        self._opened: aiohttp.ClientSession | None = None
        self._proxy = lru_cache(_proxy)  # to look through the environment takes longer than to send

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx2.create_ssl_context()

    def _session(self) -> aiohttp.ClientSession:
        # Made by the first request: it belongs to the loop in which that runs.
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=_Connector(limit=self._connections + 4, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
            )
        return self._opened

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """As httpx has it."""
        self._open += 1
        try:
            with _mapped(request):
                answer = await self._session().request(
                    request.method,
                    str(request.url),
                    headers=request.headers.multi_items(),
                    data=await _content(request),
                    allow_redirects=False,
                    proxy=self._proxy(request.url.scheme, request.url.host),
                    # What is asked in the clear needs none, and to read the system's certificates takes a while.
                    ssl=self._tls if request.url.scheme == "https" else True,
                )
        except BaseException:
            self._open -= 1
            raise
        body = _Body(answer, request, self._closed)
        _receive_at_most(ROOM_BYTES // self._open, answer.connection)
        return httpx2.Response(
            answer.status,
            headers=answer.raw_headers,
            stream=_ErrorBody(body, self._stall_s) if answer.status >= 300 else body,
            request=request,
            extensions={_BODY: body},
        )

    def _closed(self) -> None:
        self._open -= 1

    async def aclose(self) -> None:
        """As httpx has it."""
        if self._opened is not None:
            await self._opened.close()


async def _content(request: httpx2.Request) -> bytes | AsyncGenerator[bytes, None] | None:
    """What a request says: in memory if it is there already, else as it is read."""
    stream = request.stream
    if isinstance(stream, httpx2.ByteStream) or not isinstance(stream, httpx2.AsyncByteStream):
        return await request.aread() or None

    async def read() -> AsyncGenerator[bytes, None]:
        async for piece in stream:
            yield piece

    return read()


class _Connector(aiohttp.TCPConnector):
    """Connections that receive little until an answer has begun: many may begin at one moment."""

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        """As aiohttp has it."""
        connection = await super().connect(*args, **kwargs)
        _receive_at_most(MIN_PIECE_BYTES, connection)
        return connection


def _receive_at_most(share_bytes: int, connection: Connection | None) -> None:
    """Let one connection receive only its share of `ROOM_BYTES` at a time.

    Whatever has arrived on all of them is read before any of it is worked on: the pieces of many add up.
    """
    transport: Any = connection.transport if connection else None
    if hasattr(transport, "max_size"):  # asyncio's word for the most that it receives at a time
        transport.max_size = min(MAX_PIECE_BYTES, max(MIN_PIECE_BYTES, share_bytes))


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for what is asked of a host, if any."""
    proxies = urllib.request.getproxies()
    if not proxies or urllib.request.proxy_bypass(host):
        return None
    proxy = proxies.get(scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


@contextmanager
def _mapped(request: httpx2.Request) -> Iterator[None]:
    """Turn aiohttp's errors into the one that the SDK passes on, with aiohttp's as its cause."""
    try:
        yield
    except _BROKEN as error:
        raise httpx2.NetworkError(str(error), request=request) from error


class _Body(httpx2.AsyncByteStream):
    """A body as it comes in."""

    def __init__(self, answer: aiohttp.ClientResponse, request: httpx2.Request, on_close: Callable[[], None]) -> None:
        self._answer = answer
        self._request = request
        self._on_close: Callable[[], None] | None = on_close

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        with _mapped(self._request):
            while piece := await self._answer.content.readany():
                yield piece

    async def aclose(self) -> None:
        """As httpx has it."""
        self._answer.close()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None


def pieces(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The bytes of a body as they come; decompressed, if the server has compressed them."""
    body = response.extensions.get(_BODY)
    if isinstance(body, _Body) and "content-encoding" not in response.headers:
        return aiter(body)  # without the layers that would copy each piece once more
    return response.aiter_bytes()


class _ErrorBody(httpx2.AsyncByteStream):
    """As much of a body as an error needs."""

    def __init__(self, stream: httpx2.AsyncByteStream, stall_s: float) -> None:
        self._stream = stream
        self._stall_s = stall_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = aiter(self._stream)
        room = MAX_ERROR_BYTES
        while room > 0:
            try:
                with anyio.fail_after(self._stall_s):
                    piece = await anext(pieces)
            except (StopAsyncIteration, TimeoutError, httpx2.HTTPError, aiohttp.ClientError, OSError):
                return
            yield piece[:room]
            room -= len(piece)

    async def aclose(self) -> None:
        """As httpx has it."""
        await self._stream.aclose()


class _KeylessRecords(logging.Filter):
    """Lets every record pass, without the key and without the errors that it was made of."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__()
        self._redaction = redaction

    def filter(self, record: logging.LogRecord) -> bool:
        """As logging has it."""
        record.msg, record.args = self._redaction.text(record.getMessage()), ()
        record.exc_info = record.exc_text = None
        return True


@contextmanager
def keyless_logs(redaction: Redaction) -> Iterator[None]:
    """For the block, what the libraries log has no key in it: with OPENAI_LOG=debug they repeat an answer's headers."""
    names = [name for name in tuple(logging.root.manager.loggerDict) if name.partition(".")[0] in _LIBRARIES]
    loggers, keyless = [logging.getLogger(name) for name in names], _KeylessRecords(redaction)
    for logger in loggers:
        logger.addFilter(keyless)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(keyless)


def never_left(error: BaseException) -> BaseException | None:
    """The cause that shows that the request was never sent; None where it may have been.

    All causes count: the SDK has one word for every connection that broke, and the client's own lies under it.
    """
    return next((cause for cause in causes(error) if isinstance(cause, _NEVER_LEFT)), None)


def timed_out(error: BaseException) -> bool:
    """Whether it was waiting that ended the making of a connection."""
    return any(isinstance(cause, TimeoutError) for cause in causes(error))


def causes(error: BaseException) -> list[BaseException]:
    """An error and its causes, the innermost last."""
    found = [error]
    while (cause := found[-1].__cause__) is not None:
        found.append(cause)
    return found


def reason(error: BaseException) -> str:
    """An error's class and words, fit for a message."""
    return clean(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
