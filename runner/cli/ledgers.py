"""Commands for a ledger as a whole: `runner ledger cap`, `runner ledger copy`.

Owns their arguments and how their answers look.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from runner.cli import console, options

if TYPE_CHECKING:
    from runner.ledger import Cap, Committed, Ledger


class CapPer(StrEnum):
    """The periods of a cap."""

    DAY = "day"
    MONTH = "month"
    EVER = "ever"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        help="The ledger as a whole: its cap, its copies.",
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    group.command(
        short_help="Show or set what all jobs together may spend.",
        epilog="Examples: runner ledger cap; runner ledger cap 250 --per month; runner ledger cap none",
    )(cap)
    group.command(
        short_help="Copy a whole ledger: to a PostgreSQL server, back, or elsewhere.",
        epilog="Examples: runner ledger copy output/ledger.sqlite3 postgresql://runner@db/images; "
        "runner ledger copy postgresql://runner@db/images backup.sqlite3",
    )(copy)
    app.add_typer(group, name="ledger", short_help="The ledger as a whole: cap, copy.")


def cap(
    usd: Annotated[
        str | None, typer.Argument(metavar="[USD|none]", help="The new cap, or `none`; without it, what there is.")
    ] = None,
    per: Annotated[CapPer, typer.Option("--per", help="The period after which nothing is spent yet.")] = CapPer.MONTH,
    output: options.Output = None,
    ledger: options.Ledger = None,
    json: options.Json = False,
) -> None:
    """Show or set what all jobs of a ledger together may spend, on whatever host they run.

    Every request reserves its worst case against it before it leaves, beside the budget of its own job. A new cap holds
    at once, for runs that are under way as well; what the period has cost so far counts. Real and simulated money are
    counted apart. Days and months are UTC.
    """
    from runner import invocation
    from runner.ledger import Cap, Ledger

    chosen = options.gather(output=output, ledger=ledger)
    if usd is None:
        with Ledger.open(chosen.ledger_place, create=False) as opened:
            _show(opened, json=json)
        return
    wanted: Cap | None = None
    if usd.strip().lower() != "none":
        from runner.rules.pricing import microusd

        period: Literal["ever", "day", "month"] = (
            "day" if per is CapPer.DAY else "month" if per is CapPer.MONTH else "ever"
        )
        wanted = Cap(period, microusd(options.amount(usd, option="USD")))
    with Ledger.open(chosen.ledger_place, create=True) as opened:
        opened.caps.set(wanted, now_ms=invocation.now_ms())
        _show(opened, json=json)


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The ledger to copy: a path or a PostgreSQL URL.")],
    destination: Annotated[
        str, typer.Argument(metavar="DST", help="Where to: a path or a PostgreSQL URL with nothing on record.")
    ],
    json: options.Json = False,
) -> None:
    """Copy a whole ledger to a place where nothing is on record yet; the source stays as it is.

    All of it is written in one transaction, read again and compared before that counts. Refused while a run holds a job
    of the source. Then name the copy with --ledger or RUNNER_LEDGER. Images are not touched: they stay where they are.
    Give the password of a server in PGPASSWORD or ~/.pgpass: what stands in a command can be seen by others.
    """
    from pathlib import Path

    from runner.ledger import locate
    from runner.ledger.copying import copy as copy_ledger

    done = copy_ledger(locate(source, Path()), locate(destination, Path()))
    if json:
        told = {"source": str(done.source), "destination": str(done.destination), "rows": done.rows}
        console.line({"type": "copied", **told})
        return
    places = [console.safe(str(place)) for place in (done.source, done.destination)]
    console.out(f"copied {places[0]} to {places[1]}: every row was read again and is the same")
    for table, count in done.rows.items():
        if count:
            console.out(f"  {table:<14} {count}")


def _show(ledger: Ledger, *, json: bool) -> None:
    from runner.invocation import now_ms

    found = ledger.caps.cap()
    committed = ledger.caps.committed(now_ms=now_ms())
    if json:
        lines = [_line(ledger, found, one) for one in committed] or [_line(ledger, found, None)]
        for line in lines:
            console.line(line)
        return
    from runner.rules.pricing import usd

    if found is None:
        console.out(f"the ledger {console.safe(str(ledger.place))} has no cap: each job has its own budget, or none")
        return
    per = "" if found.per == "ever" else f" per {found.per}"
    console.out(f"cap        {usd(found.microusd)}{per}")
    for one in committed:
        since = "" if found.per == "ever" else f" since {_day(one.start_ms)} UTC"
        left = usd(max(0, found.microusd - one.microusd))
        name = "simulated" if one.simulated else "committed"
        console.out(f"{name:<10} {usd(one.microusd)}{since} (spent, reserved or in doubt), {left} left")


def _line(ledger: Ledger, found: Cap | None, one: Committed | None) -> dict[str, object]:
    line: dict[str, object] = {
        "type": "cap",
        "ledger": str(ledger.place),
        "cap_usd": None if found is None else found.microusd / 1e6,
        "per": None if found is None else found.per,
    }
    if one is not None:
        line |= {
            "simulated": one.simulated,
            "since": _day(one.start_ms),
            "committed_usd": one.microusd / 1e6,
        }
    return line


def _day(at_ms: int) -> str:
    return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).strftime("%Y-%m-%d")
