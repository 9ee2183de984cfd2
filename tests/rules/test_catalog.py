"""What the catalog must hold (law 7): every figure has a source, and a user's own file fits or is refused by name."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from runner import catalog
from runner.catalog import Catalog, FreeSizes, Prices, Provider
from runner.errors import InputError

CATALOG = catalog.load()


def own(folder: Path, text: str, name: str = "own.yaml") -> Path:
    """A user's own catalog file."""
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def loaded(folder: Path, text: str) -> Catalog:
    return catalog.load(own(folder, text))


PRICE = "text_in: 1, cached_text_in: 1, image_in: 1, cached_image_in: 1, image_out: 4, source: runner"


# -- what comes with the package --------------------------------------------------------------------


def sources_used() -> Iterator[tuple[str, str]]:
    """(what, its source) for every figure of the catalog."""
    yield "tiers", CATALOG.tiers_source
    for name, provider in CATALOG.providers.items():
        yield f"provider {name}", provider.source
    for name, model in CATALOG.models.items():
        yield f"model {name}", model.source
        yield f"output tokens of {name}", model.output_tokens_source
        if model.free_sizes is not None:
            yield f"free sizes of {name}", model.free_sizes.source
        if model.input_tokens is not None:
            yield f"input tokens of {name}", model.input_tokens.source
        for where, lifecycle in model.lifecycle.items():
            yield f"end of {name} at {where}", lifecycle.source
    for prices in CATALOG.prices:
        yield f"price of {prices.model} at {prices.provider} ({prices.delivery})", prices.source
        if prices.published_per_image_source is not None:
            yield f"price per image of {prices.model} ({prices.delivery})", prices.published_per_image_source


@pytest.mark.parametrize(("what", "source"), list(sources_used()))
def test_every_figure_names_a_source_that_is_listed(what: str, source: str) -> None:
    """Law 7: a figure without a source is an opinion."""
    assert source in CATALOG.sources, what
    assert CATALOG.sources[source].what
    assert CATALOG.sources[source].date <= dt.date.fromisoformat(CATALOG.version)


def test_no_source_is_listed_for_nothing() -> None:
    """What no figure stands on is not a source."""
    assert {source for _, source in sources_used()} == set(CATALOG.sources)


def test_what_the_catalog_says_agrees_with_itself() -> None:
    """Every name that is used is defined, every table has only what its model has, and names do not repeat."""
    names = [*CATALOG.models, *(alias for model in CATALOG.models.values() for alias in model.aliases)]
    assert len(names) == len(set(names))
    for name, model in CATALOG.models.items():
        assert model.name == name
        assert set(model.output_tokens) <= set(model.qualities)
        assert all(model.allows_size(size) for table in model.output_tokens.values() for size in table)
        assert set(model.successors) <= set(CATALOG.models)
        assert set(model.lifecycle) <= set(CATALOG.providers)
    for provider in CATALOG.providers.values():
        assert provider.like is None or provider.like in CATALOG.providers
    identities = [(p.provider, p.model, p.delivery) for p in CATALOG.prices]
    assert len(identities) == len(set(identities))
    for prices in CATALOG.prices:
        model = CATALOG.models[prices.model]
        assert prices.provider in CATALOG.providers
        assert set(prices.published_per_image) <= set(model.qualities)
        assert all(set(table) <= set(model.sizes) for table in prices.published_per_image.values())
        assert prices.cached_text_in <= prices.text_in
        assert prices.cached_image_in <= prices.image_in
        assert all(model.output_tokens[quality] for quality in model.qualities), "a price without tokens prices nothing"


@pytest.mark.parametrize(
    ("model", "delivery", "expected"),
    [
        ("gpt-image-1-mini", "online", ("2.00", "0.20", "2.50", "0.25", "8.00")),
        ("gpt-image-1-mini", "batch", ("1.00", "0.10", "1.25", "0.13", "4.00")),
        ("gpt-image-1.5", "online", ("5", "1.25", "8", "2", "32")),
        ("gpt-image-2", "online", ("5", "1.25", "8", "2", "30")),
        ("gpt-image-2", "batch", ("2.50", "0.625", "4", "1", "15")),
        ("gpt-image-2.5-flare", "online", ("5", "1.25", "8", "2", "30")),
        ("gpt-image-2.5-sunburst", "online", ("5", "1.25", "8", "2", "30")),
        ("gpt-image-2.6-flare", "online", ("5", "1.25", "8", "2", "30")),
        ("gpt-image-2.6-sunburst", "online", ("5", "1.25", "8", "2", "30")),
    ],
)
def test_prices_are_those_of_the_price_list(
    model: str, delivery: catalog.Delivery, expected: tuple[str, str, str, str, str]
) -> None:
    """USD per million tokens at OpenAI, exact: 0.1 is a tenth."""
    p = CATALOG.prices_for("openai", model, delivery)
    assert (p.text_in, p.cached_text_in, p.image_in, p.cached_image_in, p.image_out) == tuple(map(Decimal, expected))


@pytest.mark.parametrize("online", [p for p in CATALOG.prices if p.delivery == "online"], ids=lambda p: p.model)
def test_a_batch_is_half_the_price_in_every_figure(online: Prices) -> None:
    """The rule of the Batch API; cached image tokens of mini are listed rounded to the cent."""
    if not CATALOG.has_price(online.provider, online.model, "batch"):
        return
    batch = CATALOG.prices_for(online.provider, online.model, "batch")
    for name in ("text_in", "cached_text_in", "image_in", "cached_image_in", "image_out"):
        half = getattr(online, name) / 2
        assert getattr(batch, name) in (half, half.quantize(Decimal("0.01"), ROUND_HALF_UP))
    assert batch.published_per_image == {
        quality: {size: price / 2 for size, price in table.items()}
        for quality, table in online.published_per_image.items()
    }


@pytest.mark.parametrize(
    ("provider", "model", "served"),
    [
        ("openai", "gpt-image-1-mini", True),
        ("openai", "gpt-image-2", True),
        ("openai", "gpt-image-2-2026-04-21", True),
        ("openai", "gpt-image-1.5", False),
        ("openai", "gpt-image-2.5-flare", False),
        ("openai", "gpt-image-2.6-sunburst", False),
        ("simulator", "gpt-image-2", True),
        ("simulator", "gpt-image-2.6-flare", False),
        ("cometapi", "gpt-image-1-mini", False),
    ],
)
def test_batches_are_served_where_the_facts_say_so(provider: str, model: str, served: bool) -> None:
    """What is unclear counts as no; the simulator follows OpenAI."""
    assert CATALOG.has_batch(provider, model) is served


@pytest.mark.parametrize(
    ("own", "served"),
    [
        ("providers: {cometapi: {batch: true}}", True),
        ("providers: {cometapi: {like: openai}}", True),
        ("providers: {cometapi: {like: openai, batch: false}}", False),
        ("providers: {openai: {batch: false}, cometapi: {like: simulator}}", False),
        ("providers: {cometapi: {batch: true}}\nmodels: {gpt-image-2: {batch: false}}", False),
        ("providers: {cometapi: {batch: null}}", False),
    ],
)
def test_a_provider_says_for_itself_whether_it_has_batches(tmp_path: Path, own: str, served: bool) -> None:
    """Its own word first, then that of the one it is like; the model has one too."""
    assert loaded(tmp_path, own).has_batch("cometapi", "gpt-image-2") is served


@pytest.mark.parametrize(
    ("model", "shutdown"),
    [
        ("gpt-image-1-mini", "2026-12-01"),
        ("gpt-image-1.5", "2026-12-01"),
        ("chatgpt-image-latest", "2026-12-01"),
        ("gpt-image-1", "2026-10-23"),
        ("dall-e-2", "2026-05-12"),
        ("dall-e-3", "2026-05-12"),
        ("gpt-image-2", None),
        ("gpt-image-2.6-flare", None),
    ],
)
def test_models_end_when_the_deprecations_page_says(model: str, shutdown: str | None) -> None:
    """At OpenAI; the simulator follows it, and the gateway has said nothing."""
    expected = None if shutdown is None else dt.date.fromisoformat(shutdown)
    for provider in ("openai", "simulator"):
        lifecycle = CATALOG.lifecycle(provider, model)
        assert lifecycle is not None
        assert lifecycle.shutdown == expected
    assert CATALOG.lifecycle("cometapi", model) is None


@pytest.mark.parametrize(
    ("tier", "images", "tokens"),
    [(1, 5, 100_000), (2, 20, 250_000), (3, 50, 800_000), (4, 150, 3_000_000), (5, 250, 8_000_000)],
)
def test_tiers_are_those_of_the_limits_page(tier: int, images: int, tokens: int) -> None:
    """Images and tokens per minute."""
    assert (CATALOG.tiers[tier].images_per_minute, CATALOG.tiers[tier].tokens_per_minute) == (images, tokens)


# -- looking up -------------------------------------------------------------------------------------


def test_a_model_is_found_by_its_alias() -> None:
    """An alias has its model's sizes, prices and end."""
    assert CATALOG.model("chatgpt-image-latest").name == "gpt-image-1.5"
    assert CATALOG.prices_for("openai", "gpt-image-2-2026-04-21").model == "gpt-image-2"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("gpt-image-1mini", "gpt-image-1-mini"), ("gpt-image-2.6-flair", "gpt-image-2.6-flare"), ("dalle-3", "dall-e-3")],
)
def test_an_unknown_model_is_refused_with_the_nearest_name(name: str, nearest: str) -> None:
    """What is wrong, what was probably meant, and what to do if it was not."""
    with pytest.raises(InputError, match="no model") as caught:
        CATALOG.model(name)
    assert name in caught.value.message
    assert caught.value.hint is not None
    assert f"did you mean {nearest}?" in caught.value.hint
    assert "--catalog" in caught.value.hint


def test_a_name_like_no_other_is_refused_with_all_names() -> None:
    """No guess is better than a silly one."""
    with pytest.raises(InputError) as caught:
        CATALOG.model("zzz")
    assert caught.value.hint is not None
    assert all(name in caught.value.hint for name in CATALOG.models)


def test_an_unknown_provider_is_refused_with_the_nearest_name() -> None:
    """As for models."""
    with pytest.raises(InputError, match="no provider 'opneai'") as caught:
        CATALOG.provider("opneai")
    assert caught.value.hint == "did you mean openai?"


def test_like_lends_prices_and_ends_but_not_what_the_provider_has_itself() -> None:
    """The simulator costs what OpenAI costs; a gateway of one's own overrides one price and is like it in the rest."""
    mine = CATALOG.prices_for("openai", "gpt-image-2").model_copy(
        update={"provider": "inner", "image_out": Decimal(99)}
    )
    chain = CATALOG.model_copy(
        update={
            "providers": CATALOG.providers
            | {
                "inner": Provider(name="inner", like="simulator", source="runner"),
                "outer": Provider(name="outer", like="inner", source="runner"),
            },
            "prices": (*CATALOG.prices, mine),
        }
    )
    assert CATALOG.prices_for("simulator", "gpt-image-2") is CATALOG.prices_for("openai", "gpt-image-2")
    assert chain.prices_for("outer", "gpt-image-2") is mine
    assert chain.prices_for("outer", "gpt-image-2", "batch").provider == "openai"
    assert chain.prices_for("outer", "gpt-image-1-mini").provider == "openai"
    ended = chain.lifecycle("outer", "gpt-image-1-mini")
    assert ended is not None
    assert ended.shutdown == dt.date(2026, 12, 1)


def test_providers_that_are_like_each_other_end_in_an_answer() -> None:
    """A circle is a missing price and an unknown end, not a run that hangs."""
    circle = CATALOG.model_copy(
        update={
            "providers": {
                "a": Provider(name="a", like="b", source="runner"),
                "b": Provider(name="b", like="a", source="runner"),
                "self": Provider(name="self", like="self", source="runner"),
            }
        }
    )
    for name in ("a", "self"):
        with pytest.raises(InputError, match="no online price for gpt-image-2 at " + name):
            circle.prices_for(name, "gpt-image-2")
        assert circle.lifecycle(name, "gpt-image-2") is None
        assert not circle.has_batch(name, "gpt-image-2")
        assert not circle.counts_input_images(name)


def test_a_missing_price_is_refused_with_what_to_do() -> None:
    """Law 4: no price, no cap; the hint says where one goes."""
    with pytest.raises(InputError, match=r"no batch price for gpt-image-2\.6-flare at openai") as caught:
        CATALOG.prices_for("openai", "gpt-image-2.6-flare", "batch")
    assert caught.value.hint is not None
    assert "--catalog" in caught.value.hint


# -- sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "mini", "flare"),
    [
        ("auto", True, True),
        ("1024x1024", True, True),
        ("1024x1536", True, True),
        ("1040x1024", False, True),
        ("3840x2160", False, True),
        ("2160x3840", False, True),
        ("3840x2176", False, False),
        ("3856x2160", False, False),
        ("1000x1000", False, False),
        ("1024x1000", False, False),
        ("3072x1024", False, True),
        ("3088x1024", False, False),
        ("1024x3088", False, False),
        ("0x0", False, False),
        ("0x1024", False, False),
        ("01040x1024", False, False),
        ("1040X1024", False, False),
        ("1040x1024x1", False, False),
        ("-16x16", False, False),
        ("1040", False, False),
        ("1040x", False, False),
        ("", False, False),
        ("\u0661\u0660\u0664\u0660x1024", False, False),
        (" 1040x1024", False, False),
    ],
)
def test_sizes_are_those_that_the_api_takes(size: str, mini: bool, flare: bool) -> None:
    """Listed ones; and since gpt-image-2 what is divisible by 16, no longer than 3:1, within 3840 x 2160."""
    assert CATALOG.model("gpt-image-1-mini").allows_size(size) is mini
    assert CATALOG.model("gpt-image-2.6-flare").allows_size(size) is flare


def test_the_rule_for_sizes_has_no_side_of_its_own() -> None:
    """Width and height can change places."""
    rule = FreeSizes(multiple_of=16, max_ratio=3, max_long_side=3840, max_short_side=2160, source="runner")
    assert rule.allows(16, 48)
    assert rule.allows(48, 16)
    assert not rule.allows(16, 64)
    assert not rule.allows(64, 16)


# -- a user's own file ------------------------------------------------------------------------------


def test_an_override_is_laid_over_key_by_key(tmp_path: Path) -> None:
    """One figure of one tier changes; its neighbour, the other tiers and everything else stay."""
    mine = loaded(
        tmp_path, "tiers: {1: {images_per_minute: 7}}\nproviders: {openai: {base_url: 'https://me.example/v1'}}"
    )
    assert (mine.tiers[1].images_per_minute, mine.tiers[1].tokens_per_minute) == (7, 100_000)
    assert mine.tiers[2] == CATALOG.tiers[2]
    assert mine.provider("openai").base_url == "https://me.example/v1"
    assert mine.provider("openai").api_key_env == "OPENAI_API_KEY"
    assert (mine.models, mine.prices) == (CATALOG.models, CATALOG.prices)
    assert catalog.load() == CATALOG


def test_a_list_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Sizes that were dropped are gone."""
    mine = loaded(tmp_path, "models: {gpt-image-1-mini: {sizes: [1024x1024]}}")
    assert mine.model("gpt-image-1-mini").sizes == ("1024x1024",)
    assert mine.model("gpt-image-1-mini").qualities == CATALOG.model("gpt-image-1-mini").qualities


def test_a_price_replaces_the_one_of_the_same_provider_model_and_delivery(tmp_path: Path) -> None:
    """Whole, so that no published price of the old one stays; the batch price and the others are left alone."""
    mine = loaded(tmp_path, f"prices: [{{provider: openai, model: gpt-image-1-mini, {PRICE}}}]")
    price = mine.prices_for("openai", "gpt-image-1-mini")
    assert price.image_out == 4
    assert price.published_per_image == {}
    assert len(mine.prices) == len(CATALOG.prices)
    assert mine.prices_for("openai", "gpt-image-1-mini", "batch") == CATALOG.prices_for(
        "openai", "gpt-image-1-mini", "batch"
    )
    assert mine.prices_for("cometapi", "gpt-image-1-mini") == CATALOG.prices_for("cometapi", "gpt-image-1-mini")


def test_an_override_adds_models_providers_and_prices(tmp_path: Path) -> None:
    """A server of one's own needs no change of the code."""
    mine = loaded(
        tmp_path,
        "providers: {mine: {base_url: 'https://me.example/v1', source: me}}\n"
        "sources: {me: {what: my own measurement, date: 2026-11-20}}\n"
        "models:\n"
        "  my-model: {sizes: [512x512], qualities: [low], output_tokens: {low: {512x512: 10}},\n"
        "    output_tokens_source: me, lifecycle: {}, source: me}\n"
        f"prices: [{{provider: mine, model: my-model, delivery: batch, {PRICE}}}]\n",
    )
    assert mine.model("my-model").name == "my-model"
    assert mine.prices_for("mine", "my-model", "batch").image_out == 4
    assert len(mine.prices) == len(CATALOG.prices) + 1


def test_figures_of_an_override_have_a_version_of_their_own(tmp_path: Path) -> None:
    """Law 6: a cost stands beside the version of its prices, and that is not the package's any more."""
    assert loaded(tmp_path, "tiers: {}").version == "own:own.yaml"
    assert catalog.load(own(tmp_path, "version: mine-3", "named.yaml")).version == "mine-3"


def test_a_price_is_the_number_that_was_written(tmp_path: Path) -> None:
    """Law 6: 0.1 is a tenth, not the nearest binary fraction."""
    mine = loaded(
        tmp_path,
        f"prices: [{{provider: openai, model: gpt-image-2, {PRICE.replace('text_in: 1', 'text_in: 0.1', 1)}}}]",
    )
    assert mine.prices_for("openai", "gpt-image-2").text_in == Decimal("0.1")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("model: {}", "model"),
        ("models: []", "models"),
        ("models: {gpt-image-1-mini: {sises: [1024x1024]}}", "models.gpt-image-1-mini.sises"),
        ("models: {gpt-image-1-mini: {sizes: [big]}}", "models.gpt-image-1-mini.sizes.0"),
        ("models: {gpt-image-1-mini: {sizes: ['0x1024']}}", "models.gpt-image-1-mini.sizes.0"),
        ("models: {gpt-image-1-mini: null}", "models.gpt-image-1-mini"),
        (
            "models: {gpt-image-1-mini: {output_tokens: {low: {'0x0': 1}}}}",
            "models.gpt-image-1-mini.output_tokens.low.0x0",
        ),
        (
            "models: {gpt-image-1-mini: {output_tokens: {low: {1024x1024: -1}}}}",
            "models.gpt-image-1-mini.output_tokens.low.1024x1024",
        ),
        ("models: {new: {}}", "models.new.sizes"),
        ("providers: {openai: {enforces_shutdown: perhaps}}", "providers.openai.enforces_shutdown"),
        ("tiers: {1: {images_per_minute: 0}}", "tiers.1.images_per_minute"),
        ("tiers: {one: {images_per_minute: 1}}", "tiers.one"),
        ("prices: {}", "prices"),
        ("prices: [{provider: openai, model: gpt-image-2}]", "prices.9.text_in"),
        (
            f"prices: [{{provider: a, model: b, {PRICE.replace('image_out: 4', 'image_out: -4')}}}]",
            "prices.10.image_out",
        ),
        (
            f"prices: [{{provider: a, model: b, {PRICE.replace('image_out: 4', 'image_out: .nan')}}}]",
            "prices.10.image_out",
        ),
        (
            f"prices: [{{provider: a, model: b, {PRICE.replace('image_out: 4', 'image_out: .inf')}}}]",
            "prices.10.image_out",
        ),
        (f"prices: [{{provider: a, model: b, delivery: tomorrow, {PRICE}}}]", "prices.10.delivery"),
        ("prices: [7]", "prices.10"),
        ("version: 3", "version"),
        ("sources: {me: {what: x, date: someday}}", "sources.me.date"),
    ],
)
def test_an_override_that_does_not_fit_is_refused_by_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    """Law 7 for a stranger's data: what is wrong, and where."""
    path = own(tmp_path, text)
    with pytest.raises(InputError) as caught:
        catalog.load(path)
    assert caught.value.message.startswith(f"{path}: {key}: ") or caught.value.message.startswith(f"{path}: {key}.")
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["models: [", "a: b: c", "- 1", "just words", "", "models: !!python/object:os.system {}", "{[1]: 2}", "\x00"],
)
def test_an_override_that_is_no_mapping_in_yaml_is_refused_by_file(tmp_path: Path, text: str) -> None:
    """Whatever it is instead, and nothing in it is run."""
    path = own(tmp_path, text)
    with pytest.raises(InputError) as caught:
        catalog.load(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "models: &m {}\nproviders: *m",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "models: {base: &b {}, new: {<<: *b}}",
    ],
)
def test_aliases_in_an_override_are_refused(tmp_path: Path, text: str) -> None:
    """No catalog needs them, and without them there is no bomb."""
    path = own(tmp_path, text)
    with pytest.raises(InputError, match="aliases are not allowed") as caught:
        catalog.load(path)
    assert str(path) in caught.value.message


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    """Missing, a folder, or not text."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\xfa")
    for path in (tmp_path / "missing.yaml", tmp_path, binary):
        with pytest.raises(InputError, match="cannot be read") as caught:
            catalog.load(path)
        assert str(path) in caught.value.message


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """Some editors write one."""
    assert loaded(tmp_path, "\ufefftiers: {1: {images_per_minute: 9}}").tiers[1].images_per_minute == 9
