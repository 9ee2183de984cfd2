"""Tables: how figures become rows, rows become Markdown, and Markdown gets into the page between its markers.

Owns rounding, ratios, verdicts and the words on the machine. Refuses to measure.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

BEYOND, MET, MISSED = "beyond", "met", "**missed**"


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure is held against. `at_most` False: it is to be at least that."""

    bar: float
    beyond: float | None = None
    unit: str = ""
    at_most: bool = True

    def verdict(self, value: float) -> str:
        """Whether a figure gets over the bar, and how far."""
        sign = 1 if self.at_most else -1
        if self.beyond is not None and sign * value <= sign * self.beyond:
            return BEYOND
        return MET if sign * value <= sign * self.bar else MISSED

    def cells(self, value: float) -> list[str]:
        """The three last cells of a row: bar, beyond, verdict."""
        sign = "≤" if self.at_most else "≥"
        told = ["" if limit is None else f"{sign} {limit:,g}{self.unit}" for limit in (self.bar, self.beyond)]
        return [*told, self.verdict(value)]


NO_BAR = ["", "", ""]


@dataclass(slots=True)
class Section:
    """The table of one part of the benchmark."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The section as it stands in the page."""
        head = [f"| {' | '.join(self.columns)} |", f"| {' | '.join('---' for _ in self.columns)} |"]
        rows = [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([f"### {self.title}", "", *self.notes, "", *head, *rows])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The ratio of two medians."""
    return median(ours) / median(theirs)


def ratio_text(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratio of the medians, and between which values it lay from round to round."""
    rounds = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    spread = f" ({rounds[0]:.2f} to {rounds[-1]:.2f})" if len(rounds) > 1 else ""
    return f"{ratio(ours, theirs):.2f}{spread}"


def write(page: Path, section: Section) -> None:
    """Put a section into a page, between the markers of its name, in place of what stood there.

    Raises:
        ValueError: the page has no such markers.
    """
    text = page.read_text()
    begin, end = f"<!-- bench:{section.name} -->", f"<!-- /bench:{section.name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page} has no markers for {section.name}: {begin} and {end}")
    page.write_text(pattern.sub(lambda _: f"{begin}\n{section.markdown()}\n{end}", text, count=1))


def machine(when: dt.date) -> str:
    """The machine and the date, in one line."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{when.isoformat()}, {_processor()}, {os.cpu_count()} cores, {memory_bytes / 2**30:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def versions(python: Path, packages: Sequence[str]) -> str:
    """The versions of packages in the environment of a Python; what it does not have is left out."""
    program = (
        "import importlib.metadata as m, json, sys\n"
        "there = {d.name.lower() for d in m.distributions()}\n"
        "print(json.dumps({name: m.version(name) for name in sys.argv[1:] if name.lower() in there}))"
    )
    told = subprocess.run([python, "-c", program, *packages], check=True, capture_output=True, text=True).stdout
    found: Mapping[str, str] = json.loads(told)
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
