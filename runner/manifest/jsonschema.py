"""The JSON Schema of a manifest, for editors.

Owns what Pydantic cannot tell by itself: short forms, the open keys of the matrix, and that text may be written without
quotes. Refuses to judge: an editor's schema knows shapes, and the catalog knows sizes and qualities.
"""

from __future__ import annotations

from typing import Any

from runner.catalog import BATCH_WINDOW_S
from runner.manifest.editing import MASK_MODES, MAX_FEATHER_PX
from runner.manifest.naming import MAX_PATH_BYTES
from runner.manifest.notifying import MAX_TIMEOUT_S
from runner.manifest.rendering import MAX_RENDITIONS
from runner.manifest.schema import Manifest
from runner.tasks import REQUEST_FIELDS

_TEXT = ["string", "number", "boolean"]
_AXES = {
    "model": "models of the catalog",
    "size": "auto, or WIDTHxHEIGHT in pixels",
    "quality": "auto, low, medium, high, ...: what the model has",
    "background": "auto, opaque, transparent",
    "output_format": "png, jpeg, webp",
    "output_compression": "0 to 100, for jpeg and webp; null for none",
    "moderation": "auto, low",
}
_SCALAR = {"type": ["string", "number", "boolean", "null"]}
_IDENTIFIER = "^[A-Za-z][A-Za-z0-9_]{0,63}$"


def json_schema() -> dict[str, Any]:
    """The schema, draft 2020-12; the same for every call."""
    schema = Manifest.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    definitions["Matrix"] = _matrix(definitions["Matrix"].get("description", ""))
    for name, definition in definitions.items():
        if name != "Matrix":
            _loosen(definition)
    _loosen(schema)
    _edits(definitions)
    _notify(definitions["Notify"])
    properties = schema["properties"]
    properties["version"] = {"const": 1, "default": 1, "title": "Version", "description": "of the manifest format"}
    properties["vars"] = _variables(properties["vars"], lists=False)
    for name in ("TextPrompt", "FilePrompt"):
        own = definitions[name]["properties"]
        own["vars"] = _variables(own["vars"], lists=True)
    where = definitions["FilePrompt"]["properties"]["where"]
    where["additionalProperties"] = {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]}
    entry = {"anyOf": [{"type": _TEXT}, {"$ref": "#/$defs/TextPrompt"}, {"$ref": "#/$defs/FilePrompt"}]}
    properties["prompts"] = {
        "title": "Prompts",
        "description": "what the images show: texts, or files of them",
        "anyOf": [{"type": "array", "items": entry, "minItems": 1}, *entry["anyOf"]],
    }
    budget = properties["budget"]
    budget["anyOf"] = [{"type": "number", "minimum": 0}, *budget["anyOf"]]
    definitions["Budget"]["properties"]["usd"] = {
        "title": "Usd", "description": "US dollars", "anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}],
    }  # fmt: skip
    properties["name"]["pattern"] = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$"
    after = definitions["Batch"]["properties"]["after"]
    after["anyOf"][0] |= {"exclusiveMinimum": 0, "maximum": BATCH_WINDOW_S}
    after["anyOf"].insert(0, {"type": "string", "minLength": 1})
    properties["renditions"]["maxItems"] = MAX_RENDITIONS
    definitions["RenditionSettings"]["properties"]["name"]["pattern"] = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"
    definitions["Output"]["properties"]["name"]["anyOf"][0]["maxLength"] = 4 * MAX_PATH_BYTES
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "runner manifest"}


def _loosen(definition: dict[str, Any]) -> None:
    """Text may be written without quotes, and then is a number or a truth value to an editor."""
    for value in definition.get("properties", {}).values():
        for one in [value, *value.get("anyOf", [])]:
            if one.get("type") == "string" and "enum" not in one and "const" not in one:
                one["type"] = list(_TEXT)


def _notify(definition: dict[str, Any]) -> None:
    """One end may stand alone, a time is written in words as well, and someone has to be told."""
    own = definition["properties"]
    several = {name: own["on"].pop(name) for name in ("type", "items")}
    own["on"]["anyOf"] = [several["items"], {**several, "minItems": 1}]
    own["command"]["anyOf"][0] |= {"minItems": 1, "items": {"type": list(_TEXT)}}
    own["timeout"].pop("type")
    own["timeout"]["anyOf"] = [
        {"type": "string", "minLength": 1}, {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_S},
    ]  # fmt: skip
    definition["anyOf"] = [{"required": ["command"]}, {"required": ["webhook"]}]


def _edits(definitions: dict[str, Any]) -> None:
    """Masks have short forms and shapes of their own, and one path is a list of one."""
    definitions["MaskEntry"] = _mask()
    own = definitions["EditSettings"]["properties"]
    for name in ("images", "references"):
        own[name]["anyOf"] = [{"type": "string", "minLength": 1}, *own[name]["anyOf"]]
    own["mask"]["anyOf"] = [{"type": "string", "minLength": 1}, *own["mask"]["anyOf"]]
    own["feather"]["anyOf"][0] |= {"minimum": 0, "maximum": MAX_FEATHER_PX}


def _mask() -> dict[str, Any]:
    whole = {"type": "integer"}
    point = {"type": "array", "items": whole, "minItems": 2, "maxItems": 2}
    return {
        "title": "Mask",
        "description": "one of a file, a box and a polygon; pixels are those of the image before `prepare`",
        "type": "object",
        "properties": {
            "file": {"description": "path relative to the manifest", "type": "string", "minLength": 1},
            "box": {
                "description": "[x, y, width, height]",
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
                "minItems": 4,
                "maxItems": 4,
            },
            "polygon": {"description": "[[x, y], ...]", "type": "array", "items": point, "minItems": 3},
            "mask_mode": {"description": "what of the file is to be changed", "enum": list(MASK_MODES)},
            "resize": {"description": "whether the file may have another size than the image", "type": "boolean"},
            "feather": {
                "description": "width of a composite's soft edge, pixels",
                "type": "integer",
                "minimum": 0,
                "maximum": MAX_FEATHER_PX,
            },
        },
        "oneOf": [{"required": ["file"]}, {"required": ["box"]}, {"required": ["polygon"]}],
        "additionalProperties": False,
    }


def _variables(old: dict[str, Any], *, lists: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"type": _TEXT}
    if lists:
        value = {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
    return {
        "title": old.get("title", "Vars"),
        "description": old.get("description", ""),
        "type": "object",
        "propertyNames": {"pattern": _IDENTIFIER},
        "additionalProperties": value,
    }


def _matrix(description: str) -> dict[str, Any]:
    def axis(text: str) -> dict[str, Any]:
        return {"description": text, "anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]}

    path = {"type": "string", "minLength": 1}
    image = {"anyOf": [path, {"type": "array", "items": path, "minItems": 1}]}
    mask = {"anyOf": [path, {"$ref": "#/$defs/MaskEntry"}]}
    inputs = {"image": image, "mask": mask}
    axes = {name: axis(_AXES[name]) for name in REQUEST_FIELDS}
    axes |= {
        "image": {
            "description": "what each task starts from: paths, globs, or lists of those that go into one request",
            "anyOf": [path, {"type": "array", "items": image, "minItems": 1}],
        },
        "mask": {
            "description": "what is changed of the image: files, globs, boxes or polygons",
            "anyOf": [*mask["anyOf"], {"type": "array", "items": mask, "minItems": 1}],
        },
    }
    combination = {"type": "object", "properties": inputs, "additionalProperties": _SCALAR, "minProperties": 1}
    group = {
        "type": "object",
        "properties": {
            name: {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]} for name, one in inputs.items()
        },
        "additionalProperties": {"type": "array", "items": _SCALAR, "minItems": 1},
        "minProperties": 1,
    }

    def listed(entry: dict[str, Any], text: str) -> dict[str, Any]:
        return {"description": text, "anyOf": [{"type": "array", "items": entry}, entry]}

    return {
        "title": "Matrix",
        "description": description,
        "type": "object",
        "properties": {
            **axes,
            "zip": listed(group, "axes that advance together"),
            "exclude": listed(combination, "combinations to leave out; a part of one is enough"),
            "include": listed(combination, "values to add to combinations, or combinations to add"),
        },
        "propertyNames": {"pattern": _IDENTIFIER},
        "additionalProperties": axis("a variable of your own, for templates"),
    }
