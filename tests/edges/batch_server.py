"""A server on loopback for the tests of the Batch API's client: it notes what it is asked, and answers as told."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from runner.errors import ProviderError
from runner.provider import Endpoint, Line, Timeouts, connect
from runner.provider.batches import Batches
from tests.edges.provider_support import KEY, QUICK, Sink

USAGE = {"input_tokens": 7, "output_tokens": 272}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Reply = bytes | Sequence[bytes | float]
"""What is sent before the connection ends; numbers are seconds to wait."""
Handle = Callable[[Asked], Reply]


@dataclass
class Served:
    """The address of a server, and what it was asked."""

    base_url: str = ""
    asked: list[Asked] = field(default_factory=list)


@asynccontextmanager
async def serving(
    handle: Handle, *, most_body_bytes: int | None = None, forgetful: bool = False, pauses: int = 0
) -> AsyncIterator[Served]:
    """With `most_body_bytes` no more of a request's body than that is read before the answer.

    A forgetful server reads a body to its end, and keeps nothing of it; on the way it pauses so often, for 0.3 s.
    """
    served = Served()
    handlers: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = lines[0].split(" ")
                headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines[1:] if line)}
                length = int(headers.get("content-length", "0"))
                for pause in range(pauses + 1 if forgetful else 0):
                    left = length // (pauses + 1 - pause)
                    length -= left
                    while left > 0:
                        left -= len(await reader.readexactly(min(left, 65536)))
                    await asyncio.sleep(0.3 if length else 0)
                body = await reader.readexactly(length if most_body_bytes is None else min(length, most_body_bytes))
                parts = urlsplit(target)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                asked = Asked(method, parts.path, query, headers, body)
                served.asked.append(asked)
                reply = handle(asked)
                for piece in [reply] if isinstance(reply, bytes) else reply:
                    if isinstance(piece, bytes):
                        writer.write(piece)
                        await writer.drain()
                    else:
                        await asyncio.sleep(piece)
            finally:
                writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        served.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield served
    finally:
        server.close()
        for handler in handlers:
            if handler is not None:
                handler.cancel()
        await asyncio.gather(*(handler for handler in handlers if handler is not None), return_exceptions=True)


@asynccontextmanager
async def client_of(base_url: str, *, timeouts: Timeouts = QUICK, key: str = KEY) -> AsyncIterator[Batches]:
    """The client under test."""
    async with connect(Endpoint.checked("openai", base_url, key, insecure=False), timeouts, connections=2) as client:
        yield client.batches


def http(body: bytes, status: str = "200 OK", content_type: str = "application/json", **headers: str) -> bytes:
    """A whole HTTP answer."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def told(document: object, status: str = "200 OK", **headers: str) -> bytes:
    """An answer of JSON."""
    return http(json.dumps(document).encode(), status, **headers)


def refusal(status: int, code: str | None = None, message: str = "no", **headers: str) -> bytes:
    """An error as the API documents it."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return told({"error": error}, f"{status} No", **headers)


def image_line(custom_id: str, image: bytes) -> bytes:
    """A line of an output file."""
    body = {"created": 1, "data": [{"b64_json": base64.b64encode(image).decode()}], "usage": USAGE}
    response = {"status_code": 200, "request_id": f"req_{custom_id}", "body": body}
    return json.dumps({"id": "x", "custom_id": custom_id, "response": response, "error": None}).encode() + b"\n"


@dataclass
class Fetched:
    """What came of reading a file: the lines, their images by custom_id, and what ended it."""

    lines: list[Line] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    asked_for: list[str | None] = field(default_factory=list)
    error: ProviderError | None = None

    @property
    def names(self) -> list[str | None]:
        return [line.custom_id for line in self.lines]


async def fetch(batches: Batches, *, start_bytes: int = 0, unwanted: Sequence[str] = ()) -> Fetched:
    """All lines of a file, whatever comes of it."""
    fetched = Fetched()

    def open_sink(custom_id: str | None) -> Sink | None:
        fetched.asked_for.append(custom_id)
        return None if custom_id in unwanted else Sink()

    try:
        async for line in batches.lines("file-out", start_bytes=start_bytes, open_sink=open_sink):
            fetched.lines.append(line)
            if line.made is not None and isinstance(line.sink, Sink):
                fetched.images[str(line.custom_id)] = line.sink.data
    except ProviderError as error:
        fetched.error = error
    return fetched
