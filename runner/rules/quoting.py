"""The prices of requests at one provider by one delivery, on the models that are asked today.

Owns what is remembered between quotes, so that a million of them are cheap. Refuses to do the arithmetic (`pricing`)
and to hold a price (the catalog's).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from runner.errors import InputError
from runner.rules import pricing
from runner.tasks import Edit, ImageRequest

if TYPE_CHECKING:
    from runner.catalog import Catalog, Delivery, Prices

_MOST_REMEMBERED = 1000


def calibrations(seen: Iterable[tuple[str, Edit, int]], catalog: Catalog) -> dict[str, pricing.Calibration]:
    """What each model's input images were billed in tokens, from (model, edit, tokens) of its newest edits."""
    by_model: dict[str, list[tuple[Edit, int]]] = {}
    for name, edit, tokens in seen:
        by_model.setdefault(name, []).append((edit, tokens))
    found: dict[str, pricing.Calibration] = {}
    for name, of_model in by_model.items():
        try:
            rule = catalog.model(name).input_tokens
        except InputError:
            continue  # a model of another catalog
        if rule is not None:
            found[name] = pricing.calibrated(of_model, rule)
    return found


class Quoter:
    """Prices tasks at one provider; remembers what makes a price, and the last prompt."""

    def __init__(
        self,
        catalog: Catalog,
        provider: str,
        effective: Mapping[str, str],
        delivery: Delivery = "online",
        seen: Mapping[str, pricing.Calibration] = MappingProxyType({}),
    ) -> None:
        self._catalog = catalog
        self._provider = provider
        self._delivery: Delivery = delivery
        self._effective = dict(effective)
        self._images: dict[tuple[str, str, str], pricing.Quote] = {}
        self._prompt = ""
        self._prompts: dict[str, pricing.Quote] = {}
        self._texts: dict[tuple[str, tuple[int, int]], pricing.Quote] = {}
        self._seen = seen
        self._edits: dict[tuple[str, Edit], pricing.Quote] = {}

    def quote(self, request: ImageRequest) -> pricing.Quote:
        """The price of `request` on the model that would be asked now."""
        model = self.model_for(request.model)
        place = (model, request.size, request.quality)
        image = self._images.get(place)
        if image is None:
            image = pricing.image_quote(request.size, request.quality, self._catalog.model(model), self.prices(model))
            self._images[place] = image
        if self._prompt != request.prompt:
            self._prompt = request.prompt
            self._prompts.clear()
        prompt = self._prompts.get(model)
        if prompt is None:
            prompt = self._prompts[model] = self._text(model, pricing.prompt_tokens(request.prompt))
        return image + prompt if request.edit is None else image + prompt + self._start(request.edit, model)

    def _text(self, model: str, tokens: tuple[int, int]) -> pricing.Quote:
        quote = self._texts.get((model, tokens))
        if quote is None:
            if len(self._texts) >= _MOST_REMEMBERED:
                self._texts.clear()
            quote = self._texts[model, tokens] = pricing.text_quote(*tokens, self.prices(model))
        return quote

    def _start(self, edit: Edit, model: str) -> pricing.Quote:
        quote = self._edits.get((model, edit))
        if quote is None:
            if len(self._edits) >= _MOST_REMEMBERED:
                self._edits.clear()
            seen = self._seen.get(model, pricing.UNTRIED)
            quote = pricing.edit_quote(edit, self._catalog.model(model), self.prices(model), seen)
            self._edits[model, edit] = quote
        return quote

    def model_for(self, wanted: str) -> str:
        """The model that is asked where `wanted` is wanted."""
        return self._effective.get(wanted, wanted)

    def prices(self, model: str) -> Prices:
        """The price list of a model at this provider."""
        return self._catalog.prices_for(self._provider, model, self._delivery)

    @property
    def effective_models(self) -> frozenset[str]:
        """Every model that is asked now."""
        return frozenset(self._effective.values())

    def replace(self, gone: str, model: str) -> None:
        """From now on `model` is asked wherever `gone` was."""
        for wanted, effective in self._effective.items():
            if effective == gone:
                self._effective[wanted] = model
