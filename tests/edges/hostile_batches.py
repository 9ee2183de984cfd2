"""A Batch API that repeats the key wherever an answer has room for a text, and otherwise does its work.

Owns what it says in which place. It takes any id for a file or a batch of its own, so that whatever a client makes of a
hostile id leads on. In a thread of the test's process.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.faults.support import USAGE, image_json

_CUSTOM_ID = re.compile(rb'"custom_id": ?"([^"]+)"')
_MOST_ID_CHARS = 200


class HostileBatches(ThreadingHTTPServer):
    """What it says (`told`, and `dressed` for the lines), and how its calls end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.begin("", ())

    @property
    def base_url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def begin(self, told: str, dressed: tuple[str, ...]) -> None:
        """As new; `told` stands in ids and in what is said of files and batches, `dressed` in lines."""
        self.told = told
        self.dressed = dressed
        self.status = "in_progress"
        self.refusals: dict[str, int] = {}
        """The HTTP status of a call by its name: `upload`, `create`, `retrieve`, `batches`, `files`, `content`, ..."""
        self.custom_ids: list[str] = []
        self.asked: list[str] = []

    def error(self, **more: object) -> dict[str, object]:
        """An error with the key in each of its fields."""
        told = self.told
        return {"message": f"The key {told} is bad.", "type": told, "param": told, "code": told, **more}

    def file(self) -> dict[str, object]:
        """An uploaded file."""
        told = self.told
        name = {"filename": f"{told}.jsonl", "purpose": told, "status": told, "status_details": told}
        return {
            "id": f"file-{told[:_MOST_ID_CHARS]}",
            "object": told,
            "bytes": 1,
            "created_at": int(time.time()),
        } | name

    def batch(self) -> dict[str, object]:
        """The one batch, as it is now."""
        told, ident = self.told, self.told[:_MOST_ID_CHARS]
        over = {"output_file_id": f"out-{ident}", "error_file_id": f"err-{ident}", "completed_at": int(time.time())}
        failed = {"errors": {"object": told, "data": [self.error(line=1), self.error(line=None)]}}
        return {
            "id": f"batch_{ident}",
            "object": told,
            "endpoint": told,
            "completion_window": told,
            "input_file_id": f"file-{ident}",
            "status": self.status,
            "created_at": int(time.time()),
            "expires_at": int(time.time()) + 86_400,
            "request_counts": {"total": len(self.custom_ids), "completed": 0, "failed": 0, told: told},
            "metadata": {told[:64]: told, "runner_job": told},
            told: told,
            **(over if self.status in ("completed", "expired", "cancelled") else {}),
            **(failed if self.status == "failed" else {}),
        }

    def lines(self) -> bytes:
        """The output file: each way to say something, in each dress, for one request after the other."""
        ids, written = iter(self.custom_ids), []
        for told in self.dressed:
            for way in WAYS:
                custom_id = next(ids, None)
                if custom_id is not None:
                    written.append(line(way, told, custom_id))
        written += [line("good", told, f"{told}-of-nobody") for told in self.dressed]
        return b"".join(each + b"\n" for each in written)


WAYS = (
    "good",
    "400",
    "500",
    "moderation",
    "page",
    "expired",
    "other error",
    "not JSON",
    "truncated",
    "no image",
    "for an image",
    "bad base64",
    "URL",
    "odd URL",
    "text for a body",
    "two names",
)


def line(way: str, told: str, custom_id: str) -> bytes:
    """One line of an output file that repeats `told`."""
    error = {"message": f"The key {told} is bad.", "type": told, "param": told, "code": told}
    usage = {**USAGE, "note": told, told: 1}
    sweet = {**json.loads(image_json()), "usage": usage, "size": told, "quality": told, "background": told}
    sweet["data"][0] |= {"revised_prompt": told, "url": told}
    bodies: dict[str, tuple[int, object]] = {
        "good": (200, sweet),
        "400": (400, {"error": error}),
        "500": (500, {"error": {**error, "code": None}}),
        "moderation": (400, {"error": {**error, "code": "moderation_blocked", "moderation_details": {told: told}}}),
        "page": (502, f"<title>{told}</title><p>{told}"),
        "no image": (200, {"data": [], "usage": usage, "error": error}),
        "for an image": (200, json.loads(image_json(image=told.encode()))),
        "bad base64": (200, {"data": [{"b64_json": f"{told}*"}], "usage": usage}),
        "URL": (200, {"data": [{"url": f"http://127.0.0.1:1/{told}"}], "usage": usage}),
        "odd URL": (200, {"data": [{"url": told}], "usage": usage}),
        "text for a body": (200, told),
    }
    document: dict[str, Any] = {"id": told, "custom_id": custom_id, told: told, "error": None}
    if way in bodies:
        status, body = bodies[way]
        document["response"] = {"status_code": status, "request_id": told, told: told, "body": body}
        return json.dumps(document).encode()
    if way == "expired":
        return json.dumps({**document, "response": None, "error": {**error, "code": "batch_expired"}}).encode()
    if way == "other error":
        return json.dumps({**document, "response": None, "error": error}).encode()
    whole = json.dumps({**document, "response": {"status_code": 200, "request_id": told, "body": sweet}})
    if way == "truncated":
        return whole[: whole.index("iVBOR") + 40].encode()
    if way == "two names":
        return (whole[:-1] + f', "custom_id": {json.dumps(told)}}}').encode()
    return f"{told} {whole}".replace("\n", " ").encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HostileBatches

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def _act(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        call = self._call()
        self.server.asked.append(call)
        refusal = self.server.refusals.get(call)
        if refusal is not None:
            self._send(refusal, json.dumps({"error": self.server.error()}).encode())
            return
        if call == "upload":
            self.server.custom_ids = [found.decode() for found in _CUSTOM_ID.findall(body)]
        elif call == "cancel":
            self.server.status = "cancelling"
        listed = {"object": "list", "has_more": False}
        answers: dict[str, object] = {
            "upload": self.server.file(),
            "files": {**listed, "data": [self.server.file()]},
            "batches": {**listed, "data": []},
            "delete": {"id": self.server.told, "deleted": True},
        }
        if call == "content":
            self._send(200, self.server.lines() if "out-" in self.path else b"")
        else:
            self._send(200, json.dumps(answers.get(call, self.server.batch())).encode())

    def do_GET(self) -> None:
        self._act()

    def do_POST(self) -> None:
        self._act()

    def do_DELETE(self) -> None:
        self._act()

    def _call(self) -> str:
        path = self.path.partition("?")[0]
        kind = path.split("/")[2]
        if path.endswith("/content"):
            return "content"
        if path.endswith("/cancel"):
            return "cancel"
        if self.command == "DELETE":
            return "delete"
        if self.command == "POST":
            return {"files": "upload", "batches": "create"}[kind]
        return kind if path.endswith(kind) else "retrieve"

    def _send(self, status: int, body: bytes) -> None:
        told = self.server.told.encode("ascii", "ignore").decode()
        self.send_response(status, told)
        for name in ("x-request-id", "x-served-by", "openai-organization"):
            self.send_header(name, told)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def hostile() -> Iterator[HostileBatches]:
    """Such a server, for the block."""
    with HostileBatches() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
