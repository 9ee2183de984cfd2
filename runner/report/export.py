"""Every wanted task with its file, its tokens and its cost: as CSV or JSON lines, streamed.

Owns the columns. They are `COLUMNS`, in this order, in both formats.

JSON lines are exact: every text is there as it was, in ASCII with escapes. CSV is for spreadsheets and for eyes, so its
texts are made harmless: one that a spreadsheet would compute begins with an apostrophe, and what a terminal would obey
(control characters, direction marks) is shown as a dot.
"""

from __future__ import annotations

import csv
import json
import re
from typing import IO, Any, Literal

from runner.inputs import described
from runner.ledger import Job, Ledger
from runner.report.status import iso

Format = Literal["csv", "jsonl"]
_FORMULA = ("=", "+", "-", "@", "\t")
_LINE_END = re.compile("\r\n?|[\x85\u2028\u2029]")
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
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
    "inputs",
    "mask",
    "sample",
    "variant",
    "status",
    "path",
    "sha256",
    "bytes",
    "width",
    "height",
    "simulated",
    "composite",
    "created",
    "reused",
    "attempts",
    "input_tokens",
    "input_image_tokens",
    "output_tokens",
    "cost_microusd",
    "cost_usd",
    "in_doubt_microusd",
    "price_version",
    "batch",
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
                texts = record | {"inputs": "|".join(record["inputs"])}
                writer.writerow({name: _harmless(value) for name, value in texts.items()})
            else:
                stream.write(json.dumps(record | {"variant": json.loads(record["variant"])}) + "\n")
    return count


def _harmless(value: Any) -> Any:
    """A text that neither a spreadsheet computes nor a terminal obeys; everything else as it is."""
    if not isinstance(value, str):
        return value
    text = _OBEYED.sub("·", _LINE_END.sub("\n", value))
    return f"'{text}" if text.startswith(_FORMULA) else text


def _record(row: dict[str, Any]) -> dict[str, Any]:
    sources = [described(source) for source in row["sources"]]
    values = {
        **row,
        "inputs": sources[:-1] if row["has_mask"] else sources,
        "mask": sources[-1] if row["has_mask"] else None,
        "created": iso(row["created_ms"]),
        "cost_usd": row["cost_microusd"] / 1e6,
        "reused": bool(row["reused"]),
    }
    return {name: values[name] for name in COLUMNS}
