"""Everything about a manifest that can be judged before a row of its prompt files is read.

Owns the order of the checks, and which of two mistakes is the cause. Each check collects its problems, so that a user
sees them together. Refuses to know YAML and the shapes of keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath

from runner.catalog import Catalog, Model
from runner.errors import InputError, ManifestError
from runner.manifest import sources
from runner.manifest.binding import (
    LATE_NAMES,
    Binding,
    Cell,
    Instance,
    Prepared,
    check_length,
    default_name,
    prepare,
)
from runner.manifest.checking_edits import EditCheck
from runner.manifest.judging import Verdict, find_model, judge, judge_edit
from runner.manifest.materials import Materials
from runner.manifest.matrix import axis_names, combinations, own_axes
from runner.manifest.naming import check_path, extension, safe_part
from runner.manifest.problems import Path, Problem, Wrong, nearest, raise_for, suggest
from runner.manifest.schema import FilePrompt, Manifest, TextPrompt
from runner.manifest.template import compile_template
from runner.manifest.tree import Document
from runner.manifest.values import INPUT_AXES, Value, text_of
from runner.tasks import REQUEST_FIELDS

MAX_RENDERED = 100_000
MAX_WORK_CHARS = 20_000_000
"""How many prompts are rendered while a manifest is judged, and what their templates may work through in all."""
MAX_IMAGES = 10_000_000
"""How many images a manifest may ask for, rows of its files apart."""


def bind(manifest: Manifest, document: Document, base_dir: FilePath, catalog: Catalog) -> None:
    """Judge the manifest against the catalog and itself, and make it ready for expansion.

    Raises:
        ManifestError: the first problem in file order, with the others listed.
    """
    check = _Check(manifest, Binding(document, base_dir, catalog))
    check.run()
    raise_for(check.problems)
    manifest.bind(check.binding)


class _Check:
    def __init__(self, manifest: Manifest, binding: Binding) -> None:
        self.manifest = manifest
        self.binding = binding
        self.problems: list[Problem] = []
        self.done: set[tuple[object, ...]] = set()
        self.rendered = 0
        self.work_chars = 0
        self.edits = EditCheck(manifest, binding, self._add, lambda error: self.problems.append(_as_problem(error)))

    def run(self) -> None:
        self._names_of_the_catalog()
        written = self.edits.matrix()
        if written is None:
            return
        try:
            self.binding.combinations = combinations(self.binding.matrix, written)
        except Wrong as wrong:
            self._add(wrong)
            return
        self.binding.axes = axis_names(self.manifest.matrix)
        self._prompts()
        self._ids()
        if self._too_many():
            return
        self._fields()
        self.edits.run(self.binding.prepared, self._cells)
        if not self.problems:
            self._identical_requests()
            self._texts()
            self._image_names()

    def _add(self, wrong: Wrong, path: Path = ()) -> None:
        self.problems.append(problem(self.binding.document, wrong, path))

    def _cells(self, prepared: Prepared) -> list[Cell]:
        return self.binding.cells(self.manifest, prepared)

    def _seen(self, check: str, prepared: Prepared, *more: object) -> bool:
        """Whether a prompt alike in what `check` looks at was checked before; own settings or images make it unlike."""
        if prepared.is_alone:
            return False
        key = (check, *more)
        if key in self.done:
            return True
        self.done.add(key)
        return False

    def _names_of_the_catalog(self) -> None:
        manifest, catalog = self.manifest, self.binding.catalog
        if manifest.provider is not None:
            try:
                catalog.provider(manifest.provider)
            except InputError as error:
                hint = suggest(manifest.provider, list(catalog.providers), what="providers in the catalog")
                self._add(Wrong(error.message, hint=hint), ("provider",))
        if manifest.fallback_model is not None:
            try:
                find_model(catalog, manifest.fallback_model)
            except Wrong as wrong:
                self._add(wrong, ("fallback_model",))
        tier = manifest.limits.tier
        if tier is not None and tier not in catalog.tiers:
            tiers = ", ".join(map(str, catalog.tiers))
            self._add(Wrong(f"there is no tier {tier}", hint=f"tiers: {tiers}"), ("limits", "tier"))

    def _prompts(self) -> None:
        manifest, binding = self.manifest, self.binding
        own = own_axes(binding.axes)
        for index, prompt in enumerate(manifest.prompts):
            path: Path = ("prompts", index)
            for name in prompt.vars:
                if name in own:
                    self._add(
                        Wrong(
                            f"{name!r} is a variable of this prompt and an axis of the matrix",
                            hint="rename one of the two",
                            at_key=True,
                        ),
                        (*path, "vars", name),
                    )
            try:
                columns = self._columns(prompt) if isinstance(prompt, FilePrompt) else []
                start = self.edits.materials(path, prompt)
                known = [*own, *REQUEST_FIELDS, *self.edits.variables(start, prompt)]
                binding.prepared.append(prepare(manifest, path, prompt, known, columns, start))
            except ManifestError as error:
                self.problems.append(_as_problem(error))
            except Wrong as wrong:
                self._add(wrong, () if wrong.path[:1] == ("prompts",) else path)

    def _columns(self, prompt: FilePrompt) -> list[str]:
        """The file's columns; its first row is judged on the way."""
        path = self.binding.file_path(prompt)
        next(sources.rows(prompt, path), None)
        return sources.columns(prompt, path)

    def _ids(self) -> None:
        first: dict[str, Path] = {}
        for index, prompt in enumerate(self.manifest.prompts):
            if not isinstance(prompt, TextPrompt) or prompt.id is None:
                continue
            path: Path = ("prompts", index, "id")
            name = safe_part(prompt.id)
            if name in first:
                origin = self.binding.document.origin(first[name])
                where = f" (first in line {origin.line})" if origin.line else ""
                self._add(Wrong(f"two prompts have the id {name!r}{where}", hint="give each its own"), path)
            first.setdefault(name, path)

    def _too_many(self) -> bool:
        """Whether nobody can mean so many images: each is looked at by itself, so that the checks would not end."""
        instances = sum(prepared.count for prepared in self.binding.prepared)
        images = instances * len(self.binding.combinations) * self.manifest.samples
        if images <= MAX_IMAGES:
            return False
        wrong = Wrong(
            f"{images:,} images: that is more than {MAX_IMAGES:,}",
            hint=f"{instances:,} prompts x {len(self.binding.combinations):,} combinations x {self.manifest.samples:,} "
            "samples: make one of them smaller, or split the job",
            at_key=True,
        )
        self._add(wrong, ("matrix",) if len(self.binding.combinations) > self.manifest.samples else ("samples",))
        return True

    def _fields(self) -> None:
        """Every combination of every prompt against the catalog; alike ones are judged once."""
        judged: set[tuple[object, ...]] = set()
        for prepared in self.binding.prepared:
            if self._seen("fields", prepared):
                continue
            for cell in self._cells(prepared):
                self.binding.models.setdefault(str(cell.fields["model"]), cell.paths["model"])
                edited = prepared.materials if self.edits.can_edit(prepared, cell) else None
                known = (*cell.fields.values(), *cell.paths.values(), edited)
                if known not in judged:
                    judged.add(known)
                    self._judge(cell, edited)

    def _judge(self, cell: Cell, edited: Materials | None) -> None:
        try:
            model = find_model(self.binding.catalog, str(cell.fields["model"]))
        except Wrong as wrong:
            self._add(wrong, cell.paths["model"])
            return
        paths = cell.paths if edited is None else {**edited.keys, **cell.paths}
        bad = _verdicts(cell, edited, model)
        for verdict in bad:
            self._add(Wrong(verdict.message, hint=verdict.hint), paths[verdict.field])
        fallback = self.manifest.fallback_model
        if fallback is None or bad:
            return
        try:
            second = find_model(self.binding.catalog, fallback)
        except Wrong:
            return
        for verdict in _verdicts(cell, edited, second):
            hint = f"choose what both models make, or another fallback_model; {verdict.hint}"
            place = ("fallback_model",) if verdict.field == "model" else paths[verdict.field]
            self._add(Wrong(f"for fallback_model: {verdict.message}", hint=hint), place)

    def _identical_requests(self) -> None:
        """An axis that changes nothing in the request would pay for one image several times."""
        for prepared in self.binding.prepared:
            for name, values in prepared.lists.items():
                if len(values) > 1 and name not in prepared.used:
                    where = "text" if isinstance(prepared.prompt, TextPrompt) else "`template`"
                    wrong = Wrong(
                        f"the variable {name!r} has {len(values)} values and is not used in the prompt's {where}",
                        hint=f"write {{{{ {name} }}}} where it belongs, or remove it",
                        at_key=True,
                    )
                    self._add(wrong, (*prepared.path, "vars", name))
            seen: dict[tuple[str, ...], Cell] = {}
            if self._seen("requests", prepared, prepared.used):
                continue
            counting = prepared.used.union(INPUT_AXES).difference(REQUEST_FIELDS)
            used = [name for name in self.binding.axes if name in counting]
            for cell in self._cells(prepared):
                request = (
                    *map(text_of, cell.fields.values()),
                    *(text_of(cell.own[name]) if name in cell.own else "\0" for name in used),
                )
                other = seen.setdefault(request, cell)
                if other is not cell:
                    self._same(prepared, other, cell)
                    break

    def _same(self, prepared: Prepared, one: Cell, two: Cell) -> None:
        differing = [name for name in self.binding.axes if one.own.get(name) != two.own.get(name)]
        samples = "for several images of one request use `samples`"
        if not differing:
            path = next(iter(p for p in two.paths.values() if p[:2] == ("matrix", "include")), ("matrix",))
            wrong = Wrong("two combinations ask for the same image", hint=f"remove one; {samples}", at_key=True)
            self._add(wrong, path)
            return
        axis = differing[0]
        close = nearest(axis, REQUEST_FIELDS)
        meant = f"did you mean {close}? " if close else ""
        if isinstance(prepared.prompt, FilePrompt) and prepared.prompt.template is None:
            origin = self.binding.document.origin(prepared.path)
            use = f'add `template: "{{{{ text }}}}, {{{{ {axis} }}}}"` to the file'
            where = f"the prompts of {prepared.prompt.file}" + (f" (line {origin.line})" if origin.line else "")
        else:
            origin = self.binding.document.origin(prepared.text_path)
            use = f"write {{{{ {axis} }}}} into it"
            where = f"the prompt in line {origin.line}" if origin.line else "a prompt"
        path = two.paths.get(axis) or one.paths[axis]
        path = path[:-1] if isinstance(path[-1], int) else path
        message = f"the axis {axis!r} changes nothing in {where}: the same image would be asked for again"
        self._add(Wrong(message, hint=f"{meant}{use}; {samples}", at_key=True), path)

    def _texts(self) -> None:
        """Render what can be rendered: every prompt of the manifest, and the first row of each file.

        A few lines can ask for more renderings than anyone waits for: then `expand` meets what is wrong with the rest.
        """
        for prepared in self.binding.prepared:
            try:
                for instance, values in self._instances(prepared):
                    if self.rendered > MAX_RENDERED or self.work_chars > MAX_WORK_CHARS:
                        return
                    self._render(prepared, instance, values)
            except Wrong as wrong:
                self._add(wrong)
            except ManifestError as error:
                self.problems.append(_as_problem(error))

    def _instances(self, prepared: Prepared) -> Iterator[tuple[Instance, dict[str, object]]]:
        if prepared.template is None:
            return
        if isinstance(prepared.prompt, FilePrompt):
            row = next(sources.rows(prepared.prompt, self.binding.file_path(prepared.prompt)), None)
            if row is not None:
                yield next(prepared.instances()), prepared.row_values(row)
            return
        for instance in prepared.instances():
            yield instance, {}

    def _render(self, prepared: Prepared, instance: Instance, values: dict[str, object]) -> None:
        seen: set[tuple[object, ...]] = set()
        cells = self._cells(prepared)
        done = prepared.template.work_chars if prepared.template else 0
        if len(self.binding.models) == 1 and prepared.used.isdisjoint(
            (*REQUEST_FIELDS, *INPUT_AXES, *self.binding.axes)
        ):
            cells = cells[:1]
        for cell in cells:
            axes = {**cell.template_values(), **self.edits.values(prepared, cell)}
            key = (cell.fields["model"], *(axes.get(name) for name in prepared.used))
            if key in seen:
                continue
            seen.add(key)
            self.rendered += 1
            text = prepared.render({**values, **instance.variables, **axes})
            assert prepared.template is not None
            self.work_chars += prepared.template.work_chars - done
            done = prepared.template.work_chars
            model, fallback = str(cell.fields["model"]), self.manifest.fallback_model
            try:
                check_length(text, self.binding.max_chars(model, fallback), model)
            except Wrong as wrong:
                wrong.path = prepared.text_path
                raise

    def _image_names(self) -> None:
        manifest, binding = self.manifest, self.binding
        found: dict[str, dict[str, Value]] = {}
        for combination in binding.combinations:
            for axis in binding.axes:
                value = combination.values.get(axis)
                found.setdefault(axis, {})[text_of(value)] = value
        source = manifest.output.name or default_name(found)
        known = [*LATE_NAMES, "edition", *REQUEST_FIELDS, *own_axes(binding.axes), *manifest.vars]
        of_inputs = [name for each in binding.prepared for name in self.edits.variables(each.materials, each.prompt)]
        known += [name for name in INPUT_AXES if name in of_inputs]
        # A variable of prompts is one of names only if every prompt has it.
        everywhere = [set(prompt.vars) for prompt in manifest.prompts]
        known += [name for name in manifest.prompts[0].vars if all(name in names for names in everywhere)]
        try:
            binding.name = compile_template(source, dict.fromkeys(known), finalize=safe_part)
            binding.name_source = source
            self._collisions(binding.name.names)
        except Wrong as wrong:
            self._add(wrong, ("output", "name"))

    def _collisions(self, used: frozenset[str]) -> None:
        from runner.manifest.expansion import name_of

        unique = used & {"index", "key8"}
        if self.manifest.samples > 1 and not unique and "sample" not in used:
            raise Wrong(
                f"all {self.manifest.samples} samples would get one file name",
                hint="write {{ sample }} into output.name",
            )
        for prepared in self.binding.prepared:
            seen: dict[str, Cell] = {}
            if self._seen("names", prepared, tuple(prepared.prompt.vars.items())):
                continue
            instance = next(prepared.instances())
            for cell in self._cells(prepared):
                start = self.edits.values(prepared, cell)
                late = {"prompt_id": "p", "sample": 1, "index": 1, "key8": "00000000"}
                values = {**instance.variables, **cell.template_values(), **start}
                name = name_of(self.binding, self.manifest.edition, values, late)
                name = f"{name}.{extension(str(cell.fields['output_format']))}"
                check_path(name)
                other = seen.setdefault(name, cell)
                if other is not cell and not unique:
                    one, two = other.template_values(), cell.template_values()
                    axis = next(axis for axis in self.binding.axes if one.get(axis) != two.get(axis))
                    raise Wrong(
                        f"combinations that differ in {axis!r} would get one file name",
                        hint=f"write {{{{ {axis} }}}} into output.name",
                    )


def _verdicts(cell: Cell, edited: Materials | None, model: Model) -> list[Verdict]:
    found = list(judge(cell.fields, model))
    return found if edited is None else [*found, *judge_edit(cell.fields, edited.fidelity, model)]


def problem(document: Document, wrong: Wrong, path: Path = ()) -> Problem:
    """A complaint with the place of what it is about."""
    full = (*path, *wrong.path)
    origin = document.word_origin(full, wrong.word) if wrong.word else document.origin(full, at_key=wrong.at_key)
    return Problem(origin, wrong.message, wrong.hint)


def _as_problem(error: ManifestError) -> Problem:
    from runner.tasks import Origin

    return Problem(Origin(error.source, error.line, error.column), error.message, error.hint or "")
