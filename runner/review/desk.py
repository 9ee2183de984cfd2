"""One job under review: which images there are, what each person is asked next, and what is put on record.

Owns what a browser is told, and that a blind review tells nothing that gives an image away: there its number is drawn
by lot. Refuses to know HTTP. Blocking; called from several threads at once.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.errors import InputError
from runner.invocation import now, now_ms
from runner.ledger import Choice, Job, Ledger, NewChoice, Tile
from runner.report.gallery import Links, page
from runner.report.results import results
from runner.report.status import iso
from runner.review import Settings
from runner.review.pairs import Group, Shown, asked, grouped, starred
from runner.review.wire import LARGEST, Chosen, Skipped
from runner.tasks import Status

AHEAD = 3
"""So many pairs are told at once: the browser loads their pictures while the first is looked at."""
_FRESH_S = 5.0
"""The list of images is not made anew more often than this, however many a run brings."""
_MOST_KEPT = 16
"""People whose order of pairs is remembered."""
_MOST_SKIPPED = 1_000

Item = tuple[int, int | None]
"""What is asked about: two images, or one."""


@dataclass(frozen=True, slots=True)
class _Index:
    """The images of a job as they were at one moment. `mark` tells whether there may be others by now.

    `varied` are the prompts whose texts are not the same for all of their variants.
    """

    job: Job
    mark: tuple[int, int]
    made_s: float
    axes: tuple[str, ...]
    images: dict[int, Shown]
    groups: list[Group]
    varied: frozenset[str]
    orders: OrderedDict[str, list[Item]] = field(default_factory=OrderedDict)


class Desk:
    """A review. Raises InputError where the job or the axis is none."""

    def __init__(self, ledger: Ledger, job: str, settings: Settings) -> None:
        self.settings = settings
        self._ledger = ledger
        self._name = job
        self._lock = threading.Lock()
        self._index = self._made(self._job())
        self._handles: dict[int, int] = {}
        self._handled: dict[int, int] = {}
        self._skipped: dict[str, dict[Item, None]] = {}
        if settings.axis is not None and settings.axis not in self._index.axes:
            known = ", ".join(self._index.axes)
            raise InputError(
                f"the job {job!r} has no axis {settings.axis!r}",
                hint=f"its axes are: {known}" if known else "its images differ in their prompts alone",
            )

    # -- what is there --------------------------------------------------------------------------

    def page(self, links: Links) -> Iterator[str]:
        """The gallery's page with choosing switched on."""
        index = self._refreshed(patient=False)
        review = {
            "reviewer": self.settings.reviewer,
            "blind": self.settings.blind,
            "stars": self.settings.stars,
            "axis": self.settings.axis,
            "all_pairs": self.settings.all_pairs,
        }
        return page(
            self._ledger,
            index.job,
            links=links,
            now=now(),
            results=None if self.settings.blind else results(self._ledger, index.job).as_dict(),
            review=review,
            has_tiles=not self.settings.blind,
        )

    def path(self, number: int, kind: str) -> str | None:
        """Where a picture of an image lies, relative to the output folder: `media`, `thumb` or `composite`."""
        if self.settings.blind:
            # Only what was handed out: neither a task's number nor a smaller picture has any place there.
            task_id = self._handled.get(number)
            return None if task_id is None or kind != "media" else self._path(task_id, kind)
        return self._path(number, kind)

    # -- what is asked --------------------------------------------------------------------------

    def next(self, reviewer: str) -> dict[str, Any]:
        """What this person is asked now and after that, and how far they are."""
        found = self._next(self._refreshed(patient=True), reviewer)
        if not found["items"]:
            found = self._next(self._refreshed(patient=False), reviewer)
        return found

    def skip(self, skipped: Skipped) -> dict[str, Any]:
        """Ask about this last."""
        item = self._item(skipped.left, skipped.right)
        with self._lock:
            mine = self._skipped.setdefault(skipped.reviewer, {})
            mine.pop(item, None)
            mine[item] = None
            while len(mine) > _MOST_SKIPPED:
                mine.pop(next(iter(mine)))
        return {"skipped": True}

    def choose(self, chosen: Chosen) -> dict[str, Any]:
        """Put a choice on record.

        Raises:
            InputError: its images are not (or no longer) there, or are not of one prompt and sample.
        """
        item = self._item(chosen.left, chosen.right)
        choice = self._ledger.reviews.add(
            self._index.job,
            NewChoice(
                reviewer=chosen.reviewer,
                left=item[0],
                right=item[1],
                verdict=chosen.verdict,
                stars=chosen.stars,
                blind=self.settings.blind,
                token=chosen.token,
            ),
            now_ms=now_ms(),
        )
        return self._told(choice)

    def undo(self, reviewer: str) -> dict[str, Any]:
        """Take back this person's newest choice; `undone` None where there is none."""
        job = self._job()
        choice = self._ledger.reviews.undo(job, reviewer, now_ms=now_ms())
        if choice is None:
            return {"undone": None}
        with self._lock:
            self._skipped.get(reviewer, {}).pop((choice.left, choice.right), None)
        item = choice.left, choice.right
        shown = self._shown(self._refreshed(patient=True), [item])
        return {"undone": {**self._told(choice), "item": shown[0] if shown else None}}

    def results(self, reviewer: str | None) -> dict[str, Any]:
        """What the choices come to; in a blind review only for a person who has nothing left to judge."""
        if self.settings.blind:
            left = None
            if reviewer is not None:
                state = self.next(reviewer)
                left = state["total"] - state["done"]
            if left != 0:
                return {"locked": True, "left": left}
        return results(self._ledger, self._job()).as_dict()

    # -- below ----------------------------------------------------------------------------------

    def _job(self) -> Job:
        job = self._ledger.job(self._name)
        if job is None:
            raise InputError(f"the ledger knows no job {self._name!r} any more", hint="start `runner review` again")
        return job

    def _refreshed(self, *, patient: bool) -> _Index:
        """The images as they are now; `patient`: or were a moment ago."""
        with self._lock:
            if patient and time.monotonic() - self._index.made_s < _FRESH_S:
                return self._index
            job = self._job()
            if self._mark(job) != self._index.mark:
                self._index = self._made(job)
            return self._index

    def _mark(self, job: Job) -> tuple[int, int]:
        return job.revision, self._ledger.renditions.newest_asset()

    def _made(self, job: Job) -> _Index:
        mark = self._mark(job)
        axes: dict[str, None] = {}
        images = {}
        texts: dict[str, int] = {}
        varied = set()
        with self._ledger.tiles(job) as tiles:
            for tile in tiles:
                axes.update(dict.fromkeys(name for name, _ in tile.variant))
                if texts.setdefault(tile.prompt_id, hash(tile.prompt)) != hash(tile.prompt):
                    varied.add(tile.prompt_id)
                if tile.status is Status.DONE:
                    images[tile.task_id] = Shown(tile.task_id, tile.prompt_id, tile.sample, tile.variant)
        groups = grouped(images.values(), tuple(axes))
        return _Index(job, mark, time.monotonic(), tuple(axes), images, groups, frozenset(varied))

    def _next(self, index: _Index, reviewer: str) -> dict[str, Any]:
        order = self._order(index, reviewer)
        judged = self._judged(index.job, reviewer)
        left = [item for item in order if _unsided(item) not in judged]
        with self._lock:
            skipped = set(self._skipped.get(reviewer, ()))
        waiting = [item for item in left if item in skipped]
        ahead = [*(item for item in left if item not in skipped), *waiting][:AHEAD]
        return {
            "done": len(order) - len(left),
            "total": len(order),
            "skipped": len(waiting),
            "items": self._shown(index, ahead),
        }

    def _order(self, index: _Index, reviewer: str) -> list[Item]:
        """All that a person is asked about, in the order that is always the same for them."""
        with self._lock:
            known = index.orders.get(reviewer)
            if known is not None:
                index.orders.move_to_end(reviewer)
                return known
        seed = f"{self._name}\0{reviewer}"
        settings = self.settings
        order: list[Item] = []
        if settings.stars:
            order += [(task_id, None) for task_id in starred(index.images.values(), seed=seed)]
        else:
            order += asked(
                index.groups,
                index.axes,
                seed=seed,
                axis=settings.axis,
                all_pairs=settings.all_pairs,
                shuffle_sides=settings.blind,
            )
        with self._lock:
            index.orders[reviewer] = order
            while len(index.orders) > _MOST_KEPT:
                index.orders.popitem(last=False)
        return order

    def _judged(self, job: Job, reviewer: str) -> set[Item]:
        """What a person has judged, of images that are still the same."""
        choices = self._ledger.reviews.all(job)
        return {_unsided((one.left, one.right)) for one in choices if one.reviewer == reviewer and one.is_current}

    def _shown(self, index: _Index, items: Sequence[Item]) -> list[dict[str, Any]]:
        wanted = [side for item in items for side in item if side is not None]
        with self._ledger.tiles(index.job, wanted) as found:
            tiles = {tile.task_id: tile for tile in found}
        return [
            self._asked(index, tiles[left], None if right is None else tiles[right])
            for left, right in items
            if left in tiles and (right is None or right in tiles)
        ]

    def _asked(self, index: _Index, left: Tile, right: Tile | None) -> dict[str, Any]:
        """A pair, or one image, as the browser shows it."""
        sides = [tile for tile in (left, right) if tile is not None]
        prompts = {tile.prompt for tile in sides}
        differing = _differing(left, right)
        blind = self.settings.blind
        # Prompts that differ would tell which image is which, or of which variant one is.
        hidden = blind and (len(prompts) > 1 or (right is None and left.prompt_id in index.varied))
        shared = [f"{name}={value}" for name, value in left.variant if name not in differing]
        return {
            "prompt_id": left.prompt_id,
            "prompts": [] if hidden else [left.prompt] if len(prompts) == 1 else [tile.prompt for tile in sides],
            "shared": None if blind else ", ".join(shared),
            "sides": [
                {
                    "id": self._number(tile.task_id),
                    "label": None if blind else _label(tile, differing),
                }
                for tile in sides
            ],
        }

    def _number(self, task_id: int) -> int:
        """What a browser calls an image: its task's number, or, in a blind review, one drawn by lot."""
        if not self.settings.blind:
            return task_id
        with self._lock:
            number = self._handles.get(task_id)
            while number is None or self._handled.setdefault(number, task_id) != task_id:
                number = secrets.randbelow(LARGEST) + 1
            self._handles[task_id] = number
            return number

    def _item(self, left: int, right: int | None) -> Item:
        """The tasks that a browser means.

        Raises:
            InputError: it cannot mean them.
        """
        sides = [left] if right is None else [left, right]
        task_ids = [self._handled.get(side) if self.settings.blind else side for side in sides]
        images = self._index.images
        if any(task_id not in images for task_id in task_ids):
            images = self._refreshed(patient=False).images
        found = [images[task_id] for task_id in task_ids if task_id in images]
        if len(found) != len(sides):
            raise InputError(f"the job {self._name!r} has no such image (any more)", hint="open the page anew")
        if len({(image.prompt_id, image.sample) for image in found}) > 1:
            raise InputError("these two images are not of one prompt and sample", hint="open the page anew")
        return found[0].task_id, None if right is None else found[1].task_id

    def _path(self, task_id: int, kind: str) -> str | None:
        job = self._index.job
        with self._ledger.tiles(job, [task_id]) as tiles:
            found = list(tiles)
        for tile in found:
            return {"media": tile.path, "thumb": tile.thumbnail, "composite": tile.composite}.get(kind)
        # What an image was made from, or became, may be another job's.
        for relative in self._ledger.relatives(job):
            if relative.other_task == task_id:
                return {"media": relative.path, "thumb": relative.thumbnail}.get(kind)
        return None

    def _told(self, choice: Choice) -> dict[str, Any]:
        return {"verdict": choice.verdict, "stars": choice.stars, "time": iso(choice.created_ms)}


def _differing(left: Tile, right: Tile | None) -> set[str]:
    if right is None:
        return {name for name, _ in left.variant}
    one, other = dict(left.variant), dict(right.variant)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def _label(tile: Tile, differing: set[str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tile.variant if name in differing)


def _unsided(item: Item) -> Item:
    left, right = item
    return item if right is None or left < right else (right, left)
