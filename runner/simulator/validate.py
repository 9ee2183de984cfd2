"""Reads a request for images as the API does: every parameter checked, every default filled in.

Owns what counts as a valid parameter, for generations and edits alike. Refuses to know keys, limits and faults, and how
a body or a picture is read (`intake`, `pictures`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.catalog import Catalog, Delivery, Model, Prices
from runner.errors import InputError
from runner.simulator.pictures import Picture
from runner.simulator.problems import Problem, invalid, model_not_found

_COMMON = frozenset(
    {
        "model",
        "prompt",
        "n",
        "size",
        "quality",
        "background",
        "output_format",
        "output_compression",
        "user",
        "safety_identifier",
        "stream",
        "partial_images",
    }
)
_GENERATION = _COMMON | {"moderation"}
_FORM_EDIT = _COMMON | {"input_fidelity"}
_JSON_EDIT = _COMMON | {"input_fidelity", "moderation"}
_WHOLE_NUMBERS = ("n", "output_compression", "partial_images")


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request with nothing left open. Sizes are pixels; `compression` is 0-100.

    `fidelity`, `inputs` and `mask` are an edit's: the word that was asked for (None: the model's own), and what came
    with it. `edits` tells the two kinds of request apart.
    """

    asked_model: str
    model: Model
    prices: Prices
    prompt: str
    n: int
    width: int
    height: int
    quality: str
    output_format: str
    transparent: bool
    compression: int
    edits: bool = False
    fidelity: str | None = None
    inputs: tuple[Picture, ...] = ()
    mask: Picture | None = None

    @property
    def size(self) -> str:
        """`WIDTHxHEIGHT`."""
        return f"{self.width}x{self.height}"

    @property
    def identity(self) -> tuple[object, ...]:
        """What two requests have in common that ask for the same."""
        return (
            self.asked_model,
            self.prompt,
            self.n,
            self.size,
            self.quality,
            self.output_format,
            self.transparent,
            self.compression,
            *((self.fidelity, self.pictured) if self.edits else ()),
        )

    @property
    def pictured(self) -> str:
        """What came with the request, by its contents: empty for a generation."""
        mask = (f"mask {self.mask.sha256}",) if self.mask else ()
        return "/".join((*(each.sha256 for each in self.inputs), *mask))


def find_model(catalog: Catalog, name: str, delivery: Delivery = "online") -> tuple[Model, Prices]:
    """The model of this name and what it costs, delivered so. A model past its shutdown is still served.

    Raises:
        Problem: 404, when the catalog does not have it or nobody could bill it.
    """
    try:
        model = catalog.model(name)
        prices = catalog.prices_for("simulator", name, delivery)
    except InputError:
        raise model_not_found(name) from None
    if not all(model.output_tokens.get(quality) for quality in model.qualities):
        raise model_not_found(name)
    return model, prices


def generation(given: Mapping[str, Any], catalog: Catalog, delivery: Delivery = "online") -> Order:
    """The order that these parameters of `POST /v1/images/generations` make.

    Raises:
        Problem: the request is not valid; `param` names the parameter.
    """
    return _order(given, catalog, _GENERATION, delivery)


def edit(given: Mapping[str, Any], catalog: Catalog, delivery: Delivery = "online", *, is_form: bool) -> Order:
    """The order that these parameters of `POST /v1/images/edits` make, without its pictures yet.

    In a form (`is_form`) every value is a text.

    Raises:
        Problem: the request is not valid; `param` names the parameter.
    """
    parameters = _FORM_EDIT if is_form else _JSON_EDIT
    return _order(_numbers(given) if is_form else given, catalog, parameters, delivery, edits=True)


def _numbers(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a form, with those that are no texts by their nature read; what cannot be read stays a text."""
    read = dict(given)
    for name in _WHOLE_NUMBERS:
        if re.fullmatch(r"-?[0-9]{1,9}", read.get(name, ""), re.ASCII):
            read[name] = int(read[name])
    if read.get("stream") in ("true", "false"):
        read["stream"] = read["stream"] == "true"
    return read


def _order(
    given: Mapping[str, Any], catalog: Catalog, parameters: frozenset[str], delivery: Delivery, *, edits: bool = False
) -> Order:
    for parameter in given:
        if parameter not in parameters:
            raise invalid(f"Unknown parameter: '{parameter}'.", parameter, "unknown_parameter")
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    name = _text(asked, "model")
    if name is None:
        raise invalid("Missing required parameter: 'model'.", "model", "missing_required_parameter")
    model, prices = find_model(catalog, name, delivery)
    if edits and model.input_tokens is None:
        raise invalid(f"The model '{name}' makes no edits.", "model")
    if asked.get("stream", False) is not False or asked.get("partial_images", 0) != 0:
        param = "stream" if "stream" in asked else "partial_images"
        raise invalid("The simulator does not stream partial images.", param, "unsupported_value")
    for param in ("user", "safety_identifier"):
        _text(asked, param)
    _one_of(asked, "moderation", model.moderations, "auto")
    output_format = _one_of(asked, "output_format", model.output_formats, "png")
    background = _one_of(asked, "background", model.backgrounds, "auto")
    if background == "transparent" and output_format not in ("png", "webp"):
        raise invalid(f"Transparent background is not supported for the output format {output_format}.", "background")
    compression = _whole(asked, "output_compression", 0, 100, 100)
    if compression < 100 and output_format not in ("jpeg", "webp"):
        raise invalid(
            f"Compression less than 100 is not supported for the output format {output_format}.", "output_compression"
        )
    quality = _one_of(asked, "quality", ("auto", *model.qualities), "auto")
    size = _text(asked, "size") or "auto"
    if not model.allows_size(size):
        known = ", ".join(f"'{each}'" for each in (*model.sizes, "auto"))
        raise invalid(f"Invalid value: '{size}'. Supported values are: {known}.", "size")
    width, height = (1024, 1024) if size == "auto" else (int(side) for side in size.split("x"))
    return Order(
        asked_model=name,
        model=model,
        prices=prices,
        prompt=_prompt(asked, model),
        n=_whole(asked, "n", 1, 10, 1),
        width=width,
        height=height,
        # `auto` renders, and bills, as the best that every model has: what the API's documents let one fear.
        quality="high" if quality == "auto" else quality,
        output_format=output_format,
        transparent=background == "transparent",
        compression=compression,
        edits=edits,
        fidelity=_fidelity(asked, name, model),
    )


def _fidelity(asked: Mapping[str, Any], name: str, model: Model) -> str | None:
    if asked.get("input_fidelity") is None:
        return None
    if not model.input_fidelities:
        raise invalid(f"The model '{name}' does not support 'input_fidelity'.", "input_fidelity")
    return _one_of(asked, "input_fidelity", model.input_fidelities, "")


def _prompt(asked: Mapping[str, Any], model: Model) -> str:
    prompt = _text(asked, "prompt")
    if prompt is None:
        raise invalid("Missing required parameter: 'prompt'.", "prompt", "missing_required_parameter")
    if not prompt.strip():
        raise invalid("Invalid 'prompt': it is empty.", "prompt", "empty_string")
    if len(prompt) > model.max_prompt_chars:
        raise invalid(
            f"Invalid 'prompt': string too long. Expected a string with maximum length {model.max_prompt_chars}, "
            f"but got a string with length {len(prompt)} instead.",
            "prompt",
            "string_above_max_length",
        )
    return prompt


def _wrong_type(param: str, expected: str, value: object) -> Problem:
    return invalid(
        f"Invalid type for '{param}': expected {expected}, but got {type(value).__name__} instead.",
        param,
        "invalid_type",
    )


def _text(asked: Mapping[str, Any], param: str) -> str | None:
    value = asked.get(param)
    if value is not None and not isinstance(value, str):
        raise _wrong_type(param, "a string", value)
    return value


def _one_of(asked: Mapping[str, Any], param: str, known: tuple[str, ...], default: str) -> str:
    value = _text(asked, param)
    if value is None:
        return default
    if value not in known:
        listed = ", ".join(f"'{each}'" for each in known)
        raise invalid(f"Invalid value: '{value}'. Supported values are: {listed}.", param)
    return value


def _whole(asked: Mapping[str, Any], param: str, least: int, most: int, default: int) -> int:
    value = asked.get(param, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(param, "an integer", value)
    if value < least:
        raise invalid(
            f"Invalid '{param}': expected a value >= {least}, but got {value}.", param, "integer_below_min_value"
        )
    if value > most:
        raise invalid(
            f"Invalid '{param}': expected a value <= {most}, but got {value}.", param, "integer_above_max_value"
        )
    return value
