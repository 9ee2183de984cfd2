"""What the tests of notifying share: a web server that answers as it is told, summaries, and loaded manifests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from runner import catalog, manifest
from runner.engine.events import Summary

SUMMARY = Summary(
    job="spring",
    run_id=3,
    provider="openai",
    simulated=False,
    wanted=10,
    done=8,
    made=7,
    reused=1,
    planned=0,
    failed=2,
    refused=0,
    in_doubt=0,
    requests=9,
    cost_usd=0.05,
    in_doubt_usd=0.0,
    simulated_cost_usd=0.0,
    simulated_in_doubt_usd=0.0,
    cost_microusd=50_000,
    in_doubt_microusd=0,
    job_cost_usd=0.05,
    job_in_doubt_usd=0.0,
    elapsed_s=12.5,
    exit_code=0,
    reason="all that was wanted exists",
    images="output/spring/images",
    ledger="output/ledger.sqlite3",
)


def summary(**changes: Any) -> Summary:
    """A summary that differs in `changes`."""
    return replace(SUMMARY, **changes)


def loaded(notify: Mapping[str, object] | None, folder: Path) -> manifest.Manifest:
    """A manifest in `folder` with this `notify`."""
    data = {"name": "spring", "prompts": ["A cat"], **({} if notify is None else {"notify": notify})}
    return manifest.loads(json.dumps(data), source="job.yaml", base_dir=folder, catalog=catalog.load())


@dataclass
class Hook:
    """A server that takes what is posted. `answers` are its statuses in turn, the last for ever; with headers."""

    answers: Sequence[tuple[int, Mapping[str, str]]] = ((200, {}),)
    silent_s: float = 0.0
    """How long it keeps every request waiting."""
    drips: bool = False
    """Whether it sends its answer a letter at a time, and never all of it."""
    port: int = 0
    posted: list[Any] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens, with a path that is a secret."""
        return f"http://127.0.0.1:{self.port}/services/T0/s3cr3t-p4th"


@contextmanager
def hooked(
    *statuses: int | tuple[int, Mapping[str, str]], silent_s: float = 0.0, drips: bool = False
) -> Iterator[Hook]:
    """A running server."""
    answers = [one if isinstance(one, tuple) else (one, {}) for one in statuses or (200,)]
    hook = Hook(answers, silent_s, drips)
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.posted.append(json.loads(body))
            hook.headers.append(dict(self.headers))
            hook.paths.append(self.path)
            over.wait(hook.silent_s)
            while hook.drips and not over.wait(0.02):
                self.wfile.write(b"H")
            status, headers = hook.answers[min(len(hook.posted), len(hook.answers)) - 1]
            self.send_response(status, f"no {self.path}")
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who hangs up early is what is tested
    hook.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hook
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def gone(pid: int) -> bool:
    """Whether a process has ended; waits a while for it."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False
