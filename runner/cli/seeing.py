"""Commands that look: status, costs, export, models, schema.

Owns their arguments and how their answers look in a terminal.
"""

from __future__ import annotations

import datetime as dt
import sys
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from runner.cli import console, options
from runner.cli.writing import refuse_below, replacing
from runner.errors import InputError

if TYPE_CHECKING:
    from runner.ledger import Job, Ledger


class By(StrEnum):
    """What spending is grouped by."""

    JOB = "job"
    DAY = "day"
    MODEL = "model"
    SIZE = "size"
    QUALITY = "quality"


class Format(StrEnum):
    """The form of an export."""

    CSV = "csv"
    JSONL = "jsonl"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(short_help="Where jobs stand.", epilog="Example: runner status nightly-thumbnails")(status)
    app.command(
        short_help="What was spent, is in doubt and was saved.", epilog="Example: runner costs --by day --json"
    )(costs)
    app.command(
        short_help="Every image of a job as CSV or JSON lines.",
        epilog="Example: runner export nightly-thumbnails --format csv > night.csv",
    )(export)
    app.command(
        short_help="Models, prices, and when they end.",
        epilog="Example: runner models --json. A file for --catalog has the shape that `models --source` prints.",
    )(models)
    app.command(
        short_help="The manifest's JSON Schema, for editors.",
        epilog="Example: runner schema > docs/manifest.schema.json",
    )(schema)


def status(
    job: options.OneJob = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    provider: options.Provider = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    overrides: options.Set = None,
    budget: options.Budget = None,
    limit: options.Limit = None,
) -> None:
    """Say where jobs stand: how many images are done, what they cost, why others are not done.

    The words of `run` are taken here too, so that one line of options serves every command; status needs only
    --output and --ledger.
    """
    from runner.report.status import status as look

    with _open(output, ledger) as opened:
        now = dt.datetime.now(dt.UTC)
        entries = [look(opened, found, now=now) for found in _jobs(opened, job)]
    if json:
        for entry in entries:
            console.line(entry)
    elif job is None and len(entries) != 1:
        _show_jobs(entries)
    else:
        for entry in entries:
            _show_status(entry)
    _warn_of_late(entries)


def costs(
    job: options.OneJob = None,
    by: Annotated[By, typer.Option("--by", help="What to group by.")] = By.JOB,
    chart: Annotated[
        Path | None,
        typer.Option("--chart", metavar="FILE", help="Draw spending per day and images per minute: .svg or .png."),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", metavar="N", min=1, max=366, help="How many days the chart goes back.")
    ] = 30,
    output: options.Output = None,
    ledger: options.Ledger = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    provider: options.Provider = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    overrides: options.Set = None,
    budget: options.Budget = None,
    limit: options.Limit = None,
) -> None:
    """Say what was spent: real, in doubt, saved by reuse, and what simulated images would have cost."""
    from runner.report.costs import costs as look
    from runner.report.costs import total

    if chart is not None:
        refuse_below(options.gather(output=output).output_for(), chart, option="--chart")
    with _open(output, ledger) as opened:
        chosen = _jobs(opened, job)[0] if job is not None else None
        entries = look(opened, by.value, chosen)
        if chart is not None:
            _draw(chart, opened, chosen, days)
    totals = [total(entries, simulated=kind) for kind in (False, True) if any(e["simulated"] is kind for e in entries)]
    if json:
        for entry in [*entries, *totals]:
            console.line(entry)
    else:
        _show_costs(by.value, entries, totals)


def export(
    job: options.Job,
    form: Annotated[Format, typer.Option("--format", help="The form of the lines.")] = Format.CSV,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="A file to write, instead of stdout.")] = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
) -> None:
    """Write every wanted image of a job with its file, tokens and cost, as a stream."""
    from runner.report.export import export as write

    with _open(output, ledger) as opened:
        found = _jobs(opened, job)[0]  # before the file is touched: a slip in the job's name must not empty it
        with _writable(to) if to is not None else nullcontext(sys.stdout) as stream:
            count = write(opened, found, form.value, stream)
    console.note(f"{count} rows")


def models(
    catalog: options.CatalogFile = None,
    source: Annotated[bool, typer.Option("--source", help="Print the built-in catalog's file.")] = False,
    json: options.Json = False,
) -> None:
    """List models with sizes, qualities, prices and the date of their end; every figure's source is in the file."""
    import importlib.resources

    from runner import catalog as catalogs

    if source:
        console.raw(importlib.resources.files("runner.catalog").joinpath("catalog.yaml").read_text("utf-8"))
        return
    from runner.report.models import models as look

    entries = look(catalogs.load(catalog))
    if json:
        for entry in entries:
            console.line(entry)
        return
    console.table(
        (
            "model",
            "provider",
            "delivery",
            "ends",
            "qualities",
            "sizes",
            "USD per 1M tokens: text in",
            "image in",
            "image out",
        ),
        [
            (
                entry["model"],
                entry["provider"],
                entry["delivery"],
                entry["shutdown"] or "-",
                ",".join(entry["qualities"]),
                ",".join(entry["sizes"]) + (" or free" if entry["free_sizes"] else ""),
                entry["text_in"],
                entry["image_in"],
                entry["image_out"],
            )
            for entry in entries
        ],
        left=6,
    )


def schema() -> None:
    """Print the JSON Schema of a manifest, for editors."""
    import json

    from runner.manifest import json_schema

    console.raw(json.dumps(json_schema(), indent=2) + "\n")


def _draw(path: Path, ledger: Ledger, job: Job | None, days: int) -> None:
    """Write the chart; raises InputError where there is nothing to draw, or nowhere to write it."""
    from runner.invocation import now
    from runner.report.charts import chart, draw

    form = path.suffix.lower()
    if form not in (".svg", ".png"):
        raise InputError(f"{path} is neither an SVG nor a PNG", hint="name it so: --chart costs.svg or costs.png")
    what = chart(ledger, job, days=days, now=now())
    if what is None:
        raise InputError(
            f"there is nothing to draw: nothing was spent in the last {days} days, and no run has brought an image",
            hint="make some images first, or look further back with --days N",
        )
    data = draw(what, "svg" if form == ".svg" else "png")
    with replacing(path, option="--chart") as stream:
        stream.write(data)
    console.note(f"the chart is in {console.safe(path)}")


def _writable(path: Path) -> IO[str]:
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", hint="name another file with --to") from None


def _open(output: str | None, ledger: str | None) -> Ledger:
    from runner.ledger import Ledger

    return Ledger.open(options.gather(output=output, ledger=ledger).ledger_place, create=False)


def _jobs(ledger: Ledger, job: str | None) -> list[Job]:
    from runner.invocation import find_job

    return ledger.jobs() if job is None else [find_job(job, ledger)]


def _show_jobs(entries: list[dict[str, Any]]) -> None:
    if not entries:
        console.out("no job has been run yet")
        return
    counts = ("done", "wanted", "planned", "submitted", "running", "failed", "refused", "in doubt")
    console.table(
        ("job", *counts, "cost", "simulated"),
        [
            (
                e["job"],
                *(e[name.replace(" ", "_")] for name in counts),
                f"${e['cost_usd']:.6f}",
                f"${e['simulated_cost_usd']:.6f}",
            )
            for e in entries
        ],
    )


def _show_status(entry: dict[str, Any]) -> None:
    from runner.rules.pricing import usd

    console.out(console.paint(console.safe(entry["job"]), "bold"))
    counts = ", ".join(
        f"{entry[name]} {name.replace('_', ' ')}"
        for name in ("planned", "running", "submitted", "failed", "refused", "in_doubt")
        if entry[name]
    )
    console.out(f"  images   {entry['done']} of {entry['wanted']} done{', ' + counts if counts else ''}")
    if entry["reused"]:
        console.out(f"  reused   {entry['reused']} from other jobs, free")
    doubt = f", and {usd(entry['in_doubt_microusd'])} in doubt" if entry["in_doubt_microusd"] else ""
    console.out(f"  cost     {usd(entry['cost_microusd'])}{doubt}")
    if entry["simulated_cost_usd"]:
        console.out(f"  simulated, so not spent: {usd(round(entry['simulated_cost_usd'] * 1e6))}")
    _show_batches(entry)
    last = entry["last_run"]
    if last is not None:
        how = f"ended {last['ended']} with exit code {last['exit_code']}" if last["ended"] else "has not ended"
        who = f"{last['provider']}, pid {last['pid']} on {console.safe(last['host'])}"
        console.out(f"  last run {last['run_id']}, {who}: began {last['started']}, {how}")
        if last["reason"]:
            console.out(f"           {console.safe(' '.join(last['reason'].split()))}")
    for problem in entry["problems"]:
        console.out(
            f"  {problem['status']!s:<8} {problem['tasks']} x {console.safe(problem['code'])}: "
            f"{console.safe(problem['example'])} (e.g. {console.safe(problem['name'])})"
        )


def _warn_of_late(entries: list[dict[str, Any]]) -> None:
    """Results that are about to be deleted are paid for: nobody should have to look for that."""
    for entry in entries:
        for batch in entry["batches"]:
            if batch["collect_soon"]:
                console.warn(
                    f"the provider deletes the results of batch {batch['batch']} of {entry['job']} after 30 days ("
                    f"about {batch['kept_until']}): {console.program()} collect {entry['job']}"
                )


def _show_batches(entry: dict[str, Any]) -> None:
    """What the provider works on: how far it is, how old, until when."""
    from runner.rules.pricing import usd

    reserved = entry["reserved_usd"] + entry["simulated_reserved_usd"]
    if entry["batches"]:
        console.out(f"  reserved {usd(round(reserved * 1e6))} for {len(entry['batches'])} batches")
    for batch in entry["batches"]:
        said = batch["status"] or batch["state"]
        parts = [f"{said.replace('_', ' ')}"]
        if batch["completed"] is not None:
            parts.append(f"{batch['completed']} of {batch['requests']} completed")
            if batch["failed"]:
                parts.append(f"{batch['failed']} failed")
        else:
            parts.append(f"{batch['requests']} requests")
        parts.append(f"{console.duration(batch['age_s'])} old")
        if batch["ended"] is None and batch["expires"] is not None:
            parts.append(f"until {batch['expires']}")
        if batch["ended"] is not None:
            parts.append(f"ended {batch['ended']}, kept until {batch['kept_until']}")
        if batch["checked"] is not None:
            parts.append(f"as of {batch['checked']}")
        console.out(f"  batch    {batch['batch']} {console.safe(batch['batch_id'] or '')}: {', '.join(parts)}")


def _show_costs(by: str, entries: list[dict[str, Any]], totals: list[dict[str, Any]]) -> None:
    from runner.rules.pricing import usd

    if not entries:
        console.out("nothing has been spent")
        return
    rows: list[tuple[object, ...]] = []
    for entry in [*entries, *totals]:
        name = entry.get(by, "total")
        rows.append(
            (
                f"{name} (simulated)" if entry["simulated"] else name,
                entry["requests"],
                entry["images"],
                usd(entry["cost_microusd"]),
                usd(entry["in_doubt_microusd"] + entry["open_microusd"]),
                entry["reused"],
                usd(entry["saved_by_reuse_microusd"]),
            )
        )
    console.table((by, "requests", "images", "cost", "in doubt", "reused", "saved by reuse"), rows)
    estimated = sum(entry["estimated_microusd"] for entry in entries)
    if estimated:
        console.out(f"\n{usd(estimated)} of this is an estimate: those answers told no usage")
