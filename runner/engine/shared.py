"""What the pool and its attempts pass to each other, and what all attempts of one run have in common.

Owns the shapes. Refuses to do anything with them: `pool` chooses what is attempted, `attempt` makes it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from runner.engine import events
from runner.engine.stop import Stop
from runner.errors import InputError, RunnerError
from runner.ledger import Job, Ledger, Todo, Writer
from runner.provider import Made, Upload
from runner.provider.decode import Sink
from runner.rules import retry
from runner.rules.breaker import Breaker
from runner.rules.budget import Budget
from runner.rules.concurrency import Places
from runner.rules.pacing import Claimed, Heard, Pace, TokenMeter
from runner.rules.quoting import Quoter
from runner.store import Partial, Store
from runner.tasks import ImageRequest, Source

HOPELESS = frozenset({"failed", "provider"})
"""Reasons to stop for which another request would be in vain: the disk, the ledger, the key."""


class Generator(Protocol):
    """Who makes images; `provider.Client` does."""

    async def generate(
        self,
        request: ImageRequest,
        *,
        model: str,
        sink: Sink,
        on_headers: Callable[[Mapping[str, Heard]], None],
        uploads: Sequence[Upload] = (),
    ) -> Made:
        """One request for one image; see `provider.Client.generate`."""
        ...


class Landing(Protocol):
    """Where images come in and get their names; the store itself, unless others receive them."""

    @property
    def is_remote(self) -> bool:
        """Whether `place` goes over a network."""
        ...

    def partial(self, attempt_id: int) -> Partial:
        """Room for the image of an attempt; see `Store.partial`."""
        ...

    def place(self, attempt_id: int, path: str) -> None:
        """Give a sealed image its name; see `Store.place`.

        Raises:
            StoreError: it cannot be; the next run may find it.
            Lost: whoever received it is gone, and the image with it.
        """
        ...


PLACING = 32
"""Images that get their names over a network at a time; each waits in a thread."""
Inputs = Callable[[Sequence[Source]], Sequence[Upload]]
"""The files to send for these sources. Blocking. Raises InputError: one of them is gone, or shows something else."""


def no_inputs(sources: Sequence[Source]) -> Sequence[Upload]:
    """For a job in which nothing starts from an image."""
    raise InputError(f"nobody knows where {len(sources)} images are that go with a request")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a pool works. `limit` is the most tasks that are begun in this run; `hold_doubt` leaves lost ones alone.

    `concurrency` is the requests in flight to begin with; they may become `most_concurrency` where the provider's limit
    asks for more. None means that they stay what they are.
    """

    concurrency: int
    policy: retry.Policy
    simulated: bool
    fallback_model: str | None = None
    limit: int | None = None
    hold_doubt: bool = False
    most_concurrency: int | None = None
    counts_inputs: bool = False
    """Whether the provider counts the images of an edit against the images a minute."""


@dataclass(frozen=True, slots=True)
class Work:
    """A task on its way, with its bad attempts in this run."""

    todo: Todo
    tally: retry.Tally = field(default_factory=retry.Tally)
    is_elsewhere: bool = False
    """Another job had made its image, or was making it, when this was about to be begun."""
    alone: bool = False
    """What other jobs have made of it is of no use: its file is not there."""


@dataclass(frozen=True, slots=True)
class Turn:
    """When a request may leave (on the event loop's clock), what was booked for it, and the tokens it was quoted."""

    at: float
    costs: Mapping[str, float]
    quoted_tokens: int
    uploads: Sequence[Upload] = ()


@dataclass(slots=True)
class Shared:
    """What all attempts of one run have in common. `end` stops the run for a reason of its own."""

    ledger: Ledger
    writer: Writer
    store: Store
    landing: Landing
    job: Job
    run_id: int
    client: Generator
    quoter: Quoter
    price_version: str
    pacer: Pace
    budget: Budget
    breaker: Breaker
    settings: Settings
    stop: Stop
    emit: events.Listener
    now: Callable[[], dt.datetime]
    jitter: Callable[[], float]
    end: Callable[[RunnerError, str], None]
    places: Places
    inputs: Inputs
    meter: TokenMeter = field(default_factory=TokenMeter)
    scopes: set[anyio.CancelScope] = field(default_factory=set)
    waiting: set[anyio.CancelScope] = field(default_factory=set)
    placing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(PLACING))

    @property
    def nothing_leaves(self) -> bool:
        """Whether what is on record and has not left is given back; a gentle stop lets it go at its near instant."""
        return self.stop.immediate or (self.stop.asked and self.stop.reason in HOPELESS)

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self.now().timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Capped:
    """The task could not be begun: the ledger's cap could be passed."""

    work: Work


@dataclass(frozen=True, slots=True)
class Again:
    """The task may be tried again after `delay_s` seconds."""

    work: Work
    delay_s: float


async def claim(pace: Pace, at: float, costs: Mapping[str, float]) -> Claimed:
    """A place from `at` on, if there is one before long; see `Pace.claim`. Raises LedgerError where the gates are."""
    claimed = pace.claim(at, anyio.current_time() + pace.lead_s, costs)
    return claimed if isinstance(claimed, tuple) else await claimed


def kind_of(request: ImageRequest, model: str) -> tuple[str, str, str, bool]:
    """What requests have in common whose tokens are quoted about as well."""
    return model, request.size, request.quality, request.edit is not None
