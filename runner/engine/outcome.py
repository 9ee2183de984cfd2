"""What an answer without an image means for its task's record, whichever way it came.

Owns the line between what is known to have been billed, what is known not to have been, and what is in doubt. Refuses
to know requests and batches.
"""

from __future__ import annotations

from typing import assert_never

from runner.errors import Lost, ProviderError, Unusable, Usage
from runner.ledger import Cost
from runner.provider import Made
from runner.rules import pricing, retry
from runner.rules.quoting import Quoter
from runner.store import BadImage, Sealed
from runner.tasks import Event, ImageRequest


def is_told(error: ProviderError) -> bool:
    """Whether an answer without an image has said what it costs."""
    return isinstance(error, Unusable) and error.usage is not None and error.usage.is_told


def is_doubtful(error: ProviderError) -> bool:
    """Whether the provider may have billed an amount that nobody has told."""
    return isinstance(error, Lost | Unusable) and not is_told(error)


def spoilt(bad: BadImage, made: Made) -> Unusable:
    """The error of an answer that came whole, with an image that is none, or not the one that was asked for."""
    return Unusable(
        bad.message,
        code=bad.code,
        http_status=made.http_status,
        request_id=made.request_id,
        usage=made.envelope.usage,
    )


def cost_of(quoter: Quoter, model: str, usage: Usage | None, usage_json: str | None, reserved_microusd: int) -> Cost:
    """What an answer was billed; where it told no usage, what was reserved for it: never too little for a cap."""
    if usage is not None and usage.is_told:
        return Cost(pricing.cost_microusd(usage, quoter.prices(model)), "usage", usage, usage_json)
    return Cost(reserved_microusd, "estimate", None, usage_json)


def ending_of(decision: retry.Decision) -> tuple[Event, str]:
    """The event that a decision is for its task, and the status that it leads to."""
    match decision:
        case retry.TryAgain() | retry.Stop():
            return Event.BACKOFF, "planned"
        case retry.GiveUp():
            return Event.GAVE_UP, "failed"
        case retry.Refuse():
            return Event.REFUSED, "refused"
        case _:
            assert_never(decision)


def misfit(sealed: Sealed, request: ImageRequest) -> str:
    """How an image differs from what was asked for."""
    facts = sealed.facts
    return (
        f"the answer is a {facts.format} of {facts.width}x{facts.height}, "
        f"and a {request.output_format} of {request.size} was asked for"
    )
