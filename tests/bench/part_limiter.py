"""How much of an enforced limit is used, and how many 429s are drawn: the runner, which knows the limit, and a script.

Owns the cases and what "used" means: images let through from one window (at least 5 s) after the first one until the
last task was begun, as a share of what the limit allows in that time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.bench.latency import Latency
from tests.bench.report import NO_BAR, Bar, Section
from tests.bench.server import INPUT_TOKENS, OUTPUT_TOKENS, Settings
from tests.bench.sides import Homes, Order, Outcome, make

USED = Bar(98, 99.5, " %", at_most=False)
DRAWN = Bar(1, 0, " %")
LEAST_WARMUP_S = 5.0
_IMAGE_BYTES = 31_000
"""Small: here time is what counts."""
_SCRIPTS_IN_FLIGHT = 64


@dataclass(frozen=True, slots=True)
class Case:
    """A server that enforces a limit, and an order that takes it `seconds` at full use."""

    name: str
    per_minute: float
    """Images."""
    window_s: float
    seconds: float = 35.0
    window: str = "sliding"
    by_tokens: bool = False
    """Whether the limit is one of tokens, as many as that many images take."""
    latency_divisor: float = 50
    """The real latency of an image, divided by this."""
    advice: str = "none"
    sides: tuple[str, ...] = ("runner",)

    @property
    def tokens(self) -> float:
        """Per minute."""
        return self.per_minute * (INPUT_TOKENS + OUTPUT_TOKENS)

    @property
    def settings(self) -> Settings:
        """The server."""
        latency = Latency.scaled(1 / self.latency_divisor)
        return Settings(
            image_bytes=_IMAGE_BYTES,
            p50_s=latency.p50_s,
            p95_s=latency.p95_s,
            images_per_minute=None if self.by_tokens else self.per_minute,
            tokens_per_minute=self.tokens if self.by_tokens else None,
            window_s=self.window_s,
            window=self.window,
            advice=self.advice,
        )

    @property
    def order(self) -> Order:
        """What the runner is asked for; its manifest knows the limit, and its concurrency is its own affair."""
        known: dict[str, Any] = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}
        if self.by_tokens:
            known |= {"images_per_minute": 10**6, "tokens_per_minute": self.tokens}
        else:
            known["images_per_minute"] = self.per_minute
        return Order(round(self.per_minute / 60 * self.seconds), None, known)


CASES = (
    Case("600/min as 10 in any 1 s", 600, 1, sides=("runner", "plain")),
    Case("600/min as 10 in any 1 s, slow images", 600, 1, seconds=40, latency_divisor=10),
    Case("600/min as a bucket of 10, retry-after", 600, 1, window="bucket", advice="retry-after"),
    Case("600/min as 50 in each 5 s, all headers", 600, 5, window="fixed", advice="all"),
    # Not 5 s, as one would write it: 20.8 images in 5 s are 20, and so another limit than the manifest knows of.
    Case("250/min as 25 in any 6 s", 250, 6, seconds=42),
    Case("3000/min as 50 in any 1 s", 3000, 1, seconds=25, sides=("runner", "plain")),
    Case("600/min as 600 in any 60 s", 600, 60, seconds=95),
    Case("126,000 tokens/min in any 1 s", 600, 1, by_tokens=True),
)


@dataclass(frozen=True, slots=True)
class Use:
    """What a side made of a limit."""

    used_percent: float | None
    """None when nothing was left to send after the first window."""
    drawn_percent: float
    """429s for each 100 images that were let through."""
    lost: int
    """Images that were wanted and are not there."""
    repeated: int
    """Images that were made for a prompt that had one already."""
    most_in_flight: int


def used(stats: Mapping[str, Any], *, per_minute: float, window_s: float) -> float | None:
    """The percentage of a limit that was used, from what the server saw."""
    accepted: list[float] = stats["accepted"]
    begin = accepted[0] + max(window_s, LEAST_WARMUP_S)
    end: float = stats["last_begun"]
    if end - begin < 1.0:
        return None
    # The time ends with an image and begins between two: on average half an interval more than is in it.
    return 100 * (sum(begin < at <= end for at in accepted) - 0.5) / (per_minute / 60 * (end - begin))


def judge(outcome: Outcome, order: Order, *, per_minute: float, window_s: float) -> Use:
    """What a side made of a limit."""
    stats = outcome.stats
    return Use(
        used(stats, per_minute=per_minute, window_s=window_s),
        100 * len(stats["refused"]) / max(1, len(stats["accepted"])),
        order.images - outcome.images,
        stats["made_twice"],
        stats["max_in_flight"],
    )


def measure(homes: Homes, rounds: int, tell: Callable[[str], None]) -> Section:
    """Every case, every side in turn, `rounds` times: medians, and the worst of what must not be."""
    columns = ("a server that enforces", "who", "used", "bar", "beyond", "", "429s", "bar", "beyond", "")
    more = ("lost", "made twice", "most in flight")
    section = Section("limiter", "Using a limit", (*columns, *more))
    found: dict[tuple[Case, str], list[Use]] = {(case, side): [] for case in CASES for side in case.sides}
    for number in range(1, rounds + 1):
        for (case, side), uses in found.items():
            use = judge(
                make(side, homes, case.settings, _order(case, side)),
                case.order,
                per_minute=case.per_minute,
                window_s=case.window_s,
            )
            uses.append(use)
            tell(
                f"round {number}, {case.name}: {side} used {use.used_percent or 0:.1f} % "
                f"with {use.drawn_percent:.1f} % 429s, {use.lost} lost"
            )
    section.rows.extend(_row(case, side, uses) for (case, side), uses in found.items())
    return section


def _order(case: Case, side: str) -> Order:
    return case.order if side == "runner" else Order(case.order.images, _SCRIPTS_IN_FLIGHT)


def _row(case: Case, side: str, uses: Sequence[Use]) -> list[str]:
    shares = [use.used_percent for use in uses if use.used_percent is not None]
    used_percent = median(shares) if shares else None
    drawn_percent = median(use.drawn_percent for use in uses)
    ours = side == "runner"
    return [
        case.name,
        side,
        "" if used_percent is None else f"{used_percent:.1f} %",
        *(USED.cells(used_percent) if ours and used_percent is not None else NO_BAR),
        f"{drawn_percent:.1f} %",
        *(DRAWN.cells(drawn_percent) if ours else NO_BAR),
        f"{max(use.lost for use in uses)} of {case.order.images}",
        str(max(use.repeated for use in uses)),
        str(max(use.most_in_flight for use in uses)),
    ]
