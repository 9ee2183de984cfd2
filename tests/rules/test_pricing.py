"""What the arithmetic of money must hold: whole micro-dollars, exact, and a worst case that is never too small."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner import catalog
from runner.catalog import Model, Prices
from runner.errors import Usage
from runner.rules.pricing import (
    UNTRIED,
    Calibration,
    Quote,
    calibrated,
    cost_microusd,
    edit_quote,
    edit_tokens,
    image_quote,
    input_tokens,
    microusd,
    output_tokens,
    prompt_quote,
    quote,
    usd,
)
from runner.tasks import Edit, ImageRequest, Input

CATALOG = catalog.load()
MINI = CATALOG.model("gpt-image-1-mini")
MINI_PRICES = CATALOG.prices_for("openai", "gpt-image-1-mini")
MINI_BATCH = CATALOG.prices_for("openai", "gpt-image-1-mini", "batch")

MINI_CELLS = [
    ("low", "1024x1024", 272, 2_176, 5_000),
    ("low", "1024x1536", 408, 3_264, 6_000),
    ("low", "1536x1024", 400, 3_200, 6_000),
    ("medium", "1024x1024", 1056, 8_448, 11_000),
    ("medium", "1024x1536", 1584, 12_672, 15_000),
    ("medium", "1536x1024", 1568, 12_544, 15_000),
    ("high", "1024x1024", 4160, 33_280, 36_000),
    ("high", "1024x1536", 6240, 49_920, 52_000),
    ("high", "1536x1024", 6208, 49_664, 52_000),
]
"""Quality, size, output tokens, their cost and the published price in micro-dollars: the facts, not the catalog."""


def usage(text: int = 0, image: int = 0, output: int = 0, *, cached_text: int = 0, cached_image: int = 0) -> Usage:
    """Token counts that agree with each other."""
    return Usage(text + image, output, text + image + output, text, image, cached_text, cached_image)


def prices(text_in: str, image_out: str, **more: str) -> Prices:
    """A price list in USD per million tokens."""
    words = {"cached_text_in": "0", "image_in": "0", "cached_image_in": "0"} | more
    return Prices.model_validate(
        {"provider": "p", "model": "m", "source": "s", "text_in": text_in, "image_out": image_out, **words}
    )


RATES = st.decimals(0, 1000, places=3)
PRICE_LISTS = st.builds(
    lambda a, b, c, d, e: prices(str(a), str(e), cached_text_in=str(b), image_in=str(c), cached_image_in=str(d)),
    *[RATES] * 5,
)
COUNTS = st.integers(0, 10**9)


# -- after the request ------------------------------------------------------------------------------


@pytest.mark.parametrize(("quality", "size", "tokens", "microusd_", "published"), MINI_CELLS)
def test_every_cell_of_the_mini_table_costs_what_the_facts_say(
    quality: str, size: str, tokens: int, microusd_: int, published: int
) -> None:
    """Laws 6 and 7: tokens x rate after the request; before it the published price is what is reserved."""
    assert output_tokens(size, quality, MINI) == tokens
    assert cost_microusd(usage(output=tokens), MINI_PRICES) == microusd_
    assert image_quote(size, quality, MINI, MINI_PRICES) == Quote(microusd_, published, tokens)


@pytest.mark.parametrize(("quality", "size", "tokens", "microusd_", "published"), MINI_CELLS)
def test_a_batch_costs_half_and_reserves_half(
    quality: str, size: str, tokens: int, microusd_: int, published: int
) -> None:
    """Law 4: the published price is above tokens x rate, and nobody knows why: half of it is what a batch reserves."""
    assert published > microusd_
    assert cost_microusd(usage(output=tokens), MINI_BATCH) == microusd_ // 2
    assert image_quote(size, quality, MINI, MINI_BATCH) == Quote(microusd_ // 2, published // 2, tokens)


@settings(deadline=None)
@given(PRICE_LISTS, COUNTS, COUNTS, COUNTS, st.data())
def test_a_cost_is_exact_and_rounded_half_up_once(
    price: Prices, text: int, image: int, output: int, data: st.DataObject
) -> None:
    """Law 6: the sum is exact, and a half micro-dollar is rounded up at the end, never between."""
    cached_text, cached_image = data.draw(st.integers(0, text)), data.draw(st.integers(0, image))
    exact = (
        Fraction(price.text_in) * (text - cached_text)
        + Fraction(price.cached_text_in) * cached_text
        + Fraction(price.image_in) * (image - cached_image)
        + Fraction(price.cached_image_in) * cached_image
        + Fraction(price.image_out) * output
    )
    told = usage(text, image, output, cached_text=cached_text, cached_image=cached_image)
    cost = cost_microusd(told, price)
    assert type(cost) is int
    assert cost == math.floor(exact + Fraction(1, 2))


@pytest.mark.parametrize(
    ("text", "image", "expected"),
    [(1, 0, 1), (0, 1, 0), (1, 1, 1), (3, 0, 2), (5, 0, 3)],
)
def test_halves_go_up_and_parts_are_not_rounded_by_themselves(text: int, image: int, expected: int) -> None:
    """Law 6: 0.5 is 1, 2.5 is 3 (never the even 2), and 0.5 + 0.4 is 1 because it is summed first."""
    assert cost_microusd(usage(text, image), prices("0.5", "0", image_in="0.4")) == expected


def test_cached_tokens_are_billed_at_their_own_price() -> None:
    """Of 100 text tokens 40 were cached, of 1000 image tokens 1000: each part has its own rate."""
    told = usage(100, 1000, 272, cached_text=40, cached_image=1000)
    assert cost_microusd(told, MINI_PRICES) == 60 * 2 + 8 + 250 + 2176


def test_more_cached_tokens_than_tokens_never_make_a_cost_smaller_than_all_cached() -> None:
    """A contradiction in a stranger's figures cannot turn into a credit."""
    assert cost_microusd(usage(10, 10, cached_text=99, cached_image=99), MINI_PRICES) == cost_microusd(
        usage(10, 10, cached_text=10, cached_image=10), MINI_PRICES
    )


def test_input_without_details_is_billed_as_text() -> None:
    """A gateway that tells no details: all input counts as text, and nothing is forgotten."""
    assert cost_microusd(Usage(56, 272, 328, 56, 0), MINI_PRICES) == 56 * 2 + 2176


def test_the_gateway_has_prices_of_its_own() -> None:
    """Law 7: the same tokens cost what this provider asks for them."""
    assert cost_microusd(usage(10, 0, 272), CATALOG.prices_for("cometapi", "gpt-image-1-mini")) == round(
        Fraction("6.4") * 10 + Fraction("25.6") * 272
    )


# -- before the request -----------------------------------------------------------------------------

EVERY_PRICE = [
    pytest.param(CATALOG.models[p.model], p, id=f"{p.provider}-{p.model}-{p.delivery}") for p in CATALOG.prices
]


@pytest.mark.parametrize(("model", "price"), EVERY_PRICE)
@settings(deadline=None)
@given(prompt=st.text(max_size=300), data=st.data())
@example(prompt="", data=None)
@example(prompt="\ud83d", data=None)
def test_the_worst_case_covers_the_real_cost_of_any_prompt(
    model: Model, price: Prices, prompt: str, data: st.DataObject | None
) -> None:
    """Law 4 stands on this: no prompt has more tokens than bytes, and the output is as the catalog says."""
    quality = data.draw(st.sampled_from(model.qualities)) if data else model.qualities[0]
    size = data.draw(st.sampled_from(model.sizes)) if data else model.sizes[0]
    most = len(prompt.encode("utf-8", "surrogatepass")) + 6
    text = data.draw(st.integers(0, most)) if data else most
    quoted = quote(ImageRequest(prompt, model.name, size=size, quality=quality), model, price)
    assert cost_microusd(usage(text, 0, output_tokens(size, quality, model)), price) <= quoted.worst_microusd
    assert 0 <= quoted.expected_microusd <= quoted.worst_microusd


@pytest.mark.parametrize(("model", "price"), EVERY_PRICE)
@settings(deadline=None)
@given(prompt=st.text(max_size=80))
def test_auto_is_priced_as_the_dearest_of_what_it_may_become(model: Model, price: Prices, prompt: str) -> None:
    """`auto` may render and bill as the highest quality, so it is reserved as that."""
    auto = quote(ImageRequest(prompt, model.name), model, price)
    each = [
        quote(ImageRequest(prompt, model.name, size=s, quality=q), model, price)
        for s in model.sizes
        for q in model.qualities
    ]
    assert auto.worst_microusd == max(one.worst_microusd for one in each)
    assert auto.expected_microusd == max(one.expected_microusd for one in each)
    assert auto.tokens == max(one.tokens for one in each)


def test_auto_of_mini_is_the_dearest_cell_whatever_the_order_of_the_sizes() -> None:
    """Two sizes share the dearest published price; the one of more tokens is meant."""
    for sizes in (MINI.sizes, MINI.sizes[::-1]):
        model = MINI.model_copy(update={"sizes": sizes})
        assert image_quote("auto", "auto", model, MINI_PRICES) == Quote(49_920, 52_000, 6240)
        assert image_quote("auto", "low", model, MINI_PRICES) == Quote(3_264, 6_000, 408)
        assert image_quote("1024x1024", "auto", model, MINI_PRICES) == Quote(33_280, 36_000, 4160)


def test_a_quote_is_its_image_and_its_prompt() -> None:
    """40 characters are about 10 tokens and at the worst 40, and 6 more either way."""
    request = ImageRequest("x" * 40, "gpt-image-1-mini", size="1024x1024", quality="low")
    assert quote(request, MINI, MINI_PRICES) == Quote(2_176 + 32, 5_000 + 92, 272 + 16)
    assert prompt_quote("é" * 40, MINI_PRICES) == Quote(32, 2 * (80 + 6), 16)


@settings(deadline=None)
@given(*[st.builds(Quote, st.integers(), st.integers(), st.integers())] * 2)
def test_quotes_add_up_column_by_column(one: Quote, two: Quote) -> None:
    """A plan is a sum of quotes."""
    assert one + two == Quote(
        one.expected_microusd + two.expected_microusd,
        one.worst_microusd + two.worst_microusd,
        one.tokens + two.tokens,
    )


@pytest.mark.parametrize(
    ("size", "tokens"),
    [("1024x1024", 196), ("2048x1024", 392), ("1536x1024", 294), ("16x16", 1), ("3840x2160", 1551)],
)
def test_a_size_that_is_not_listed_is_scaled_by_area_and_rounded_up(size: str, tokens: int) -> None:
    """gpt-image-2.5 has one listed size, and any other has as many tokens per pixel, rounded up."""
    assert output_tokens(size, "low", CATALOG.model("gpt-image-2.5-flare")) == tokens


@settings(deadline=None)
@given(st.integers(1, 240), st.integers(1, 240), st.sampled_from(["low", "medium", "high"]))
def test_a_scaled_size_is_never_cheaper_per_pixel_than_a_listed_one(columns: int, rows: int, quality: str) -> None:
    """gpt-image-2 bills a square by more tokens than a wide image: an unknown size is taken for the dearer kind."""
    model = CATALOG.model("gpt-image-2")
    width, height = columns * 16, rows * 16
    size = f"{width}x{height}"
    if size not in model.sizes:
        dearest = max(
            Fraction(tokens, math.prod(map(int, listed.split("x"))))
            for listed, tokens in model.output_tokens[quality].items()
        )
        assert output_tokens(size, quality, model) == math.ceil(dearest * width * height)


def test_a_quality_without_figures_has_no_tokens() -> None:
    """A model whose tokens nobody published is not guessed at."""
    assert output_tokens("1024x1024", "hd", CATALOG.model("dall-e-3")) == 0


# -- money as text ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000001"),
        (2_176, "$0.002176"),
        (5_000, "$0.005"),
        (10_000, "$0.01"),
        (100_000, "$0.10"),
        (1_000_000, "$1.00"),
        (1_234_567, "$1.234567"),
        (1_234_567_890_000, "$1,234,567.89"),
        (-2_176, "-$0.002176"),
        (-1_500_000, "-$1.50"),
    ],
)
def test_money_is_written_as_people_write_it(amount: int, text: str) -> None:
    """At least two decimals, none that say nothing, thousands apart, the sign before the dollar."""
    assert usd(amount) == text


@settings(deadline=None)
@given(st.integers(-(10**15), 10**15))
def test_the_text_of_an_amount_is_exact(amount: int) -> None:
    """Law 6: nothing is lost between the integer and what a person reads."""
    assert Decimal(usd(amount).replace("$", "").replace(",", "")) * 1_000_000 == amount


@settings(deadline=None)
@given(st.decimals(0, 10**9, allow_nan=False, allow_infinity=False))
@example(Decimal("0.9999999999999999999999999999999999"))
@example(Decimal("0.0000009"))
def test_a_cap_is_never_raised_by_rounding(amount: Decimal) -> None:
    """Law 4: a cap in USD becomes the whole micro-dollars below it."""
    assert microusd(amount) == math.floor(Fraction(amount) * 1_000_000)


@settings(deadline=None)
@given(st.integers(0, 10**15))
def test_whole_micro_dollars_come_back_as_they_were(amount: int) -> None:
    """A cap that a person copies from a report is that cap."""
    assert microusd(Decimal(usd(amount).replace("$", "").replace(",", ""))) == amount


# -- what an edit starts from -----------------------------------------------------------------------

RULE = MINI.input_tokens
assert RULE is not None


def picture(width: int, height: int) -> Input:
    return Input("0" * 64, width, height)


@pytest.mark.parametrize(
    ("width", "height", "fidelity", "tokens"),
    [
        (1024, 1024, None, 65 + 129),
        (512, 512, None, 65 + 129),
        (513, 513, None, 65 + 129),
        (1536, 1024, None, 65 + 2 * 129),
        (1024, 1536, None, 65 + 2 * 129),
        (640, 480, None, 65 + 2 * 129),
        (16, 16, None, 65 + 129),
        (4096, 1024, None, 65 + 4 * 129),
        (1025, 1024, None, 65 + 2 * 129),
        (10240, 1024, None, 65 + 4 * 129),
        (1024, 1024, "low", 65 + 129),
        (1024, 1024, "high", 65 + 129 + 4160),
        (1536, 1024, "high", 65 + 2 * 129 + 6240),
        (1024, 1536, "high", 65 + 2 * 129 + 6240),
    ],
)
def test_an_input_image_takes_what_the_provider_writes(
    width: int, height: int, fidelity: str | None, tokens: int
) -> None:
    """Fitted into 2048 pixels, its shorter side into 512, 129 a tile of 512 and 65 besides; none is enlarged."""
    assert RULE is not None
    assert input_tokens(picture(width, height), fidelity, RULE) == tokens


def test_an_edit_is_quoted_with_all_its_images_and_without_its_mask() -> None:
    """Four images of two tiles each and a mask: 1,292 tokens at 2.50 USD a million."""
    edit = Edit(tuple(picture(1536, 1024) for _ in range(4)), picture(1536, 1024))
    found = edit_quote(edit, MINI, MINI_PRICES)
    assert found == Quote(3_230, 3_230, 4 * 323)
    request = ImageRequest("A cat", "gpt-image-1-mini", size="1024x1024", quality="low")
    plain = quote(request, MINI, MINI_PRICES)
    assert quote(ImageRequest(request.prompt, request.model, request.size, "low", edit=edit), MINI, MINI_PRICES) == (
        plain + found
    )


def test_a_model_that_makes_no_edits_takes_nothing_for_them() -> None:
    """Such a request is refused elsewhere; its price is that of the rest."""
    old = CATALOG.model("dall-e-2")
    assert edit_quote(Edit((picture(9, 9),)), old, MINI_PRICES) == Quote(0, 0, 0)


SIDES = st.integers(1, 20_000)


@given(SIDES, SIDES, st.sampled_from([None, "low", "high"]))
def test_the_worst_case_of_an_input_is_never_below_what_is_expected(
    width: int, height: int, fidelity: str | None
) -> None:
    """Law 4: and both are the same whichever way round the picture is held."""
    edit = Edit((picture(width, height),), fidelity=fidelity)
    found = edit_quote(edit, MINI, MINI_PRICES)
    assert 0 < found.expected_microusd <= found.worst_microusd
    assert found == edit_quote(Edit((picture(height, width),), fidelity=fidelity), MINI, MINI_PRICES)


def test_a_small_input_is_reserved_as_if_it_were_made_larger() -> None:
    """Whether a provider enlarges is written nowhere: 300x1000 is two tiles as it is, and four with a side of 512."""
    found = edit_quote(Edit((picture(300, 1000),)), MINI, MINI_PRICES)
    assert found.tokens == 65 + 2 * 129
    assert found.worst_microusd == math.ceil((65 + 4 * 129) * 2.5)


def test_what_was_seen_corrects_what_is_expected_and_its_worst_answer_what_is_reserved() -> None:
    """The catalog is an opinion: where a provider bills more, the next quote says so, and reserves the most of it."""
    assert RULE is not None
    square, wide = Edit((picture(1024, 1024),)), Edit((picture(1536, 1024),))
    seen = calibrated([(square, 388), (square, 388), (wide, 323), (square, 0)], RULE)
    assert seen == Calibration(1099, 711, (388, 194))
    found = edit_quote(square, MINI, MINI_PRICES, seen)
    assert found.tokens == math.ceil(194 * 1099 / 711)
    assert found.expected_microusd == math.ceil(Decimal(found.tokens) * Decimal("2.5"))
    assert found.worst_microusd == 388 * 2.5
    assert calibrated([], RULE) == UNTRIED
    assert edit_quote(square, MINI, MINI_PRICES, UNTRIED) == edit_quote(square, MINI, MINI_PRICES)


@given(st.lists(st.tuples(SIDES, SIDES, st.integers(0, 10**6)), max_size=8), SIDES, SIDES)
def test_no_answer_that_was_seen_is_dearer_than_what_is_reserved_for_its_like(
    answers: list[tuple[int, int, int]], width: int, height: int
) -> None:
    """Law 4: the same edit again is within its worst case, whatever the first ones have taken."""
    assert RULE is not None
    seen = calibrated([(Edit((picture(w, h),)), tokens) for w, h, tokens in answers], RULE)
    for w, h, tokens in answers:
        again = edit_quote(Edit((picture(w, h),)), MINI, MINI_PRICES, seen)
        assert again.worst_microusd >= math.floor(Decimal(tokens) * MINI_PRICES.image_in)
    edit = Edit((picture(width, height),))
    found = edit_quote(edit, MINI, MINI_PRICES, seen)
    assert found.worst_microusd >= found.expected_microusd
    assert edit_tokens(edit, RULE) > 0
