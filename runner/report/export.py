"""Every wanted task with its file, its tokens and its cost: as CSV or JSON lines, streamed.

Owns the columns. They are `COLUMNS`, in this order, in both formats.
"""

from __future__ import annotations

import csv
import json
from typing import IO, Any, Literal

from runner.ledger import Job, Ledger
from runner.report.status import iso

Format = Literal["csv", "jsonl"]
COLUMNS = (
    "job",
    "key",
    "prompt_id",
    "prompt",
    "wanted_model",
    "model",
    "size",
    "quality",
    "background",
    "output_format",
    "output_compression",
    "moderation",
    "sample",
    "variant",
    "status",
    "path",
    "sha256",
    "bytes",
    "width",
    "height",
    "simulated",
    "created",
    "reused",
    "attempts",
    "input_tokens",
    "output_tokens",
    "cost_microusd",
    "cost_usd",
    "in_doubt_microusd",
    "price_version",
    "request_id",
    "latency_ms",
    "error_code",
    "error_message",
)


def export(ledger: Ledger, job: Job, form: Format, stream: IO[str]) -> int:
    """Write every wanted task of `job` to `stream`; how many there were."""
    count = 0
    with ledger.export(job) as rows:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n") if form == "csv" else None
        if writer is not None:
            writer.writeheader()
        for row in rows:
            count += 1
            record = _record(row)
            if writer is not None:
                writer.writerow(record)
            else:
                stream.write(json.dumps(record | {"variant": json.loads(record["variant"])}) + "\n")
    return count


def _record(row: dict[str, Any]) -> dict[str, Any]:
    values = {
        **row,
        "created": iso(row["created_ms"]),
        "cost_usd": row["cost_microusd"] / 1e6,
        "reused": bool(row["reused"]),
    }
    return {name: values[name] for name in COLUMNS}
