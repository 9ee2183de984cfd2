"""Renditions: how many a core makes against a plain loop, and whether requests wait for them.

Owns the cases and what their rows say.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.bench.measure import Failed, Measured, run
from tests.bench.report import NO_BAR, Bar, Section, ratio, ratio_text
from tests.bench.server import Settings
from tests.bench.sides import Homes, Order, Outcome, environment, folder, make

SIDES = ("runner", "plain")
ASSETS = 120
RATE = Bar(0.9, 1.0, " x", at_most=False)
"""Renditions a second of CPU time, against the plain loop."""
PACE = Bar(0.95, 1.0, " x", at_most=False)
"""Requests a second while renditions are made, against none."""
LATENCY = Bar(1.1, 1.02, " x")
"""The 95th percentile of what a request takes, likewise."""
SETTINGS = Settings(image_bytes=1_500_000, p50_s=1.0, p95_s=1.0)
"""Slower would be more like the API, and would leave more time for renditions."""


@dataclass(frozen=True, slots=True)
class Case:
    """Renditions that are made of each of the pictures."""

    name: str
    recipes: tuple[Mapping[str, Any], ...]


THUMBNAIL = {"name": "thumb", "width": 384, "height": 384, "format": "webp"}
CASES = (
    Case("one: 384x384 webp", (THUMBNAIL,)),
    Case(
        "three: 384x384 webp, 600x400 jpeg, 128x128 png",
        (
            THUMBNAIL,
            {"name": "card", "width": 600, "height": 400, "fit": "cover", "format": "jpeg"},
            {"name": "icon", "width": 128, "height": 128, "fit": "cover", "format": "png"},
        ),
    ),
)
WITHOUT = Order(200, 16)


def measure(homes: Homes, rounds: int, tell: Callable[[str], None]) -> list[Section]:
    """Both questions, each side in turn, `rounds` times."""
    return [rates(homes, rounds, tell), requests(homes, rounds, tell)]


def rates(homes: Homes, rounds: int, tell: Callable[[str], None], assets: int = ASSETS) -> Section:
    """Renditions a second, by the worker and by the loop, of the same pictures."""
    found: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    with folder(homes) as scratch:
        pictures = scratch / "pictures"
        pictures.mkdir()
        _pixels(homes, scratch, "draw", str(assets), pictures)
        for number in range(1, rounds + 1):
            for case in CASES:
                for side in SIDES:
                    out = scratch / f"{side}-{number}-{CASES.index(case)}"
                    out.mkdir()
                    took = _pixels(homes, scratch, side, json.dumps(case.recipes), pictures, out)
                    made = sum(1 for _ in out.iterdir())
                    if made != assets * len(case.recipes):
                        raise Failed(f"{side} made {made} of {assets * len(case.recipes)} renditions")
                    found[case.name, side].append(took)
                    tell(f"round {number}, {case.name}: {side} {made / took.cpu_s:.1f}/s of CPU, {took.wall_s:.1f} s")
    columns = ("renditions of a PNG of 1024x1024", "", *SIDES, "runner / plain", "bar", "beyond", "")
    section = Section("renditions", f"Renditions of {assets} pictures by one process", columns)
    for case in CASES:
        count = assets * len(case.recipes)
        per_cpu, per_wall = (
            [[count / getattr(took, name) for took in found[case.name, side]] for side in SIDES]
            for name in ("cpu_s", "wall_s")
        )
        judged = RATE.cells(ratio(*per_cpu))
        section.rows.append([case.name, "a second of CPU", *_cells(per_cpu, "{:.1f}"), ratio_text(*per_cpu), *judged])
        section.rows.append(["", "a second", *_cells(per_wall, "{:.1f}"), ratio_text(*per_wall), *NO_BAR])
    return section


def requests(
    homes: Homes, rounds: int, tell: Callable[[str], None], without: Order = WITHOUT, settings: Settings = SETTINGS
) -> Section:
    """The pace and the latency of a run without renditions, and with three of each image."""
    orders = {"without": without, "with": replace(without, renditions=CASES[1].recipes)}
    paces: dict[str, list[float]] = defaultdict(list)
    latencies: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for name, order in orders.items():
            outcome = make("runner", homes, settings, order)
            paces[name].append(pace(outcome))
            latencies[name].append(p95_s(outcome.took.stdout))
            cpu[name].append(outcome.took.cpu_s)
            tell(
                f"round {number}, {name} renditions: {paces[name][-1]:.1f} requests/s, "
                f"p95 {latencies[name][-1]:.2f} s, {outcome.took.wall_s:.0f} s in all"
            )
    columns = ("requests beside renditions", *orders, "with / without", "bar", "beyond", "")
    title = f"{without.images} images, {without.concurrency} in flight, {len(CASES[1].recipes)} renditions of each"
    section = Section("requests", title, columns)
    for words, figures, bar in (
        ("requests a second", paces, PACE),
        ("95 % of requests take at most, s", latencies, LATENCY),
    ):
        section.rows.append(
            [words, *_compared(figures, "{:.2f}"), *bar.cells(ratio(figures["with"], figures["without"]))]
        )
    section.rows.append(["CPU time of the run, s", *_compared(cpu, "{:.1f}"), *NO_BAR])
    return section


def pace(outcome: Outcome) -> float:
    """Requests a second from the first to the last, as the server saw them: what comes after is no request's time."""
    accepted: Sequence[float] = sorted(outcome.stats["accepted"])
    return (len(accepted) - 1) / max(1e-9, accepted[-1] - accepted[0])


def p95_s(lines: str) -> float:
    """The 95th percentile of the seconds from a request's beginning to its image, by the events of a run.

    Raises:
        Failed: there are no such events.
    """
    entries = (json.loads(line) for line in lines.splitlines())
    found: list[float] = [
        entry["latency_s"] for entry in entries if entry["type"] == "saved" and entry["latency_s"] is not None
    ]
    if len(found) < 2:
        raise Failed("the run told no latencies")
    return quantiles(found, n=20)[-1]


def _pixels(homes: Homes, scratch: Path, *words: str | Path) -> Measured:
    return run(
        [homes.runner, "-m", "tests.bench.pixels", *words], folder=scratch, environment=environment(scratch / "state")
    )


def _compared(figures: Mapping[str, Sequence[float]], form: str) -> list[str]:
    sides = [figures[name] for name in ("without", "with")]
    return [*_cells(sides, form), ratio_text(sides[1], sides[0])]


def _cells(sides: Sequence[Sequence[float]], form: str) -> list[str]:
    return [form.format(median(figures)) for figures in sides]
