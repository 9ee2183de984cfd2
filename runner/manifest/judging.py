"""Whether a model makes what is asked of it.

Owns the rules between a request's fields and the catalog, and their words. Refuses to know where the fields were
written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.catalog import Catalog, Model
from runner.errors import InputError
from runner.manifest.problems import Wrong, shown, suggest
from runner.manifest.values import Value
from runner.tasks import REQUEST_FIELDS

_LOSSY = ("jpeg", "webp")
_TRANSPARENT = ("png", "webp")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with one field of a request."""

    field: str
    message: str
    hint: str


def find_model(catalog: Catalog, name: str) -> Model:
    """The model of this name.

    Raises:
        Wrong: the catalog has none, with the nearest name.
    """
    try:
        return catalog.model(name)
    except InputError:
        hint = suggest(name, list(catalog.models), what="models in the catalog")
        raise Wrong(f"there is no model {shown(name)} in the catalog", hint=hint) from None


def judge(values: dict[str, Value], model: Model) -> Iterator[Verdict]:
    """Every reason why `model` would not take a request with these `values` (one for each field of the API)."""
    who = model.name
    size, quality, background, output_format, compression, moderation = (values[name] for name in REQUEST_FIELDS[1:])
    if not model.allows_size(str(size)):
        yield Verdict("size", f"{who} makes no size {shown(size)}", _size_hint(model, str(size)))
    for field, value, allowed in (
        ("quality", quality, ("auto", *model.qualities)),
        ("background", background, model.backgrounds),
        ("output_format", output_format, model.output_formats),
        ("moderation", moderation, model.moderations),
    ):
        words = list(dict.fromkeys(allowed))
        if value not in words:
            what = {"output_format": "output formats"}.get(field, field.replace("quality", "qualitie") + "s")
            hint = suggest(str(value), words, what=f"{what} of {who}")
            if field == "output_format" and value == "jpg":
                hint = "the API calls it jpeg"
            yield Verdict(field, f"{who} knows no {field.replace('_', ' ')} {shown(value)}", hint)
    if background == "transparent" and output_format not in _TRANSPARENT:
        yield Verdict(
            "background",
            f"background transparent cannot be saved as {output_format}",
            "use output_format png or webp, or exclude this combination",
        )
    if isinstance(compression, int):
        if not 0 <= compression <= 100:
            yield Verdict("output_compression", f"output_compression {compression} is not 0 to 100", "100 is the best")
        elif output_format not in _LOSSY:
            yield Verdict(
                "output_compression",
                f"output_compression is for jpeg and webp, and output_format is {output_format}",
                "set `output_format: webp` (or jpeg), or remove output_compression",
            )


def judge_edit(values: dict[str, Value], fidelity: str | None, model: Model) -> Iterator[Verdict]:
    """Every reason why `model` would not take an edit with these `values` and this `input_fidelity`."""
    if model.input_tokens is None:
        yield Verdict("model", f"{model.name} makes no edits", "choose another model, or remove the images")
        return
    moderation = values["moderation"]
    if moderation != "auto":
        yield Verdict(
            "moderation",
            f"moderation {shown(moderation)} is not for edits",
            "remove it here: the API's edits do not take it",
        )
    if fidelity is None or fidelity in model.input_fidelities:
        return
    if not model.input_fidelities:
        yield Verdict("input_fidelity", f"{model.name} takes no input_fidelity", "remove it, or choose another model")
        return
    hint = suggest(fidelity, list(model.input_fidelities), what=f"input fidelities of {model.name}")
    yield Verdict("input_fidelity", f"{model.name} knows no input fidelity {shown(fidelity)}", hint)


def _size_hint(model: Model, size: str) -> str:
    hint = suggest(size, ["auto", *model.sizes], what=f"sizes of {model.name}")
    free = model.free_sizes
    if free:
        hint += (
            f", and any WIDTHxHEIGHT divisible by {free.multiple_of}, at most {free.max_long_side}x"
            f"{free.max_short_side}, with sides at most 1:{free.max_ratio:g}"
        )
    return hint
