"""Renditions by one process: the runner's worker, or the loop that everyone writes with Pillow.

    python -m tests.bench.pixels draw COUNT FOLDER            pictures to begin with
    python -m tests.bench.pixels runner RECIPES FOLDER OUT    the worker makes them, this process writes them
    python -m tests.bench.pixels plain RECIPES FOLDER OUT     open, convert, resize, save

RECIPES is JSON: a list of recipes' words. Owns the pictures and both sides. Refuses to measure.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from runner.renditions import Recipe, worker
from runner.simulator import draw

SIDE = 1024
_GRAIN = 6.0
"""Standard deviation of the grain of a drawn picture: without it a PNG has a twentieth of what a real one has."""


def draw_all(count: int, folder: Path) -> None:
    """So many pictures with grain, as PNG of 1024x1024; no two alike."""
    for number in range(count):
        words = f"A lighthouse at dusk, number {number}"
        sketch = draw.Sketch(
            words=words, caption="", width=SIDE, height=SIDE, quality="high", seed=number, transparent=False
        )
        grain = Image.effect_noise((SIDE, SIDE), _GRAIN * 2)
        picture = Image.blend(draw.paint(sketch).convert("RGB"), Image.merge("RGB", [grain] * 3), 0.5)
        picture.save(folder / f"{number:04d}.png", compress_level=3)


def by_worker(recipes: list[Recipe], assets: list[Path], out: Path) -> None:
    """One worker process; a question is at hand while it works on the one before."""
    with subprocess.Popen(worker.COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        ahead = 2
        for asset in assets[:ahead]:
            process.stdin.write(worker.rendering(asset, recipes))
        process.stdin.flush()
        for number, asset in enumerate(assets):
            lengths = json.loads(process.stdout.readline())["bytes"]
            if number + ahead < len(assets):
                process.stdin.write(worker.rendering(assets[number + ahead], recipes))
                process.stdin.flush()
            for recipe, length in zip(recipes, lengths, strict=True):
                (out / f"{asset.stem}-{recipe.name}{recipe.ending}").write_bytes(process.stdout.read(length))
        process.stdin.close()


def by_loop(recipes: list[Recipe], assets: list[Path], out: Path) -> None:
    """Each picture opened once, each rendition resized from it with Lanczos and saved with the same settings."""
    options: dict[str, dict[str, Any]] = {
        "webp": {"quality": 80, "method": 4},
        "jpeg": {"quality": 85, "progressive": True, "optimize": True},
        "png": {"compress_level": 6},
    }
    for asset in assets:
        with Image.open(asset) as opened:
            image = opened.convert("RGB")
        for recipe in recipes:
            assert recipe.width
            assert recipe.height
            left, top, right, bottom = 0, 0, *image.size
            if recipe.fit == "cover":
                factor = min(image.width / recipe.width, image.height / recipe.height)
                width, height = round(recipe.width * factor), round(recipe.height * factor)
                left, top = (image.width - width) // 2, (image.height - height) // 2
                right, bottom = left + width, top + height
            small = image.resize(
                (recipe.width, recipe.height), Image.Resampling.LANCZOS, box=(left, top, right, bottom)
            )
            save: Callable[..., None] = small.save
            buffer = io.BytesIO()
            save(buffer, recipe.format, **options[recipe.format])
            (out / f"{asset.stem}-{recipe.name}{recipe.ending}").write_bytes(buffer.getvalue())


def main(side: str, words: str, folder: str, out: str = "") -> None:
    """The command line."""
    if side == "draw":
        draw_all(int(words), Path(folder))
        return
    recipes = [Recipe(**recipe) for recipe in json.loads(words)]
    make = {"runner": by_worker, "plain": by_loop}[side]
    make(recipes, sorted(Path(folder).glob("*.png")), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
