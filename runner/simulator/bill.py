"""The simulator's own bill: one entry per request that was generated, on disk before its answer leaves.

Owns the account and its file. Totals are kept in memory (per model, never per request); entries are JSON lines in one
file, and the last field of each, `delivered`, is overwritten in place once it is known how the answer fared.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runner.errors import InputError
from runner.simulator.tokens import Charge
from runner.simulator.validate import Order

_READ_BYTES = 1 << 18
_STATE_CHARS = 20
"""Room for the longest word that `delivered` can hold."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where in the file an entry's last field lies; `edition` is the bill that it belongs to."""

    edition: int
    offset: int


@dataclass(slots=True)
class _Totals:
    billed_requests: int = 0
    images: int = 0
    cost_microusd: int = 0
    input_tokens: int = 0
    input_image_tokens: int = 0
    output_tokens: int = 0

    def add(self, entry: dict[str, Any]) -> None:
        self.billed_requests += 1
        self.images += len(entry["images"])
        self.cost_microusd += entry["cost_microusd"]
        self.input_tokens += entry["input_tokens"]
        # Bills from before there were edits do not have it.
        self.input_image_tokens += entry.get("input_image_tokens", 0)
        self.output_tokens += entry["output_tokens"]

    def told(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


class Bill:
    """The account of one server. Every method is for the event loop's thread."""

    def __init__(self, path: Path | None) -> None:
        """Opens `path` (and carries on what is in it), or a temporary file without a name.

        Raises:
            InputError: the file cannot be opened, or holds something else.
        """
        try:
            # Open for as long as the bill is: `close` ends it.
            self._file: BinaryIO = tempfile.TemporaryFile(buffering=0) if path is None else _open(path)  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{path}: the bill cannot be kept here: {error.strerror}") from None
        self._edition = 0
        self._clear()
        if path is not None:
            self._carry_on(path)

    def _clear(self) -> None:
        self._end = 0
        self._requests = 0
        self._totals = _Totals()
        self._by_model: dict[str, _Totals] = {}
        self._by_delivery: dict[str, _Totals] = {}
        self._rejected: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()

    def _carry_on(self, path: Path) -> None:
        self._file.seek(0)
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    # What a killed server left half written was never followed by an answer.
                    break
                try:
                    entry = json.loads(line)
                    self._add(entry)
                except (ValueError, KeyError, TypeError):
                    raise InputError(
                        f"{path}:{number}: not an entry of a simulator's bill", hint="name another file for the bill"
                    ) from None
                self._end += len(line)
        self._requests = self._totals.billed_requests
        self._file.truncate(self._end)

    def _add(self, entry: dict[str, Any]) -> None:
        self._totals.add(entry)
        self._by_model.setdefault(entry["model"], _Totals()).add(entry)
        # Bills from before there were batches do not have it.
        self._by_delivery.setdefault(entry.get("delivery", "online"), _Totals()).add(entry)

    def close(self) -> None:
        """Closes the file (a temporary one is gone then)."""
        self._file.close()

    def reset(self) -> None:
        """An empty bill."""
        self._clear()
        self._edition += 1
        self._file.truncate(0)

    def count_request(self) -> None:
        """A request has arrived."""
        self._requests += 1

    def count_rejection(self, code: str) -> None:
        """It was refused."""
        self._rejected[code] += 1

    def count_faults(self, kinds: Sequence[str]) -> None:
        """Faults were chosen for it."""
        self._faults.update(kinds)

    def record(
        self,
        *,
        request_id: str,
        order: Order,
        charge: Charge,
        images: Sequence[str],
        delivered: str = "faulty",
        batch_id: str | None = None,
        custom_id: str | None = None,
    ) -> Entry:
        """Bills one request; `images` are the SHA-256 of each image's bytes. It is in the file when this returns.

        `delivered` is what stays on record if nobody says more. A line of a batch has a `batch_id` and a `custom_id`.
        """
        entry = {
            "request_id": request_id,
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "endpoint": "edits" if order.edits else "generations",
            "model": order.asked_model,
            "size": order.size,
            "quality": order.quality,
            "prompt_sha256": hashlib.sha256(order.prompt.encode("utf-8", "surrogatepass")).hexdigest(),
            "prompt": order.prompt[:200],
            "inputs": [asdict(each) for each in order.inputs],
            "mask": asdict(order.mask) if order.mask else None,
            "input_tokens": charge.input_tokens,
            "input_text_tokens": charge.text_tokens,
            "input_image_tokens": charge.image_tokens,
            "output_tokens": charge.output_tokens,
            "cost_microusd": charge.cost_microusd,
            "images": list(images),
            "delivery": order.prices.delivery,
            "batch_id": batch_id,
            "custom_id": custom_id,
        }
        head = json.dumps(entry)[:-1].encode() + b', "delivered": '
        self._write(head + _state(delivered) + b"}\n", self._end)
        place = Entry(self._edition, self._end + len(head))
        self._end += len(head) + _STATE_CHARS + 2
        self._add(entry)
        return place

    def amend(self, entry: Entry, delivered: str) -> None:
        """Notes how the answer fared: `whole`, `faulty`, or the kind of fault."""
        if entry.edition == self._edition:
            self._write(_state(delivered), entry.offset)

    def _write(self, data: bytes, offset: int) -> None:
        self._file.seek(offset)
        while data:
            data = data[self._file.write(data) :]

    def summary(self) -> dict[str, object]:
        """The totals, as `GET /simulator/bill` gives them."""
        return {
            "requests": self._requests,
            **self._totals.told(),
            "rejected": dict(self._rejected),
            "by_model": {name: totals.told() for name, totals in self._by_model.items()},
            "by_delivery": {name: totals.told() for name, totals in self._by_delivery.items()},
            "faults": dict(self._faults),
        }

    def entries(self) -> Iterator[bytes]:
        """The entries as JSON lines, in pieces, as far as they stand now."""
        edition, offset, end = self._edition, 0, self._end
        while offset < end and edition == self._edition:
            self._file.seek(offset)
            piece = self._file.read(min(_READ_BYTES, end - offset))
            offset += len(piece)
            yield piece


def _open(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not in append mode: entries are amended in place.
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)


def _state(delivered: str) -> bytes:
    return json.dumps(delivered).encode().ljust(_STATE_CHARS)
