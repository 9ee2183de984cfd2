"""The benchmark's Batch API: it takes a file of requests, and answers each of them with the same prebuilt image.

    python -m tests.bench.batch_server IMAGE_BYTES

Prints its base URL and serves until its stdin closes. A batch is under way until `POST /over`; then its output file has
a line for each request, in a random order. The file is never made: the images in it are sent from one file by the
kernel, so that the server is not what is measured. Owns nothing but cheapness; knows nothing of the runner.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import socketserver
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.bench.picture import png
from tests.bench.server import answer

ENDPOINT = "/v1/images/generations"
_CUSTOM_ID = re.compile(rb'"custom_id": ?"([^"]+)"')
_TAIL = b'}, "error": null}\n'


class BatchServer(ThreadingHTTPServer):
    """What there is: uploaded files, batches, and the one image."""

    daemon_threads = True

    def __init__(self, image_bytes: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        body = answer(png(image_bytes))
        # An unnamed file: `sendfile` needs one, and its pages stay in memory.
        self.body = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the server
        self.body.write(body)
        self.body.flush()
        self.body_bytes = len(body)
        self.uploads: dict[str, list[bytes]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.is_over = False
        self.images_sent = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked has gone, and that is all right; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def told(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch as it is now."""
        count = len(self.uploads[batch["input_file_id"]])
        counts = {"total": count, "completed": count if self.is_over else 0, "failed": 0}
        over = {"status": "completed", "output_file_id": f"out-{batch['id']}", "completed_at": int(time.time())}
        return {**batch, "request_counts": counts, **(over if self.is_over else {})}

    def heads(self, batch_id: str) -> list[bytes]:
        """What stands before the body of each line, the lines in a random order."""
        ids = list(self.uploads[self.batches[batch_id]["input_file_id"]])
        random.Random(1).shuffle(ids)
        form = (
            b'{"id": "batch_req_%012d", "custom_id": "%s", "response": '
            b'{"status_code": 200, "request_id": "req_%012d", "body": '
        )
        return [form % (number, custom_id, number) for number, custom_id in enumerate(ids)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BatchServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        """A batch, the batches, the content of an output file, or what came in."""
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts == ["stats"]:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            requests = sum(map(len, self.server.uploads.values()))
            self._tell(
                {
                    "requests": requests,
                    "images_sent": self.server.images_sent,
                    "cpu_s": usage.ru_utime + usage.ru_stime,
                }
            )
        elif parts[1:] == ["batches"]:
            batches = [self.server.told(batch) for batch in reversed(self.server.batches.values())]
            self._tell({"object": "list", "data": batches, "has_more": False})
        elif parts[1:2] == ["batches"]:
            self._tell(self.server.told(self.server.batches[parts[2]]))
        elif parts[1:2] == ["files"] and parts[-1] == "content":
            self._send_lines(self.server.heads(parts[2].removeprefix("out-")))
        else:
            self._tell({"object": "list", "data": [], "has_more": False})

    def do_POST(self) -> None:
        """A file, a batch, or the word that all batches are over."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/over":
            self.server.is_over = True
            self._tell({})
        elif self.path == "/v1/files":
            file_id = f"file-{len(self.server.uploads) + 1}"
            self.server.uploads[file_id] = _CUSTOM_ID.findall(body)
            told = {"object": "file", "bytes": len(body), "created_at": int(time.time()), "filename": "x.jsonl"}
            self._tell({"id": file_id, **told, "purpose": "batch", "status": "processed"})
        else:
            given = json.loads(body)
            now = int(time.time())
            batch = {
                "id": f"batch_{len(self.server.batches) + 1}",
                "object": "batch",
                "endpoint": ENDPOINT,
                "input_file_id": given["input_file_id"],
                "completion_window": "24h",
                "status": "in_progress",
                "created_at": now,
                "expires_at": now + 86_400,
                "metadata": given.get("metadata"),
            }
            self.server.batches[batch["id"]] = batch
            self._tell(self.server.told(batch))

    def _tell(self, document: object) -> None:
        body = json.dumps(document).encode()
        self._begin("application/json", len(body))
        self.wfile.write(body)

    def _begin(self, kind: str, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send_lines(self, heads: list[bytes]) -> None:
        size, descriptor = self.server.body_bytes, self.server.body.fileno()
        self._begin("application/octet-stream", sum(map(len, heads)) + len(heads) * (size + len(_TAIL)))
        self.wfile.flush()
        before = b""
        for head in heads:
            self.connection.sendall(before + head)
            sent = 0
            while sent < size:
                sent += os.sendfile(self.connection.fileno(), descriptor, sent, size - sent)
            self.server.images_sent += 1
            before = _TAIL
        self.connection.sendall(before)


def main() -> None:
    """The command line."""
    socketserver.TCPServer.request_queue_size = 64
    with BatchServer(int(sys.argv[1])) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
