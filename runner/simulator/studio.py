"""Makes the image files of an order, in worker threads.

Owns the link from an order and a sample number to bytes: equal seeds, orders and sample numbers give equal files.
Refuses to know HTTP and money.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from runner.simulator import container, draw
from runner.simulator.validate import Order


@dataclass(frozen=True, slots=True)
class Shot:
    """One finished image file and its SHA-256 (hex)."""

    data: bytes
    sha256: str


class Studio:
    """The workers of one server."""

    def __init__(self, *, seed: int, art: Literal["drawn", "flat"], payload_kb: int | None) -> None:
        self._seed = seed
        self._art = art
        self._fill_to_bytes = (payload_kb or 0) * 1000
        self._threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="studio")
        self._flat = lru_cache(maxsize=64)(_flat)

    def close(self) -> None:
        """Drops what has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def make(self, order: Order, sample: int, fault: str | None = None) -> list[Shot]:
        """The images of an order (`order.n` of them); some faults want them spoilt."""
        loop = asyncio.get_running_loop()
        return [
            await loop.run_in_executor(self._threads, self._make, order, sample * order.n + index, fault)
            for index in range(order.n)
        ]

    def _make(self, order: Order, sample: int, fault: str | None) -> Shot:
        # Quality and size stay out of it: variants of one prompt show the same scene.
        text = f"{self._seed}/{sample}/{order.prompt}".encode("utf-8", "replace")
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
        width, height, output_format = order.width, order.height, order.output_format
        if fault == "wrong_size":
            width, height = max(1, width // 2), max(1, height // 2)
        if fault == "wrong_format":
            output_format = "jpeg" if output_format == "png" else "png"
        if self._art == "flat":
            data = self._flat(width, height, output_format, order.compression, order.transparent)
        else:
            sketch = draw.Sketch(
                words=order.prompt,
                caption=f"{order.asked_model}  {order.size}  {order.quality}",
                width=width,
                height=height,
                quality=order.quality,
                seed=seed,
                transparent=order.transparent,
            )
            data = container.encode(draw.paint(sketch), output_format, order.compression)
        note = f"simulated; {order.asked_model}; {order.size}; {order.quality}; {seed:016x}"
        data = container.label(data, output_format, note, self._fill_to_bytes)
        if fault == "not_image":
            data = b"This is a text where an image was expected.\n" * 40
        if fault == "truncated_image":
            data = data[: -max(16, len(data) // 4)]
        return Shot(data, hashlib.sha256(data).hexdigest())


def _flat(width: int, height: int, output_format: str, compression: int, transparent: bool) -> bytes:
    sketch = draw.Sketch("Flat art for load tests", f"{width}x{height}", width, height, "low", 2, transparent)
    return container.encode(draw.paint(sketch), output_format, compression)
