"""Makes the image files of an order, in worker threads.

Owns the link from an order and a sample number to bytes: equal seeds, orders and sample numbers give equal files.
Refuses to know HTTP and money.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

from runner.simulator import container, draw, retouch
from runner.simulator.intake import NO_FILES, Files
from runner.simulator.validate import Order

T = TypeVar("T")


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

    async def run(self, function: Callable[..., T], /, *arguments: Any) -> T:
        """What `function(*arguments)` gives, from one of the workers."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def make(self, order: Order, sample: int, fault: str | None = None, files: Files = NO_FILES) -> list[Shot]:
        """The images of an order (`order.n` of them); some faults want them spoilt.

        Raises:
            Problem: a picture of the order proves broken when it is decoded.
        """
        return [await self.run(self._make, order, sample * order.n + index, fault, files) for index in range(order.n)]

    def _make(self, order: Order, sample: int, fault: str | None, files: Files) -> Shot:
        # Quality and size stay out of it: variants of one prompt show the same scene.
        pictured = f"/{order.pictured}" if order.edits else ""
        text = f"{self._seed}/{sample}/{order.prompt}{pictured}".encode("utf-8", "replace")
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
            image = retouch.paint(sketch, files) if order.edits else draw.paint(sketch)
            data = container.encode(image, output_format, order.compression)
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
