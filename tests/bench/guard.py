"""`make guard`: a small benchmark that fails when an image or a task has come to cost much more than it should.

    python -m tests.bench.guard

Only ratios are judged, never seconds, and with wide margins: both sides run in turn on the same machine, in the same
environment (the runner's own has the SDK), so that a slow or busy machine slows both. Of CPU times the least of the
turns is taken, because what else goes on can only add to it; of peaks the median. Exit code 1 says what is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import big_job, part_limiter
from tests.bench.measure import run
from tests.bench.server import Settings
from tests.bench.sides import Homes, Order, Outcome, environment, folder, make

TURNS = 3
MOST_CPU = 1.2
"""CPU per further image against the plain script, 1.5 MB, 16 in flight."""
FEW_IMAGES, MANY_IMAGES = 20, 180
MOST_HELP = 0.5
"""CPU of `runner --help` against that of importing the SDK."""
MOST_MEMORY = 0.6
"""Peak memory against the plain script, 3 MB, 64 in flight. `make bench` holds it against 0.35, at 128."""
MOST_GROWTH = 2.0
"""CPU for each task that is enrolled, among 50,000 against among 5,000."""
FEW_TASKS, MANY_TASKS = 5_000, 50_000
LEAST_USED_PERCENT, MOST_DRAWN_PERCENT = 85.0, 5.0
_LIMITED = part_limiter.Case("600/min as 10 in any 1 s", 600, 1, seconds=13)


@dataclass(frozen=True, slots=True)
class Judged:
    """One figure, and whether it is as it should be."""

    good: bool
    words: str


def cpu(homes: Homes) -> Iterator[Judged]:
    """An image must not cost more CPU than in the script that everyone writes; start-up cancels out."""
    settings = Settings(image_bytes=1_500_000, p50_s=0.1, p95_s=0.1)
    costs: list[float] = []
    few, many = (_in_turn(homes, TURNS, settings, Order(images, 16)) for images in (FEW_IMAGES, MANY_IMAGES))
    for side_few, side_many in zip(few, many, strict=True):
        more_s = min(each.took.cpu_s for each in side_many) - min(each.took.cpu_s for each in side_few)
        costs.append(1000 * more_s / (MANY_IMAGES - FEW_IMAGES))
    ours, theirs = costs
    yield Judged(
        ours <= MOST_CPU * theirs,
        f"CPU per image is {ours / theirs:.2f} x that of the plain script ({ours:.1f} ms, {theirs:.1f} ms); "
        f"{MOST_CPU:g} x is the most",
    )


def startup(homes: Homes) -> Iterator[Judged]:
    """What shows the help imports no SDK."""
    helps, imports = [], []
    with folder(homes) as scratch:
        environ = environment(scratch / "state")
        for _ in range(TURNS):
            helps.append(run([homes.runner, "-m", "runner", "--help"], folder=scratch, environment=environ).cpu_s)
            imports.append(run([homes.runner, "-c", "import openai"], folder=scratch, environment=environ).cpu_s)
    found = min(helps) / min(imports)
    yield Judged(
        found <= MOST_HELP, f"`--help` takes {found:.2f} x the CPU of `import openai`; {MOST_HELP:g} x is the most"
    )


def memory(homes: Homes) -> Iterator[Judged]:
    """No body is ever held whole."""
    ours, theirs = _in_turn(homes, 2, Settings(image_bytes=3_000_000, p50_s=0.4, p95_s=0.4), Order(96, 64))
    our_mb, their_mb = (median(each.took.peak_rss_bytes for each in side) / 1e6 for side in (ours, theirs))
    found = our_mb / their_mb
    yield Judged(
        found <= MOST_MEMORY,
        f"peak memory is {found:.2f} x that of the plain script ({our_mb:.0f} MB, {their_mb:.0f} MB); "
        f"{MOST_MEMORY:g} x is the most",
    )


def enrolment(homes: Homes) -> Iterator[Judged]:
    """A task costs the same however many there are."""
    few, many = [], []
    for _ in range(TURNS):
        few.append(_enrol(homes, FEW_TASKS))
        many.append(_enrol(homes, MANY_TASKS))
    found = min(many) / min(few)
    yield Judged(
        found <= MOST_GROWTH,
        f"a task among {MANY_TASKS:,} takes {found:.2f} x the CPU to enrol of one among {FEW_TASKS:,}; "
        f"{MOST_GROWTH:g} x is the most",
    )


def limiter(homes: Homes) -> Iterator[Judged]:
    """A known limit is used, and not run into."""
    order = _LIMITED.order
    outcome = make("runner", homes, _LIMITED.settings, order)
    use = part_limiter.judge(outcome, order, per_minute=_LIMITED.per_minute, window_s=_LIMITED.window_s)
    used = use.used_percent or 0.0
    yield Judged(
        used >= LEAST_USED_PERCENT,
        f"{used:.0f} % of a limit of {_LIMITED.name} is used; {LEAST_USED_PERCENT:g} % is the least",
    )
    yield Judged(
        use.drawn_percent <= MOST_DRAWN_PERCENT,
        f"{use.drawn_percent:.1f} 429s are drawn for each 100 images; {MOST_DRAWN_PERCENT:g} is the most",
    )
    yield Judged(use.lost == 0, f"{use.lost} images of {order.images} are lost to the limit; 0 is the most")


CHECKS: dict[str, Callable[[Homes], Iterator[Judged]]] = {
    "cpu": cpu,
    "memory": memory,
    "enrolment": enrolment,
    "limiter": limiter,
    "startup": startup,
}


def _in_turn(homes: Homes, turns: int, settings: Settings, order: Order) -> tuple[list[Outcome], list[Outcome]]:
    """The runner and the plain script, A B A B."""
    ours, theirs = [], []
    for _ in range(turns):
        ours.append(make("runner", homes, settings, order))
        theirs.append(make("plain", homes, settings, order))
    return ours, theirs


def _enrol(homes: Homes, tasks: int) -> float:
    """CPU seconds of enrolment for each task; start-up is not in it."""
    with folder(homes) as scratch:
        job = big_job.write(scratch, tasks)
        words: list[str | Path] = [homes.runner, "-m", "tests.bench.enrol_alone", job, scratch / "ledger.sqlite3"]
        told = json.loads(run(words, folder=scratch, environment=environment(scratch / "state")).stdout)
    return float(told["cpu_s"]) / int(told["tasks"])


def main() -> int:
    """The command line; 1 when something is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.guard", description="Ratios that must not grow.")
    parser.add_argument("--only", choices=tuple(CHECKS), help="one of the checks")
    given = parser.parse_args()
    broken = 0
    with tempfile.TemporaryDirectory(prefix="runner-guard-") as scratch:
        homes = Homes(Path(sys.executable), Path(sys.executable), Path(scratch))
        for name in [given.only] if given.only else CHECKS:
            began = time.monotonic()
            for judged in CHECKS[name](homes):
                broken += not judged.good
                print(f"{'good' if judged.good else 'BROKEN':<7}{judged.words}", flush=True)
            print(f"       {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
