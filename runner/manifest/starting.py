"""The images and the mask of a task, checked: what goes into its request.

Owns the way from a picture that cannot be sent to the line that names it, and the rules that hold for all images of one
request together. Refuses to open a file: that is `inputs`, which is imported by the first manifest that has an edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.manifest.editing import SEPARATOR, PrepareSettings
from runner.manifest.materials import Choice, Materials, Named, choose
from runner.manifest.pictures import Picture, shape_of
from runner.manifest.problems import Path, Wrong
from runner.manifest.sources import Row
from runner.manifest.values import MaskEntry, Value
from runner.tasks import Edit, Source

if TYPE_CHECKING:
    from runner.inputs import Inputs, Mask, Prepare, Ready

MOST_IMAGES = 16
"""The API's limit of input images in one request."""
_MOST_KEPT = 20_000


@dataclass(frozen=True, slots=True)
class Start:
    """A choice, checked: what goes into the task, and the variables of templates."""

    edit: Edit | None = None
    sources: tuple[Source, ...] = ()
    composite: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


NOTHING = Start()


class Starter:
    """Turns choices into starts, and remembers those that no row has a part in."""

    def __init__(self, inputs: Callable[[], Inputs]) -> None:
        self._inputs = inputs
        self._kept: dict[tuple[Materials, Choice], Start | Wrong] = {}

    def start(
        self, wanted: Materials | None, own: Mapping[str, Value], paths: Mapping[str, Path], row: Row | None = None
    ) -> Start:
        """What a task starts from.

        Raises:
            Wrong: a picture cannot be sent. The path is from the top of the manifest, and empty when it is the row's.
        """
        if wanted is None:
            return NOTHING
        choice = choose(wanted, own, paths, row)
        if row is not None and wanted.by_row:
            return self._made(wanted, choice)
        found = self._kept.get((wanted, choice))
        if found is None:
            try:
                found = self._made(wanted, choice)
            except Wrong as wrong:
                found = wrong
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[wanted, choice] = found
        if isinstance(found, Wrong):
            raise found
        return found

    def faults(self, wanted: Materials, choice: Choice) -> list[Wrong]:
        """Every image of a choice that cannot be sent."""
        found: list[Wrong] = []
        for named in (*choice.images, *wanted.references):
            try:
                self._image(named, _prepare(wanted.prepare))
            except Wrong as wrong:
                found.append(wrong)
        return found

    def _made(self, wanted: Materials, choice: Choice) -> Start:
        every = (*choice.images, *wanted.references)
        if not choice.images and choice.mask is not None:
            raise Wrong(
                "a mask without an image",
                hint="name the image that it is for: `images` under `edit`, `image` in the matrix or of the row",
                path=choice.mask_path,
            )
        if not every:
            return NOTHING
        if len(every) > MOST_IMAGES:
            raise Wrong(
                f"{len(every)} images for one request: the API takes at most {MOST_IMAGES}",
                hint="for one task for each image, write them under the matrix: `matrix: {image: [...]}`",
                path=_path_of_many(wanted, choice),
            )
        prepare = _prepare(wanted.prepare)
        ready = [self._image(named, prepare) for named in every]
        sources = [one.source for one in ready]
        first = ready[0].input
        text = SEPARATOR.join(named.name for named in choice.images or every)
        values = Picture.of(text, every[0].name, first.width, first.height).variables("image")
        composite = mask = None
        if choice.mask is not None:
            drawn = _mask(choice.mask, wanted.defaults)
            with _Blaming(choice, every[0]):
                of_mask = self._inputs().mask(drawn, every[0].name, prepare)
                composite = self._inputs().composite(every[0].name, drawn) if wanted.composite else None
            mask = of_mask.input
            sources.append(of_mask.source)
            name = choice.mask.file or shape_of(choice.mask)
            values |= Picture.of(choice.mask.text, name, mask.width, mask.height).variables("mask")
        elif wanted.composite:
            raise Wrong(
                "a composite without a mask: there is no part to paste",
                hint="add a `mask`, or write `composite: false` where there is none",
                path=wanted.keys["composite"],
            )
        edit = Edit(tuple(one.input for one in ready), mask, wanted.fidelity)
        return Start(edit, tuple(sources), composite, values)

    def _image(self, named: Named, prepare: Prepare | None) -> Ready:
        with _Blaming(Choice((named,), None, ()), named):
            return self._inputs().image(named.name, prepare)


class _Blaming:
    """Turns a picture that cannot be sent into a complaint about the line that names it."""

    def __init__(self, choice: Choice, first: Named) -> None:
        self._choice = choice
        self._first = first

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if kind is None:
            return
        from runner.inputs import BadInput

        if isinstance(error, BadInput):
            path = self._choice.mask_path if error.about == "mask" else self._first.path
            raise Wrong(error.message, hint=error.hint, path=path) from None


def _path_of_many(wanted: Materials, choice: Choice) -> Path:
    """The place of the longer of the two lists; a row's when the images are."""
    if len(wanted.references) > len(choice.images):
        return wanted.keys["references"]
    # An entry of `images` points at its own line; it is the list that is too long.
    return wanted.keys["images"] if choice.images is wanted.images else choice.images[0].path


def _prepare(given: PrepareSettings | None) -> Prepare | None:
    if given is None or not given.model_fields_set:
        return None
    from runner.inputs import Prepare

    return Prepare(given.max_side, given.format, **({} if given.quality is None else {"quality": given.quality}))


def _mask(entry: MaskEntry, defaults: MaskEntry) -> Mask:
    from runner.inputs import Mask

    of_file: dict[str, Any] = {"mode": entry.mask_mode or defaults.mask_mode or "alpha"}
    of_file["resize"] = bool(defaults.resize if entry.resize is None else entry.resize)
    feather = (defaults.feather or 0) if entry.feather is None else entry.feather
    return Mask(entry.file, entry.box, entry.polygon, feather=feather, **(of_file if entry.file is not None else {}))
