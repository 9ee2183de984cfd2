"""The composite: the original outside the mask, bit for bit; the answer inside; and the edge between as asked."""

from __future__ import annotations

import io
import json
import pickle
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms

from runner.inputs import BadInput, Mask, paste
from runner.inputs.masks import MAX_FEATHER
from runner.inputs.pasting import weights
from tests.rules.inputs_support import (
    Desk,
    decoded,
    desk,
    encoded,
    new_desk,
    noise,
    opened,
    refused,
    smooth,
    wide_profile,
)

FEATHERS = st.integers(0, 9)
PLANES = st.builds(
    lambda size, seed, how: plane(size, seed, how),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.integers(0, 999),
    st.sampled_from(["noise", "box", "boxes"]),
)


@pytest.fixture
def here(tmp_path: Path) -> Desk:
    return new_desk(tmp_path)


def plane(size: tuple[int, int], seed: int, how: str) -> Image.Image:
    """A region: scattered pixels, a box, or a few of them that touch and overlap."""
    if how == "noise":
        found = noise(size, "1", seed).convert("L")
        found.putpixel((seed % size[0], 0), 255)
        return found
    rng = random.Random(seed)
    found = Image.new("L", size)
    for _ in range(1 if how == "box" else 4):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        found.paste(255, (x, y, rng.randint(x + 1, size[0]), rng.randint(y + 1, size[1])))
    return found


def depths(region: Image.Image) -> list[list[int]]:
    """How deep each pixel lies in the region: 0 outside, 1 at its edge (Chebyshev); the image's border is no edge."""
    width, height = region.size
    inside = [[region.getpixel((x, y)) == 255 for x in range(width)] for y in range(height)]
    outside = [(x, y) for y in range(height) for x in range(width) if not inside[y][x]]
    most = max(width, height) + 300
    return [
        [
            min((max(abs(x - a), abs(y - b)) for a, b in outside), default=most) if inside[y][x] else 0
            for x in range(width)
        ]
        for y in range(height)
    ]


@settings(max_examples=120, deadline=None)
@given(region=PLANES, feather=FEATHERS)
def test_the_weight_is_nothing_outside_and_all_that_lies_deep(region: Image.Image, feather: int) -> None:
    """Exactly 0 outside the mask, exactly 255 deeper than the feather, whatever the shape; without one, the mask."""
    found = weights(region, feather)
    assert found.size == region.size
    assert found.mode == "L"
    if feather == 0:
        assert found.tobytes() == region.tobytes()
    for y, row in enumerate(depths(region)):
        for x, depth in enumerate(row):
            weight = found.getpixel((x, y))
            if depth == 0:
                assert weight == 0
            elif depth > feather:
                assert weight == 255


def test_the_edge_is_as_wide_as_asked() -> None:
    """Along a straight edge the weight rises over just so many pixels, evenly, from the first to the last of them."""
    for feather in range(1, MAX_FEATHER + 1):
        wide = 2 * feather + 40
        region = Image.new("L", (wide, 9))
        region.paste(255, (20, 0, wide, 9))
        row = list(weights(region, feather).crop((0, 4, wide, 5)).tobytes())
        assert row[:20] == [0] * 20
        ramp = row[20 : 20 + feather]
        assert all(value < 255 for value in ramp)
        # Beyond a hundred pixels the first step is less than a byte can hold.
        assert all(value > 0 for value in ramp) or feather > 100
        assert ramp == sorted(ramp)
        assert row[20 + feather :] == [255] * (wide - 20 - feather)
        for index, value in enumerate(ramp):
            # An even edge has steps of 1/(f+1), an odd one has its middle within a pixel.
            share = (index + 0.5) / feather if feather % 2 else (index + 1) / (feather + 1)
            assert abs(value - 255 * share) <= 1.5, feather


@settings(max_examples=30, deadline=None)
@given(feather=st.integers(1, 12), size=st.tuples(st.integers(3, 40), st.integers(3, 40)), data=st.data())
def test_the_weight_of_a_box_rises_towards_its_middle(feather: int, size: tuple[int, int], data: st.DataObject) -> None:
    """From every side, and never falls."""
    x, y = data.draw(st.integers(1, size[0] - 2)), data.draw(st.integers(1, size[1] - 2))
    right, bottom = data.draw(st.integers(x + 1, size[0])), data.draw(st.integers(y + 1, size[1]))
    region = Image.new("L", size)
    region.paste(255, (x, y, right, bottom))
    found = weights(region, feather)
    for row in range(size[1]):
        line = list(found.crop((0, row, size[0], row + 1)).tobytes())
        top = line.index(max(line))
        assert line[: top + 1] == sorted(line[: top + 1])
        # A box that ends at the border of the image has no edge there: it does not fall again.
        assert line[top:] == sorted(line[top:], reverse=True)


def test_weights_are_exact_at_both_ends() -> None:
    """What is all to be changed takes all of the answer, and one pixel that is not is seen, for every feather."""
    for feather in range(MAX_FEATHER + 1):
        full = Image.new("L", (600, 3), 255)
        assert weights(full, feather).getextrema() == (255, 255)
        full.putpixel((300, 1), 0)
        found = list(weights(full, feather).crop((0, 1, 600, 2)).tobytes())
        assert found[300] == 0
        assert found[: 300 - feather] == [255] * (300 - feather)
        assert found[300 + feather + 1 :] == [255] * (299 - feather)
        if feather:
            assert found[301] < 255
            assert found[299] == found[301]


def region_of(mask: Mask, here: Desk) -> Image.Image:
    """What of the original is to be changed, told by the mask that would be sent."""
    ready = here.inputs().mask(mask, "original.png")
    return opened(ready.path).getchannel("A").point(lambda value: 255 if value == 0 else 0)


@settings(max_examples=50, deadline=None)
@given(region=PLANES, feather=FEATHERS, how=st.sampled_from(["alpha", "white", "black", "box", "polygon"]))
def test_outside_the_mask_the_original_and_deep_inside_the_answer(region: Image.Image, feather: int, how: str) -> None:
    """Bit for bit, for masks said in each way."""
    size = region.size
    with desk() as here:
        original, answer = noise(size, seed=3), noise(size, seed=4)
        name = here.put("original.png", original)
        mask = Mask(box=(0, 0, size[0] - size[0] // 2, size[1]), feather=feather)
        if how == "alpha":
            picture = Image.new("RGBA", size)
            picture.putalpha(ImageChops.invert(region))
            mask = Mask(file=here.put("m.png", picture), feather=feather)
        elif how == "white":
            mask = Mask(file=here.put("m.png", region), mode="white_is_edit", feather=feather)
        elif how == "black":
            mask = Mask(file=here.put("m.png", ImageChops.invert(region)), mode="black_is_edit", feather=feather)
        elif how == "polygon":
            mask = Mask(polygon=((0, 0), (size[0], 0), (0, size[1])), feather=feather)
        here.put("answer.png", answer)
        recipe = here.inputs().composite(name, mask)
        found = decoded(paste(here.base, recipe, here.base / "answer.png"))
        assert (found.format, found.mode, found.size) == ("PNG", "RGB", size)
        for y, row in enumerate(depths(region_of(mask, here))):
            for x, depth in enumerate(row):
                if depth == 0:
                    assert found.getpixel((x, y)) == original.getpixel((x, y))
                elif depth > feather:
                    assert found.getpixel((x, y)) == answer.getpixel((x, y))
                else:
                    between(found.getpixel((x, y)), original.getpixel((x, y)), answer.getpixel((x, y)))


def between(found: object, one: object, other: object) -> None:
    """In the soft edge every channel lies between the two."""
    for value, low, high in zip(*(cast(tuple[int, ...], pixel) for pixel in (found, one, other)), strict=True):
        assert min(low, high) <= value <= max(low, high)


def test_the_composite_has_the_originals_resolution(here: Desk) -> None:
    """The answer is scaled to it, whatever was sent and asked for; the original is not scaled at all."""
    original = noise((90, 60))
    here.put("a.png", original)
    here.put("answer.png", Image.new("RGB", (48, 32), (10, 200, 30)))
    recipe = here.inputs().composite("a.png", Mask(box=(30, 20, 40, 20), feather=4))
    found = decoded(paste(here.base, recipe, here.base / "answer.png"))
    assert found.size == (90, 60)
    assert found.getpixel((50, 30)) == (10, 200, 30)
    for box in ((0, 0, 90, 20), (0, 40, 90, 60), (0, 0, 30, 60), (70, 0, 90, 60)):
        assert found.crop(box).tobytes() == original.crop(box).tobytes()


def test_a_smaller_answer_is_scaled_smoothly(here: Desk) -> None:
    """With the filter that keeps most of it, and as it stands: not mirrored, not turned."""
    here.put("a.png", noise((90, 60)))
    answer = smooth((45, 30))
    here.put("answer.png", answer)
    recipe = here.inputs().composite("a.png", Mask(box=(0, 0, 90, 60)))
    found = decoded(paste(here.base, recipe, here.base / "answer.png"))
    assert found.tobytes() == answer.resize((90, 60), Image.Resampling.LANCZOS).tobytes()


def test_a_turned_original_is_pasted_upright(here: Desk) -> None:
    """The composite is what people see, and carries no tag that would turn it again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = noise((40, 20))
    here.put("a.png", stored, exif=exif.tobytes())
    here.put("answer.png", Image.new("RGB", (20, 40), "red"))
    recipe = here.inputs().composite("a.png", Mask(box=(0, 0, 20, 10)))
    found = decoded(paste(here.base, recipe, here.base / "answer.png"))
    upright = stored.transpose(Image.Transpose.ROTATE_270)
    assert not found.getexif()
    assert found.crop((0, 10, 20, 40)).tobytes() == upright.crop((0, 10, 20, 40)).tobytes()
    assert found.getpixel((5, 5)) == (255, 0, 0)


def test_a_masks_file_of_another_size_is_scaled_where_that_was_allowed(here: Desk) -> None:
    """As it was for what was sent."""
    original = noise((40, 20))
    here.put("a.png", original)
    half = Image.new("L", (20, 10))
    half.paste(255, (0, 0, 10, 10))
    here.put("m.png", half)
    here.put("answer.png", Image.new("RGB", (40, 20), "red"))
    recipe = here.inputs().composite("a.png", Mask(file="m.png", mode="white_is_edit", resize=True))
    found = decoded(paste(here.base, recipe, here.base / "answer.png"))
    assert found.crop((20, 0, 40, 20)).tobytes() == original.crop((20, 0, 40, 20)).tobytes()
    assert found.crop((0, 0, 20, 20)).getcolors() == [(400, (255, 0, 0))]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("answered", ["L", "RGB", "RGBA", "P"])
def test_every_kind_of_original_and_answer(here: Desk, mode: str, answered: str) -> None:
    """RGB, or RGBA where one of the two can be transparent; outside it is the original's own colour and alpha."""
    original = noise((16, 12), mode)
    here.put("a.png", original)
    answer = noise((16, 12), answered, seed=5)
    here.put("answer.png", answer)
    recipe = here.inputs().composite("a.png", Mask(box=(4, 4, 8, 4)))
    found = decoded(paste(here.base, recipe, here.base / "answer.png"))
    assert found.mode == ("RGBA" if "A" in mode + answered else "RGB")
    plain = original
    if mode == "I;16":
        plain = Image.frombytes("L", original.size, original.tobytes()[1::2])
    for box, source in (((0, 0, 16, 4), plain), ((0, 4, 4, 8), plain), ((4, 4, 12, 8), answer)):
        assert found.crop(box).tobytes() == source.convert(found.mode).crop(box).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_originals_and_answers_of_every_format(here: Desk, kind: str) -> None:
    """Outside it is what the original decodes to."""
    here.put("a", smooth((32, 24)), format=kind)
    here.put("answer", noise((32, 24)), format=kind)
    recipe = here.inputs().composite("a", Mask(box=(4, 4, 20, 10)))
    found = decoded(paste(here.base, recipe, here.base / "answer"))
    assert found.crop((0, 14, 32, 24)).tobytes() == opened(here.base / "a").crop((0, 14, 32, 24)).tobytes()
    assert found.crop((4, 4, 24, 14)).tobytes() == opened(here.base / "answer").crop((4, 4, 24, 14)).tobytes()


def test_the_originals_colours_are_those_of_its_profile(here: Desk) -> None:
    """The answer is brought into them; the profile stays, and so do the original's pixels."""
    profile = wide_profile()
    original = noise((16, 12))
    here.put("a.png", original, icc_profile=profile)
    answer = Image.new("RGB", (16, 12), (250, 20, 60))
    here.put("answer.png", answer)
    recipe = here.inputs().composite("a.png", Mask(box=(4, 4, 8, 4)))
    found = decoded(paste(here.base, recipe, here.base / "answer.png"))
    assert found.info["icc_profile"] == profile
    assert found.crop((0, 0, 16, 4)).tobytes() == original.crop((0, 0, 16, 4)).tobytes()
    shown = cast(tuple[int, ...], found.getpixel((6, 6)))
    assert all(abs(a - b) <= 3 for a, b in zip(shown, (60, 20, 250), strict=True)), shown
    seen = ImageCms.profileToProfile(
        found, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    assert seen is not None
    back = cast(tuple[int, ...], seen.getpixel((6, 6)))
    assert all(abs(a - b) <= 3 for a, b in zip(back, (250, 20, 60), strict=True)), back


def test_the_answers_transparency_goes_through_its_colours(here: Desk) -> None:
    """Its alpha is no colour."""
    here.put("a.png", noise((16, 12)), icc_profile=wide_profile())
    here.put("answer.png", Image.new("RGBA", (16, 12), (250, 20, 60, 77)))
    recipe = here.inputs().composite("a.png", Mask(box=(4, 4, 8, 4)))
    found = decoded(paste(here.base, recipe, here.base / "answer.png"))
    shown = cast(tuple[int, ...], found.getpixel((6, 6)))
    assert shown[3] == 77
    assert shown[0] < 90


@pytest.mark.parametrize(
    "profile", [b"nonsense" * 40, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]
)
def test_answers_pixels_are_kept_where_there_is_nothing_to_convert(here: Desk, profile: bytes) -> None:
    """sRGB with and without its name is the same; a profile that is none changes nothing."""
    here.put("a.png", noise((16, 12)), icc_profile=profile)
    answer = noise((16, 12), seed=9)
    here.put("answer.png", answer)
    recipe = here.inputs().composite("a.png", Mask(box=(4, 4, 8, 4)))
    found = decoded(paste(here.base, recipe, here.base / "answer.png"))
    assert found.crop((4, 4, 12, 8)).tobytes() == answer.crop((4, 4, 12, 8)).tobytes()


def test_equal_things_make_equal_composites(here: Desk) -> None:
    """To the byte, and by a recipe that is equal too."""
    here.put("a.png", noise((40, 30)))
    here.put("answer.png", noise((40, 30), seed=2))
    mask = Mask(polygon=((0, 0), (30, 0), (0, 20)), feather=5)
    recipes = {here.inputs().composite("a.png", mask) for _ in range(2)}
    assert len(recipes) == 1
    (recipe,) = recipes
    assert recipe == json.dumps(json.loads(recipe), sort_keys=True, separators=(",", ":"))
    assert paste(here.base, recipe, here.base / "answer.png") == paste(here.base, recipe, here.base / "answer.png")


def test_a_recipe_is_for_contents(here: Desk) -> None:
    """Another picture, mask, mode or feather is another recipe."""
    here.put("a.png", noise((40, 30)))
    here.put("m.png", noise((40, 30), "1"))
    inputs = here.inputs()
    masks = [
        Mask(box=(1, 1, 9, 9)),
        Mask(box=(1, 1, 9, 9), feather=1),
        Mask(box=(1, 1, 9, 8)),
        Mask(polygon=((1, 1), (9, 1), (9, 9))),
        Mask(file="m.png", mode="white_is_edit"),
        Mask(file="m.png", mode="black_is_edit"),
        Mask(file="m.png", mode="black_is_edit", feather=3),
    ]
    found = {inputs.composite("a.png", mask) for mask in masks}
    here.put("a.png", noise((40, 30), seed=2))
    here.put("m.png", noise((40, 30), "1", seed=2))
    found |= {inputs.composite("a.png", mask) for mask in masks}
    assert len(found) == 2 * len(masks)


def test_what_has_changed_since_is_not_pasted(here: Desk) -> None:
    """Neither onto another original, nor through another mask; nor is a broken answer pasted."""
    here.put("a.png", noise((40, 30)))
    here.put("m.png", noise((40, 30), "1"))
    here.put("answer.png", noise((40, 30), seed=2))
    recipe = here.inputs().composite("a.png", Mask(file="m.png", mode="white_is_edit"))
    here.put("m.png", noise((40, 30), "1", seed=2))
    with refused("m.png has changed since it was planned", about="mask"):
        paste(here.base, recipe, here.base / "answer.png")
    here.put("a.png", noise((40, 30), seed=3))
    with refused("a.png has changed since it was planned"):
        paste(here.base, recipe, here.base / "answer.png")
    (here.base / "a.png").unlink()
    with refused("there is no file a.png"):
        paste(here.base, recipe, here.base / "answer.png")
    here.put("a.png", noise((40, 30)))
    recipe = here.inputs().composite("a.png", Mask(box=(0, 0, 5, 5)))
    here.put("answer.png", encoded(noise((40, 30)), "PNG")[:-200])
    with refused("answer.png is broken"):
        paste(here.base, recipe, here.base / "answer.png")
    (here.base / "answer.png").unlink()
    with refused("there is no file answer.png"):
        paste(here.base, recipe, here.base / "answer.png")


@pytest.mark.parametrize(
    "recipe",
    [
        "",
        "7",
        "[]",
        "{}",
        '{"image": {"path": "a.png"}}',
        '{"image": {"path": "a.png", "sha256": "0"}, "mask": {"x": 1}}',
    ],
)
def test_a_recipe_that_is_none(here: Desk, recipe: str) -> None:
    """It comes from a ledger, and ledgers get damaged."""
    with refused("what is on record of the composite cannot be read", hint="plan the job again"):
        paste(here.base, recipe, here.base / "answer.png")


def test_it_runs_in_another_process(here: Desk) -> None:
    """The composite comes back, and so does what is wrong, in its own words."""
    here.put("a.png", noise((40, 30)))
    here.put("answer.png", noise((40, 30), seed=2))
    recipe = here.inputs().composite("a.png", Mask(box=(0, 0, 5, 5)))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(paste, here.base, recipe, here.base / "answer.png").result() == paste(
            here.base, recipe, here.base / "answer.png"
        )
        (here.base / "a.png").unlink()
        with refused("there is no file a.png", hint="relative to the manifest"):
            pool.submit(paste, here.base, recipe, here.base / "answer.png").result()


def test_an_error_survives_the_way_between_processes() -> None:
    """With its hint and what it is about."""
    error = pickle.loads(pickle.dumps(BadInput("it is torn", hint="mend it", about="mask")))
    assert (error.message, error.hint, error.about, str(error)) == ("it is torn", "mend it", "mask", "it is torn")
