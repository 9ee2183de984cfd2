"""A loaded manifest back to text, and to the digest of what decides its tasks.

Owns both, so that what is printed and what is compared cannot differ. Refuses to expand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from runner.errors import ManifestError
from runner.manifest import sources
from runner.manifest.binding import Binding, Prepared
from runner.manifest.checking import problem
from runner.manifest.durations import written
from runner.manifest.editing import EditSettings, edit_data, mask_data
from runner.manifest.expansion import row_error
from runner.manifest.notifying import notify_data
from runner.manifest.problems import Wrong
from runner.manifest.promoting import Promotion
from runner.manifest.rendering import renditions_data
from runner.manifest.schema import Batch, FilePrompt, Manifest, PromptSettings, TextPrompt
from runner.manifest.starting import Start, Starter
from runner.manifest.values import MaskEntry
from runner.tasks import API_DEFAULTS, Origin

_DIGEST_VERSION = "manifest/1"
_CHUNK_BYTES = 1024 * 1024
# What says who makes the images, how fast and for how much, but not which.
_NOT_OF_THE_TASKS = (
    "name", "description", "provider", "fallback_model", "limits", "budget", "retry", "timeouts", "delivery",
    "batch", "renditions", "promotion", "notify",
)  # fmt: skip


def resolved(manifest: Manifest) -> str:
    """The manifest as understood, as YAML; see `runner.manifest.resolved`."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def amount(dumper: Any, value: Decimal) -> Any:
        text = format(value, "f")
        return dumper.represent_scalar(f"tag:yaml.org,2002:{'float' if '.' in text else 'int'}", text)

    Dumper.add_representer(Decimal, amount)
    text = yaml.dump(_data(manifest), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    assert isinstance(text, str)
    return text


def digest(manifest: Manifest, *, simulated: bool) -> str:
    """SHA-256 over everything that decides the tasks; see `Manifest.digest`.

    Raises:
        ManifestError: a prompt file cannot be read.
    """
    data = {key: value for key, value in _data(manifest).items() if key not in _NOT_OF_THE_TASKS}
    data["output"] = {"name": data["output"]["name"]}  # the same images, wherever they lie
    for index, prompt in enumerate(manifest.prompts):
        if isinstance(prompt, FilePrompt):
            # Where the file lies decides nothing but the lines that errors name.
            data["prompts"][index]["file"] = _content_hash(manifest, index, prompt)
            data["prompts"][index]["format"] = sources.file_format(prompt)
    if any(prepared.materials for prepared in manifest.binding.prepared):
        data["inputs"] = _inputs_hash(manifest)
    canonical = json.dumps([_DIGEST_VERSION, data, simulated], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _inputs_hash(manifest: Manifest) -> str:
    """A hash over what every task starts from: a changed pixel is a changed manifest."""
    binding = manifest.binding
    hashed = hashlib.sha256()
    starter = Starter(binding.inputs)
    seen: set[int] = set()
    for prepared in binding.prepared:
        if prepared.materials is None or (not prepared.is_alone and id(prepared.materials) in seen):
            continue
        seen.add(id(prepared.materials))
        for start in _starts(manifest, prepared, starter):
            shown = [[(source.identity, source.recipe) for source in start.sources], start.composite]
            hashed.update(json.dumps(shown).encode())
    return hashed.hexdigest()


def _starts(manifest: Manifest, prepared: Prepared, starter: Starter) -> Iterator[Start]:
    binding = manifest.binding
    cells = binding.cells(manifest, prepared)
    assert prepared.materials is not None
    if not prepared.materials.by_row:
        for cell in cells:
            try:
                yield starter.start(prepared.materials, cell.own, cell.paths)
            except Wrong as wrong:
                raise problem(binding.document, wrong).error() from None
        return
    assert isinstance(prepared.prompt, FilePrompt)
    path = binding.file_path(prepared.prompt)
    for row in sources.rows(prepared.prompt, path):
        for cell in cells:
            try:
                yield starter.start(prepared.materials, cell.own, cell.paths, row)
            except Wrong as wrong:
                raise row_error(binding, prepared, wrong, Origin(str(path), row.line)) from None


def _content_hash(manifest: Manifest, index: int, prompt: FilePrompt) -> str:
    path = manifest.binding.file_path(prompt)
    hashed = hashlib.sha256()
    try:
        sources.refuse_special(path)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                hashed.update(chunk)
    except OSError as error:
        wrong = Wrong(
            f"{path} cannot be read: {error.strerror or error}", hint="it was there when the manifest was read"
        )
        raised: ManifestError = problem(manifest.binding.document, wrong, ("prompts", index, "file")).error()
        raise raised from None
    return hashed.hexdigest()


def _promotion(promotion: Promotion | None) -> dict[str, Any] | None:
    if promotion is None:
        return None
    return {"job": promotion.job, "origins": {name: list(keys) for name, keys in promotion.origins.items()}}


def _data(manifest: Manifest) -> dict[str, Any]:
    """The manifest's content in the shape a user writes it, without what is empty."""
    settings = {name: getattr(manifest.settings, name) for name in API_DEFAULTS}
    data: dict[str, Any] = {
        "version": 1,
        "name": manifest.name,
        "description": manifest.description,
        "provider": manifest.provider,
        "model": manifest.model,
        "fallback_model": manifest.fallback_model,
        "edition": manifest.edition,
        "vars": dict(manifest.vars) or None,
        "prompts": [_prompt(prompt, manifest.binding) for prompt in manifest.prompts],
        "matrix": _matrix(manifest),
        "samples": manifest.samples,
        "settings": {name: API_DEFAULTS[name] if value is None else value for name, value in settings.items()},
        "edit": _edit(manifest.edit, manifest.binding),
        "output": {
            **({"dir": manifest.output.dir} if manifest.output.dir else {}),
            "name": manifest.output.name or manifest.binding.name_source,
        },
        "renditions": renditions_data(manifest.renditions),
        "limits": manifest.limits.model_dump(exclude_none=True) or None,
        "budget": manifest.budget.model_dump() if manifest.budget else None,
        "retry": manifest.retry.model_dump(),
        "timeouts": manifest.timeouts.model_dump(),
        "delivery": manifest.delivery,
        "batch": _batch(manifest.batch),
        "promotion": _promotion(manifest.promotion),
        "notify": notify_data(manifest.notify),
    }
    data["settings"] = {name: value for name, value in data["settings"].items() if value is not None}
    return {key: value for key, value in data.items() if value is not None}


def _batch(batch: Batch) -> dict[str, Any]:
    data = batch.model_dump(exclude_none=True)
    return data | ({"after": written(batch.after)} if batch.after is not None else {})


def _prompt(prompt: TextPrompt | FilePrompt, binding: Binding) -> dict[str, Any]:
    data = prompt.model_dump(exclude={"vars", "settings", "edit"}, exclude_defaults=True)
    if prompt.vars:
        data["vars"] = _plain(prompt.vars)
    if isinstance(prompt, FilePrompt) and prompt.where:
        data["where"] = _plain(prompt.where)
    settings, edit = _settings(prompt.settings), _edit(prompt.edit, binding)
    data |= {"settings": settings} if settings else {}
    return {**data, "edit": edit} if edit else data


def _edit(edit: EditSettings, binding: Binding) -> dict[str, Any] | None:
    """What was written of an edit, with files in place of globs."""
    data = edit_data(edit)
    for key in ("images", "references"):
        if data.get(key):
            data[key] = [name for glob in data[key] for name in binding.globs.get(glob, [glob])]
    return data or None


def _settings(settings: PromptSettings) -> dict[str, Any]:
    given = {name: getattr(settings, name) for name in PromptSettings.model_fields if name in settings.model_fields_set}
    return {name: value for name, value in given.items() if value is not None or name == "output_compression"}


def _matrix(manifest: Manifest) -> dict[str, Any] | None:
    matrix = manifest.binding.matrix
    data = _plain(matrix.axes)
    for name in ("zip", "exclude", "include"):
        entries = getattr(matrix, name)
        if entries:
            data[name] = [_plain(entry) for entry in entries]
    return data or None


def _plain(mapping: Any) -> dict[str, Any]:
    return {
        name: list(map(_one, value)) if isinstance(value, tuple) else _one(value) for name, value in mapping.items()
    }


def _one(value: Any) -> Any:
    return mask_data(value) if isinstance(value, MaskEntry) else value
