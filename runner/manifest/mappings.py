"""The mappings of a manifest whose keys are the user's own: variables, axes, combinations, columns.

Owns how each is read, and complaints about one entry of it, with the path to that entry. Refuses to know which key of
the manifest holds which: that is `schema`.
"""

from __future__ import annotations

from typing import Any

from runner.manifest.editing import image_set, mask_entry
from runner.manifest.problems import Path, Wrong, convert_at
from runner.manifest.values import (
    INPUT_AXES,
    Value,
    as_text,
    as_value,
    check_variable_name,
    field_value,
    kind,
    text_of,
)


def scalar_variables(raw: object) -> dict[str, Value]:
    """Variables with one value each."""
    return {name: _variable(name, value) for name, value in mapping_of(raw, "`vars`").items()}


def _variable(name: str, raw: object) -> Value:
    check_variable_name(name, axis=False)
    if isinstance(raw, (list, tuple)):
        raise Wrong(
            "a variable for the whole job has one value",
            hint="put a list under `matrix`, or under one prompt's `vars`",
            path=(name,),
        )
    value: Value = convert_at((name,), as_value, raw)
    return value


def list_variables(raw: object) -> dict[str, Value | tuple[Value, ...]]:
    """Variables, some of which list several values."""
    variables: dict[str, Value | tuple[Value, ...]] = {}
    for name, value in mapping_of(raw, "`vars`").items():
        check_variable_name(name, axis=False)
        is_list = isinstance(value, (list, tuple))
        variables[name] = _values(name, value, (name,)) if is_list else convert_at((name,), as_value, value)
    return variables


def _values(name: str, raw: object, path: Path) -> tuple[Value, ...]:
    """The values of an axis: a list, or one value alone; none twice."""
    if not isinstance(raw, (list, tuple)):
        return (convert_at(path, lambda one: _axis_value(name, one), raw),)
    if not raw:
        raise Wrong(f"{name!r} has no values", hint="give it at least one, or remove it", path=path)
    values: list[Value] = []
    seen: set[tuple[type, Value]] = set()
    for index, one in enumerate(raw):
        value = convert_at((*path, index), lambda given: _axis_value(name, given), one)
        if (type(value), value) in seen:
            told = text_of(value) if name in INPUT_AXES else kind(one)
            raise Wrong(
                f"{told} stands twice in {name!r}",
                hint="remove one; for several images of one request use `samples`",
                path=(*path, index),
            )
        seen.add((type(value), value))
        values.append(value)
    return tuple(values)


def _axis_value(name: str, raw: object) -> Value:
    """One value of an axis: a set of images, a mask, or whatever the axis has."""
    if name not in INPUT_AXES:
        return field_value(name, raw)
    return image_set(raw) if name == "image" else mask_entry(raw)


def axes_of(raw: object) -> dict[str, tuple[Value, ...]]:
    """Axes with their values; a value alone is a list of one."""
    axes: dict[str, tuple[Value, ...]] = {}
    for name, values in mapping_of(raw, "the matrix").items():
        check_variable_name(name, axis=True)
        axes[name] = _values(name, values, (name,))
    return axes


def zip_group(raw: object) -> dict[str, tuple[Value, ...]]:
    """Axes that advance together: equally many values in each."""
    group = axes_of(raw)
    lengths = {name: len(values) for name, values in group.items()}
    if not lengths:
        raise Wrong("a zip group without axes", hint="write e.g. `zip: [{size: [...], label: [...]}]`")
    # What globs stand for is not known yet.
    if not any(name in INPUT_AXES for name in group):
        check_lengths(lengths)
    return group


def check_lengths(lengths: dict[str, int], path: Path = ()) -> None:
    """Raise Wrong unless the axes of a zip group, which stands at `path`, have equally many values."""
    first = next(iter(lengths))
    for name, length in lengths.items():
        if length != lengths[first]:
            raise Wrong(
                f"{name!r} has {_count(length)}, and {first!r} has {_count(lengths[first])}",
                hint="the axes of one zip group advance together: give them equally many",
                path=(*path, name),
                at_key=True,
            )


def combination_of(raw: object) -> dict[str, Value]:
    """One value for each of some axes."""
    combination: dict[str, Value] = {}
    for name, value in mapping_of(raw, "an entry").items():
        check_variable_name(name, axis=True)
        if isinstance(value, (list, tuple)) and name != "image":
            raise Wrong(
                f"{name!r} takes one value here, not a list",
                hint="write one entry for each value",
                path=(name,),
            )
        combination[name] = convert_at((name,), lambda given, axis=name: _axis_value(axis, given), value)
    if not combination:
        raise Wrong("an empty entry", hint="write e.g. {size: 1024x1024, quality: high}, or remove it")
    return combination


def where_of(raw: object) -> dict[str, tuple[str, ...]]:
    """Wanted values by column, as text."""
    where: dict[str, tuple[str, ...]] = {}
    for column, value in mapping_of(raw, "`where`").items():
        listed = value if isinstance(value, (list, tuple)) else [value]
        if not listed:
            raise Wrong(f"no values for {column!r}", hint="give at least one", path=(column,))
        where[column] = tuple(
            str(convert_at((column, index), lambda given: "" if given is None else as_text(given), one))
            for index, one in enumerate(listed)
        )
    return where


def mapping_of(raw: object, what: str) -> dict[str, Any]:
    """`raw`, if it is a mapping; `what` is what a complaint calls it."""
    if isinstance(raw, dict):
        return raw
    raise Wrong(f"{what} must be a mapping, not {kind(raw)}", hint="write `key: value`")


def _count(values: int) -> str:
    return "1 value" if values == 1 else f"{values} values"
