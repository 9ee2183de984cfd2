"""Renditions: size and part of each fit, colours, transparency, what is carried over, and always the same bytes."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import zlib
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageStat, PngImagePlugin

from runner.inputs import BadInput, Mask
from runner.inputs.pasting import paste
from runner.renditions import worker
from runner.renditions.recipe import MAX_SIDE, Fit, Format, Gravity, Recipe
from runner.renditions.rendering import busiest, render, sized
from tests.rules.inputs_support import decoded, encoded, new_desk, noise, smooth, wide_profile

Colour = tuple[int, ...]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SIDES = st.integers(1, 3000)
SIZES = st.tuples(SIDES, SIDES)


def made(picture: Image.Image | bytes, folder: Path, recipe: Recipe) -> Image.Image:
    """What a recipe makes of a picture, decoded; the picture's file is a PNG."""
    file = folder / "asset"
    file.write_bytes(picture if isinstance(picture, bytes) else encoded(picture, "PNG"))
    (data,) = render(file, [recipe])
    return decoded(data)


def at(picture: Image.Image, x: int, y: int) -> Colour:
    return cast(Colour, picture.getpixel((x, y)))


def near(one: Colour, two: Colour, by: int = 4) -> bool:
    return len(one) == len(two) and all(abs(a - b) <= by for a, b in zip(one, two, strict=True))


def distance(one: Image.Image, two: Image.Image) -> float:
    """How far two pictures are from each other: the root of the mean square over all values, of 255."""
    assert one.size == two.size
    found = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), two.convert("RGB"))).rms
    return max(found)


def quarters(size: tuple[int, int]) -> Image.Image:
    """A picture of four colours: red and green above, blue and white below."""
    width, height = size
    picture = Image.new("RGB", size, RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(WHITE, (width // 2, height // 2, width, height))
    return picture


# geometry


@given(size=SIZES, box=SIZES, fit=st.sampled_from(["contain", "pad", "inside"]))
def test_all_of_the_picture_fits_into_the_box(size: tuple[int, int], box: tuple[int, int], fit: Fit) -> None:
    """In its own proportions, to the pixel, and touching the box unless it is not to be enlarged."""
    found = sized(size, Recipe("x", *box, fit=fit))
    assert 1 <= found[0] <= box[0]
    assert 1 <= found[1] <= box[1]
    if fit == "inside" and size[0] <= box[0] and size[1] <= box[1]:
        assert found == size
        return
    assert found[0] == box[0] or found[1] == box[1]
    exact = size[1] * found[0] / size[0], size[0] * found[1] / size[1]
    assert abs(found[1] - exact[0]) <= 0.5 or abs(found[0] - exact[1]) <= 0.5 or 1 in found


@given(size=SIZES, box=SIZES)
def test_cover_and_pad_fill_the_box(size: tuple[int, int], box: tuple[int, int]) -> None:
    """Whatever the picture's proportions."""
    assert sized(size, Recipe("x", *box, fit="cover")) == box


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        (Recipe("x", width=100), (100, 50)),
        (Recipe("x", height=100), (200, 100)),
        (Recipe("x", width=400), (200, 100)),
        (Recipe("x", width=400, fit="contain"), (400, 200)),
        (Recipe("x", height=MAX_SIDE, fit="contain"), (MAX_SIDE, MAX_SIDE // 2)),
    ],
)
def test_one_side_decides_the_other(recipe: Recipe, size: tuple[int, int]) -> None:
    """Where one is left out; no side grows beyond the largest there is."""
    assert sized((200, 100), recipe) == size


@pytest.mark.parametrize("fit", ["cover", "contain", "pad", "inside"])
@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_what_is_written_has_the_size_and_the_format(fit: Fit, form: Format, tmp_path: Path) -> None:
    """Each fit, as each format."""
    found = made(smooth((90, 60)), tmp_path, Recipe("x", 40, 50, fit=fit, format=form))
    assert found.format == form.upper()
    assert found.size == ((40, 50) if fit in ("cover", "pad") else (40, 27))


@pytest.mark.parametrize(
    ("gravity", "corners"),
    [
        ("center", (RED, GREEN, BLUE, WHITE)),
        ("north", (RED, GREEN, RED, GREEN)),
        ("south", (BLUE, WHITE, BLUE, WHITE)),
        ("northwest", (RED, GREEN, RED, GREEN)),
        ("southeast", (BLUE, WHITE, BLUE, WHITE)),
        ("east", (RED, GREEN, BLUE, WHITE)),
    ],
)
def test_gravity_says_what_cover_keeps_of_a_high_picture(
    gravity: Gravity, corners: tuple[Colour, ...], tmp_path: Path
) -> None:
    """Half of the height is cut off, and nothing of the width."""
    recipe = Recipe("x", 40, 40, "cover", "png", gravity=gravity)
    found = made(quarters((80, 160)), tmp_path, recipe)
    assert [at(found, x, y) for y in (6, 33) for x in (6, 33)] == list(corners)


@pytest.mark.parametrize(
    ("gravity", "corners"),
    [
        ("center", (RED, GREEN, BLUE, WHITE)),
        ("west", (RED, RED, BLUE, BLUE)),
        ("east", (GREEN, GREEN, WHITE, WHITE)),
        ("southwest", (RED, RED, BLUE, BLUE)),
        ("northeast", (GREEN, GREEN, WHITE, WHITE)),
        ("south", (RED, GREEN, BLUE, WHITE)),
    ],
)
def test_gravity_says_what_cover_keeps_of_a_wide_picture(
    gravity: Gravity, corners: tuple[Colour, ...], tmp_path: Path
) -> None:
    """Half of the width is cut off, and nothing of the height."""
    recipe = Recipe("x", 40, 40, "cover", "png", gravity=gravity)
    found = made(quarters((160, 80)), tmp_path, recipe)
    assert [at(found, x, y) for y in (6, 33) for x in (6, 33)] == list(corners)


@pytest.mark.parametrize("left", [0, 150, 300])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_entropy_keeps_the_part_with_most_in_it(left: int, mode: str, tmp_path: Path) -> None:
    """A picture that is empty but for one place: that place is kept, wherever it is."""
    picture = Image.new(mode, (400, 100), (200, 200, 200, 0)[: len(mode)])
    picture.paste(noise((100, 100)), (left, 0))
    found = made(picture, tmp_path, Recipe("x", 100, 100, "cover", "png", gravity="entropy"))
    assert distance(found, noise((100, 100))) < 25
    plain = made(picture, tmp_path, Recipe("x", 100, 100, "cover", "png", gravity="west" if left else "east"))
    assert distance(plain, noise((100, 100))) > 40


def test_where_nothing_is_busier_entropy_keeps_the_middle(tmp_path: Path) -> None:
    """Of windows that are all alike it takes the one that a person would: dots in every third of a picture."""
    picture = Image.new("RGB", (300, 100), RED)
    for left in range(0, 300, 4):
        picture.paste(BLUE, (left, 0, left + 2, 100))
    recipe = Recipe("x", 100, 100, "cover", "png", gravity="entropy")
    middle = Recipe("x", 100, 100, "cover", "png")
    assert made(picture, tmp_path, recipe).tobytes() == made(picture, tmp_path, middle).tobytes()
    assert busiest(Image.new("L", (300, 100)), (1 / 3, 1.0)) == (0.5, 0.5)


def test_what_is_drawn_in_black_on_nothing_is_something(tmp_path: Path) -> None:
    """Entropy is that of what is seen: black is not the colour of what is transparent."""
    picture = Image.new("RGBA", (400, 100), (0, 0, 0, 0))
    picture.putalpha(Image.new("L", (400, 100), 0))
    picture.paste(Image.merge("RGBA", [*[Image.new("L", (100, 100), 0)] * 3, noise((100, 100), "L")]), (300, 0))
    found = made(picture, tmp_path, Recipe("x", 100, 100, "cover", "png", gravity="entropy"))
    assert found.getchannel("A").getextrema() != (0, 0)


def test_pad_puts_the_picture_in_the_middle(tmp_path: Path) -> None:
    """On nothing where the format can hold that, on the background, or on white."""
    recipe = Recipe("x", 40, 80, "pad", "png")
    found = made(Image.new("RGB", (100, 100), RED), tmp_path, recipe)
    assert (found.mode, found.size) == ("RGBA", (40, 80))
    assert (at(found, 20, 19)[3], at(found, 20, 20), at(found, 20, 59), at(found, 20, 60)[3]) == (
        0, (*RED, 255), (*RED, 255), 0,
    )  # fmt: skip
    found = made(Image.new("RGB", (100, 100), RED), tmp_path, Recipe("x", 40, 80, "pad", "png", background="#0000ff"))
    assert (found.mode, at(found, 20, 5), at(found, 20, 40)) == ("RGB", BLUE, RED)
    found = made(Image.new("RGB", (100, 100), RED), tmp_path, Recipe("x", 80, 40, "pad", "jpeg"))
    assert near(at(found, 5, 20), WHITE)


# colours and transparency


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(orientation: int, form: str, tmp_path: Path) -> None:
    """Each of the eight ways to hold a camera; the crop is that of the upright picture, and no tag is left."""
    upright = quarters((600, 300))
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    held = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    found = made(encoded(held, form, exif=exif), tmp_path, Recipe("x", 60, format="png"))
    assert found.size == (60, 30)
    assert distance(found, quarters((60, 30))) < 9
    assert not found.getexif()
    cut = made(encoded(held, form, exif=exif), tmp_path, Recipe("x", 30, 30, "cover", "png", gravity="west"))
    assert near(at(cut, 25, 5), RED, 20)
    assert near(at(cut, 25, 25), BLUE, 20)


def test_colours_are_brought_into_srgb(tmp_path: Path) -> None:
    """A profile is applied, and not carried over: every viewer shows the same."""
    shown = Image.new("RGB", (40, 40), (250, 20, 60))
    for recipe in (Recipe("x", 20, format="png"), Recipe("x", 20, format="jpeg", quality=100), Recipe("x", 20)):
        found = made(encoded(shown, "PNG", icc_profile=wide_profile()), tmp_path, recipe)
        assert near(at(found, 10, 10), (60, 20, 250), 6)
        assert "icc_profile" not in found.info


def test_transparency_goes_through_a_profile(tmp_path: Path) -> None:
    """Alpha is no colour."""
    picture = encoded(Image.new("RGBA", (40, 40), (250, 20, 60, 77)), "PNG", icc_profile=wide_profile())
    found = at(made(picture, tmp_path, Recipe("x", 20, format="png")), 10, 10)
    assert found[3] == 77
    assert near(found[:3], (60, 20, 250), 6)


@pytest.mark.parametrize(
    "profile", [b"nonsense" * 40, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"\0" * 200]
)
def test_a_profile_that_is_broken_or_srgb_changes_nothing(profile: bytes, tmp_path: Path) -> None:
    """The pixels are taken as they are."""
    picture = noise((40, 40))
    with_it = made(encoded(picture, "PNG", icc_profile=profile), tmp_path, Recipe("x", 40, format="png"))
    assert with_it.tobytes() == picture.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_every_kind_of_pixels_becomes_every_format(mode: str, form: Format, tmp_path: Path) -> None:
    """One grey, in each of the ways to hold it, stays that grey."""
    whole = {"1": 255, "L": 255, "LA": (255, 255), "P": 1, "RGB": WHITE, "RGBA": (*WHITE, 255), "I;16": 65535}
    picture = Image.new(mode, (60, 60), cast(int, whole.get(mode, (0, 0, 0, 0))))
    if mode == "P":
        picture.putpalette([0, 0, 0, 255, 255, 255])
    data = encoded(picture, "JPEG" if mode == "CMYK" else "PNG")
    found = made(data, tmp_path, Recipe("x", 30, 20, "pad", form, background="#808080"))
    assert near(at(found.convert("RGB"), 15, 10), WHITE, 2)
    assert near(at(found.convert("RGB"), 1, 10), (128, 128, 128), 2)


def test_sixteen_bits_keep_their_upper_half(tmp_path: Path) -> None:
    """Grey of 16 bits is no picture that is white almost everywhere."""
    found = made(Image.new("I;16", (60, 60), 100 << 8), tmp_path, Recipe("x", 30, format="png"))
    assert near(at(found.convert("RGB"), 15, 15), (100, 100, 100), 0)


def test_a_palette_keeps_what_is_transparent_in_it(tmp_path: Path) -> None:
    """As the one colour that a PNG names for that."""
    picture = Image.new("P", (60, 60), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (30, 0, 60, 60))
    found = made(encoded(picture, "PNG", transparency=1), tmp_path, Recipe("x", 60, format="webp"))
    assert (at(found, 5, 5)[3], at(found, 55, 5)[3]) == (255, 0)


def test_what_is_transparent_lends_no_colour_to_its_neighbours(tmp_path: Path) -> None:
    """A blue disc on transparent red has no red rim when it is made smaller."""
    picture = Image.new("RGBA", (90, 90), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (33, 33, 57, 57))
    found = made(picture, tmp_path, Recipe("x", 20, format="png"))
    assert found.mode == "RGBA"
    data = found.tobytes()
    seen = [tuple(data[start : start + 4]) for start in range(0, len(data), 4)]
    assert any(0 < alpha < 255 for *_, alpha in seen)
    assert all(red <= 2 for red, *_, alpha in seen if alpha > 8)


@pytest.mark.parametrize(
    ("form", "background", "seen"),
    [
        ("png", None, (0, 0, 0, 0)),
        ("webp", None, (0, 0, 0, 0)),
        ("jpeg", None, WHITE),
        ("png", "#ff0000", RED),
        ("webp", "#ff0000", RED),
        ("jpeg", "#ff0000", RED),
    ],
)
def test_transparency_is_kept_or_flattened_as_asked(
    form: Format, background: str | None, seen: Colour, tmp_path: Path
) -> None:
    """Without a background it stays where the format has it, and is white where not."""
    picture = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    found = made(picture, tmp_path, Recipe("x", 30, format=form, background=background))
    assert near(at(found, 15, 15), seen, 2) or (len(seen) == 4 and at(found, 15, 15)[3] == 0)


def test_an_alpha_channel_that_hides_nothing_is_left_out(tmp_path: Path) -> None:
    """It would only make the file larger."""
    found = made(Image.new("RGBA", (60, 60), (*RED, 255)), tmp_path, Recipe("x", 30, format="png"))
    assert found.mode == "RGB"


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_taken(form: str, tmp_path: Path) -> None:
    """A still picture is what was asked for."""
    frames = [Image.new("RGB", (60, 60), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=100)
    assert near(at(made(data, tmp_path, Recipe("x", 30, format="png")), 15, 15), RED, 6)


# what is carried over, and what comes of it


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP"])
def test_no_metadata_is_carried_over(source: str, form: Format, tmp_path: Path) -> None:
    """Law 5 is the asset's: a rendition must not seem to carry its credentials, nor tell where a camera was."""
    secret = b"where this was taken"
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = secret.decode()
    options: dict[str, object] = {"exif": exif, "xmp": b"<x>" + secret + b"</x>", "icc_profile": wide_profile()}
    if source == "PNG":
        note = PngImagePlugin.PngInfo()
        note.add_text("Comment", secret.decode())
        note.add(b"caBX", secret)
        options = {"exif": exif, "icc_profile": wide_profile(), "pnginfo": note}
    elif source == "JPEG":
        options["comment"] = secret
    data = encoded(smooth((60, 60)), source, **options)
    assert secret in data
    (tmp_path / "asset").write_bytes(data)
    (found,) = render(tmp_path / "asset", [Recipe("x", 60, 60, "contain", form)])
    assert secret not in found
    assert not set(decoded(found).info) & {"exif", "xmp", "icc_profile", "comment", "Comment", "XML:com.adobe.xmp"}
    assert not any(word in found for word in (b"caBX", b"Exif", b"ICC", b"XMP", b"iCCP", b"tEXt"))


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_quality_is_that_of_the_recipe(form: Format, tmp_path: Path) -> None:
    """Fewer bytes for less; without one it is the documented default."""
    (tmp_path / "asset").write_bytes(encoded(noise((90, 90)), "PNG"))
    recipes = [Recipe("x", 60, format=form, quality=quality) for quality in (1, 30, 60, 95)]
    assert all(len(a) < len(b) for a, b in pairwise(render(tmp_path / "asset", recipes)))
    told = Recipe("x", 60, format=form, quality={"jpeg": 85, "webp": 80}[form])
    one, two = render(tmp_path / "asset", [told, Recipe("x", 60, format=form)])
    assert one == two


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_the_same_bytes_whatever_is_made_beside(form: str, tmp_path: Path) -> None:
    """A recipe that is added makes only its own: those that are there stay what they would be."""
    (tmp_path / "asset").write_bytes(encoded(smooth((1200, 900)), form))
    recipes = [
        Recipe("a", 100),
        Recipe("b", 1000, format="jpeg"),
        Recipe("c", 300, 300, "cover", "png", gravity="entropy"),
        Recipe("d", 64, 64, "pad"),
    ]
    together = render(tmp_path / "asset", recipes)
    assert together == [render(tmp_path / "asset", [recipe])[0] for recipe in recipes]
    assert together == render(tmp_path / "asset", recipes[::-1])[::-1]


@pytest.mark.parametrize("width", [600, 450, 300, 290, 150, 75, 40])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_that_is_decoded_small_shows_the_same(width: int, orientation: int, tmp_path: Path) -> None:
    """Its decoder makes it smaller where twice what is wanted is left; nobody sees which way it went."""
    grain = noise((300, 150)).resize((1200, 600), Image.Resampling.BICUBIC)
    picture = Image.blend(smooth((1200, 600)), grain, 0.3)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(picture, "JPEG", quality=95, exif=exif)
    found = made(data, tmp_path, Recipe("x", width, format="png"))
    upright = decoded(data) if orientation == 1 else decoded(data).transpose(Image.Transpose.ROTATE_270)
    exact = upright.resize(found.size, Image.Resampling.LANCZOS)
    assert found.size[0] == min(width, upright.width)
    assert distance(found, exact) < 2.5


def test_an_asset_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many renditions there are of it: decoding takes most of the time."""
    from PIL.PngImagePlugin import PngImageFile

    loads: list[PngImageFile] = []
    load_end = PngImageFile.load_end

    def counted(image: PngImageFile) -> None:
        loads.append(image)
        load_end(image)

    monkeypatch.setattr(PngImageFile, "load_end", counted)
    (tmp_path / "asset").write_bytes(encoded(noise((90, 90)), "PNG"))
    render(tmp_path / "asset", [Recipe("x", side) for side in (10, 20, 30, 40)])
    assert len(loads) == 1


# what cannot be read


def png_of(width: int, height: int) -> bytes:
    """A PNG of one row that says that it is this large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"%PDF-1.7 not a picture at all, but long enough to be read", "is a PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "is broken"),
        (encoded(noise((90, 90)), "PNG")[:2000], "is broken"),
        (png_of(20_000, 20_000), "too many pixels"),
        (png_of(10_001, 10_000), "too many pixels"),
    ],
)
def test_what_is_no_picture_is_told(data: bytes, message: str, tmp_path: Path) -> None:
    """One that is broken, gigantic or of another kind costs its own rendition, and a word about it."""
    (tmp_path / "asset.png").write_bytes(data)
    with pytest.raises(BadInput) as caught:
        render(tmp_path / "asset.png", [Recipe("x", 30)])
    assert "asset.png" in caught.value.message
    assert message in caught.value.message
    assert caught.value.hint


def test_a_missing_asset_is_told(tmp_path: Path) -> None:
    """It is no slip in a manifest: `verify` says more."""
    with pytest.raises(BadInput, match=r"gone\.png is missing") as caught:
        render(tmp_path / "gone.png", [Recipe("x", 30)])
    assert "runner verify" in caught.value.hint


# the process that does it


def asked(*questions: bytes) -> list[tuple[dict[str, object], list[bytes]]]:
    """What a worker process says to each question: its head, and its pictures."""
    told = io.BytesIO(subprocess.run(worker.COMMAND, input=b"".join(questions), capture_output=True, check=True).stdout)
    answers = []
    while head := told.readline():
        words = json.loads(head)
        answers.append((words, [told.read(length) for length in words.get("bytes", [])]))
    return answers


def test_a_worker_makes_what_is_asked_in_its_order(tmp_path: Path) -> None:
    """Renditions and composites from one process; what it makes is what would be made here."""
    desk = new_desk(tmp_path)
    desk.put("a.png", noise((300, 200)))
    desk.put("answer.png", smooth((300, 200)))
    recipes = [Recipe("small", 20), Recipe("large", 200, 200, "pad", "png", background="#00ff00")]
    composite = desk.inputs().composite("a.png", Mask(box=(1, 2, 30, 40)))
    asset = desk.base / "a.png"
    rendered, pasted, again = asked(
        worker.rendering(asset, recipes),
        worker.pasting(desk.base, composite, desk.base / "answer.png"),
        worker.rendering(asset, recipes[1:]),
    )
    assert rendered[1] == render(asset, recipes)
    assert pasted[1] == [paste(desk.base, composite, desk.base / "answer.png")]
    assert again[1] == rendered[1][1:]


def test_a_worker_says_what_is_wrong_and_goes_on_rendering(tmp_path: Path) -> None:
    """One process makes thousands: a bad question must not spoil what follows it."""
    (tmp_path / "a.png").write_bytes(encoded(noise((30, 30)), "PNG"))
    good = worker.rendering(tmp_path / "a.png", [Recipe("x", 10)])
    answers = asked(
        worker.rendering(tmp_path / "b.png", [Recipe("x", 10)]),
        b"nonsense\n",
        b'["sing"]\n',
        b'["render", "a.png", ["{}"]]\n',
        good,
    )
    assert "b.png is missing" in str(answers[0][0]["error"])
    assert all("error" in head and not blobs for head, blobs in answers[:4])
    assert decoded(answers[4][1][0]).size == (10, 10)


def test_a_worker_lets_requests_go_first(tmp_path: Path) -> None:
    """Where there is one processor for both, pictures wait."""
    (tmp_path / "a.png").write_bytes(encoded(noise((30, 30)), "PNG"))
    process = subprocess.Popen(worker.COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(worker.rendering(tmp_path / "a.png", [Recipe("x", 10)]))
        process.stdin.flush()
        process.stdout.readline()
        nice = os.getpriority(os.PRIO_PROCESS, process.pid)
        process.stdin.close()
        process.stdout.read()
    assert nice == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 19)
