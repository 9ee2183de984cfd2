"""Jobs that share a ledger: an image that several want is paid once, and one cap holds for all of them."""

from __future__ import annotations

import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from tests.engine.command_support import KEY_VARIABLE, Desk, Said, wait

SLOW = "[[fault:delay=0.15]] shared"


def _both(desk: Desk, *jobs: str) -> list[Said]:
    """Runs of these jobs, begun together, each to its end."""
    processes = [desk.start("run", job, *desk.to_peer, "--json") for job in jobs]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(wait, processes))


def test_an_image_that_three_jobs_want_at_once_is_paid_once(desk: Desk) -> None:
    """Begun together, in the same order: each distinct image is asked for once, and every job has all of its own."""
    common = [f"{SLOW} {n}" for n in range(24)]
    jobs = [desk.manifest(f"job-{n}", [*common, f"only of {n}"]) for n in range(3)]
    said = _both(desk, *jobs)
    assert [each.code for each in said] == [0, 0, 0]
    assert [each.summary["done"] for each in said] == [25, 25, 25]
    assert desk.requests() == 24 + 3
    assert sum(each.summary["requests"] for each in said) == 24 + 3
    for n in range(3):
        assert len([file for file in desk.files(f"output/job-{n}") if file.suffix == ".png"]) == 25
    assert desk.call("verify", "--deep").code == 0


def _until_begun(desk: Desk, job: str) -> subprocess.Popen[str]:
    """A run whose first request is on record."""
    process = desk.start("run", job, *desk.to_peer, "--json")
    assert process.stdout
    for line in process.stdout:
        if '"attempt_began"' in line:
            return process
    raise AssertionError("it ended before it began anything")


def test_an_image_whose_maker_died_is_made_by_the_other(desk: Desk) -> None:
    """It is in doubt in the job of the dead run, and nobody waits for it."""
    for name in ("dies", "lives"):
        process = _until_begun(desk, desk.manifest(name, ["[[fault:delay=30]] slow"]))
        process.kill()
        wait(process)


def test_an_image_that_is_done_elsewhere_and_whose_file_is_gone_is_made(desk: Desk) -> None:
    """What is on record elsewhere and not to be had keeps nobody from having it."""
    first = desk.manifest("first", ["a shared picture"])
    assert desk.run(first).code == 0
    (image,) = [file for file in desk.files("output/first") if file.suffix == ".png"]
    image.unlink()
    second = desk.manifest("second", ["a shared picture"])
    said = desk.run(second, "--json")
    assert (said.code, said.summary["done"], said.summary["requests"]) == (0, 1, 1)


def test_one_cap_holds_for_all_jobs_of_a_ledger(desk: Desk) -> None:
    """Two runs at once that each could go on: both end at the cap with 5, and no more than it was spent."""
    jobs = [desk.manifest(f"job-{n}", [f"{SLOW} {n} {m}" for m in range(60)]) for n in range(2)]
    assert desk.run(jobs[0], "--limit", "1").code == 0
    assert desk.call("ledger", "cap", "0.30", "--per", "day").code == 0
    said = _both(desk, *jobs)
    assert [each.code for each in said] == [5, 5]
    assert all("all jobs of the ledger" in each.summary["reason"] + each.err for each in said)
    bill = desk.peer.bill()["cost_microusd"]
    told = desk.call("ledger", "cap", "--json").entries
    (real,) = [entry for entry in told if not entry["simulated"]]
    assert real["committed_usd"] * 1e6 == bill <= 300_000
    assert desk.call("verify").code == 0
    assert bill > 200_000, "what is left is less than what one request may cost for each that was in flight"
    assert desk.call("ledger", "cap", "none").code == 0
    said = _both(desk, *jobs)
    assert [each.code for each in said] == [0, 0]
    assert [each.summary["done"] for each in said] == [60, 60]


def test_a_cap_holds_for_batches_as_well(desk: Desk) -> None:
    """What does not fit is left planned, and the run says why with 5."""
    job = desk.manifest("batched", [f"picture {n}" for n in range(30)], delivery="batch")
    assert desk.call("ledger", "cap", "0.04").code == 0, "it may be set before anything was run"
    said = desk.run(job, "--wait", "--json")
    assert said.code == 5
    assert desk.peer.bill()["cost_microusd"] <= 40_000
    assert 1 < said.summary["done"] < 30
    assert desk.call("ledger", "cap", "none").code == 0
    assert desk.run(job, "--wait").code == 0


def test_the_cap_is_shown_and_what_is_typed_is_checked(desk: Desk) -> None:
    """In words and as JSON; an amount that is none is a usage error."""
    job = desk.manifest("one", ["a picture"])
    assert desk.run(job).code == 0
    assert "has no cap" in desk.call("ledger", "cap").out
    said = desk.call("ledger", "cap", "12.50", "--per", "month")
    assert "$12.50 per month" in said.out
    assert "left" in said.out
    assert desk.call("ledger", "cap", "much").code == 2
    assert desk.call("ledger", "cap", "5", "--per", "week").code == 2
    planned = desk.manifest("dear", [f"dear {n}" for n in range(9)], settings={"size": "1024x1024", "quality": "high"})
    assert desk.call("ledger", "cap", "0.01").code == 0
    said = desk.call("plan", planned, "--api-key-env", KEY_VARIABLE)
    assert "left of the ledger's cap" in said.out + said.err


def test_a_sum_that_was_tampered_with_is_found(desk: Desk) -> None:
    """`verify` holds what counts against the cap against the requests themselves."""
    assert desk.run(desk.manifest("one", ["a picture"])).code == 0
    assert desk.call("ledger", "cap", "5").code == 0
    with closing(sqlite3.connect(desk.folder / "output" / "ledger.sqlite3")) as database, database:
        database.execute("UPDATE cap_periods SET committed_microusd = committed_microusd + 1 WHERE simulated = 0")
    said = desk.call("verify")
    assert said.code == 1
    assert "ledger's cap" in said.out + said.err
