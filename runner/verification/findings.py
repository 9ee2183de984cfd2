"""What `runner verify` finds and mends, as values.

Owns the vocabulary, the verdict and its exit code. Amounts are micro-dollars; paths are relative to the output folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from runner.ledger import Recorded


@dataclass(frozen=True, slots=True)
class Began:
    """The files of a job are looked at next: so many on record, of so many bytes in all."""

    job: str
    assets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Looked:
    """One file was looked at."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something is not as it is on record.

    `kind` is `missing`, `changed`, `unreadable`, `undecodable`, `unknown`, `temporary`, `contradiction` or `ledger`.
    `path` is relative to the output folder, `task` is the image's name in the manifest's words, and `wanted` says
    whether the job still wants it.
    """

    kind: str
    detail: str
    job: str | None = None
    path: str | None = None
    task: str | None = None
    sha256: str | None = None
    wanted: bool | None = None


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of a missing image.

    `action` is `put_back`, `planned` (again), `recorded` (as gone: the job no longer wants it) or `failed` (its bytes
    are there, and could not be put back).
    """

    action: str
    detail: str
    job: str
    path: str
    task: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Question:
    """May these images be planned again? Amounts are micro-dollars.

    `at_catalog_prices` is False where the manifest cannot tell what would be asked now: then the amounts are what the
    images cost, and what was reserved for them, when they were made.
    """

    job: str
    images: int
    expected_microusd: int
    worst_microusd: int
    simulated: bool
    at_catalog_prices: bool


Event = Began | Looked | Problem | Repair
Listener = Callable[[Event], None]
Ask = Callable[[Question], bool]


@dataclass(slots=True)
class Verdict:
    """What was found and mended in all jobs that were looked at."""

    jobs: int = 0
    assets: int = 0
    good: int = 0
    bytes: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    declined: int = 0
    """Images that could have been planned again, and were not: nobody said yes."""

    @property
    def exit_code(self) -> int:
        """0 if all is there and right, 1 if the ledger is not, 4 if images are not; files nobody knows do no harm."""
        if self.problems["ledger"] or self.problems["contradiction"]:
            return 1
        bad = sum(self.problems[kind] for kind in ("missing", "changed", "unreadable", "undecodable"))
        return 4 if bad > self.repairs["put_back"] + self.repairs["recorded"] else 0


class Notes:
    """Counts what is found, and tells it."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.verdict = Verdict()

    def problem(self, problem: Problem) -> None:
        """Something is not as it is on record."""
        self.verdict.problems[problem.kind] += 1
        self.listener(problem)

    def repaired(self, item: Recorded, action: str, detail: str) -> None:
        """Something became of a missing image."""
        self.verdict.repairs[action] += 1
        self.listener(Repair(action, detail, item.job, item.file.path, item.name, item.file.sha256))
