"""A job of a million tasks: plan, enrol, first request, status, costs, and going on with half of it done.

Owns the order of the steps, since each needs the ledger that the one before has left.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import big_job
from tests.bench.measure import Measured, run
from tests.bench.report import NO_BAR, Bar, Section
from tests.bench.server import Settings
from tests.bench.sides import Homes, environment, folder, serving, stats_of

RATE = Bar(15_000, 40_000, " tasks/s", at_most=False)
MEMORY = Bar(300, unit=" MB")
STATUS = Bar(1.5, 0.5, " s")
RESUME = Bar(3.0, 1.5, " s")


_IMAGE_BYTES = 100_000


def measure(homes: Homes, rounds: int, tasks: int, tell: Callable[[str], None]) -> Section:
    """Every step `rounds` times."""
    columns = ("step", "seconds", "CPU seconds", "peak memory", "rate", "bar", "beyond", "")
    section = Section("ledger", f"A job of {tasks:,} tasks", columns)

    def row(step: str, took: Sequence[_Step], rate: str = "", judged: Sequence[str] = NO_BAR) -> None:
        cells = [
            f"{median(one.wall_s for one in took):.2f}",
            f"{median(one.cpu_s for one in took):.2f}",
            f"{median(one.peak_mb for one in took):.0f} MB",
        ]
        section.rows.append([step, *cells, rate, *judged])
        tell(f"{step}: {cells[0]} s ({cells[1]} s CPU), {cells[2]} {rate}")

    with folder(homes) as scratch:
        bench = _Bench(homes, scratch, big_job.write(scratch, tasks))
        planned = [bench.call("plan", bench.job, "--quiet") for _ in range(rounds)]
        row("`runner plan`", planned, f"{_rate(tasks, planned):,.0f} tasks/s")

        alone = [bench.enrol() for _ in range(rounds)]
        rate = _rate(tasks, alone)
        row("enrol by itself", alone, f"{rate:,.0f} tasks/s", RATE.cells(rate))

        first = [bench.first_request(anew=True) for _ in range(rounds)]
        row("`runner run` to its first request: plan, enrol, send", first, f"{_rate(tasks, first):,.0f} tasks/s")
        peak_mb = median(one.peak_mb for one in first)
        section.rows.append(["its peak memory", "", "", f"{peak_mb:.0f} MB", "", *MEMORY.cells(peak_mb)])

        done = big_job.finish_half(bench.output / "ledger.sqlite3")
        os.sync()  # what is left to write would be written while others are measured
        tell(f"{done:,} of {tasks:,} tasks are done now")
        looks = [bench.call("status", "bench") for _ in range(rounds)]
        row("`runner status`, half of them done", looks, judged=STATUS.cells(median(one.wall_s for one in looks)))
        row("`runner costs`, half of them done", [bench.call("costs") for _ in range(rounds)])
        resumed = [bench.first_request() for _ in range(rounds)]
        judged = RESUME.cells(median(one.wall_s for one in resumed))
        row("`runner run` again, to its first request, half of them done", resumed, judged=judged)
    return section


def _rate(tasks: int, took: Sequence[_Step]) -> float:
    return tasks / median(one.wall_s for one in took)


@dataclass(frozen=True, slots=True)
class _Step:
    """`wall_s` is until what the step is about had happened; CPU and memory are those of the whole process."""

    wall_s: float
    cpu_s: float
    peak_mb: float

    @classmethod
    def of(cls, took: Measured, *, wall_s: float | None = None, cpu_s: float | None = None) -> _Step:
        return cls(
            took.wall_s if wall_s is None else wall_s,
            took.cpu_s if cpu_s is None else cpu_s,
            took.peak_rss_bytes / 1e6,
        )


@dataclass(frozen=True, slots=True)
class _Bench:
    """The big job in its folder."""

    homes: Homes
    scratch: Path
    job: Path

    @property
    def output(self) -> Path:
        return self.scratch / "output"

    def call(self, *words: str | Path) -> _Step:
        """One command of the runner, to its end."""
        return _Step.of(self._run("runner", *words, "--output", self.output))

    def enrol(self) -> _Step:
        """Enrolment and nothing else, into a ledger of its own."""
        alone = self.scratch / "alone"
        alone.mkdir()
        took = self._run("tests.bench.enrol_alone", self.job, alone / "ledger.sqlite3")
        told = json.loads(took.stdout)
        shutil.rmtree(alone)
        return _Step.of(took, wall_s=told["wall_s"], cpu_s=told["cpu_s"])

    def first_request(self, *, anew: bool = False) -> _Step:
        """`runner run` for one image; the seconds are those until the server heard of it. `anew`: as if never run."""
        if anew:
            shutil.rmtree(self.output, ignore_errors=True)
        with serving(Settings(image_bytes=_IMAGE_BYTES)) as url:
            told = ["--base-url", f"{url}/v1", "--provider", "openai", "--limit", "1", "--json", "--quiet"]
            took = self._run("runner", "run", self.job, "--output", self.output, *told)
            return _Step.of(took, wall_s=stats_of(url)["first_arrival"] - took.began)

    def _run(self, module: str, *words: str | Path) -> Measured:
        environ = environment(self.scratch / "state")
        return run([self.homes.runner, "-m", module, *words], folder=self.scratch, environment=environ)
