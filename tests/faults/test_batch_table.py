"""Whole runs through the Batch API against every fault that a line, a batch or a call can meet.

What has to become of a task and its money follows from the fault's class alone (`table.EXPECTED`, `batch_table`). The
ledger is held against the bill of the simulator, request by request: what is settled is what was billed for that very
request, and what was billed beside it is in doubt. However calls go wrong, no batch is created twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.simulator import faults as simulated
from tests.edges.simulator_support import Peer
from tests.engine.batch_support import Mill, hurry
from tests.engine.command_support import Said
from tests.faults.batch_table import ANSWERS, CALLS, EXPIRED, LINES, Calls
from tests.faults.table import ATTEMPTS, BILLED_ATTEMPTS, EXPECTED, Fault, Kind

RETRY = {"attempts": ATTEMPTS, "billed_attempts": BILLED_ATTEMPTS, "base_s": 0.001, "max_s": 0.002}
PERSISTENT = {**RETRY, "attempts": 20}
HASTY = {"connect_s": 10, "first_byte_s": 1.5, "stall_s": 5, "total_s": 30}
NOT_FOR_EVER = ("--max-duration", "60s")
"""A line that is tried again without end fails a test, and does not hang it."""
GOOD = ("A lighthouse at dusk", "A bakery window", "An oak chair")


@pytest.fixture
def mill(
    simulator: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Mill]:
    simulator.call("POST", "/simulator/reset")
    hurry(monkeypatch)
    mill = Mill(tmp_path, simulator, monkeypatch, capsys)
    mill.faults()
    yield mill
    mill.faults()


# -- what is judged ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A task and its attempts, as the ledger has them."""

    prompt: str
    status: str
    error_code: str | None
    attempts: list[dict[str, Any]]

    @property
    def outcomes(self) -> list[str]:
        """How each attempt ended."""
        return [attempt["outcome"] for attempt in self.attempts]


def rows(mill: Mill) -> list[Row]:
    """Every task, in the manifest's order."""
    attempts: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for attempt in mill.rows("SELECT * FROM attempts ORDER BY id"):
        attempts[attempt["task_id"]].append(attempt)
    tasks = mill.rows(
        "SELECT t.id, t.status, t.error_code, p.text FROM tasks t JOIN prompts p ON p.id = t.prompt_row "
        "ORDER BY t.position"
    )
    return [Row(task["text"], task["status"], task["error_code"], attempts[task["id"]]) for task in tasks]


def judge(fault: Fault, row: Row, *, once: bool) -> None:
    """Everything that the table says of a task that met `fault` in a batch."""
    expected = EXPECTED[fault.kind]
    outcomes = expected.once if once else expected.outcomes
    mended = outcomes[-1] == "saved"
    assert row.outcomes == list(outcomes), (fault, row)
    assert row.status == ("done" if mended else expected.status), (fault, row)
    assert row.error_code == (None if mended else fault.code), (fault, row)
    bad = [attempt for attempt in row.attempts if attempt["outcome"] != "saved"]
    for attempt in bad:
        assert (attempt["error_code"], attempt["http_status"]) == (fault.code, fault.http_status), (fault, attempt)
        assert attempt["error_message"]
        assert (attempt["doubt_microusd"] is not None) == (fault.kind is Kind.LOST), (fault, attempt)
        assert (attempt["cost_microusd"] is not None) == (fault.kind is Kind.UNUSABLE), (fault, attempt)
    bases = {attempt["cost_basis"] for attempt in row.attempts if attempt["cost_microusd"] is not None}
    usually = "estimate" if fault.kind is Kind.ESTIMATED else "usage"
    assert bases <= ({usually, "usage"} if once else {usually}), (fault, row)


def hold(mill: Mill, said: Said | None = None) -> None:
    """What holds whatever was met: money, files, and every batch once."""
    billed, doubt = mill.account()
    attempts = mill.rows("SELECT cost_microusd, cost_basis FROM attempts WHERE cost_microusd IS NOT NULL")
    settled = sum(attempt["cost_microusd"] for attempt in attempts)
    if all(attempt["cost_basis"] == "usage" for attempt in attempts):
        assert settled <= billed <= settled + doubt
    if said is not None:
        assert (said.summary["cost_microusd"], said.summary["in_doubt_microusd"]) == (settled, doubt)
    paid = [entry["custom_id"] for entry in mill.peer.entries() if entry["delivery"] == "batch"]
    assert len(paid) == len(set(paid)), "a request was run twice"
    told = mill.seen()
    ids = [row["batch_id"] for row in mill.rows("SELECT batch_id FROM batches WHERE batch_id IS NOT NULL")]
    assert sorted(ids) == sorted(batch["id"] for batch in told["batches"]), "a batch that is not on record"
    assert len(ids) == len(set(ids)) == told["creates"]
    assert len({batch["input_sha256"] for batch in told["batches"]}) == len(ids), "one file was run twice"
    done = mill.rows("SELECT a.path, a.bytes FROM tasks t JOIN assets a ON a.task_id = t.id WHERE t.status = 'done'")
    assert len(done) == mill.statuses().get("done", 0) == len(mill.images())
    for asset in done:
        assert (mill.folder / "output" / asset["path"]).stat().st_size == asset["bytes"]
    assert mill.leftovers() == []
    assert set(mill.states()) <= {"collected", "dissolved"}


def met(faults: Sequence[Fault]) -> list[str]:
    """The prompts of tasks of which one meets each of these faults once, one each time; good ones are among them."""
    prompts = [GOOD[0]]
    for fault in faults:
        prompts += [f"[[fault:{fault.name}*1]] once", f"[[fault:{fault.name}]] each time", f"beside {fault.name}"]
    return prompts


def judge_all(faults: Sequence[Fault], found: Sequence[Row]) -> None:
    """The tasks of `met`, good ones among them: an image at the first attempt, whatever is beside them."""
    assert found[0].outcomes == ["saved"]
    for number, fault in enumerate(faults):
        once, stays, beside = found[1 + 3 * number : 4 + 3 * number]
        judge(fault, once, once=True)
        judge(fault, stays, once=False)
        assert (beside.status, beside.outcomes) == ("done", ["saved"]), (fault, beside)


# -- lines ------------------------------------------------------------------------------------------

TOGETHER = [fault for fault in (*ANSWERS, *LINES) if fault.kind is not Kind.STOP]


def test_every_fault_of_a_line_ends_as_the_table_says(mill: Mill) -> None:
    """All of them in the same batches: status, code, attempts, money and files of each, and of the one beside it."""
    job = mill.job(prompts=met(TOGETHER), retry=RETRY, batch={"max_requests": 40})
    said = mill.wait(job, *NOT_FOR_EVER)
    assert said.code == 4
    judge_all(TOGETHER, rows(mill))
    hold(mill, said)


def test_every_fault_that_stops_a_run_does_so_after_what_has_come_is_home(mill: Mill) -> None:
    """The struck ones stay planned without a bill, the others of the same batch are done; the next run goes on."""
    faults = [fault for fault in ANSWERS if fault.kind is Kind.STOP]
    job = mill.job(prompts=met(faults), retry=RETRY)
    assert mill.wait(job).code == 6
    hold(mill)
    assert mill.statuses() == {"done": 1 + len(faults), "planned": 2 * len(faults)}
    assert mill.wait(job).code == 6
    hold(mill)
    found = rows(mill)
    for number, fault in enumerate(faults):
        once, stays, _ = found[1 + 3 * number : 4 + 3 * number]
        assert (once.status, once.outcomes) == ("done", ["backoff", "saved"]), (fault, once)
        assert (stays.status, stays.outcomes) == ("planned", ["backoff", "backoff"]), (fault, stays)
        for attempt in (once.attempts[0], *stays.attempts):
            assert (attempt["error_code"], attempt["http_status"]) == (fault.code, fault.http_status)
            assert (attempt["cost_microusd"], attempt["doubt_microusd"]) == (None, None)


def test_a_line_that_never_comes_to_its_turn_costs_nothing_and_stays_planned(mill: Mill) -> None:
    """Expired once: another batch brings it. Each time: the run ends when nothing else is left to be made."""
    prompts = [*GOOD, "[[fault:expired*1]] once", "[[fault:expired]] each time"]
    said = mill.wait(mill.job(prompts=prompts, retry=RETRY), *NOT_FOR_EVER)
    assert said.code == EXPIRED.exit_code
    *good, once, stays = rows(mill)
    assert [row.outcomes for row in good] == [["saved"]] * 3
    assert once.outcomes == list(EXPIRED.once)
    assert stays.status == EXPIRED.status
    assert set(stays.outcomes) == {"backoff"}
    assert len(stays.attempts) == mill.creates
    assert {attempt["error_code"] for attempt in stays.attempts} == {"batch_expired"}
    hold(mill, said)
    assert mill.account()[1] == 0


# -- batches ----------------------------------------------------------------------------------------

WAYS_TO_END = {
    "expires": ["batch_expires:times=1"],
    "expires when all is done": ["batch_expires:times=1,value=1"],
    "expires and hides it": ["batch_expires:times=1", "batch_hides:times=1"],
    "queue full": ["batch_fails:times=1,value=token_limit_exceeded"],
}


@pytest.mark.parametrize("rules", WAYS_TO_END.values(), ids=WAYS_TO_END)
def test_what_a_batch_did_not_come_to_is_made_by_another(mill: Mill, rules: list[str]) -> None:
    """Every image in the end, for exactly what is on the bill, and nothing in doubt."""
    mill.faults(*rules)
    said = mill.wait(mill.job(prompts=[f"An oak chair, number {n}" for n in range(8)], retry=RETRY))
    assert said.code == 0
    hold(mill, said)
    mill.all_home(8)


@pytest.mark.parametrize("tells", [False, True], ids=["silent", "tells"])
@pytest.mark.parametrize("stuck", ["validating", "in_progress", "finalizing"])
def test_a_batch_that_is_stuck_is_given_up_and_its_images_are_made_online(mill: Mill, stuck: str, tells: bool) -> None:
    """`after`: it is cancelled, however that call goes wrong; what it made is brought home, the rest is made online."""
    ends = ("429", "500", "reset", "500=before")
    cancels = Calls("cancel", ends, also=(f"batch_stuck:times=1,value={stuck}",)).rules
    mill.faults(*cancels, *(["batch_tells"] if tells else []))
    job = mill.job(prompts=GOOD, retry=PERSISTENT, batch={"after": "0.5s", "fall_back": "online"})
    said = mill.wait(job)
    assert said.code == 0
    hold(mill, said)
    mill.all_home(3)


@pytest.mark.parametrize("line", [None, 2])
def test_a_batch_that_fails_its_validation_costs_nothing(mill: Mill, line: int | None) -> None:
    """Without a line to blame the run ends and all stays planned; with one that one is refused."""
    mill.faults("batch_fails:times=1,value=invalid_request" + (f"@{line}" if line else ""))
    job = mill.job(prompts=GOOD, retry=RETRY)
    said = mill.wait(job)
    assert said.code == (4 if line else 6)
    assert mill.statuses() == ({"done": 2, "refused": 1} if line else {"planned": 3})
    hold(mill, said)
    again = mill.wait(job)
    assert again.code == (4 if line else 0)
    hold(mill)


# -- calls ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", CALLS, ids=lambda calls: f"{calls.call}: {', '.join(calls.faults)}")
def test_however_calls_go_wrong_every_image_comes_home_and_no_batch_is_made_twice(mill: Mill, calls: Calls) -> None:
    """Each fault strikes one call: it is made again, or what it may have done is looked for. Equal to the bill."""
    mill.faults(*calls.rules)
    prompts = [f"An oak chair, number {number}" for number in range(calls.tasks)]
    said = mill.wait(mill.job(prompts=prompts, retry=PERSISTENT, timeouts=HASTY, batch={"max_requests": calls.in_each}))
    struck = mill.peer.bill()["faults"]
    for fault in calls.faults:
        assert struck.get(f"{calls.call}_{fault.partition('=')[0]}"), f"{fault} has struck nothing"
    assert said.code == 0, said.summary
    hold(mill, said)
    mill.all_home(calls.tasks)
    assert mill.creates == calls.tasks // calls.in_each


@pytest.mark.parametrize("wait", ["--wait", "--no-wait"])
@pytest.mark.parametrize("fault", ["create_500:value=before", "create_reset:value=before"])
def test_a_batch_that_is_never_created_ends_the_run_and_is_sent_by_the_next(mill: Mill, fault: str, wait: str) -> None:
    """As many tries as the manifest allows, each looked for in vain; nothing was made, and nothing is forgotten."""
    mill.faults(fault)
    job = mill.job(prompts=GOOD, retry=RETRY)
    said = mill.run(job, wait, "--json", *NOT_FOR_EVER)
    assert said.code == 6
    assert "was not created" in said.summary["reason"]
    assert mill.seen()["calls"]["create"] == ATTEMPTS
    assert (mill.creates, mill.peer.bill()["requests"]) == (0, 0)
    assert mill.statuses() == {"submitted": 3}
    mill.faults()
    assert mill.wait(job).code == 0
    hold(mill)
    mill.all_home(3)
    assert mill.creates == 1


def test_results_that_are_gone_today_are_collected_tomorrow(mill: Mill) -> None:
    """A 404 for results that cannot have been deleted yet puts nothing in doubt."""
    mill.faults("content_gone")
    mill.submit(mill.job(prompts=GOOD, retry=RETRY))
    mill.over()
    assert mill.collect("night").code not in (0, 4)
    assert mill.statuses() == {"submitted": 3}
    mill.faults()
    assert mill.collect("night").code == 0
    hold(mill)
    mill.all_home(3)


def test_no_fault_of_the_simulator_is_left_out() -> None:
    """What it can do to lines, batches and calls is met in this file; but for a call that the runner never makes."""
    lines = {fault.name.partition("=")[0] for fault in (*ANSWERS, *LINES)} | {"expired"}
    assert lines == {*simulated.KINDS, *simulated.LINES} - {*simulated.WIRE, "gzip"} | {"status"}
    ends = {f"{calls.call}_{fault.partition('=')[0]}" for calls in CALLS for fault in calls.faults}
    ends |= {"content_gone", *(f"cancel_{end}" for end in ("429", "500", "reset"))}
    left = {kind for kind in simulated.CALLS if not kind.startswith("file_")} - ends
    assert left == {"cancel_hang"}, "it differs from a reset in nothing but the wait"
