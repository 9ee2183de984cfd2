"""A loaded manifest to its tasks, lazily and in a fixed order.

Owns the order (prompts, their variables, combinations, samples), the precomputation that makes it fast, and errors of
rows. Refuses to judge what `checking` has judged, and to compare tasks with each other: it forgets each as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.errors import ManifestError
from runner.manifest import sources
from runner.manifest.binding import LATE_NAMES, Binding, Cell, Instance, Prepared, check_length
from runner.manifest.checking import problem
from runner.manifest.naming import check_path, extension, safe_part
from runner.manifest.pictures import LACKING
from runner.manifest.problems import Wrong
from runner.manifest.schema import FilePrompt, Manifest
from runner.manifest.starting import Starter
from runner.manifest.template import Simple
from runner.manifest.values import INPUT_AXES, text_of
from runner.tasks import REQUEST_FIELDS, ImageRequest, Origin, Source, Task, key_end, key_head, key_middle

_MOST_KEPT = 20_000


@dataclass(slots=True)
class _Ready:
    """A combination with all that does not depend on the prompt's text worked out."""

    fields: tuple[Any, ...]
    values: dict[str, Any]
    variant: tuple[tuple[str, str], ...]
    name: Callable[[str, int, int, str], str]
    """From the prompt's id, the sample, the index and the key."""
    key_middle: bytes
    max_chars: int
    model: str
    sources: tuple[Source, ...]
    composite: str | None


def name_of(binding: Binding, edition: str | None, values: Mapping[str, Any], late: Mapping[str, Any]) -> str:
    """An image's name without its ending; an axis that the combination lacks is `none`.

    Raises:
        Wrong: the template fails.
    """
    assert binding.name is not None
    lacking = {**dict.fromkeys(binding.axes, "none"), **LACKING}
    return binding.name.render({**lacking, **values, "edition": edition or "none", **late})


def expand(manifest: Manifest, *, simulated: bool) -> Iterator[Task]:
    """Every task in order; see `runner.manifest.expand`."""
    binding = manifest.binding
    count = 0
    ends = [
        (sample, key_end(sample=sample, edition=manifest.edition, simulated=simulated))
        for sample in range(1, manifest.samples + 1)
    ]
    plain: dict[str, list[_Ready]] = {}
    starter = Starter(binding.inputs)
    for prepared in binding.prepared:
        cells = binding.cells(manifest, prepared)
        prompt = prepared.prompt
        kept = plain if not prompt.vars and not prepared.is_alone else {}
        kept_for: tuple[str, str] | None = None
        by_row = prepared.materials is not None and prepared.materials.by_row
        for instance, prompt_id, values, fixed, origin, row in _prompts(binding, prepared):
            if by_row and row is not None and kept_for != (row.image, row.mask):
                kept, kept_for = {}, (row.image, row.mask)
            ready = kept.get(instance.suffix)
            try:
                if ready is None:
                    ready = [_make_ready(manifest, prepared, cell, instance, starter, row) for cell in cells]
                    if len(kept) * len(cells) > _MOST_KEPT:
                        kept.clear()
                    kept[instance.suffix] = ready
                for task in _tasks(manifest, prepared, ready, instance, prompt_id, values, fixed, origin, ends, count):
                    count += 1
                    yield task
            except Wrong as wrong:
                raise row_error(binding, prepared, wrong, origin) from None


def _prompts(
    binding: Binding, prepared: Prepared
) -> Iterator[tuple[Instance, str, dict[str, Any], str | None, Origin, sources.Row | None]]:
    """(instance, prompt id, a row's variables, its text if that is sent as it is, origin, row) of every prompt."""
    instances = list(prepared.instances())
    if not isinstance(prepared.prompt, FilePrompt):
        origin = binding.document.origin(prepared.path)
        for instance in instances:
            yield instance, prepared.text_prompt_id(instance), {}, None, origin, None
        return
    path = binding.file_path(prepared.prompt)
    source = str(path)
    try:
        for row in sources.rows(prepared.prompt, path):
            origin = Origin(source, row.line)
            values = prepared.row_values(row) if prepared.template else {}
            text = None if prepared.template else row.text
            for instance in instances:
                yield instance, prepared.row_prompt_id(row, instance), values, text, origin, row
    except Wrong as wrong:
        raise problem(binding.document, wrong, prepared.path).error() from None


def _tasks(
    manifest: Manifest,
    prepared: Prepared,
    ready: list[_Ready],
    instance: Instance,
    prompt_id: str,
    values: dict[str, Any],
    fixed: str | None,
    origin: Origin,
    ends: list[tuple[int, bytes]],
    count: int,
) -> Iterator[Task]:
    text = fixed
    if text is None and not _depends(manifest, prepared):
        text = prepared.render({**values, **instance.variables})
    head = None if text is None else key_head(text)
    for one in ready:
        prompt = text if text is not None else prepared.render({**values, **instance.variables, **one.values})
        if len(prompt) > one.max_chars:
            check_length(prompt, one.max_chars, one.model)
        request = ImageRequest(prompt, *one.fields)
        for sample, end in ends:
            count += 1
            digest = key_head(prompt) if head is None else head.copy()
            digest.update(one.key_middle + end)
            key = digest.hexdigest()
            name = one.name(prompt_id, sample, count, key)
            check_path(name)
            yield Task(key, prompt_id, sample, request, one.variant, name, origin, one.sources, one.composite)


def _depends(manifest: Manifest, prepared: Prepared) -> bool:
    """Whether the text differs between combinations."""
    return any(name in prepared.used for name in (*REQUEST_FIELDS, *INPUT_AXES, *manifest.binding.axes))


def _make_ready(
    manifest: Manifest, prepared: Prepared, cell: Cell, instance: Instance, starter: Starter, row: sources.Row | None
) -> _Ready:
    binding = manifest.binding
    start = starter.start(prepared.materials, cell.own, cell.paths, row)
    values: dict[str, Any] = cell.template_values()
    variant = [(axis, text_of(values[axis])) for axis in binding.axes if axis in values]
    values |= start.values
    variant += [(name, text_of(value)) for name, value in instance.lists.items()]
    model = str(cell.fields["model"])
    ending = "." + extension(str(cell.fields["output_format"]))
    fields: tuple[Any, ...] = (*(cell.fields[name] for name in REQUEST_FIELDS), start.edit)
    return _Ready(
        fields=fields,
        values=values,
        variant=tuple(variant),
        name=_namer(binding, manifest.edition, {**instance.variables, **values}, ending),
        key_middle=key_middle(ImageRequest("", *fields)),
        max_chars=binding.max_chars(model, manifest.fallback_model),
        model=model,
        sources=start.sources,
        composite=start.composite,
    )


def _namer(
    binding: Binding, edition: str | None, values: dict[str, Any], ending: str
) -> Callable[[str, int, int, str], str]:
    """A function from what is known late to a name: a format string where the template is simple."""
    template = binding.name
    if not isinstance(template, Simple):

        def rendered(prompt_id: str, sample: int, index: int, key: str) -> str:
            return name_of(binding, edition, values, _late(prompt_id, sample, index, key)) + ending

        return rendered
    known = {**dict.fromkeys(binding.axes, "none"), **LACKING, **values, "edition": edition or "none"}
    pieces: list[str] = []
    order: list[str] = []
    for index, part in enumerate(template.parts):
        if index % 2 == 0:
            pieces.append(part.replace("%", "%%"))
        elif part in LATE_NAMES:
            pieces.append("%s")
            order.append(part)
        else:
            pieces.append(safe_part(text_of(known[part])))
    pattern = "".join(pieces) + ending
    if order == ["prompt_id", "sample"]:
        return lambda prompt_id, sample, _index, _key: pattern % (prompt_id, sample)

    def filled(prompt_id: str, sample: int, index: int, key: str) -> str:
        late = _late(prompt_id, sample, index, key)
        return pattern % tuple([late[name] for name in order])

    return filled


def _late(prompt_id: str, sample: int, index: int, key: str) -> dict[str, str | int]:
    return dict(zip(LATE_NAMES, (prompt_id, sample, index, key[:8]), strict=True))


def row_error(binding: Binding, prepared: Prepared, wrong: Wrong, origin: Origin) -> ManifestError:
    """The error for a prompt at `origin`.

    What fails for one row is told with the row's place; what fails for a prompt, with the manifest's.
    """
    if isinstance(prepared.prompt, FilePrompt):
        return ManifestError(wrong.message, source=origin.source, line=origin.line, hint=wrong.hint)
    return problem(binding.document, wrong, () if wrong.path else ("output", "name")).error()
