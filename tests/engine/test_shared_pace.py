"""Runs on several hosts keep one limit: they share a ledger on a server, and nothing else.

Each host is a process with a state folder of its own, so that the file of a machine's runs cannot help. What was let
through and what was refused is counted by the provider.
"""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.edges.simulator_support import Peer, running
from tests.engine.command_support import Said, wait
from tests.servers import postgres

LIMIT_PER_MINUTE, WINDOW_S = 600, 6.0
"""60 images in any 6 seconds."""


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    if postgres.programs() is None:
        pytest.skip(postgres.ABSENT)
    with postgres.cluster() as started:
        yield started


@pytest.fixture
def peer() -> Iterator[Peer]:
    with running(art="flat", images_per_minute=LIMIT_PER_MINUTE, window_s=WINDOW_S) as started:
        yield started


@dataclass
class Hosts:
    """Processes that run one job each, with one key and one ledger, each in a folder and a home of its own."""

    folder: Path
    peer: Peer
    ledger: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, images: int, *, per_minute: float = LIMIT_PER_MINUTE) -> subprocess.Popen[str]:
        """One more host, whose manifest says `per_minute`."""
        number = len(self.processes)
        home = self.folder / f"host-{number}"
        home.mkdir()
        manifest = {
            "name": f"job-{number}",
            "model": "gpt-image-2",
            "prompts": [f"A lighthouse, job {number}, number {n}" for n in range(images)],
            "settings": {"size": "1024x1024", "quality": "low"},
            "limits": {
                "images_per_minute": per_minute,
                "requests_per_minute": 1_000_000,
                "tokens_per_minute": 1_000_000_000,
                "concurrency": 8,
            },
        }
        (home / "job.yaml").write_text(json.dumps(manifest))
        command = [sys.executable, "-m", "runner", "run", "job.yaml", "--base-url", self.peer.base_url, "--json"]
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "RUNNER_LEDGER": self.ledger,
            "SHARED_KEY": "sk-shared-0123456789",
        }
        with (home / "out").open("w") as out, (home / "err").open("w") as err:
            process = subprocess.Popen(
                [*command, "--api-key-env", "SHARED_KEY"], cwd=home, env=environment, text=True, stdout=out, stderr=err
            )
        self.processes.append(process)
        return process

    def begun(self, number: int, count: int) -> None:
        """Wait until a host has begun so many requests."""
        path = self.folder / f"host-{number}" / "out"
        while path.read_text().count('"attempt_began"') < count:
            assert self.processes[number].poll() is None, self.said(number).err
            time.sleep(0.02)

    def said(self, number: int) -> Said:
        """What a host has said so far."""
        home = self.folder / f"host-{number}"
        return Said(self.processes[number].poll() or 0, (home / "out").read_text(), (home / "err").read_text())

    def wait(self) -> list[Said]:
        """All of them to their ends."""
        for process in self.processes:
            wait(process)
        return [self.said(number) for number in range(len(self.processes))]

    def refused(self) -> int:
        """How many 429s the provider has given."""
        return sum(self.peer.bill()["rejected"].values())

    def used(self) -> float:
        """The share of the limit that was used, from a window after the first image on until most were made."""
        made = sorted(_seconds(entry["time"]) for entry in self.peer.entries())
        begin, end = made[0] + WINDOW_S, made[int(len(made) * 0.9)]
        assert end > begin + WINDOW_S
        return (sum(begin < at <= end for at in made) - 0.5) / (LIMIT_PER_MINUTE / 60 * (end - begin))


def _seconds(text: str) -> float:
    """A time of the bill."""
    return dt.datetime.fromisoformat(text).timestamp()


@pytest.fixture
def hosts(tmp_path: Path, peer: Peer, server: postgres.Server) -> Iterator[Hosts]:
    made = Hosts(tmp_path, peer, server.database())
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def _limit_is_kept(hosts: Hosts) -> None:
    """As good as no 429s (a process that the machine holds up is late with one), and nearly all of the limit used."""
    assert hosts.refused() <= hosts.peer.bill()["images"] * 0.02
    assert hosts.used() > 0.9


def test_runs_on_three_hosts_keep_the_limit_of_their_key(hosts: Hosts) -> None:
    """Each believes in the whole of it."""
    for _ in range(3):
        hosts.start(70)
    said = hosts.wait()
    assert [each.code for each in said] == [0, 0, 0], said
    assert [each.summary["done"] for each in said] == [70, 70, 70]
    _limit_is_kept(hosts)


def test_a_host_that_asks_for_less_one_that_comes_late_and_one_that_is_killed_change_nothing(hosts: Hosts) -> None:
    """The others use what one leaves; what one had booked when it died is a moment's loss."""
    hosts.start(2000)  # more than it comes to before it is killed, however slowly the others start
    hosts.start(8, per_minute=60)
    hosts.begun(0, 40)
    hosts.start(90)
    hosts.begun(0, 70)
    hosts.begun(2, 10)
    hosts.processes[0].send_signal(signal.SIGKILL)
    hosts.start(90)
    said = hosts.wait()
    assert [each.code for each in said] == [-signal.SIGKILL, 0, 0, 0], said
    _limit_is_kept(hosts)
