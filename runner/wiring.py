"""What the engines of one run are made of: limits, prices, time-outs, the shared pace, and the engines themselves.

Owns the way from a request and its options to a pool or to a desk for batches. Refuses to know in which order they
work: `session` does.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from runner import limiter
from runner.catalog import Delivery
from runner.engine import events
from runner.engine.batch.common import Desk, Terms
from runner.engine.descriptors import descriptors
from runner.engine.events import Listener
from runner.engine.pool import Pool
from runner.engine.shared import Generator, Landing, Settings
from runner.engine.stop import Stop
from runner.engine.uploads import uploads_from
from runner.errors import RunnerError
from runner.invocation import Options, Request, calibrations, concurrency_for, embeds, now, quoter_for
from runner.ledger import Job, Ledger, Todo
from runner.provider import Client, Endpoint, Timeouts
from runner.rules.breaker import Breaker, default_limit
from runner.rules.budget import Budget
from runner.rules.concurrency import descriptors_for, places_for
from runner.rules.pacing import Pace, Pacer
from runner.rules.quoting import Quoter
from runner.rules.retry import Policy
from runner.store import Store
from runner.tasks import Status

if TYPE_CHECKING:
    from runner.cluster.joining import Cluster

NextTasks = Callable[[Job, int, int], list[Todo]]
"""The next planned tasks of a job, after a position, at most so many."""


@dataclass(frozen=True, slots=True)
class Making:
    """Who makes requests, where their images come in, and how many at a time there is room for."""

    client: Generator
    landing: Landing
    room: int


@dataclass(frozen=True, slots=True)
class Wiring:
    """What one run has, for whatever engine works in it."""

    request: Request
    options: Options
    ledger: Ledger
    store: Store
    job: Job
    run_id: int
    endpoint: Endpoint
    stop: Stop
    emit: Listener
    cluster: Cluster | None = None
    """Where requests are made, if it is not this process."""

    @property
    def images_per_minute(self) -> float | None:
        """What the provider allows, as far as that is known."""
        gate = self.request.gates.get("images")
        return None if gate is None else gate.per_minute

    @property
    def is_embedded(self) -> bool:
        """Whether the provider is a simulator that ends with this run."""
        return embeds(self.request.provider, self.options)

    def quoter(self, delivery: Delivery) -> Quoter:
        """The prices of one delivery."""
        return quoter_for(self.request, delivery, calibrations(self.request, self.ledger))

    def timeouts(self) -> Timeouts:
        """How long to wait for the provider."""
        waits = self.request.manifest.timeouts
        return Timeouts(waits.connect_s, waits.first_byte_s, waits.stall_s, waits.total_s)

    def policy(self) -> Policy:
        """How often to try again."""
        retry = self.request.manifest.retry
        return Policy(
            attempts=retry.attempts,
            billed_attempts=retry.billed_attempts,
            rate_limited_attempts=retry.rate_limited_attempts,
            base_s=retry.base_s,
            max_s=retry.max_s,
        )

    def places(self) -> tuple[int, int]:
        """Requests in flight, to begin with and at most, as far as this process may open files and connections."""
        start, most = concurrency_for(self.request.manifest, self.request.gates)
        if self.cluster is not None:
            return start, most  # connections are the nodes' affair
        room = places_for(descriptors(descriptors_for(most)))
        if room < start:
            self.emit(
                events.Warned(
                    f"{start} requests in flight need {descriptors_for(start)} open files, and this process may have "
                    f"fewer: {room} are in flight at most (ulimit -n raises that)"
                )
            )
        return min(start, room), min(most, room)

    @contextmanager
    def pace(self, emit: Listener) -> Iterator[Pace]:
        """This run's pace, together with every other run that uses the same key: on this machine, or of this ledger."""
        own = Pacer(dict(self.request.gates))
        folder = limiter.default_folder()
        if self.is_embedded:
            yield own  # a simulator that nobody else can reach
            return
        key = limiter.key_digest(self.endpoint.base_url, self.endpoint.api_key)
        if self.ledger.is_shared:
            with closing(limiter.LedgerPacer(own, self.ledger.gates(key, f"run {self.run_id}"))) as pacer:
                yield pacer
            return
        shared: limiter.SharedPacer | None = None
        if folder is not None:
            shared = limiter.SharedPacer(own, limiter.key_file(folder, key), run=f"{os.getpid()}-{self.run_id}")
        try:
            if shared is None or not shared.is_shared:
                emit(events.Warned(f"the pace of this key cannot be shared with other runs: {folder} cannot be used"))
            yield shared or own
        finally:
            if shared is not None:
                shared.close()

    def online_todo(self, *, collect_only: bool) -> NextTasks | None:
        """What is asked for online: all that is planned, what batches did not deliver, or nothing."""
        if self.request.delivery == "online":
            return None if collect_only else self.ledger.todo
        if self.request.online_models is None or not self.ledger.batches.count_fallen(self.job):
            return None
        return partial(self.ledger.batches.todo, fallen=True)

    @asynccontextmanager
    async def making(self, client: Client, most: int, end: Callable[[RunnerError, str], None]) -> AsyncIterator[Making]:
        """What requests are made with for the block: this process's client and store, or the nodes of a cluster.

        Raises:
            InputError: a node of the cluster cannot be used; nothing was sent.
            StoreError: the store cannot be written.
        """
        if self.cluster is None:
            yield Making(client, self.store, most)
            return
        from runner.cluster.sending import sending

        async with sending(
            self.cluster,
            self.store,
            self.endpoint,
            self.timeouts(),
            most=most,
            warn=lambda message: self.emit(events.Warned(message)),
            end=end,
        ) as them:
            yield Making(them.client, them.landing, them.client.room)

    def pool(
        self,
        making: Making,
        pacer: Pace,
        budget: Budget,
        concurrency: int,
        most: int,
        todo: NextTasks,
        *,
        begun: int,
    ) -> Pool:
        """The online engine, for the tasks that `todo` gives; `begun` others were put into batches before."""
        limit = None if self.options.limit is None else max(0, self.options.limit - begun)
        if self.request.delivery == "batch":
            to_do = self.ledger.batches.count_fallen(self.job)
        else:
            to_do = self.ledger.statuses(self.job)[Status.PLANNED]
        to_do = to_do if limit is None else min(to_do, limit)
        models = self.request.online_models or self.request.models
        return Pool(
            ledger=self.ledger,
            store=self.store,
            job=self.job,
            run_id=self.run_id,
            client=making.client,
            landing=making.landing,
            quoter=self.quoter("online"),
            price_version=self.request.catalog.version,
            pacer=pacer,
            budget=budget,
            breaker=Breaker(
                self.options.max_failures or default_limit(concurrency), to_do, self.request.manifest.retry.base_s
            ),
            settings=Settings(
                concurrency=min(concurrency, making.room),
                policy=self.policy(),
                simulated=self.request.simulated,
                fallback_model=models.fallback,
                limit=limit,
                hold_doubt=self.options.hold_doubt,
                most_concurrency=min(most, making.room),
                counts_inputs=self.request.catalog.counts_input_images(self.request.provider.name),
            ),
            stop=self.stop,
            emit=self.emit,
            now=now,
            jitter=random.random,
            inputs=uploads_from(self.request.path.parent),
            folder=self.options.output_folder,
            todo=todo,
        )

    def desk(self, client: Client, budget: Budget, *, submit: bool) -> Desk:
        """The desk of the batch engine; without `submit` it only collects."""
        manifest, models = self.request.manifest, self.request.models
        is_batch = self.request.delivery == "batch"
        return Desk(
            ledger=self.ledger,
            writer=self.ledger.writer(),
            store=self.store,
            job=self.job,
            run_id=self.run_id,
            api=client.batches,
            quoter=self.quoter("batch"),
            price_version=self.request.catalog.version,
            budget=budget,
            terms=Terms(
                provider=self.request.provider.name,
                base_url=None if self.is_embedded else self.endpoint.base_url,
                simulated=self.request.simulated,
                policy=self.policy(),
                max_requests=manifest.batch.max_requests,
                submit=submit and is_batch,
                # An embedded simulator ends with this run, and with it whatever it was asked for.
                wait=is_batch and submit and (self.options.wait or self.is_embedded),
                fall_back=is_batch and manifest.batch.fall_back == "online",
                after_s=manifest.batch.after if is_batch else None,
                limit=self.options.limit,
                hold_doubt=self.options.hold_doubt,
                fallback_model=models.fallback,
            ),
            stop=self.stop,
            emit=self.emit,
            now=now,
            jitter=random.random,
            inputs=uploads_from(self.request.path.parent),
        )
