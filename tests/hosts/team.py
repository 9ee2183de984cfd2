"""Several hosts on one machine: processes with folders and an environment of their own, one PostgreSQL, one bucket, one
provider that enforces its limits.

    with servers() as (database_server, bucket_server), team(folder, ...) as team:
        run = team.start("one", team.write("one", "nightly", prompts))

Owns what a host is, and how runs are started on it. What the hosts have done is read from the database, the bucket and
the provider's bill, never through the runner.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash import laws
from tests.crash.crash_support import Bench, environment, events_of, provider
from tests.crash.grounds import Bucket, PostgresDatabase, of_host
from tests.crash.laws import Books, Row
from tests.edges.simulator_support import Peer
from tests.servers.postgres import Server, cluster
from tests.servers.s3 import S3, s3

PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command line has ended: its exit code (negative for a signal), its `--json` lines, its stderr."""

    code: int
    events: list[dict[str, Any]]
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """The last line of a run that came to its end."""
        last = self.events[-1]
        assert last["type"] == "summary", last
        return last


@dataclass(slots=True)
class Run:
    """A command line that was started on a host; its streams are files, so that they can be read while it goes on."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def heard(self, kind: str) -> int:
        """How many events of this type it has told so far."""
        return sum(event["type"] == kind for event in events_of(self.out.read_text()))

    def wait(self) -> Ended:
        """Its end."""
        code = self.process.wait(PATIENCE_S)
        return Ended(code, events_of(self.out.read_text()), self.err.read_text())

    def kill(self) -> None:
        """SIGKILL, as a host that is gone; the kernel of this one closes its connections."""
        self.process.kill()
        self.process.wait()


@dataclass(slots=True)
class Team:
    """Hosts that share a ledger, a bucket and a provider's key."""

    folder: Path
    peer: Peer
    database: PostgresDatabase
    bucket: Bucket
    runs: list[Run] = field(default_factory=list)

    def write(
        self, host: str, job: str, prompts: Sequence[str], *, concurrency: int = 8, per_minute: int = 1_000_000
    ) -> list[str]:
        """Write a job's manifest into a host's own working folder; the command line that makes it."""
        folder = self._work(host)
        bench = Bench(folder, self.peer, prompts, job, place=self.bucket.output)
        limits = {"limits": {"images_per_minute": per_minute, "concurrency": concurrency}}
        return bench.arguments(bench.write(concurrency=concurrency, more=limits))

    def start(self, host: str, arguments: Sequence[str]) -> Run:
        """One command line on a host."""
        folder = self._work(host)
        number = len(self.runs)
        out, err = folder / f"{number}.out", folder / f"{number}.err"
        told = environment() | of_host(self.folder / host) | self.database.environment() | self.bucket.environment()
        with out.open("wb") as stdout, err.open("wb") as stderr:
            command = [sys.executable, "-m", "runner", *arguments]
            process = subprocess.Popen(command, cwd=folder, env=told, stdout=stdout, stderr=stderr)
        self.runs.append(Run(process, out, err))
        return self.runs[-1]

    def run(self, host: str, arguments: Sequence[str]) -> Ended:
        """One command line on a host, to its end."""
        return self.start(host, arguments).wait()

    def rules(self, *faults: str) -> None:
        """What is to go wrong at the provider from now on."""
        self.peer.call("POST", "/simulator/faults", {"rules": list(faults)})

    def problems(self, *, complete: bool = True, open_at_kills: set[int] | None = None) -> list[str]:
        """Every law that does not hold once all runs are over."""
        books, entries, files = self.database.books(), self.peer.entries(), self.bucket.files()
        found = list(laws.at_every_instant(books, entries, files, None))
        found += laws.at_the_end(books, entries, files, complete=complete)
        found += laws.reckon(books, entries, open_at_kills or set()).problems
        return found + [f"outside the prefix: {name}" for name in self.bucket.strays()]

    def _work(self, host: str) -> Path:
        folder = self.folder / host / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@contextmanager
def servers() -> Iterator[tuple[Server, S3]]:
    """A database server and an object store for a block.

    Raises:
        RuntimeError: there is no PostgreSQL on this machine.
    """
    with cluster() as database, s3() as store:
        yield database, store


@contextmanager
def team(folder: Path, database: Server, store: S3, **simulator: Any) -> Iterator[Team]:
    """A team with an empty ledger and an empty bucket; `simulator` are the settings of its provider."""
    with provider(art="flat", **simulator) as peer:
        made = Team(folder, peer, PostgresDatabase(database), Bucket(store))
        try:
            yield made
        finally:
            for run in made.runs:
                if run.process.poll() is None:
                    run.kill()
            made.database.close()
            made.bucket.close()


def until(true: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def committed_microusd(books: Books) -> int:
    """What is settled, in doubt, or reserved for what is under way."""
    return sum(laws.counted(attempt) for attempt in books.attempts)


def refused(bill: Mapping[str, Any]) -> float:
    """The share of requests that the provider has refused for coming too soon, 0 to 1."""
    return float(sum(bill["rejected"].values()) / max(1, bill["requests"]))


def used(entries: Sequence[Row], per_minute: float, *, skip: float = 0.15) -> float:
    """The share of a limit that was used, 0 to 1, in the middle: without the first and last `skip` of the images."""
    at = sorted(dt.datetime.fromisoformat(entry["time"]).timestamp() for entry in entries)
    cut = round(len(at) * skip)
    middle = at[cut : len(at) - cut]
    return (len(middle) - 1) / (middle[-1] - middle[0]) * 60 / per_minute
