"""The combinations of a matrix.

Owns the product of axes and zip groups, `exclude` and `include`; the last two mean what they mean in GitHub Actions.
Refuses to know what an axis is for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runner.manifest.problems import Path, Wrong, nearest
from runner.manifest.schema import Matrix
from runner.manifest.values import Value, text_of
from runner.tasks import REQUEST_FIELDS

MAX_COMBINATIONS = 10_000
MAX_WORK = 200_000
"""Steps to work a matrix out: a few lines can ask for a product without end of which `exclude` leaves nothing."""


@dataclass(slots=True)
class Combination:
    """Values by axis, and where each was written (a path from the top of the manifest)."""

    values: dict[str, Value] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)


def axis_names(matrix: Matrix) -> list[str]:
    """Every axis in order: the single ones, those of zip groups, and those that only `include` adds."""
    names = [*matrix.axes, *itertools.chain(*matrix.zip), *itertools.chain(*matrix.include)]
    return list(dict.fromkeys(names))


def combinations(matrix: Matrix, written: Mapping[Path, Sequence[int]] | None = None) -> list[Combination]:
    """Every combination, in order: the first axis changes slowest, zip groups come after the axes, includes last.

    A matrix without axes is one empty combination; with `include` alone, each entry is a combination. `written` has,
    by the path of an axis some of whose values stand for several, the index at which each was written.

    Raises:
        Wrong: the matrix contradicts itself; the path is from the top of the manifest.
    """
    _check_axes(matrix)
    originals = set(matrix.axes).union(*matrix.zip)
    found: list[Combination] = []
    if originals or not matrix.include:
        excluded = _Excluded(matrix.exclude)
        for number, combination in enumerate(_product(matrix, written or {}), 1):
            _bound_work(number * (1 + excluded.cost))
            if combination in excluded:
                continue
            found.append(combination)
            _bound(len(found))
    _include(matrix, originals, found)
    if not found:
        raise Wrong("`exclude` leaves no combination", hint="remove an entry of it", path=("matrix", "exclude"))
    return found


def _product(matrix: Matrix, written: Mapping[Path, Sequence[int]]) -> Iterator[Combination]:
    def place(path: Path, index: int) -> Path:
        return (*path, written[path][index] if path in written else index)

    steps: list[list[Combination]] = [
        [Combination({name: value}, {name: place(("matrix", name), index)}) for index, value in enumerate(values)]
        for name, values in matrix.axes.items()
    ]
    for number, group in enumerate(matrix.zip):
        length = len(next(iter(group.values())))
        steps.append(
            [
                Combination(
                    {name: values[index] for name, values in group.items()},
                    {name: place(("matrix", "zip", number, name), index) for name in group},
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
    by_values: dict[tuple[str, ...], dict[tuple[str, ...], list[Combination]]] = {}
    work = 0
    for number, included in enumerate(matrix.include):
        paths: dict[str, Path] = {name: ("matrix", "include", number, name) for name in included}
        shared = tuple(sorted(name for name in included if name in originals))
        if shared not in by_values:
            work += len(base)
            by_values[shared] = {}
            for combination in base:
                by_values[shared].setdefault(_values_of(combination.values, shared), []).append(combination)
        hits = by_values[shared].get(_values_of(included, shared), [])
        work += len(hits)
        _bound_work(work)
        for combination in hits:
            for name, value in included.items():
                if name not in originals:
                    combination.values[name] = value
                    combination.paths[name] = paths[name]
        if not hits:
            found.append(Combination(dict(included), paths))
            _bound(len(found))


class _Excluded:
    """The entries of `exclude`, by the axes that they name: a look-up for each set of axes, not one for each entry."""

    def __init__(self, entries: tuple[dict[str, Value], ...]) -> None:
        self._by_axes: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for entry in entries:
            axes = tuple(sorted(entry))
            self._by_axes.setdefault(axes, set()).add(_values_of(entry, axes))

    @property
    def cost(self) -> int:
        """How many look-ups a combination takes."""
        return len(self._by_axes)

    def __contains__(self, combination: Combination) -> bool:
        return any(_values_of(combination.values, axes) in values for axes, values in self._by_axes.items())


def _values_of(values: dict[str, Value], axes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text_of(values[axis]) for axis in axes)


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


def _bound_work(steps: int) -> None:
    if steps > MAX_WORK:
        raise Wrong(
            "the matrix is too large to be worked out",
            hint="make its axes shorter, or its `exclude` and `include`",
            path=("matrix",),
            at_key=True,
        )


def own_axes(names: list[str]) -> list[str]:
    """The axes that are not a field of the request: variables for templates."""
    return [name for name in names if name not in REQUEST_FIELDS]
