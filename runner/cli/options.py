"""The options that commands share, each defined once.

Owns their names, help and parsing: the same word means the same on every command.
"""

from __future__ import annotations

import re
import sys
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from runner.invocation import Options
    from runner.rules.breaker import FailureLimit

_LONGEST_S = 366 * 86400
_SHARE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(%?)", re.ASCII)

Job = Annotated[str, typer.Argument(help="A manifest's path, or the name of a job that the ledger knows.")]
OneJob = Annotated[str | None, typer.Argument(help="A job's name or its manifest's path; every job if left out.")]
Provider = Annotated[
    str | None,
    typer.Option("--provider", metavar="NAME", help="openai, cometapi, simulator, or one of your own catalog."),
]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", metavar="URL", help="Any server with an OpenAI-compatible Images API.")
]
ApiKeyEnv = Annotated[
    str | None, typer.Option("--api-key-env", metavar="NAME", help="The environment variable that holds the key.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow plain HTTP to another machine.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="DIR|URL",
        help="Where images go: a folder, which has the ledger too, or s3://BUCKET/PREFIX "
        "[default: $RUNNER_OUTPUT, the manifest's output.dir, or output].",
    ),
]
Ledger = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        metavar="URL",
        help="The ledger: a path, sqlite:///PATH or postgresql://USER@HOST/DATABASE "
        "[default: $RUNNER_LEDGER or OUTPUT/ledger.sqlite3].",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the manifest, e.g. matrix.quality=[high]."),
]
Budget = Annotated[str | None, typer.Option("--budget", metavar="USD", help="The cap, instead of budget.usd.")]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Begin at most this many images in this run.")
]
MaxDuration = Annotated[
    str | None,
    typer.Option(
        "--max-duration", metavar="TIME", help="Send nothing more after this long, e.g. 90m or 7h30m (exit code 8)."
    ),
]
MaxFailures = Annotated[
    str | None,
    typer.Option(
        "--max-failures",
        metavar="N|N%|none",
        help="End the run after N requests in a row without an image, or when more than N% of its images fail "
        "[default: 100, or 4 for each request in flight].",
    ),
]


class Delivery(StrEnum):
    """How requests reach the provider."""

    ONLINE = "online"
    BATCH = "batch"


DeliveryBy = Annotated[
    Delivery | None,
    typer.Option(
        "--delivery",
        help="online: a request for each image, at once; batch: in files, within 24 hours, at half the price "
        "[default: the manifest's].",
    ),
]
Wait = Annotated[
    bool | None,
    typer.Option(
        "--wait/--no-wait",
        help="Stay until batches that are submitted are over, or leave them to be collected later "
        "[default: stay at a terminal; leave in cron or a pipe].",
        show_default=False,
    ),
]


class Engine(StrEnum):
    """Where requests and renditions are made."""

    LOCAL = "local"
    RAY = "ray"


EngineName = Annotated[
    Engine,
    typer.Option("--engine", help="local: requests and renditions are made here; ray: on the nodes of a Ray cluster."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="The cluster of --engine ray: HOST:PORT, auto, or local, which begins one here for this run "
        "[default: $RAY_ADDRESS, or the one that this machine is part of].",
    ),
]
CatalogFile = Annotated[
    Path | None,
    typer.Option("--catalog", metavar="FILE", help="A YAML file of yours with prices, models or providers."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, each with a `type`.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only errors and the result.")]


def gather(
    *,
    provider: str | None = None,
    base_url: str | None = None,
    api_key_env: str | None = None,
    insecure: bool = False,
    output: str | None = None,
    ledger: str | None = None,
    overrides: list[str] | None = None,
    budget: str | None = None,
    limit: int | None = None,
    catalog: Path | None = None,
    hold_doubt: bool = False,
    max_duration: str | None = None,
    max_failures: str | None = None,
    delivery: Delivery | None = None,
    wait: bool | None = None,
    engine: Engine = Engine.LOCAL,
    ray_address: str | None = None,
) -> Options:
    """The options of one invocation, for `runner.api`."""
    from runner.invocation import Options

    if ray_address is not None and engine is not Engine.RAY:
        raise typer.BadParameter("it is for --engine ray", param_hint="--ray-address")
    return Options(
        provider=provider,
        base_url=base_url,
        api_key_env=api_key_env,
        insecure=insecure,
        output=output,
        ledger=ledger,
        overrides=tuple(overrides or ()),
        budget_usd=None if budget is None else amount(budget, option="--budget"),
        limit=limit,
        catalog=catalog,
        hold_doubt=hold_doubt,
        max_duration_s=_seconds(max_duration),
        max_failures=_failures(max_failures),
        delivery=None if delivery is None else "batch" if delivery is Delivery.BATCH else "online",
        # Nobody watches cron or a pipe: what the provider works on for hours is collected by another call.
        wait=sys.stderr.isatty() if wait is None else wait,
        engine="ray" if engine is Engine.RAY else "local",
        ray_address=ray_address,
    )


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    from runner.manifest.durations import seconds

    found = seconds(text)
    if found is None or not 0 < found <= _LONGEST_S:
        raise typer.BadParameter(f"{text!r} is not a time such as 45s, 90m or 7h30m", param_hint="--max-duration")
    return found


def _failures(text: str | None) -> FailureLimit | None:
    from runner.rules.breaker import FailureLimit

    if text is None:
        return None
    word = text.strip().lower()
    if word == "none":
        return FailureLimit()
    parts = _SHARE.fullmatch(word)
    if parts is not None:
        amount, percent = float(parts[1]), parts[2] == "%"
        if percent and amount <= 100:
            return FailureLimit(share=amount / 100)
        if not percent and 0 < amount < 1:
            return FailureLimit(share=amount)
        if not percent and amount >= 1 and amount.is_integer():
            return FailureLimit(in_a_row=int(amount))
    raise typer.BadParameter(
        f"{text!r} is neither a number of failures in a row (20), nor a share of the run (5%), nor none",
        param_hint="--max-failures",
    )


def amount(text: str, *, option: str) -> Decimal:
    """An amount in USD, as it is typed."""
    try:
        found = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or found < 0:
        raise typer.BadParameter(f"{text!r} is not an amount in USD, such as 2.50", param_hint=option)
    return found
