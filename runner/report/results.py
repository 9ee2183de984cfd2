"""What a job's choices come to: win rates for each axis, a ranking of the variants, stars, and who has judged.

Owns the shape of `runner results --json` and of what the page shows. The arithmetic is that of `rules.ranking`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from runner.ledger import Job, Ledger
from runner.report.judged import LACKING, Image, Judged, Variant, judged, tally_of
from runner.rules.pricing import usd
from runner.rules.ranking import Ranked, Tally, wilson


@dataclass(frozen=True, slots=True)
class Contest:
    """Two values of an axis: what came of the images that differ in it, seen from `a`, the one that won more often.

    `difference_microusd` is the mean cost of an image with `a` minus that of one with `b`; None where either is free.
    """

    axis: str
    a: str
    b: str
    tally: Tally
    difference_microusd: float | None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the win rate."""
        return wilson(self.tally.wins, self.tally.losses)

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves out that neither is better."""
        low, high = self.interval
        return low > 0.5 or high < 0.5

    def sentence(self) -> str:
        """`quality=medium beats low 71 % (58-81 %, n=58), +$0.006 an image`."""
        rate, (low, high) = self.tally.win_rate, self.interval
        ties = f", {self.tally.ties} ties" if self.tally.ties else ""
        price = ""
        if self.difference_microusd is not None:
            sign = "" if self.difference_microusd < 0 else "+"
            price = f", {sign}{usd(round(self.difference_microusd))} an image"
        if rate is None:
            return f"{self.axis}: no difference shown between {self.a} and {self.b} (n=0{ties}){price}"
        figures = f"{rate:.0%} ({low:.0%}-{high:.0%}, n={self.tally.decided}{ties})".replace("%-", "-")
        figures = figures.replace("%", " %")
        if self.is_shown:
            return f"{self.axis}={self.a} beats {self.b} {figures}{price}"
        return f"{self.axis}: no difference shown, {self.a} over {self.b} {figures}{price}"


@dataclass(frozen=True, slots=True)
class Starred:
    """The mean of the stars that the images with one value, or of one variant, were given."""

    mean: float
    count: int


@dataclass(frozen=True, slots=True)
class Person:
    """How much a person has said."""

    name: str
    verdicts: int
    stars: int


@dataclass(frozen=True, slots=True)
class Results:
    """What a job's choices come to; see `docs/design.md` ("Choosing") for every definition.

    `agreement` has, of the pairs that two people judged (counted for each two of them), how many there were and how
    often both said the same.
    """

    job: str
    reviewer: str | None
    verdicts: int
    stars: int
    blind: int
    left_out: int
    repeated: int
    people: tuple[Person, ...]
    agreement: tuple[int, int]
    contests: tuple[Contest, ...]
    ranking: tuple[Ranked[Variant], ...]
    value_stars: Mapping[tuple[str, str], Starred]
    variant_stars: Mapping[Variant, Starred]
    images: tuple[Image, ...]

    @property
    def choices(self) -> int:
        """How many there are that count."""
        return self.verdicts + self.stars

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it: rates are 0 to 1, money is USD."""
        met, same = self.agreement
        return {
            "type": "results",
            "job": self.job,
            "reviewer": self.reviewer,
            "choices": self.choices,
            "verdicts": self.verdicts,
            "starred": self.stars,
            "blind": self.blind,
            "left_out": self.left_out,
            "repeated": self.repeated,
            "people": [{"name": one.name, "verdicts": one.verdicts, "stars": one.stars} for one in self.people],
            "agreement": {"judged_by_two": met, "same": same, "share": same / met if met else None},
            "axes": [_contest(each) for each in self.contests],
            "ranking": [self._variant(each) for each in self.ranking],
            "stars": [
                {"axis": axis, "value": value, "mean": one.mean, "count": one.count}
                for (axis, value), one in self.value_stars.items()
            ],
            "variant_stars": [
                {"variant": dict(variant), "label": label(variant), "mean": one.mean, "count": one.count}
                for variant, one in self.variant_stars.items()
            ],
            "tile_stars": {str(image.task_id): image.stars for image in self.images if image.stars is not None},
        }

    def lines(self) -> Iterator[dict[str, Any]]:
        """The same as JSON lines: the sums, then one for each person, contest, variant, and value with stars."""
        whole = self.as_dict()
        lists = {
            name: whole.pop(name) for name in ("people", "axes", "ranking", "stars", "variant_stars", "tile_stars")
        }
        yield whole
        for name, kind in _KINDS.items():
            for entry in lists[name]:
                yield {"type": kind, "job": self.job, **entry}

    def _variant(self, ranked: Ranked[Variant]) -> dict[str, Any]:
        stars = self.variant_stars.get(ranked.item)
        return {
            "rank": ranked.rank,
            "variant": dict(ranked.item),
            "label": label(ranked.item),
            "wins": ranked.tally.wins,
            "losses": ranked.tally.losses,
            "ties": ranked.tally.ties,
            "chance": ranked.chance,
            "low": ranked.low,
            "high": ranked.high,
            "stars": stars.mean if stars else None,
            "star_count": stars.count if stars else 0,
        }


_KINDS = {
    "people": "reviewer",
    "axes": "axis_result",
    "ranking": "variant_result",
    "stars": "value_stars",
    "variant_stars": "variant_stars",
}


def results(ledger: Ledger, job: Job, *, reviewer: str | None = None) -> Results:
    """What the choices of a job come to, or those of one person."""
    seen = judged(ledger, job, reviewer=reviewer)
    choices = [*seen.verdicts, *seen.stars]
    verdicts = Counter(choice.reviewer for choice in seen.verdicts)
    stars = Counter(choice.reviewer for choice in seen.stars)
    return Results(
        job=job.name,
        reviewer=reviewer,
        verdicts=len(seen.verdicts),
        stars=len(seen.stars),
        blind=sum(choice.blind for choice in choices),
        left_out=seen.left_out,
        repeated=seen.repeated,
        people=tuple(Person(name, verdicts[name], stars[name]) for name in sorted(verdicts | stars)),
        agreement=_agreement(seen),
        contests=tuple(_contests(seen)),
        ranking=tuple(seen.ranking()),
        value_stars=_value_stars(seen),
        variant_stars=_variant_stars(seen),
        images=tuple(sorted(seen.images.values(), key=lambda image: image.position)),
    )


def label(variant: Variant) -> str:
    """A variant in words, for tables."""
    return ", ".join(f"{name}={value}" for name, value in variant) or "the only variant"


def _contests(seen: Judged) -> Iterator[Contest]:
    """In the order of the manifest; where nothing was judged, there is nothing to say."""
    places = [(axis, {value: place for place, value in enumerate(values)}) for axis, values in seen.axes.items()]
    tallies: dict[tuple[int, int, int], Tally] = {}
    for choice in seen.verdicts:
        assert choice.right is not None
        left, right = dict(seen.images[choice.left].variant), dict(seen.images[choice.right].variant)
        for number, (axis, at) in enumerate(places):
            one, other = at[left.get(axis, LACKING)], at[right.get(axis, LACKING)]
            if one != other:
                tally = tally_of(choice) if one < other else tally_of(choice).reversed
                met = number, min(one, other), max(one, other)
                tallies[met] = tallies.get(met, Tally()) + tally
    for (number, one, other), tally in sorted(tallies.items(), key=lambda each: each[0]):
        axis, values = places[number][0], list(places[number][1])
        a, b = values[one], values[other]
        if tally.losses > tally.wins:
            a, b, tally = b, a, tally.reversed
        yield Contest(axis, a, b, tally, _difference(seen, axis, a, b))


def _difference(seen: Judged, axis: str, a: str, b: str) -> float | None:
    one, other = seen.spent.get((axis, a)), seen.spent.get((axis, b))
    if one is None or other is None or one.mean_microusd is None or other.mean_microusd is None:
        return None
    return one.mean_microusd - other.mean_microusd


def _contest(contest: Contest) -> dict[str, Any]:
    low, high = contest.interval
    difference = contest.difference_microusd
    return {
        "axis": contest.axis,
        "a": contest.a,
        "b": contest.b,
        "wins": contest.tally.wins,
        "losses": contest.tally.losses,
        "ties": contest.tally.ties,
        "n": contest.tally.decided,
        "win_rate": contest.tally.win_rate,
        "low": low,
        "high": high,
        "is_shown": contest.is_shown,
        "difference_usd": None if difference is None else difference / 1e6,
        "sentence": contest.sentence(),
    }


def _agreement(seen: Judged) -> tuple[int, int]:
    """Of the pairs that two people judged: how many, and how many of those alike."""
    said: dict[tuple[int, int], list[str]] = {}
    for choice in seen.verdicts:
        assert choice.right is not None
        turned = choice.left > choice.right
        verdict = {"left": "right", "right": "left"}.get(choice.verdict, "") if turned else ""
        pair = min(choice.left, choice.right), max(choice.left, choice.right)
        said.setdefault(pair, []).append(verdict or choice.verdict)
    twos = [two for verdicts in said.values() for two in combinations(verdicts, 2)]
    return len(twos), sum(one == other for one, other in twos)


def _value_stars(seen: Judged) -> dict[tuple[str, str], Starred]:
    given: dict[tuple[str, str], list[int]] = {
        (axis, value): [] for axis, values in seen.axes.items() for value in values
    }
    for choice in seen.stars:
        variant = dict(seen.images[choice.left].variant)
        for axis in seen.axes:
            given[axis, variant.get(axis, LACKING)].append(choice.stars or 0)
    return {place: _mean(stars) for place, stars in given.items() if stars}


def _variant_stars(seen: Judged) -> dict[Variant, Starred]:
    given: dict[Variant, list[int]] = {}
    for choice in seen.stars:
        given.setdefault(seen.images[choice.left].variant, []).append(choice.stars or 0)
    found = {variant: _mean(stars) for variant, stars in given.items()}
    return dict(sorted(found.items(), key=lambda each: (-each[1].mean, -each[1].count)))


def _mean(stars: list[int]) -> Starred:
    return Starred(sum(stars) / len(stars), len(stars))
