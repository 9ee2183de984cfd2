"""What one request takes in tokens and costs in money: the simulator's own arithmetic, exact.

Owns the bill's figures. Refuses to know how the runner computes the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from runner.catalog import Model, Prices
from runner.simulator.validate import Order

_PIECE = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")
_OVERHEAD_TOKENS = 6


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request is billed: tokens of the prompt, of its input images, of what was made, and their price."""

    text_tokens: int
    image_tokens: int
    output_tokens: int
    cost_microusd: int

    @property
    def input_tokens(self) -> int:
        """Text and images together."""
        return self.text_tokens + self.image_tokens

    @property
    def total_tokens(self) -> int:
        """What counts against the tokens a minute."""
        return self.input_tokens + self.output_tokens


def charge(order: Order) -> Charge:
    """The charge of an order; a mask adds nothing."""
    text = prompt_tokens(order.prompt)
    image = sum(input_tokens(order.model, each.width, each.height, order.fidelity) for each in order.inputs)
    output = order.n * output_tokens(order.model, order.quality, order.width, order.height)
    return Charge(text, image, output, cost_microusd(order.prices, text_in=text, image_in=image, image_out=output))


def prompt_tokens(prompt: str) -> int:
    """A stand-in for the provider's tokeniser, plus the 6 tokens that frame a prompt.

    Every 7 letters of a word, every 3 digits of a number, and every other sign count as one token.
    """
    count = _OVERHEAD_TOKENS
    for match in _PIECE.finditer(prompt):
        length, first = match.end() - match.start(), prompt[match.start()]
        count += -(-length // (3 if first.isdigit() else 7)) if first.isascii() else 1
    return count


def output_tokens(model: Model, quality: str, width: int, height: int) -> int:
    """Image tokens of one picture of `width` x `height` pixels.

    A size that the catalog does not list takes as many tokens per pixel as the dearest listed one, rounded up.
    """
    listed = model.output_tokens[quality]
    exact = listed.get(f"{width}x{height}")
    if exact is not None:
        return exact
    area = width * height
    return max(-(-tokens * area // _area(size)) for size, tokens in listed.items())


def input_tokens(model: Model, width: int, height: int, fidelity: str | None) -> int:
    """Image tokens of one input of `width` x `height` pixels; `fidelity` None is the model's own.

    Counted in whole numbers: the picture is made smaller by the ratio that the tighter of the two bounds asks for, and
    never larger.
    """
    rule = model.input_tokens
    assert rule is not None, "a model without them makes no edits"
    long, short = max(width, height), min(width, height)
    # Smaller by over/under, the smallest of 1, max_side/long and short_side/short.
    over, under = 1, 1
    for bound, side in ((rule.max_side_px, long), (rule.short_side_px, short)):
        if bound * under < over * side:
            over, under = bound, side
    tiles = 1
    for side in (width, height):
        tiles *= -(-side * over // (under * rule.tile_px))
    added = rule.fidelities[fidelity or rule.default_fidelity]
    return rule.base + rule.per_tile * tiles + (added.square if width == height else added.other)


def _area(size: str) -> int:
    width, height = size.split("x")
    return int(width) * int(height)


def cost_microusd(prices: Prices, *, text_in: int, image_in: int, image_out: int) -> int:
    """The price of one request in micro-dollars, rounded half up to a whole one.

    USD per million tokens is micro-dollars per token, so no factor is needed.
    """
    exact = text_in * prices.text_in + image_in * prices.image_in + image_out * prices.image_out
    return int(Decimal(exact).quantize(Decimal(1), ROUND_HALF_UP))
