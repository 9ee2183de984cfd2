"""What choices between two at a time say: how sure a share of wins is, and who is stronger than whom.

Owns the arithmetic of choosing: Wilson's interval, and the model of Bradley and Terry. Refuses to know what is
compared.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

Z_95 = 1.959963984540054
"""So many standard errors to either side hold 95 %."""
PRIOR_TIES = 0.5
"""Beside its real opponents each item has met an average one: half a tie, so that strengths never run away."""
MOST_EXACT = 150
"""Among more items than this there are no intervals, and strengths are those that the iteration has come to."""
_SWEEPS, _SWEEPS_ALONE = 200, 2_000
_STEPS = 60
_CLOSE = 1e-10
_SAME = 1e-6
"""Log strengths that differ by no more are equal but for rounding."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of one against another, seen from the first of the two."""

    wins: int = 0
    losses: int = 0
    ties: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.wins + other.wins, self.losses + other.losses, self.ties + other.ties)

    @property
    def reversed(self) -> Tally:
        """The same, seen from the other."""
        return Tally(self.losses, self.wins, self.ties)

    @property
    def decided(self) -> int:
        """How often one of the two won."""
        return self.wins + self.losses

    @property
    def count(self) -> int:
        """How often they met."""
        return self.wins + self.losses + self.ties

    @property
    def win_rate(self) -> float | None:
        """The share of wins where one of the two won (0 to 1); None where none ever did."""
        return self.wins / self.decided if self.decided else None


@dataclass(frozen=True, slots=True)
class Ranked(Generic[T]):
    """An item among all others: `chance` (0 to 1) is that of winning against an average one.

    `low` and `high` are its 95 % interval, None among more than MOST_EXACT items. Equal chances have equal ranks.
    """

    item: T
    rank: int
    tally: Tally
    chance: float
    low: float | None
    high: float | None


def wilson(wins: int, losses: int) -> tuple[float, float]:
    """The 95 % interval of a share of wins, by Wilson's score; (0, 1) where nothing was decided."""
    n = wins + losses
    if n == 0:
        return 0.0, 1.0
    rate, z2 = wins / n, Z_95 * Z_95
    middle = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # At the ends the closed form is exact, and rounding is not.
    return (0.0 if wins == 0 else max(0.0, middle - half)), (1.0 if losses == 0 else min(1.0, middle + half))


def bradley_terry(meetings: Mapping[tuple[T, T], Tally]) -> list[Ranked[T]]:
    """Every item that met another, strongest first; each pair may be given either way round, or both.

    A tie is half a win for each. Each item has met an average one as well (PRIOR_TIES), which makes the strengths
    unique, also of groups that never met: over all items the chances have the mean 50 %. The strengths come from the
    MM iteration and are finished by Newton's. The intervals come from the observed information, for the distance of an
    item's log strength from the mean of all: where all of them lie together is nothing that choices could tell.
    """
    if not meetings:
        return []
    items = list(dict.fromkeys(item for pair in meetings for item in pair))
    place = {item: index for index, item in enumerate(items)}
    tallies = [Tally()] * len(items)
    games: list[dict[int, float]] = [{} for _ in items]
    for (one, other), tally in meetings.items():
        a, b = place[one], place[other]
        tallies[a] += tally
        tallies[b] += tally.reversed
        games[a][b] = games[a].get(b, 0.0) + tally.count
        games[b][a] = games[b].get(a, 0.0) + tally.count
    model = _Model([tally.wins + (tally.ties + PRIOR_TIES) / 2 for tally in tallies], games)
    strengths, errors = model.solved()
    ranked: list[Ranked[T]] = []
    rank, last = 0, math.inf
    for index, i in enumerate(sorted(range(len(items)), key=lambda i: -strengths[i])):
        at = strengths[i]
        if last - at > _SAME:
            rank, last = index + 1, at
        low, high = _around(at, errors[i] if errors else None)
        ranked.append(Ranked(items[i], rank, tallies[i], _chance(at), low, high))
    return ranked


class _Model:
    """The penalised likelihood of log strengths, of which there is one maximum."""

    def __init__(self, wins: Sequence[float], games: Sequence[Mapping[int, float]]) -> None:
        self._wins = wins
        self._games = games

    def solved(self) -> tuple[list[float], list[float] | None]:
        """The log strengths at the maximum, and their standard errors."""
        exact = len(self._wins) <= MOST_EXACT
        at = self._iterated(_SWEEPS if exact else _SWEEPS_ALONE)
        if not exact:
            return at, None
        for _ in range(_STEPS):
            slope = self._slope(at)
            if max(map(abs, slope), default=0.0) < _CLOSE:
                break
            at = self._step(at, _solve(_factor(self._information(at)), slope))
        return at, _standard_errors(_factor(self._information(at)))

    def _iterated(self, sweeps: int) -> list[float]:
        """Each strength in turn is made what the others say it must be: no sweep ever makes it less likely."""
        strengths = [1.0] * len(self._wins)
        for _ in range(sweeps):
            largest = 0.0
            for i, mine in enumerate(strengths):
                against = sum(n / (mine + strengths[j]) for j, n in self._games[i].items())
                strengths[i] = self._wins[i] / (PRIOR_TIES / (mine + 1) + against)
                largest = max(largest, abs(strengths[i] - mine) / mine)
            if largest < _CLOSE:
                break
        return [math.log(each) for each in strengths]

    def _likelihood(self, at: Sequence[float]) -> float:
        total = 0.0
        for i, mine in enumerate(at):
            total += self._wins[i] * mine - PRIOR_TIES * _log_sum(mine, 0.0)
            total -= sum(n * _log_sum(mine, at[j]) for j, n in self._games[i].items()) / 2
        return total

    def _slope(self, at: Sequence[float]) -> list[float]:
        return [
            self._wins[i]
            - PRIOR_TIES * _chance(mine)
            - sum(n * _chance(mine - at[j]) for j, n in self._games[i].items())
            for i, mine in enumerate(at)
        ]

    def _information(self, at: Sequence[float]) -> list[list[float]]:
        size = len(at)
        matrix = [[0.0] * size for _ in range(size)]
        for i, mine in enumerate(at):
            matrix[i][i] += PRIOR_TIES * _spread(mine)
            for j, n in self._games[i].items():
                weight = n * _spread(mine - at[j])
                matrix[i][i] += weight
                matrix[i][j] -= weight
        return matrix

    def _step(self, at: list[float], change: Sequence[float]) -> list[float]:
        """Newton's step, or as much of it as leads upward."""
        before, share = self._likelihood(at), 1.0
        while share > 1e-6:
            there = [one + share * by for one, by in zip(at, change, strict=True)]
            # So close to the top that rounding hides it, a whole step is right.
            if self._likelihood(there) >= before - 1e-12 * abs(before):
                return there
            share /= 2
        return at


def _chance(log_odds: float) -> float:
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    return math.exp(log_odds) / (1 + math.exp(log_odds))


def _spread(log_odds: float) -> float:
    return _chance(log_odds) * _chance(-log_odds)


def _log_sum(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def _around(at: float, error: float | None) -> tuple[float | None, float | None]:
    return (None, None) if error is None else (_chance(at - Z_95 * error), _chance(at + Z_95 * error))


def _factor(matrix: list[list[float]]) -> list[list[float]]:
    """Cholesky's lower triangle of a positive definite matrix, row by row."""
    rows: list[list[float]] = []
    for i, line in enumerate(matrix):
        row: list[float] = []
        for j in range(i):
            row.append((line[j] - sum(map(mul, row, rows[j]))) / rows[j][j])
        # Rounding must not bring a pivot below what the prior alone guarantees to be more than nothing.
        row.append(math.sqrt(max(line[i] - sum(map(mul, row, row)), 1e-12)))
        rows.append(row)
    return rows


def _forward(rows: list[list[float]], right: Sequence[float]) -> list[float]:
    solved: list[float] = []
    for row, value in zip(rows, right, strict=True):
        solved.append((value - sum(map(mul, row, solved))) / row[-1])
    return solved


def _solve(rows: list[list[float]], right: Sequence[float]) -> list[float]:
    solved = _forward(rows, right)
    for i in range(len(rows) - 1, -1, -1):
        solved[i] /= rows[i][i]
        for j in range(i):
            solved[j] -= rows[i][j] * solved[i]
    return solved


def _standard_errors(rows: list[list[float]]) -> list[float]:
    """Those of each item's distance from the mean, from the factor of the information."""
    size = len(rows)
    share = 1 / size
    errors = []
    for i in range(size):
        contrast = [-share] * size
        contrast[i] += 1
        errors.append(math.sqrt(sum(each * each for each in _forward(rows, contrast))))
    return errors
