"""Makes pictures of pictures in a process of its own: `python -m runner.renditions.worker`, until its input ends.

Owns how a question and its answer are written. A question is a line of JSON: `["paste", folder, recipe, answer]` for a
composite, `["render", asset, [recipe, ...]]` for renditions. The answer is a line of JSON with `bytes`, the lengths of
the pictures that follow it; or with `error`. Refuses to know where what it makes is written.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from runner.inputs.types import BadInput
from runner.renditions.recipe import Recipe, recipe_of

COMMAND: Final = (sys.executable, "-m", "runner.renditions.worker")
"""What begins such a process."""
_NICENESS: Final = 19
"""Requests come first, also where there is one processor for both."""


def pasting(base: Path, recipe: str, answer: Path) -> bytes:
    """What to ask for one composite: `base` is the manifest's folder, `recipe` what `Inputs.composite` returned."""
    return _question("paste", str(base), recipe, str(answer))


def rendering(asset: Path, recipes: Sequence[Recipe]) -> bytes:
    """What to ask for the renditions of one asset; the answer has them in this order."""
    return _question("render", str(asset), [recipe.told() for recipe in recipes])


def main() -> None:
    """Answer until nobody asks any more."""
    with suppress(OSError, AttributeError):  # slower requests are bad, no pictures are worse
        os.nice(_NICENESS)
    # Whatever a library prints must not stand between the answers.
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    for line in sys.stdin.buffer:
        blobs, told = list[bytes](), dict[str, Any]()
        try:
            kind, *rest = json.loads(line)
            blobs = _KINDS[kind](*rest)
            told["bytes"] = [len(blob) for blob in blobs]
        except BadInput as error:
            told["error"] = f"{error.message} ({error.hint})"
        except Exception as error:
            told["error"] = f"{type(error).__name__}: {error}"
        out.write(json.dumps(told).encode() + b"\n")
        for blob in blobs:
            out.write(blob)
        out.flush()


def _paste(base: str, recipe: str, answer: str) -> list[bytes]:
    from runner.inputs.pasting import paste

    return [paste(Path(base), recipe, Path(answer))]


def _render(asset: str, recipes: list[str]) -> list[bytes]:
    from runner.renditions.rendering import render

    return render(Path(asset), [recipe_of(told) for told in recipes])


_KINDS: Final[dict[str, Callable[..., list[bytes]]]] = {"paste": _paste, "render": _render}


def _question(*words: object) -> bytes:
    return json.dumps(words).encode() + b"\n"


if __name__ == "__main__":
    main()
