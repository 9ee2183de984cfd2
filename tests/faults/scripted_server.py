"""A server that plays scripted bytes: what no Images API would ever send, and what some gateway does.

Run as a process of its own: it says its base URL on stdout and ends with its stdin. `POST /control` takes
`{"scripts": {WHAT: [SCRIPT, ...]}}`, where WHAT is a prompt or the path of a GET. A request takes the next script of
its WHAT; the last one is played again and again. `GET /seen` gives the requests and the bill.

A script is `{"steps": [STEP, ...], "billed_microusd": N or null}`; a step is `{"send": BASE64}`, `{"wait": SECONDS}`,
`"close"`, `"reset"` or `"hang"`. In what is sent, `REQUEST-ID` becomes an id of the same length, and `BASE-URL` the
server's address.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
from typing import Any

ID_PLACE = b"REQUEST-ID"
URL_PLACE = b"BASE-URL"


class Server:
    """Scripts, what was asked, and what it cost."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.listener = socket.create_server((host, 0), backlog=256)
        self.address = f"http://{host}:{self.listener.getsockname()[1]}"
        self.lock = threading.Lock()
        self.scripts: dict[str, list[Any]] = {}
        self.requests: list[str] = []
        self.heads: list[str] = []
        self.entries: list[dict[str, Any]] = []

    def serve(self) -> None:
        """Accept connections for ever, each in a thread."""
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.converse, args=(connection,), daemon=True).start()

    def converse(self, connection: socket.socket) -> None:
        """One request after the other, until one of the two sides ends it."""
        buffer = b""
        with connection, contextlib.suppress(OSError):
            while True:
                while b"\r\n\r\n" not in buffer:
                    more = connection.recv(65_536)
                    if not more:
                        return
                    buffer += more
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                length = int(lengths[0].split(b":")[1]) if lengths else 0
                while len(buffer) < length:
                    buffer += connection.recv(65_536)
                body, buffer = buffer[:length], buffer[length:]
                if not self.answer(connection, head.decode("latin-1"), body):
                    return

    def answer(self, connection: socket.socket, head: str, body: bytes) -> bool:
        """Answer one request; whether another may follow on this connection."""
        method, path, _ = head.split(" ", 2)
        if path == "/control":
            with self.lock:
                self.scripts = json.loads(body)["scripts"]
                self.requests, self.heads, self.entries = [], [], []
            return _tell(connection, {})
        if path == "/seen":
            with self.lock:
                return _tell(connection, {"requests": self.requests, "heads": self.heads, "entries": self.entries})
        what = json.loads(body)["prompt"] if method == "POST" else path
        with self.lock:
            self.heads.append(head)
            if method == "POST":
                self.requests.append(what)
            script, request_id = self._next(what), os.urandom(5).hex()
            if script["billed_microusd"] is not None:
                self.entries.append(
                    {
                        "request_id": request_id,
                        "prompt_sha256": hashlib.sha256(what.encode()).hexdigest(),
                        "cost_microusd": script["billed_microusd"],
                    }
                )
        return self._play(connection, script["steps"], request_id)

    def _next(self, what: str) -> Any:
        queue = self.scripts.get(what) or self.scripts["*"]
        return queue.pop(0) if len(queue) > 1 else queue[0]

    def _play(self, connection: socket.socket, steps: list[Any], request_id: str) -> bool:
        for step in steps:
            match step:
                case {"send": text}:
                    data = base64.b64decode(text).replace(ID_PLACE, request_id.encode())
                    connection.sendall(data.replace(URL_PLACE, self.address.encode()))
                case {"wait": seconds}:
                    time.sleep(seconds)
                case "close":
                    return False
                case "reset":
                    time.sleep(0.05)  # a moment for the peer to read what was sent
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return False
                case "hang":
                    while connection.recv(65_536):
                        pass
                    return False
                case _:
                    raise ValueError(f"no such step: {step!r}")
        return True


def _tell(connection: socket.socket, document: object) -> bool:
    data = json.dumps(document).encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return True


if __name__ == "__main__":
    server = Server()
    threading.Thread(target=server.serve, daemon=True).start()
    sys.stdout.write(f"{server.address}/v1\n")
    sys.stdout.flush()
    sys.stdin.read()
