"""Three hosts, one team: a ledger on PostgreSQL, images in a bucket, one key of a provider that enforces its limits.

Each host is a process with state, cache, spool and working folders of its own, so that nothing but the ledger and the
bucket can hold them together.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import laws
from tests.hosts.team import Team, committed_microusd, refused, servers, team, until, used
from tests.servers.postgres import ABSENT, Server, programs
from tests.servers.s3 import S3

pytestmark = pytest.mark.skipif(programs() is None, reason=ABSENT)

HOSTS = ("one", "two", "three")
PER_MINUTE, WINDOW_S = 300, 3.0
"""15 images in any 3 seconds."""
MANY = 24
"""As `OWN`, where requests are counted that come too soon."""
REFUSED = 0.05
"""The share of requests that may come too soon here, where a busy machine delays some of few: `measure` counts more of
them, and tells the true share. Three who know nothing of each other have one in eight and more refused."""
OWN = 20
"""Images that each job has for itself, and as many that all three have in common."""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Server, S3]]:
    with servers() as both:
        yield both


@pytest.fixture
def free(tmp_path: Path, both: tuple[Server, S3]) -> Iterator[Team]:
    """A team whose provider has no limit."""
    with team(tmp_path, *both, latency_s="0.05", payload_kb=20) as made:
        yield made


@pytest.fixture
def limited(tmp_path: Path, both: tuple[Server, S3]) -> Iterator[Team]:
    """A team whose provider refuses whatever comes too soon."""
    with team(tmp_path, *both, latency_s="0.2", images_per_minute=PER_MINUTE, window_s=WINDOW_S, payload_kb=20) as made:
        yield made


def _wanted(host: str, each: int = OWN) -> list[str]:
    """The prompts of a host's job; half of them are those of every other."""
    shared = [f"A door that everybody wants, number {number}" for number in range(each)]
    own = [f"A window of host {host}, number {number}" for number in range(each)]
    # In an order of their own, so that they meet at some of the shared ones and find others made.
    mixed = [prompt for pair in zip(shared, own, strict=True) for prompt in pair]
    turn = HOSTS.index(host) * 7
    return mixed[turn:] + mixed[:turn]


def test_the_same_job_on_three_hosts_at_once_is_worked_on_by_one(free: Team) -> None:
    """Exactly one works; the others end with 7, name who holds the job and since when, and send nothing."""
    free.rules("delay:value=0.5")
    prompts = [f"A lighthouse of the night, number {number}" for number in range(24)]
    runs = {host: free.start(host, free.write(host, "nightly", prompts, concurrency=2)) for host in HOSTS}
    until(lambda: sum(run.process.poll() is not None for run in runs.values()) >= 2)
    free.rules()
    ended = {host: run.wait() for host, run in runs.items()}
    assert sorted(each.code for each in ended.values()) == [0, 7, 7], [each.stderr for each in ended.values()]
    winner = next(host for host, each in ended.items() if each.code == 0)
    for host, each in ended.items():
        if host == winner:
            continue
        assert f"pid {runs[winner].process.pid} on {os.uname().nodename}" in each.stderr
        assert "since 20" in each.stderr
        assert "Traceback" not in each.stderr
        assert [event["type"] for event in each.events] == ["error"]
    assert free.problems() == []
    bill, books = free.peer.bill(), free.database.books()
    assert bill["requests"] == bill["images"] == len(prompts)
    assert bill["cost_microusd"] == books.settled_microusd()
    assert [run["exit_code"] for run in books.runs] == [0]
    again = [free.run(host, free.write(host, "nightly", prompts)).code for host in HOSTS]
    assert again == [0, 0, 0]
    assert free.peer.bill()["requests"] == len(prompts)


def test_three_jobs_at_once_keep_one_limit_and_pay_once_for_what_they_share(limited: Team) -> None:
    """Each believes that the whole limit of the key is its own; hardly a request is refused, no image is paid twice."""
    lines = {host: limited.write(host, f"job-{host}", _wanted(host, MANY), per_minute=PER_MINUTE) for host in HOSTS}
    runs = {host: limited.start(host, lines[host]) for host in HOSTS}
    ended = {host: run.wait() for host, run in runs.items()}
    assert [each.code for each in ended.values()] == [0, 0, 0], [each.stderr for each in ended.values()]
    bill, entries, books = limited.peer.bill(), limited.peer.entries(), limited.database.books()
    distinct = {prompt for host in HOSTS for prompt in _wanted(host, MANY)}
    assert Counter(entry["prompt_sha256"] for entry in entries) == Counter(map(laws.sha256_of, distinct))
    assert refused(bill) < REFUSED
    # No promise of speed: that the three did not take turns in waiting for each other.
    assert used(entries, PER_MINUTE) > 0.5
    assert {each.summary["done"] for each in ended.values()} == {2 * MANY}
    assert bill["cost_microusd"] == books.settled_microusd()
    assert books.doubt_microusd() == 0
    assert limited.problems() == []
    again = [limited.run(host, lines[host]).code for host in HOSTS]
    assert again == [0, 0, 0]
    assert limited.peer.bill()["requests"] == bill["requests"]


def test_three_jobs_at_once_keep_one_cap(free: Team) -> None:
    """Settled, reserved and in doubt together never pass the ledger's cap, at no instant; every job ends with 5."""
    cap_microusd = 30 * 6_000
    assert free.run("one", ["ledger", "cap", f"{cap_microusd / 1e6}"]).code == 0
    runs = {host: free.start(host, free.write(host, f"job-{host}", _wanted(host))) for host in HOSTS}
    seen = []
    while any(run.process.poll() is None for run in runs.values()):
        seen.append(committed_microusd(free.database.snapshot()))
    ended = {host: run.wait() for host, run in runs.items()}
    assert [each.code for each in ended.values()] == [5, 5, 5], [each.stderr for each in ended.values()]
    bill, books = free.peer.bill(), free.database.books()
    assert max(seen) <= cap_microusd
    assert len(seen) > 20
    assert bill["cost_microusd"] == books.settled_microusd() <= cap_microusd
    # Nobody has stopped before what is left could not pay for the worst case of one more.
    assert books.settled_microusd() > cap_microusd - 2 * 6_000
    assert all(count == 1 for count in Counter(entry["prompt_sha256"] for entry in free.peer.entries()).values())
    assert free.problems(complete=False) == []


def test_a_host_that_dies_costs_no_more_than_what_it_had_under_way(free: Team) -> None:
    """One of three is killed in the middle; its job goes on at once elsewhere, the others do not notice."""
    lines = {host: (f"job-{host}", _wanted(host)) for host in HOSTS}
    free.rules("delay:value=1.5")
    runs = {host: free.start(host, free.write(host, *lines[host])) for host in HOSTS}
    until(lambda: all(run.heard("saved") >= 1 for run in runs.values()))
    runs["two"].kill()
    free.rules()
    elsewhere = free.start("four", free.write("four", *lines["two"]))
    books = free.database.snapshot()
    dead = max(run["id"] for run in books.runs if run["job_id"] == _job(books, "job-two"))
    cut = {attempt["id"] for attempt in books.attempts if attempt["run_id"] == dead and attempt["outcome"] is None}
    ended = [elsewhere.wait(), runs["one"].wait(), runs["three"].wait()]
    assert [each.code for each in ended] == [0, 0, 0], [each.stderr for each in ended]
    assert cut
    assert free.problems(open_at_kills=cut) == []
    books, entries = free.database.books(), free.peer.entries()
    asked, billed = books.asked(), Counter(map(laws.asked_of, entries))
    # Also by a job that wants the same image, and did not wait to see whether the dead one's could be taken over.
    under_way = {asked[attempt["task_id"]] for attempt in books.attempts if attempt["id"] in cut}
    assert {what for what, count in billed.items() if count > 1} <= under_way
    assert len(billed) == len({prompt for host in HOSTS for prompt in _wanted(host)})
    assert len(entries) - len(billed) <= len(cut) <= 8
    assert {each.summary["done"] for each in ended} == {2 * OWN}
    spent = books.settled_microusd()
    assert spent <= free.peer.bill()["cost_microusd"] <= spent + books.doubt_microusd()
    requests = free.peer.bill()["requests"]
    assert free.run("two", free.write("two", *lines["two"])).code == 0
    assert free.peer.bill()["requests"] == requests


def _job(books: laws.Books, name: str) -> int:
    return next(int(job["id"]) for job in books.jobs if job["name"] == name)
