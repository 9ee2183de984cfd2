"""The HTTP client under the SDK: how it is opened, what it logs, what an error may take, whether a request ever left.

Owns the classes of the HTTP client and what they say about a connection. Refuses to know what an answer means.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import anyio
import httpx2
import openai

from runner.provider.redact import Redaction
from runner.provider.translate import clean

MAX_ERROR_BYTES = 65_536
"""No error needs a longer body; what comes after that is not read."""

_LIBRARIES = {"openai", "httpx2", "httpcore2", "aiohttp"}

_NEVER_LEFT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    # A proxy that refused to lead through: the request itself was never written.
    aiohttp.ClientHttpProxyError,
)


def http_client(*, connect_s: float, stall_s: float, connections: int) -> httpx2.AsyncClient:
    """A client without time-outs of its own but for connecting; it follows no redirect, and keeps no connection.

    A kept connection that the server closes just then takes the next request with it, and nobody can tell whether that
    was billed; and what a server sends beyond an answer would spoil the next one. An image takes many seconds, so the
    handshake is nothing beside it.

    The SDK reads the body of an error to its end before it says anything. Here that end is reached after
    `MAX_ERROR_BYTES`, after `stall_s` seconds without a byte, or where the connection breaks: the status is known by
    then, and it is what counts.
    """

    async def bound(response: httpx2.Response) -> None:
        if response.status_code >= 300 and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _ErrorBody(response.stream, stall_s)

    return openai.DefaultAioHttpClient(
        timeout=httpx2.Timeout(None, connect=connect_s),
        limits=httpx2.Limits(max_connections=connections + 4, keepalive_expiry=0),
        follow_redirects=False,
        event_hooks={"response": [bound]},
    )


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

    All causes count: the HTTP client maps every lost connection to a time-out of connecting, and under the word for a
    connection that was never made lies the system's own.
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
