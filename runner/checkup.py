"""What could keep a run from working: key, reachability, model, folder, disk, ledger, clock.

Owns the checks of `runner doctor`. Each ends in a sentence and, where something is wrong, in what to do; none costs
money and none changes anything.
"""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio

from runner import catalog as catalogs
from runner import invocation
from runner.errors import ModelGone, ProviderError, RunnerError
from runner.invocation import Options
from runner.ledger import Ledger
from runner.provider import Endpoint, ModelInfo, Timeouts, connect
from runner.rules.models import WARN_DAYS
from runner.store import store_at

LOW_DISK_BYTES = 2 << 30
CLOCK_SKEW_S = 60.0

Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    message: str


def examine(options: Options, model: str) -> Iterator[Check]:
    """Every check in turn, as it is made."""
    yield from _output(options)
    yield from _ledger(options)
    yield from _provider(options, model)


def _output(options: Options) -> Iterator[Check]:
    try:
        output = options.output_for()
        if isinstance(output, Path):
            yield from _folder(output)
            return
        # Of no job's name: nothing of it stays but an empty folder in the spool.
        store_at(output, ".doctor").prepare()
    except RunnerError as error:
        yield Check("bucket", "failed", str(error))
        return
    yield Check("bucket", "ok", f"{output} can be written")


def _folder(folder: Path) -> Iterator[Check]:
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent if nearest.parent != Path() else Path.cwd()
    try:
        # Permissions alone do not tell: a file system can be full, read-only or not made for files.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError:
        yield Check("folder", "failed", f"{folder} cannot be written: check its permissions, or choose --output")
        return
    yield Check("folder", "ok", f"{folder} can be written")
    free = shutil.disk_usage(nearest).free
    words = f"{free / 2**30:.1f} GB free"
    verdict: Verdict = "ok" if free >= LOW_DISK_BYTES else "warning"
    yield Check("disk", verdict, words if verdict == "ok" else f"{words}: an image takes 1 to 3 MB")


def _ledger(options: Options) -> Iterator[Check]:
    try:
        path = options.ledger_place
        if not Ledger.exists(path):
            yield Check("ledger", "ok", f"none yet at {path}: the first run makes it")
            return
        with Ledger.open(path, create=False) as ledger:
            wrong = ledger.check()
            jobs = len(ledger.jobs())
    except RunnerError as error:
        yield Check("ledger", "failed", str(error))
        return
    if wrong:
        yield Check("ledger", "failed", f"{path} is damaged: {'; '.join(wrong[:3])}; keep it, and restore a copy")
    else:
        yield Check("ledger", "ok", f"{path} is sound, {jobs} job{'' if jobs == 1 else 's'}")


def _provider(options: Options, model: str) -> Iterator[Check]:
    try:
        catalog = catalogs.load(options.catalog)
        provider = catalog.provider(options.provider or "openai")
    except RunnerError as error:
        yield Check("provider", "failed", str(error))
        return
    try:
        known = catalog.model(model)
    except RunnerError as error:
        yield Check("model", "failed", str(error))
        return
    try:
        if invocation.embeds(provider, options):
            yield Check("provider", "ok", "the embedded simulator: no key, no cost")
            return
        endpoint = invocation.endpoint(provider, options)
    except RunnerError as error:
        yield Check("key", "failed", str(error))
        return
    yield Check("key", "ok", f"there is one for {provider.name}")
    try:
        info = anyio.run(_ask, endpoint, model)
    except ModelGone as error:
        yield Check("reach", "ok", f"{endpoint.base_url} answers")
        successor = f"; its successor is {known.successors[0]}" if known.successors else ""
        yield Check("model", "failed", f"{model} is not served: {error.message}{successor}")
        return
    except ProviderError as error:
        yield Check("reach", "failed", f"{endpoint.base_url}: {error}")
        return
    yield Check("reach", "ok", f"{endpoint.base_url} answers")
    lifecycle = catalog.lifecycle(provider.name, model)
    yield _model(model, info.shutdown_date, lifecycle.shutdown if lifecycle else None)
    if info.server_time is not None:
        skew_s = abs((invocation.now() - info.server_time).total_seconds())
        fine = skew_s <= CLOCK_SKEW_S
        told = f"{skew_s:.0f} s away from the provider's"
        yield Check("clock", "ok" if fine else "warning", told if fine else f"{told}: set it, budgets go by the day")


async def _ask(endpoint: Endpoint, model: str) -> ModelInfo:
    async with connect(endpoint, Timeouts(), connections=1) as client:
        return await client.model(model)


def _model(name: str, told: str | None, believed: dt.date | None) -> Check:
    """What the provider says of the model's end wins over what the catalog believes."""
    try:
        end = dt.date.fromisoformat(told[:10]) if told else believed
    except ValueError:
        end = believed
    if end is None:
        return Check("model", "ok", f"{name} is served, and no end of it is known")
    days = (end - invocation.now().date()).days
    if days <= 0:
        return Check("model", "warning", f"{name} is served, although its shutdown was announced for {end}")
    verdict: Verdict = "warning" if days <= WARN_DAYS else "ok"
    return Check("model", verdict, f"{name} is served until {end} ({days} days)")
