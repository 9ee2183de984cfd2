"""What a dead run left, and what need not be made at all: done before the first request of a run leaves.

Owns adoption (an image that was whole on disk is not paid again), the loss of what cannot be adopted (on record as in
doubt), reuse between jobs, and moving assets to the names that the manifest now gives them. The caller holds the job's
lock. Blocking, in pages: nothing here grows with the number of tasks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runner.engine.events import Adopted, FoundInDoubt, Listener, Reused, Warned
from runner.errors import StoreError
from runner.ledger import Answer, File, Job, Ledger, Orphan, Reusable
from runner.store import Output, Sealed, Store, output_at, store_at, url_of

PAGE = 200

_DIED = Answer(error_code="run_died", error_message="the run ended while this request was under way")


def recover(ledger: Ledger, store: Store, job: Job, emit: Listener, *, now_ms: int) -> None:
    """Settle every attempt, and every image with two names, that a dead run left; then remove its temporary files."""
    for path, aside in store.doubled():
        # It died while it made room: whichever of the two names is not on record is given up.
        known = ledger.asset_at(path), ledger.asset_at(aside)
        if None in known and known != (None, None):
            store.release(path if known[0] is None else aside)
    linked = store.half_taken_over()
    if linked is not None and ledger.asset_at(linked) is None:
        # It died before it could say whose that is, and the manifest may want it under another name by now.
        store.release(linked)
    while page := ledger.orphans(job, PAGE):
        for orphan in page:
            file = _rescued(ledger, store, orphan)
            if file is None:
                ledger.lose(orphan, _DIED, now_ms=now_ms)
                emit(FoundInDoubt(orphan.name, orphan.reserved_microusd if orphan.cost_microusd is None else 0))
            else:
                ledger.adopt(orphan, file, now_ms=now_ms)
                emit(Adopted(orphan.name, file.path))
    store.sweep()


def reuse(ledger: Ledger, store: Store, job: Job, emit: Listener, *, now_ms: int, folder: Path | None = None) -> int:
    """Take over what other jobs have made; returns how many tasks that finished.

    `folder` is where the files of jobs lie whose place is no bucket, where this job's is one.
    """
    if not ledger.has_offers(job):
        return 0
    # Asked before the search: what others make while it goes on is looked for the next time.
    through = ledger.offerable(job)
    count = 0
    finished = None
    for page in ledger.reusable(job):
        for item in page:
            if item.task_id == finished:
                continue
            if not _take_over(ledger, store, item, emit, now_ms=now_ms, folder=folder):
                through = None  # its file may come back
                continue
            finished = item.task_id
            count += 1
    store.taken_over()
    if through is not None:
        ledger.offered(job, through)
    return count


def reuse_one(
    ledger: Ledger, store: Store, task_id: int, job: Job, emit: Listener, *, now_ms: int, folder: Path | None = None
) -> bool:
    """Take over what another job has made of one task since this run began; whether that finished it."""
    taken = any(
        _take_over(ledger, store, item, emit, now_ms=now_ms, folder=folder)
        for item in ledger.reusable_for(job, task_id)
    )
    store.taken_over()
    return taken


def _take_over(
    ledger: Ledger, store: Store, item: Reusable, emit: Listener, *, now_ms: int, folder: Path | None
) -> bool:
    """Let another job's image serve a task as well; False where its file is not there."""
    origin = _origin(item, store, folder)
    theirs = store if origin is None else store_at(origin, item.file.path.partition("/")[0])
    if not theirs.matches(item.file.path, item.file.sha256):
        return False
    path = store.path(item.name)
    make_room(ledger, store, path, keep_sha256=item.file.sha256)
    if not store.occupied(path):
        store.take_over(item.file.path, path, origin)
    ledger.reuse(item, replace(item.file, path=path), now_ms=now_ms)
    emit(Reused(item.name, path))
    return True


def _origin(item: Reusable, store: Store, folder: Path | None) -> Output | None:
    """The output place of another job's file; None where it is this store's own, or cannot be known."""
    if item.output == url_of(store.output):
        return None
    return folder if item.output is None else output_at(item.output)


def tidy(ledger: Ledger, store: Store, job: Job, emit: Listener) -> None:
    """Move the assets of done tasks to the names that the manifest now gives them."""
    if ledger.is_tidy(job):
        return
    settled = True
    for page in ledger.misplaced(job, store.images):
        for item in page:
            path = store.path(item.name)
            try:
                # An earlier one of this page may have been kept aside to make room; its path is read afresh.
                current = ledger.asset_path(item.asset_id)
                if store.matches(current, item.file.sha256):
                    make_room(ledger, store, path, keep_sha256=item.file.sha256)
                    if store.occupied(path):
                        store.release(current)
                    else:
                        store.move(current, path)
                elif ledger.asset_at(path) is not None or not store.matches(path, item.file.sha256):
                    emit(Warned(f"{current} is missing or changed; it is wanted as {path}"))
                    settled = False
                    continue
                # Recorded last: a run that dies before finds the bytes at the new name, and comes here again.
                ledger.asset_moved(item.asset_id, path)
            except StoreError as error:
                emit(Warned(str(error)))
                settled = False
    if settled:
        ledger.tidied(job)


def make_room(ledger: Ledger, store: Store, path: str, *, keep_sha256: str | None = None) -> None:
    """See that nothing lies at `path`: whatever does is kept in `superseded/`, on record if it is an asset.

    A file with the very bytes that are wanted there is left, unless it is another task's asset.
    """
    if not store.occupied(path):
        return
    holder = ledger.asset_at(path)
    if holder is None and keep_sha256 is not None and store.matches(path, keep_sha256):
        return
    aside = store.keep_aside(path, tag="unknown" if holder is None else f"{holder}")
    if holder is not None:
        ledger.asset_moved(holder, aside)
    store.release(path)


def _rescued(ledger: Ledger, store: Store, orphan: Orphan) -> File | None:
    """The image that an orphan's request brought, under its own name, if it is whole anywhere on disk."""
    if orphan.received_sha256 is not None and orphan.received_path is not None:
        placed = store.matches(orphan.received_path, orphan.received_sha256)
        waits = store.partial_matches(orphan.attempt_id, orphan.received_sha256)
        if placed and waits and store.is_remote and ledger.asset_at(orphan.received_path) is None:
            waits = False  # over a network a name is given by copying: it died before the copy here was removed
        # With its own file still waiting, the same bytes under its name belong to the one that had the name before.
        if placed and not waits:
            found = store.examine(orphan.received_path)
            return file_of(found, orphan.received_path) if found else None
        if not waits:
            return None
    found = store.examine_partial(orphan.attempt_id)
    if found is None or not fits(found, orphan.request.pixels, orphan.request.output_format):
        return None
    path = store.path(orphan.name)
    file = file_of(found, path)
    # Once it has its name it is no longer found by its attempt: a recovery that dies in between must know it again.
    ledger.found(orphan, file)
    make_room(ledger, store, path)
    store.place(orphan.attempt_id, path)
    return file


def fits(sealed: Sealed, pixels: tuple[int, int] | None, output_format: str) -> bool:
    """Whether an image has the format and the size that were asked for."""
    facts = sealed.facts
    return facts.format == output_format and (pixels is None or (facts.width, facts.height) == pixels)


def file_of(sealed: Sealed, path: str) -> File:
    """What is put on record of an image that lies, or will lie, at `path`."""
    facts = sealed.facts
    return File(path, sealed.sha256, sealed.bytes, facts.format, facts.width, facts.height, facts.has_c2pa)
