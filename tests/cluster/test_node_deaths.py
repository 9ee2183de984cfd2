"""Nodes and drivers that die in the middle of a run: nothing is lost, and nothing paid that is not on record."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.cluster.cluster_support import Nodes, Start, accounts, held_against_the_bill, images, read_until, rows
from tests.edges.simulator_support import PROC, needs_proc
from tests.engine.command_support import Desk, wait

RAY = ("--engine", "ray")
RETRY = {"attempts": 3, "billed_attempts": 3, "base_s": 0.001, "max_s": 0.002}
SLOW = [f"[[fault:delay=1.5]] A harbour, number {number}" for number in range(30)]


def job(desk: Desk, name: str, **more: Any) -> str:
    limits = {"images_per_minute": 1_000_000, "concurrency": 9}
    return desk.manifest(name, SLOW, retry=RETRY, limits=limits, **more)


def in_the_middle(process: subprocess.Popen[str]) -> None:
    """Wait until some images are saved and others have been asked for and not come: each takes twice as long."""
    read_until(process, "saved", 9)
    read_until(process, "attempt_began", 6)
    time.sleep(0.7)


def test_what_a_dead_node_was_doing_goes_on_elsewhere_and_is_in_doubt(desk: Desk, nodes: Nodes, start: Start) -> None:
    """All images are there, the ledger holds against the bill, the run says which node died; a second sends nothing."""
    path = job(desk, "harbour")
    process = start(desk, path)
    in_the_middle(process)
    victim = nodes.others[0]
    nodes.kill(victim)
    said = wait(process)
    assert (said.code, said.summary["done"], said.summary["in_doubt"]) == (0, len(SLOW), 0)
    ((died,),) = rows(desk, "SELECT count(*) FROM attempts WHERE error_code = 'node_died' AND outcome = 'lost'")
    assert 1 <= died <= 9
    assert accounts(desk)[1] > 0
    held_against_the_bill(desk)
    assert desk.requests() <= len(SLOW) + died
    assert any(victim.node_id[:8] in entry["message"] for entry in said.entries if entry["type"] == "warned")
    (log,) = (desk.folder / "output/harbour/logs").glob("*.jsonl")
    assert victim.node_id[:8] in log.read_text()
    assert desk.call("verify", "harbour", "--deep").code == 0
    before = desk.requests()
    assert desk.run(path, *RAY, "--json").code == 0
    assert desk.requests() == before
    nodes.add()


def test_with_hold_a_person_decides_about_what_a_dead_node_was_doing(desk: Desk, nodes: Nodes, start: Start) -> None:
    """Nothing of it is paid for a second time before someone has looked."""
    process = start(desk, job(desk, "held"), "--in-doubt", "hold")
    in_the_middle(process)
    nodes.kill(nodes.others[0])
    said = wait(process)
    assert said.code == 4
    assert said.summary["in_doubt"] >= 1
    assert said.summary["done"] == len(SLOW) - said.summary["in_doubt"]
    assert desk.requests() <= len(SLOW)
    held_against_the_bill(desk)
    nodes.add()


@needs_proc
def test_a_sender_that_dies_alone_is_not_asked_again_behind_the_ledgers_back(
    desk: Desk, nodes: Nodes, start: Start
) -> None:
    """Its node lives, and could repeat what it was asked: each request that reaches the provider is one on record."""
    process = start(desk, job(desk, "alone"))
    in_the_middle(process)
    os.kill(senders(nodes)[0], signal.SIGKILL)
    said = wait(process)
    assert (said.code, said.summary["done"]) == (0, len(SLOW))
    assert rows(desk, "SELECT count(*) > 0 FROM attempts WHERE error_code = 'node_died'") == [(1,)]
    assert desk.requests() == said.summary["requests"]
    held_against_the_bill(desk)


@needs_proc
def test_a_killed_driver_leaves_nobody_at_work_and_the_next_run_goes_on(desk: Desk, nodes: Nodes, start: Start) -> None:
    """Its senders end by themselves; what they had in flight is in doubt or taken over, and all images are made."""
    path = job(desk, "orphans")
    process = start(desk, path)
    in_the_middle(process)
    assert senders(nodes)
    process.kill()
    process.communicate()
    _wait_for(lambda: not senders(nodes))
    said = desk.run(path, *RAY, "--json")
    assert (said.code, said.summary["done"]) == (0, len(SLOW))
    held_against_the_bill(desk)
    assert desk.requests() <= len(SLOW) + 9 + 1
    assert len(images(desk, "orphans")) == len(SLOW)
    assert desk.call("verify", "orphans", "--deep").code == 0


@needs_proc
def test_a_node_that_comes_is_given_work(desk: Desk, nodes: Nodes, start: Start) -> None:
    """A run finds it by itself: senders are there on one more node than it began with."""
    endless = [f"[[fault:delay=120]] {prompt}" for prompt in SLOW]
    process = start(desk, desk.manifest("growing", endless))
    read_until(process, "attempt_began", 1)
    _wait_for(lambda: len(senders(nodes)) == 3)
    added = nodes.add()
    try:
        _wait_for(lambda: len(senders(nodes)) == 4)
    finally:
        nodes.cluster.remove_node(added)


def senders(nodes: Nodes) -> list[int]:
    """The processes of this cluster that are senders of some run: their parents are its nodes."""
    found = []
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                if Path(folder, "cmdline").read_bytes().startswith(b"ray::Sender"):
                    parent = Path(folder, "stat").read_text().rpartition(")")[2].split()[1]
                    if nodes.address in (PROC / parent / "cmdline").read_text():
                        found.append(int(folder.name))
            except OSError:
                continue
    return found


def _wait_for(what: Any) -> None:
    end = time.monotonic() + 45
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.2)
