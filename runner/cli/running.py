"""Commands that make images or say what would be made: run, resume, plan, retry.

Owns their arguments and how a plan and a summary look.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli import console, options

if TYPE_CHECKING:
    from runner.engine.events import Event, Listener, Summary
    from runner.planner import Plan


class InDoubt(StrEnum):
    """What becomes of tasks that may have been billed without an image."""

    RETRY = "retry"
    HOLD = "hold"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        short_help="Make what the job wants and does not have yet.",
        epilog="Example: runner run jobs/nightly-thumbnails.yaml --provider simulator",
    )(run)
    app.command(
        "resume",
        help="Go on with a job: the same as `run`, under the word one looks for after a failed night.",
        short_help="Go on with a job: the same as `run`.",
        epilog="Example: runner resume nightly-thumbnails",
    )(run)
    app.command(
        short_help="Count, price and check; nothing is sent.",
        epilog="Example: runner plan jobs/ab-sweep.yaml --set samples=2",
    )(plan)
    app.command(
        short_help="Plan failed, refused or doubtful tasks again.",
        epilog="Example: runner retry nightly-thumbnails --refused --code moderation_blocked",
    )(retry)


def run(
    job: options.Job,
    provider: options.Provider = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
    overrides: options.Set = None,
    budget: options.Budget = None,
    limit: options.Limit = None,
    max_duration: options.MaxDuration = None,
    max_failures: options.MaxFailures = None,
    catalog: options.CatalogFile = None,
    in_doubt: Annotated[
        InDoubt, typer.Option("--in-doubt", help="Try requests that may have been billed once more, or hold them.")
    ] = InDoubt.RETRY,
    insecure: options.Insecure = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make what the job wants and does not have yet.

    Stop it with Ctrl-C and run it again at any time: finished images are never asked for again.
    """
    from runner import api
    from runner.cli.progress import Progress, Warnings
    from runner.engine.stop import Stop

    chosen = options.gather(
        provider=provider,
        base_url=base_url,
        api_key_env=api_key_env,
        insecure=insecure,
        output=output,
        ledger=ledger,
        overrides=overrides,
        budget=budget,
        limit=limit,
        catalog=catalog,
        hold_doubt=in_doubt is InDoubt.HOLD,
        max_duration=max_duration,
        max_failures=max_failures,
    )
    watching: Listener = Warnings() if quiet else Progress()
    listeners: list[Listener] = [watching, _print_line] if json else [watching]
    stop = Stop()

    def tell(event: Event) -> None:
        for listener in tuple(listeners):
            try:
                listener(event)
            except OSError:
                # A closed terminal or pipe must not take requests with it that are paid for. Without a terminal the
                # run goes on; without a reader of its results it finishes what is in flight.
                if listener in listeners:
                    listeners.remove(listener)
                    console.hush(sys.stderr if listener is watching else sys.stdout)
                if listener is not watching:
                    stop.ask("nobody reads the output any more")

    summary = api.run(job, chosen, listener=tell, stop=stop, handle_signals=True)
    if not json:
        _show_summary(summary)
    raise typer.Exit(summary.exit_code)


def plan(
    job: options.Job,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print the manifest as understood, and stop.")] = False,
    provider: options.Provider = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
    overrides: options.Set = None,
    budget: options.Budget = None,
    limit: options.Limit = None,
    catalog: options.CatalogFile = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what `run` would make, cost and take, before a cent is spent. Nothing is sent, no key is needed."""
    from runner import api, manifest
    from runner.report.plan import lines

    chosen = options.gather(
        provider=provider,
        base_url=base_url,
        api_key_env=api_key_env,
        output=output,
        ledger=ledger,
        overrides=overrides,
        budget=budget,
        limit=limit,
        catalog=catalog,
    )
    if resolved:
        console.raw(manifest.resolved(api.load(api.manifest_path(job, chosen), chosen)))
        return
    made = api.plan(job, chosen)
    if json:
        for entry in lines(made):
            console.line(entry)
    else:
        _show_plan(made, quiet=quiet)


def retry(
    job: options.Job,
    failed: Annotated[bool, typer.Option("--failed", help="Those for which every attempt failed.")] = False,
    refused: Annotated[bool, typer.Option("--refused", help="Those that the provider refused.")] = False,
    in_doubt: Annotated[bool, typer.Option("--in-doubt", help="Those that may have been billed.")] = False,
    code: Annotated[str | None, typer.Option("--code", metavar="CODE", help="Only those with this error code.")] = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
    json: options.Json = False,
) -> None:
    """Let tasks that failed, were refused or are in doubt be planned again; `run` then makes them."""
    from runner import api
    from runner.tasks import Status

    kinds = {Status.FAILED: failed, Status.REFUSED: refused, Status.IN_DOUBT: in_doubt}
    chosen = [status for status, wanted in kinds.items() if wanted]
    if not chosen:
        raise typer.BadParameter("say which: --failed, --refused, --in-doubt, or several of them")
    counts = api.retry(job, options.gather(output=output, ledger=ledger), chosen, code)
    total = sum(counts.values())
    if json:
        console.line({"type": "retry", "job": job, "planned_again": total, **{str(s): n for s, n in counts.items()}})
        return
    told = ", ".join(f"{count} {status}".replace("_", " ") for status, count in counts.items())
    console.out(f"{total} planned again ({told})" if total else "nothing to retry")
    if total:
        console.out(f"make them with: {console.program()} run {console.safe(job)}")


def _print_line(event: Event) -> None:
    import datetime as dt

    from runner.engine.events import Heartbeat
    from runner.report.lines import line

    if not isinstance(event, Heartbeat):
        console.raw(line(event, now=dt.datetime.now(dt.UTC)))


def _show_summary(summary: Summary) -> None:
    from runner.rules.pricing import usd

    good = summary.exit_code == 0
    program = console.program()
    job = console.safe(summary.job)
    nothing = summary.requests == 0 and good
    head = f"nothing to do, no request was sent: {summary.reason}" if nothing else summary.reason
    ending = console.paint(console.safe(head, keep_lines=True), "green" if good else "yellow")
    console.out(f"{console.paint(job, 'bold')}: {ending}")
    requests = f"{summary.requests} request{'' if summary.requests == 1 else 's'}"
    console.out(f"  made     {summary.made} images with {requests} in {console.duration(summary.elapsed_s)}")
    parts = [f"{summary.done} of {summary.wanted} done"]
    for count, what in (
        (summary.reused, "of them reused from other jobs"),
        (summary.planned, "still planned"),
        (summary.failed, "failed"),
        (summary.refused, "refused"),
        (summary.in_doubt, "in doubt"),
    ):
        if count:
            parts.append(f"{count} {what}")
    console.out(f"  job      {', '.join(parts)}")
    cost = usd(summary.cost_microusd)
    doubt = f", and {usd(summary.in_doubt_microusd)} in doubt" if summary.in_doubt_microusd else ""
    total = f"; the job so far: {usd(round(summary.job_cost_usd * 1e6))}"
    if summary.simulated:
        console.out(f"  cost     nothing: simulated (it would have cost {cost}{doubt}{total})")
    else:
        total = f" ({total.removeprefix('; ')})"
        console.out(f"  cost     {cost}{doubt}{total}")
    for problem in summary.problems:
        console.out(
            f"  {problem['status']!s:<8} {problem['tasks']} x {console.safe(problem['code'])}: "
            f"{console.safe(problem['example'])}"
        )
    console.out(f"  images   {console.safe(summary.images)}")
    if summary.composites or summary.composites_failed:
        lacking = f", {summary.composites_failed} could not be" if summary.composites_failed else ""
        folder = console.safe(str(Path(summary.images).with_name("composites")))
        console.out(f"  pasted   {summary.composites} composites were made{lacking}: {folder}")
    console.out(f"  ledger   {console.safe(summary.ledger)}  ({program} status {job}; {program} costs)")


def _show_plan(made: Plan, *, quiet: bool) -> None:
    from runner.rules.pricing import usd

    if not quiet:
        for warning in made.warnings:
            console.warn(warning)
    rows: list[tuple[object, ...]] = [
        (
            g.model,
            g.size,
            g.quality,
            g.wanted,
            g.done,
            g.reusable,
            g.to_do,
            usd(g.expected_microusd),
            usd(g.worst_microusd),
        )
        for g in made.groups.values()
    ]
    total = [made.total(name) for name in ("wanted", "done", "reusable", "to_do")]
    expected, worst = made.total("expected_microusd"), made.total("worst_microusd")
    rows.append(("total", "", "", *total, usd(expected), usd(worst)))
    console.table(
        ("model", "size", "quality", "wanted", "done", "reusable", "to do", "expected", "at most"), rows, left=3
    )
    console.out()
    if made.total("left"):
        console.out(f"{made.total('left')} failed or were refused earlier and are left alone: see `runner retry`")
    rate = "at the provider's own speed"
    if made.duration_s is not None:
        rate = f"at least {console.duration(made.duration_s)} at the allowed rate"
    kind = " (simulated: nothing real is spent)" if made.simulated else ""
    console.out(f"{made.total('to_do')} images to make with {made.provider}{kind}, {rate}")
    inputs = made.total("input_images")
    if inputs:
        console.out(f"{inputs:,} input images go with them, and are in the price")
    console.out(f"expected {usd(expected)}, at most {usd(worst)}; prices of {made.price_version}")
    for wanted, effective in made.effective_models.items():
        if wanted != effective:
            console.out(f"{wanted} has been shut down: {effective} is asked instead")
