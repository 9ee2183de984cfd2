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


def draw(path: Path, size: tuple[int, int] = (64, 48), shade: int = 100, mode: str = "RGB") -> None:
    """A small picture of one colour, its format by the ending; with an alpha channel its middle is transparent."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new(mode, size, shade if mode == "L" else (shade, 50, 60, 255)[: len(mode)])
    if mode == "RGBA":
        picture.paste((0, 0, 0, 0), (8, 8, 24, 24))
    if mode == "L":
        picture.paste(255 - shade, (8, 8, 24, 24))
    picture.save(path)


def draw_all(folder: Path) -> None:
    """The pictures that the tests of edits name: three products with masks, and two styles."""
    draw(folder / "assets/mug.png", shade=10)
    draw(folder / "assets/cup.jpg", shade=20)
    draw(folder / "assets/vase.webp", (32, 32), shade=30)
    draw(folder / "style/a.png", (16, 16), shade=40)
    draw(folder / "style/b.png", (16, 16), shade=50)
    draw(folder / "masks/mug.png", shade=0, mode="RGBA")
    draw(folder / "masks/white.png", shade=0, mode="L")
    draw(folder / "masks/small.png", (32, 24), shade=0, mode="RGBA")
