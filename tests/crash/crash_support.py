"""What the crash tests share: a job, the ledger read by plain SQL, and both held against the simulator's own bill.

Nothing here asks the runner what it has done: files are hashed anew, the ledger is read with `sqlite3`, and what was
asked and billed is the simulator's word.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.edges.simulator_support import Peer, launch

KEY_VARIABLE = "CRASH_TEST_KEY"
_TO_THE_DEAD = "socket.send() raised exception."
"""What asyncio says when an answer is written to a process that is no more."""
_DRIVER = Path(__file__).with_name("dying_runner.py")


def environment() -> dict[str, str]:
    """The environment of a run: a key, and nothing of the caller's that would change where things go."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNNER_", "OPENAI_"))}
    return kept | {KEY_VARIABLE: "sk-of-a-crash-test"}


def no_words(line: str) -> None:
    """Nothing is what a simulator should have to say."""
    raise AssertionError(f"the simulator wrote: {line}")


@contextmanager
def provider(on_error: Callable[[str], None] = no_words, **settings: Any) -> Iterator[Peer]:
    """A simulator for the length of a block, which may be killed; `on_error` hears what it wrote to stderr.

    That it has written to the dead is not worth a word: here its peers die.
    """
    process = launch(**settings)
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.communicate()[1]
        yield Peer(url, process)
    finally:
        process.kill()
        errors = process.communicate()[1]
    for line in errors.splitlines():
        if line != _TO_THE_DEAD:
            on_error(line)


@dataclass(frozen=True, slots=True)
class Bench:
    """One job in a folder of its own, made by a simulator that stands in for a provider that costs money.

    `place` is where its images go, if that is not the folder `output`.
    """

    folder: Path
    peer: Peer
    prompts: Sequence[str]
    job: str = "crash"
    place: str | None = None

    def write(
        self,
        *,
        concurrency: int,
        job: str | None = None,
        name: str = "{{ prompt_id }}",
        more: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the manifest, with `more` keys laid over it; its model is one whose end no date brings."""
        manifest: dict[str, Any] = {
            "name": job or self.job,
            "model": "gpt-image-2",
            "prompts": [{"id": f"p{number:04d}", "text": text} for number, text in enumerate(self.prompts)],
            "settings": {"size": "1024x1024", "quality": "low"},
            "output": {"name": name},
            "limits": {"images_per_minute": 1_000_000, "concurrency": concurrency},
            "retry": {"base_s": 0.01, "max_s": 0.02},
            **(more or {}),
        }
        path = self.folder / f"{job or self.job}.yaml"
        path.write_text(json.dumps(manifest))  # JSON is YAML
        return path

    def arguments(self, manifest: Path) -> list[str]:
        """The command line that makes, or goes on with, the job."""
        told = ["--base-url", self.peer.base_url, "--api-key-env", KEY_VARIABLE]
        return ["run", str(manifest), *told, "--output", self.place or str(self.output), "--json"]

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Rows of the ledger; none before there is one."""
        path = self.output / "ledger.sqlite3"
        if not path.exists():
            return []
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]

    def done(self) -> set[str]:
        """The prompts whose image is done, as the ledger has it; empty before there are tables."""
        if not self.rows("SELECT 1 FROM sqlite_master WHERE name = 'prompts'"):
            return set()
        query = "SELECT p.text FROM tasks t JOIN prompts p ON p.id = t.prompt_row WHERE t.status = 'done'"
        return {row["text"] for row in self.rows(query)}

    def billed(self) -> Counter[str]:
        """How many images of each prompt the simulator has billed, by the hash of the prompt."""
        return Counter(entry["prompt_sha256"] for entry in self.peer.entries())

    def hold_against_the_bill(self) -> Account:
        """Every law that a finished job can show, whatever happened on the way; what is left to compare is returned."""
        entries = self.peer.entries()
        served: dict[str, set[str]] = {}
        for entry in entries:
            served.setdefault(entry["prompt_sha256"], set()).update(entry["images"])
        tasks = self.rows(
            "SELECT t.id, t.status, j.name AS job, p.text, a.path, a.sha256, a.reused_from FROM tasks t "
            "JOIN jobs j ON j.id = t.job_id JOIN prompts p ON p.id = t.prompt_row "
            "LEFT JOIN assets a ON a.task_id = t.id"
        )
        attempts = self.rows("SELECT * FROM attempts")
        jobs = {task["job"] for task in tasks}

        # Law 2: each is done, and lies there whole: an image that the simulator served for this very prompt.
        assert len(tasks) == len(self.prompts) * len(jobs)
        for task in tasks:
            assert task["status"] == "done", task
            digest = hashlib.sha256((self.output / task["path"]).read_bytes()).hexdigest()
            assert digest == task["sha256"]
            assert digest in served[_sha256(task["text"])]
        # Each once, and nothing beside them.
        for job in jobs:
            files = [path for path in (self.output / job / "images").rglob("*") if path.is_file()]
            wanted = {self.output / task["path"] for task in tasks if task["job"] == job}
            assert len(wanted) == len(self.prompts)
            assert set(files) == wanted
            assert list((self.output / job / ".partial").iterdir()) == []

        # Law 1: for each prompt no more was billed than is on record as begun, and every attempt has an end.
        begun = Counter(attempt["task_id"] for attempt in attempts)
        by_prompt: Counter[str] = Counter()
        for task in tasks:
            by_prompt[_sha256(task["text"])] += begun[task["id"]]
        billed = Counter(entry["prompt_sha256"] for entry in entries)
        assert all(billed[prompt] <= by_prompt[prompt] for prompt in billed)
        assert all(attempt["outcome"] is not None for attempt in attempts)

        # Law 3: what was paid for and is not there is on record as lost, one by one.
        kept = {task["sha256"] for task in tasks}
        lost_images = sum(not kept.intersection(entry["images"]) for entry in entries)
        lost = [attempt for attempt in attempts if attempt["outcome"] == "lost"]
        assert lost_images <= len(lost)
        # Law 4: the bill is what is settled, and for the rest no more than what is in doubt.
        settled = sum(attempt["cost_microusd"] or 0 for attempt in attempts)
        doubt = sum(attempt["doubt_microusd"] or 0 for attempt in attempts)
        bill = self.peer.bill()
        assert settled <= bill["cost_microusd"] <= settled + doubt

        assert self.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
        assert self.rows("PRAGMA foreign_key_check") == []
        return Account(
            requests=bill["requests"],
            billed=len(entries),
            lost=len(lost),
            in_doubt=sum(attempt["doubt_microusd"] is not None for attempt in attempts),
            settled_microusd=settled,
            billed_microusd=bill["cost_microusd"],
        )


@dataclass(frozen=True, slots=True)
class Account:
    """What a finished job came to: `requests`, `billed` by the simulator, the others by the ledger."""

    requests: int
    billed: int
    lost: int
    in_doubt: int
    settled_microusd: int
    billed_microusd: int


class DyingRunner:
    """Runs command lines that kill themselves at a given call; see `dying_runner.py`."""

    def __init__(self, *preloaded: str) -> None:
        """With modules to read once, beside those that every run reads."""
        self._process = subprocess.Popen(
            [sys.executable, str(_DRIVER), *preloaded],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=Path(__file__).parents[2],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        kill: Mapping[str, Any] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Ended:
        """One command line to its end, which is SIGKILL as `kill` has it; see `dying_runner.plant`.

        Its environment has `more` beside what every run has.
        """
        assert self._process.stdin
        assert self._process.stdout
        out, err = folder / "stdout", folder / "stderr"
        order = {
            "arguments": list(arguments),
            "out": str(out),
            "err": str(err),
            "kill": dict(kill) if kill else None,
            "environment": dict(more or {}),
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Ended(code, events_of(out.read_text()), err.read_text())


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command line ended: its exit code (negative for a signal), its `--json` lines, its stderr."""

    code: int
    events: list[dict[str, Any]]
    stderr: str

    def count(self, kind: str) -> int:
        """How many events of this type there were."""
        return sum(event["type"] == kind for event in self.events)


def events_of(text: str) -> list[dict[str, Any]]:
    """The `--json` lines that a command line has printed; one that its death has torn is none."""
    events = []
    for line in text.splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    return events


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
