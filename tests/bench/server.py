"""The benchmark's Images API server: one prebuilt answer, sent from a file by the kernel.

    python -m tests.bench.server '{"image_bytes": 1500000, "p50_s": 0.2, "p95_s": 0.2}'

Prints its base URL, serves until its stdin closes, and tells at `GET /stats` what came in and when. Owns nothing but
cheapness and bookkeeping: it must not be what is measured, so an answer costs it one `sendfile` and no copy. Knows
nothing of the runner. (`runner simulate` is the server for everything but measuring.)
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import random
import re
import resource
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

from tests.bench.latency import Latency
from tests.bench.picture import png
from tests.bench.windows import KINDS, Window, admit

INPUT_TOKENS, OUTPUT_TOKENS = 14, 196
"""What one image of the benchmark's prompts takes: gpt-image-2, 1024x1024, low."""
_MODEL = "gpt-image-2"
_BACKLOG = 2048
_FIELDS_BYTES = 8192
"""The text fields of a form are shorter than this together."""
_PROMPT = re.compile(rb'name="prompt"\r\n\r\n(.*?)\r\n', re.DOTALL)
_MORE = getattr(socket, "MSG_MORE", 0)
"""Where there is none, the head is a packet of its own."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server is like. Times in seconds, limits per minute."""

    image_bytes: int = 1_500_000
    p50_s: float = 0.0
    p95_s: float = 0.0
    seed: int = 1
    images_per_minute: float | None = None
    tokens_per_minute: float | None = None
    window_s: float = 60.0
    window: str = "sliding"
    """How limits are enforced: `sliding`, `fixed` or `bucket`."""
    advice: str = "none"
    """What a 429 says beside its message: `none`, `retry-after`, or `all` (retry-after-ms and x-ratelimit too)."""


@dataclass(slots=True)
class Stats:
    """What has come in. Times are of the machine's monotonic clock, in seconds."""

    first_arrival: float | None = None
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    in_flight: int = 0
    max_in_flight: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    """Of forms alone."""
    begun: dict[str, float] = field(default_factory=dict)
    """When each prompt first arrived, let through or not."""
    made: Counter[str] = field(default_factory=Counter)
    """How many images of each prompt have left, whole."""

    def told(self) -> dict[str, object]:
        """What `GET /stats` answers."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "first_arrival": self.first_arrival,
            "accepted": self.accepted,
            "refused": self.refused,
            "max_in_flight": self.max_in_flight,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "last_begun": max(self.begun.values(), default=None),
            "prompts": len(self.begun),
            "prompts_made": len(self.made),
            "made_twice": sum(count - 1 for count in self.made.values()),
            "cpu_s": usage.ru_utime + usage.ru_stime,
        }


def answer(image: bytes) -> bytes:
    """The whole body of a 200, its keys in the order of the API."""
    head = {"created": 1_790_000_000, "background": "opaque"}
    usage = {
        "input_tokens": INPUT_TOKENS,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": INPUT_TOKENS},
        "output_tokens": OUTPUT_TOKENS,
        "output_tokens_details": {"image_tokens": OUTPUT_TOKENS, "text_tokens": 0},
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }
    tail = {"output_format": "png", "quality": "low", "size": "1024x1024", "usage": usage}
    data = b'"data":[{"b64_json":"' + base64.b64encode(image) + b'"}]'
    return json.dumps(head)[:-1].encode() + b"," + data + b"," + json.dumps(tail)[1:].encode()


class Server:
    """Listens, lets through or refuses, waits, sends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._latency = Latency(settings.p50_s, settings.p95_s)
        self._dice = random.Random(settings.seed)
        kind = KINDS[settings.window]
        self._gates: list[tuple[str, float, Window, float]] = []
        for name, limit, cost in (
            ("input-images", settings.images_per_minute, 1.0),
            ("tokens", settings.tokens_per_minute, float(INPUT_TOKENS + OUTPUT_TOKENS)),
        ):
            if limit is not None:
                self._gates.append((name, limit, kind(limit, settings.window_s), cost))
        body = answer(png(settings.image_bytes))
        self._size = len(body)
        # An unnamed file: `sendfile` needs one, and its pages stay in memory.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the server
        self._file.write(body)
        self._file.flush()
        self._head = _head(200, self._size, "x-request-id: req_bench\r\n")
        self.stats = Stats()

    async def serve(self) -> None:
        """Listen on a free port, print the base URL, serve until stdin closes."""
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        listener.setblocking(False)
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        ended = asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), ended.set)
        accepting = loop.create_task(self._accept(listener))
        await ended.wait()
        accepting.cancel()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(self._converse(connection))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _converse(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        buffer = b""
        try:
            while True:
                while (end := buffer.find(b"\r\n\r\n")) < 0:
                    more = await loop.sock_recv(connection, 65536)
                    if not more:
                        return
                    buffer += more
                head, buffer = buffer[:end].lower(), buffer[end + 4 :]
                length = (
                    int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]) if b"content-length:" in head else 0
                )
                form = b"multipart/form-data" in head
                while len(buffer) < (min(length, _FIELDS_BYTES) if form else length):
                    more = await loop.sock_recv(connection, 65536)
                    if not more:
                        return
                    buffer += more
                if form:
                    # Files are counted, and not kept: the fields come before them.
                    left, body, buffer = length - len(buffer), buffer, b""
                    while left > 0 and (more := await loop.sock_recv(connection, min(left, 1 << 20))):
                        left -= len(more)
                    self.stats.bytes_received += length - left
                    if left:
                        return
                    await self._image(connection, _PROMPT.findall(body)[0].decode())
                    continue
                body, buffer = buffer[:length], buffer[length:]
                if head.startswith(b"get"):
                    told = json.dumps(self.stats.told()).encode()
                    await loop.sock_sendall(connection, _head(200, len(told)) + told)
                else:
                    await self._image(connection, str(json.loads(body)["prompt"]))
                if b"connection: close" in head:
                    return
        except OSError:
            return  # who asked has gone
        finally:
            connection.close()

    async def _image(self, connection: socket.socket, prompt: str) -> None:
        loop, stats = asyncio.get_running_loop(), self.stats
        now = time.monotonic()
        stats.first_arrival = stats.first_arrival or now
        stats.begun.setdefault(prompt, now)
        wait_s, gate = admit([(window, cost) for _, _, window, cost in self._gates], now)
        if wait_s > 0:
            stats.refused.append(now)
            await loop.sock_sendall(connection, self._refusal(gate, wait_s))
            return
        stats.accepted.append(now)
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
        try:
            await asyncio.sleep(self._latency.draw(self._dice))
            connection.send(self._head, _MORE)
            await self._send_file(connection)
        finally:
            stats.in_flight -= 1
        stats.bytes_sent += self._size
        stats.made[prompt] += 1

    async def _send_file(self, connection: socket.socket) -> None:
        loop, sent = asyncio.get_running_loop(), 0
        descriptor = self._file.fileno()
        while sent < self._size:
            try:
                sent += os.sendfile(connection.fileno(), descriptor, sent, self._size - sent)
            except BlockingIOError:
                room = asyncio.Event()
                loop.add_writer(connection, room.set)
                try:
                    await room.wait()
                finally:
                    loop.remove_writer(connection)

    def _refusal(self, index: int, wait_s: float) -> bytes:
        """A 429 as the API documents it."""
        name, per_minute, _, cost = self._gates[index]
        message = (
            f"Rate limit reached for {_MODEL} in organization org-bench on {name} per min: Limit {per_minute:g}, "
            f"Used {per_minute:g}, Requested {cost:g}. Please try again in {math.ceil(wait_s * 1000)}ms."
        )
        error = {"message": message, "type": name, "param": None, "code": "rate_limit_exceeded"}
        body = json.dumps({"error": error}).encode()
        headers = ""
        if self._settings.advice != "none":
            headers = f"retry-after: {math.ceil(wait_s)}\r\n"
        if self._settings.advice == "all":
            headers += (
                f"retry-after-ms: {math.ceil(wait_s * 1000)}\r\nx-ratelimit-limit-{name}: {per_minute:g}\r\n"
                f"x-ratelimit-remaining-{name}: 0\r\nx-ratelimit-reset-{name}: {math.ceil(wait_s * 1000)}ms\r\n"
            )
        return _head(429, len(body), headers) + body


def _head(status: int, length: int, more: str = "") -> bytes:
    reason = "OK" if status == 200 else "Too Many Requests"
    return (
        f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{more}\r\n"
    ).encode()


def as_argument(settings: Settings) -> str:
    """Settings as the command line takes them."""
    return json.dumps(asdict(settings))


def main() -> None:
    """The command line."""
    asyncio.run(Server(Settings(**json.loads(sys.argv[1]))).serve())


if __name__ == "__main__":
    main()
