"""Ray: the same load on clusters of 1, 2 and 4 nodes and in one process, where latency and where pixels hold it back.

Owns the cases and what their rows say. All nodes are on this machine: what grows with them is what waits, and what
computes shares its processors. What an image costs more than in one process is the figure that holds anywhere.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from tests.bench.measure import Failed, Measured, run
from tests.bench.part_renditions import CASES, pace
from tests.bench.report import NO_BAR, Bar, Section, ratio, ratio_text
from tests.bench.server import Settings
from tests.bench.sides import ROOT, Homes, Order, environment, folder, make, manifest, serving

NODES = (1, 2, 4)
SIDES = ("local", "ray")
EACH = 16
"""Requests in flight for each node."""
ROUNDS_EACH = 12
"""Images for each of these: so many latencies long is a run."""
LATENCY_S = 0.5
SETTINGS = Settings(image_bytes=300_000, p50_s=LATENCY_S, p95_s=LATENCY_S)
ASSETS = 60
PACE = Bar(0.9, 1.0, " x", at_most=False)
"""Images a second on a cluster, against one process with as many in flight."""
_SETTLE_S = 1.5
"""After this long a cluster has nothing more to do for a run that has ended."""


@dataclass(slots=True)
class Cluster:
    """A cluster that runs, in another process. `idle` is the CPU time that it takes for each second of nothing."""

    address: str
    process: subprocess.Popen[str]
    idle: float = 0.0

    @property
    def options(self) -> tuple[str, ...]:
        """What the runner is told."""
        return ("--engine", "ray", "--ray-address", self.address)

    def cpu_s(self) -> float:
        """What all of its processes have taken so far."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def spent_s(self, since: tuple[float, float]) -> float:
        """The CPU time of the cluster since a `mark`, without what it takes anyhow."""
        time.sleep(_SETTLE_S)
        at_s, before_s = since
        return max(0.0, self.cpu_s() - before_s - self.idle * (time.monotonic() - at_s))

    def mark(self) -> tuple[float, float]:
        """Now, for `spent_s`."""
        return time.monotonic(), self.cpu_s()


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time by two runs of different length: what each further piece takes, and what a run takes anyhow."""

    each_ms: float
    once_s: float

    @classmethod
    def of(cls, few: int, few_s: float, many: int, many_s: float) -> Cpu:
        """From the pieces and the CPU time of both."""
        each_s = (many_s - few_s) / (many - few)
        return cls(each_s * 1000, few_s - few * each_s)


@contextmanager
def clusters(count: int, scratch: Path) -> Iterator[Cluster]:
    """A cluster of so many nodes for the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.ray_nodes", str(count)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(scratch / "state"),
        text=True,
    )
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        if not address:
            raise Failed("the cluster did not start; is Ray installed?")
        them = Cluster(address, process)
        time.sleep(_SETTLE_S)
        before, span_s = them.cpu_s(), 4.0
        time.sleep(span_s)
        them.idle = (them.cpu_s() - before) / span_s
        yield them
    finally:
        process.communicate()


def measure(homes: Homes, rounds: int, tell: Callable[[str], None]) -> list[Section]:
    """Both loads, `rounds` times."""
    return [requests(homes, rounds, tell), renditions(homes, rounds, tell)]


def requests(
    homes: Homes, rounds: int, tell: Callable[[str], None], nodes: Sequence[int] = NODES, each: int = EACH
) -> Section:
    """Images a second where the provider's latency holds them back, and the CPU time for each."""
    paces: dict[tuple[int, str], list[float]] = defaultdict(list)
    cpu: dict[tuple[int, str], list[Cpu]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for count in nodes:
            few = Order(each * count, each * count)
            many = replace(few, images=few.images * ROUNDS_EACH)
            little, local = make("runner", homes, SETTINGS, few), make("runner", homes, SETTINGS, many)
            paces[count, "local"].append(pace(local))
            cpu[count, "local"].append(Cpu.of(few.images, little.took.cpu_s, many.images, local.took.cpu_s))
            with folder(homes) as scratch, clusters(count, scratch) as cluster:
                make("runner", homes, SETTINGS, replace(few, options=cluster.options))  # compiles what is not yet
                spent = []
                for order in (few, many):
                    mark = cluster.mark()
                    there = make("runner", homes, SETTINGS, replace(order, options=cluster.options))
                    spent.append(there.took.cpu_s + cluster.spent_s(mark))
                paces[count, "ray"].append(pace(there))
                cpu[count, "ray"].append(Cpu.of(few.images, spent[0], many.images, spent[1]))
            told = (f"{side} {paces[count, side][-1]:.1f}/s {cpu[count, side][-1].each_ms:.1f} ms" for side in SIDES)
            tell(f"round {number}, {_nodes(count)}, {many.concurrency} in flight: {', '.join(told)}")
    columns = ("requests", "", "one process", "Ray", "Ray / one process", "bar", "beyond", "")
    title = f"Requests of {LATENCY_S:g} s on a cluster of {_and(nodes)} nodes, all on this machine's {_processors()}"
    section = Section("ray", title, columns)
    for count in nodes:
        ours, theirs = paces[count, "ray"], paces[count, "local"]
        name = f"{count} node{'s' if count > 1 else ''}, {each * count} in flight"
        section.rows.append([name, "images/s", *_row(theirs, ours, "{:.1f}"), *PACE.cells(ratio(ours, theirs))])
        for words, figure, form in (
            ("CPU ms for each further image, all processes", "each_ms", "{:.1f}"),
            ("CPU s to begin and to end", "once_s", "{:.2f}"),
        ):
            theirs, ours = ([getattr(one, figure) for one in cpu[count, side]] for side in SIDES)
            section.rows.append(["", words, *_row(theirs, ours, form), *NO_BAR])
    return section


def renditions(
    homes: Homes, rounds: int, tell: Callable[[str], None], nodes: Sequence[int] = NODES, assets: int = ASSETS
) -> Section:
    """Renditions a second where pixels hold them back: `runner render`, three of each image."""
    rates: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[Cpu]] = defaultdict(list)
    kinds = len(CASES[1].recipes)
    with folder(homes) as scratch:
        environ = environment(scratch / "state")
        job = _images(homes, scratch, assets)
        words: list[str | Path] = [homes.runner, "-m", "runner", "render", job, "--output", str(scratch / "output")]

        def render(missing: int, *options: str) -> Measured:
            """Make the renditions of so many images, which are not there."""
            for kind in (scratch / "output/bench/renditions").glob("*"):
                for file in sorted(kind.rglob("*.*"))[:missing]:
                    file.unlink()
            took = run([*words, "--json", "--quiet", *options], folder=scratch, environment=environ)
            if json.loads(took.stdout)["renditions"] != missing * kinds:
                raise Failed(f"not all of {missing * kinds} renditions were made: {took.stdout}")
            return took

        few = max(2, assets // 12)
        render(assets)
        for number in range(1, rounds + 1):
            spent = [render(missing).cpu_s for missing in (few, assets)]
            rates["local"].append(_rate(scratch / "output/ledger.sqlite3"))
            cpu["local"].append(Cpu.of(few * kinds, spent[0], assets * kinds, spent[1]))
            for size in nodes:
                with clusters(size, scratch) as cluster:
                    render(few, *cluster.options)  # compiles what is not yet compiled
                    spent = []
                    for missing in (few, assets):
                        mark = cluster.mark()
                        spent.append(render(missing, *cluster.options).cpu_s + cluster.spent_s(mark))
                    rates[f"{size}"].append(_rate(scratch / "output/ledger.sqlite3"))
                    cpu[f"{size}"].append(Cpu.of(few * kinds, spent[0], assets * kinds, spent[1]))
            told = (f"{side}: {rates[side][-1]:.1f}/s {cpu[side][-1].each_ms:.1f} ms" for side in rates)
            tell(f"round {number}, renditions, {', '.join(told)}")
    columns = ("renditions", "one process and its workers", *(f"Ray, {_nodes(size)}" for size in nodes))
    title = (
        f"{assets * kinds} renditions of {assets} pictures on clusters whose nodes share this machine's {_processors()}"
    )
    section = Section("ray-renditions", title, columns)
    sides = ["local", *(f"{size}" for size in nodes)]
    section.rows.append(["a second", *(f"{median(rates[side]):.1f}" for side in sides)])
    for told_of, figure, form in (
        ("CPU ms for each further one, all processes", "each_ms", "{:.1f}"),
        ("CPU s to begin and to end", "once_s", "{:.2f}"),
    ):
        section.rows.append(
            [told_of, *(form.format(median(getattr(one, figure) for one in cpu[side])) for side in sides)]
        )
    each = {side: [one.each_ms for one in cpu[side]] for side in sides}
    section.rows.append(
        ["each, against one process", "", *(ratio_text(each[side], each["local"]) for side in sides[1:])]
    )
    return section


def _images(homes: Homes, scratch: Path, assets: int) -> Path:
    """A job with these images made; its manifest asks for renditions, and has none yet."""
    order = Order(assets, 16)
    job = scratch / "bench.yaml"
    with serving(replace(SETTINGS, image_bytes=1_500_000, p50_s=0.0, p95_s=0.0)) as url:
        job.write_text(json.dumps(manifest(order)))
        told = ["--provider", "openai", "--base-url", f"{url}/v1", "--output", str(scratch / "output"), "--quiet"]
        run(
            [homes.runner, "-m", "runner", "run", job, *told],
            folder=scratch,
            environment=environment(scratch / "state"),
        )
    job.write_text(json.dumps(manifest(replace(order, renditions=CASES[1].recipes))))
    return job


def _rate(ledger: Path) -> float:
    """Renditions a second from the first that is on record to the last: what begins and ends a command is not in it."""
    with closing(sqlite3.connect(ledger)) as connection:
        found = connection.execute("SELECT created_ms FROM renditions ORDER BY created_ms").fetchall()
    times = [int(time_ms) for (time_ms,) in found]
    later = sum(1 for time_ms in times if time_ms > times[0])
    return later / max(1e-3, (times[-1] - times[0]) / 1000)


def _row(here: Sequence[float], there: Sequence[float], form: str) -> list[str]:
    return [form.format(median(here)), form.format(median(there)), ratio_text(there, here)]


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _and(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts[:-1])) + f" and {counts[-1]}" if len(counts) > 1 else str(counts[0])


def _processors() -> str:
    count = os.cpu_count() or 1
    return "one processor" if count == 1 else f"{count} processors"
