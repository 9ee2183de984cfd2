"""The page's data: a JSON document that is written tile by tile, and tables of what tiles share.

Owns its shape, which `pages/base.js` reads. Refuses to hold the tiles: of each it keeps at most what tells that a text
was met before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any

from runner.ledger import Relative, Tile
from runner.report.gallery.links import Links
from runner.report.status import iso
from runner.tasks import REQUEST_FIELDS, Status

MAX_TILES = 100_000
"""What is shown at most: a browser reads about a second for that many."""
FIELDS = (
    "id",
    "key",
    "prompt_id",
    "prompt",
    "variant",
    "sample",
    "status",
    "name",
    "image",
    "thumbnail",
    "cost",
    "width",
    "height",
    "bytes",
    "model",
    "created",
    "simulated",
    "in_doubt",
    "composite",
    "edit",
    "error_code",
    "error",
)
"""What a tile's row has, in this order; what is nothing at its end is left out."""
_STATUSES = tuple(str(status) for status in Status)
_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_SETTINGS = ("wanted_model", *REQUEST_FIELDS[1:])


def document(
    head: Mapping[str, Any],
    tiles: Iterable[Tile],
    relatives: Iterable[Relative],
    links: Links,
    *,
    limit: int = MAX_TILES,
) -> Iterator[str]:
    """The data as JSON that can stand in HTML, in pieces; of `tiles`, the first `limit`.

    Texts that many tiles share are written where they are first met, and are numbers after that.
    """
    table = _Table(links)
    yield f'{{"fields":{encoded(FIELDS)},"tiles":['
    comma = ""
    for tile in islice(tiles, limit):
        yield comma + encoded(table.row(tile))
        comma = ","
    yield "]"
    rest = {
        **head,
        "shown": table.count,
        "statuses": _STATUSES,
        "relatives": [_relative(relative, links) for relative in relatives],
        **table.shared(),
    }
    for name, value in rest.items():
        yield f",{encoded(name)}:{encoded(value)}"
    yield "}"


def encoded(value: object) -> str:
    """JSON in ASCII without what ends a script or begins a comment in HTML."""
    return _ENCODE(value).translate(_UNSAFE)


class _Table:
    """What the tiles so far have in common."""

    def __init__(self, links: Links) -> None:
        self.count = 0
        self._links = links
        self._prompts: dict[bytes, int] = {}
        self._ids: dict[bytes, int] = {}
        self._variants: dict[tuple[Any, ...], int] = {}
        self._models: dict[str, int] = {}
        self._samples = 1
        self._simulated = 0
        self._made = 0

    def row(self, tile: Tile) -> list[Any]:
        """A tile's row, by `FIELDS`."""
        self.count += 1
        self._samples = max(self._samples, tile.sample)
        self._made += tile.simulated is not None
        self._simulated += bool(tile.simulated)
        settings = tuple(getattr(tile, name) for name in _SETTINGS)
        row: list[Any] = [
            tile.task_id,
            tile.key,
            _first(self._ids, tile.prompt_id),
            _first(self._prompts, tile.prompt),
            self._variants.setdefault((tile.variant, settings), len(self._variants)),
            tile.sample,
            _STATUSES.index(tile.status),
            tile.name,
            self._links.image(tile),
            self._links.thumbnail(tile),
            tile.cost_microusd or None,
            tile.width,
            tile.height,
            tile.bytes,
            None if tile.model is None else self._models.setdefault(tile.model, len(self._models)),
            iso(tile.created_ms),
            1 if tile.simulated else None,
            tile.in_doubt_microusd or None,
            self._links.composite(tile),
            1 if tile.has_edit else None,
            tile.error_code,
            tile.error_message,
        ]
        while row[-1] is None:
            row.pop()
        return row

    def shared(self) -> dict[str, Any]:
        """What the rows refer to."""
        known = [
            {**dict(zip(REQUEST_FIELDS, settings, strict=True)), **dict(variant)}
            for variant, settings in self._variants
        ]
        own = dict.fromkeys(name for variant, _ in self._variants for name, _ in variant)
        axes = {name: _values(known, name) for name in own}
        # A prompt can have settings of its own, which the matrix does not know.
        for name in REQUEST_FIELDS:
            if name not in axes and len(found := _values(known, name)) > 1:
                axes[name] = found
        places = {name: {value: place for place, value in enumerate(values)} for name, values in axes.items()}
        return {
            "samples": self._samples,
            "simulated": "all"
            if self._made and self._simulated == self._made
            else "some"
            if self._simulated
            else "none",
            "models": list(self._models),
            "axes": [{"name": name, "values": values} for name, values in axes.items()],
            "variants": [
                {
                    "settings": dict(zip(REQUEST_FIELDS, settings, strict=True)),
                    "at": [places[name].get(_text(words.get(name))) for name in axes],
                }
                for (_, settings), words in zip(self._variants, known, strict=True)
            ],
        }


def _values(known: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(_text(words[name]) for words in known if words.get(name) is not None))


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _first(known: dict[bytes, int], text: str) -> str | int:
    """The text, or its number if it was met before."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    if digest in known:
        return known[digest]
    known[digest] = len(known)
    return text


def _relative(relative: Relative, links: Links) -> dict[str, Any]:
    return {
        "task_id": relative.task_id,
        "side": relative.side,
        "other_task": relative.other_task,
        "job": relative.job,
        "key": relative.key,
        "prompt_id": relative.prompt_id,
        "model": relative.model,
        "size": relative.size,
        "quality": relative.quality,
        "status": str(relative.status),
        "width": relative.width,
        "height": relative.height,
        "cost": relative.cost_microusd,
        "image": links.relative(relative),
        "thumbnail": links.relative_thumbnail(relative),
    }
