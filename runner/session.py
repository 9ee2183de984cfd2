"""One run, from the lock to the summary: enrol, recover, reuse, make, sum up.

Owns the order of a run; the floors below do the work. Refuses to render: it emits events.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from runner import __version__, closing, rendering
from runner import manifest as manifests
from runner.cluster import cluster_for
from runner.engine import events, recovery
from runner.engine.events import Event, Listener, Summary
from runner.engine.pool import Pool
from runner.engine.stop import Stop
from runner.engine.tally import Tally
from runner.errors import InputError, RunnerError, TimeLimit
from runner.invocation import Options, Request, budget_for, check_tasks, now, now_ms
from runner.ledger import Job, Ledger, RunStart
from runner.provider import Client, Endpoint, connect
from runner.report.lines import line
from runner.report.summary import summarise
from runner.rules.budget import Budget
from runner.store import Store, store_at, url_of
from runner.tasks import Status
from runner.wiring import Wiring

if TYPE_CHECKING:
    from runner.cluster.joining import Cluster
    from runner.engine.batch.common import Desk
    from runner.engine.renditions import Renderer

_TIME_LIMIT = "time limit"
HURRIED = ("interrupted", _TIME_LIMIT)
"""Reasons to stop that do not wait for anything that can be had later."""
HEARTBEAT_S = 1.0


class Session:
    """One run, from the lock to the summary."""

    def __init__(
        self,
        request: Request,
        options: Options,
        ledger: Ledger,
        listener: Listener,
        stop: Stop,
        handle_signals: bool,
        *,
        collect_only: bool = False,
    ) -> None:
        """With `collect_only` nothing is enrolled and no batch submitted: what is over is brought home."""
        self.request = request
        self.options = options
        self.ledger = ledger
        self.listener = listener
        self.stop = stop
        self.handle_signals = handle_signals
        self.warnings: list[str] = []
        self.collect_only = collect_only
        self.renderer: Renderer | None = None
        self._engine: Pool | Desk | None = None
        self._cluster: Cluster | None = None
        self._problem: RunnerError | None = None
        """What kept the engine from beginning."""

    async def run(self, endpoint: Endpoint) -> Summary:
        """The whole run; what ends it once it has begun is in the summary.

        Raises:
            RunnerError: it could not begin; nothing was sent.
        """
        started = time.monotonic()
        store = await anyio.to_thread.run_sync(self._store)
        # The ledger's lock is not enough: another ledger can be used with the same folder.
        with store.lock(now=now()):
            async with cluster_for(self.options.engine, self.options.ray_address) as self._cluster:
                return await self._run(store, endpoint, started)

    def _store(self) -> Store:
        """Where the job's files go, ready for them.

        Raises:
            InputError: they lie elsewhere.
            StoreError: nothing can be written there.
        """
        manifest = self.request.manifest
        known = self.ledger.job(manifest.name)
        output = self.options.output_for(known, manifest)
        store = store_at(output, manifest.name)
        store.prepare()
        if known is not None:
            self._same_place(known, store)
        return store

    def _same_place(self, known: Job, store: Store) -> None:
        """See that the files of a job that are on record lie where this run looks for them, as one of them tells."""
        url = url_of(store.output)
        if known.output == url:
            return
        one = next(self.ledger.assets(known), None)
        if one is not None and not store.has(one.file.path, one.file.bytes):
            before = known.output or "a folder"
            raise InputError(
                f"the images of {known.name!r} lie in {before}, and this run would put others in {store.output}",
                hint=f"go on there: --output {known.output or 'FOLDER'}; or copy all of its files first",
            )

    async def _run(self, store: Store, endpoint: Endpoint, started: float) -> Summary:
        manifest, ledger = self.request.manifest, self.ledger
        job = await anyio.to_thread.run_sync(self._enrol, store)
        start = RunStart(
            provider=endpoint.provider,
            base_url=endpoint.base_url,
            simulated=self.request.simulated,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            manifest=manifests.resolved(manifest),
            price_version=self.request.catalog.version,
        )
        run_id = ledger.begin_run(job, start, now_ms=now_ms())
        with store.log(run_id) as log:

            def emit(event: Event) -> None:
                if not isinstance(event, events.Heartbeat):
                    log.write(line(event, now=now()))
                self.listener(event)

            wiring = Wiring(
                self.request, self.options, ledger, store, job, run_id, endpoint, self.stop, emit, self._cluster
            )
            error: RunnerError | None
            try:
                error = await self._make(wiring, started)
            except RunnerError as failure:
                error = failure
            if log.problem is not None:
                self.listener(events.Warned(f"the log of this run is not complete: {log.problem}"))
            summary = self._summary(job, run_id, store, error, time.monotonic() - started)
            with suppress(RunnerError):
                ledger.end_run(run_id, exit_code=summary.exit_code, reason=summary.reason, now_ms=now_ms())
            # Batches are collected every few hours: that none was over is no news.
            is_news = not self.collect_only or summary.made > 0 or summary.exit_code != 0
            await closing.close(wiring, summary, is_news=is_news, handle_signals=self.handle_signals)
            emit(summary)
        return summary

    def _enrol(self, store: Store) -> Job:
        """Check every task and put it on record, unless this very manifest was enrolled before.

        Raises:
            InputError: the manifest is not valid, or the job has run before and the ledger knows nothing of it.
        """
        manifest, ledger = self.request.manifest, self.ledger
        if self.collect_only:
            found = ledger.job(manifest.name)
            if found is None:
                raise InputError(f"the ledger {ledger.place} knows no job {manifest.name!r}")
            return found
        digest = manifest.digest(simulated=self.request.simulated)
        known = ledger.job(manifest.name)
        if known is None and store.has_run_logs():
            there = store.located(manifest.name)
            raise InputError(
                f"the job {manifest.name!r} has been run in {there}, and the ledger {ledger.place} knows nothing "
                "of it: to go on would pay for its images a second time",
                hint="bring its ledger back or name it with --ledger; to begin anew, move that folder away, "
                "or choose another --output or another `name`",
            )
        if known is None or known.digest != digest:
            check_tasks(self.request, ledger)
        self._same_manifest(known)
        job = ledger.make_job(manifest.name, manifest_path=str(self.request.path.resolve()), now_ms=now_ms())
        if job.digest != digest:
            job = ledger.enrol(job, manifests.expand(manifest, simulated=self.request.simulated), digest=digest)
        self._link(job)
        url = url_of(store.output)
        return job if job.output == url else ledger.move_job(job, url)

    def _link(self, job: Job) -> None:
        """Put beside what is made again what it is made from."""
        promotion = self.request.manifest.promotion
        if promotion is not None and promotion.origins:
            keys = {key for keys in promotion.origins.values() for key in keys}
            found = self.ledger.link_origins(job, promotion.origins, of_job=promotion.job, now_ms=now_ms())
            if found < len(keys):
                self.warnings.append(
                    f"{len(keys) - found} of the images that this job is made from are not on record in {promotion.job}"
                )

    def _same_manifest(self, known: Job | None) -> None:
        """A copied manifest that kept its name takes over the job of the first: nothing is lost, but it is said."""
        before = known.manifest_path if known is not None else None
        if (
            known is not None
            and before is not None
            and before != str(self.request.path.resolve())
            and Path(before).is_file()
        ):
            self.warnings.append(
                f"the job {known.name!r} was last run from {before}: give each manifest its own `name`"
            )

    async def _make(self, wiring: Wiring, started: float) -> RunnerError | None:
        """Recover, reuse, collect, and make what is left; what ended the run early, if anything did."""
        ledger, store, job, emit = self.ledger, wiring.store, wiring.job, wiring.emit
        for warning in (*self.request.models.warnings, *self.warnings):
            emit(events.Warned(warning))

        def prepare() -> None:
            recovery.recover(ledger, store, job, emit, now_ms=now_ms())
            if not (self.options.hold_doubt or self.collect_only):
                ledger.retry(job, Status.IN_DOUBT, None)
            recovery.reuse(ledger, store, job, emit, now_ms=now_ms(), folder=self.options.output_folder)
            recovery.tidy(ledger, store, job, emit)

        await anyio.to_thread.run_sync(prepare)
        budget = budget_for(self.request, self.options, ledger, job)
        statuses = ledger.statuses(job)
        to_do = min(statuses[Status.PLANNED], self.options.limit or job.wanted)
        is_batch = self.request.delivery == "batch"
        concurrency, most = wiring.places()
        emit(
            events.RunBegan(
                job=job.name,
                run_id=wiring.run_id,
                provider=wiring.endpoint.provider,
                simulated=self.request.simulated,
                wanted=job.wanted,
                done=statuses[Status.DONE],
                to_do=0 if self.collect_only else to_do,
                images_per_minute=None if is_batch else wiring.images_per_minute,
                concurrency=concurrency,
                cap_microusd=budget.cap_microusd,
                committed_microusd=budget.committed_microusd,
                delivery=self.request.delivery,
                submitted=statuses[Status.SUBMITTED],
            )
        )
        renderer = self.renderer = rendering.renderer_for(
            self.request.manifest, self.request.path, ledger, store, job, emit, self._cluster
        )
        batches = is_batch or bool(ledger.batches.open(job))
        if not ledger.batches.open(job) and (statuses[Status.PLANNED] == 0 or (self.collect_only and not is_batch)):
            if renderer is not None:
                await self._watch(None, renderer, started, emit)
            return None

        def heard(event: Event) -> None:
            emit(event)
            if renderer is not None and isinstance(event, events.Saved | events.Reused):
                renderer.saved()

        wiring = replace(wiring, emit=heard)
        with wiring.pace(emit) as pacer:
            async with connect(wiring.endpoint, wiring.timeouts(), connections=most) as client:

                async def work() -> None:
                    """Batches first: what they bring home need not be made."""
                    begun = 0
                    if batches:
                        begun = await self._with_batches(wiring, client, budget)
                    todo = wiring.online_todo(collect_only=self.collect_only)
                    if todo is not None and not self.stop.asked:
                        try:
                            async with wiring.making(client, most, self.end) as making:
                                self._engine = wiring.pool(making, pacer, budget, concurrency, most, todo, begun=begun)
                                await self._engine.run()
                        except RunnerError as error:
                            # Before the groups around it wrap it.
                            self._problem = error

                await self._watch(work, renderer, started, emit)
        return self._problem or (self._engine.error if self._engine is not None else None)

    async def _with_batches(self, wiring: Wiring, client: Client, budget: Budget) -> int:
        """Deal with batches; how many tasks were put into new ones."""
        from runner.engine.batch.courier import Courier

        self._engine = desk = wiring.desk(client, budget, submit=not self.collect_only)
        courier = Courier(desk)
        await courier.run()
        return courier.begun

    def end(self, error: RunnerError, reason: str) -> None:
        """Stop the run for a reason of its own; what is in flight is finished."""
        if self._engine is not None:
            self._engine.end(error, reason)

    async def _watch(
        self,
        work: Callable[[], Awaitable[None]] | None,
        renderer: Renderer | None,
        started: float,
        emit: Listener,
    ) -> None:
        """Do the work, and what is made of its images, to the end, with an ear for signals and an eye on the clock."""
        async with anyio.create_task_group() as group:
            if self.handle_signals:
                group.start_soon(self._listen)
            group.start_soon(_beat, emit)
            if work is not None and self.options.max_duration_s is not None:
                group.start_soon(_limit, self, started, self.options.max_duration_s)
            finished = anyio.Event()
            if renderer is not None:
                group.start_soon(rendering.make_all, renderer, finished, emit)
            if work is not None:
                await work()
            if renderer is not None:
                renderer.end()
                # Whoever is in a hurry does not wait for what the next run makes for nothing.
                self.stop.listen(finished.set)
                if not (self.stop.asked and self.stop.reason in HURRIED):
                    await finished.wait()
            group.cancel_scope.cancel()

    async def _listen(self) -> None:
        """The first signal ends the run gently, whatever has asked for its end before; the second at once."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            count = 0
            async for _ in signals:
                count += 1
                self.stop.ask("interrupted")
                if count > 1:
                    self.stop.now()

    def _summary(self, job: Job, run_id: int, store: Store, error: RunnerError | None, elapsed_s: float) -> Summary:
        return summarise(
            self.ledger,
            job,
            run_id,
            provider=self.request.provider.name,
            simulated=self.request.simulated,
            error=error,
            interrupted=self.stop.asked and error is None,
            limited=self.options.limit is not None,
            elapsed_s=elapsed_s,
            images=str(store.located(store.images)),
            composites=self.renderer.composites if self.renderer else Tally(),
            renditions=self.renderer.renditions if self.renderer else Tally(),
        )


async def _limit(session: Session, started: float, duration_s: float) -> None:
    """End the run gently when its time is over, counted from where it began."""
    await anyio.sleep(max(0.0, duration_s - (time.monotonic() - started)))
    session.end(
        TimeLimit(
            f"the {duration_s:g} s of --max-duration are over",
            hint="run it again to go on where it stopped",
        ),
        _TIME_LIMIT,
    )


async def _beat(emit: Listener) -> None:
    while True:
        await anyio.sleep(HEARTBEAT_S)
        emit(events.Heartbeat())
