"""Support of the manifest's tests: one catalog, and short ways to load, to expand, and to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import catalog, manifest
from runner.errors import ManifestError
from runner.tasks import Task

CATALOG = catalog.load()
NOWHERE = Path("no-such-folder")
"""A folder for manifests that name no file."""


def loads(text: str, *overrides: str, base_dir: Path = NOWHERE) -> manifest.Manifest:
    """The manifest `job.yaml` with this text."""
    return manifest.loads(text, source="job.yaml", base_dir=base_dir, overrides=overrides, catalog=CATALOG)


def job(rest: str, *overrides: str, base_dir: Path = NOWHERE) -> manifest.Manifest:
    """A manifest with a name and, unless `rest` has them, one prompt."""
    prompts = "" if "prompts:" in rest else "prompts: [A cat]\n"
    return loads(f"name: test\n{prompts}{rest}", *overrides, base_dir=base_dir)


def tasks(loaded: manifest.Manifest, *, simulated: bool = False) -> list[Task]:
    """Every task of a manifest."""
    return list(manifest.expand(loaded, simulated=simulated))


def refused(text: str, *overrides: str, base_dir: Path = NOWHERE) -> ManifestError:
    """The error with which loading `text`, or expanding it, is refused. Every one of them has a hint."""
    with pytest.raises(ManifestError) as caught:
        tasks(loads(text, *overrides, base_dir=base_dir))
    assert caught.value.hint
    return caught.value


def marked(text: str) -> tuple[str, str]:
    """(the text without its mark, `line:column` of the mark): `^` stands before the place of the mistake."""
    before, mark, after = text.partition("^")
    assert mark
    line = before.count("\n") + 1
    return before + after, f"{line}:{len(before) - before.rfind(chr(10))}"
