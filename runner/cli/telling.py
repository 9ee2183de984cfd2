"""How a run is told: who listens to its events, and how its summary looks.

Owns that a reader who has gone away takes no request with it. Refuses to know which command it is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner.cli import console

if TYPE_CHECKING:
    from runner.engine.events import Event, Listener, Summary
    from runner.engine.stop import Stop


def audience(stop: Stop, *, json: bool, quiet: bool) -> Listener:
    """Who hears of a run's events: a display on stderr, and with `json` a line for each on stdout."""
    from runner.cli.progress import Progress, Warnings

    watching: Listener = Warnings() if quiet else Progress()
    listeners: list[Listener] = [watching, _print_line] if json else [watching]

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

    return tell


def _print_line(event: Event) -> None:
    import datetime as dt

    from runner.engine.events import Heartbeat
    from runner.report.lines import line

    if not isinstance(event, Heartbeat):
        console.raw(line(event, now=dt.datetime.now(dt.UTC)))


def show_summary(summary: Summary) -> None:
    """What a run has come to, on stdout."""
    from runner.rules.pricing import usd

    good = summary.exit_code == 0
    program = console.program()
    job = console.safe(summary.job)
    nothing = summary.requests == 0 and summary.made == 0 and not summary.submitted and good
    head = f"nothing to do, no request was sent: {summary.reason}" if nothing else summary.reason
    ending = console.paint(console.safe(head, keep_lines=True), "green" if good else "yellow")
    console.out(f"{console.paint(job, 'bold')}: {ending}")
    requests = f"{summary.requests} request{'' if summary.requests == 1 else 's'}"
    console.out(f"  made     {summary.made} images with {requests} in {console.duration(summary.elapsed_s)}")
    parts = [f"{summary.done} of {summary.wanted} done"]
    for count, what in (
        (summary.reused, "of them reused from other jobs"),
        (summary.submitted, "submitted"),
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
    if summary.batches:
        several = f"{summary.batches} batches are" if summary.batches > 1 else "1 batch is"
        console.out(f"  batches  {several} under way: {program} collect {job} brings them home")
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
    if summary.renditions or summary.renditions_failed:
        lacking = f", {summary.renditions_failed} could not be" if summary.renditions_failed else ""
        console.out(f"  cut      {summary.renditions} renditions were made{lacking}")
    console.out(f"  ledger   {console.safe(summary.ledger)}  ({program} status {job}; {program} costs)")
