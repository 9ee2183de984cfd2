"""A proxy in front of an S3 server that goes wrong where a test wants it to.

    with faulty(server.endpoint) as proxy:
        proxy.fail("slow_down", times=3)          # the next three PUTs of images are answered with 503
        environment = server.environment(proxy.endpoint)

Owns what can go wrong between a client and a bucket, in a thread of the test's process. Refuses to know S3 beyond the
words of one answer: all else is passed on.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import unquote, urlsplit

Kind = Literal[
    "slow_down",  # 503, and nothing is passed on
    "reset_request",  # the connection is reset in the middle of the body, and nothing is passed on
    "reset_answer",  # it is passed on, and the connection reset before the answer
    "wrong_checksum",  # the answer tells another checksum, and another ETag
    "damaged_upload",  # a byte of the body is another when it arrives
    "damaged_answer",  # a byte of the answer's body is another
    "cut_answer",  # the connection is reset in the middle of the answer's body
    "slow",  # the answer takes a while
]
_WRONG = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass(slots=True)
class Fault:
    """What goes wrong: with requests of this method whose path matches, `times` of them, or each with a `chance`."""

    kind: Kind
    method: str
    match: re.Pattern[str]
    times: int
    chance: random.Random | None = None
    share: float = 1.0


@dataclass(slots=True)
class Proxy:
    """A proxy that runs. `seen` has the method and the path of every request, `failed` those that went wrong."""

    endpoint: str
    seen: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[Kind, str]] = field(default_factory=list)
    slow_s: float = 0.3
    _faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(
        self,
        kind: Kind,
        *,
        times: int = 1,
        method: str = "PUT",
        match: str = "/images/",
        share: float = 1.0,
        seed: int | None = None,
    ) -> None:
        """Let the next requests of a kind go wrong; with `seed` only a share of them, by chance."""
        chance = None if seed is None else random.Random(seed)
        with self._lock:
            self._faults.append(Fault(kind, method, re.compile(match), times, chance, share))

    def heal(self) -> None:
        """From now on all goes well."""
        with self._lock:
            self._faults.clear()

    def count(self, method: str, match: str) -> int:
        """How many requests of a kind have come."""
        with self._lock:
            return sum(1 for each, path in self.seen if each == method and re.search(match, path))

    def choose(self, method: str, path: str) -> Kind | None:
        """What goes wrong with this request."""
        with self._lock:
            self.seen.append((method, path))
            for fault in self._faults:
                if fault.times > 0 and fault.method in (method, "ANY") and fault.match.search(path):
                    if fault.chance is not None and fault.chance.random() >= fault.share:
                        continue
                    fault.times -= 1
                    self.failed.append((fault.kind, path))
                    return fault.kind
        return None


@contextmanager
def faulty(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of the server at `upstream`, for the block."""
    where = urlsplit(upstream)
    assert where.hostname is not None
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
    _KNOWN[server.server_address[1]] = proxy, where.hostname, where.port or 80
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_KNOWN: dict[int, tuple[Proxy, str, int]] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_any(self) -> None:
        proxy, host, port = _KNOWN[self.server.server_address[1]]  # type: ignore[index]  # it is an Internet address
        kind = proxy.choose(self.command, unquote(self.path))
        length = int(self.headers.get("Content-Length") or 0)
        if kind == "reset_request":
            self.rfile.read(length // 2)
            self._reset()
            return
        body = self._body(length)
        if len(body) < length:
            self._reset()  # whoever sent it is no more: half a body is no object
            return
        if kind == "slow_down":
            self._answer(503, {"Content-Type": "application/xml"}, _BUSY)
            return
        if kind == "damaged_upload" and body:
            body = _damaged(body)
        connection = http.client.HTTPConnection(host, port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_THE_WAY}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            told = answer.read()
            given = {name: value for name, value in answer.getheaders() if name.lower() not in _OF_THE_WAY}
            if self.command == "HEAD":
                given["Content-Length"] = answer.getheader("Content-Length") or "0"
        finally:
            connection.close()
        if kind == "reset_answer":
            self._reset()
            return
        if kind == "slow":
            time.sleep(proxy.slow_s)
        if kind == "wrong_checksum":
            given = {name: value for name, value in given.items() if not name.lower().startswith("x-amz-checksum")}
            given |= {"x-amz-checksum-sha256": _WRONG, "ETag": f'"{"0" * 32}"'}
        if kind == "damaged_answer" and told:
            told = _damaged(told)
        if kind == "cut_answer":
            self._answer(answer.status, given, told[: len(told) // 2], length=len(told))
            self._reset()
            return
        self._answer(answer.status, given, told)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815 - the names that the library calls

    def _body(self, length: int) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        return self.rfile.read(length)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, length: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def _reset(self) -> None:
        """End the connection so that the other side hears of a reset, and of no end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # a client that was killed, or a connection that was reset here
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass


_OF_THE_WAY = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "date", "server"})


def _damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
