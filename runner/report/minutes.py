"""Images per minute, put together where there are more minutes than there is room for bars."""

from __future__ import annotations

from collections.abc import Sequence


def bundled(minutes: Sequence[tuple[int, int]], most: int) -> tuple[int, list[int]]:
    """How many minutes go into one bar, and the images of each bar, from the first minute to the last.

    `minutes` are (minute, images) in their order, at least one; those without images may be left out.
    """
    first, last = minutes[0][0], minutes[-1][0]
    each = -(-(last - first + 1) // most)
    sums = [0] * ((last - first) // each + 1)
    for minute, images in minutes:
        sums[(minute - first) // each] += images
    return each, sums
