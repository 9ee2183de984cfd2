"""What stands on a contact sheet: which images meet where, the labels, and the words for images that are not there.

Owns the choice of rows, columns and cells. Refuses to draw (`renditions.sheet`), and to know where the sheet goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Final

from runner.errors import InputError
from runner.ledger import Job, Ledger, Tile
from runner.manifest.problems import suggest
from runner.renditions.sheet import SHOWN, Cell, Copy, Picture, Row, Sheet
from runner.rules.pricing import usd
from runner.store import Store
from runner.tasks import Status

VARIANT: Final = "variant"
"""What stands for all axes of the matrix at once."""
FIELDS: Final = ("prompt", VARIANT, "model", "size", "quality", "background", "output_format", "moderation", "sample")
"""What every image has; the axes of the matrix come beside."""
MOST_CELLS: Final = 50_000
_THUMBNAIL_PX: Final = 384
"""A cell of more is drawn from the image itself."""
_LABEL_CHARS: Final = 400
_GOES_ON: Final = " …"
_NOTE_RATIO: Final = 0.5
"""Height over width of what says why there is no image."""
_NOT_MADE: Final = {
    Status.PLANNED: "not made yet",
    Status.RUNNING: "being made",
    Status.SUBMITTED: "in a batch",
    Status.IN_DOUBT: "in doubt",
}


@dataclass(slots=True)
class _Found:
    """The images of a cell as they come."""

    pictures: list[Picture] = field(default_factory=list)
    more: int = 0
    highest: float = 0.0

    def add(self, tile: Tile, picture: Picture) -> None:
        if len(self.pictures) == SHOWN:
            self.more += 1
            return
        self.pictures.append(picture)
        ratio = tile.height / tile.width if tile.height and tile.width else _NOTE_RATIO
        self.highest = max(self.highest, ratio)

    @property
    def ratio(self) -> float:
        """Height over width of what is drawn here: two stand side by side."""
        return self.highest / 2 if len(self.pictures) == 2 else self.highest


@dataclass(slots=True)
class _Sum:
    """What the subtitle says."""

    statuses: Counter[Status] = field(default_factory=Counter)
    cost_microusd: int = 0
    simulated_microusd: int = 0
    in_doubt_microusd: int = 0

    def add(self, tile: Tile) -> None:
        self.statuses[tile.status] += 1
        self.in_doubt_microusd += tile.in_doubt_microusd
        if tile.simulated:
            self.simulated_microusd += tile.cost_microusd
        else:
            self.cost_microusd += tile.cost_microusd

    def told(self) -> str:
        done, wanted = self.statuses[Status.DONE], self.statuses.total()
        images = f"{wanted} image{'s' if wanted != 1 else ''}"
        parts = [f"{done} of {images}" if done < wanted else images]
        for status, count in self.statuses.items():
            if status is not Status.DONE:
                parts.append(f"{count} {status.value.replace('_', ' ')}")
        if self.cost_microusd or not self.simulated_microusd:
            parts.append(usd(self.cost_microusd))
        if self.simulated_microusd:
            parts.append(f"{usd(self.simulated_microusd)} simulated")
        if self.in_doubt_microusd:
            parts.append(f"{usd(self.in_doubt_microusd)} in doubt")
        return " · ".join(parts)


def sheet(
    ledger: Ledger,
    job: Job,
    *,
    store: Store,
    rows: str = "prompt",
    columns: str = VARIANT,
    size_px: int = 256,
    title: str | None = None,
    limit: int | None = None,
) -> Sheet:
    """The contact sheet of a job: what `rows` and `columns` name of each image says where it stands.

    `store` has the images, `limit` the most rows. Both orders are the manifest's.

    Raises:
        InputError: an axis that the job does not have, or more cells than a sheet can have.
    """
    labels: dict[str, str] = {}
    found: dict[tuple[str, str], _Found] = {}
    heads: dict[str, str] = {}
    total, axes = _Sum(), dict.fromkeys(FIELDS)
    has_row = has_column = False
    with ledger.tiles(job) as tiles:
        for tile in tiles:
            total.add(tile)
            axes.update(dict.fromkeys(name for name, _ in tile.variant))
            row, column = _value(tile, rows), _value(tile, columns)
            has_row, has_column = has_row or row is not None, has_column or column is not None
            row, column = row or "", column or ""
            if row not in labels and limit is not None and len(labels) >= limit:
                continue
            _label(labels, row, tile.prompt if rows == "prompt" else row)
            _label(heads, column, tile.prompt if columns == "prompt" else column)
            cell = found.setdefault((row, column), _Found())
            if len(found) > MOST_CELLS:
                raise InputError(
                    f"the sheet would have more than {MOST_CELLS:,} cells",
                    hint="--limit N takes the first N rows; `runner gallery` has room for all of them",
                )
            cell.add(tile, _picture(tile, store, size_px))
    for name, is_there in ((rows, has_row), (columns, has_column)):
        if labels and not is_there:
            hint = suggest(name, list(axes), what="rows and columns can be")
            raise InputError(f"the job {job.name} has no axis {name!r}", hint=hint)
    return Sheet(
        title=title or job.name,
        subtitle=total.told(),
        columns=tuple(heads.values()),
        rows=tuple(Row(label, _cells(found, row, heads)) for row, label in labels.items()),
        size_px=size_px,
        ratio=min(1.0, max((cell.ratio for cell in found.values()), default=1.0)),
    )


def _label(labels: dict[str, str], value: str, text: str) -> None:
    """What stands at a value: of prompts that differ, as an axis of the matrix stands in them, the common beginning."""
    text = text[:_LABEL_CHARS]
    known = labels.setdefault(value, text)
    if known != text:
        pairs = zip(known.removesuffix(_GOES_ON).split(" "), text.split(" "), strict=False)
        words = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        labels[value] = f"{' '.join(words)}{_GOES_ON}" if words else value


def _cells(found: dict[tuple[str, str], _Found], row: str, heads: Iterable[str]) -> tuple[Cell, ...]:
    cells = (found.get((row, head)) for head in heads)
    return tuple(Cell() if one is None else Cell(tuple(one.pictures), one.more) for one in cells)


def _value(tile: Tile, axis: str) -> str | None:
    """Where an image stands on an axis; None if it has none of that name. Of prompts it is the id."""
    own = dict(tile.variant)
    if axis in own:
        return own[axis]
    fields = {
        "prompt": tile.prompt_id,
        VARIANT: " · ".join(own.values()),
        "model": tile.wanted_model,
        "size": tile.size,
        "quality": tile.quality,
        "background": tile.background,
        "output_format": tile.output_format,
        "moderation": tile.moderation,
        "sample": str(tile.sample),
    }
    return fields.get(axis)


def _picture(tile: Tile, store: Store, size_px: int) -> Picture:
    if tile.status is not Status.DONE or tile.path is None:
        reason = tile.error_message or tile.error_code
        word = _NOT_MADE.get(tile.status, tile.status.value)
        return Picture(note=f"{word}: {reason}" if reason else word)
    paths = [tile.thumbnail] if tile.thumbnail is not None and size_px <= _THUMBNAIL_PX else []
    return Picture(tuple(_file(store, path) for path in [*paths, tile.path]))


def _file(store: Store, path: str) -> Path | Copy:
    found = store.located(path)
    return partial(store.local_copy, path) if isinstance(found, str) else found
