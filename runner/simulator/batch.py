"""One batch: what is known of it, and how the API tells it.

Refuses to know what drives it (`batches`, `work`), and HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from runner.simulator.faults import Fault
from runner.simulator.lines import Flaw, Survey

OVER = ("failed", "completed", "expired", "cancelled")


@dataclass(slots=True, kw_only=True)
class Batch:
    """One batch. Times are seconds since 1970."""

    id: str
    endpoint: str
    input_file_id: str
    metadata: Mapping[str, str] | None
    output_expires_after_s: int
    born_at: float
    expires_at: int
    base_url: str
    faults: Mapping[str, Fault]
    status: str = "validating"
    times: dict[str, int] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()
    survey: Survey | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    left: set[int] = field(default_factory=set)
    """Lines that have not been answered."""
    some_expired: bool = False
    ending: str | None = None
    """`expired` or `cancelled`, once that has been decided."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self, status: str) -> None:
        """Takes the next status, and notes when."""
        self.status = status
        self.times[f"{status}_at"] = int(time.time())

    def end(self, ending: str) -> bool:
        """Has it end before its time; the first who asks decides. Whether that was this one."""
        if self.ending is not None or self.status in OVER:
            return False
        self.ending = ending
        self.ended.set()
        return True

    async def pause(self, seconds: float) -> None:
        """Waits, unless it is to end."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), seconds)

    def told(self) -> dict[str, object]:
        """As the API tells it; what there is nothing to say of is left out, as its schema wants it."""
        document: dict[str, object] = {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "created_at": int(self.born_at),
            "expires_at": self.expires_at,
            **self.times,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
        }
        if self.flaws:
            document["errors"] = {"object": "list", "data": [flaw.told() for flaw in self.flaws]}
        optional = {
            "model": self.survey.model if self.survey else None,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "metadata": self.metadata,
        }
        document |= {name: value for name, value in optional.items() if value is not None}
        if self.status in ("completed", "expired", "cancelled"):
            document["usage"] = {
                "input_tokens": self.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": self.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.input_tokens + self.output_tokens,
            }
        return document
