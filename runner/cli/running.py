"""Commands that make images or say what would be made: run, resume, plan, retry.

Owns their arguments and how a plan and a summary look.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli import console, options

if TYPE_CHECKING:
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
    delivery: options.DeliveryBy = None,
    wait: options.Wait = None,
    catalog: options.CatalogFile = None,
    in_doubt: Annotated[
        InDoubt, typer.Option("--in-doubt", help="Try requests that may have been billed once more, or hold them.")
    ] = InDoubt.RETRY,
    insecure: options.Insecure = False,
    engine: options.EngineName = options.Engine.LOCAL,
    ray_address: options.RayAddress = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make what the job wants and does not have yet.

    Stop it with Ctrl-C and run it again at any time: finished images are never asked for again.
    """
    from runner import api
    from runner.cli.telling import audience, show_summary
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
        delivery=delivery,
        wait=wait,
        engine=engine,
        ray_address=ray_address,
    )
    stop = Stop()
    summary = api.run(job, chosen, listener=audience(stop, json=json, quiet=quiet), stop=stop, handle_signals=True)
    if not json:
        show_summary(summary)
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
    delivery: options.DeliveryBy = None,
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
        delivery=delivery,
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
        show_plan(made, quiet=quiet)


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


def show_plan(made: Plan, *, quiet: bool) -> None:
    """A plan as a table with its totals, on stdout."""
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
    if made.total("submitted"):
        told = f"{made.total('submitted')} are in batches that the provider has"
        console.out(f"{told}: see `{console.program()} status {console.safe(made.job)}`")
    rate = "at the provider's own speed"
    if made.within_s is not None:
        rate = f"in {made.batches} batch{'' if made.batches == 1 else 'es'}, within {made.within_s / 3600:g} h"
    elif made.duration_s is not None:
        rate = f"at least {console.duration(made.duration_s)} at the allowed rate"
    kind = " (simulated: nothing real is spent)" if made.simulated else ""
    console.out(f"{made.total('to_do')} images to make with {made.provider}{kind}, {rate}")
    inputs = made.total("input_images")
    if inputs:
        console.out(f"{inputs:,} input images go with them, and are in the price")
    console.out(f"expected {usd(expected)}, at most {usd(worst)}; prices of {made.price_version}")
    if made.offers:
        console.out(f"{'; '.join(_offers(made))}; chosen: {made.delivery}")
        if made.falls_back:
            most = usd(made.offers["online"].worst_microusd)
            console.out(f"what no batch delivers is made online: {most} at most, if that is all of it")
    for wanted, effective in made.effective_models.items():
        if wanted != effective:
            console.out(f"{wanted} has been shut down: {effective} is asked instead")


def _offers(made: Plan) -> Iterator[str]:
    """What is to do by each delivery, in the words of the plan."""
    from runner.rules.pricing import usd

    for delivery, offer in made.offers.items():
        takes = "at the provider's own speed"
        if offer.within_s is not None:
            takes = f"within {offer.within_s / 3600:g} h"
        elif offer.at_least_s is not None:
            takes = f"in at least {console.duration(offer.at_least_s)}"
        yield f"{delivery} {usd(offer.expected_microusd)} {takes}"
