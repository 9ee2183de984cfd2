"""How much an image costs: before it is made (expected and worst case), and after (from its token counts).

Owns the arithmetic of money: whole micro-dollars (1e-6 USD), rounded half up once per request (law 6). Refuses to hold
a price: prices and token tables come from the catalog (law 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING

from runner.errors import Usage
from runner.tasks import ImageRequest

if TYPE_CHECKING:
    from runner.catalog import Model, Prices

PROMPT_OVERHEAD_TOKENS = 6
"""What a prompt bills beyond its own tokens."""
CHARS_PER_TOKEN = 4
"""English text, for the expected price only; the worst case counts a token per byte."""

_ONE = Decimal(1)
_MICROUSD_PER_USD = Decimal(1_000_000)
_DOWN = Context(rounding=ROUND_DOWN)


@dataclass(frozen=True, slots=True)
class Quote:
    """What one image will probably cost and can cost, in micro-dollars, and the tokens it is expected to use."""

    expected_microusd: int
    worst_microusd: int
    tokens: int

    def __add__(self, other: Quote) -> Quote:
        return Quote(
            self.expected_microusd + other.expected_microusd,
            self.worst_microusd + other.worst_microusd,
            self.tokens + other.tokens,
        )


def cost_microusd(usage: Usage, prices: Prices) -> int:
    """The cost of an answer from its raw token counts. USD per million tokens is micro-dollars per token."""
    cached_text = min(usage.cached_text_tokens, usage.input_text_tokens)
    cached_image = min(usage.cached_image_tokens, usage.input_image_tokens)
    exact = (
        (usage.input_text_tokens - cached_text) * prices.text_in
        + cached_text * prices.cached_text_in
        + (usage.input_image_tokens - cached_image) * prices.image_in
        + cached_image * prices.cached_image_in
        + usage.output_tokens * prices.image_out
    )
    return int(exact.quantize(_ONE, ROUND_HALF_UP))


def quote(request: ImageRequest, model: Model, prices: Prices) -> Quote:
    """The price of `request` before it is sent.

    `auto` is taken at its dearest: it may render and bill as the highest quality. The worst case is the published
    price per image where that is above tokens x rate, plus a prompt token for every byte.
    """
    return image_quote(request.size, request.quality, model, prices) + prompt_quote(request.prompt, prices)


def prompt_quote(prompt: str, prices: Prices) -> Quote:
    """The input side of `quote`: what a prompt's text adds."""
    expected = -(-len(prompt) // CHARS_PER_TOKEN) + PROMPT_OVERHEAD_TOKENS
    worst = len(prompt.encode("utf-8", "surrogatepass")) + PROMPT_OVERHEAD_TOKENS
    return Quote(_ceil(expected * prices.text_in), _ceil(worst * prices.text_in), expected)


def image_quote(size: str, quality: str, model: Model, prices: Prices) -> Quote:
    """The output side of `quote`: what does not depend on the prompt."""
    dearest = Quote(0, 0, 0)
    for q in _spread(quality, model.qualities):
        for s in _spread(size, model.sizes):
            tokens = output_tokens(s, q, model)
            by_rate = _ceil(tokens * prices.image_out)
            published = prices.published_per_image.get(q, {}).get(s)
            worst = by_rate if published is None else max(by_rate, _ceil(published * _MICROUSD_PER_USD))
            if (worst, by_rate) >= (dearest.worst_microusd, dearest.expected_microusd):
                dearest = Quote(by_rate, worst, tokens)
    return dearest


def output_tokens(size: str, quality: str, model: Model) -> int:
    """Expected output tokens of one image; a size that is not in the table is scaled by area from the dearest one."""
    table = model.output_tokens.get(quality, {})
    if size in table:
        return table[size]
    if not table:
        return 0
    per_pixel = max(Decimal(tokens) / _area(known) for known, tokens in table.items())
    return _ceil(per_pixel * _area(size))


def usd(microusd: int) -> str:
    """Micro-dollars as people write them: `$1.234567` without needless zeros, at least two decimals."""
    sign = "-" if microusd < 0 else ""
    whole, rest = divmod(abs(microusd), 1_000_000)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole:,}.{decimals}"


def microusd(amount_usd: Decimal) -> int:
    """A cap in USD as whole micro-dollars, rounded down: a cap is never raised by rounding."""
    return int(_DOWN.multiply(amount_usd, _MICROUSD_PER_USD))


def _spread(value: str, known: tuple[str, ...]) -> tuple[str, ...]:
    return known if value == "auto" else (value,)


def _area(size: str) -> int:
    width, _, height = size.partition("x")
    return int(width) * int(height)


def _ceil(amount: Decimal) -> int:
    return int(amount.to_integral_value(ROUND_CEILING))
