"""Load, plan, run: what the commands do, for Python. Prints nothing.

    from runner import Options, load, plan, run
    summary = run("jobs/nightly-thumbnails.yaml", Options(provider="simulator"))

Owns the public functions and the embedded simulator's process. Whoever wants to see a run listens to its events.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runner import catalog as catalogs
from runner import invocation
from runner import manifest as manifests
from runner.errors import RunnerError
from runner.invocation import Options
from runner.planner import Plan

if TYPE_CHECKING:
    from runner.collecting import Cancelled
    from runner.engine.events import Event, Listener, Summary
    from runner.engine.stop import Stop
    from runner.manifest import Manifest
    from runner.promotion import Choosing, Promotion, Target
    from runner.rendering import Gallery, Rendering
    from runner.tasks import Status
    from runner.verification import Ask, Verdict
    from runner.verification import Listener as VerifyListener


__all__ = [
    "Options",
    "cancel",
    "collect",
    "gallery",
    "load",
    "manifest_path",
    "plan",
    "promote",
    "promotion",
    "render",
    "retry",
    "run",
    "simulator",
    "verify",
]

_DEFAULT = Options()


def load(path: str | Path, options: Options = _DEFAULT) -> Manifest:  # frozen, so shared safely
    """Read and check a manifest.

    Raises:
        ManifestError: it is not valid; the message has file, line, column and the nearest valid word.
    """
    return manifests.load(Path(path), overrides=options.overrides, catalog=catalogs.load(options.catalog))


def plan(job: str | Path, options: Options = _DEFAULT) -> Plan:  # frozen, so shared safely
    """What `run` would do and cost; nothing is sent and nothing is written.

    Raises:
        InputError: the job or its manifest is not valid.
        StopRun: its model has been shut down.
    """
    from runner.ledger import Ledger

    path = options.ledger_place
    if not Ledger.exists(path):
        return invocation.plan_with_caps(invocation.prepare(job, options, None), options, None)
    with Ledger.open(path, create=False) as ledger:
        return invocation.plan_with_caps(invocation.prepare(job, options, ledger), options, ledger)


def run(
    job: str | Path,
    options: Options = _DEFAULT,  # frozen, so shared safely
    *,
    listener: Listener | None = None,
    stop: Stop | None = None,
    handle_signals: bool = False,
) -> Summary:
    """Make what the job wants and does not have yet. `listener` hears every event; `stop` ends the run early.

    With `handle_signals` the first SIGINT or SIGTERM lets what is in flight finish, the second gives it up. What ends
    a run once it has begun is in the summary (`exit_code`, `reason`), not raised.

    Raises:
        InputError: the job, its manifest or an option is not valid; nothing was sent.
        Locked: another run holds the job.
        StopRun: the model has been shut down.
        LedgerError, StoreError: the ledger or the output folder cannot be used.
    """
    import anyio

    from runner.engine.stop import Stop
    from runner.ledger import Ledger
    from runner.provider import Endpoint
    from runner.session import Session

    listener = listener or _ignore
    with Ledger.open(options.ledger_place, create=True, on_wait=_teller(listener)) as ledger:
        request = invocation.prepare(job, options, ledger)
        own_simulator = invocation.embeds(request.provider, options)
        endpoint = None if own_simulator else invocation.endpoint(request.provider, options)
        with ledger.lock(request.manifest.name, now=invocation.now()):
            session = Session(request, options, ledger, listener, stop or Stop(), handle_signals)
            if endpoint is not None:
                return anyio.run(session.run, endpoint)
            with simulator() as base_url:
                return anyio.run(session.run, Endpoint(request.provider.name, base_url, "simulator"))


def collect(
    job: str | Path | None,
    options: Options = _DEFAULT,  # frozen, so shared safely
    *,
    listener: Listener | None = None,
    stop: Stop | None = None,
    handle_signals: bool = False,
) -> list[Summary]:
    """Bring home what is over of a job's batches (of every job's, with None); nothing new is submitted.

    Where the manifest says `batch: {fall_back: online}`, what they did not deliver is made online. Each batch is asked
    for where it was submitted, unless `options` name a provider. A summary for each job and each such place.

    Raises:
        InputError: the ledger does not know the job, or there is no key.
        Locked: a run holds the job.
        LedgerError, StoreError: the ledger or the output folder cannot be used.
    """
    from runner.collecting import collect as bring_home
    from runner.engine.stop import Stop

    listener = listener or _ignore
    return bring_home(
        job,
        options,
        listener=listener,
        on_wait=_teller(listener),
        stop=stop or Stop(),
        handle_signals=handle_signals,
        simulator=simulator,
    )


def cancel(
    job: str | Path,
    options: Options = _DEFAULT,  # frozen, so shared safely
    *,
    forget: bool = False,
) -> list[Cancelled]:
    """Ask the provider to end the batches of a job; what they have made by then is still to be collected.

    With `forget`, batches that the provider does not know are given up: their tasks are in doubt then.

    Raises:
        InputError: the ledger does not know the job, or there is no key.
        ProviderError: the provider does not answer.
    """
    from runner.collecting import cancel as end_all

    return end_all(job, options, forget=forget)


def render(
    job: str | Path,
    options: Options = _DEFAULT,  # frozen, so shared safely
    *,
    listener: Listener | None = None,
) -> Rendering:
    """Make the renditions and composites of a job that are not there, or not as its manifest has them now.

    Raises:
        InputError: the ledger does not know the job, or its manifest asks for none.
        Locked: a run holds the job, and makes them itself.
        LedgerError, StoreError: the ledger or the output folder cannot be used.
    """
    from runner.rendering import render as make_all

    return make_all(job, options, listener or _ignore)


def gallery(
    job: str | Path,
    options: Options = _DEFAULT,  # frozen, so shared safely
    *,
    listener: Listener | None = None,
) -> Gallery:
    """Write the gallery of a job, with the thumbnails that it lacks; each later run brings it up to date.

    Raises:
        InputError: the ledger does not know the job.
        LedgerError, StoreError: the ledger or the output folder cannot be used.
    """
    from runner.rendering import gallery as write

    return write(job, options, listener or _ignore)


def promotion(
    job: str | Path, options: Options, choosing: Choosing, target: Target
) -> AbstractContextManager[Promotion]:
    """The manifest by which chosen images are made again, to be planned, and then given to `promote`, in the block.

    Raises:
        InputError: nothing is chosen, or what would be asked for is what is there already.
    """
    from runner.promotion import prepared

    return prepared(job, options, choosing, target)


def promote(
    prepared: Promotion,
    options: Options = _DEFAULT,  # frozen, so shared safely
    *,
    listener: Listener | None = None,
    stop: Stop | None = None,
    handle_signals: bool = False,
) -> Summary:
    """Make what was prepared, as `run` does; where the origin has a gallery, that shows it, and the new job has one."""
    from runner.engine.events import Summary
    from runner.promotion import keep
    from runner.rendering import show_beside

    listener = listener or _ignore

    def heard(event: Event) -> None:
        # It is told last, and the galleries come after the run.
        if not isinstance(event, Summary):
            listener(event)

    summary = run(keep(prepared, options), options, listener=heard, stop=stop, handle_signals=handle_signals)
    show_beside(prepared.origin, prepared.name, options, listener)
    listener(summary)
    return summary


@contextmanager
def simulator() -> Iterator[str]:
    """The embedded simulator, in a process of its own, for the block; its base URL.

    Raises:
        RunnerError: it did not start.
    """
    command = [sys.executable, "-m", "runner", "simulate", "--port", "0", "--until-stdin-closes", "--quiet"]
    # A session of its own: Ctrl-C is for the run, which then lets its requests finish. If the run is killed, the pipe
    # closes and the simulator ends as well.
    process = subprocess.Popen(  # noqa: S603  # our own module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        if process.stdout is None or process.stdin is None:
            raise RunnerError("the embedded simulator has no pipes")
        base_url = process.stdout.readline().strip()
        if not base_url.startswith("http"):
            raise RunnerError("the embedded simulator did not start", hint="try `runner simulate` by itself")
        yield base_url
    finally:
        with suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def manifest_path(job: str | Path, options: Options) -> Path:
    """The manifest's path from a path or, once known to the ledger, a job's name.

    Raises:
        InputError: neither.
    """
    from runner.ledger import Ledger

    if Path(job).is_file() or not Ledger.exists(options.ledger_place):
        return invocation.find_manifest(job, None)
    with Ledger.open(options.ledger_place, create=False) as ledger:
        return invocation.find_manifest(job, ledger)


def retry(job: str | Path, options: Options, statuses: Sequence[Status], code: str | None) -> dict[Status, int]:
    """Let the tasks in these statuses (with this error code) be planned again; how many there were of each.

    Raises:
        InputError: the ledger does not know the job.
        Locked: a run holds it.
    """
    from runner.ledger import Ledger

    with Ledger.open(options.ledger_place, create=False) as ledger:
        found = invocation.find_job(job, ledger)
        with ledger.lock(found.name, now=invocation.now()):
            return {status: ledger.retry(found, status, code) for status in statuses}


def verify(
    job: str | Path | None,
    options: Options = _DEFAULT,  # frozen, so shared safely
    *,
    deep: bool = False,
    repair: bool = False,
    listener: VerifyListener | None = None,
    ask: Ask | None = None,
) -> Verdict:
    """Hold every image of a job (of every job, with None) against the ledger: is it there, byte for byte?

    `deep` decodes each image as well. `repair` puts back what lies elsewhere; what is lost for good is planned again
    if `ask` says yes to its price, and never without `ask`.

    Raises:
        InputError: the ledger does not know the job, or its folder is not there at all and was to be repaired.
        Locked: it was to be repaired, and a run holds the job.
        LedgerError, StoreError: the ledger or the output folder cannot be used.
    """
    from runner.ledger import Ledger
    from runner.verification import verify as examine

    with Ledger.open(options.ledger_place, create=False) as ledger:
        jobs = ledger.jobs() if job is None else [invocation.find_job(job, ledger)]
        return examine(
            ledger,
            jobs,
            options,
            deep=deep,
            repair=repair,
            listener=listener or _ignore,
            ask=ask or (lambda question: False),
        )


def _teller(listener: Listener) -> Callable[[float], None]:
    """Tells a listener, from whichever thread waits, that the ledger is held by another process."""

    def tell(_waited_s: float) -> None:
        from anyio import from_thread

        from runner.engine.events import Warned

        warned = Warned("the ledger is held by another process, or its server is away: waiting for it")
        try:
            from_thread.run_sync(listener, warned)
        except RuntimeError:
            listener(warned)  # no event loop runs yet

    return tell


def _ignore(_event: object) -> None:
    return None
