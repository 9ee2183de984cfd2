"""Files that a command writes for its user: as a whole or not at all, and never among the images.

Owns the way in which they take their place. What is below the output folder is the store's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from runner.errors import InputError

if TYPE_CHECKING:
    from runner.store import Output


def refuse_below(folder: Output, file: Path, *, option: str) -> None:
    """What lies there is on record: no slip in a name may replace an image that was paid for.

    Raises:
        InputError: `file` lies below `folder`, which is none where images go to a bucket.
    """
    if isinstance(folder, Path) and file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{file} lies in the output folder", hint=f"name a file elsewhere with {option}")


@contextmanager
def replacing(file: Path, *, option: str) -> Iterator[IO[bytes]]:
    """A file that takes the place of `file` when the block is through; until then that stays as it is.

    A pipe or a device is written to as it is.

    Raises:
        InputError: it cannot be written.
    """
    target = Path(os.path.realpath(file))
    is_special = target.exists() and not target.is_file()
    fresh = target if is_special else target.with_name(f".{target.name[:100]}.{os.getpid()}")
    try:
        with fresh.open("wb" if is_special else "x+b") as stream:
            yield stream
        if not is_special:
            fresh.replace(target)
    except OSError as error:
        raise InputError(
            f"{file} cannot be written: {error.strerror or error}", hint=f"name another file with {option}"
        ) from None
    finally:
        if not is_special:
            with suppress(OSError):
                fresh.unlink()
