"""The report of a night: one run as an HTML document that fits in a mail.

Owns what is said of a run to someone who was asleep, and that it stays under `MAX_BYTES` (mail programs cut what is
long), without a script and without anything from elsewhere. Refuses to write the file, and to send it.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache, partial
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from runner.errors import InputError, StoreError
from runner.inputs import BadInput
from runner.ledger import Glimpse, Job, Ledger, Night
from runner.manifest.durations import written
from runner.renditions import Recipe
from runner.renditions.rendering import render
from runner.report.minutes import bundled
from runner.rules.pricing import microusd, usd
from runner.store import Store
from runner.tasks import Status

MAX_BYTES = 100_000
GLIMPSES = 6
GLIMPSE_PX = 120
_GLIMPSE = Recipe("glimpse", GLIMPSE_PX, GLIMPSE_PX, format="jpeg", quality=70)
_MAX_GLIMPSE_BYTES = 60_000
"""All small pictures together, as they are in the document."""
_MAX_ROWS = 12
_MAX_TEXT = 240
_MAX_BARS = 48
_BAR_PX = 64
_BARS_PX = 340
"""How wide all bars are at most: a telephone shows that much."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a run ended, in words, and what to do next."""

    head: str
    colour: str
    commands: tuple[str, ...]


def night(
    ledger: Ledger,
    job: Job,
    run_id: int | None = None,
    *,
    now: dt.datetime,
    store: Store | None = None,
    gallery: str | None = None,
) -> str:
    """The report of one run of a job, its newest if `run_id` is None. `now` is aware.

    `store` has the images, for small pictures; those whose files are not there are left out, as all are without
    it. `gallery` is the address of the job's gallery as seen from where the report will lie; None where there is none.

    Raises:
        InputError: the job has no such run.
    """
    seen = ledger.nights.night(job, run_id, glimpses=GLIMPSES)
    if seen is None:
        raise _no_such_run(ledger, job, run_id)
    run = seen.run
    simulated = bool(run["simulated"])
    statuses = ledger.statuses(job)
    batches = ledger.batches.open(job)
    newest = ledger.nights.run_ids(job, 1)
    reuse = [entry for entry in ledger.costs("job", job) if entry["simulated"] is simulated]
    cost_microusd = sum(group.cost_microusd for group in seen.groups)
    doubt_microusd = ledger.doubt_found(run["id"], simulated=simulated)
    made = sum(group.images for group in seen.groups)
    manifest = _manifest(run["manifest"])
    pictures = [] if store is None else _pictures(store, seen.glimpses)
    problems = [
        (_words(p["status"]), p["tasks"], _short(p["code"]), _short(p["example"]), _short(p["name"]))
        for p in ledger.problems(job)
    ]
    rendered = partial(
        _template().render,
        job=job.name,
        description=_short(manifest.get("description")),
        run_id=run["id"],
        exit_code=run["exit_code"],
        provider=_short(run["provider"]),
        is_newest=newest[:1] == [run["id"]],
        simulated=simulated,
        began=_time(run["started_ms"]),
        ended=_time(run["ended_ms"]),
        took=None if run["ended_ms"] is None else _span(max(0, run["ended_ms"] - run["started_ms"])),
        ending=_ending(run, job, statuses, bool(batches)),
        reason=_short(" ".join((run["reason"] or "").split())),
        facts=_facts(seen, statuses, made=made, wanted=job.wanted, submitted=sum(b.requests for b in batches)),
        money=_money(
            cost_microusd,
            doubt_microusd,
            simulated=simulated,
            made=made,
            cap=_cap(manifest),
            saved=[(entry["reused"], entry["saved_by_reuse_microusd"]) for entry in reuse if entry["reused"]],
        ),
        groups=[
            (*map(_short, (g.model, g.size, g.quality)), g.requests, g.images, usd(g.cost_microusd))
            for g in seen.groups
        ],
        max_rows=_MAX_ROWS,
        bars=_bars(seen.minutes),
        bar_px=_BAR_PX,
        latency=None if seen.mean_ms is None else _span(seen.mean_ms),
        slowest=[(_short(name), _span(ms)) for name, ms in seen.slowest],
        gallery=gallery,
        made_at=_time(int(now.timestamp() * 1000)),
        price_version=_short(run["price_version"]),
        version=_short(run["version"]),
    )
    while True:
        text: str = rendered(glimpses=pictures, problems=problems)
        if len(text.encode()) < MAX_BYTES or not (pictures or problems):
            return text
        # What is only nice to see goes first; of the problems, the rarest.
        (pictures or problems).pop()


def _no_such_run(ledger: Ledger, job: Job, run_id: int | None) -> InputError:
    known = ledger.nights.run_ids(job, 5)
    if run_id is None or not known:
        return InputError(f"the job {job.name!r} has never had a run", hint=f"make one: runner run {job.name}")
    return InputError(
        f"the job {job.name!r} has no run {run_id}", hint=f"its newest runs are {', '.join(map(str, known))}"
    )


def _ending(run: dict[str, Any], job: Job, statuses: dict[Status, int], batches: bool) -> _Ending:
    name = job.name
    retry = tuple(
        f"runner retry {name} --{word}"
        for status, word in ((Status.FAILED, "failed"), (Status.REFUSED, "refused"))
        if statuses[status]
    )
    go_on = (f"runner resume {name}",)
    good, odd, bad = "#2e7d32", "#b26a00", "#c62828"
    if run["ended_ms"] is None:
        return _Ending("Has not ended, or died without a word", odd, (f"runner status {name}", *go_on))
    match run["exit_code"]:
        case 0 if batches:
            return _Ending("Submitted: to be collected", good, (f"runner collect {name}",))
        case 0 if statuses[Status.PLANNED]:
            return _Ending("Ended well, with more to make", good, go_on)
        case 0:
            return _Ending("All that was wanted is there", good, (f"runner gallery {name} --open",))
        case 4:
            return _Ending("Ended, with images that were not made", odd, (*retry, *go_on))
        case 5:
            return _Ending("Stopped at the budget", odd, (f"runner plan {name}", f"runner resume {name} --budget USD"))
        case 6:
            return _Ending("Stopped by the provider", bad, ("runner doctor", *go_on))
        case 8:
            return _Ending("Stopped at its time limit", odd, go_on)
        case 130:
            return _Ending("Interrupted", odd, go_on)
        case 2:
            return _Ending("Stopped: something that it was given cannot be used", bad, (f"runner plan {name}", *go_on))
        case _:
            return _Ending("Stopped by a fault", bad, (f"runner verify {name}", *go_on))


def _facts(
    seen: Night, statuses: dict[Status, int], *, made: int, wanted: int, submitted: int
) -> list[tuple[str, str]]:
    requests = sum(group.requests for group in seen.groups)
    facts = [("made in this run", f"{made:,} images with {requests:,} requests")]
    facts.append(("the job now", f"{statuses[Status.DONE]:,} of {wanted:,} done"))
    others = [
        f"{statuses[status]:,} {_words(status)}"
        for status in (Status.PLANNED, Status.RUNNING, Status.FAILED, Status.REFUSED, Status.IN_DOUBT)
        if statuses[status]
    ]
    if others:
        facts.append(("not done", ", ".join(others)))
    if submitted:
        facts.append(("in batches", f"{submitted:,} requests that the provider works on"))
    return facts


def _money(
    cost: int, doubt: int, *, simulated: bool, made: int, cap: str | None, saved: Sequence[tuple[int, int]]
) -> list[tuple[str, str]]:
    """What it has cost, in rows; all amounts are micro-dollars."""
    each = f" ({usd(round(cost / made))} an image)" if made and cost else ""
    facts = [("would have cost" if simulated else "cost", f"{usd(cost)}{each}")]
    if doubt:
        facts.append(("in doubt", f"{usd(doubt)}: possibly billed, counted against the cap"))
    if cap is not None:
        facts.append(("cap in the manifest", cap))
    for count, amount in saved:
        facts.append(("saved by reuse", f"{usd(amount)}: {count:,} images of other jobs, over all runs"))
    return facts


def _span(milliseconds: float) -> str:
    """`4m20s`, `2.4s`, `0.085s`: no more digits than anyone reads."""
    return written(round(milliseconds / 1000, 0 if milliseconds >= 60_000 else 1 if milliseconds >= 1000 else 3))


def _bars(minutes: Sequence[tuple[int, int]]) -> dict[str, Any] | None:
    """Images per minute as bars of at most `_BAR_PX`; neighbours are put together where there are too many."""
    if not minutes:
        return None
    first, last = minutes[0][0], minutes[-1][0]
    each, sums = bundled(minutes, _MAX_BARS)
    highest = max(sums)
    return {
        "heights": [(max(1, round(_BAR_PX * count / highest)) if count else 0, count) for count in sums],
        "width": max(5, min(12, _BARS_PX // len(sums) - 1)),
        "highest": f"{highest / each:,.3g}",
        "each": each,
        "from": _time(first * 60_000),
        "to": _time((last + 1) * 60_000),
    }


def _pictures(store: Store, glimpses: Sequence[Glimpse]) -> list[tuple[str, str]]:
    """(name, data URI) of each picture whose file is there, as far as they have room."""
    pictures, room = [], _MAX_GLIMPSE_BYTES
    for glimpse in glimpses:
        for path in (glimpse.thumbnail, glimpse.path):
            data = None if path is None else _small(store, path)
            if data is not None:
                break
        else:
            continue
        room -= len(data)
        if room < 0:
            break
        pictures.append((_short(glimpse.name) or "", data))
    return pictures


def _small(store: Store, path: str) -> str | None:
    """A picture as a data URI; None where there is no such file in the store, or no picture in it."""
    try:
        # First as it is: what leads elsewhere is no file of ours, and a name proves nothing of it.
        with store.reading(path):
            pass
        with store.local_copy(path) as file:
            (data,) = render(file, [_GLIMPSE])
    except (OSError, BadInput, StoreError):
        return None  # it is only decoration: whoever wants to know of damage asks `runner verify`
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _manifest(text: str) -> dict[str, Any]:
    """What is on record of a run's manifest; empty where that is none."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _cap(manifest: dict[str, Any]) -> str | None:
    budget = manifest.get("budget")
    if not isinstance(budget, dict):
        return None
    try:
        amount = microusd(Decimal(str(budget.get("usd"))))
    except (InvalidOperation, ValueError, OverflowError):
        return None
    return f"{usd(amount)} per {_short(budget.get('per', 'run'))}"


def _words(status: object) -> str:
    return str(status).replace("_", " ")


def _short(text: object) -> str | None:
    """A text of others: not longer than anyone reads, and without what turns the direction of others."""
    if text is None:
        return None
    shown = "".join(c if c.isprintable() else "·" for c in str(text))
    return shown if len(shown) <= _MAX_TEXT else shown[: _MAX_TEXT - 1] + "…"


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return f"{dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC):%Y-%m-%d %H:%M} UTC"


@cache
def _template() -> Any:
    text = (files("runner.report") / "pages" / "night.html").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)
