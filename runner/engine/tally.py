"""How many files of one sort were derived from images, and how many could not be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Counts of one run."""

    made: int = 0
    failed: int = 0
