"""The files against the ledger, and the ledger against itself.

Owns what counts as missing, changed or unknown, also while a run is at work on the job: what a run is about to record,
or has moved meanwhile, is no problem. Refuses to change anything. Memory does not grow with the number of assets: what
is missing is remembered by its number in the ledger alone.
"""

from __future__ import annotations

import os
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from runner.ledger import Job, Ledger, Recorded
from runner.planner import CHUNK, chunks
from runner.store import Entry, ImageFacts, Inventory, Look
from runner.tasks import Status
from runner.verification.findings import Began, Looked, Notes, Problem

THREADS = min(8, os.cpu_count() or 1)
"""How many files are read at once; with `deep` each thread holds one image in memory."""
YOUNG_S = 60.0
"""A file that changed as recently as this may be on its way to its record while a run is at work."""

T = TypeVar("T")
U = TypeVar("U")


def examine_ledger(ledger: Ledger, jobs: list[Job], notes: Notes, *, deep: bool) -> bool:
    """The ledger against itself; whether the database is sound."""
    sound = True
    for complaint in ledger.check(deep=deep):
        notes.problem(Problem("ledger", complaint))
        sound = False
    for complaint in ledger.caps.differences():
        notes.problem(Problem("contradiction", complaint))
    for job in jobs:
        with ledger.contradictions(job) as found:
            for each in found:
                notes.problem(Problem("contradiction", each.message, job.name, task=each.name))
    return sound


def examine_files(
    ledger: Ledger, job: Job, inventory: Inventory, notes: Notes, *, deep: bool, held: bool
) -> array[int]:
    """One job's files against the ledger, and the other way round; the assets that are missing and could be mended.

    `held` says that the caller holds the job, so that no run is at work on it.
    """
    looking = _Looking(ledger, job, inventory, notes, deep, held)
    missing = looking.assets()
    looking.unknown()
    looking.temporary()
    return missing


def look_at(inventory: Inventory, item: Recorded, *, deep: bool = False) -> Look:
    """Hold the file of an asset against its record."""
    file = item.file
    facts = ImageFacts(file.format, file.width, file.height, file.has_c2pa) if deep else None
    return inventory.look(file.path, sha256=file.sha256, size_bytes=file.bytes, facts=facts)


def unrecorded(ledger: Ledger, job: Job, entries: list[Entry]) -> list[Entry]:
    """Those of these entries (at most CHUNK) that no asset is recorded at, nor is about to be."""
    # A name that is not UTF-8 cannot be on record, and could not even be asked for.
    recorded = ledger.recorded(job, [entry.path for entry in entries if _is_text(entry.path)])
    return [entry for entry in entries if entry.path not in recorded]


class _Looking:
    """The look at one job."""

    def __init__(self, ledger: Ledger, job: Job, inventory: Inventory, notes: Notes, deep: bool, held: bool) -> None:
        self._ledger = ledger
        self._job = job
        self._inventory = inventory
        self._notes = notes
        self._deep = deep
        self._held = held

    def assets(self) -> array[int]:
        """Every asset on record, several at a time."""
        self._notes.listener(Began(self._job.name, *self._ledger.totals(self._job)))
        self._notes.verdict.jobs += 1
        missing: array[int] = array("q")
        with ThreadPoolExecutor(THREADS) as pool:
            for item, look in _abreast(pool, self._look, self._ledger.assets(self._job)):
                if self._judge(item, look):
                    missing.append(item.asset_id)
        return missing

    def _look(self, item: Recorded) -> Look:
        return look_at(self._inventory, item, deep=self._deep)

    def _judge(self, item: Recorded, look: Look) -> bool:
        """Count one asset, and tell what is wrong with it; whether it is missing and could be mended."""
        current: Recorded | None = item
        if look.verdict != "good":
            current, look = self._again(item, look)
        self._notes.listener(Looked(item.file.bytes))
        if current is None:
            return False
        file, verdict = current.file, self._notes.verdict
        verdict.assets += 1
        verdict.bytes += file.bytes
        if look.verdict == "good":
            verdict.good += 1
            return False
        kind = "contradiction" if look.verdict == "outside" else look.verdict
        self._notes.problem(
            Problem(kind, look.detail, current.job, file.path, current.name, file.sha256, current.wanted)
        )
        return look.verdict == "missing" and not look.occupied and current.status is Status.DONE

    def _again(self, item: Recorded, look: Look) -> tuple[Recorded | None, Look]:
        """Look once more where the ledger says that the file lies now: a run may have moved it meanwhile."""
        while look.verdict != "good":
            now = next(iter(self._ledger.assets_of([item.asset_id])), None)
            if now is None:
                return None, look
            if now.file == item.file:
                break
            item, look = now, self._look(now)
        if look.verdict == "missing" and item.wanted:
            # A run moves a file to the name that the manifest gives it now, and then records that; a run that dies in
            # between is no loss, the next one records it.
            path = f"{item.job}/images/{item.name}"
            if path != item.file.path and self._ledger.asset_at(path) is None:
                moved = self._look(replace(item, file=replace(item.file, path=path)))
                if moved.verdict == "good":
                    return item, moved
        return item, look

    def unknown(self) -> None:
        """Tell of every file in the folders of assets that is not on record."""
        for entries in chunks(self._inventory.walk(), CHUNK):
            left = unrecorded(self._ledger, self._job, entries)
            if left:
                # In this order: what a run that is over by now has placed is on record when it is looked up again.
                nobody = self._nobody_works()
                left = unrecorded(self._ledger, self._job, left)
                young = time.time() - YOUNG_S
                left = [
                    entry
                    for entry in left
                    if self._inventory.is_there(entry.path) and (nobody or entry.changed_s < young)
                ]
            for entry in left:
                self._notes.problem(_stranger(self._job, entry))

    def temporary(self) -> None:
        """Tell of what a run has left half-way, unless one is at work."""
        paths = self._inventory.temporaries()
        if paths and self._nobody_works():
            for path in paths:
                if self._inventory.is_there(path):
                    self._notes.problem(Problem("temporary", "left by a run that ended early", self._job.name, path))

    def _nobody_works(self) -> bool:
        """Whether no run is at work on the job; without trying its lock, which could keep a run from it."""
        last = None if self._held else self._ledger.last_run(self._job)
        if last is None or last["ended_ms"] is not None:
            return True
        if last["host"] != socket.gethostname():
            return False
        try:
            os.kill(int(last["pid"]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's process is one as well
        return False


def _stranger(job: Job, entry: Entry) -> Problem:
    if entry.kind == "unreadable":
        return Problem("unreadable", f"the folder cannot be read: {entry.detail}", job.name, entry.path)
    what = {"file": "no image on record", "link": "a symbolic link", "other": "not a file"}[entry.kind]
    return Problem("unknown", what, job.name, entry.path)


def _abreast(pool: ThreadPoolExecutor, function: Callable[[T], U], items: Iterable[T]) -> Iterator[tuple[T, U]]:
    """Each item with what the function makes of it, in order, a few at a time in other threads."""
    waiting: deque[tuple[T, Future[U]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= 4 * THREADS:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
