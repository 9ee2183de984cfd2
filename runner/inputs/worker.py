"""Pastes composites in a process of its own: `python -m runner.inputs.worker`, until its standard input ends.

Owns how a question and its answer are written. A question is a line of JSON: the manifest's folder, the recipe and the
answer's file. The answer is a line of JSON with `bytes`, and so many bytes of a PNG after it; or with `error`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from runner.inputs.pasting import paste
from runner.inputs.types import BadInput


def question(base: Path, recipe: str, answer: Path) -> bytes:
    """What to ask for one composite."""
    return json.dumps([str(base), recipe, str(answer)]).encode() + b"\n"


def main() -> None:
    """Answer until nobody asks any more."""
    # Whatever a library prints must not stand between the answers.
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    for line in sys.stdin.buffer:
        data, told = b"", dict[str, Any]()
        try:
            base, recipe, answer = json.loads(line)
            data = paste(Path(base), recipe, Path(answer))
            told["bytes"] = len(data)
        except BadInput as error:
            told["error"] = f"{error.message} ({error.hint})"
        except Exception as error:
            told["error"] = f"{type(error).__name__}: {error}"
        out.write(json.dumps(told).encode() + b"\n" + data)
        out.flush()


if __name__ == "__main__":
    main()
