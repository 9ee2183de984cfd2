"""Commands that make something to look at of images that are there: render, gallery.

Owns their arguments and how their answers look.
"""

from __future__ import annotations

from typing import Annotated

import typer

from runner.cli import console, options


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        short_help="Make the renditions of a job that are not there yet; free, offline.",
        epilog="Example: runner render nightly-thumbnails",
    )(render)
    app.command(
        short_help="Write the page on which all images of a job are seen.",
        epilog="Example: runner gallery nightly-thumbnails --open",
    )(gallery)


def render(
    job: options.Job,
    output: options.Output = None,
    ledger: options.Ledger = None,
    overrides: options.Set = None,
    engine: options.EngineName = options.Engine.LOCAL,
    ray_address: options.RayAddress = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make what the manifest's `renditions` ask for, of every image that lacks it; nothing is sent, nothing is paid.

    A changed recipe makes only what it has changed. Runs do the same for the images that they make.
    """
    from runner import api
    from runner.cli.progress import RenderingProgress

    chosen = options.gather(output=output, ledger=ledger, overrides=overrides, engine=engine, ray_address=ray_address)
    made = api.render(job, chosen, listener=RenderingProgress(quiet=quiet))
    failed = made.renditions_failed + made.composites_failed
    if json:
        console.line(
            {
                "type": "render",
                "job": made.job,
                "renditions": made.renditions,
                "renditions_failed": made.renditions_failed,
                "composites": made.composites,
                "composites_failed": made.composites_failed,
                "folder": str(made.folder),
            }
        )
    else:
        count = made.renditions + made.composites
        console.out(f"{count} files were made" if count or failed else "everything is there already")
        if failed:
            console.out(f"{failed} could not be made")
        console.out(f"  in {console.safe(str(made.folder))}")
    raise typer.Exit(4 if failed else 0)


def gallery(
    job: options.Job,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    output: options.Output = None,
    ledger: options.Ledger = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write OUTPUT/JOB/gallery/index.html: every image of the job on one page that works offline, with its cost.

    Each later run of the job makes the thumbnails of its images, and brings the page up to date.
    """
    from runner import api
    from runner.cli.progress import RenderingProgress

    made = api.gallery(job, options.gather(output=output, ledger=ledger), listener=RenderingProgress(quiet=quiet))
    if json:
        console.line(
            {
                "type": "gallery",
                "job": made.job,
                "page": str(made.page),
                "thumbnails": made.thumbnails,
                "thumbnails_failed": made.thumbnails_failed,
                "busy": made.is_busy,
            }
        )
    else:
        console.out(console.safe(str(made.page)))
    if made.is_busy and not quiet:
        console.note(
            "a run holds the job: images without a thumbnail are shown as they are; call this again when it has ended"
        )
    if made.thumbnails_failed and not quiet:
        console.warn(f"{made.thumbnails_failed} thumbnails could not be made: their images are shown instead")
    if show:
        typer.launch(made.page if isinstance(made.page, str) else made.page.resolve().as_uri())
