"""Two at once: one run for each job and folder, one pace for each key, and no lock that outlives its process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.edges.simulator_support import Peer, running
from tests.engine.command_support import GOOD, Desk, wait

SLOW = "[[fault:delay=0.4]] slow"
LIMIT_PER_MINUTE, WINDOW_S = 600, 3.0
"""30 images in any 3 seconds."""
IMAGES = 30


def _begun(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Wait until the first request of a run with --json has left."""
    assert process.stdout
    while '"attempt_began"' not in process.stdout.readline():
        assert process.poll() is None
    return process


def test_a_run_from_cron_that_finds_last_nights_still_going_does_no_harm(desk: Desk) -> None:
    """7, a word on who holds it, not one request; the first run does not notice, and everything is paid once."""
    job = desk.manifest("nightly", [f"{SLOW} {n}" for n in range(400)])
    first = _begun(desk.start("run", job, *desk.to_peer, "--json"))
    for words in ((), ("--json",), ("--set", "samples=2")):
        second = desk.run(job, *words)
        assert second.code == 7
        assert f"pid {first.pid} on " in second.err
        assert "since 20" in second.err
        assert " UTC" in second.err
        assert "Traceback" not in second.err
    assert second.out == ""
    assert desk.call("retry", "nightly", "--failed").code == 7
    first.send_signal(signal.SIGINT)
    said = wait(first)
    assert (said.code, said.summary["in_doubt"]) == (130, 0)
    assert desk.requests() == desk.peer.bill()["images"] == said.summary["done"] == said.summary["requests"]


def test_two_ledgers_with_one_folder_do_not_sweep_each_others_images(desk: Desk) -> None:
    """The temporary files of one would be left-overs to the other: the folder has a lock of its own."""
    job = desk.manifest("shared", [f"{SLOW} {n}" for n in range(400)])
    first = _begun(desk.start("run", job, *desk.to_peer, "--json"))
    other = desk.run(job, "--ledger", "elsewhere.sqlite3")
    assert other.code == 7
    assert "the folder" in other.err
    assert f"pid {first.pid} on " in other.err
    first.send_signal(signal.SIGINT)
    said = wait(first)
    assert (said.code, said.summary["in_doubt"]) == (130, 0)
    assert desk.requests() == said.summary["done"]


def test_a_lock_ends_with_its_process_however_that_ends(desk: Desk) -> None:
    """SIGKILL, with an embedded simulator as its child: the next run is not kept out for a moment."""
    job = desk.manifest("killed", [f"{SLOW} {n}" for n in range(6)])
    for _ in range(2):
        process = _begun(desk.start("run", job, "--provider", "simulator", "--json"))
        process.send_signal(signal.SIGKILL)
        assert wait(process).code == -signal.SIGKILL
    said = desk.call("run", job, "--provider", "simulator", "--json")
    assert (said.code, said.summary["done"]) == (0, 6)


def test_a_ledger_that_was_lost_does_not_let_everything_be_paid_again(desk: Desk) -> None:
    """The folder tells of runs that the ledger does not know: nothing is sent, and both ways out are named."""
    job = desk.manifest("lost", GOOD)
    assert desk.run(job).code == 0
    ledger = desk.folder / "output" / "ledger.sqlite3"
    ledger.rename(desk.folder / "kept.sqlite3")
    before = desk.files()
    said = desk.run(job)
    assert said.code == 2
    assert "knows nothing of it" in said.err
    assert "--ledger" in said.err
    assert desk.requests() == 2
    images = [file for file in before if file.suffix == ".png"]
    assert images
    assert all(file.exists() for file in images)
    assert desk.run(job, "--ledger", "kept.sqlite3").code == 0
    assert desk.requests() == 2
    (desk.folder / "output" / "lost").rename(desk.folder / "old")
    assert desk.run(job).code == 0, "moved away, it begins anew, as the message says"
    assert desk.requests() == 4


def _runs(folder: Path, peer: Peer, states: Sequence[Path]) -> int:
    """One run for each state folder, all with one key, each believing in the whole limit; how many 429s there were."""
    processes = []
    for number, state in enumerate(states):
        manifest = {
            "name": f"job-{number}",
            "model": "gpt-image-2",
            "prompts": [f"A lighthouse, job {number}, number {n}" for n in range(IMAGES)],
            "settings": {"size": "1024x1024", "quality": "low"},
            "limits": {"images_per_minute": LIMIT_PER_MINUTE, "concurrency": 8},
        }
        path = folder / f"job-{number}.yaml"
        path.write_text(json.dumps(manifest))
        command = [sys.executable, "-m", "runner", "run", str(path), "--base-url", peer.base_url]
        command += ["--api-key-env", "SHARED_KEY", "--json", "--ledger", str(folder / "ledger.sqlite3")]
        environment = {"PATH": "/usr/bin:/bin", "SHARED_KEY": "sk-shared-0123456789", "XDG_STATE_HOME": str(state)}
        processes.append(
            subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    said = [wait(process) for process in processes]
    assert [each.code for each in said] == [0] * len(states)
    assert all(each.summary["done"] == IMAGES for each in said)
    return sum(entry["type"] == "held" for each in said for entry in each.entries)


def test_runs_with_one_key_share_one_pace(tmp_path: Path) -> None:
    """Three jobs at once, each with the key's whole limit in its manifest, against a server that enforces it.

    With one state folder the server hardly ever has to say "slower"; with a folder for each (which is what it would be
    without sharing), it says so all the time.
    """
    with running(art="flat", images_per_minute=LIMIT_PER_MINUTE, window_s=WINDOW_S) as peer:
        (tmp_path / "together").mkdir()
        together = _runs(tmp_path / "together", peer, [tmp_path / "state"] * 3)
        peer.call("POST", "/simulator/reset")
        (tmp_path / "apart").mkdir()
        apart = _runs(tmp_path / "apart", peer, [tmp_path / f"state-{n}" for n in range(3)])
    assert together <= 3
    assert apart > 3 * max(1, together)
