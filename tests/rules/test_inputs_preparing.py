"""Pictures that are changed before they are sent: how they look then, and what their identity is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, ImageOps

from runner.inputs import Mask, Prepare
from runner.inputs.preparing import sent_size
from runner.inputs.reading import Facts
from runner.tasks import Source
from tests.rules.inputs_support import Desk, desk, encoded, new_desk, noise, opened, refused, smooth


@pytest.fixture
def here(tmp_path: Path) -> Desk:
    return new_desk(tmp_path)


def profile(kind: str = "sRGB") -> bytes:
    if kind == "sRGB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def held(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A camera"
    return exif.tobytes()


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel."""
    apart = ImageChops.difference(one.convert("RGBA"), other.convert("RGBA"))
    return max(apart.tobytes())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_picture_is_sent_upright(here: Desk, kind: str, orientation: int) -> None:
    """As Pillow's own transposition has it, in its own format, without the tag; a picture that is upright as it is."""
    name = here.put(f"a.{kind}", smooth((60, 40)), exif=held(orientation), **({"quality": 95} if kind != "png" else {}))
    ready = here.inputs().image(name)
    stored = opened(here.base / name)
    meant = ImageOps.exif_transpose(stored)
    sent = opened(ready.path)
    assert sent.format == stored.format
    assert ready.format == str(stored.format).lower()
    assert sent.size == meant.size == (ready.input.width, ready.input.height)
    assert difference(sent, meant) <= (0 if kind == "png" else 12)
    if orientation == 1:
        assert ready.path == here.base / name
        assert ready.input.identity == here.sha256(name)
    else:
        assert ready.input.identity != here.sha256(name)
        assert not sent.getexif()
        assert ready.bytes == ready.path.stat().st_size


def test_a_jpeg_that_is_turned_keeps_its_colours_fine(here: Desk) -> None:
    """4:4:4: to halve the colours a second time would be seen."""
    name = here.put("a.jpg", noise((32, 32)), exif=held(3), quality=95, subsampling=0)
    sent = opened(here.inputs().image(name).path)
    assert [layer[1:3] for layer in sent.layer] == [(1, 1)] * 3  # type: ignore[attr-defined] # the JPEG plug-in's own


def test_printing_colours_become_rgb(here: Desk) -> None:
    """CMYK, as an image library exports it, in a JPEG."""
    name = here.put("a.jpg", smooth((32, 32)).convert("CMYK"), quality=95)
    ready = here.inputs().image(name)
    sent = opened(ready.path)
    assert (ready.format, sent.mode) == ("jpeg", "RGB")
    assert ready.input.identity != here.sha256(name)
    assert difference(sent, smooth((32, 32))) <= 20


def test_printing_colours_with_a_profile_that_is_none(here: Desk) -> None:
    """They are converted roughly, and the profile of other colours does not stay."""
    name = here.put("a.jpg", smooth((32, 32)).convert("CMYK"), icc_profile=b"nonsense" * 20)
    sent = opened(here.inputs().image(name).path)
    assert sent.mode == "RGB"
    assert "icc_profile" not in sent.info


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_every_kind_of_picture_becomes_every_format(here: Desk, mode: str, form: str) -> None:
    """Smaller, readable, and transparent where it was and can be."""
    name = here.put("a.png", noise((40, 20), mode))
    ready = here.inputs().image(name, Prepare(max_side=20, format=form))  # type: ignore[arg-type] # one of the three
    sent = opened(ready.path)
    assert ready.format == str(sent.format).lower() == form
    assert sent.size == (ready.input.width, ready.input.height) == (20, 10)
    assert sent.has_transparency_data == (mode in ("LA", "RGBA") and form != "jpeg")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_png_that_is_only_turned_stays_what_it_was(here: Desk, mode: str) -> None:
    """Sixteen bits, a palette, transparency: nothing is lost by turning."""
    name = here.put("a.png", noise((40, 20), mode), exif=held(6))
    sent = opened(here.inputs().image(name).path)
    assert sent.mode == mode
    assert sent.tobytes() == ImageOps.exif_transpose(opened(here.base / name)).tobytes()


def test_a_palette_with_transparency_stays_transparent(here: Desk) -> None:
    """Turned as it is; smaller, as RGBA; in a jpeg, on white."""
    picture = Image.new("P", (40, 20), 3)
    picture.putpalette(bytes(range(12)))
    name = here.put("a.png", picture, exif=held(6), transparency=3)
    turned = opened(here.inputs().image(name).path)
    assert turned.convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index] # RGBA
    small = opened(here.inputs().image(name, Prepare(max_side=10)).path)
    assert small.mode == "RGBA"
    assert small.getpixel((2, 2))[3] == 0  # type: ignore[index] # RGBA
    flat = opened(here.inputs().image(name, Prepare(format="jpeg")).path)
    assert flat.getpixel((2, 2)) == (255, 255, 255)


def test_what_is_transparent_is_white_in_a_jpeg(here: Desk) -> None:
    """Half transparent red is pink."""
    picture = Image.new("RGBA", (32, 32), (255, 0, 0, 128))
    picture.paste((0, 0, 0, 0), (0, 0, 16, 32))
    sent = opened(here.inputs().image(here.put("a.png", picture), Prepare(format="jpeg", quality=100)).path)
    assert difference(sent.crop((0, 0, 8, 32)), Image.new("RGB", (8, 32), "white")) <= 2
    assert difference(sent.crop((24, 0, 32, 32)), Image.new("RGB", (8, 32), (255, 127, 127))) <= 3


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_profile_goes_along(here: Desk, form: str) -> None:
    """The colours are those of the profile, before and after."""
    name = here.put("a.png", smooth((40, 20)), icc_profile=profile())
    sent = opened(here.inputs().image(name, Prepare(max_side=20, format=form)).path)  # type: ignore[arg-type] # one of the three
    assert sent.info["icc_profile"] == profile()


def test_a_profile_for_other_colours_does_not_go_along(here: Desk) -> None:
    """One for grey would make nonsense of RGB."""
    grey = bytearray(profile())
    grey[16:20] = b"GRAY"
    name = here.put("a.png", noise((40, 20), "L"), icc_profile=bytes(grey))
    assert "icc_profile" in opened(here.inputs().image(name, Prepare(max_side=20)).path).info
    assert "icc_profile" not in opened(here.inputs().image(name, Prepare(format="webp")).path).info


def test_nothing_else_goes_along(here: Desk) -> None:
    """Place, time and camera are nobody's business; nor is a comment."""
    name = here.put("a.jpg", smooth((40, 20)), exif=held(1), comment=b"secret", dpi=(300, 300))
    data = here.inputs().image(name, Prepare(max_side=20)).path.read_bytes()
    assert b"secret" not in data
    assert b"camera" not in data


@given(
    width=st.integers(1, 9000),
    height=st.integers(1, 9000),
    most=st.integers(1, 4000),
)
def test_a_longer_side_is_brought_down_and_never_up(width: int, height: int, most: int) -> None:
    """The longer side is at most `max_side`, the shape is kept to the pixel, and no side is lost."""
    facts = Facts("0" * 64, 1, "png", width, height, 1, "RGB", None)
    small = sent_size(facts, Prepare(max_side=most))
    if max(width, height) <= most:
        assert small == (width, height)
    else:
        assert max(small) == most
        scale = most / max(width, height)
        assert all(abs(now - max(1.0, was * scale)) <= 0.5 for now, was in zip(small, (width, height), strict=True))
    assert sent_size(facts, None) == sent_size(facts, Prepare()) == (width, height)


def test_a_turned_picture_is_measured_upright(here: Desk) -> None:
    """3000x4000 in the hand is 4000x3000 in the file."""
    name = here.put("a.jpg", smooth((80, 60)), exif=held(6))
    ready = here.inputs().image(name, Prepare(max_side=40))
    assert opened(ready.path).size == (ready.input.width, ready.input.height) == (30, 40)


def test_with_nothing_to_change_the_file_itself_is_sent(here: Desk) -> None:
    """Small enough and of that format already: a quality alone is no reason to lose some of it."""
    name = here.put("a.webp", smooth((40, 20)))
    inputs = here.inputs()
    plain = inputs.image(name)
    for prepare in (Prepare(), Prepare(max_side=40), Prepare(format="webp", quality=20), Prepare(max_side=999)):
        ready = inputs.image(name, prepare)
        assert ready.path == here.base / name
        assert ready.input == plain.input
        assert inputs.fetch(ready.source) == ready


def test_a_lower_quality_makes_a_smaller_file(here: Desk) -> None:
    """Of jpeg and webp; png has none, and its identity does not know of it."""
    name = here.put("a.png", noise((200, 200)))
    inputs = here.inputs()
    for form in ("jpeg", "webp", "png"):
        fine, rough = (inputs.image(name, Prepare(max_side=100, format=form, quality=quality)) for quality in (95, 10))
        assert (fine.bytes > 2 * rough.bytes) == (form != "png")
        assert (fine.input.identity == rough.input.identity) == (form == "png")


def test_a_format_that_cannot_hold_it_is_refused(here: Desk) -> None:
    """A webp has at most 16,383 pixels a side."""
    name = here.put("a.png", Image.new("1", (16_384, 10)))
    with refused("a.png is 16384x10: a webp has at most 16383", hint="max_side"):
        here.inputs().image(name, Prepare(format="webp"))
    assert here.inputs().image(name, Prepare(format="webp", max_side=16_383)).format == "webp"


def test_equal_pictures_have_equal_identities_whatever_they_are_called(here: Desk) -> None:
    """Sent as they are or changed; and what comes of a recipe depends on what it does, not on how it is written."""
    data = encoded(smooth((80, 60)), "JPEG", exif=held(6))
    one, other = here.put("a.jpg", data), here.put("deep/down/b.picture", data)
    inputs = here.inputs()
    for prepare in (None, Prepare(max_side=40), Prepare(format="png")):
        assert inputs.image(one, prepare).input == inputs.image(other, prepare).input
    assert inputs.image(one, Prepare(max_side=80)).input == inputs.image(one).input
    assert inputs.image(one, Prepare(max_side=40)).input == inputs.image(one, Prepare(max_side=40, format="jpeg")).input


def test_the_bytes_of_an_encoder_are_no_part_of_an_identity(here: Desk) -> None:
    """Another version of Pillow makes other bytes of the same picture, and nothing is paid for again."""
    name = here.put("a.png", smooth((80, 60)))
    first = here.inputs().image(name, Prepare(max_side=40, format="jpeg"))
    other = encoded(smooth((40, 30)), "JPEG", quality=30)
    inputs = here.inputs()
    inputs._cache.keep(first.input.identity, "jpg", other)
    again = inputs.fetch(first.source)
    assert again.input == first.input
    assert again.bytes == len(other)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    mode=st.sampled_from(["L", "RGB", "RGBA"]),
    data=st.data(),
    prepare=st.sampled_from([None, Prepare(max_side=4), Prepare(format="webp")]),
)
def test_one_pixel_is_another_picture(
    size: tuple[int, int], mode: str, data: st.DataObject, prepare: Prepare | None
) -> None:
    """Changing a pixel changes the identity, and `fetch` refuses it; renaming and touching change nothing."""
    with desk() as here:
        picture = noise(size, mode)
        name = here.put("a.png", picture)
        inputs = here.inputs()
        first = inputs.image(name, prepare)
        renamed = here.put("b.png", (here.base / name).read_bytes())
        assert inputs.image(renamed, prepare).input == first.input
        (here.base / name).touch()
        assert inputs.image(name, prepare) == first
        at = data.draw(st.tuples(st.integers(0, size[0] - 1), st.integers(0, size[1] - 1)))
        pixels = bytearray(picture.tobytes())
        pixels[(at[1] * size[0] + at[0]) * len(mode)] ^= 1
        picture = Image.frombytes(mode, size, bytes(pixels))
        here.put(name, picture)
        assert inputs.image(name, prepare).input.identity != first.input.identity
        with refused("a.png has changed since it was planned"):
            inputs.fetch(first.source)


def test_what_is_on_record_is_found_again(here: Desk) -> None:
    """By another process, with the cache and without it."""
    name = here.put("a.jpg", smooth((80, 60)), exif=held(6))
    for prepare in (None, Prepare(max_side=40), Prepare(max_side=30, format="webp", quality=70)):
        first = here.inputs().image(name, prepare)
        assert here.inputs().fetch(first.source) == first
        first.path.unlink()
        assert here.inputs().fetch(first.source) == first


def test_a_record_says_all_that_it_means(here: Desk) -> None:
    """Also what the manifest left out: defaults may change, and what is on record may not."""
    here.put("a.png", smooth((80, 60)))
    image = here.inputs().image("a.png", Prepare(max_side=40))
    assert json.loads(image.source.recipe) == {"path": "a.png", "prepare": {"max_side": 40, "quality": 90}}
    mask = here.inputs().mask(Mask(box=(0, 0, 5, 5), feather=3), "a.png")
    assert json.loads(mask.source.recipe) == {
        "path": "a.png",
        "image": "a.png",
        "mask": {"box": [0, 0, 5, 5], "mode": "alpha", "resize": False},
    }


def test_what_is_on_record_and_gone(here: Desk) -> None:
    """The file, or the sense of the record."""
    name = here.put("a.png", smooth((80, 60)))
    first = here.inputs().image(name)
    (here.base / name).unlink()
    with refused("there is no file a.png"):
        here.inputs().fetch(first.source)
    for recipe in ("", "[]", "{}", "7", '{"path": "a.png", "prepare": 3}', '{"path": "a.png", "mask": {"box": [1]}}'):
        with refused("on record", "cannot be read", hint="plan"):
            here.inputs().fetch(Source(first.input.identity, recipe))


def test_a_mask_that_is_on_record_says_that_it_is_one(here: Desk) -> None:
    """`about` tells whose line is shown."""
    here.put("a.png", smooth((80, 60)))
    mask = here.inputs().mask(Mask(box=(0, 0, 5, 5)), "a.png")
    with refused("has changed", about="mask"):
        here.inputs().fetch(Source("0" * 64, mask.source.recipe))
