"""A random mix of every fault over one job, through the command line, and the ledger against the bill at the end.

    python -m tests.faults.mix --tasks 2000 --seed 1

Every task carries its fault as a marker in its prompt, so the state in which it has to end is known from the error
table before anything is sent: some faults strike once, some twice, some each time. On top of that the simulator itself
strikes at random with errors that cost nothing, and ends the run a few times (key, quota, billing limit, organisation,
model); each time the next run goes on. Raises AssertionError if a single task, file or micro-dollar is not explained.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.edges.simulator_support import Peer, running
from tests.faults.support import KEY, KEY_VARIABLE, Account, Job, Row
from tests.faults.table import EXPECTED, SIMULATED, Fault, Kind

RETRY = {"attempts": 20, "billed_attempts": 3, "rate_limited_attempts": 20, "base_s": 0.01, "max_s": 0.05}
"""Attempts enough that what the simulator does by chance never uses them up."""
ALLOWED = {Kind.RETRYABLE: 20, Kind.LIMITED: 20, Kind.LOST: 3, Kind.UNUSABLE: 3, Kind.REFUSED: 1}
TIMEOUTS = {"connect_s": 30, "first_byte_s": 2.5, "stall_s": 2, "total_s": 60}
CONCURRENCY = 16
HEALTHY_SHARE = 0.4
PERSISTENT_SHARE = 0.25
"""Of the tasks that meet a fault, so many meet it each time."""
STOPS = ("insufficient_quota", "invalid_api_key", "billing_hard_limit", "unverified", "model_not_found")
BY_CHANCE = ("status:share=0.02,value=500", "status:share=0.02,value=503", "rate_limit:share=0.02,value=0.02")
MAX_RUNS = len(STOPS) + 3


@dataclass(frozen=True, slots=True)
class Plan:
    """One task: its prompt, the fault that it meets (None for none), and how often (None for each time)."""

    prompt: str
    fault: Fault | None
    times: int | None

    @property
    def status(self) -> str:
        """The state in which the task has to end."""
        if self.fault is None:
            return "done"
        # A refusal is for good, once told.
        lasts = self.times is None or self.fault.kind is Kind.REFUSED
        return EXPECTED[self.fault.kind].status if lasts else "done"


def draw(tasks: int, dice: random.Random) -> list[Plan]:
    """What each task will meet: every fault of the simulator but those that end a run, evenly, in a random order."""
    faults = [fault for fault in SIMULATED if fault.kind is not Kind.STOP]
    plans = []
    for number in range(tasks):
        text = f"A postcard of town number {number}"
        if dice.random() < HEALTHY_SHARE:
            plans.append(Plan(text, None, None))
            continue
        fault = faults[number % len(faults)]
        times = None if dice.random() < PERSISTENT_SHARE else dice.choice((1, 1, 2))
        stars = "" if times is None else f"*{times}"
        plans.append(Plan(f"[[fault:{fault.name}{stars}]] {text}", fault, times))
    dice.shuffle(plans)
    return plans


def rules() -> list[str]:
    """What the simulator does by itself. A run is ended early on, and each time by something else."""
    return [*(f"{kind}:after={5 + 20 * place},times=1" for place, kind in enumerate(STOPS)), *BY_CHANCE]


@dataclass(slots=True)
class Mixed:
    """What a mix came to."""

    tasks: int
    runs: int
    exit_codes: list[int]
    states: Counter[str]
    faults: Mapping[str, int]
    account: Account
    bill: Mapping[str, Any]

    def lines(self) -> list[str]:
        """The totals, for people."""
        account = self.account

        def listed(counts: Mapping[str, int]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

        settled, over = account.settled_microusd, account.estimated_too_much_microusd
        return [
            f"tasks        {self.tasks}: {listed(self.states)}; each in the state that the table gives",
            f"runs         {self.runs}, exit codes {self.exit_codes}",
            f"requests     {self.bill['requests']} seen by the simulator, {account.requests} on record",
            f"faults       {listed(self.faults)}",
            f"bill         {account.billed} requests, {account.billed_microusd} micro-dollars",
            f"settled      {settled} micro-dollars, of them {account.estimated} estimates, {over} above the bill",
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
    job = Job(folder, [plan.prompt for plan in plans], RETRY, TIMEOUTS, CONCURRENCY, name="mix")
    codes: list[int] = []
    while (not codes or codes[-1] == 6) and len(codes) < MAX_RUNS:
        codes.append(run_once(job, peer))
    assert codes[:-1] == [6] * min(len(STOPS), len(codes) - 1)
    assert codes[-1] == (4 if any(plan.status != "done" for plan in plans) else 0)

    rows = job.rows()
    for plan, row in zip(plans, rows, strict=True):
        _judge(plan, row)
    job.hold_files(rows)
    bill = peer.bill()
    account = Account.of(rows, peer.entries())
    assert account.requests == bill["requests"]
    assert account.billed_microusd == bill["cost_microusd"]
    states = Counter(row.status for row in rows)
    return Mixed(tasks, len(codes), codes, states, bill["faults"], account, bill)


def run_once(job: Job, peer: Peer, *more: str) -> int:
    """One run to its end, in a process of its own; its exit code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNNER_", "OPENAI_"))}
    arguments = ["run", str(job.write()), "--base-url", peer.base_url, "--api-key-env", KEY_VARIABLE, *more]
    ended = subprocess.run(
        [sys.executable, "-m", "runner", *arguments, "--output", str(job.output), "--json"],
        capture_output=True,
        text=True,
        env={**kept, KEY_VARIABLE: KEY, "XDG_STATE_HOME": str(job.folder / "state")},
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["type"] == "summary", ended.stderr
    assert summary["exit_code"] == ended.returncode in (0, 4, 6), summary["reason"]
    return ended.returncode


def _judge(plan: Plan, row: Row) -> None:
    """A task against what was drawn for it."""
    assert row.prompt == plan.prompt
    assert row.status == plan.status, (plan, row)
    fault = plan.fault
    if fault is None or fault.kind in (Kind.DONE, Kind.ESTIMATED):
        own: list[dict[str, Any]] = []
    else:
        own = [a for a in row.attempts if a["error_code"] == fault.code and a["http_status"] == fault.http_status]
        least = plan.times if plan.status == "done" else ALLOWED[fault.kind]
        # What strikes by chance can look the same; a task in doubt is tried again by the run after a stop.
        assert len(own) >= (least or 0), (plan, row)
    if fault is not None and fault.kind is Kind.ESTIMATED and plan.times is None:
        assert row.attempts[-1]["cost_basis"] == "estimate"
    if fault is not None and plan.status not in ("done", "planned"):
        assert row.error_code == fault.code, (plan, row)


def main() -> None:
    """One long mix; prints its totals."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mix", description="A random mix of all faults.")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="runner-faults-") as folder,
        running(art="flat", seed=given.seed, faults=rules()) as peer,
    ):
        mixed = mix(Path(folder), peer, tasks=given.tasks, seed=given.seed)
    print(f"seed         {given.seed}")
    print("\n".join(mixed.lines()))


if __name__ == "__main__":
    main()
