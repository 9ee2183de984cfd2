"""Batches by themselves: collected, or cancelled, whatever has become of the manifest that they were submitted from.

Owns where each batch is asked for and by which manifest it is judged. Refuses to know how a batch is read: the engine
does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from runner import catalog as catalogs
from runner import invocation
from runner import manifest as manifests
from runner.engine import events
from runner.engine.batch.common import told_of
from runner.engine.events import Listener, Summary
from runner.engine.stop import Stop
from runner.errors import InputError, Locked, Refused, RunnerError, StoreError
from runner.invocation import Options, Request, now_ms
from runner.ledger import Answer, Batch, Job, Ledger
from runner.provider import FINAL, Batches, Endpoint, Timeouts, connect
from runner.session import HURRIED, Session

_FORGOTTEN = Answer(error_code="batch_forgotten", error_message="the provider does not know its batch; it was given up")
Place = tuple[str, str | None]
"""A provider, and the base URL at which it was asked; None for a simulator that has ended with its run."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What came of the wish to end one batch: `status` is the provider's word for it now, None where it is unknown."""

    batch: int
    batch_id: str | None
    requests: int
    status: str | None
    forgotten: bool = False


def collect(
    job: str | Path | None,
    options: Options,
    *,
    listener: Listener,
    on_wait: Callable[[float], None],
    stop: Stop,
    handle_signals: bool,
    simulator: Callable[[], AbstractContextManager[str]],
) -> list[Summary]:
    """See `runner.api.collect`. What keeps one of several jobs from it keeps no other; it is raised at the end."""
    summaries: list[Summary] = []
    trouble: list[RunnerError] = []
    with Ledger.open(options.ledger_place, create=False, on_wait=on_wait) as ledger:
        names = ledger.batches.jobs() if job is None else [invocation.find_job(job, ledger).name]
        for name in names:
            found = ledger.job(name)
            if found is None or stop.asked:
                continue
            try:
                with ledger.lock(name, now=invocation.now()):
                    for place in _places(ledger, found):
                        there = _there(options, place)
                        request = _request(ledger, found, there, listener)
                        own = _own(stop)
                        session = Session(request, there, ledger, listener, own, handle_signals, collect_only=True)
                        if invocation.embeds(request.provider, there):
                            with simulator() as base_url:
                                endpoint = Endpoint(request.provider.name, base_url, "simulator")
                                summaries.append(anyio.run(session.run, endpoint))
                        else:
                            endpoint = invocation.endpoint(request.provider, there)
                            summaries.append(anyio.run(session.run, endpoint))
                        if own.asked and own.reason in HURRIED:
                            stop.ask(own.reason)
            except (InputError, Locked, StoreError) as error:
                if len(names) > 1:
                    listener(events.Warned(f"{name} is not collected: {error.message}"))
                trouble.append(error)
    if trouble:
        raise trouble[0]
    return summaries


def _own(stop: Stop) -> Stop:
    """The way to end one of several runs: what a run ends itself for ends no other, what a person asks for ends all."""
    own = Stop()

    def pass_on() -> None:
        if stop.immediate:
            own.now()
        elif stop.asked:
            own.ask(stop.reason)

    stop.listen(pass_on)
    return own


def cancel(job: str | Path, options: Options, *, forget: bool) -> list[Cancelled]:
    """See `runner.api.cancel`. Without the job's lock: a run that waits for these batches hears of it by itself."""
    found: list[Cancelled] = []
    with Ledger.open(options.ledger_place, create=False) as ledger:
        known = invocation.find_job(job, ledger)
        for place in _places(ledger, known):
            there = _there(options, place)
            batches = [batch for batch in ledger.batches.open(known) if batch.base_url == place[1]]
            if place[1] is None:
                # Its simulator has ended with its run.
                unknown = [_unsure(batch) for batch in batches]
                found.extend(_forget(ledger, known, unknown) if forget else unknown)
                continue
            provider = catalogs.load(options.catalog).provider(there.provider or place[0])
            endpoint = invocation.endpoint(provider, there)
            found.extend(anyio.run(_cancel_all, ledger, known, batches, endpoint, forget))
    return found


def _places(ledger: Ledger, job: Job) -> list[Place]:
    """Where the batches of a job were submitted; the job's own provider where none is left, for what came back."""
    places = list(dict.fromkeys((batch.provider, batch.base_url) for batch in ledger.batches.open(job)))
    if places:
        return places
    return [(batch.provider, batch.base_url) for batch in ledger.batches.all(job, limit=1)]


def _there(options: Options, place: Place) -> Options:
    """The options by which a batch's own place is asked; what a person has named counts more."""
    provider, base_url = place
    return replace(
        options, provider=options.provider or provider, base_url=options.base_url or base_url, delivery="batch"
    )


def _request(ledger: Ledger, job: Job, options: Options, listener: Listener) -> Request:
    """The job's manifest as it is now; where that cannot be read any more, as it was when the batch was submitted."""
    catalog = catalogs.load(options.catalog)
    path = Path(job.manifest_path or f"{job.name}.yaml")
    why = f"{path} is not there"
    if path.is_file():
        try:
            manifest = manifests.load(path, overrides=options.overrides, catalog=catalog)
            if manifest.name == job.name:
                return invocation.judge(manifest, path, catalog, options, only_collect=True)
            why = f"{path} is of the job {manifest.name}"
        except InputError as error:
            why = str(error)
    last = ledger.last_run(job)
    if last is None:
        raise InputError(f"the job {job.name!r} has never had a run")
    listener(events.Warned(f"{job.name} is collected by the manifest of its last run: {why}"))
    text = str(last["manifest"])
    manifest = manifests.loads(text, source=f"{job.name}, as it was", base_dir=path.parent, catalog=catalog)
    return invocation.judge(manifest, path, catalog, options, only_collect=True)


async def _cancel_all(
    ledger: Ledger, job: Job, batches: list[Batch], endpoint: Endpoint, forget: bool
) -> list[Cancelled]:
    found = []
    async with connect(endpoint, Timeouts(), connections=1) as client:
        for batch in batches:
            if batch.batch_id is None:
                found.append(_unsure(batch))
            else:
                found.append(await _cancel(ledger, client.batches, batch, batch.batch_id))
    return _forget(ledger, job, found) if forget else found


def _unsure(batch: Batch) -> Cancelled:
    """A batch of which nothing can be heard: never submitted for certain, or unknown to whoever is asked."""
    return Cancelled(batch.id, batch.batch_id, batch.requests, batch.state if batch.batch_id is None else None)


def _forget(ledger: Ledger, job: Job, found: list[Cancelled]) -> list[Cancelled]:
    """Give up those that nobody knows, and those of which nobody knows whether they were created.

    Raises:
        Locked: a run holds the job.
    """
    unknown = [each for each in found if each.status in (None, "creating")]
    if unknown:
        with ledger.lock(job.name, now=invocation.now()):
            for each in unknown:
                ledger.batches.lose(each.batch, _FORGOTTEN, now_ms=now_ms())
    return [replace(each, forgotten=each in unknown) for each in found]


async def _cancel(ledger: Ledger, api: Batches, batch: Batch, batch_id: str) -> Cancelled:
    try:
        info = await api.cancel(batch_id)
    except Refused:
        info = await api.retrieve(batch_id)  # over already
    if info is None:
        return Cancelled(batch.id, batch_id, batch.requests, None)
    if info.status not in FINAL:
        ledger.batches.cancelling(batch.id, now_ms=now_ms())
    ledger.batches.told(batch.id, told_of(info), now_ms=now_ms())
    return Cancelled(batch.id, batch_id, batch.requests, info.status)
