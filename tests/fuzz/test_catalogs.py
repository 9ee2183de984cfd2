"""Whatever a catalog of one's own holds, it is refused in words, or every price in it is one that was written."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner import catalog
from runner.errors import InputError, StopRun, Usage
from runner.report.models import models
from runner.rules import pricing
from runner.rules.models import choose_models
from runner.tasks import ImageRequest, Origin
from tests.fuzz.fuzz_support import ODD_NUMBERS, disturbed, mutated, search, texts, watched

USAGE = Usage(50, 272, 322, 10, 40, 5, 5)
OWN: dict[str, Any] = {
    "version": "mine",
    "sources": {"page": {"what": "a price list", "date": "2026-11-01"}},
    "providers": {
        "mine": {"base_url": "https://images.example/v1", "api_key_env": "MY_KEY", "like": "openai", "source": "page"},
        "openai": {"base_url_env": "MY_URL"},
    },
    "models": {
        "my-model": {
            "sizes": ["1024x1024", "512x512"],
            "free_sizes": {
                "multiple_of": 16,
                "max_ratio": 3,
                "max_long_side": 2048,
                "max_short_side": 2048,
                "source": "page",
            },
            "qualities": ["low", "high"],
            "output_tokens": {"low": {"1024x1024": 100}, "high": {"1024x1024": 400, "512x512": 200}},
            "output_tokens_source": "page",
            "lifecycle": {"mine": {"shutdown": "2027-01-01", "source": "page"}},
            "successors": ["gpt-image-2"],
            "aliases": ["mine-latest"],
            "batch": False,
            "source": "page",
        },
        "gpt-image-2": {"max_prompt_chars": 16_000},
    },
    "prices": [
        {
            "provider": "mine",
            "model": "my-model",
            "text_in": 1.5,
            "cached_text_in": "0.15",
            "image_in": 2,
            "cached_image_in": 0.2,
            "image_out": 8.25,
            "published_per_image": {"low": {"1024x1024": 0.005}},
            "source": "page",
        },
        {
            "provider": "openai",
            "model": "gpt-image-2",
            "delivery": "online",
            "text_in": 5,
            "cached_text_in": 1,
            "image_in": 8,
            "cached_image_in": 2,
            "image_out": 30,
            "source": "page",
        },
    ],
    "tiers": {"1": {"images_per_minute": 5, "tokens_per_minute": 100000}},
    "tiers_source": "page",
}
ORIGINALS = [
    yaml.safe_dump(OWN, sort_keys=False).encode(),
    json.dumps(OWN).encode(),
]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("catalogs")


def hold(folder: Path, content: bytes) -> catalog.Catalog | None:
    """Load a catalog; every law that holds whatever is in it. None if it was refused."""
    path = folder / f"{next(_numbers)}.yaml"  # what was read once is remembered by its path
    path.write_bytes(content)
    try:
        loaded = catalog.load(path)
    except InputError as error:
        assert error.message.startswith(str(path))
        assert error.hint
        return None
    finally:
        path.unlink()
    for entry in models(loaded):
        json.dumps(entry)
    for provider, model in itertools.product(loaded.providers, loaded.models):
        try:
            prices = loaded.prices_for(provider, model)
            chosen = choose_models(
                {model: Origin("job.yaml", 1, 1)},
                fallback=None,
                provider=provider,
                catalog=loaded,
                today=dt.date(2026, 11, 22),
            )
        except (InputError, StopRun) as error:
            assert error.hint
            continue
        assert set(chosen.effective) == {model}
        _hold_prices(loaded.models[model], prices)
    return loaded


def _hold_prices(model: catalog.Model, prices: catalog.Prices) -> None:
    rates = [prices.text_in, prices.cached_text_in, prices.image_in, prices.cached_image_in, prices.image_out]
    assert all(rate.is_finite() and 0 <= rate <= catalog.types.MOST_USD for rate in rates)
    for quality in (*model.qualities, "auto"):
        for size in (*model.sizes[:2], "auto"):
            quote = pricing.quote(ImageRequest("A cat", model.name, size, quality), model, prices)
            assert 0 <= quote.expected_microusd <= quote.worst_microusd < 2**62
            assert quote.tokens > 0
            if prices.image_out > 0:
                assert quote.worst_microusd > 0
    assert 0 <= pricing.cost_microusd(USAGE, prices) < 2**62


def test_the_original_is_whole(folder: Path) -> None:
    """What is disturbed is valid before."""
    loaded = hold(folder, ORIGINALS[0])
    assert loaded is not None
    assert loaded.prices_for("mine", "mine-latest").image_out == Decimal("8.25")


@search(100)
@given(made=disturbed(OWN))
def test_a_disturbed_structure(folder: Path, made: Any) -> None:
    """Values of every kind at every key."""
    with watched():
        hold(folder, json.dumps(made, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@search(100)
@given(content=mutated(ORIGINALS))
def test_mutated_bytes(folder: Path, content: bytes) -> None:
    """Flipped bits, cuts, repeats, splices, odd pieces, other encodings."""
    with watched():
        hold(folder, content)


_AMOUNTS = [
    "off",
    "no",
    "yes",
    "true",
    "false",
    "null",
    "",
    "~",
    ".inf",
    "-.inf",
    ".nan",
    "-1",
    "-0.01",
    "1e-9",
    "[]",
    "{}",
]
_AMOUNTS += [
    "free",
    "2026-11-22",
    "1_000",
    "0x10",
    "1:30",
    "'5 USD'",
    "1e40",
    "'1e400'",
    "'1e-400'",
    "9" * 400,
    "'\u0665'",
]


@search(150)
@given(
    key=st.sampled_from(["text_in", "cached_text_in", "image_in", "cached_image_in", "image_out", "published"]),
    amount=st.sampled_from(_AMOUNTS) | st.sampled_from(ODD_NUMBERS).map(str) | texts.map(json.dumps),
)
def test_a_price(folder: Path, key: str, amount: str) -> None:
    """A price is a number that was written as one: never below zero, and zero only where a zero was written."""
    entry = {name: str(value) for name, value in OWN["prices"][0].items() if name != "published_per_image"}
    entry["published_per_image"] = f"{{low: {{1024x1024: {amount if key == 'published' else 1}}}}}"
    entry[key if key != "published" else "source"] = amount if key != "published" else "page"
    lines = [f"{name}: {value}" for name, value in entry.items()]
    own = {name: value for name, value in OWN.items() if name != "prices"}
    text = yaml.safe_dump(own) + "prices:\n  - " + "\n    ".join(lines) + "\n"
    with watched():
        loaded = hold(folder, text.encode("utf-8", "surrogatepass"))
    if loaded is not None:
        prices = loaded.prices_for("mine", "my-model")
        found = prices.published_per_image["low"]["1024x1024"] if key == "published" else getattr(prices, key)
        written = yaml.safe_load(amount)
        assert not isinstance(written, bool)
        assert found == Decimal(str(written)), (amount, found)


@pytest.mark.parametrize("amount", ["off", "no", "false", "on", "yes", "null", '""', ".nan", ".inf", "-1", "2000000"])
def test_a_price_that_is_none(folder: Path, amount: str) -> None:
    """`off` would be a price of nothing, and the cap would hold nothing back."""
    text = ORIGINALS[0].decode().replace("image_out: 8.25", f"image_out: {amount}")
    assert text != ORIGINALS[0].decode()
    assert hold(folder, text.encode()) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("      1024x1024: 100\n", "      1024x1024: 0\n"),
        ("      1024x1024: 100\n", "      1024x1024: yes\n"),
        ("    low:\n        1024x1024: 100\n", "    low: {}\n"),
        ("    - low\n    - high\n", "    - low\n    - high\n    - ultra\n"),
        ("    - low\n    - high\n", "    []\n"),
        ("    - 1024x1024\n    - 512x512\n", "    []\n"),
    ],
)
def test_tokens_that_would_make_an_image_free(folder: Path, old: str, new: str) -> None:
    """A model with a price has tokens for every quality: an image without them would be reserved at nothing."""
    text = ORIGINALS[0].decode()
    made = text.replace(old, new) if old in text else text.replace(old.replace("    ", "      ", 1), new)
    assert made != text
    assert hold(folder, made.encode()) is None


@pytest.mark.parametrize("kind", ["models", "providers"])
def test_a_price_that_names_what_is_not_there(folder: Path, kind: str) -> None:
    """Its model and its provider are in the catalog: it would be a price that nobody finds."""
    own = {name: value for name, value in OWN.items() if name != kind}
    assert hold(folder, json.dumps(own).encode()) is None


def test_a_catalog_that_is_no_file(folder: Path) -> None:
    """A pipe is not waited for; a folder, a device and a name that cannot be are refused."""
    pipe = folder / "pipe.yaml"
    os.mkfifo(pipe)
    loop = folder / "loop.yaml"
    loop.symlink_to(loop)
    for path in (pipe, loop, folder, Path("/dev/zero"), folder / ("n" * 300), folder / "a\0b", folder / "missing"):
        with watched(), pytest.raises(InputError) as caught:
            catalog.load(path)
        assert caught.value.hint


BOMBS = {
    "aliases": "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "depth": "[" * 100_000,
    "a large file": "sources: {" + "x" * 5_000_000,
    "an object": "models: !!python/object/apply:os.system [id]\n",
    "a number in sixties": "version: " + ":".join(["1"] * 100_000),
    "digits": "tiers: {1: {images_per_minute: " + "9" * 100_000 + ", tokens_per_minute: 1}}\n",
    "a key that is a list": "? [a, b]\n: c\n",
    "a key that is a number": "5: x\n",
    "a date that is none": "version: 2026-13-45\n",
    "a price that names nothing": "prices: [{provider: [a], model: {b: c}}]\n",
    "a price that is a word": "prices: [free]\n",
    "a set": "models: !!set {a, b}\n",
    "binary": "version: !!binary aGVsbG8\n",
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb(folder: Path, what: str) -> None:
    """Refused, in words."""
    with watched():
        assert hold(folder, BOMBS[what].encode()) is None
