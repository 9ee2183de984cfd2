"""Commands that choose: review, results.

Owns their arguments and how results look in a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli import console, options

if TYPE_CHECKING:
    from runner.report.results import Results

_MOST_RANKED = 30


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        short_help="Choose between images in a browser, one against another or by stars.",
        epilog="Example: runner review ab-sweep --blind --open",
    )(review)
    app.command(
        short_help="What the choices of a review come to.",
        epilog="Example: runner results ab-sweep",
    )(results)


def review(
    job: options.Job,
    reviewer: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Who judges [default: the page asks].")
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Nothing tells which image is which: no labels, sides shuffled.")
    ] = False,
    axis: Annotated[
        str | None, typer.Option("--axis", metavar="NAME", help="Only pairs that differ in this axis alone.")
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="After pairs that differ in one axis, also those that differ in more.")
    ] = False,
    stars: Annotated[
        bool, typer.Option("--stars", help="One image at a time, 1 to 5 stars, instead of pairs.")
    ] = False,
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65_535, help="0 takes any free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
    output: options.Output = None,
    ledger: options.Ledger = None,
) -> None:
    """Serve a job's gallery to this machine alone, with choosing switched on, until Ctrl-C.

    The page's address is printed on stdout. Whoever has it can see the job's images and choose; each choice is on
    record at once. It works while a run goes on, and whoever comes back goes on where they stopped.
    """
    from runner.invocation import find_job
    from runner.ledger import Ledger
    from runner.review import Settings, serve
    from runner.store import store_at

    chosen = options.gather(output=output, ledger=ledger)
    settings = Settings(reviewer=reviewer, blind=blind, axis=axis, all_pairs=all_pairs, stars=stars, port=port)
    with ExitStack() as held:
        opened = held.enter_context(Ledger.open(chosen.ledger_place, create=False))
        found = find_job(job, opened)

        def tell(address: str) -> None:
            console.raw(f"{address}\n")
            if open_browser:
                held.enter_context(_browsing(address))

        store = store_at(chosen.output_for(found), found.name)
        serve(opened, store, settings, on_ready=tell)


def results(
    job: options.Job,
    reviewer: Annotated[
        str | None, typer.Option("--reviewer", metavar="NAME", help="Only what this person has chosen.")
    ] = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
    json: options.Json = False,
) -> None:
    """Say what the choices of a review come to: win rates for each axis, a ranking of the variants, stars.

    A win rate has its 95 % interval (Wilson); one that holds 50 % shows no difference. The ranking is that of Bradley
    and Terry: the chance to beat the average variant.
    """
    from runner.invocation import find_job
    from runner.ledger import Ledger
    from runner.report.results import results as look
    from runner.review.wire import named

    who = None if reviewer is None else named(reviewer)
    with Ledger.open(options.gather(output=output, ledger=ledger).ledger_place, create=False) as opened:
        found = look(opened, find_job(job, opened), reviewer=who)
    if json:
        for entry in found.lines():
            console.line(entry)
    else:
        _show(found)


@contextmanager
def _browsing(address: str) -> Iterator[None]:
    """Open the page by a file that leads there: the command line of a browser is seen by everyone on the machine."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="runner-review-") as folder:
        door = Path(folder) / "review.html"
        door.write_text(
            f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>review</title>'
            f'<meta http-equiv="refresh" content="0; url={address}">',
            "utf-8",
        )
        typer.launch(door.as_uri())
        yield


def _show(found: Results) -> None:
    from runner.report.results import label

    name = console.safe(found.job)
    if not found.choices:
        who = (
            "nothing has been chosen"
            if found.reviewer is None
            else f"{console.safe(found.reviewer)} has chosen nothing"
        )
        console.out(f"{name}: {who} yet: {console.program()} review {name}")
        _show_left_out(found)
        return
    people = ", ".join(f"{console.safe(each.name)} ({each.verdicts + each.stars})" for each in found.people)
    console.out(f"{console.paint(name, 'bold')}: {found.choices} choices by {people}")
    met, same = found.agreement
    if met:
        console.out(
            f"  two people judged the same pair {met} times, and said the same in {100 * same / met:.0f} % of them"
        )
    _show_left_out(found)
    if found.contests:
        console.out()
        for contest in found.contests:
            console.out(f"  {console.safe(contest.sentence())}")
    if found.ranking:
        console.out()
        console.table(
            ("rank", "variant", "beats the average", "95 % interval", "wins", "losses", "ties"),
            [
                (
                    each.rank,
                    label(each.item),
                    f"{each.chance:.0%}",
                    "-" if each.low is None or each.high is None else f"{each.low:.0%} to {each.high:.0%}",
                    each.tally.wins,
                    each.tally.losses,
                    each.tally.ties,
                )
                for each in found.ranking[:_MOST_RANKED]
            ],
            left=2,
        )
        if len(found.ranking) > _MOST_RANKED:
            console.out(f"and {len(found.ranking) - _MOST_RANKED} more: --json has all of them")
    if found.stars:
        rows = [(f"{axis}={value}", f"{one.mean:.2f}", one.count) for (axis, value), one in found.value_stars.items()]
        rows += [(label(variant), f"{one.mean:.2f}", one.count) for variant, one in found.variant_stars.items()]
        console.out()
        console.table(("stars", "mean", "count"), rows[: 2 * _MOST_RANKED])


def _show_left_out(found: Results) -> None:
    if found.left_out:
        console.out(f"  {found.left_out} choices are left out: their images have changed, or are no longer wanted")
