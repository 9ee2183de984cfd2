"""What follows a run that has ended, whatever its end was: the gallery, the report, and who is told.

Owns that nothing of it changes how the run ended: what goes wrong is told, and that is all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread

from runner import notifying, rendering
from runner.engine.events import Listener, Summary, Warned
from runner.errors import RunnerError
from runner.invocation import now
from runner.ledger import Job, Ledger
from runner.store import Store
from runner.wiring import Wiring


async def close(wiring: Wiring, summary: Summary, *, is_news: bool, handle_signals: bool) -> None:
    """Do what is to be done after a run; without `is_news` nobody is told of it.

    Whoever has asked twice for its end does not wait for a page.
    """
    ledger, store, job, emit = wiring.ledger, wiring.store, wiring.job, wiring.emit
    if store.derived.has_gallery() and not wiring.stop.immediate:
        await _try("the gallery is not up to date", lambda: rendering.write_gallery(ledger, store, job), emit)
    if wiring.request.manifest.notify is None or not is_news:
        return
    is_written = await _try("there is no report of this run", lambda: _report(ledger, store, job, summary.run_id), emit)
    await notifying.notify(
        wiring.request.manifest,
        wiring.request.path.parent,
        summary,
        report=store.located(store.derived.report_path) if is_written else None,
        emit=emit,
        api_key_env=wiring.options.api_key_env,
        handle_signals=handle_signals,
    )


def _report(ledger: Ledger, store: Store, job: Job, run_id: int | None) -> None:
    from runner.report.night import night

    page = os.path.relpath(store.derived.gallery_path, Path(store.derived.report_path).parent)
    gallery = page if store.derived.has_gallery() else None
    text = night(ledger, job, run_id, now=now(), store=store, gallery=gallery)
    store.derived.put(store.derived.report_path, text.encode("utf-8", "surrogatepass"))


async def _try(what: str, work: Callable[[], None], emit: Listener) -> bool:
    try:
        await anyio.to_thread.run_sync(work)
    except Exception as error:
        # The images are made and paid for: a page that cannot be written must not be all that one hears of them.
        told = str(error) if isinstance(error, RunnerError) else f"{type(error).__name__}: {error}"
        emit(Warned(f"{what}: {told}"))
        return False
    return True
