"""Commands for batches that are under way: collect, cancel.

Owns their arguments and how their answers look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli import console, options

if TYPE_CHECKING:
    from runner.collecting import Cancelled


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        short_help="Bring home what is over of submitted batches.",
        epilog="Example: runner collect nightly-batch",
    )(collect)
    app.command(
        short_help="End the batches of a job at the provider.",
        epilog="Example: runner cancel nightly-batch",
    )(cancel)


def collect(
    job: options.OneJob = None,
    provider: options.Provider = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
    overrides: options.Set = None,
    budget: options.Budget = None,
    max_duration: options.MaxDuration = None,
    catalog: options.CatalogFile = None,
    insecure: options.Insecure = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Bring home what is over of submitted batches, and submit nothing new.

    Each batch is asked for where it was submitted. Where the manifest says `batch: {fall_back: online}`, what a batch
    did not deliver is made online. What is still under way stays submitted: run it again later.
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
        catalog=catalog,
        max_duration=max_duration,
    )
    stop = Stop()
    summaries = api.collect(
        job, chosen, listener=audience(stop, json=json, quiet=quiet), stop=stop, handle_signals=True
    )
    if not json:
        for summary in summaries:
            show_summary(summary)
        if not summaries:
            console.out("no batches are under way")
    raise typer.Exit(next((summary.exit_code for summary in summaries if summary.exit_code), 0))


def cancel(
    job: options.Job,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="Give up batches that cannot be found at the provider: their images are in doubt."
        ),
    ] = False,
    provider: options.Provider = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
    catalog: options.CatalogFile = None,
    insecure: options.Insecure = False,
    json: options.Json = False,
) -> None:
    """Ask the provider to end the batches of a job.

    That takes up to ten minutes there. What a batch has made by then is billed, and `runner collect` brings it home;
    the rest is planned again, and the next run would submit it again.
    """
    from runner import api

    chosen = options.gather(
        provider=provider,
        base_url=base_url,
        api_key_env=api_key_env,
        insecure=insecure,
        output=output,
        ledger=ledger,
        catalog=catalog,
    )
    found = api.cancel(job, chosen, forget=forget)
    for each in found:
        if json:
            console.line(
                {
                    "type": "cancel",
                    "job": job,
                    "batch": each.batch,
                    "batch_id": each.batch_id,
                    "requests": each.requests,
                    "status": each.status,
                    "forgotten": each.forgotten,
                }
            )
        else:
            console.out(_in_words(each))
    if not json:
        if not found:
            console.out("no batches are under way")
        elif any(each.batch_id is not None and not each.forgotten for each in found):
            console.out(f"bring home what they have made with: {console.program()} collect {console.safe(job)}")


def _in_words(each: Cancelled) -> str:
    name = f"batch {each.batch} ({console.safe(each.batch_id or 'not submitted yet')}, {each.requests} requests)"
    if each.forgotten:
        return f"{name}: given up, its images are in doubt"
    if each.status == "creating":
        return f"{name}: the provider may have it, and the next run looks for it; --forget gives it up"
    if each.batch_id is None:
        return f"{name}: the provider does not have it; it ends with the run that was to submit it"
    if each.status is None:
        return f"{name}: the provider does not know it; --forget gives it up"
    return f"{name}: {console.safe(each.status)}"
