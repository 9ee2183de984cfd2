"""A plan as JSON lines.

Owns the shape of `runner plan --json`: a `group` for each model, size and quality, then a `plan` with the totals, and
under `offers` what it comes to by each delivery where there are both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from runner.planner import Plan


def lines(plan: Plan) -> Iterator[dict[str, Any]]:
    """The plan, an entry a line. Money is in micro-dollars and USD, time in seconds."""
    for group in plan.groups.values():
        entry = dataclasses.asdict(group)
        yield {"type": "group", **entry, **_usd(group.expected_microusd, group.worst_microusd)}
    expected, worst = plan.total("expected_microusd"), plan.total("worst_microusd")
    yield {
        "type": "plan",
        "job": plan.job,
        "provider": plan.provider,
        "simulated": plan.simulated,
        **{
            name: plan.total(name)
            for name in ("wanted", "done", "reusable", "to_do", "left", "submitted", "input_images")
        },
        "by_status": plan.by_status,
        "expected_microusd": expected,
        "worst_microusd": worst,
        **_usd(expected, worst),
        "tokens": plan.tokens,
        "paced_images": plan.paced_images,
        "duration_s": plan.duration_s,
        "within_s": plan.within_s,
        "delivery": plan.delivery,
        "batches": plan.batches,
        "falls_back": plan.falls_back,
        "offers": {
            delivery: {**dataclasses.asdict(offer), **_usd(offer.expected_microusd, offer.worst_microusd)}
            for delivery, offer in plan.offers.items()
        },
        "price_version": plan.price_version,
        "models": plan.effective_models,
        "warnings": plan.warnings,
    }


def _usd(expected: int, worst: int) -> dict[str, float]:
    return {"expected_usd": expected / 1e6, "worst_usd": worst / 1e6}
