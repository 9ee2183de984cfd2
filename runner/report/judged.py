"""What was chosen, beside the images that it was chosen of: what both results and finalists are made from.

Owns which choices count. Holds something of every image that was judged, and of all others nothing but sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from runner.ledger import Choice, Job, Ledger, Tile
from runner.rules.ranking import Ranked, Tally, bradley_terry
from runner.tasks import Status

Variant = tuple[tuple[str, str], ...]
"""All that an image is beside its prompt and its sample: every axis of the manifest with its value."""
LACKING = "none"
"""The value of an axis that a variant does not have, as in the names of files."""
_TALLIES = {"left": Tally(wins=1), "right": Tally(losses=1), "both": Tally(ties=1), "neither": Tally(ties=1)}


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was judged, with what was said of it. `stars` is their mean over `star_count` people."""

    task_id: int
    position: int
    prompt_id: str
    variant: Variant
    tally: Tally = field(default_factory=Tally)
    stars: float | None = None
    star_count: int = 0


@dataclass(slots=True)
class Spent:
    """What the images with one value have cost, of those that were paid for and not taken over."""

    images: int = 0
    microusd: int = 0

    @property
    def mean_microusd(self) -> float | None:
        """Micro-dollars an image; None without one."""
        return self.microusd / self.images if self.images else None


@dataclass(frozen=True, slots=True)
class Judged:
    """All choices that count, and what they are of.

    `verdicts` and `stars` are each person's newest of two images, or of one. `left_out` were made of images that have
    changed since, or are no longer wanted; `repeated` were said again by the same person.
    """

    axes: dict[str, list[str]]
    images: dict[int, Image]
    verdicts: list[Choice]
    stars: list[Choice]
    left_out: int
    repeated: int
    spent: dict[tuple[str, str], Spent]

    def ranking(self) -> list[Ranked[Variant]]:
        """The variants that met another, strongest first."""
        meetings: dict[tuple[Variant, Variant], Tally] = {}
        for choice in self.verdicts:
            assert choice.right is not None
            pair = self.images[choice.left].variant, self.images[choice.right].variant
            if pair[0] != pair[1]:
                meetings[pair] = meetings.get(pair, Tally()) + tally_of(choice)
        return bradley_terry(meetings)


def judged(ledger: Ledger, job: Job, *, reviewer: str | None = None) -> Judged:
    """What counts of a job's choices, or of one person's."""
    newest: dict[tuple[object, ...], Choice] = {}
    made = left_out = 0
    for choice in ledger.reviews.all(job):
        if reviewer is not None and choice.reviewer != reviewer:
            continue
        made += 1
        if choice.is_current:
            newest[_about(choice)] = choice
        else:
            left_out += 1
    repeated = made - left_out - len(newest)
    looked = _Looked({side for choice in newest.values() for side in (choice.left, choice.right)})
    with ledger.tiles(job) as tiles:
        looked.at(tiles)
    found = looked.found
    counting = [one for one in newest.values() if one.left in found and (one.right is None or one.right in found)]
    return Judged(
        axes={name: list(values) for name, values in looked.axes.items()},
        images=_told(found, counting),
        verdicts=[choice for choice in counting if choice.right is not None],
        stars=[choice for choice in counting if choice.right is None],
        left_out=left_out + len(newest) - len(counting),
        repeated=repeated,
        spent=looked.spent,
    )


def tally_of(choice: Choice) -> Tally:
    """A verdict as the left image sees it."""
    return _TALLIES[choice.verdict]


def _about(choice: Choice) -> tuple[object, ...]:
    """Who judged what, whichever image was on which side."""
    if choice.right is None:
        return choice.reviewer, choice.left
    return choice.reviewer, min(choice.left, choice.right), max(choice.left, choice.right)


@dataclass(slots=True)
class _Looked:
    """The pass over all images of a job."""

    wanted: set[int | None]
    axes: dict[str, dict[str, None]] = field(default_factory=dict)
    spent: dict[tuple[str, str], Spent] = field(default_factory=dict)
    found: dict[int, Image] = field(default_factory=dict)

    def at(self, tiles: Iterable[Tile]) -> None:
        variants: dict[Variant, None] = {}
        for tile in tiles:
            variants.setdefault(tile.variant)
            if tile.status is not Status.DONE:
                continue
            if tile.task_id in self.wanted:
                self.found[tile.task_id] = Image(tile.task_id, tile.position, tile.prompt_id, tile.variant)
            if tile.cost_microusd:
                for place in tile.variant:
                    spent = self.spent.setdefault(place, Spent())
                    spent.images += 1
                    spent.microusd += tile.cost_microusd
        for variant in variants:
            for name, value in variant:
                self.axes.setdefault(name, {}).setdefault(value)
        for variant in variants:
            for name in self.axes.keys() - dict(variant).keys():
                self.axes[name].setdefault(LACKING)


def _told(found: dict[int, Image], choices: Iterable[Choice]) -> dict[int, Image]:
    """The images with what these choices say of them."""
    tallies: dict[int, Tally] = {}
    stars: dict[int, list[int]] = {}
    for choice in choices:
        if choice.right is None:
            stars.setdefault(choice.left, []).append(choice.stars or 0)
            continue
        tally = tally_of(choice)
        tallies[choice.left] = tallies.get(choice.left, Tally()) + tally
        tallies[choice.right] = tallies.get(choice.right, Tally()) + tally.reversed
    told = {}
    for task_id in tallies.keys() | stars.keys():
        given = stars.get(task_id, [])
        told[task_id] = replace(
            found[task_id],
            tally=tallies.get(task_id, Tally()),
            stars=sum(given) / len(given) if given else None,
            star_count=len(given),
        )
    return told
