"""A random mix of every fault over one job in batches, through the command line, and the ledger against the bill.

    python -m tests.faults.batch_mix --tasks 2000 --seed 1

As in `mix`, every task carries its fault as a marker, so that the state in which it has to end is known before; beside
that, calls of the Files and Batch API fail by chance, and so do batches. What the simulator expires by itself is never
billed, and is submitted again. Raises AssertionError if a single task, file, batch or micro-dollar is not explained.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.edges.simulator_support import Peer, running
from tests.faults.batch_table import ANSWERS, LINES
from tests.faults.mix import ALLOWED, Plan, run_once
from tests.faults.support import Account, Job, Row
from tests.faults.table import Fault, Kind

RETRY = {"attempts": 6, "billed_attempts": 3, "base_s": 0.01, "max_s": 0.05}
TIMEOUTS = {"connect_s": 30, "first_byte_s": 10, "stall_s": 10, "total_s": 60}
SHARE = 0.02
"""Of the tasks, so many meet each kind of fault."""
PERSISTENT_SHARE = 0.25
MAX_REQUESTS = 100
RUNS_PER_BATCH = 3
"""A run ends when a line says that all of it must stop, and the next one goes on."""
RULES = (
    *(f"{call}_500:share=0.1" for call in ("upload", "retrieve", "content")),
    *(f"{call}_reset:share=0.1" for call in ("create", "retrieve", "content")),
    "create_500:after=3,times=1,value=before",
    "content_cut:share=0.3,value=0.4",
    "content_whole:share=0.3",
    "batch_expires:share=0.2,value=0.7",
)
"""What the simulator does by chance. A batch that hid what expired would leave that in doubt beside lines that are
missing, and no one could say in which state a task has to end."""
_KINDS = [*ANSWERS, *LINES, Fault("expired", Kind.RETRYABLE, "batch_expired", None)]


def draw(tasks: int, dice: random.Random) -> list[Plan]:
    """What each task will meet: each kind as often as every other, in a random order, the rest nothing."""
    plans: list[Plan] = []
    for fault in _KINDS:
        for _ in range(round(tasks * SHARE)):
            is_short = fault.kind is Kind.STOP or fault.name == "expired"
            times = 1 if is_short or dice.random() >= PERSISTENT_SHARE else None
            stars = "" if times is None else f"*{times}"
            plans.append(Plan(f"[[fault:{fault.name}{stars}]] A postcard of town {len(plans)}", fault, times))
    dice.shuffle(plans)
    plans = plans[: tasks * 4 // 5]
    plans += [Plan(f"A postcard of village {number}", None, None) for number in range(tasks - len(plans))]
    dice.shuffle(plans)
    return plans


@dataclass(frozen=True, slots=True)
class Mixed:
    """What a mix came to."""

    tasks: int
    exit_codes: list[int]
    batches: int
    states: Counter[str]
    faults: Mapping[str, int]
    account: Account

    def lines(self) -> list[str]:
        """The totals, for people."""
        account = self.account

        def listed(counts: Mapping[str, int]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

        return [
            f"tasks        {self.tasks}: {listed(self.states)}; each in the state that the table gives",
            f"runs         {len(self.exit_codes)}, exit codes {self.exit_codes}; {self.batches} batches, each once",
            f"faults       {listed(self.faults)}",
            f"bill         {account.billed} requests, {account.billed_microusd} micro-dollars",
            f"settled      {account.settled_microusd} micro-dollars, of them {account.estimated} estimates, "
            f"{account.estimated_too_much_microusd} above the bill",
            f"in doubt     {account.in_doubt} attempts, {account.in_doubt_microusd} micro-dollars; "
            f"{account.doubts_billed} of them are on the bill, with {account.doubts_billed_microusd}",
            f"unexplained  {account.unexplained_microusd} micro-dollars",
        ]


def mix(folder: Path, peer: Peer, *, tasks: int, seed: int) -> Mixed:
    """Make a job of so many tasks in `folder`, run it until it has ended, and judge it.

    Raises:
        AssertionError: something is not as the table, or the bill, says.
    """
    plans = draw(tasks, random.Random(seed))
    more = {"delivery": "batch", "batch": {"max_requests": MAX_REQUESTS}}
    job = Job(folder, [plan.prompt for plan in plans], RETRY, TIMEOUTS, name="mix", more=more)
    codes: list[int] = []
    most = 2 + RUNS_PER_BATCH * -(-tasks // MAX_REQUESTS)
    while (not codes or codes[-1] == 6) and len(codes) < most:
        codes.append(run_once(job, peer, "--wait"))
    assert codes[-1] == 4, codes

    rows = job.rows()
    for plan, row in zip(plans, rows, strict=True):
        _judge(plan, row)
    job.hold_files(rows)
    bill = peer.bill()
    account = Account.of(rows, peer.entries())
    assert account.billed_microusd == bill["cost_microusd"]
    _hold_batches(job, peer)
    return Mixed(tasks, codes, _created(peer), Counter(row.status for row in rows), bill["faults"], account)


def _judge(plan: Plan, row: Row) -> None:
    """A task against what was drawn for it; beside its own fault it may have met what strikes whole batches."""
    assert row.prompt == plan.prompt
    assert row.status == plan.status, (plan, row)
    fault = plan.fault
    if fault is None or fault.kind in (Kind.DONE, Kind.ESTIMATED):
        own: Sequence[Mapping[str, Any]] = []
    else:
        own = [a for a in row.attempts if (a["error_code"], a["http_status"]) == (fault.code, fault.http_status)]
        allowed = {**ALLOWED, Kind.RETRYABLE: RETRY["attempts"]}
        least = plan.times if plan.status == "done" else allowed[fault.kind]
        assert len(own) >= (least or 0), (plan, row)
    others = {a["error_code"] for a in row.attempts if a["outcome"] != "saved"} - {a["error_code"] for a in own}
    assert others <= {"batch_expired", "no_answer"}, (plan, row)


def _hold_batches(job: Job, peer: Peer) -> None:
    """Every batch at the provider is on record, once, and no file was run twice."""
    told = peer.call("GET", "/simulator/batches", key=None).json
    on_record = [batch["batch_id"] for batch in job.query("SELECT batch_id FROM batches WHERE batch_id IS NOT NULL")]
    assert sorted(on_record) == sorted(batch["id"] for batch in told["batches"])
    assert len({batch["input_sha256"] for batch in told["batches"]}) == len(on_record) == told["creates"]
    paid = Counter(entry["custom_id"] for entry in peer.entries())
    assert set(paid.values()) == {1}
    states = {batch["state"] for batch in job.query("SELECT state FROM batches")}
    assert states <= {"collected", "dissolved"}
    assert list((job.output / job.name / ".batches").iterdir()) == []


def _created(peer: Peer) -> int:
    return int(peer.call("GET", "/simulator/batches", key=None).json["creates"])


def main() -> None:
    """One long mix; prints its totals."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.batch_mix", description="All faults, in batches.")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="runner-faults-") as folder,
        running(art="flat", seed=given.seed, faults=RULES) as peer,
    ):
        mixed = mix(Path(folder), peer, tasks=given.tasks, seed=given.seed)
    print(f"seed         {given.seed}")
    print("\n".join(mixed.lines()))


if __name__ == "__main__":
    main()
