"""The command that holds the images against the ledger: verify.

Owns its arguments, its question, and how what it finds looks in a terminal and as JSON lines.
"""

from __future__ import annotations

import dataclasses
import json as jsons
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli import console, options

if TYPE_CHECKING:
    from runner.verification import Event, Question, Verdict

SHOWN = 20
"""Lines for each kind of problem or repair; `--json` gives all of them."""
_COLOURS = {"unknown": "dim", "temporary": "dim", "put_back": "green", "planned": "yellow", "recorded": "yellow"}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        short_help="Check every image against the ledger.",
        epilog="Example: runner verify nightly-thumbnails --repair",
    )(verify)


def verify(
    job: options.OneJob = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode every image as well, and check all of the ledger: slower.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Put back what lies elsewhere; plan again what is gone, after asking."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Say yes to planning again what is gone.")] = False,
    output: options.Output = None,
    ledger: options.Ledger = None,
    catalog: options.CatalogFile = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    provider: options.Provider = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    overrides: options.Set = None,
    budget: options.Budget = None,
    limit: options.Limit = None,
) -> None:
    """Check that every image on record is there, byte for byte, and that the ledger does not contradict itself.

    A file that differs from its record is never touched: restore it from a copy, or delete it and use --repair.

    The words of `run` are taken here too, so that one line of options serves every command. --provider, --set and
    --catalog count for the price of a repair.
    """
    from runner import api

    shown = _Shown(as_json=json, quiet=quiet)

    def ask(question: Question) -> bool:
        shown.end()
        return True if yes else _ask(question)

    try:
        verdict = api.verify(
            job,
            options.gather(provider=provider, output=output, ledger=ledger, overrides=overrides, catalog=catalog),
            deep=deep,
            repair=repair,
            listener=shown,
            ask=ask,
        )
    finally:
        shown.end()
    if json:
        console.line(_entry(verdict))
    else:
        _show(verdict, job, repair=repair)
    raise typer.Exit(verdict.exit_code)


class _Shown:
    """What is found, line by line as it is found."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        from runner.cli.progress import Checking

        self._json = as_json
        self._progress = Checking(quiet=quiet)
        self._counts: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        from runner import verification

        match event:
            case verification.Began():
                self._tell_rest()
                self._progress.begin(event.job, event.assets)
            case verification.Looked():
                self._progress.step()
            case verification.Problem():
                place = event.path or event.task or event.job or "ledger"
                gone = "; the job no longer wants it" if event.wanted is False else ""
                self._tell("problem", event, event.kind, place, event.detail + gone)
            case verification.Repair():
                self._tell("repair", event, event.action, event.path, event.detail)

    def end(self) -> None:
        """All was told: the bar goes, and what was left out is counted."""
        self._progress.end()
        self._tell_rest()

    def _tell(self, kind: str, event: Any, what: str, place: str, detail: str) -> None:
        if self._json:
            self._progress.out(jsons.dumps({"type": kind, **dataclasses.asdict(event)}, ensure_ascii=True))
            return
        self._counts[what] += 1
        if self._counts[what] <= SHOWN:
            word = console.paint(f"{what.replace('_', ' '):<13}", _COLOURS.get(what, "red"))
            self._progress.out(f"{word} {console.safe(place)}: {console.safe(detail)}")

    def _tell_rest(self) -> None:
        for what, count in self._counts.items():
            if count > SHOWN:
                self._progress.out(f"{what.replace('_', ' '):<13} and {count - SHOWN} more, see --json")
        self._counts.clear()


def _ask(question: Question) -> bool:
    from runner.rules.pricing import usd

    one = question.images == 1
    images = f"{question.images} image{' is' if one else 's are'}"
    money = f"about {usd(question.expected_microusd)} (at most {usd(question.worst_microusd)})"
    cost = f"making {'it' if one else 'them'} costs {money}"
    if not question.at_catalog_prices:
        cost = f"{cost}, at the prices of when {'it was' if one else 'they were'} made"
    if question.simulated:
        cost = f"{cost}, if it were not simulated"
    text = f"{console.safe(question.job)}: {images} gone: plan {'it' if one else 'them'} again? {cost}"
    if not sys.stdin.isatty():
        console.note(f"{text}\nnobody is there to ask: nothing was planned; say it with --yes")
        return False
    sys.stderr.write(f"{text} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _entry(verdict: Verdict) -> dict[str, Any]:
    kinds = ("missing", "changed", "unreadable", "undecodable", "unknown", "temporary", "contradiction", "ledger")
    return {
        "type": "verify",
        "jobs": verdict.jobs,
        "assets": verdict.assets,
        "good": verdict.good,
        "bytes": verdict.bytes,
        **{kind: verdict.problems[kind] for kind in kinds},
        "put_back": verdict.repairs["put_back"],
        "planned_again": verdict.repairs["planned"],
        "recorded_as_gone": verdict.repairs["recorded"],
        "not_put_back": verdict.repairs["failed"],
        "not_planned": verdict.declined,
        "exit_code": verdict.exit_code,
    }


def _show(verdict: Verdict, job: str | None, *, repair: bool) -> None:
    found, mended = verdict.problems, verdict.repairs
    program = console.program()
    name = console.safe(job) if job is not None else ""
    again = " ".join(part for part in (f"{program} verify", name, "--repair") if part)
    good = verdict.good + mended["put_back"]
    head = f"{good} of {verdict.assets} images are there and right ({verdict.bytes / 1e6:,.1f} MB on record)"
    console.out(console.paint(head, "green" if verdict.exit_code == 0 else "yellow"))
    left = found["missing"] - mended["put_back"] - mended["recorded"] - mended["planned"]
    for count, what, words in (
        (mended["put_back"], "repaired", "put back where they belong"),
        (mended["recorded"], "repaired", "recorded as gone: the job no longer wants them"),
        (mended["planned"], "repaired", f"planned again; make them with: {program} run {name or 'JOB'}"),
        (left, "missing", "still missing" if repair else f"put back or planned again by: {again}"),
        (found["changed"], "changed", f"not touched: restore them from a copy, or delete them and: {again}"),
        (found["undecodable"], "damaged", f"as they were received; delete those that are of no use and: {again}"),
        (found["unreadable"], "unread", "check the permissions and the disk"),
        (found["unknown"], "unknown", "files that no image on record is; they are left alone"),
        (
            found["temporary"],
            "half-way",
            "left by a run that ended early; the next run takes them over or removes them",
        ),
        (found["contradiction"], "ledger", "contradictions; keep the ledger, and restore it from a copy"),
        (found["ledger"], "ledger", "signs of damage; keep the ledger, and restore it from a copy"),
    ):
        if count:
            console.out(f"  {what:<8} {count} {words}")
