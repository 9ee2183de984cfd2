"""What must become of an answer whose small image would be gigapixels, or gigabytes, for whoever opens it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.edges.simulator_support import running
from tests.engine.command_support import KEY_VARIABLE, Desk
from tests.rules.test_image_bombs import BOMBS

USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 0},
    "output_tokens": 196,
    "total_tokens": 206,
}


class Bomber(BaseHTTPRequestHandler):
    """Answers each request with the image that its prompt names."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        image = base64.b64encode(BOMBS[asked["prompt"]]()).decode()
        body = json.dumps({"created": 1, "data": [{"b64_json": image}], "usage": USAGE}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said."""


@pytest.fixture
def base_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Bomber) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    with running() as peer:
        yield Desk(tmp_path, peer, monkeypatch, capsys)


def test_a_bomb_is_an_unusable_answer_and_leaves_no_file(desk: Desk, base_url: str) -> None:
    """Each kind, through real HTTP: its bill is on record, its bytes are not kept, and the run goes on."""
    job = desk.manifest("job", list(BOMBS))
    said = desk.call("run", job, "--base-url", base_url, "--api-key-env", KEY_VARIABLE, "--json")
    assert said.code == 4, said.err
    assert said.summary["made"] == 0
    assert said.summary["failed"] == len(BOMBS)
    failures = [entry for entry in said.entries if entry["type"] == "attempt_failed"]
    assert {entry["code"] for entry in failures} == {"image_too_large"}
    assert len(failures) == len(BOMBS)
    # 196 tokens at $30 and 10 at $5 a million.
    assert said.summary["cost_microusd"] == len(BOMBS) * 5930
    assert said.summary["in_doubt_microusd"] == 0
    for folder in ("images", ".partial"):
        assert list((desk.folder / "output/job" / folder).iterdir()) == []
