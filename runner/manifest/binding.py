"""What loading finds out about a manifest beside its values, ready for expansion.

Owns prompts with their compiled templates, the request's fields of every combination (`Cell`), and the template of
names. Refuses to judge them: that is `checking`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from runner.catalog import Catalog
from runner.manifest.editing import edit_data
from runner.manifest.materials import Materials
from runner.manifest.matrix import Combination
from runner.manifest.naming import prompt_id, safe_part, short_hash, slug
from runner.manifest.pictures import stem_of
from runner.manifest.problems import UNPRINTABLE, Path, Wrong
from runner.manifest.schema import FilePrompt, Matrix, PromptSettings, TextPrompt
from runner.manifest.template import Template, compile_template
from runner.manifest.tree import Document
from runner.manifest.values import INPUT_AXES, Value, text_of
from runner.tasks import API_DEFAULTS, REQUEST_FIELDS

if TYPE_CHECKING:
    from runner.inputs import Inputs
    from runner.manifest.schema import Manifest
    from runner.manifest.sources import Row

MAX_VAR_COMBINATIONS = 10_000
LATE_NAMES = ("prompt_id", "sample", "index", "key8")
"""Variables of a name that differ between tasks of one combination."""

_JSON = json.JSONEncoder(ensure_ascii=False).encode
_MARKUP = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_LOOKED_AT = 4000
"""Characters of a text that its id's words come from; more would make a text full of `{%` slow."""


@dataclass(slots=True)
class Cell:
    """One combination as one prompt sees it: every field of the request, and where each was written."""

    fields: dict[str, Value]
    paths: dict[str, Path]
    own: dict[str, Value]
    """The own variables of the combination, images and masks among them."""

    def template_values(self) -> dict[str, Value]:
        """The fields and own variables, for templates."""
        return {**self.fields, **self.own}


@dataclass(slots=True)
class Instance:
    """A prompt with one value for each of its variables. `suffix` tells it from the others."""

    variables: dict[str, Value]
    lists: dict[str, Value]
    suffix: str


@dataclass(slots=True)
class Prepared:
    """One entry of `prompts`, its template compiled. `template` is None where a row's text is sent as it is."""

    path: Path
    prompt: TextPrompt | FilePrompt
    template: Template | None
    scalars: dict[str, Value]
    """Variables of the job and of the prompt that have one value."""
    lists: dict[str, list[tuple[Value, str]]]
    """Variables with several values, each value with its slug."""
    columns: frozenset[str] = frozenset()
    """Columns of the file that can be variables of the template."""
    materials: Materials | None = None
    """What its tasks start from; None in a manifest without edits."""

    @property
    def is_alone(self) -> bool:
        """Whether its tasks differ from those of other prompts in more than text and variables."""
        by_row = self.materials is not None and self.materials.by_row
        return bool(self.prompt.settings.model_fields_set or self.prompt.edit.model_fields_set or by_row)

    @property
    def used(self) -> frozenset[str]:
        """The names that the template uses."""
        return self.template.names if self.template else frozenset()

    @property
    def text_path(self) -> Path:
        """Where the template stands."""
        return (*self.path, "text" if isinstance(self.prompt, TextPrompt) else "template")

    @property
    def count(self) -> int:
        """How many prompts the listed variables make of one."""
        return math.prod(len(values) for values in self.lists.values())

    def instances(self) -> Iterator[Instance]:
        """Every combination of the listed variables, in order; the first changes slowest."""
        for chosen in itertools.product(*self.lists.values()):
            lists = {name: value for name, (value, _) in zip(self.lists, chosen, strict=True)}
            yield Instance({**self.scalars, **lists}, lists, "-".join(part for _, part in chosen))

    def text_prompt_id(self, instance: Instance) -> str:
        """The id of a prompt of the manifest, with the instance's suffix."""
        assert isinstance(self.prompt, TextPrompt)
        return _with_suffix(self._base_id, instance.suffix)

    @property
    def _base_id(self) -> str:
        assert isinstance(self.prompt, TextPrompt)
        if self.prompt.id is not None:
            return safe_part(self.prompt.id)
        text = self.prompt.text.strip()
        used = {name: text_of(value) for name, value in self.scalars.items() if name in self.used}
        identity = text if not used else text + "\0" + json.dumps(used, sort_keys=True)
        if self.prompt.edit.model_fields_set:
            identity += "\0edit" + self._own_edit
        return prompt_id(_MARKUP.sub(" ", text[:_MOST_LOOKED_AT]), identity)

    def row_prompt_id(self, row: Row, instance: Instance) -> str:
        """The id of a row's prompt: its own, or a slug of its text; with the instance's suffix."""
        if row.id is not None:
            return _with_suffix(safe_part(row.id), instance.suffix)
        identity, words = row.text, row.text
        if self.template is not None:
            assert isinstance(self.prompt, FilePrompt)
            used = row.cells if "row" in self.used else {c: row.cells[c] for c in self.columns if c in row.cells}
            kept = {c: text for c, text in sorted(used.items()) if "row" in self.used or c in self.used}
            identity = json.dumps([self.prompt.template, row.text, kept], ensure_ascii=False)
            words = row.text or " ".join(kept.values())
        if row.image or row.mask or self.prompt.edit.model_fields_set:
            identity = _JSON([identity, row.image, row.mask, self._own_edit])
        return _with_suffix(prompt_id(words, identity), instance.suffix)

    @property
    def _own_edit(self) -> str:
        """What tells the prompt from one of the same text that starts from something else: files, not their globs."""
        if not self.prompt.edit.model_fields_set:
            return "{}"
        data = edit_data(self.prompt.edit)
        for key in ("images", "references"):
            if data.get(key) and self.materials is not None:
                data[key] = [named.name for named in getattr(self.materials, key)]
        return json.dumps(data, sort_keys=True, ensure_ascii=False)

    def row_values(self, row: Row) -> dict[str, Any]:
        """A row's columns as variables: those with a plain name, `text`, and all of them under `row`."""
        from runner.manifest.sandbox import Row as TemplateRow

        values: dict[str, Any] = {name: row.cells[name] for name in self.columns if name in row.cells}
        if row.text:
            values["text"] = row.text
        values["row"] = TemplateRow(row.cells)
        return values

    def render(self, values: Mapping[str, Any]) -> str:
        """The prompt's text.

        Raises:
            Wrong: the template fails, or its result is empty; the path is from the top of the manifest.
        """
        assert self.template is not None
        try:
            text = self.template.render(values).strip()
            if not text:
                raise Wrong("the prompt is empty", hint="write what the image shows")
            hit = UNPRINTABLE.search(text)
            if hit:
                raise Wrong(
                    f"the prompt has the character U+{ord(hit.group()):04X}",
                    hint="a template or a column of the row brings it in: remove it there",
                )
        except Wrong as wrong:
            wrong.path = self.text_path
            raise
        return text


def _with_suffix(base: str, suffix: str) -> str:
    return safe_part(f"{base}-{suffix}") if suffix else base


def prepare(
    manifest: Manifest,
    path: Path,
    prompt: TextPrompt | FilePrompt,
    known: list[str],
    columns: list[str],
    start: Materials | None,
) -> Prepared:
    """Compile one entry of `prompts`; `known` are the variables that it has beside its own, `start` its images.

    Raises:
        Wrong: its template is not valid; the path is from the top of the manifest.
    """
    scalars = dict(manifest.vars)
    lists: dict[str, list[tuple[Value, str]]] = {}
    for name, value in prompt.vars.items():
        if isinstance(value, tuple):
            scalars.pop(name, None)
            lists[name] = _with_slugs(value)
        else:
            scalars[name] = value
    if math.prod(len(values) for values in lists.values()) > MAX_VAR_COMBINATIONS:
        raise Wrong(
            f"the lists of `vars` have more than {MAX_VAR_COMBINATIONS:,} combinations",
            hint="make them shorter, or use a prompt file",
            path=(*path, "vars"),
            at_key=True,
        )
    usable = [name for name in columns if _IDENTIFIER.fullmatch(name)]
    prepared = Prepared(path, prompt, None, scalars, lists, frozenset(usable), start)
    source = prompt.text if isinstance(prompt, TextPrompt) else prompt.template
    if source is not None:
        more = ["text", "row", *usable] if isinstance(prompt, FilePrompt) else []
        try:
            prepared.template = compile_template(source, dict.fromkeys([*more, *scalars, *lists, *known]))
        except Wrong as wrong:
            wrong.path = prepared.text_path
            raise
    return prepared


def _with_slugs(values: tuple[Value, ...]) -> list[tuple[Value, str]]:
    found: list[tuple[Value, str]] = []
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    for value in values:
        text = text_of(value)
        part = base = slug(text, most=30) or short_hash(text)
        number = numbers.get(base, 1)
        while part in taken:
            number += 1
            part = f"{base}-{number}"
        numbers[base] = number
        taken.add(part)
        found.append((value, part))
    return found


def cell(manifest: Manifest, path: Path, settings: PromptSettings, combination: Combination) -> Cell:
    """The fields of a request: the matrix wins over the prompt's settings, those over the job's, those over the API."""
    fields: dict[str, Value] = {"model": manifest.model, **API_DEFAULTS}
    paths: dict[str, Path] = {"model": ("model",), **{name: ("settings", name) for name in API_DEFAULTS}}
    for name in API_DEFAULTS:
        value: Value = getattr(manifest.settings, name)
        if value is not None:
            fields[name] = value
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        # null unsets a compression of the job's settings; elsewhere it means nothing.
        if value is not None or name == "output_compression":
            fields[name] = value
            paths[name] = (*path, "settings", name)
    own: dict[str, Value] = {}
    for name, value in combination.values.items():
        (fields if name in REQUEST_FIELDS else own)[name] = value
        paths[name] = combination.paths[name]
    return Cell(fields, paths, own)


@dataclass(slots=True)
class Binding:
    """A loaded manifest's places and prepared parts. `models` leads from each used model to where it was written."""

    document: Document
    base_dir: FilePath
    catalog: Catalog
    combinations: list[Combination] = field(default_factory=list)
    axes: list[str] = field(default_factory=list)
    prepared: list[Prepared] = field(default_factory=list)
    name: Template | None = None
    name_source: str = ""
    models: dict[str, Path] = field(default_factory=dict)
    shared_cells: list[Cell] = field(default_factory=list)
    """The cells of every prompt without settings of its own."""
    matrix: Matrix = field(default_factory=Matrix)
    """The manifest's, with files in place of globs."""
    globs: dict[str, list[str]] = field(default_factory=dict)
    """The files that each glob of an `edit` stood for."""
    _inputs: Inputs | None = None

    def inputs(self) -> Inputs:
        """The images that the manifest names; made by the first edit."""
        if self._inputs is None:
            from runner.inputs import Inputs

            self._inputs = Inputs(self.base_dir)
        return self._inputs

    def file_path(self, prompt: FilePrompt) -> FilePath:
        """Where a prompt file lies."""
        return self.base_dir / prompt.file

    def max_chars(self, model: str, fallback: str | None) -> int:
        """The longest prompt, in characters, that a model takes and its fallback too."""
        names = [model, fallback] if fallback else [model]
        return min(self.catalog.model(name).max_prompt_chars for name in names)

    def cells(self, manifest: Manifest, prepared: Prepared) -> list[Cell]:
        """Every combination as this prompt sees it."""
        settings = prepared.prompt.settings
        if settings.model_fields_set:
            return [cell(manifest, prepared.path, settings, combination) for combination in self.combinations]
        if not self.shared_cells:
            self.shared_cells = [cell(manifest, (), settings, combination) for combination in self.combinations]
        return self.shared_cells


def default_name(axes: dict[str, dict[str, Value]]) -> str:
    """The template of names that tells every combination apart; `axes` has the values of each axis by their text."""
    more = [
        f"{name}.stem" if name in INPUT_AXES and _stems_differ(values.values()) else name
        for name, values in axes.items()
        if len(values) > 1 and name not in ("size", "quality")
    ]
    parts = ["size", "quality", *more, "sample"]
    return "{{ prompt_id }}/" + "-".join(f"{{{{ {part} }}}}" for part in parts)


def _stems_differ(values: Collection[Value]) -> bool:
    return len({safe_part(stem_of(value)).lower() for value in values}) == len(values)


def check_length(text: str, most: int, who: str) -> None:
    """Raise Wrong for a prompt of more characters than the model takes."""
    if len(text) > most:
        raise Wrong(f"the prompt has {len(text):,} characters; {who} takes at most {most:,}", hint="shorten it")
