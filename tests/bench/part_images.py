"""CPU time and peak memory for each image, the runner against its peers: the cases of size x requests in flight.

Owns which cases there are and what their rows say. One measurement serves both tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from tests.bench.report import NO_BAR, Bar, Section, ratio, ratio_text
from tests.bench.server import Settings
from tests.bench.sides import Homes, Order, Outcome, make

SIDES = ("runner", "plain", "plain+aiohttp", "litellm", "floor")


@dataclass(frozen=True, slots=True)
class Case:
    """Images of one size, so many at a time. The latency is long enough for that many to be in flight at once."""

    megabytes: float
    in_flight: int
    images: int
    latency_s: float
    sides: tuple[str, ...] = SIDES
    cpu: Bar | None = None
    """Against the plain script."""
    memory: Bar | None = None
    """Against the plain script, and against litellm."""

    @property
    def name(self) -> str:
        return f"{self.megabytes:g} MB, {self.in_flight} in flight"


_NARROW = ("runner", "plain", "floor")
WIDE = Case(3, 128, 400, 1.0, cpu=Bar(0.6, 0.4, " x"), memory=Bar(0.35, 0.25, " x"))
WIDEST = Case(3, 512, 1100, 4.0, sides=("runner",))
FLAT = Bar(1.5, 1.05, " x")
"""Peak memory with 512 in flight against that with 128. Flat, here, is within 5 %."""
CASES = (
    Case(1.5, 16, 300, 0.2, cpu=Bar(0.8, 0.55, " x")),
    Case(3, 16, 300, 0.2, sides=_NARROW),
    Case(1.5, 128, 400, 1.0, sides=_NARROW),
    WIDE,
    WIDEST,
)
Found = dict[Case, dict[str, list[Outcome]]]
_CEILING_IMAGES = 400


def measure(homes: Homes, rounds: int, tell: Callable[[str], None]) -> list[Section]:
    """Every case, every side in turn, `rounds` times."""
    found: Found = {case: defaultdict(list) for case in CASES}
    ceilings: dict[Case, list[Outcome]] = defaultdict(list)
    for side in SIDES:
        make(side, homes, Settings(image_bytes=100_000), Order(4, 2))  # compiles what is not yet compiled
    for number in range(1, rounds + 1):
        for case in CASES:
            settings = Settings(image_bytes=round(case.megabytes * 1e6), p50_s=case.latency_s, p95_s=case.latency_s)
            for side in case.sides:
                outcome = make(side, homes, settings, Order(case.images, case.in_flight))
                found[case][side].append(outcome)
                tell(
                    f"round {number}, {case.name}: {side} {outcome.cpu_ms:.1f} ms/image, "
                    f"{outcome.took.peak_rss_bytes / 1e6:.0f} MB, {outcome.took.wall_s:.0f} s"
                )
            bare = Settings(image_bytes=settings.image_bytes)
            ceilings[case].append(make("floor", homes, bare, Order(_CEILING_IMAGES, min(case.in_flight, 128))))
    return [_cpu(found), _memory(found), _server(found, ceilings)]


def _cpu(found: Found) -> Section:
    columns = ("CPU per image, ms", *SIDES, "runner / plain", "bar", "beyond", "")
    section = Section("cpu", "CPU time for each image", columns)
    for case, sides in found.items():
        cells = [_cell(sides, side, lambda outcome: outcome.cpu_ms, "{:.1f}") for side in SIDES]
        ours = [outcome.cpu_ms for outcome in sides["runner"]]
        theirs = [outcome.cpu_ms for outcome in sides.get("plain", ())]
        against = ratio_text(ours, theirs) if theirs else ""
        judged = case.cpu.cells(ratio(ours, theirs)) if case.cpu else NO_BAR
        section.rows.append([f"{case.name} ({case.images} images)", *cells, against, *judged])
    return section


def _memory(found: Found) -> Section:
    columns = ("peak memory, MB", *SIDES, "runner / peer", "bar", "beyond", "")
    section = Section("memory", "Peak memory", columns)
    for case, sides in found.items():
        cells = [_cell(sides, side, _peak, "{:.0f}") for side in SIDES]
        peers = [peer for peer in ("plain", "litellm") if sides.get(peer)]
        if case is WIDEST:
            ours, before = list(map(_peak, sides["runner"])), list(map(_peak, found[WIDE]["runner"]))
            against = f"{ratio_text(ours, before)} of {WIDE.in_flight} in flight"
            section.rows.append([case.name, *cells, against, *FLAT.cells(ratio(ours, before))])
        for number, peer in enumerate(peers if case.memory else peers[:1]):
            ours, theirs = list(map(_peak, sides["runner"])), list(map(_peak, sides[peer]))
            judged = case.memory.cells(ratio(ours, theirs)) if case.memory else NO_BAR
            against = f"{ratio_text(ours, theirs)} of {peer}"
            section.rows.append([case.name, *(cells if number == 0 else [""] * len(SIDES)), against, *judged])
    return section


def _server(found: Found, ceilings: dict[Case, list[Outcome]]) -> Section:
    columns = ("images/s", *SIDES, "ceiling", "server's CPU per image, ms", "most in flight")
    section = Section("server", "The server is not what is measured", columns)
    for case, sides in found.items():
        paces = [_cell(sides, side, lambda outcome: outcome.images / outcome.took.wall_s, "{:.0f}") for side in SIDES]
        ceiling = f"{median(outcome.images / outcome.took.wall_s for outcome in ceilings[case]):.0f}"
        every = [outcome for outcomes in sides.values() for outcome in outcomes]
        served = median(outcome.stats["cpu_s"] * 1000 / outcome.images for outcome in every)
        flights = sorted({outcome.stats["max_in_flight"] for outcome in every})
        told = str(flights[0]) if len(flights) == 1 else f"{flights[0]} to {flights[-1]}"
        section.rows.append([case.name, *paces, ceiling, f"{served:.2f}", told])
    return section


def _peak(outcome: Outcome) -> float:
    return outcome.took.peak_rss_bytes / 1e6


def _cell(sides: dict[str, list[Outcome]], side: str, figure: Callable[[Outcome], float], form: str) -> str:
    outcomes = sides.get(side)
    return form.format(median(map(figure, outcomes))) if outcomes else ""
