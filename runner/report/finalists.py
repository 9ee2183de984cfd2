"""Who goes on to the next round: the winners of a review, the ones with stars, those that a person names.

Owns how a person names an image (the head of its key, or its file), and what "best" means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runner.errors import InputError
from runner.ledger import Job, Ledger, Tile
from runner.planner import CHUNK, chunks
from runner.report.judged import Image, Judged, judged
from runner.tasks import Status

SHORTEST = 4
"""So many hex digits of a key at least name an image."""
_KEY_DIGITS = frozenset("0123456789abcdef")
_MOST_TOLD = 5


def finalists(
    ledger: Ledger,
    job: Job,
    *,
    winners: bool = False,
    min_stars: float | None = None,
    picks: Sequence[str] = (),
    top: int | None = None,
) -> list[Tile]:
    """The images that any of these ways chooses, in the manifest's order; each once.

    `winners`: for each prompt the image with the best record: wins minus losses, at least one win; then the strength
    of its variant, then the manifest's order. `min_stars`: those whose mean is at least that. `picks`: each the head of
    a key (at least SHORTEST digits) or the name of the image's file. `top` keeps that many: picks first, then winners,
    then those with stars, each of them from the best.

    Raises:
        InputError: a pick names no image, several, or one that is not done.
    """
    chosen: dict[int, None] = {}
    if picks:
        chosen.update(dict.fromkeys(_picked(ledger, job, picks)))
    if winners or min_stars is not None:
        seen = judged(ledger, job)
        if winners:
            chosen.update(dict.fromkeys(_winners(seen)))
        if min_stars is not None:
            chosen.update(dict.fromkeys(_starred(seen, min_stars)))
    kept = list(chosen)[:top]
    found: list[Tile] = []
    for page in chunks(kept, CHUNK):
        with ledger.tiles(job, page) as tiles:
            found.extend(tile for tile in tiles if tile.status is Status.DONE)
    return sorted(found, key=lambda tile: tile.position)


def _winners(seen: Judged) -> list[int]:
    """The best of each prompt, the best of all first."""
    strengths = {ranked.item: ranked.chance for ranked in seen.ranking()}

    def record(image: Image) -> tuple[float, float, int]:
        net = image.tally.wins - image.tally.losses
        return -net, -strengths.get(image.variant, 0.5), image.position

    best: dict[str, Image] = {}
    for image in sorted((one for one in seen.images.values() if one.tally.wins), key=record):
        best.setdefault(image.prompt_id, image)
    return [image.task_id for image in best.values()]


def _starred(seen: Judged, min_stars: float) -> list[int]:
    enough = [(image.stars, image) for image in seen.images.values() if image.stars is not None]
    enough.sort(key=lambda each: (-each[0], -each[1].star_count, each[1].position))
    return [image.task_id for stars, image in enough if stars >= min_stars]


def _picked(ledger: Ledger, job: Job, picks: Sequence[str]) -> list[int]:
    words = [pick.strip() for pick in picks]
    with ledger.tiles(job) as tiles:
        named, headed = _matches(tiles, words)
    return [_one(job, word, named.get(word) or headed.get(word, [])) for word in words]


def _matches(tiles: Iterable[Tile], words: Sequence[str]) -> tuple[dict[str, list[Tile]], dict[str, list[Tile]]]:
    """The images of these words, by their files' names, and by the heads of their keys."""
    names = set(words)
    heads: dict[str, list[str]] = {}
    for word in words:
        if len(word) >= SHORTEST and set(word.lower()) <= _KEY_DIGITS:
            heads.setdefault(word.lower()[:SHORTEST], []).append(word)
    named: dict[str, list[Tile]] = {}
    headed: dict[str, list[Tile]] = {}
    for tile in tiles:
        if tile.name in names:
            named.setdefault(tile.name, []).append(tile)
        for word in heads.get(tile.key[:SHORTEST], ()):
            known = headed.setdefault(word, [])
            if tile.key.startswith(word.lower()) and len(known) <= _MOST_TOLD:
                known.append(tile)
    return named, headed


def _one(job: Job, word: str, found: Sequence[Tile]) -> int:
    if not found:
        if len(word) < SHORTEST:
            raise InputError(
                f"{word!r} is too short to name an image", hint=f"give at least {SHORTEST} digits of its id"
            )
        raise InputError(
            f"the job {job.name!r} wants no image {word!r}",
            hint="give the id that the gallery shows, or the image's file name below images/",
        )
    if len(found) > 1:
        told = ", ".join(f"{tile.key[:16]} ({tile.name})" for tile in found[:_MOST_TOLD])
        more = " and others" if len(found) > _MOST_TOLD else ""
        raise InputError(f"{word!r} names several images: {told}{more}", hint="give more digits of the id")
    tile = found[0]
    if tile.status is not Status.DONE:
        raise InputError(
            f"the image {word!r} ({tile.name}) is {tile.status}, so there is nothing to make again",
            hint="make it first with `runner run`, or leave it out",
        )
    return tile.task_id
