"""The command that makes chosen images again: promote.

Owns its arguments and how its answer looks.
"""

from __future__ import annotations

from typing import Annotated

import typer

from runner.cli import console, options


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        short_help="Make chosen images again, on a better model or larger.",
        epilog="Examples: runner promote sweep --winners --model gpt-image-2.6-sunburst --quality high; "
        "runner promote sweep --pick 3f9a0c21d4 --as-edit --quality high --plan",
    )(promote)


def promote(
    job: options.Job,
    winners: Annotated[
        bool, typer.Option("--winners", help="Of each prompt, the image that has won most (see `runner results`).")
    ] = False,
    min_stars: Annotated[
        float | None,
        typer.Option("--min-stars", metavar="N", min=1, max=5, help="Images with so many stars on average."),
    ] = None,
    pick: Annotated[
        list[str] | None,
        typer.Option("--pick", metavar="ID", help="An image by its id or name, as the gallery shows it; repeatable."),
    ] = None,
    top: Annotated[int | None, typer.Option("--top", metavar="N", min=1, help="Only the best N of those.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="The model to use.")] = None,
    quality: Annotated[str | None, typer.Option("--quality", metavar="QUALITY", help="The quality to ask for.")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="WxH", help="The size to ask for.")] = None,
    as_edit: Annotated[
        bool, typer.Option("--as-edit", help="Send the chosen image along, as what the new one starts from.")
    ] = False,
    samples: Annotated[int, typer.Option("--samples", metavar="N", min=1, max=1000, help="Make so many of each.")] = 1,
    name: Annotated[
        str | None, typer.Option("--name", metavar="JOB", help="The new job's name [default: made of the options].")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what it would make and cost, and stop.")] = False,
    provider: options.Provider = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
    budget: options.Budget = None,
    max_duration: options.MaxDuration = None,
    max_failures: options.MaxFailures = None,
    delivery: options.DeliveryBy = None,
    wait: options.Wait = None,
    catalog: options.CatalogFile = None,
    insecure: options.Insecure = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make the chosen images of a job again: on another model, in another size or quality, or as edits of themselves.

    They become a job of their own, with a manifest in OUTPUT/JOB/promotions; `runner run NAME` resumes it. The price is
    shown before anything is sent, and the origin's budget holds for it unless --budget says otherwise. Gallery and
    ledger put what was made beside what it was made from.
    """
    from runner import api
    from runner.cli.running import show_plan
    from runner.cli.telling import audience, show_summary
    from runner.engine.stop import Stop
    from runner.promotion import Choosing, Target
    from runner.report.plan import lines

    if sum((winners, min_stars is not None, bool(pick))) != 1:
        raise typer.BadParameter("say which images: --winners, --min-stars N, or --pick ID (as often as you like)")
    chosen = options.gather(
        provider=provider,
        base_url=base_url,
        api_key_env=api_key_env,
        insecure=insecure,
        output=output,
        ledger=ledger,
        budget=budget,
        catalog=catalog,
        max_duration=max_duration,
        max_failures=max_failures,
        delivery=delivery,
        wait=wait,
    )
    choosing = Choosing(winners=winners, min_stars=min_stars, picks=tuple(pick or ()), top=top)
    target = Target(model=model, quality=quality, size=size, as_edit=as_edit, samples=samples, name=name)
    with api.promotion(job, chosen, choosing, target) as prepared:
        made = api.plan(prepared.manifest, chosen)
        if json:
            console.line(
                {
                    "type": "promotion",
                    "job": prepared.name,
                    "origin": prepared.origin,
                    "chosen": [tile.key for tile in prepared.chosen],
                }
            )
            for entry in lines(made):
                console.line(entry)
        elif plan or not quiet:
            _tell(prepared.name, prepared.origin, len(prepared.chosen), prepared.before)
            show_plan(made, quiet=quiet)
        if plan:
            return
        stop = Stop()
        summary = api.promote(
            prepared, chosen, listener=audience(stop, json=json, quiet=quiet), stop=stop, handle_signals=True
        )
    if not json:
        show_summary(summary)
    raise typer.Exit(summary.exit_code)


def _tell(name: str, origin: str, chosen: int, before: int) -> None:
    added = f", beside {before} that were chosen before" if before else ""
    images = f"{chosen} image{'' if chosen == 1 else 's'}"
    console.out(f"{console.paint(console.safe(name), 'bold')}: {images} of {console.safe(origin)}{added}")
