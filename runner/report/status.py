"""Where jobs stand: counts by status, money, the last run, and why tasks are not done.

Owns the shape of `runner status --json`. Amounts are micro-dollars and USD, real and simulated apart.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from runner.ledger import Job, Ledger


def status(ledger: Ledger, job: Job) -> dict[str, Any]:
    """Everything about one job that is read in an instant."""
    statuses = ledger.statuses(job)
    real = ledger.spending(job, simulated=False)
    simulated = ledger.spending(job, simulated=True)
    last = ledger.last_run(job)
    return {
        "type": "status",
        "job": job.name,
        "manifest": job.manifest_path,
        "wanted": job.wanted,
        **{str(name): count for name, count in statuses.items()},
        "reused": ledger.reused(job),
        "cost_usd": real.settled_microusd / 1e6,
        "cost_microusd": real.settled_microusd,
        "in_doubt_usd": real.in_doubt_microusd / 1e6,
        "in_doubt_microusd": real.in_doubt_microusd,
        "simulated_cost_usd": simulated.settled_microusd / 1e6,
        "simulated_in_doubt_usd": simulated.in_doubt_microusd / 1e6,
        "last_run": None if last is None else _run(last),
        "problems": ledger.problems(job),
    }


def iso(milliseconds: int | None) -> str | None:
    """Milliseconds since 1970 as ISO 8601 in UTC."""
    if milliseconds is None:
        return None
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).isoformat(timespec="seconds")


def _run(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": row["id"],
        "provider": row["provider"],
        "simulated": row["simulated"],
        "host": row["host"],
        "pid": row["pid"],
        "started": iso(row["started_ms"]),
        "ended": iso(row["ended_ms"]),
        "exit_code": row["exit_code"],
        "reason": row["reason"],
    }
