"""What the quoter must hold: what it remembers changes no price, and a model that goes away is replaced everywhere."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.rules import pricing
from runner.rules.quoting import Quoter, calibrations
from runner.tasks import Edit, ImageRequest, Input
from tests.rules.planning_support import CATALOG, FLARE, MINI, edited, make, task


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([MINI, FLARE]),
            st.sampled_from(["auto", "1024x1024", "1536x1024"]),
            st.sampled_from(["auto", "low", "high"]),
            st.text(max_size=30),
        ),
        max_size=20,
    )
)
def test_what_the_quoter_remembers_changes_no_price(asked: list[tuple[str, str, str, str]]) -> None:
    """In any order, of any models, sizes and prompts: a remembered quote is the quote."""
    quoter = Quoter(CATALOG, "openai", {})
    for model, size, quality, prompt in asked:
        request = ImageRequest(prompt, model, size=size, quality=quality)
        assert quoter.quote(request) == pricing.quote(
            request, CATALOG.model(model), CATALOG.prices_for("openai", model)
        )


def test_a_model_that_goes_away_in_the_middle_is_replaced_everywhere() -> None:
    """From the next quote on the price is that of the fallback, for every wanted model that the lost one had made."""
    quoter = Quoter(CATALOG, "openai", {MINI: MINI, "gpt-image-1.5": MINI, "gpt-image-2": "gpt-image-2"})
    before = quoter.quote(task().request)
    quoter.replace(MINI, FLARE)
    assert [quoter.model_for(name) for name in (MINI, "gpt-image-1.5", "gpt-image-2")] == [FLARE, FLARE, "gpt-image-2"]
    assert quoter.effective_models == {FLARE, "gpt-image-2"}
    after = quoter.quote(task().request)
    assert after != before
    assert after == Quoter(CATALOG, "openai", {}).quote(task(model=FLARE).request)


def test_calibrations_are_of_the_models_that_the_catalog_knows() -> None:
    """A ledger may hold answers of a model that only another catalog has."""
    edit = Edit((Input("0" * 64, 1024, 1024),))
    found = calibrations([(MINI, edit, 388), ("gone", edit, 5), (MINI, edit, 194), ("dall-e-2", edit, 5)], CATALOG)
    assert found == {MINI: pricing.Calibration(582, 388, (388, 194))}
    dearer = make([edited(1, 1)], seen=found).total("expected_microusd") - make([edited(1, 1)]).total(
        "expected_microusd"
    )
    assert dearer == math.ceil(291 * 2.5) - 194 * 2.5


def test_more_prompts_than_are_remembered_are_still_priced_one_by_one() -> None:
    """Law 8: what is remembered is bounded, and forgetting it changes no price."""
    quoter = Quoter(CATALOG, "openai", {})
    for length in [*range(1, 5000, 4), 1, 5]:
        request = ImageRequest("x" * length, MINI, size="1024x1024", quality="low")
        assert quoter.quote(request) == pricing.quote(request, CATALOG.model(MINI), CATALOG.prices_for("openai", MINI))
    assert len(quoter._texts) <= 1000
