"""What one request takes in tokens and costs in money: the simulator's own arithmetic, exact.

Owns the bill's figures. Refuses to know how the runner computes the same.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal

from runner.catalog import Model, Prices

_PIECE = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")
_OVERHEAD_TOKENS = 6


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


def _area(size: str) -> int:
    width, height = size.split("x")
    return int(width) * int(height)


def cost_microusd(prices: Prices, *, text_in: int, image_in: int, image_out: int) -> int:
    """The price of one request in micro-dollars, rounded half up to a whole one.

    USD per million tokens is micro-dollars per token, so no factor is needed.
    """
    exact = text_in * prices.text_in + image_in * prices.image_in + image_out * prices.image_out
    return int(Decimal(exact).quantize(Decimal(1), ROUND_HALF_UP))
