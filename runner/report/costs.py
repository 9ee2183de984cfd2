"""What was spent, by job, day, model, size or quality: real, in doubt, and saved by reuse; simulated apart.

Owns the shape of `runner costs --json`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from runner.ledger import By, Job, Ledger


def costs(ledger: Ledger, by: By, job: Job | None) -> list[dict[str, Any]]:
    """One entry for each value of `by`, and apart for simulated images; `open` is reserved by requests under way."""
    return [_entry(row, by) for row in ledger.costs(by, job)]


def total(entries: list[dict[str, Any]], *, simulated: bool) -> dict[str, Any]:
    """The sum of all entries that are (not) simulated."""
    chosen = [entry for entry in entries if entry["simulated"] is simulated]
    names = [name for name, value in (chosen[0] if chosen else {}).items() if isinstance(value, int)]
    sums = {name: sum(entry[name] for entry in chosen) for name in names if name != "simulated"}
    return {"type": "total", "simulated": simulated, **sums, **_usd(sums)}


def _entry(row: dict[str, Any], by: By) -> dict[str, Any]:
    if by == "day":
        row = {**row, "day": (dt.date(1970, 1, 1) + dt.timedelta(days=int(row["day"]))).isoformat()}
    return {"type": "cost", "by": by, **row, **_usd(row)}


def _usd(row: dict[str, Any]) -> dict[str, float]:
    """Every amount in USD as well."""
    return {
        name.removesuffix("_microusd") + "_usd": value / 1e6
        for name, value in row.items()
        if name.endswith("_microusd")
    }
