"""The combinations of a matrix.

Owns the product of axes and zip groups, `exclude` and `include`; the last two mean what they mean in GitHub Actions.
Refuses to know what an axis is for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from runner.manifest.problems import Path, Wrong, nearest
from runner.manifest.schema import Matrix
from runner.manifest.values import Value, text_of
from runner.tasks import REQUEST_FIELDS

MAX_COMBINATIONS = 10_000


@dataclass(slots=True)
class Combination:
    """Values by axis, and where each was written (a path from the top of the manifest)."""

    values: dict[str, Value] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)


def axis_names(matrix: Matrix) -> list[str]:
    """Every axis in order: the single ones, those of zip groups, and those that only `include` adds."""
    names = [*matrix.axes, *itertools.chain(*matrix.zip), *itertools.chain(*matrix.include)]
    return list(dict.fromkeys(names))


def combinations(matrix: Matrix) -> list[Combination]:
    """Every combination, in order: the first axis changes slowest, zip groups come after the axes, includes last.

    A matrix without axes is one empty combination; with `include` alone, each entry is a combination.

    Raises:
        Wrong: the matrix contradicts itself; the path is from the top of the manifest.
    """
    _check_axes(matrix)
    originals = set(matrix.axes).union(*matrix.zip)
    found: list[Combination] = []
    if originals or not matrix.include:
        for combination in _product(matrix):
            if any(_matches(combination, excluded) for excluded in matrix.exclude):
                continue
            found.append(combination)
            _bound(len(found))
    _include(matrix, originals, found)
    if not found:
        raise Wrong("`exclude` leaves no combination", hint="remove an entry of it", path=("matrix", "exclude"))
    return found


def _product(matrix: Matrix) -> Iterator[Combination]:
    steps: list[list[Combination]] = [
        [Combination({name: value}, {name: ("matrix", name, index)}) for index, value in enumerate(values)]
        for name, values in matrix.axes.items()
    ]
    for number, group in enumerate(matrix.zip):
        length = len(next(iter(group.values())))
        steps.append(
            [
                Combination(
                    {name: values[index] for name, values in group.items()},
                    {name: ("matrix", "zip", number, name, index) for name in group},
                )
                for index in range(length)
            ]
        )
    for chosen in itertools.product(*steps):
        combination = Combination()
        for step in chosen:
            combination.values.update(step.values)
            combination.paths.update(step.paths)
        yield combination


def _include(matrix: Matrix, originals: set[str], found: list[Combination]) -> None:
    base = list(found)
    for number, included in enumerate(matrix.include):
        paths: dict[str, Path] = {name: ("matrix", "include", number, name) for name in included}
        shared = {name: value for name, value in included.items() if name in originals}
        hits = [combination for combination in base if _matches(combination, shared)]
        for combination in hits:
            for name, value in included.items():
                if name not in originals:
                    combination.values[name] = value
                    combination.paths[name] = paths[name]
        if not hits:
            found.append(Combination(dict(included), paths))
            _bound(len(found))


def _matches(combination: Combination, partial: dict[str, Value]) -> bool:
    values = combination.values
    return all(name in values and text_of(values[name]) == text_of(value) for name, value in partial.items())


def _check_axes(matrix: Matrix) -> None:
    seen = set(matrix.axes)
    for number, group in enumerate(matrix.zip):
        for name in group:
            if name in seen:
                raise Wrong(
                    f"the axis {name!r} stands twice in the matrix",
                    hint="keep it either by itself or in one zip group",
                    path=("matrix", "zip", number, name),
                    at_key=True,
                )
            seen.add(name)
    for number, excluded in enumerate(matrix.exclude):
        for name in excluded:
            if name not in seen:
                close = nearest(name, seen)
                raise Wrong(
                    f"`exclude` names {name!r}, which is no axis",
                    hint=(f"did you mean {close}? " if close else "") + f"axes: {', '.join(seen) or 'none'}",
                    path=("matrix", "exclude", number, name),
                    at_key=True,
                )


def _bound(count: int) -> None:
    if count > MAX_COMBINATIONS:
        raise Wrong(
            f"the matrix has more than {MAX_COMBINATIONS:,} combinations",
            hint="make its axes shorter, or split the job",
            path=("matrix",),
            at_key=True,
        )


def own_axes(names: list[str]) -> list[str]:
    """The axes that are not a field of the request: variables for templates."""
    return [name for name in names if name not in REQUEST_FIELDS]
