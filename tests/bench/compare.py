"""`make bench`: the runner against its peers, in turn, in one run; a table of medians, ratios and bars.

    python -m tests.bench.compare --peers .venv-bench/bin/python
    python -m tests.bench.compare --peers .venv-bench/bin/python --only limiter,startup --rounds 1 --write

Owns the command line, the order of the parts and the page. Tables go to stdout, progress to stderr. A bar that is
missed is told and is no failure: `make guard` is what fails.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.bench import (
    part_batches,
    part_edits,
    part_images,
    part_ledger,
    part_limiter,
    part_ray,
    part_renditions,
    part_startup,
    report,
)
from tests.bench.measure import Failed, own_peak_bytes
from tests.bench.report import Section
from tests.bench.sides import ROOT, Homes

PAGE = ROOT / "docs" / "performance.md"
TASKS = 1_000_000
_MOST_LOAD = 0.7
PARTS = ("cpu", "edits", "batches", "renditions", "limiter", "ray", "ledger", "startup")
_MOST_OWN_BYTES = 60_000_000
"""A child's peak begins at that of its parent: above this, it would be this process that is measured."""


def main() -> int:
    """The command line; 1 when something could not be measured."""
    given = _arguments()
    homes = Homes(Path(sys.executable), given.peers.absolute(), given.scratch)
    homes.scratch.mkdir(parents=True, exist_ok=True)
    if not homes.peers.exists():
        _tell(f"there are no peers at {homes.peers}: `make bench` installs them")
        return 1
    parts: dict[str, Callable[[], list[Section]]] = {
        "cpu": lambda: part_images.measure(homes, given.rounds, _tell),
        "edits": lambda: [part_edits.measure(homes, given.rounds, _tell)],
        "batches": lambda: [part_batches.measure(homes, given.rounds, _batch_load(given), _tell)],
        "renditions": lambda: part_renditions.measure(homes, given.rounds, _tell),
        "limiter": lambda: [part_limiter.measure(homes, given.rounds, _tell)],
        "ray": lambda: part_ray.measure(homes, given.rounds, _tell),
        "ledger": lambda: [part_ledger.measure(homes, given.rounds, given.tasks, _tell)],
        "startup": lambda: [part_startup.measure(homes, given.rounds, _tell)],
    }
    for name in given.only:
        began, load = time.monotonic(), os.getloadavg()[0]
        if load > _MOST_LOAD:
            _tell(f"something else works on this machine (load {load:.1f}): the figures will be worse than they are")
        try:
            sections = parts[name]()
        except Failed as failure:
            _tell(f"{name}: {failure}")
            return 1
        took_s = time.monotonic() - began
        _tell(f"{name} took {took_s / 60:.1f} minutes")
        for section in sections:
            section.notes = _notes(homes, name, given.rounds, given.tasks, load)
            print(section.markdown(), end="\n\n", flush=True)
            if given.write:
                report.write(PAGE, section)
    if own_peak_bytes() > _MOST_OWN_BYTES:
        _tell(f"the benchmark itself took {own_peak_bytes() / 1e6:.0f} MB: small peaks above are not to be trusted")
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare", description="The runner and its peers.")
    parser.add_argument("--peers", type=Path, required=True, help="the Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured [3]")
    parser.add_argument(
        "--tasks", type=int, default=TASKS, help="tasks of the big job, a multiple of 200 [%(default)s]"
    )
    parser.add_argument("--batch-images", type=int, help="images in the batch that is collected [2000, or 400 of all]")
    parser.add_argument("--batch-megabytes", type=float, default=1.5, help="how large each of them is [%(default)s]")
    parser.add_argument("--only", type=_parts, default=PARTS, help=f"some of {','.join(PARTS)} [all]")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "bench", help="a folder on the disk to use")
    return parser.parse_args()


def _batch_load(given: argparse.Namespace) -> part_batches.Load:
    """The whole of it where it is all that was asked for, else a part, so that all parts together stay short."""
    load = part_batches.FULL if given.only == ("batches",) else part_batches.SMALL
    return replace(load, images=given.batch_images or load.images, megabytes=given.batch_megabytes)


def _parts(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(",")) if text else PARTS
    if not set(chosen) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"choose from {','.join(PARTS)}")
    return chosen


def _notes(homes: Homes, part: str, rounds: int, tasks: int, load: float) -> list[str]:
    ours = report.versions(
        homes.runner, ("runner", "openai", "aiohttp", "pybase64", "pydantic", "SQLAlchemy", "pillow")
    )
    theirs = report.versions(homes.peers, ("openai", "httpx2", "aiohttp", "litellm", "pybase64"))
    command = f"make bench ONLY={part} ROUNDS={rounds}" + (f" BENCH_TASKS={tasks}" if tasks != TASKS else "")
    return [
        f"Measured on {report.machine(dt.datetime.now(dt.UTC).date())}, SQLite {sqlite3.sqlite_version}, "
        f"with `{command}`: medians of {rounds}; load before: {load:.1f}.",
        f"Runner: {ours}. Peers: {theirs}.",
    ]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
