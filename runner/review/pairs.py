"""Which two images a person is asked about next: of one prompt and one sample, differing in one axis.

Owns the order: different for each person, the same whenever that person comes back, and balanced. The prompts take
turns; within one the axes take turns; and along an axis of many values these stand in a circle, where everyone meets a
neighbour first, then the one after that, so that no value is asked about much more than another. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from runner.report.judged import LACKING

MOST_ASKED = 20_000
"""So many pairs (or images) at most are put before one person, spread over all prompts: nobody judges more."""

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shown:
    """An image that can be judged."""

    task_id: int
    prompt_id: str
    sample: int
    variant: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The images of one prompt and one sample, with the value of every axis of the job for each."""

    name: str
    task_ids: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]


def grouped(images: Iterable[Shown], axes: Sequence[str]) -> list[Group]:
    """The groups in which there is something to compare, in the order of their first images."""
    members: dict[tuple[str, int], list[Shown]] = {}
    for image in images:
        members.setdefault((image.prompt_id, image.sample), []).append(image)
    groups = []
    for (prompt_id, sample), found in members.items():
        if len(found) > 1:
            values = [dict(image.variant) for image in found]
            groups.append(
                Group(
                    f"{prompt_id}\0{sample}",
                    tuple(image.task_id for image in found),
                    tuple(tuple(each.get(axis, LACKING) for axis in axes) for each in values),
                )
            )
    return groups


def asked(
    groups: Sequence[Group],
    axes: Sequence[str],
    *,
    seed: str,
    axis: str | None = None,
    all_pairs: bool = False,
    shuffle_sides: bool = False,
    most: int = MOST_ASKED,
) -> list[Pair]:
    """The pairs (left, right) that one person is asked about, in their order; `seed` tells job and person.

    Without `shuffle_sides` the manifest's order decides who is left.
    """
    order = sorted(groups, key=lambda group: _draw(seed, "group", group.name))[:most]
    chosen = [number for number, name in enumerate(axes) if axis in (None, name)]
    each = max(1, most // len(order)) if order else 0
    turns = [
        islice(_pairs(group, chosen, seed=seed, turn=turn, all_pairs=all_pairs), each)
        for turn, group in enumerate(order)
    ]
    found = _in_turn(turns)
    if not shuffle_sides:
        return list(found)
    return [(b, a) if _draw(seed, "side", f"{a} {b}")[0] & 1 else (a, b) for a, b in found]


def starred(images: Iterable[Shown], *, seed: str, most: int = MOST_ASKED) -> list[int]:
    """The images that one person is asked to give stars to, in their order."""
    return sorted((image.task_id for image in images), key=lambda task_id: _draw(seed, "star", str(task_id)))[:most]


def _pairs(group: Group, axes: Sequence[int], *, seed: str, turn: int, all_pairs: bool) -> Iterator[Pair]:
    first = turn % len(axes) if axes else 0
    along = [_along(group, axis, seed) for axis in (*axes[first:], *axes[:first])]
    yield from _in_turn(along)
    if all_pairs:
        everyone = _shuffled(group, range(len(group.rows)), f"{seed}\0all")
        for a, b in _around([everyone]):
            if sum(one != other for one, other in zip(group.rows[a], group.rows[b], strict=True)) > 1:
                yield _in_order(group, a, b)


def _along(group: Group, axis: int, seed: str) -> Iterator[Pair]:
    """The pairs that differ in this axis alone."""
    lines: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(group.rows):
        lines.setdefault(row[:axis] + row[axis + 1 :], []).append(number)
    circles = [_shuffled(group, line, f"{seed}\0{axis}") for line in lines.values() if len(line) > 1]
    circles.sort(key=lambda circle: _draw(seed, "line", f"{group.name}\0{axis}\0{min(circle)}"))
    for a, b in _around(circles):
        if group.rows[a][axis] != group.rows[b][axis]:
            yield _in_order(group, a, b)


def _around(circles: Sequence[Sequence[int]]) -> Iterator[Pair]:
    """Every two of each circle once: first all neighbours, then those with one in between, and so on."""
    longest = max(map(len, circles), default=0)
    for step in range(1, longest // 2 + 1):
        for at in range(longest):
            for circle in circles:
                size = len(circle)
                # Half way round, everyone has met after half of the circle.
                if 2 * step <= size and at < (size // 2 if 2 * step == size else size):
                    yield circle[at], circle[(at + step) % size]


def _in_order(group: Group, a: int, b: int) -> Pair:
    return group.task_ids[min(a, b)], group.task_ids[max(a, b)]


def _in_turn(sources: Sequence[Iterator[Pair]]) -> Iterator[Pair]:
    """One of each, as long as there are any."""
    waiting = list(sources)
    while waiting:
        left = []
        for source in waiting:
            found = next(source, None)
            if found is not None:
                yield found
                left.append(source)
        waiting = left


def _shuffled(group: Group, numbers: Iterable[int], seed: str) -> list[int]:
    return sorted(numbers, key=lambda number: _draw(seed, "place", str(group.task_ids[number])))


def _draw(seed: str, what: str, name: str) -> bytes:
    return blake2b(f"{seed}\0{what}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
