"""Whether every image on record is really there, byte for byte, and how to mend what is not.

Owns the order of `runner verify`: the ledger against itself, each asset's file against its record, the folders against
the ledger, and, where it is asked for, the repair. Refuses to render and to send: it tells a listener, and `run` makes
what is planned.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from runner import invocation
from runner.errors import InputError
from runner.invocation import Options
from runner.ledger import Job, Ledger
from runner.store import decoding, inventory_at, store_at
from runner.verification.findings import (
    Ask,
    Began,
    Event,
    Listener,
    Looked,
    Notes,
    Problem,
    Question,
    Repair,
    Verdict,
)
from runner.verification.looking import examine_files, examine_ledger
from runner.verification.mending import mend

__all__ = ["Ask", "Began", "Event", "Listener", "Looked", "Problem", "Question", "Repair", "Verdict", "verify"]


def verify(
    ledger: Ledger,
    jobs: list[Job],
    options: Options,
    *,
    deep: bool,
    repair: bool,
    listener: Listener,
    ask: Ask,
) -> Verdict:
    """Check every asset of these jobs. `ask` is put the question of what it costs, before anything is planned again.

    Raises:
        InputError: a job's folder is not there at all, and it was to be repaired.
        Locked: it was to be repaired, and a run holds the job.
        LedgerError, StoreError: the ledger or the folder cannot be used.
    """
    notes = Notes(listener)
    with ExitStack() as held:
        if repair:
            jobs = [_hold(held, ledger, job, options) for job in jobs]
        if deep:
            held.enter_context(decoding())
        sound = examine_ledger(ledger, jobs, notes, deep=deep)
        for job in jobs:
            inventory = inventory_at(options.output_for(job), job.name)
            missing = examine_files(ledger, job, inventory, notes, deep=deep, held=repair)
            # From a damaged ledger nothing may be concluded.
            if repair and sound and missing:
                mend(ledger, job, options, inventory, missing, notes, ask)
    return notes.verdict


def _hold(held: ExitStack, ledger: Ledger, job: Job, options: Options) -> Job:
    """Hold a job as a run does; the job as it is then."""
    held.enter_context(ledger.lock(job.name, now=invocation.now()))
    store = store_at(options.output_for(job), job.name)
    count, _ = ledger.totals(job)
    if count:
        folder = store.located(store.images)
        if isinstance(folder, Path) and not folder.is_dir():
            raise InputError(
                f"the folder {folder} is not there, and {count} images of the job are on record",
                hint="mount its disk, or name the right folder with --output; if they are really to be made again, "
                f"make the folder first: mkdir -p {folder}",
            )
        held.enter_context(store.lock(now=invocation.now()))
    return ledger.job(job.name) or job
