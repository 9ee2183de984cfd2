"""What the tests of faults share: a job whose tasks meet them, and the ledger held against the other side's bill.

Nothing here takes the runner's word for what happened: the ledger is read with `sqlite3`, files are looked at on disk,
and what was asked and billed is what the server says.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import json
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from PIL import Image

from runner.tasks import NOT_SENT

MODEL = "gpt-image-2"
"""A model that no date brings to an end."""
USAGE = {"input_tokens": 10, "output_tokens": 196, "total_tokens": 206}
COST_MICROUSD = 10 * 5 + 196 * 30
"""What an answer with `USAGE` costs on `MODEL`."""
KEY_VARIABLE = "FAULT_TEST_KEY"
KEY = "sk-of-a-test-of-faults"
_SERVER = Path(__file__).with_name("scripted_server.py")


# -- the scripted server ------------------------------------------------------------------------


@cache
def picture(width: int = 1024, height: int = 1024) -> bytes:
    """A real PNG of this size, as small as it can be."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def image_json(usage: str | None = json.dumps(USAGE), *, image: bytes | None = None, more: str = "") -> bytes:
    """The body of a good answer; `usage` is JSON text, or something that claims to be, or None to leave it out."""
    encoded = base64.b64encode(picture() if image is None else image).decode()
    told = "" if usage is None else f', "usage": {usage}'
    return f'{{"created": 1790000000, "data": [{{"b64_json": "{encoded}"}}{more}]{told}}}'.encode()


def http_answer(
    body: bytes, status: str = "200 OK", headers: Mapping[str, str] | None = None, *, length: int | None = None
) -> bytes:
    """A whole HTTP answer with the server's request id; `length` is what Content-Length claims, if not the truth."""
    told = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body) if length is None else length),
        "x-request-id": "REQUEST-ID",
        **(headers or {}),
    }
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in told.items() if value != "")]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def error_json(code: str | None = None, kind: str | None = None, message: str = "No.") -> bytes:
    """The body of an error of the documented shape."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


@dataclass(frozen=True, slots=True)
class Script:
    """What the server does with one request: bytes are sent, numbers are seconds to wait, words end the connection."""

    steps: tuple[bytes | float | str, ...]
    billed_microusd: int | None = None

    def told(self) -> dict[str, Any]:
        """As the server takes it."""
        steps: list[Any] = []
        for step in self.steps:
            if isinstance(step, bytes):
                steps.append({"send": base64.b64encode(step).decode()})
            else:
                steps.append(step if isinstance(step, str) else {"wait": step})
        return {"steps": steps, "billed_microusd": self.billed_microusd}


GOOD = Script((http_answer(image_json()),), COST_MICROUSD)


@dataclass(frozen=True, slots=True)
class Scripted:
    """A running scripted server."""

    base_url: str

    def play(self, scripts: Mapping[str, Sequence[Script]]) -> None:
        """Begin anew with these scripts; every other request gets a good image."""
        everything = {**scripts, "*": [GOOD]}
        self._call("POST", "/control", {"scripts": {k: [s.told() for s in v] for k, v in everything.items()}})

    def seen(self) -> Any:
        """The requests (their prompts), their heads, and the bill's entries."""
        return self._call("GET", "/seen", None)

    def entries(self) -> list[Any]:
        """The bill."""
        return list(self.seen()["entries"])

    def requests(self) -> int:
        """How many images were asked for."""
        return len(self.seen()["requests"])

    def _call(self, method: str, path: str, body: object) -> Any:
        parts = urlsplit(self.base_url)
        with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body))
            return json.loads(connection.getresponse().read())


@contextlib.contextmanager
def scripted() -> Iterator[Scripted]:
    """A scripted server in a process of its own, for the block."""
    process = subprocess.Popen(
        [sys.executable, str(_SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        yield Scripted(process.stdout.readline().strip())
        _, errors = process.communicate("", timeout=30)
        assert errors == ""
    finally:
        process.kill()
        process.communicate()


# -- the job ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A task as the ledger and the disk have it, with its attempts in their order."""

    id: int
    prompt: str
    status: str
    error_code: str | None
    path: str | None
    sha256: str | None
    attempts: tuple[dict[str, Any], ...]

    @property
    def outcomes(self) -> list[str | None]:
        """How each attempt ended."""
        return [attempt["outcome"] for attempt in self.attempts]

    def all_of(self, column: str) -> list[Any]:
        """One column of each attempt."""
        return [attempt[column] for attempt in self.attempts]


@dataclass(frozen=True, slots=True)
class Job:
    """One job in a folder of its own."""

    folder: Path
    prompts: Sequence[str]
    retry: Mapping[str, float]
    timeouts: Mapping[str, float]
    concurrency: int = 1
    name: str = "faults"
    more: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else its manifest says."""

    def write(self) -> Path:
        """Write the manifest."""
        manifest = {
            "name": self.name,
            "model": MODEL,
            "prompts": [{"id": f"p{number:04d}", "text": text} for number, text in enumerate(self.prompts)],
            "settings": {"size": "1024x1024", "quality": "low"},
            "output": {"name": "{{ prompt_id }}"},
            "limits": {"images_per_minute": 1_000_000, "concurrency": self.concurrency},
            "retry": dict(self.retry),
            "timeouts": dict(self.timeouts),
            **self.more,
        }
        path = self.folder / f"{self.name}.yaml"
        path.write_text(json.dumps(manifest))  # JSON is YAML
        return path

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def query(self, query: str) -> list[dict[str, Any]]:
        """Rows of the ledger."""
        with closing(sqlite3.connect(self.output / "ledger.sqlite3")) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]

    def rows(self) -> list[Row]:
        """Every task, in the manifest's order."""
        attempts: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for attempt in self.query("SELECT * FROM attempts ORDER BY id"):
            attempts[attempt["task_id"]].append(attempt)
        tasks = self.query(
            "SELECT t.id, t.status, t.error_code, p.text, a.path, a.sha256 FROM tasks t "
            "JOIN prompts p ON p.id = t.prompt_row LEFT JOIN assets a ON a.task_id = t.id ORDER BY t.position"
        )
        return [
            Row(t["id"], t["text"], t["status"], t["error_code"], t["path"], t["sha256"], tuple(attempts[t["id"]]))
            for t in tasks
        ]

    def hold_files(self, rows: Iterable[Row]) -> None:
        """Law 2: a file for every task that is done, whole, and none beside them."""
        kept = set()
        for row in rows:
            assert (row.status == "done") == (row.path is not None), row
            if row.path is not None:
                file = self.output / row.path
                assert hashlib.sha256(file.read_bytes()).hexdigest() == row.sha256
                kept.add(file)
        images = self.output / self.name / "images"
        assert {path for path in images.rglob("*") if path.is_file()} == kept
        partial = self.output / self.name / ".partial"
        assert not partial.exists() or list(partial.iterdir()) == []


# -- the ledger against the bill ----------------------------------------------------------------


@dataclass(slots=True)
class Account:
    """What a job came to. `in_doubt` counts attempts, of which `doubts_billed` are on the bill."""

    requests: int = 0
    settled_microusd: int = 0
    """What the ledger has as a cost, from usage or estimated."""
    estimated: int = 0
    estimated_too_much_microusd: int = 0
    """What estimates are above the bill."""
    in_doubt: int = 0
    in_doubt_microusd: int = 0
    doubts_billed: int = 0
    doubts_billed_microusd: int = 0
    billed: int = 0
    billed_microusd: int = 0

    @classmethod
    def of(cls, rows: Iterable[Row], entries: Iterable[Mapping[str, Any]]) -> Self:
        """Every attempt against the entry with its request id; what has no id is matched by its prompt.

        A cost that was told is the bill's, to the micro-dollar. An estimate is never below it. Whatever is billed and
        not settled is in doubt, one attempt for each entry. What is neither settled nor in doubt was not billed.
        """
        account = cls()
        open_entries = {entry["request_id"]: entry for entry in entries}
        account.billed = len(open_entries)
        account.billed_microusd = sum(entry["cost_microusd"] for entry in open_entries.values())
        nameless: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            for attempt in row.attempts:
                account._take(row, attempt, open_entries, nameless)
        for entry in open_entries.values():
            doubts = nameless[entry["prompt_sha256"]]
            assert doubts, f"billed, and nothing on record could explain it: {entry}"
            account._doubt_is_billed(doubts.pop(), entry)
        assert account.unexplained_microusd == 0
        return account

    def _take(
        self,
        row: Row,
        attempt: dict[str, Any],
        open_entries: dict[str, Mapping[str, Any]],
        nameless: defaultdict[str, list[dict[str, Any]]],
    ) -> None:
        assert attempt["outcome"] is not None, (row, attempt)
        if attempt["error_code"] == NOT_SENT:
            assert (attempt["cost_microusd"], attempt["doubt_microusd"]) == (None, None)
            return
        self.requests += 1
        entry = open_entries.pop(attempt["request_id"], None)
        cost, doubt = attempt["cost_microusd"], attempt["doubt_microusd"]
        if cost is not None:
            assert doubt is None
            assert entry is not None, f"settled, and not on the bill: {attempt}"
            self.settled_microusd += cost
            if attempt["cost_basis"] == "usage":
                assert cost == entry["cost_microusd"], attempt
            else:
                assert cost >= entry["cost_microusd"], attempt
                self.estimated += 1
                self.estimated_too_much_microusd += cost - entry["cost_microusd"]
        elif doubt is not None:
            self.in_doubt += 1
            self.in_doubt_microusd += doubt
            if entry is not None:
                self._doubt_is_billed(attempt, entry)
            elif attempt["request_id"] is None:
                nameless[hashlib.sha256(row.prompt.encode()).hexdigest()].append(attempt)
        else:
            assert entry is None, f"billed, and taken for free: {attempt}"

    def _doubt_is_billed(self, attempt: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
        assert attempt["doubt_microusd"] >= entry["cost_microusd"], attempt
        self.doubts_billed += 1
        self.doubts_billed_microusd += entry["cost_microusd"]

    @property
    def unexplained_microusd(self) -> int:
        """What is on the bill and neither settled nor in doubt; has to be 0."""
        settled_of_the_bill = self.settled_microusd - self.estimated_too_much_microusd
        return self.billed_microusd - settled_of_the_bill - self.doubts_billed_microusd
