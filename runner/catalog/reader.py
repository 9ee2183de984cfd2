"""Reads the catalog that comes with the package, and a user's own file laid over it.

Owns the merge: mappings merge key by key, a price replaces the one with the same provider, model and delivery,
everything else is replaced. Refuses to know what the figures mean.
"""

from __future__ import annotations

import importlib.resources
import stat
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from runner.catalog.types import Catalog
from runner.errors import InputError

MAX_DEPTH = 20
MAX_VALUE_CHARS = 2000
MAX_BYTES = 4 * 1024 * 1024
_HINT = "`runner models --source` prints a catalog to write like"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def load(override: Path | None = None) -> Catalog:
    """The catalog of this version, with `override` (a YAML file of the same shape, any part of it) laid over it.

    Raises:
        InputError: the override cannot be read or does not fit; the message names the file and the key.
    """
    text = importlib.resources.files("runner.catalog").joinpath("catalog.yaml").read_text("utf-8")
    data: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506  # a safe loader, the C one where there is one
    where = "the catalog"
    if override is not None:
        where = str(override)
        data = _merge(data, _read(override))
    for kind in ("providers", "models"):
        section: Any = data.get(kind)
        for name, entry in section.items() if isinstance(section, dict) else ():
            if isinstance(entry, dict):
                entry.setdefault("name", name)
    try:
        return Catalog.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {key}: {first['msg']}", hint=_HINT) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        # A pipe could be waited for without end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(0, "it is not an ordinary file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be read: {reason}", hint=_HINT) from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES // 1024**2} MiB is no catalog", hint=_HINT)
    try:
        _refuse_bombs(path, text)
        data = yaml.load(text, _Loader)  # noqa: S506  # as above
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML: {error}", hint=_HINT) from None
    if not isinstance(data, dict):
        message = "a catalog is a mapping with any of: providers, models, prices, tiers, sources"
        raise InputError(f"{path}: {message}", hint=_HINT)
    own = {key: value for key, value in data.items() if key != "version"}
    own["version"] = data.get("version", f"own:{path.name}")
    return own


def _refuse_bombs(path: Path, text: str) -> None:
    """A catalog needs no YAML aliases, no depth and no long values; refusing them leaves no room for a bomb."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"{path}: YAML aliases are not allowed in a catalog", hint="write the value out")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_VALUE_CHARS:
            raise InputError(f"{path}: a value of more than {MAX_VALUE_CHARS} characters", hint=_HINT)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise InputError(f"{path}: it is nested too deeply to be a catalog", hint=_HINT)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old: Any = merged.get(key)
        if key == "prices" and isinstance(old, list) and isinstance(value, list):
            merged[key] = _merge_prices(old, value)
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _merge_prices(base: list[Any], over: list[Any]) -> list[Any]:
    def identity(entry: Any) -> Any:
        if not isinstance(entry, dict):
            return None
        words = (entry.get("provider"), entry.get("model"), entry.get("delivery", "online"))
        return words if all(isinstance(word, str) for word in words) else None

    replaced = {identity(entry) for entry in over}
    return [entry for entry in base if identity(entry) not in replaced] + over
