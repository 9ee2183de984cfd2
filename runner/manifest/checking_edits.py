"""What can be judged of images and masks before a row is read, and with the first row of each file.

Owns the order of these checks; each problem leads to the line that names the picture. Refuses to know what makes a
picture one that can be sent (`inputs`), and every other check (`checking`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from runner.errors import ManifestError
from runner.manifest import sources
from runner.manifest.binding import Binding, Cell, Prepared
from runner.manifest.materials import (
    Choice,
    Materials,
    choose,
    expander,
    has_edits,
    materials,
    names_by_row,
    spread,
)
from runner.manifest.pictures import preview
from runner.manifest.problems import Path, Wrong
from runner.manifest.schema import FilePrompt, Manifest, TextPrompt
from runner.manifest.sources import Row
from runner.manifest.starting import MOST_IMAGES, Starter
from runner.manifest.values import INPUT_AXES


class EditCheck:
    """The checks of one manifest. `add` takes a problem of the manifest, `add_error` one of a row."""

    def __init__(
        self,
        manifest: Manifest,
        binding: Binding,
        add: Callable[[Wrong], None],
        add_error: Callable[[ManifestError], None],
    ) -> None:
        self.wanted = has_edits(manifest)
        self._manifest = manifest
        self._binding = binding
        self._add = add
        self._add_error = add_error
        self._expand = expander(binding.inputs)
        self._starter = Starter(binding.inputs)
        self._shared: Materials | None = None
        self._broken: set[int] = set()
        """Materials of which a glob found nothing: that was told, and what follows from it is not."""
        self._rows: dict[Path, Row | None] = {}

    def matrix(self) -> dict[Path, list[int]] | None:
        """Put files in place of the matrix's globs; where each value was written, or None when there was a problem."""
        self._binding.matrix = self._manifest.matrix
        if not self.wanted:
            return {}
        try:
            self._binding.matrix, written, problems = spread(self._manifest.matrix, self._expand)
        except Wrong as wrong:
            problems = [wrong]
        for problem in problems:
            self._add(problem)
        return None if problems else written

    def materials(self, path: Path, prompt: TextPrompt | FilePrompt) -> Materials | None:
        """What a prompt's tasks start from; prompts that say nothing of it share one."""
        if not self.wanted:
            return None
        is_own = names_by_row(prompt) or prompt.edit.model_fields_set
        if not is_own and self._shared is not None:
            return self._shared
        made, problems = materials(self._manifest, path, prompt, self._kept_glob)
        for problem in problems:
            self._add(problem)
            self._broken.add(id(made))
        if not is_own:
            self._shared = made
        return made

    def _kept_glob(self, name: str) -> list[str]:
        if name not in self._binding.globs:
            self._binding.globs[name] = self._expand(name)
        return self._binding.globs[name]

    def variables(self, wanted: Materials | None, prompt: TextPrompt | FilePrompt) -> list[str]:
        """The variables that a prompt's templates have of what it starts from, those of the matrix apart."""
        if wanted is None:
            return []
        of_row = prompt if isinstance(prompt, FilePrompt) else None
        has_image = wanted.images or wanted.references or (of_row is not None and of_row.image is not None)
        has_mask = wanted.mask is not None or (of_row is not None and of_row.mask is not None)
        return [name for name, there in zip(INPUT_AXES, (has_image, has_mask), strict=True) if there]

    def can_edit(self, prepared: Prepared, cell: Cell) -> bool:
        """Whether a task of this combination starts from an image."""
        if prepared.materials is None:
            return False
        return "image" in cell.own or "image" in self.variables(prepared.materials, prepared.prompt)

    def run(self, prepared: Iterable[Prepared], cells: Callable[[Prepared], Sequence[Cell]]) -> None:
        """Judge every image and mask that is known by now, and say which edit has none."""
        seen: set[int] = set()
        starts_somewhere = False
        for one in prepared:
            wanted = one.materials
            if wanted is None:
                continue
            its_cells = cells(one)
            starts = id(wanted) in self._broken or any(self.can_edit(one, cell) for cell in its_cells)
            starts_somewhere = starts_somewhere or starts
            if not starts and any(key in wanted.keys for key in one.prompt.edit.model_fields_set):
                self._add(_no_images((*one.path, "edit")))
            elif (starts or wanted.mask is None) and not (id(wanted) in seen and not one.is_alone):
                seen.add(id(wanted))
                if id(wanted) not in self._broken:
                    self._judge(one, wanted, its_cells)
        if not starts_somewhere and self._manifest.edit.model_fields_set:
            self._add(_no_images(("edit",)))

    def _judge(self, prepared: Prepared, wanted: Materials, cells: Sequence[Cell]) -> None:
        done: set[Choice] = set()
        row = self.first_row(prepared) if wanted.by_row else None
        if wanted.by_row and row is None:
            return
        for cell in cells:
            try:
                choice = choose(wanted, cell.own, cell.paths, row)
                if choice in done:
                    continue
                done.add(choice)
                problems = self._problems(wanted, cell, choice, row)
            except Wrong as wrong:
                problems = [wrong]
            for problem in problems:
                self._report(problem, prepared, row)

    def _problems(self, wanted: Materials, cell: Cell, choice: Choice, row: Row | None) -> list[Wrong]:
        try:
            self._starter.start(wanted, cell.own, cell.paths, row)
        except Wrong as wrong:
            few = len(choice.images) + len(wanted.references) <= MOST_IMAGES
            return (self._starter.faults(wanted, choice) if few else []) or [wrong]
        return []

    def _report(self, wrong: Wrong, prepared: Prepared, row: Row | None) -> None:
        if wrong.path or row is None:
            self._add(wrong)
            return
        assert isinstance(prepared.prompt, FilePrompt)
        source = str(self._binding.file_path(prepared.prompt))
        self._add_error(ManifestError(wrong.message, source=source, line=row.line, hint=wrong.hint))

    def first_row(self, prepared: Prepared) -> Row | None:
        """The first row of a prompt's file, read once."""
        if prepared.path not in self._rows:
            assert isinstance(prepared.prompt, FilePrompt)
            path = self._binding.file_path(prepared.prompt)
            self._rows[prepared.path] = next(sources.rows(prepared.prompt, path), None)
        return self._rows[prepared.path]

    def values(self, prepared: Prepared, cell: Cell) -> Mapping[str, Any]:
        """The variables of what a task of this combination starts from, with the first row of a file.

        Raises:
            Wrong: it cannot be sent; `run` has told that already.
        """
        wanted = prepared.materials
        if wanted is None:
            return {}
        row = self.first_row(prepared) if wanted.by_row else None
        if wanted.by_row and row is None:
            return preview(cell.own)
        return self._starter.start(wanted, cell.own, cell.paths, row).values


def _no_images(path: Path) -> Wrong:
    return Wrong(
        "an `edit` without images: nothing starts from one",
        hint="write `images: [assets/mug.png]` into it, or `image: [assets/*.png]` into the matrix; or remove it",
        path=path,
        at_key=True,
    )
