"""Law 8 for batches: what bringing results home takes in memory does not grow with them."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.part_batches import Load, collect
from tests.bench.sides import Homes

FEW, MANY, MEGABYTES = 20, 300, 1.0
MAY_GROW_BYTES = 25_000_000
"""Whoever held the lines, or the file, would take 400 MB more for the many; and a tenth of them is more than this."""


def test_memory_does_not_grow_with_the_images_of_a_batch(tmp_path: Path) -> None:
    """`runner collect` as a process of its own: 300 images of 1 MB in one file take about what 20 of them take."""
    homes = Homes(Path(sys.executable), Path(sys.executable), tmp_path)
    few, many = (collect("runner", homes, Load(images, MEGABYTES)).peak_rss_bytes for images in (FEW, MANY))
    assert many - few < MAY_GROW_BYTES
