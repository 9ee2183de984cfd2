"""Law 3 for batches: SIGKILL at each step to the provider and home again, then the same command once more.

A batch costs money once it is created, and its results stay at the provider: so nothing may be submitted a second time,
and no death costs anything at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash import laws
from tests.crash.crash_support import Account, Bench, DyingRunner, provider
from tests.crash.laws import Books
from tests.crash.steps import BATCH, BATCH_API, BATCHES, HOMEWARD, PARTIAL, STORE, Step
from tests.edges.simulator_support import Peer

KILLED = -9
PROMPTS = ("A lighthouse at dusk", "A bakery window", "An oak chair", "A tin robot", "A paper boat")
BATCHES_OF_TWO = {"delivery": "batch", "batch": {"max_requests": 2}}
LARGE_KB = 300


@pytest.fixture(scope="module")
def dying() -> Iterator[DyingRunner]:
    with DyingRunner() as dying:
        yield dying


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with provider(art="flat", payload_kb=LARGE_KB) as peer:
        yield peer


@pytest.fixture
def slow() -> Iterator[Peer]:
    """A provider at which a batch takes a while."""
    with provider(art="flat", payload_kb=LARGE_KB, batch_time_s=4.0) as peer:
        yield peer


@pytest.fixture
def bench(tmp_path: Path, server: Peer) -> Bench:
    """A job of five images in three batches, and an empty bill."""
    server.call("POST", "/simulator/reset")
    return Bench(tmp_path, server, PROMPTS)


def _arguments(bench: Bench, **more: Any) -> list[str]:
    return [*bench.arguments(bench.write(concurrency=1, more={**BATCHES_OF_TWO, **more})), "--wait"]


def _named(step: Step) -> str:
    return step.name


def _kill(place: str, when: str, nth: int) -> dict[str, Any]:
    return {"place": place, "when": when, "nth": nth}


def _each_once(bench: Bench) -> Account:
    """Every image once, every batch created once, the ledger and the bill equal to the micro-dollar."""
    account = bench.hold_against_the_bill()
    assert account.requests == account.billed == len(bench.prompts)
    assert (account.lost, account.in_doubt) == (0, 0)
    assert account.settled_microusd == account.billed_microusd
    made = bench.peer.call("GET", "/simulator/batches").json
    assert made["creates"] == len(bench.rows("SELECT 1 FROM batches WHERE state = 'collected'"))
    books = Books.copied(bench.output / "ledger.sqlite3")
    assert list(laws.at_the_end(books, bench.peer.entries(), bench.output, complete=True)) == []
    assert list((bench.output / bench.job / ".batches").iterdir()) == []
    return account


@pytest.mark.parametrize("step", [*BATCH, *HOMEWARD], ids=_named)
def test_a_kill_on_a_batchs_way(dying: DyingRunner, bench: Bench, step: Step) -> None:
    """Dead at the second of its kind: nothing is submitted again, nothing made twice, nothing in doubt."""
    arguments = _arguments(bench)
    assert dying.run(arguments, bench.folder, kill=step.kill(2)).code == KILLED
    assert dying.run(arguments, bench.folder).code == 0
    _each_once(bench)
    again = dying.run(arguments, bench.folder)
    assert (again.code, again.count("batch_submitted")) == (0, 0)


TWICE = [
    (f"{BATCH_API}create", "after", f"{BATCHES}submitted", "before"),
    (f"{BATCH_API}create", "before", f"{BATCH_API}delete", "after"),
    (f"{BATCH_API}upload", "after", f"{BATCHES}uploaded", "before"),
    (f"{BATCHES}add", "after", f"{BATCHES}dissolve", "after"),
    (f"{PARTIAL}write", "after", f"{STORE}place_line", "after"),
    (f"{STORE}place_line", "after", f"{BATCHES}saved", "after"),
]


@pytest.mark.parametrize(("first", "when", "second", "then"), TWICE)
def test_a_kill_while_an_earlier_one_is_cleared_up(
    dying: DyingRunner, bench: Bench, first: str, when: str, second: str, then: str
) -> None:
    """To find a batch again can be killed at any of its steps as well."""
    arguments = _arguments(bench)
    assert dying.run(arguments, bench.folder, kill=_kill(first, when, 2)).code == KILLED
    assert dying.run(arguments, bench.folder, kill=_kill(second, then, 1)).code == KILLED
    assert dying.run(arguments, bench.folder).code == 0
    _each_once(bench)


@pytest.mark.parametrize("fault", ["create_reset:times=2", "create_500:times=1", "create_reset:times=1,value=before"])
def test_a_batch_of_which_nobody_knows_whether_it_was_created_is_looked_for(
    dying: DyingRunner, bench: Bench, fault: str
) -> None:
    """An answer that is lost is no reason to create it a second time, and none to forget it."""
    bench.peer.call("POST", "/simulator/faults", {"rules": [fault]})
    try:
        assert dying.run(_arguments(bench), bench.folder).code == 0
        _each_once(bench)
    finally:
        bench.peer.call("POST", "/simulator/faults", {"rules": []})


def test_an_upload_of_which_nobody_knows_whether_it_arrived_costs_nothing(dying: DyingRunner, bench: Bench) -> None:
    """A second copy of a file is no second batch."""
    bench.peer.call("POST", "/simulator/faults", {"rules": ["upload_reset:times=2"]})
    try:
        assert dying.run(_arguments(bench), bench.folder).code == 0
        _each_once(bench)
    finally:
        bench.peer.call("POST", "/simulator/faults", {"rules": []})


def test_results_that_break_off_are_read_on(dying: DyingRunner, bench: Bench) -> None:
    """A cut download goes on where it was, and is cut again, and goes on."""
    bench.peer.call("POST", "/simulator/faults", {"rules": ["content_cut:times=4,value=0.6"]})
    try:
        assert dying.run(_arguments(bench), bench.folder).code == 0
        _each_once(bench)
    finally:
        bench.peer.call("POST", "/simulator/faults", {"rules": []})


def test_a_run_that_leaves_and_one_that_collects(dying: DyingRunner, slow: Peer, tmp_path: Path) -> None:
    """In the evening it is submitted, in the morning collected; killed in between, it is collected by the next."""
    bench = Bench(tmp_path, slow, PROMPTS)
    arguments = _arguments(bench)[:-1]
    left = dying.run([*arguments, "--no-wait"], bench.folder)
    assert left.code == 0
    assert left.events[-1]["reason"] == "submitted, collect later"
    assert left.events[-1]["submitted"] == len(PROMPTS)
    collect = ["collect", "--api-key-env", "CRASH_TEST_KEY", "--output", str(bench.output), "--json"]
    while "completed" not in {each["status"] for each in slow.call("GET", "/simulator/batches").json["batches"]}:
        time.sleep(0.1)
    assert dying.run(collect, bench.folder, kill=_kill(f"{STORE}place_line", "after", 1)).code == KILLED
    while (collected := dying.run(collect, bench.folder)).events[-1].get("submitted"):
        assert collected.code == 0
    _each_once(bench)
