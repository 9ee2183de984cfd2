"""Peak memory and CPU time of edits: 16 pictures of 5 MB with each request, so many requests in flight.

Owns which cases there are and what their rows say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import median

from tests.bench.report import NO_BAR, Bar, Section, ratio_text
from tests.bench.server import Settings
from tests.bench.sides import INPUT_BYTES, Homes, Order, Outcome, make

SIDES = ("runner", "plain edits")
ORDER = Order(64, 64, inputs=16)
SETTINGS = Settings(image_bytes=1_500_000, p50_s=20.0, p95_s=20.0)
"""Slow enough for every request to be in flight before the first is answered."""
MEMORY = Bar(300, None, " MB")


def measure(homes: Homes, rounds: int, tell: Callable[[str], None]) -> Section:
    """Every side in turn, `rounds` times."""
    found: dict[str, list[Outcome]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for side in SIDES:
            outcome = make(side, homes, SETTINGS, ORDER)
            found[side].append(outcome)
            tell(
                f"round {number}, edits: {side} {_peak_mb(outcome):.0f} MB, {outcome.cpu_ms:.0f} ms/edit, "
                f"{outcome.stats['bytes_received'] / 1e9:.1f} GB sent, {outcome.stats['max_in_flight']} in flight"
            )
    columns = ("who", "peak memory", "bar", "", "CPU per edit", "most in flight", "sent")
    megabytes = INPUT_BYTES / 1e6
    section = Section("edits", f"{ORDER.images} edits with {ORDER.inputs} images of {megabytes:g} MB each", columns)
    for side, outcomes in found.items():
        peak_mb = median(map(_peak_mb, outcomes))
        bar, _, verdict = MEMORY.cells(peak_mb) if side == "runner" else NO_BAR
        cpu_ms = median(outcome.cpu_ms for outcome in outcomes)
        flights = min(outcome.stats["max_in_flight"] for outcome in outcomes)
        sent_gb = median(outcome.stats["bytes_received"] for outcome in outcomes) / 1e9
        row = [side, f"{peak_mb:.0f} MB", bar, verdict, f"{cpu_ms:.0f} ms", str(flights), f"{sent_gb:.2f} GB"]
        section.rows.append(row)
    ours, theirs = ([outcome.cpu_ms for outcome in found[side]] for side in SIDES)
    section.rows.append(["runner / plain edits", "", "", "", ratio_text(ours, theirs), "", ""])
    return section


def _peak_mb(outcome: Outcome) -> float:
    return outcome.took.peak_rss_bytes / 1e6
