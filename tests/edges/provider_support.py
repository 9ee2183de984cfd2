"""What the tests of the client share: one call and what came of it, and a server that notes what it is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from runner.errors import ProviderError, StoreError, Unusable
from runner.provider import Client, Endpoint, Timeouts, connect
from runner.rules.pacing import Heard
from runner.tasks import ImageRequest

MODEL = "gpt-image-1-mini"
KEY = "sk-quite-a-secret-0123456789"
ODD_KEY = "0123456789abcdef0123456789abcdef"
"""A key without the prefix by which keys are usually known."""
QUICK = Timeouts(connect_s=5.0, first_byte_s=5.0, stall_s=5.0, total_s=10.0)


class Sink:
    """Takes an image in memory; from `fails_at` bytes on it raises."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.data = b""
        self.fails_at = fails_at

    def write(self, data: bytes, /) -> None:
        self.data += data
        if self.fails_at is not None and len(self.data) > self.fails_at:
            raise StoreError("No space left on device")


@dataclass
class Outcome:
    """What one call of `generate` came to."""

    made: Any = None
    error: ProviderError | None = None
    image: bytes = b""
    heard: list[Mapping[str, Heard]] = field(default_factory=list)

    @property
    def usage_is_told(self) -> bool:
        if self.made is not None:
            usage = self.made.envelope.usage
        else:
            usage = self.error.usage if isinstance(self.error, Unusable) else None
        return usage is not None and usage.is_told


async def ask(
    base_url: str,
    prompt: str = "a lighthouse",
    *,
    timeouts: Timeouts = QUICK,
    key: str = KEY,
    **settings: Any,
) -> Outcome:
    """One call of `generate`, whatever comes of it."""
    async with connect(Endpoint.checked("openai", base_url, key, insecure=False), timeouts, connections=2) as client:
        return await ask_with(client, prompt, **settings)


async def ask_with(client: Client, prompt: str = "a lighthouse", **settings: Any) -> Outcome:
    outcome, sink = Outcome(), Sink()
    chosen = {"size": "1024x1024", "quality": "low", **settings}
    try:
        outcome.made = await client.generate(
            ImageRequest(prompt, MODEL, **chosen), model=MODEL, sink=sink, on_headers=outcome.heard.append
        )
    except ProviderError as error:
        outcome.error = error
    outcome.image = sink.data
    return outcome


@dataclass
class Recorder:
    """A server on loopback that notes every request, and answers each with the same bytes (or not at all)."""

    base_url: str = ""
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def json(self) -> Any:
        (body,) = self.bodies
        return json.loads(body)


@asynccontextmanager
async def recording(*pieces: bytes | float, close: bool = False) -> AsyncIterator[Recorder]:
    """`pieces` are the answer: bytes are sent, numbers are seconds to wait.

    With `close` a connection ends after its answer.
    """
    seen = Recorder()
    handlers: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        seen.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
                body = await reader.readexactly(int(lengths[0].split(":")[1]) if lengths else 0)
                seen.heads.append(head)
                seen.bodies.append(body)
                for piece in pieces:
                    if isinstance(piece, bytes):
                        writer.write(piece)
                        await writer.drain()
                    else:
                        await asyncio.sleep(piece)
                if close:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        seen.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield seen
    finally:
        server.close()
        for handler in handlers:
            if handler is not None:
                handler.cancel()
        await asyncio.gather(*(handler for handler in handlers if handler is not None), return_exceptions=True)


def answer(body: bytes, status: str = "200 OK", content_type: str = "application/json", **headers: str) -> bytes:
    """A whole HTTP answer."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


USAGE = b'{"input_tokens": 7, "output_tokens": 272}'
IMAGE = b'{"data": [{"b64_json": "aW1hZ2U="}], "usage": ' + USAGE + b"}"
"""The body of an answer whose image is the five bytes `image`."""
