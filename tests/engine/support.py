"""A pool on a workbench: a real ledger and a real store in a folder, a scripted provider, and a clock that jumps.

The provider is scripted by prompt: each request takes the next step of its prompt's list, and what is not scripted is
a good image after a second.
"""

from __future__ import annotations

import datetime as dt
import io
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import anyio
from PIL import Image

from runner import catalog
from runner.engine import events, recovery
from runner.engine.pool import Pool
from runner.engine.shared import Inputs, Settings, no_inputs
from runner.engine.stop import Stop
from runner.errors import Usage
from runner.ledger import Job, Ledger, RunStart
from runner.provider import Made, Upload
from runner.provider.decode import Envelope, Sink
from runner.rules.breaker import Breaker, FailureLimit
from runner.rules.budget import Budget, Reservation
from runner.rules.pacing import Heard, Pacer
from runner.rules.quoting import Quoter
from runner.rules.retry import Policy
from runner.store.folder import FolderStore
from runner.tasks import Edit, ImageRequest, Input, Origin, Source, Task, task_key

MODEL, FALLBACK = "gpt-image-1-mini", "gpt-image-2.6-flare"
START = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
USAGE = Usage(10, 272, 282, 10, 0)
COST = 10 * 2 + 272 * 8
"""What an answer with `USAGE` costs on `MODEL`, in micro-dollars."""
RESERVED = 5000 + 2 * (1 + 6)
"""What is reserved for a prompt of one letter on `MODEL`, in micro-dollars."""


@cache
def picture(width: int = 1024, height: int = 1024, kind: str = "PNG") -> bytes:
    """A real image file of this size, as small as it can be."""
    file = io.BytesIO()
    Image.new("1" if kind == "PNG" else "L", (width, height)).save(file, kind)
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class Step:
    """What one request meets: `data` goes to the sink, then time passes, then `error` is raised, if there is one."""

    error: Exception | None = None
    latency_s: float = 1.0
    data: bytes = field(default_factory=picture)
    usage: Usage | None = USAGE
    headers: Mapping[str, Heard] = field(default_factory=dict)


def failing(error: Exception, latency_s: float = 1.0) -> Step:
    """A step that brings no byte of an image."""
    return Step(error, latency_s, data=b"")


@dataclass(frozen=True, slots=True)
class Call:
    """One request that the provider saw. `at_s` is on the event loop's clock, from the first moment of the run."""

    prompt: str
    model: str
    at_s: float


class ScriptedProvider:
    """Implements the pool's `Generator` without a network, and remembers what was asked of it."""

    def __init__(self) -> None:
        self.steps: dict[str, list[Step]] = {}
        self.otherwise = Step()
        self.judge: Callable[[Call], Step | None] = lambda call: None
        self.calls: list[Call] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.began_s: float | None = None

    @property
    def prompts(self) -> list[str]:
        """The prompts in the order in which they were asked."""
        return [call.prompt for call in self.calls]

    @property
    def times(self) -> list[float]:
        """When each request came, in seconds from the run's first moment."""
        return [round(call.at_s, 6) for call in self.calls]

    async def generate(
        self,
        request: ImageRequest,
        *,
        model: str,
        sink: Sink,
        on_headers: Callable[[Mapping[str, Heard]], None],
        uploads: Sequence[Upload] = (),
    ) -> Made:
        """See `runner.engine.shared.Generator`."""
        call = Call(request.prompt, model, anyio.current_time() - (self.began_s or 0.0))
        self.calls.append(call)
        scripted = self.steps.get(request.prompt, [])
        step = self.judge(call) or (scripted.pop(0) if scripted else self.otherwise)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            half = len(step.data) // 2
            sink.write(step.data[:half])
            await anyio.sleep(step.latency_s)
            on_headers(step.headers)
            if step.error is not None:
                raise step.error
            sink.write(step.data[half:])
        finally:
            self.in_flight -= 1
        number = len(self.calls)
        usage_json = None if step.usage is None else f'{{"output_tokens":{step.usage.output_tokens}}}'
        return Made(Envelope(usage=step.usage, usage_json=usage_json), 200, f"req-{number}")


class WatchedBudget(Budget):
    """A budget that remembers the most that ever counted against its cap."""

    peak_microusd = 0

    def reserve(self, worst_microusd: int, now: dt.datetime) -> Reservation | None:
        reservation = super().reserve(worst_microusd, now)
        self._look()
        return reservation

    def settle(self, reservation: Reservation, cost_microusd: int) -> None:
        super().settle(reservation, cost_microusd)
        self._look()

    def doubt(self, reservation: Reservation) -> None:
        super().doubt(reservation)
        self._look()

    def _look(self) -> None:
        self.peak_microusd = max(self.peak_microusd, self.committed_microusd)


def task(prompt: str, *, name: str | None = None, sample: int = 1, images: int = 0) -> Task:
    """One wanted image: 1024x1024, low; with `images`, it starts from so many."""
    inputs = tuple(Input(f"{number:064x}", 64, 64) for number in range(images))
    request = ImageRequest(prompt, MODEL, "1024x1024", "low", edit=Edit(inputs) if inputs else None)
    key = task_key(request, sample=sample, edition=None, simulated=False)
    sources = tuple(Source(one.identity, "{}") for one in inputs)
    return Task(key, prompt, sample, request, (), name or f"{prompt}.png", Origin("job.yaml"), sources)


class Bench:
    """One job with everything that a pool needs. `run` may be called again: it goes on where the last run stopped."""

    def __init__(self, folder: Path, prompts: Sequence[str]) -> None:
        self.output = folder / "output"
        self.ledger = Ledger.open(self.output / "ledger.sqlite3", create=True)
        self.store = FolderStore(self.output, "job")
        self.store.prepare()
        self.provider = ScriptedProvider()
        self.budget = WatchedBudget(None)
        self.pacer = Pacer({})
        self.policy = Policy()
        self.failures = FailureLimit()
        self.jitter = 0.5
        self.inputs: Inputs = no_inputs
        self.stop = Stop()
        self.events: list[events.Event] = []
        self.listener: Callable[[events.Event], None] = lambda event: None
        self.elapsed_s = 0.0
        self.job = self.want([task(prompt) for prompt in prompts])

    def want(self, tasks: Sequence[Task]) -> Job:
        """Make these tasks what the job wants."""
        job = self.ledger.make_job("job", manifest_path=None, now_ms=0)
        self.job = self.ledger.enrol(job, tasks, digest=f"revision {job.revision + 1}")
        return self.job

    async def run(self, **settings: Any) -> Pool:
        """Run a pool to its end; the bench's parts are the pool's."""
        start = RunStart("openai", None, False, "host", 1, "0", "{}", "prices")
        chosen = {"concurrency": 4, "simulated": False, "policy": self.policy, **settings}
        quoter = Quoter(catalog.load(), "openai", {MODEL: MODEL})
        self.provider.began_s = anyio.current_time()
        pool = Pool(
            ledger=self.ledger,
            store=self.store,
            job=self.job,
            run_id=self.ledger.begin_run(self.job, start, now_ms=0),
            client=self.provider,
            quoter=quoter,
            price_version="prices",
            pacer=self.pacer,
            budget=self.budget,
            breaker=Breaker(self.failures, self.job.wanted, self.policy.base_s),
            settings=Settings(**chosen),
            stop=self.stop,
            emit=self._hear,
            now=lambda: START + dt.timedelta(seconds=anyio.current_time() - (self.provider.began_s or 0.0)),
            jitter=lambda: self.jitter,
            inputs=self.inputs,
        )
        await pool.run()
        self.elapsed_s = anyio.current_time() - self.provider.began_s
        assert self.provider.in_flight == 0
        return pool

    async def run_to_the_end(self, **settings: Any) -> None:
        """A run that nothing stops; afterwards budget and ledger agree to the micro-dollar."""
        pool = await self.run(**settings)
        assert pool.error is None
        self.check_accounts()

    def check_accounts(self) -> None:
        """What the budget believes is what the ledger has on record, nothing is reserved, and no partial is left."""
        spent = self.ledger.spending(self.job, simulated=False)
        assert self.budget.reserved_microusd == 0
        assert (self.budget.settled_microusd, self.budget.in_doubt_microusd) == (
            spent.settled_microusd,
            spent.in_doubt_microusd,
        )
        assert self.partials() == []

    def recover(self) -> None:
        """What a session does before it makes anything, after a stop that left something open."""
        recovery.recover(self.ledger, self.store, self.job, self._hear, now_ms=0)

    def go_on(self) -> None:
        """Be ready for another run."""
        self.stop = Stop()
        self.provider.calls.clear()

    def _hear(self, event: events.Event) -> None:
        self.events.append(event)
        self.listener(event)

    def heard(self, kind: type[events.Event]) -> list[Any]:
        """Every event of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What another connection sees in the ledger's file."""
        with closing(sqlite3.connect(str(self.ledger.place))) as connection:
            return connection.execute(query, values).fetchall()

    def statuses(self) -> dict[str, str]:
        """Every task's status by its prompt."""
        return dict(self.rows("SELECT prompt_id, status FROM tasks"))

    def attempts(self, columns: str) -> list[tuple[Any, ...]]:
        """Columns of every attempt, in the order in which they were begun."""
        return self.rows(f"SELECT {columns} FROM attempts ORDER BY id")

    def partials(self) -> list[str]:
        """The temporary files that are there."""
        return sorted(path.name for path in (self.output / "job" / ".partial").iterdir())

    def image(self, name: str) -> bytes:
        """The bytes of an asset."""
        return (self.output / "job" / "images" / name).read_bytes()


@contextmanager
def bench_at(folder: Path, prompts: Sequence[str]) -> Iterator[Bench]:
    """A bench for a `with` block."""
    bench = Bench(folder, prompts)
    try:
        yield bench
    finally:
        bench.ledger.close()


async def inline(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """Stands in for `anyio.to_thread.run_sync`: a clock that jumps when everyone waits must not outrun a thread."""
    await anyio.lowlevel.checkpoint()
    try:
        return function(*args)
    finally:
        await anyio.lowlevel.cancel_shielded_checkpoint()
