"""Which model is asked for each that is wanted: itself, or the fallback once it has ended.

Owns the models' ends, the choice of the fallback, and whether a delivery has a model at all. Refuses to hold a date or
a price (the catalog's) and to know today's date (an argument).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.errors import InputError, ManifestError, StopRun
from runner.tasks import Origin

if TYPE_CHECKING:
    from runner.catalog import Catalog, Delivery

WARN_DAYS = 30
"""How long before a model's shutdown plan and run begin to warn."""


@dataclass(frozen=True, slots=True)
class Models:
    """Which model is asked for each that is wanted, today, and what to say about it."""

    effective: Mapping[str, str]
    warnings: tuple[str, ...]
    fallback: str | None = None
    """What is asked when the provider says that a model is gone; None where nothing can be."""


def choose_models(
    wanted: Mapping[str, Origin],
    *,
    fallback: str | None,
    provider: str,
    catalog: Catalog,
    today: dt.date,
    delivery: Delivery = "online",
    delivery_origin: Origin | None = None,
) -> Models:
    """The model to send for each wanted one: itself, or the fallback once it has been shut down.

    `delivery_origin` is where the delivery was asked for; None for the command line.

    Raises:
        StopRun: a model has been shut down and there is no fallback that is still served; nothing was sent.
        InputError: a model has no price at this provider, or this provider or model no batches and they were asked for.
    """
    if delivery == "batch":
        _refuse_without_batches(provider, catalog, delivery_origin)
    effective: dict[str, str] = {}
    warnings: list[str] = []
    usable = fallback
    if fallback is not None and delivery == "batch" and not catalog.has_batch(provider, fallback):
        usable = None
        warnings.append(
            f"fallback_model {fallback} is not known to be served in batches at {provider}: no batch will ask for it"
        )
    elif fallback is not None and not catalog.has_price(provider, fallback, delivery):
        # What has no price cannot be kept under a cap; a gateway's job need not end for want of a second model.
        usable = None
        kind = "batch price" if delivery == "batch" else "price"
        warnings.append(f"fallback_model {fallback} has no {kind} at {provider} in the catalog: it will not be asked")
    for name, origin in wanted.items():
        at = place_of(origin)
        shutdown = _shutdown(name, provider, catalog)
        enforced = catalog.provider(provider).enforces_shutdown
        chosen = name
        if shutdown is not None and today >= shutdown and enforced:
            if fallback is None or _is_over(fallback, provider, catalog, today):
                successor = _successor(name, provider, catalog, today, delivery)
                raise StopRun(
                    f"{at}: {name} was shut down by {provider} on {shutdown}"
                    + (f", and so was its fallback {fallback}" if fallback else ""),
                    code="model_shut_down",
                    hint=f"change that line to `model: {successor}`, or add `fallback_model: {successor}`",
                )
            chosen = fallback
            warnings.append(f"{name} was shut down on {shutdown}: {fallback} is used instead (fallback_model)")
        elif shutdown is not None and (shutdown - today).days <= WARN_DAYS:
            days = (shutdown - today).days
            when = f"in {days} days" if days > 0 else "already"
            successor = _successor(name, provider, catalog, today, delivery)
            do = "change that to" if fallback else "add"
            then = f"then {usable} takes over" if usable else f"{do} `fallback_model: {successor}`"
            warnings.append(f"{at}: {name} is shut down by OpenAI on {shutdown} ({when}); {then}")
        if delivery == "batch":
            _refuse_without_batch(chosen, name, origin, provider, catalog, today)
            warnings.extend(_reaches_beyond(chosen, provider, catalog, today))
        else:
            catalog.prices_for(provider, chosen, delivery)
        effective[name] = chosen
    if (
        usable is not None
        and catalog.provider(provider).enforces_shutdown
        and _is_over(usable, provider, catalog, today)
    ):
        usable = None
    return Models(effective, tuple(warnings), usable)


def place_of(origin: Origin) -> str:
    """A place in the user's files as people write it: `jobs/spring.yaml:3:8`."""
    return ":".join(str(part) for part in (origin.source, origin.line, origin.column) if part is not None)


def _refuse_without_batches(provider: str, catalog: Catalog, origin: Origin | None) -> None:
    if catalog.serves_batches(provider):
        return
    message = f"{provider} is not known to have the Batch API"
    hint = (
        "use `delivery: online`; if it has, say so in a file for --catalog: "
        f"`providers: {{{provider}: {{batch: true}}}}`, and prices of its own with `delivery: batch`"
    )
    raise _error(message, origin, hint)


def _refuse_without_batch(
    model: str, wanted: str, origin: Origin, provider: str, catalog: Catalog, today: dt.date
) -> None:
    others = [name for name in catalog.models if _can_be_in_a_batch(name, provider, catalog, today)]
    instead = f"a model that is ({', '.join(others)})" if others else "another model"
    who = model if model == wanted else f"{model}, which is asked instead of {wanted} (fallback_model),"
    if not catalog.has_batch(provider, model):
        raise _error(
            f"{who} is not known to be served in batches",
            origin,
            f"use {instead}, or `delivery: online`; if {provider} does serve it, say so in a file for --catalog: "
            f"`models: {{{catalog.model(model).name}: {{batch: true}}}}`, and a price with `delivery: batch`",
        )
    if not catalog.has_price(provider, model, "batch"):
        raise _error(
            f"the catalog has no batch price for {who.rstrip(',')} at {provider}",
            origin,
            f"use {instead}, or `delivery: online`; or add its price, with `delivery: batch`, "
            "in a file of your own and name it with --catalog",
        )


def _reaches_beyond(model: str, provider: str, catalog: Catalog, today: dt.date) -> list[str]:
    """A batch may take until tomorrow, and what has not been made when its model ends never is."""
    shutdown = _shutdown(model, provider, catalog)
    if shutdown is None or not today < shutdown <= today + dt.timedelta(days=1):
        return []
    return [
        f"a batch of today may take until {model} is shut down on {shutdown}: "
        "what it has not made by then it will not make; `delivery: online` makes it now"
    ]


def _error(message: str, origin: Origin | None, hint: str) -> InputError:
    if origin is None:
        return InputError(f"delivery by batch: {message}", hint=hint)
    return ManifestError(
        f"delivery by batch: {message}", source=origin.source, line=origin.line, column=origin.column, hint=hint
    )


def _shutdown(model: str, provider: str, catalog: Catalog) -> dt.date | None:
    lifecycle = catalog.lifecycle(provider, model)
    return lifecycle.shutdown if lifecycle else None


def _is_over(model: str, provider: str, catalog: Catalog, today: dt.date) -> bool:
    shutdown = _shutdown(model, provider, catalog)
    return shutdown is not None and today >= shutdown


def _can_be_in_a_batch(model: str, provider: str, catalog: Catalog, today: dt.date) -> bool:
    served = catalog.has_batch(provider, model) and not _is_over(model, provider, catalog, today)
    return served and catalog.has_price(provider, model, "batch")


def _successor(model: str, provider: str, catalog: Catalog, today: dt.date, delivery: Delivery) -> str:
    """What to write in place of a model that ends: for batches one that can be in them, if there is any."""
    successors = catalog.model(model).successors
    if delivery == "batch":
        able = (name for name in (*successors, *catalog.models) if _can_be_in_a_batch(name, provider, catalog, today))
        successors = (*(name for name in able if name != model), *successors)
    return successors[0] if successors else "MODEL"
