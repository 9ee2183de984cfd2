"""The long crash campaign: rounds of a seeded sequence until there were enough kills, and the totals.

    python -m tests.crash.campaign --kills 330 --seed 20261122
    python -m tests.crash.campaign --round-seed 123456789       one round again, with its story
    python -m tests.crash.campaign --kills 110 --on postgres+s3   a ledger on a server, images in a bucket, two hosts

Owns the simulators, the sequence of rounds, the totals and how they look. A round is `rounds`, the laws are `laws`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from tests.crash.crash_support import DyingRunner, provider
from tests.crash.grounds import HOME, PLACES, Ground, grounds, preload
from tests.crash.plans import PEERS, Plan, Report
from tests.crash.rounds import Round
from tests.edges.simulator_support import Peer
from tests.servers.postgres import ABSENT, programs

KILLS, SEED = 330, 20261122
PROGRESS_S = 15.0


@dataclass(slots=True)
class Totals:
    """What a campaign came to."""

    seed: int
    on: str = HOME
    rounds: int = 0
    kills: int = 0
    runs: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_phase: Counter[str] = field(default_factory=Counter)
    by_step: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[Report] = field(default_factory=list)
    wall_s: float = 0.0

    def add(self, report: Report) -> None:
        """Take in one round."""
        self.rounds += 1
        self.kills += report.kills
        self.runs += report.runs
        self.by_kind.update(report.by_kind)
        self.by_phase.update(report.by_phase)
        self.by_step.update(report.by_step)
        self.counts.update(report.counts)
        if report.problems:
            self.failed.append(report)

    def lines(self) -> Iterator[str]:
        """The totals, for people."""
        count, usd = self.counts, _usd
        where = "" if self.on == HOME else f" on {self.on}"
        took = f"{self.rounds} rounds, {self.runs} runs, {self.wall_s:.0f} s"
        yield f"seed {self.seed}{where}: {self.kills} kills in {took}"
        yield f"  kills by kind      {_listed(self.by_kind)}"
        yield f"  kills while        {_listed(self.by_phase)}"
        yield (
            f"  images             {count['wanted']} wanted, {count['kept']} kept ({count['reused']} of them reused, "
            f"{count['superseded']} superseded by edits)"
        )
        yield f"                     {count['served']} served and billed, {count['spoilt']} spoilt by the provider"
        yield (
            f"  in flight at kills {count['in flight at kills']}: {count['adopted']} adopted, "
            f"{count['in doubt by kills']} in doubt, {count['repeated']} billed and not kept"
        )
        yield (
            f"  money              billed {usd(count['billed microusd'])}, settled {usd(count['settled microusd'])}, "
            f"in doubt {usd(count['doubt microusd'])} ({count['in doubt']} attempts)"
        )
        yield f"  edits              {count['composites']} composites and renditions on record"
        waiting = count["in batches at kills"]
        yield f"  batches            {count['batches']} collected, {waiting} requests in one at a kill"
        yield f"  budgets            {count['capped rounds']} rounds have one, {count['ended at the cap']} ended at it"
        if self.on != HOME:
            changes, behind = count["changes of host"], count["left on another host"]
            yield f"  hosts              {changes} times another went on, {behind} temporary files out of its reach"
            cuts, faults = count["connections cut"], count["faults of the store"]
            yield f"  trouble            {cuts} connections with the ledger cut, {faults} requests to the store spoilt;"
            yield f"                     {count['ended by trouble']} runs ended by that"
        yield "  violations"
        yield f"    images lost                           {count['lost']}"
        yield f"    paid twice beyond those in flight     {count['beyond'] + count['paid again']}"
        yield f"    sent by a run with nothing to do      {count['sent by a further run']}"
        yield f"    over the cap                          {count['over the cap']}"
        yield f"    all, these and any other              {sum(len(report.problems) for report in self.failed)}"
        yield "  kills by step"
        for step, number in sorted(self.by_step.items(), key=lambda item: (-item[1], item[0])):
            yield f"    {number:4d}  {step}"


def campaign(
    kills: int,
    seed: int,
    *,
    tell: Callable[[str], None],
    keep: Path,
    peers: tuple[str, ...] = tuple(PEERS),
    round_seed: int | None = None,
    on: str = HOME,
) -> Totals:
    """Play rounds until `kills` processes were killed, or one round, if its seed is given; `on` names their ground.

    `tell` hears of progress and violations. The folders of rounds in which something was violated stay below `keep`.
    """
    totals, dice, began = Totals(seed, on), random.Random(seed), time.monotonic()
    told_at = began
    with (
        _simulators(peers, tell) as simulators,
        DyingRunner(*preload(on)) as dying,
        grounds(on) as ground_in,
    ):
        while totals.kills < kills:
            plan = Plan.thrown(dice.getrandbits(40) if round_seed is None else round_seed, peers)
            folder = keep / f"round-{plan.seed}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            ground = ground_in(folder)
            report = Round(plan, simulators[plan.peer], dying, folder, ground).play()
            totals.add(report)
            if report.problems:
                _keep_books(ground, folder)
            ground.close()
            if report.problems or round_seed is not None:
                _tell_round(report, folder, on, tell)
            if not report.problems:
                shutil.rmtree(folder)
            if round_seed is not None:
                break
            if time.monotonic() - told_at > PROGRESS_S:
                told_at = time.monotonic()
                tell(
                    f"{totals.kills} of {kills} kills, {totals.rounds} rounds, {totals.counts['kept']} images kept, "
                    f"{len(totals.failed)} rounds with violations ({told_at - began:.0f} s)"
                )
    totals.wall_s = time.monotonic() - began
    return totals


@contextmanager
def _simulators(names: Sequence[str], tell: Callable[[str], None]) -> Iterator[dict[str, Peer]]:
    """The simulators, each a process; what one of them had to complain of is told, and is no violation."""

    def complaint(name: str, line: str) -> None:
        tell(f"the simulator {name!r} wrote: {line}")

    with ExitStack() as stack:
        yield {
            name: stack.enter_context(provider(partial(complaint, name), art="flat", **PEERS[name])) for name in names
        }


def _keep_books(ground: Ground, folder: Path) -> None:
    """What is to be looked at of a ground that is no folder, beside the round's own."""
    if ground.name == HOME:
        return
    seen = {"books": asdict(ground.ledger.books()), "files": ground.files.files(), "left": ground.left()}
    (folder / "seen.json").write_text(json.dumps(seen, indent=1, default=str))


def _tell_round(report: Report, folder: Path, on: str, tell: Callable[[str], None]) -> None:
    tell(f"round {report.plan.seed}: {report.plan.told()}")
    for line in report.story:
        tell(f"    {line}")
    for problem in report.problems:
        tell(f"  violated: {problem}")
    if report.problems:
        tell(f"  folder: {folder}")
        where = "" if on == HOME else f" --on {on}"
        tell(f"  again:  python -m tests.crash.campaign --round-seed {report.plan.seed}{where}")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())


def _usd(microusd: int) -> str:
    return f"${microusd / 1e6:.6f}"


def main() -> int:
    """The command line; 1 when a law did not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash.campaign", description="Kill runs, resume them, check."
    )
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how many processes to kill [{KILLS}]")
    parser.add_argument("--seed", type=int, default=SEED, help=f"what the rounds follow from [{SEED}]")
    parser.add_argument("--round-seed", type=int, help="play this one round, and tell its story")
    parser.add_argument("--keep", type=Path, help="where the folders of violated rounds stay [a temporary folder]")
    parser.add_argument("--on", choices=PLACES, default=HOME, help=f"where the ledger and the images are [{HOME}]")
    given = parser.parse_args()
    if given.on.startswith("postgres") and programs() is None:
        parser.error(ABSENT)
    keep = given.keep or Path(tempfile.mkdtemp(prefix="runner-crash-"))
    with tempfile.TemporaryDirectory(prefix="runner-state-") as state:
        # The runs pace each other there, keep their converted pictures there, and nobody else.
        os.environ["XDG_STATE_HOME"] = os.environ["XDG_CACHE_HOME"] = state
        totals = campaign(given.kills, given.seed, tell=_print, keep=keep, round_seed=given.round_seed, on=given.on)
    for line in totals.lines():
        _print(line)
    if given.keep is None and not totals.failed:
        keep.rmdir()
    return 1 if totals.failed else 0


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
