"""What the catalog holds, as frozen Pydantic models: the file is a stranger's data, a user's own override above all.

Owns the shape of the catalog and look-ups in it. Refuses to read files and to do arithmetic on prices.
"""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from runner.errors import InputError

Delivery = Literal["online", "batch"]
BATCH_WINDOW_S = 24 * 3600
"""How long a batch may take: the one `completion_window` that the API has. Source: OpenAI's OpenAPI document."""
MOST_BATCH_REQUESTS = 50_000
"""Requests in one batch. Source: OpenAI, Batch API guide."""

MOST_USD = 1_000_000
"""A price above this, per image or per million tokens, is a slip of the keyboard."""
MOST_TOKENS = 10**9
_MOST_SIDE_CHARS = 6


def _number(value: object) -> object:
    """`off` is false to YAML, and false would be a price of nothing."""
    if isinstance(value, bool):
        raise ValueError("write a number: YAML reads this as true or false")
    return value


def _exact(value: object) -> object:
    """A YAML float goes through its shortest text, so that 0.1 stays 0.1."""
    return str(value) if isinstance(value, float) else _number(value)


Usd = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=MOST_USD, max_digits=28)]


def _size(value: str) -> str:
    width, _, height = value.partition("x")
    sides = (width, height)
    if not all(s.isascii() and s.isdigit() and len(s) <= _MOST_SIDE_CHARS and int(s) > 0 for s in sides):
        raise ValueError(f"{value!r} is not WIDTHxHEIGHT")
    return value


Size = Annotated[str, AfterValidator(_size)]
Tokens = Annotated[int, BeforeValidator(_number), Field(ge=1, le=MOST_TOKENS)]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Data):
    """Where a figure was read, and when."""

    what: str
    date: dt.date


class Provider(_Data):
    """Who serves the Images API. `like` names the provider whose prices stand where this one has none."""

    name: str
    base_url: str | None = None
    base_url_env: str | None = None
    api_key_env: str | None = None
    like: str | None = None
    simulated: bool = False
    enforces_shutdown: bool = False
    counts_input_images: bool | None = None
    """Whether the images of an edit count against the images a minute; None asks the provider it is `like`."""
    batch: bool | None = None
    """Whether it has the Batch API; None asks the provider it is `like`, and is no where nobody says."""
    source: str


class FreeSizes(_Data):
    """The rule for sizes that are not listed: both sides divisible by `multiple_of`, ratio and area bounded."""

    multiple_of: int = Field(ge=1)
    max_ratio: float = Field(ge=1)
    max_long_side: int
    max_short_side: int
    source: str

    def allows(self, width: int, height: int) -> bool:
        """Whether WIDTHxHEIGHT in pixels obeys the rule."""
        long, short = max(width, height), min(width, height)
        return (
            short > 0
            and width % self.multiple_of == 0
            and height % self.multiple_of == 0
            and long <= short * self.max_ratio
            and long <= self.max_long_side
            and short <= self.max_short_side
        )


class Fidelity(_Data):
    """What a fidelity adds to the tokens of each input image, by its shape."""

    square: int = Field(ge=0, le=MOST_TOKENS)
    other: int = Field(ge=0, le=MOST_TOKENS)


class InputTokens(_Data):
    """How many tokens an input image takes (expected values).

    It is made smaller until it fits into a square of `max_side_px` and its shorter side into `short_side_px`; then it
    takes `base` tokens, `per_tile` for each square of `tile_px` that it covers, and what its fidelity adds.
    """

    max_side_px: int = Field(ge=1)
    short_side_px: int = Field(ge=1)
    tile_px: int = Field(ge=1)
    base: int = Field(ge=0, le=MOST_TOKENS)
    per_tile: int = Field(ge=0, le=MOST_TOKENS)
    fidelities: dict[str, Fidelity]
    default_fidelity: str
    source: str

    @model_validator(mode="after")
    def _default_is_known(self) -> Self:
        if self.default_fidelity not in self.fidelities:
            raise ValueError(f"default_fidelity {self.default_fidelity!r} is not under `fidelities`")
        return self


class Lifecycle(_Data):
    """How long one provider serves a model. After `shutdown` (a date, UTC) it answers `model_not_found`."""

    shutdown: dt.date | None = None
    source: str


class Model(_Data):
    """What one model accepts, and how many output tokens its images take (expected values).

    `output_tokens[quality][size]`; a size that is not listed is scaled by area from the dearest listed one.
    """

    name: str
    sizes: Annotated[tuple[Size, ...], Field(min_length=1)]
    free_sizes: FreeSizes | None = None
    qualities: Annotated[tuple[str, ...], Field(min_length=1)]
    backgrounds: tuple[str, ...] = ("auto", "opaque", "transparent")
    output_formats: tuple[str, ...] = ("png", "jpeg", "webp")
    moderations: tuple[str, ...] = ("auto", "low")
    input_tokens: InputTokens | None = None
    """None for a model that makes no edits."""
    input_fidelities: tuple[str, ...] = ()
    """The values of `input_fidelity` that may be asked for; without any, it is never sent."""
    max_prompt_chars: int = 32_000
    output_tokens: dict[str, dict[Size, Tokens]]
    output_tokens_source: str
    lifecycle: dict[str, Lifecycle]
    successors: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    batch: bool | None = None
    """Whether it is served in batches; None where that is not known, which counts as no."""
    source: str

    def allows_size(self, size: str) -> bool:
        """Whether the model makes this size (`auto` or `WIDTHxHEIGHT`)."""
        if size == "auto" or size in self.sizes:
            return True
        width, _, height = size.partition("x")
        return (
            self.free_sizes is not None
            and len(size) <= 20
            and width.isascii()
            and width.isdigit()
            and height.isascii()
            and height.isdigit()
            and self.free_sizes.allows(int(width), int(height))
            and size == f"{int(width)}x{int(height)}"
        )


class Prices(_Data):
    """USD per one million tokens of one model at one provider, for one delivery.

    `published_per_image[quality][size]` is the provider's price list in USD per image, where it has one that is above
    tokens x rate; money is reserved at that price. Its source is `source` where none is given.
    """

    provider: str
    model: str
    delivery: Delivery = "online"
    text_in: Usd
    cached_text_in: Usd
    image_in: Usd
    cached_image_in: Usd
    image_out: Usd
    published_per_image: dict[str, dict[Size, Usd]] = {}
    published_per_image_source: str | None = None
    source: str


class TierLimits(_Data):
    """What a usage tier allows per minute."""

    images_per_minute: Tokens
    tokens_per_minute: Tokens


class Catalog(_Data):
    """Everything the runner believes about the outside world. `version` is stored beside every cost."""

    version: str
    sources: dict[str, Source]
    providers: dict[str, Provider]
    models: dict[str, Model]
    prices: tuple[Prices, ...]
    tiers: dict[int, TierLimits]
    tiers_source: str

    @model_validator(mode="after")
    def _prices_name_what_there_is(self) -> Self:
        """A price of a model or a provider that is not here is a slip, and would never be found."""
        for index, prices in enumerate(self.prices):
            for kind, name, known in (
                ("model", prices.model, self.models),
                ("provider", prices.provider, self.providers),
            ):
                if name not in known:
                    raise ValueError(f"prices.{index} names the {kind} {name!r}, which is not under `{kind}s`")
        return self

    @model_validator(mode="after")
    def _what_has_a_price_has_tokens(self) -> Self:
        """Without them an image would be reserved at nothing, and the cap would not hold."""
        for name in {prices.model for prices in self.prices}:
            model = self.models[name]
            bare = [quality for quality in model.qualities if not model.output_tokens.get(quality)]
            if bare:
                raise ValueError(f"{name} has a price, and its output_tokens have no size for the quality {bare[0]!r}")
        return self

    def provider(self, name: str) -> Provider:
        """Raises InputError, with the nearest name, for a provider that the catalog does not have."""
        try:
            return self.providers[name]
        except KeyError:
            raise InputError(
                f"there is no provider {name!r} in the catalog",
                hint=_nearest(name, self.providers),
            ) from None

    def model(self, name: str) -> Model:
        """The model of this name or alias.

        Raises:
            InputError: not in the catalog, with the nearest name.
        """
        if name in self.models:
            return self.models[name]
        for model in self.models.values():
            if name in model.aliases:
                return model
        raise InputError(
            f"there is no model {name!r} in the catalog",
            hint=_nearest(name, self.models) + "; a model of your own goes into a file for --catalog",
        )

    def prices_for(self, provider: str, model: str, delivery: Delivery = "online") -> Prices:
        """The price list of a model at a provider, following `like`.

        Raises:
            InputError: nobody has a price for it: what cannot be priced cannot be kept under a cap.
        """
        canonical = self.model(model).name
        for one in self._and_those_it_is_like(provider):
            for prices in self.prices:
                if prices.provider == one.name and prices.model == canonical and prices.delivery == delivery:
                    return prices
        raise InputError(
            f"the catalog has no {delivery} price for {canonical} at {provider}",
            hint="add one in a file of your own and name it with --catalog (see `runner models --help`)",
        )

    def has_price(self, provider: str, model: str, delivery: Delivery = "online") -> bool:
        """Whether `prices_for` has an answer."""
        try:
            self.prices_for(provider, model, delivery)
        except InputError:
            return False
        return True

    def counts_input_images(self, provider: str) -> bool:
        """Whether `provider` counts the images of an edit against the images a minute, following `like`."""
        told = (one.counts_input_images for one in self._and_those_it_is_like(provider))
        return next((answer for answer in told if answer is not None), False)

    def serves_batches(self, provider: str) -> bool:
        """Whether `provider` has the Batch API, following `like`; what nobody says is a no."""
        told = (one.batch for one in self._and_those_it_is_like(provider))
        return next((answer for answer in told if answer is not None), False)

    def has_batch(self, provider: str, model: str) -> bool:
        """Whether `model` can be asked for in a batch at `provider`. Its price is another question (`has_price`)."""
        return self.serves_batches(provider) and self.model(model).batch is True

    def lifecycle(self, provider: str, model: str) -> Lifecycle | None:
        """How long `provider` serves `model`, following `like`; None where nothing is known."""
        lifecycles = self.model(model).lifecycle
        named = (one.name for one in self._and_those_it_is_like(provider))
        return next((lifecycles[name] for name in named if name in lifecycles), None)

    def _and_those_it_is_like(self, provider: str) -> Iterator[Provider]:
        """The provider, then what it is `like`, and so on; none of them twice."""
        seen: set[str] = set()
        name: str | None = provider
        while name is not None and name not in seen:
            seen.add(name)
            found = self.provider(name)
            yield found
            name = found.like


def _nearest(word: str, known: dict[str, Provider] | dict[str, Model]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
