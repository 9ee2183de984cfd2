"""Where jobs stand: counts by status, money, the last run, and why tasks are not done.

Owns the shape of `runner status --json`. Amounts are micro-dollars and USD, real and simulated apart.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from runner.ledger import Batch, Job, Ledger
from runner.rules.batching import KEPT_S, is_late


def status(ledger: Ledger, job: Job, *, now: dt.datetime) -> dict[str, Any]:
    """Everything about one job that is read in an instant. `now` is aware."""
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
        "reserved_usd": real.reserved_microusd / 1e6,
        "reserved_microusd": real.reserved_microusd,
        "simulated_reserved_usd": simulated.reserved_microusd / 1e6,
        "batches": [_batch(batch, now) for batch in ledger.batches.open(job)],
        "last_run": None if last is None else _run(last),
        "problems": ledger.problems(job),
    }


def iso(milliseconds: int | None) -> str | None:
    """Milliseconds since 1970 as ISO 8601 in UTC."""
    if milliseconds is None:
        return None
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).isoformat(timespec="seconds")


def _batch(batch: Batch, now: dt.datetime) -> dict[str, Any]:
    """A batch that is not collected. `kept_until` is when the provider deletes its results.

    That is counted from when it was over, or, while nobody has asked, from when it must be.
    """
    now_ms = now.timestamp() * 1000
    over_ms = batch.ended_ms or batch.expires_ms
    return {
        "batch": batch.id,
        "batch_id": batch.batch_id,
        "provider": batch.provider,
        "base_url": batch.base_url,
        "model": batch.model,
        "state": batch.state,
        "status": batch.status,
        "requests": batch.requests,
        "completed": batch.completed,
        "failed": batch.failed,
        "submitted": iso(batch.submitted_ms),
        "age_s": round(max(0.0, now_ms - (batch.submitted_ms or batch.created_ms)) / 1000),
        "expires": iso(batch.expires_ms),
        "checked": iso(batch.checked_ms),
        "ended": iso(batch.ended_ms),
        "kept_until": None if over_ms is None else iso(over_ms + KEPT_S * 1000),
        "collect_soon": is_late(batch.ended_ms or batch.expires_ms, now_ms),
    }


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
