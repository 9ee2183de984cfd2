"""From a manifest's text to validated tasks: schema, prompt files, templates, expansion.

Owns the manifest format: what a user may write, what it means, and every error about it, with its place. It is the one
package below the edges that reads files: the manifest and the files that it names (law 9). Refuses to know the
network, the ledger, the clock, and what an image costs.

The heavy parts (Pydantic, YAML, Jinja) are imported by the first call, so that importing this package is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.catalog import Catalog
    from runner.manifest.schema import (
        Batch,
        Budget,
        FilePrompt,
        Limits,
        Manifest,
        Matrix,
        Output,
        Retry,
        Settings,
        TextPrompt,
        Timeouts,
    )
    from runner.tasks import Task

__all__ = [
    "Batch",
    "Budget",
    "FilePrompt",
    "Limits",
    "Manifest",
    "Matrix",
    "Output",
    "Retry",
    "Settings",
    "TextPrompt",
    "Timeouts",
    "expand",
    "json_schema",
    "load",
    "loads",
    "resolved",
]


def load(path: Path, *, overrides: Sequence[str] = (), catalog: Catalog) -> Manifest:
    """Read and judge the manifest at `path`; `overrides` are `KEY=VALUE` words, as given to `--set`.

    Prompt files are opened, and their header and first row are judged; `expand` judges every other row.

    Raises:
        ManifestError: it is not valid; the error has the place.
        InputError: it cannot be read, or an override names no key.
    """
    from runner.manifest.loading import load

    return load(path, overrides=overrides, catalog=catalog)


def loads(text: str, *, source: str, base_dir: Path, overrides: Sequence[str] = (), catalog: Catalog) -> Manifest:
    """The same for a manifest's text. `source` is what errors call it; prompt files are relative to `base_dir`.

    Raises:
        ManifestError: it is not valid; the error has the place.
        InputError: an override names no key.
    """
    from runner.manifest.loading import loads

    return loads(text, source=source, base_dir=base_dir, overrides=overrides, catalog=catalog)


def expand(manifest: Manifest, *, simulated: bool) -> Iterator[Task]:
    """Every task that the manifest wants: prompts in order, then combinations, then samples.

    Lazy: memory does not grow with the number of tasks (law 8). `simulated` is part of each task's key.

    Raises:
        ManifestError: a row of a prompt file is not valid (the error has file and line), or a name is not safe.
    """
    from runner.manifest.expansion import expand

    return expand(manifest, simulated=simulated)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a manifest, for editors. It describes shapes; `loads` judges values."""
    from runner.manifest.jsonschema import json_schema

    return json_schema()


def resolved(manifest: Manifest) -> str:
    """The manifest as understood, as YAML: defaults filled in, overrides applied; it loads to the same tasks."""
    from runner.manifest.resolving import resolved

    return resolved(manifest)


def __getattr__(name: str) -> Any:
    if name in __all__:
        from runner.manifest import schema

        return getattr(schema, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
