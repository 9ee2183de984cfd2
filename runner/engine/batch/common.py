"""What the parts of the batch engine have in common in one run: the desk at which they work.

Owns the shapes, and how a batch's requests count against the cap. Refuses to do anything with batches.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread

from runner.engine import events
from runner.engine.shared import Inputs
from runner.engine.stop import Stop
from runner.errors import RateLimited, Retryable, RunnerError
from runner.ledger import Batch, Job, Ledger, Member, Told, Writer
from runner.provider import BatchInfo, Line, OpenSink, Purpose, RemoteFile
from runner.rules import retry
from runner.rules.batching import Past
from runner.rules.budget import Budget, Reservation
from runner.rules.quoting import Quoter
from runner.store import Store

T = TypeVar("T")
HISTORY = 20
"""Batches that are looked back at, to see how many requests the queue takes."""


class Api(Protocol):
    """Who has the Batch API; `provider.batches.Batches` does, and says what each of these raises."""

    async def upload(
        self, path: Path, *, filename: str, purpose: Purpose, media_type: str, expires_after_s: int | None = None
    ) -> RemoteFile:
        """Send a file."""
        ...

    def files(self, purpose: Purpose) -> AsyncIterator[RemoteFile]:
        """The files of this purpose, newest first."""
        ...

    async def delete(self, file_id: str) -> bool:
        """Remove a file."""
        ...

    async def create(self, *, input_file_id: str, endpoint: str, metadata: Mapping[str, str]) -> BatchInfo:
        """Create a batch."""
        ...

    async def retrieve(self, batch_id: str) -> BatchInfo | None:
        """What is said of a batch."""
        ...

    def batches(self) -> AsyncIterator[BatchInfo]:
        """All batches, newest first."""
        ...

    async def cancel(self, batch_id: str) -> BatchInfo | None:
        """Ask for the end of a batch."""
        ...

    def lines(self, file_id: str, *, start_bytes: int, open_sink: OpenSink) -> AsyncGenerator[Line, None]:
        """The lines of a file of results."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """How batches are made in one run. `base_url` is None at a simulator that ends with the run.

    `submit` False only collects. `wait` stays until every batch is over. With `fall_back` what came back without its
    image is not put into another batch: it is left for the pool. `after_s` is the age at which a batch is given up.
    `limit` is the most tasks that are begun; `hold_doubt` leaves lost ones alone.
    """

    provider: str
    base_url: str | None
    simulated: bool
    policy: retry.Policy
    max_requests: int
    submit: bool
    wait: bool
    fall_back: bool = False
    after_s: float | None = None
    limit: int | None = None
    hold_doubt: bool = False
    fallback_model: str | None = None


@dataclass(slots=True)
class Desk:
    """What all parts have in common in one run."""

    ledger: Ledger
    writer: Writer
    store: Store
    job: Job
    run_id: int
    api: Api
    quoter: Quoter
    price_version: str
    budget: Budget
    terms: Terms
    stop: Stop
    emit: events.Listener
    now: Callable[[], dt.datetime]
    jitter: Callable[[], float]
    inputs: Inputs
    error: RunnerError | None = None
    """What ended the run before its end, if anything did."""
    _changed: anyio.Event = field(default_factory=anyio.Event)
    _scope: anyio.CancelScope | None = None

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self.now().timestamp() * 1000)

    def age_s(self, batch: Batch) -> float:
        """How long ago a batch was submitted, or begun."""
        return max(0.0, (self.now_ms() - (batch.submitted_ms or batch.created_ms)) / 1000)

    def end(self, error: RunnerError, reason: str) -> None:
        """Stop the run for a reason of its own, not a person's; the first one counts."""
        if self.error is None:
            self.error = error
        self.stop.ask(reason)

    def stopped(self) -> bool:
        """Whether anybody has asked for the end of the run."""
        return self.stop.asked

    def listen(self) -> None:
        """From now on a stop ends every `pause`."""
        self.stop.listen(self._wake)

    def given_up_with(self, scope: anyio.CancelScope) -> None:
        """What is cancelled when a person does not want to wait for anything: uploads, questions, downloads."""
        self._scope = scope

    def _wake(self) -> None:
        self._changed.set()
        if self.stop.immediate and self._scope is not None:
            self._scope.cancel()
        self.emit(events.Stopping(self.stop.reason, 0, self.stop.immediate))

    async def pause(self, seconds: float) -> None:
        """Wait, unless the run is stopped."""
        with anyio.move_on_after(seconds):
            while not self.stop.asked:
                await self._changed.wait()

    async def persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask, and ask again as long as the provider only says "later": for what costs nothing.

        Raises:
            ProviderError: it still says so after as many attempts as the policy allows, or it says something else.
        """
        tally = retry.Tally()
        while True:
            try:
                return await ask()
            except Retryable as error:
                tally = tally.plus(error)
                decision = retry.decide(error, tally, self.terms.policy, self.jitter())
                if not isinstance(decision, retry.TryAgain) or self.stop.asked:
                    raise
                if isinstance(error, RateLimited):
                    self.emit(events.Held(decision.delay_s, error.message))
                await self.pause(decision.delay_s)

    # -- how requests in batches count against the cap ------------------------------------------

    def settle(self, member: Member, cost_microusd: int) -> None:
        """The answer of a request has come, and this is what it cost."""
        if self._counts(member.run_id, member.begun_ms):
            self.budget.settle(self._reservation(member.reserved_microusd), cost_microusd)

    def doubt(self, member: Member) -> None:
        """A request is in doubt."""
        if self._counts(member.run_id, member.begun_ms):
            self.budget.doubt(self._reservation(member.reserved_microusd))

    def release(self, batch: Batch, reserved_microusd: int) -> None:
        """Nothing of a batch was run."""
        if self._counts(batch.run_id, batch.created_ms):
            self.budget.settle(Reservation(reserved_microusd, 0, self.budget.period), 0)

    def _counts(self, run_id: int, begun_ms: int) -> bool:
        """Whether what was reserved at that time is reserved in the present period of the budget."""
        if self.budget.per == "run":
            return run_id == self.run_id
        return self.budget.period is None or begun_ms >= self.budget.period.timestamp() * 1000

    def _reservation(self, amount_microusd: int) -> Reservation:
        return Reservation(amount_microusd, amount_microusd, self.budget.period)


async def in_thread(work: Callable[..., T], *arguments: object) -> T:
    """What blocks, elsewhere."""
    return await anyio.to_thread.run_sync(work, *arguments)


async def history(desk: Desk) -> list[Past]:
    """The newest batches of the job that have come to the provider, oldest first."""
    batches = await in_thread(lambda: desk.ledger.batches.all(desk.job, limit=HISTORY))
    return [
        Past(batch.requests, batch.error_code, batch.created_ms, batch.collected_ms)
        for batch in batches
        if batch.requests
    ]


def told_of(info: BatchInfo) -> Told:
    """What the provider says of a batch, for the ledger."""
    return Told(
        status=info.status,
        output_file_id=info.output_file_id,
        error_file_id=info.error_file_id,
        total=info.total,
        completed=info.completed,
        failed=info.failed,
        expires_ms=None if info.expires_at is None else info.expires_at * 1000,
        ended_ms=None if info.ended_at is None else info.ended_at * 1000,
    )


def custom_id(attempt_id: int, key: str) -> str:
    """What a request of a batch is called there: by its attempt, and proved by its task."""
    return f"{attempt_id:012d}-{key[:16]}"


def attempt_of(name: str | None) -> int | None:
    """The attempt that a request was called by; None for a name that is none of ours."""
    number, dash, proof = (name or "").partition("-")
    if not (dash and len(proof) == 16 and number.isascii() and number.isdigit() and len(number) < 19):
        return None
    return int(number)
