"""How much an image costs: before it is made (expected and worst case), and after (from its token counts).

Owns the arithmetic of money: whole micro-dollars (1e-6 USD), rounded half up once per request (law 6). Refuses to hold
a price: prices and token tables come from the catalog (law 7).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from runner.errors import Usage
from runner.tasks import Edit, ImageRequest, Input

if TYPE_CHECKING:
    from runner.catalog import InputTokens, Model, Prices

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


@dataclass(frozen=True, slots=True)
class Calibration:
    """What input images were billed in tokens, against what the catalog expects of the same ones.

    `highest` is the same of the one answer where the two differed most.
    """

    billed: int
    expected: int
    highest: tuple[int, int]


UNTRIED = Calibration(1, 1, (1, 1))
"""Nothing has been seen: the catalog is believed."""


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
    output = image_quote(request.size, request.quality, model, prices)
    start = Quote(0, 0, 0) if request.edit is None else edit_quote(request.edit, model, prices)
    return output + prompt_quote(request.prompt, prices) + start


def prompt_quote(prompt: str, prices: Prices) -> Quote:
    """The input side of `quote`: what a prompt's text adds."""
    return text_quote(*prompt_tokens(prompt), prices)


def prompt_tokens(prompt: str) -> tuple[int, int]:
    """The tokens that a prompt is expected to bill, and the most that it can."""
    expected = -(-len(prompt) // CHARS_PER_TOKEN) + PROMPT_OVERHEAD_TOKENS
    return expected, len(prompt.encode("utf-8", "surrogatepass")) + PROMPT_OVERHEAD_TOKENS


def text_quote(expected: int, worst: int, prices: Prices) -> Quote:
    """What so many tokens of text add."""
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


def edit_quote(edit: Edit, model: Model, prices: Prices, seen: Calibration = UNTRIED) -> Quote:
    """What the input images of an edit add. The mask adds nothing.

    Expected is what the catalog says, corrected by what was `seen` on average. The worst case is the most that its
    words can mean (a small picture is made larger as well), and no less than what the dearest answer would have it be.
    """
    rule = model.input_tokens
    if rule is None:
        return Quote(0, 0, 0)
    told = edit_tokens(edit, rule)
    tokens = -(-told * seen.billed // seen.expected)
    billed, expected = seen.highest
    most = sum(input_tokens(image, edit.fidelity, rule, enlarge=True) for image in edit.images)
    worst = max(tokens, most, -(-told * billed // expected))
    return Quote(_ceil(tokens * prices.image_in), _ceil(worst * prices.image_in), tokens)


def edit_tokens(edit: Edit, rule: InputTokens) -> int:
    """The tokens of an edit's input images, as the catalog has it."""
    return sum(input_tokens(image, edit.fidelity, rule) for image in edit.images)


def input_tokens(image: Input, fidelity: str | None, rule: InputTokens, *, enlarge: bool = False) -> int:
    """The tokens of one input image; with `enlarge`, as if a small one were made as large as a large one becomes."""
    width, height = image.width, image.height
    # In whole numbers, as a ratio of `over` to `under`: a side that is just a tile long must not become two.
    over, under = min((1, 1), (rule.max_side_px, max(width, height)), key=_ratio)
    short = rule.short_side_px, min(width, height)
    over, under = short if enlarge else min((over, under), short, key=_ratio)
    tiles = 1
    for side in (width, height):
        tiles *= -(-side * over // (under * rule.tile_px))
    extra = rule.fidelities.get(fidelity or rule.default_fidelity, rule.fidelities[rule.default_fidelity])
    return rule.base + rule.per_tile * tiles + (extra.square if width == height else extra.other)


def calibrated(seen: Iterable[tuple[Edit, int]], rule: InputTokens) -> Calibration:
    """What edits were billed for their input images, in tokens, against what `rule` says of each."""
    billed, expected, highest = 0, 0, (1, 1)
    for edit, tokens in seen:
        told = edit_tokens(edit, rule)
        if tokens > 0 and told > 0:
            billed, expected = billed + tokens, expected + told
            highest = max(highest, (tokens, told), key=_ratio)
    return Calibration(billed, expected, highest) if expected else UNTRIED


def _ratio(pair: tuple[int, int]) -> Fraction:
    return Fraction(*pair)


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
