"""What the tests of batches share: a folder with jobs for the Batch API, short waits, the bill to compare with.

The simulator is a process of its own, and keeps an account that the runner did not write: every request of it is
compared with the ledger's, one by one, to the micro-dollar.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from runner.engine.batch import courier
from runner.engine.batch.watching import Pauses
from tests.engine.command_support import KEY_VARIABLE, Desk, Said

PROMPTS = ("A lighthouse at dusk", "A bakery window", "An oak chair", "A tin robot", "A paper boat")
SHORT = Pauses(validation_s=10.0, cancelling_s=10.0, outage_s=0.05, look_s=0.03, search_s=(0.0, 0.02, 0.05))
"""How long the runs of these tests wait for what."""


def hurry(monkeypatch: pytest.MonkeyPatch, pauses: Pauses = SHORT) -> None:
    """Have the runs in this process look again sooner; nothing else of them changes."""
    monkeypatch.setattr(courier, "Pauses", lambda: pauses)


class Mill(Desk):
    """A desk for jobs that go to the provider in batches."""

    def job(self, name: str = "night", prompts: Sequence[object] = PROMPTS, **more: object) -> str:
        """Write the manifest of a job whose images are delivered in batches; its path."""
        return self.manifest(name, prompts, **{"delivery": "batch", **more})

    def faults(self, *rules: str) -> None:
        """What goes wrong from now on, in place of what did."""
        answer = self.peer.call("POST", "/simulator/faults", {"rules": rules}, key=None)
        assert answer.status == 200, answer.body

    def wait(self, job: str, *options: str) -> Said:
        """A run that stays until its batches are over, with its events; one that would stay for ever ends as well."""
        return self.run(job, "--wait", "--json", "--max-duration", "30s", *options)

    def submit(self, job: str, *options: str) -> Said:
        """A run that submits and leaves, with its events."""
        return self.run(job, "--no-wait", "--json", *options)

    def collect(self, *arguments: str) -> Said:
        """`runner collect` with the key alone: each batch is asked for where it was submitted."""
        return self.call("collect", "--api-key-env", KEY_VARIABLE, "--json", *arguments)

    def seen(self) -> Any:
        """What came to the Files and Batch API: uploads, creates, calls, files, batches."""
        return self.peer.call("GET", "/simulator/batches", key=None).json

    @property
    def creates(self) -> int:
        """How many batches were created at the provider."""
        return int(self.seen()["creates"])

    def over(self, count: int = 1) -> None:
        """Wait until so many batches are over at the provider."""
        until(lambda: sum(each["status"] in OVER for each in self.seen()["batches"]) >= count)

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Rows of the ledger, as another process sees them."""
        with closing(sqlite3.connect(self.folder / "output/ledger.sqlite3")) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]

    def change(self, statement: str, *values: object) -> None:
        """Change the ledger behind the runner's back, to build a situation."""
        with closing(sqlite3.connect(self.folder / "output/ledger.sqlite3")) as database, database:
            assert database.execute(statement, values).rowcount

    def later(self, **ahead: float) -> None:
        """Have the runs in this process live so much later (`timedelta`'s words)."""
        self.monkeypatch.setattr("runner.wiring.now", lambda: dt.datetime.now(dt.UTC) + dt.timedelta(**ahead))

    def statuses(self) -> dict[str, int]:
        """How many tasks there are of each status, of all jobs."""
        found = self.rows("SELECT status, COUNT(*) AS n FROM tasks GROUP BY status ORDER BY status")
        return {row["status"]: row["n"] for row in found}

    def states(self) -> list[str]:
        """The states of all batches, oldest first."""
        return [row["state"] for row in self.rows("SELECT state FROM batches ORDER BY id")]

    def images(self, job: str = "night", folder: str = "images") -> list[str]:
        """The files of a job's images, by their path below its folder."""
        root = self.folder / "output" / job / folder
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    def leftovers(self) -> list[Path]:
        """Temporary files, and files of requests, that nobody needs any more."""
        return [path for path in self.files() if path.parent.name in (".partial", ".batches")]

    def account(self) -> tuple[int, int]:
        """Hold the ledger against the bill, request by request; the bill, and what is in doubt, in micro-dollars.

        What is settled is exactly what was billed for that very request; what was billed and is not settled is in
        doubt, or still open, with at least as much.
        """
        attempts = {row["id"]: row for row in self.rows("SELECT * FROM attempts")}
        in_batch: dict[int, int] = {}
        online = 0
        for entry in self.peer.entries():
            if entry["delivery"] == "online":
                online += entry["cost_microusd"]
                continue
            number, _, proof = entry["custom_id"].partition("-")
            row = attempts[int(number)]
            (task,) = self.rows("SELECT key FROM tasks WHERE id = ?", row["task_id"])
            assert task["key"].startswith(proof)
            in_batch[row["id"]] = in_batch.get(row["id"], 0) + entry["cost_microusd"]
        for attempt_id, row in attempts.items():
            if row["batch_row"] is None:
                continue
            billed = in_batch.pop(attempt_id, 0)
            if row["cost_microusd"] is None:
                room = row["reserved_microusd"] if row["outcome"] is None else row["doubt_microusd"] or 0
                assert billed <= room, row
            elif row["cost_basis"] == "usage":
                assert row["cost_microusd"] == billed, row
            else:
                assert row["cost_microusd"] >= billed, row
        assert not in_batch
        settled_online = sum(row["cost_microusd"] or 0 for row in attempts.values() if row["batch_row"] is None)
        assert settled_online == online
        doubt = sum(row["doubt_microusd"] or 0 for row in attempts.values())
        return int(self.peer.bill()["cost_microusd"]), doubt

    def all_home(self, count: int) -> int:
        """All of so many images are done, nothing is in doubt or left over; what they cost, by both accounts."""
        assert self.statuses() == {"done": count}
        billed, doubt = self.account()
        assert doubt == 0
        assert sum(row["cost_microusd"] or 0 for row in self.rows("SELECT cost_microusd FROM attempts")) == billed
        assert self.leftovers() == []
        for row in self.rows("SELECT path, bytes FROM assets"):
            assert (self.folder / "output" / row["path"]).stat().st_size == row["bytes"]
        assert set(self.states()) <= {"collected", "dissolved"}
        return billed


OVER = ("completed", "failed", "expired", "cancelled")


def until(is_so: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def of_type(said: Said, kind: str) -> list[dict[str, Any]]:
    """The events of one kind among the lines of a run."""
    return [entry for entry in said.entries if entry["type"] == kind]


def warnings(said: Said) -> str:
    """Everything that a run warned of."""
    return "\n".join(entry["message"] for entry in of_type(said, "warned"))


@contextlib.contextmanager
def edited(path: str, **changes: object) -> Iterator[None]:
    """A manifest with these changes for a block, and as it was afterwards."""
    before = Path(path).read_text()
    Path(path).write_text(json.dumps({**json.loads(before), **changes}))
    yield
    Path(path).write_text(before)


def picture(path: Path, colour: str, *, size: tuple[int, int] = (128, 128)) -> None:
    """A file of a picture that is like no other colour's."""
    path.parent.mkdir(exist_ok=True)
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    ImageDraw.Draw(image).ellipse((size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2), fill=colour)
    image.save(path)
