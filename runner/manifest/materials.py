"""What a task starts from: the images and the mask that its prompt, its combination and its row name.

Owns which of them wins, and what globs stand for. Refuses to know whether a picture can be sent: that is `starting`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from runner.manifest.editing import (
    SEPARATOR,
    EditSettings,
    PrepareSettings,
    images_of_cell,
    is_glob,
    mask_of_cell,
    split_set,
)
from runner.manifest.mappings import check_lengths
from runner.manifest.matrix import axis_names
from runner.manifest.problems import Path, Wrong
from runner.manifest.schema import FilePrompt, Manifest, Matrix, TextPrompt
from runner.manifest.sources import Row
from runner.manifest.values import INPUT_AXES, MaskEntry, Value

if TYPE_CHECKING:
    from runner.inputs import Inputs

T = TypeVar("T")
Expand = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class Named:
    """An image's path as it was written, and where; nowhere (an empty path) when a row names it."""

    name: str
    path: Path = ()


@dataclass(frozen=True, slots=True, eq=False)
class Materials:
    """What the tasks of one prompt start from where neither a combination nor a row says otherwise.

    `keys` leads from each key of `edit` that says something to where it stands.
    """

    images: tuple[Named, ...]
    references: tuple[Named, ...]
    mask: MaskEntry | None
    defaults: MaskEntry
    """What masks are that do not say it themselves: mode, resize, feather."""
    prepare: PrepareSettings | None
    composite: bool
    fidelity: str | None
    keys: Mapping[str, Path]
    by_row: bool
    """Whether rows name images or masks."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The images and the mask of one task."""

    images: tuple[Named, ...]
    mask: MaskEntry | None
    mask_path: Path


def has_edits(manifest: Manifest) -> bool:
    """Whether any task could start from an image. Without one nothing of this module is needed."""
    if manifest.edit.model_fields_set or not set(axis_names(manifest.matrix)).isdisjoint(INPUT_AXES):
        return True
    return any(prompt.edit.model_fields_set or names_by_row(prompt) for prompt in manifest.prompts)


def names_by_row(prompt: TextPrompt | FilePrompt) -> bool:
    """Whether the rows of the prompt's file name images or masks."""
    return isinstance(prompt, FilePrompt) and (prompt.image is not None or prompt.mask is not None)


def spread(matrix: Matrix, expand: Expand) -> tuple[Matrix, dict[Path, list[int]], list[Wrong]]:
    """The matrix with files in place of globs, where each value of such an axis was written, and globs without files.

    Raises:
        Wrong: the axes of a zip group have not equally many values; the path is from the top of the manifest.
    """
    written: dict[Path, list[int]] = {}
    problems: list[Wrong] = []

    def axis(name: str, values: tuple[Value, ...], path: Path, *, repeats: bool) -> tuple[Value, ...]:
        if name not in INPUT_AXES:
            return values
        found: list[Value] = []
        indexes: list[int] = []
        known: set[Value] = set()
        for index, value in enumerate(values):
            try:
                files = _files(value, expand, (*path, index))
            except Wrong as wrong:
                problems.append(wrong)
                continue
            for one in files:
                if repeats or one not in known:
                    known.add(one)
                    found.append(one)
                    indexes.append(index)
        written[path] = indexes
        return tuple(found)

    axes = {name: axis(name, values, ("matrix", name), repeats=False) for name, values in matrix.axes.items()}
    groups: list[dict[str, tuple[Value, ...]]] = []
    for number, group in enumerate(matrix.zip):
        path: Path = ("matrix", "zip", number)
        groups.append({name: axis(name, values, (*path, name), repeats=True) for name, values in group.items()})
        if not problems:
            check_lengths({name: len(values) for name, values in groups[-1].items()}, path)
    for number, included in enumerate(matrix.include):
        for name in INPUT_AXES:
            value = included.get(name)
            path = ("matrix", "include", number, name)
            try:
                if value is not None and _files(value, expand, path) != [value]:
                    raise Wrong("a glob in `include`", hint="write one entry for each file, or use the axis", path=path)
            except Wrong as wrong:
                problems.append(wrong)
    return matrix.model_copy(update={"axes": axes, "zip": tuple(groups)}), written, problems


def _files(value: Value, expand: Expand, path: Path) -> list[Value]:
    """The values that one value of an axis of images or masks stands for."""
    try:
        if isinstance(value, MaskEntry):
            if value.file is None or not is_glob(value.file):
                return [value]
            rest = {key: getattr(value, key) for key in ("mask_mode", "resize", "feather")}
            return [MaskEntry(file=name, **rest) for name in expand(value.file)]
        assert isinstance(value, str)
        if not is_glob(value):
            return [value]
        if SEPARATOR not in value:
            return list(expand(value))
        return [SEPARATOR.join(name for part in split_set(value) for name in expand(part))]
    except Wrong as wrong:
        wrong.path = path
        raise


def materials(
    manifest: Manifest, path: Path, prompt: TextPrompt | FilePrompt, expand: Expand
) -> tuple[Materials, list[Wrong]]:
    """What a prompt's tasks start from, its own `edit` over the job's, key by key; and globs that find nothing.

    `path` is the prompt's; those of the problems are from the top of the manifest.
    """
    problems: list[Wrong] = []
    found: dict[str, Any] = {}
    keys: dict[str, Path] = {}
    for key in EditSettings.model_fields:
        own = key in prompt.edit.model_fields_set
        found[key] = getattr(prompt.edit if own else manifest.edit, key)
        if found[key] is not None:
            keys[key] = (*path, "edit", key) if own else ("edit", key)

    def named(key: str) -> tuple[Named, ...]:
        listed: list[Named] = []
        for index, name in enumerate(found[key] or ()):
            place: Path = (*keys[key], index)
            try:
                listed += [Named(one, place) for one in (expand(name) if is_glob(name) else [name])]
            except Wrong as wrong:
                wrong.path = place
                problems.append(wrong)
        return tuple(listed)

    made = Materials(
        images=named("images"),
        references=named("references"),
        mask=found["mask"],
        defaults=MaskEntry(mask_mode=found["mask_mode"], resize=found["resize"], feather=found["feather"]),
        prepare=found["prepare"],
        composite=bool(found["composite"]),
        fidelity=found["input_fidelity"],
        keys=keys,
        by_row=names_by_row(prompt),
    )
    return made, problems


def choose(wanted: Materials, own: Mapping[str, Value], paths: Mapping[str, Path], row: Row | None) -> Choice:
    """The images and the mask of a task: an axis wins over the row, that over the prompt and the job.

    `own` are the values of the combination, `paths` where they were written.

    Raises:
        Wrong: the row's cell is no mask.
    """
    images, mask, mask_path = wanted.images, wanted.mask, wanted.keys.get("mask", ())
    text, entry = own.get("image"), own.get("mask")
    if isinstance(text, str):
        images = tuple(Named(name, paths["image"]) for name in split_set(text))
    elif row is not None and row.image:
        images = tuple(map(Named, _of_row(images_of_cell, row.image))) or images
    if isinstance(entry, MaskEntry):
        mask, mask_path = entry, paths["mask"]
    elif row is not None and row.mask:
        mask, mask_path = _of_row(mask_of_cell, row.mask), ()
    return Choice(images, mask, mask_path)


def _of_row(read: Callable[[str], T], cell: str) -> T:
    try:
        return read(cell)
    except Wrong as wrong:
        # Its path leads through the cell, and would be taken for one of the manifest.
        wrong.path = ()
        raise


def expander(inputs: Callable[[], Inputs]) -> Expand:
    """What a glob stands for; a complaint about it is one of ours, without a place."""

    def expand(name: str) -> list[str]:
        from runner.inputs import BadInput

        try:
            return inputs().expand(name)
        except BadInput as error:
            raise Wrong(error.message, hint=error.hint) from None

    return expand
