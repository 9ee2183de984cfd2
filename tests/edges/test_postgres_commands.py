"""What every command must hold on a ledger at a server: as on a file, and the simulator's bill is the ledger's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.cli.app import run_app
from runner.ledger import Ledger, Server
from tests.edges.ledger_support import rows
from tests.edges.simulator_support import Peer, running
from tests.servers import postgres
from tests.servers.postgres import PASSWORD

IMAGES = 24
MANIFEST = {
    "name": "job",
    "model": "gpt-image-2",
    "prompts": [{"id": f"p{number}", "text": f"prompt {number}"} for number in range(IMAGES)],
    "settings": {"size": "1024x1024", "quality": "low"},
    "limits": {"images_per_minute": 1_000_000, "concurrency": 8},
}


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """The simulator."""
    with running(art="flat") as server:
        yield server


@pytest.fixture
def place(pg_server: postgres.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty database that RUNNER_LEDGER names, and a folder with a manifest."""
    found = Server(pg_server.database())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNNER_LEDGER", found.url)
    monkeypatch.setenv("DESK_KEY", "sk-test")
    (tmp_path / "job.yaml").write_text(json.dumps(MANIFEST))
    yield found
    pg_server.drop(found.url)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """A command's code and what it says; never the password."""
    capsys.readouterr()
    code = run_app(list(words))
    shown = capsys.readouterr()
    assert PASSWORD not in shown.out + shown.err
    return code, shown.out + shown.err


def test_a_run_and_what_is_asked_of_it(place: Server, peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    """`run`, `status`, `costs`, `export`, `verify`, `doctor`, and a second run that pays for nothing."""
    to = ("--base-url", peer.base_url, "--api-key-env", "DESK_KEY")
    before = peer.bill()
    assert told(capsys, "doctor")[1].count("none yet at") == 1
    code, shown = told(capsys, "run", "job.yaml", *to, "--json")
    assert code == 0, shown
    bill = peer.bill()
    with Ledger.open(place, create=False) as ledger:
        (spent,) = rows(ledger, "SELECT count(*) AS n, sum(cost_microusd) AS cost FROM attempts")
    assert spent["n"] == IMAGES
    assert bill["cost_microusd"] - before["cost_microusd"] == spent["cost"]
    assert told(capsys, "run", "job.yaml", *to)[0] == 0
    assert peer.bill()["cost_microusd"] == bill["cost_microusd"], "an image was paid twice"
    code, shown = told(capsys, "status", "job")
    assert code == 0
    assert str(IMAGES) in shown
    for words in (("costs",), ("costs", "--by", "day"), ("verify", "job"), ("runs",), ("report", "job")):
        code, shown = told(capsys, *words)
        assert (code, "unexpected" in shown) in ((0, False), (2, False)), (words, shown)
    code, shown = told(capsys, "export", "job", "--format", "jsonl")
    assert code == 0, shown
    code, shown = told(capsys, "doctor")
    assert "is sound, 1 job" in shown
    assert str(place) in shown
    # It is said nowhere on the disk either.
    for path in Path().rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


def test_of_two_hosts_that_run_one_job_one_works(place: Server, peer: Peer, tmp_path: Path) -> None:
    """The other ends with code 7, and says who holds it: their output folders and caches are their own."""
    slow: dict[str, Any] = dict(MANIFEST, limits={"images_per_minute": 240, "concurrency": 2})
    (tmp_path / "job.yaml").write_text(json.dumps(slow))
    processes = []
    for host in range(2):
        folder = tmp_path / f"host{host}"
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "RUNNER_OUTPUT": str(folder / "output")}
        command = [sys.executable, "-m", "runner", "run", str(tmp_path / "job.yaml"), "--base-url", peer.base_url]
        processes.append(
            subprocess.Popen(
                [*command, "--api-key-env", "DESK_KEY"],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    shown = [process.communicate(timeout=120)[0] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 7], shown
    assert any("another run holds the job 'job': pid" in text for text in shown)
    assert all(PASSWORD not in text for text in shown)
    with Ledger.open(place, create=False) as ledger:
        assert rows(ledger, "SELECT count(*) AS n FROM attempts") == [{"n": IMAGES}]
