"""Masks: every way to say what is to be changed, as the PNG that the API takes; and every one that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from runner.inputs import Inputs, Mask, Prepare, Ready
from runner.inputs import masks as module
from runner.inputs.types import MaskMode
from tests.rules.inputs_support import Desk, desk, encoded, new_desk, noise, opened, refused, smooth

ORIENTATION = 0x0112
SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))


@pytest.fixture
def here(tmp_path: Path) -> Desk:
    found = new_desk(tmp_path)
    found.put("a.png", smooth((40, 30)))
    return found


def bits(size: tuple[int, int], seed: int = 1) -> Image.Image:
    """A black and white picture of 0 and 255 in mode L, with at least one of each where there is room."""
    picture = noise(size, "1", seed).convert("L")
    picture.putpixel((0, 0), 255)
    if size[0] * size[1] > 1:
        picture.putpixel((size[0] - 1, size[1] - 1), 0)
    return picture


def transparent_where(plane: Image.Image) -> Image.Image:
    """What the API takes: transparent where the plane is white."""
    picture = noise(plane.size, "RGBA")
    picture.putalpha(plane.point(lambda value: 255 - value))
    return picture


def region(ready: Ready) -> Image.Image:
    """What the API would change: 255 where the mask is fully transparent."""
    picture = opened(ready.path)
    assert picture.format == "PNG"
    assert picture.mode in ("RGBA", "LA")
    assert picture.size == (ready.input.width, ready.input.height)
    assert ready.bytes == ready.path.stat().st_size < 4_000_000
    assert ready.format == "png"
    return picture.getchannel("A").point(lambda value: 255 if value == 0 else 0)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_the_api_takes_is_sent_as_it_is(here: Desk, mode: str) -> None:
    """A PNG with alpha of the image's size: its very bytes, by their own hash."""
    plane = bits((40, 30))
    name = here.put("m.png", transparent_where(plane).convert(mode))
    ready = here.inputs().mask(Mask(file=name), "a.png")
    assert ready.path == here.base / name
    assert ready.input.identity == here.sha256(name)
    assert same(region(ready), plane)
    assert here.inputs().fetch(ready.source) == ready


def masks_of(here: Desk, plane: Image.Image) -> list[Mask]:
    """Files that say the same in all the ways that are converted."""
    black = plane.point(lambda value: 255 - value)
    sixteen = Image.frombytes("I;16", plane.size, b"".join(bytes((7, value)) for value in plane.tobytes()))
    palette = plane.point(lambda value: value // 255).convert("L")
    palette = Image.frombytes("P", plane.size, palette.tobytes())
    palette.putpalette([9, 9, 9, 200, 200, 200])
    white_alpha = Image.new("RGBA", plane.size, "white")
    white_alpha.putalpha(plane)
    black_alpha = Image.new("RGBA", plane.size, "black")
    black_alpha.putalpha(plane)

    def of(mode: MaskMode, name: str, picture: Image.Image, **options: object) -> Mask:
        return Mask(file=here.put(name, picture, **options), mode=mode)

    return [
        of("alpha", "a.webp", transparent_where(plane), lossless=True, exact=True),
        of("alpha", "palette.png", palette, transparency=1),
        of("white_is_edit", "w.png", plane),
        of("white_is_edit", "w1.png", plane.convert("1")),
        of("white_is_edit", "w16.png", sixteen),
        of("white_is_edit", "wp.png", palette),
        of("white_is_edit", "wrgb.png", plane.convert("RGB")),
        of("white_is_edit", "grey.png", plane.point(lambda value: 128 if value else 127)),
        of("white_is_edit", "wa.png", white_alpha),
        of("black_is_edit", "b.png", black),
        of("black_is_edit", "b.webp", black, lossless=True),
        of("black_is_edit", "ba.png", black_alpha),
        of("black_is_edit", "bgrey.png", black.point(lambda value: 128 if value else 127)),
    ]


@settings(max_examples=25, deadline=None)
@given(size=SIZES, seed=st.integers(0, 99))
def test_a_file_in_any_mode_means_its_region(size: tuple[int, int], seed: int) -> None:
    """To the pixel: white or black from the middle grey on; what is transparent in a grey mask stays."""
    with desk() as here:
        image = here.put("base.png", noise(size))
        plane = bits(size, seed)
        inputs = here.inputs()
        for mask in masks_of(here, plane):
            ready = inputs.mask(mask, image)
            assert same(region(ready), plane), mask
            assert inputs.fetch(ready.source) == ready


def test_a_jpeg_mask_may_be_a_little_grey(here: Desk) -> None:
    """Where it was saved as a photograph, white is not quite white."""
    plane = Image.new("L", (40, 30))
    plane.paste(255, (8, 8, 32, 24))
    name = here.put("m.jpg", plane, quality=60)
    assert same(region(here.inputs().mask(Mask(file=name, mode="white_is_edit"), "a.png")), plane)


def test_only_what_is_fully_transparent_is_to_be_changed(here: Desk) -> None:
    """As the API has it: what is almost transparent stays, when the mask is converted too."""
    picture = Image.new("RGBA", (40, 30), (9, 9, 9, 1))
    picture.putpixel((7, 7), (9, 9, 9, 0))
    name = here.put("m.webp", picture, lossless=True, exact=True)
    found = region(here.inputs().mask(Mask(file=name), "a.png"))
    assert found.getbbox() == (7, 7, 8, 8)


def test_a_mask_is_read_upright(here: Desk) -> None:
    """As its image is."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    plane = bits((40, 30))
    lying = plane.transpose(Image.Transpose.ROTATE_90)
    for mode, picture in (("alpha", transparent_where(lying)), ("white_is_edit", lying)):
        name = here.put("m.png", picture, exif=exif.tobytes())
        assert same(region(here.inputs().mask(Mask(file=name, mode=mode), "a.png")), plane)  # type: ignore[arg-type] # one of the modes


def test_the_image_is_measured_upright(here: Desk) -> None:
    """The mask has the size that people see."""
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    image = here.put("turned.jpg", smooth((40, 30)), exif=exif.tobytes())
    name = here.put("m.png", transparent_where(bits((30, 40))))
    assert here.inputs().mask(Mask(file=name), image).path == here.base / name


@settings(max_examples=50, deadline=None)
@given(size=SIZES, data=st.data())
def test_a_box_is_its_pixels(size: tuple[int, int], data: st.DataObject) -> None:
    """All of them and no others, up to the very border."""
    x, y = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    width, height = data.draw(st.integers(1, size[0] - x)), data.draw(st.integers(1, size[1] - y))
    with desk() as here:
        image = here.put("a.png", noise(size))
        found = region(here.inputs().mask(Mask(box=(x, y, width, height)), image))
        meant = bytes(
            255 if x <= column < x + width and y <= row < y + height else 0
            for row in range(size[1])
            for column in range(size[0])
        )
        assert found.tobytes() == meant


@settings(max_examples=50, deadline=None)
@given(size=SIZES, points=st.lists(st.tuples(st.integers(-30, 60), st.integers(-30, 60)), min_size=3, max_size=8))
def test_a_polygon_is_what_lies_in_it(size: tuple[int, int], points: list[tuple[int, int]]) -> None:
    """Its corners may lie outside the image; all of it may not."""
    plane = Image.new("L", size)
    ImageDraw.Draw(plane).polygon(points, fill=255)
    mask = Mask(polygon=tuple(points))
    with desk() as here:
        image = here.put("a.png", noise(size))
        if plane.getbbox() is None:
            with refused("the polygon lies outside a.png", f"{size[0]}x{size[1]}", about="mask"):
                here.inputs().mask(mask, image)
        else:
            assert same(region(here.inputs().mask(mask, image)), plane)


def test_a_triangle_is_one(here: Desk) -> None:
    """The point in the middle is in, the corners opposite are out: a check against no one's drawing."""
    found = region(here.inputs().mask(Mask(polygon=((0, 0), (39, 0), (0, 29))), "a.png"))
    assert [found.getpixel(at) for at in ((0, 0), (10, 7), (0, 29), (39, 29), (30, 20))] == [255, 255, 255, 0, 0]


@settings(max_examples=60, deadline=None)
@given(size=SIZES, most=st.integers(1, 24), seed=st.integers(0, 99), sparse=st.booleans())
def test_a_mask_shrinks_with_its_image(size: tuple[int, int], most: int, seed: int, sparse: bool) -> None:
    """A pixel that is sent is to be changed when any part of it is; no edit is lost, however small."""
    plane = bits(size, seed)
    if sparse:
        plane = Image.new("L", size)
        plane.putpixel((seed % size[0], seed % size[1]), 255)
    prepare = Prepare(max_side=most)
    with desk() as here:
        image = here.put("a.png", noise(size))
        name = here.put("m.png", plane)
        inputs = here.inputs()
        sent = inputs.image(image, prepare).input
        ready = inputs.mask(Mask(file=name, mode="white_is_edit"), image, prepare)
        assert (ready.input.width, ready.input.height) == (sent.width, sent.height)

        def touched(now: int, was: int, index: int) -> range:
            """The old pixels that have a part in the new one: those whose span [i, i+1) meets its own."""
            return range(index * was // now, -((-(index + 1) * was) // now))

        meant = bytes(
            max(
                int(plane.getpixel((x, y)))  # type: ignore[arg-type] # of L this is an int
                for y in touched(sent.height, size[1], row)
                for x in touched(sent.width, size[0], column)
            )
            for row in range(sent.height)
            for column in range(sent.width)
        )
        assert region(ready).tobytes() == meant
        assert inputs.fetch(ready.source) == ready


def test_a_mask_of_another_size_is_refused_unless_asked(here: Desk) -> None:
    """Both sizes are told; asked for, it is scaled without grey edges."""
    plane = Image.new("L", (20, 15))
    plane.paste(255, (5, 5, 10, 10))
    name = here.put("m.png", plane)
    inputs = here.inputs()
    with refused("m.png is 20x15, and a.png is 40x30", hint="resize: true", about="mask"):
        inputs.mask(Mask(file=name, mode="white_is_edit"), "a.png")
    ready = inputs.mask(Mask(file=name, mode="white_is_edit", resize=True), "a.png")
    meant = Image.new("L", (40, 30))
    meant.paste(255, (10, 10, 20, 20))
    assert same(region(ready), meant)
    assert inputs.fetch(ready.source) == ready
    alpha = here.put("alpha.png", transparent_where(plane))
    assert same(region(inputs.mask(Mask(file=alpha, resize=True), "a.png")), meant)


def test_a_mask_that_fits_is_sent_as_it_is_with_resize_too(here: Desk) -> None:
    """`resize` is a permission, no order."""
    name = here.put("m.png", transparent_where(bits((40, 30))))
    assert here.inputs().mask(Mask(file=name, resize=True), "a.png").input.identity == here.sha256(name)


@pytest.mark.parametrize(
    ("mode", "picture", "words"),
    [
        ("alpha", Image.new("RGB", (40, 30), "white"), "has no transparency"),
        ("alpha", noise((40, 30), "I;16"), "has no transparency"),
        ("alpha", Image.new("RGBA", (40, 30), "white"), "has no pixel that is fully transparent"),
        ("alpha", Image.new("RGBA", (40, 30), (0, 0, 0, 1)), "has no pixel that is fully transparent"),
        ("white_is_edit", Image.new("L", (40, 30), 127), "has no pixel that is white"),
        ("white_is_edit", Image.new("RGBA", (40, 30), (255, 255, 255, 0)), "has no pixel that is white"),
        ("black_is_edit", Image.new("L", (40, 30), 128), "has no pixel that is black"),
        ("black_is_edit", Image.new("RGBA", (40, 30), (0, 0, 0, 0)), "has no pixel that is black"),
    ],
)
def test_a_mask_that_would_change_nothing_is_refused(
    here: Desk, mode: MaskMode, picture: Image.Image, words: str
) -> None:
    """It would be paid for, and change nothing, or all: nobody means that."""
    name = here.put("m.png", picture)
    for _ in range(2):
        with refused("m.png", words, "change nothing", hint="", about="mask"):
            here.inputs().mask(Mask(file=name, mode=mode), "a.png")


def test_one_transparent_grey_of_16_bits_is_no_mask(here: Desk) -> None:
    """Nothing that draws masks writes such files, and what they mean depends on who reads them."""
    name = here.put("m.png", Image.new("I;16", (40, 30), 7), transparency=7)
    with refused("m.png has no transparency", about="mask"):
        here.inputs().mask(Mask(file=name), "a.png")


def test_all_may_be_changed(here: Desk) -> None:
    """A mask that is transparent everywhere is one."""
    name = here.put("m.png", Image.new("RGBA", (40, 30)))
    white = here.put("w.png", Image.new("L", (40, 30), 255))
    for mask in (Mask(file=name), Mask(file=white, mode="white_is_edit"), Mask(box=(0, 0, 40, 30))):
        assert region(here.inputs().mask(mask, "a.png")).getextrema() == (255, 255)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (Mask(box=(0, 0, 0, 5)), "the box [0, 0, 0, 5] is empty"),
        (Mask(box=(3, 3, 5, -1)), "is empty"),
        (Mask(box=(-1, 0, 5, 5)), "reaches beyond a.png, which is 40x30"),
        (Mask(box=(36, 0, 5, 5)), "reaches beyond"),
        (Mask(box=(0, 0, 5, 31)), "reaches beyond"),
        (Mask(box=(100, 100, 5, 5)), "reaches beyond"),
        (Mask(polygon=()), "has 0 points"),
        (Mask(polygon=((1, 1), (5, 5))), "has 2 points"),
        (Mask(polygon=((1, 1),)), "has 1 point"),
        (Mask(polygon=((50, 50), (60, 50), (50, 60))), "lies outside a.png, which is 40x30"),
        (Mask(polygon=((0, 0), (10**9, 0), (0, 9))), "absurdly far"),
        (Mask(polygon=((1, 1),) * 10_001), "has 10001 points"),
        (Mask(), "a mask is one of"),
        (Mask(box=(0, 0, 5, 5), file="a.png"), "a mask is one of"),
        (Mask(box=(0, 0, 5, 5), feather=257), "a feather of 257"),
        (Mask(box=(0, 0, 5, 5), feather=-1), "a feather of -1"),
    ],
)
def test_a_drawing_that_is_none_is_refused(here: Desk, mask: Mask, words: str) -> None:
    """With what is wrong about it, and never a traceback."""
    with refused(words, about="mask"):
        here.inputs().mask(mask, "a.png")
    with refused(words, about="mask"):
        here.inputs().composite("a.png", mask)


def test_a_masks_file_is_checked_as_images_are(here: Desk) -> None:
    """Missing, of another kind, broken; and the error tells that it is about the mask."""
    inputs = here.inputs()
    with refused("there is no file gone.png", about="mask"):
        inputs.mask(Mask(file="gone.png"), "a.png")
    with refused("is text", about="mask"):
        inputs.mask(Mask(file=here.put("m.png", b"a mask")), "a.png")
    with refused("is broken", about="mask"):
        inputs.mask(Mask(file=here.put("m.png", encoded(noise((40, 30), "RGBA"), "PNG")[:-100])), "a.png")
    with refused("there is no file gone.png", about="image"):
        inputs.mask(Mask(box=(0, 0, 2, 2)), "gone.png")


def test_a_large_alpha_mask_is_made_small(here: Desk) -> None:
    """Its colours say nothing, and 4 MB are the most: what is sent has its region alone."""
    image = here.put("big.png", Image.new("1", (1100, 1000)))
    plane = Image.new("L", (1100, 1000))
    plane.paste(255, (100, 100, 900, 900))
    name = here.put("m.png", transparent_where(plane), compress_level=0)
    assert (here.base / name).stat().st_size > 4_000_000
    ready = here.inputs().mask(Mask(file=name), image)
    assert same(region(ready), plane)
    assert ready.bytes < 100_000


def test_a_mask_that_is_too_large_even_so_is_refused(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise cannot be made small; the hint says what helps."""
    monkeypatch.setattr("runner.inputs.inputs.MAX_MASK_BYTES", 1000)
    name = here.put("m.png", bits((400, 300)))
    image = here.put("big.png", smooth((400, 300)))
    with refused("m.png has", "MB as a mask of 400x300", hint="prepare", about="mask"):
        here.inputs().mask(Mask(file=name, mode="white_is_edit"), image)
    small = here.inputs().mask(Mask(file=name, mode="white_is_edit"), image, Prepare(max_side=20))
    assert small.bytes < 1000


def test_drawn_masks_are_small(here: Desk) -> None:
    """They go along with every request."""
    image = here.put("big.png", Image.new("1", (3000, 2000)))
    for mask in (Mask(box=(9, 9, 2000, 900)), Mask(polygon=((0, 0), (2999, 500), (800, 1999)))):
        assert here.inputs().mask(mask, image).bytes < 60_000


def test_the_identity_of_a_mask_is_what_it_says(here: Desk) -> None:
    """Not what it is called, nor the colours of the image it is for; its size, its mode and what is sent count."""
    here.put("b.png", noise((40, 30)))
    here.put("small.png", smooth((20, 30)))
    here.put("large.png", smooth((80, 60)))
    plane = bits((40, 30))
    one, other = here.put("m.png", plane), here.put("n.png", plane)
    inputs = here.inputs()

    def identity(mask: Mask, image: str = "a.png", prepare: Prepare | None = None) -> str:
        return inputs.mask(mask, image, prepare).input.identity

    white = Mask(file=one, mode="white_is_edit")
    box = Mask(box=(1, 2, 3, 4))
    assert identity(white) == identity(Mask(file=other, mode="white_is_edit", feather=9)) == identity(white, "b.png")
    assert identity(box) == identity(Mask(box=(1, 2, 3, 4), feather=4)) == identity(box, "b.png")
    different = [
        identity(white),
        identity(Mask(file=one, mode="black_is_edit")),
        identity(white, prepare=Prepare(max_side=20)),
        identity(Mask(file=one, mode="white_is_edit", resize=True), "small.png"),
        identity(box),
        identity(Mask(box=(1, 2, 4, 3))),
        identity(box, "small.png"),
        identity(box, prepare=Prepare(max_side=20)),
        identity(box, "large.png", prepare=Prepare(max_side=20)),
        identity(Mask(polygon=((1, 2), (3, 4), (9, 0)))),
        identity(Mask(polygon=((1, 2), (3, 4), (9, 1)))),
    ]
    assert len(set(different)) == len(different)
    changed = plane.copy()
    changed.putpixel((5, 5), 255 - int(changed.getpixel((5, 5))))  # type: ignore[arg-type] # of L this is an int
    here.put("m.png", changed)
    assert identity(white) not in different


def test_a_mask_that_changed_is_not_fetched(here: Desk) -> None:
    """Nor one whose image has another size now."""
    name = here.put("m.png", bits((40, 30)))
    white = here.inputs().mask(Mask(file=name, mode="white_is_edit"), "a.png")
    box = here.inputs().mask(Mask(box=(0, 0, 9, 9)), "a.png")
    here.put(name, bits((40, 30), seed=7))
    with refused("m.png has changed since it was planned", about="mask"):
        here.inputs().fetch(white.source)
    here.put("a.png", smooth((41, 30)))
    with refused("has changed since it was planned", about="mask"):
        here.inputs().fetch(box.source)


def test_a_far_corner_costs_nothing(here: Desk) -> None:
    """A polygon may reach far beyond its image."""
    far = module._FARTHEST
    mask = Mask(polygon=((-far, -far), (far, -far), (far, far), (-far, far)))
    assert region(here.inputs().mask(mask, "a.png")).getextrema() == (255, 255)


def test_drawn_masks_of_many_images_need_no_files_of_their_own(here: Desk) -> None:
    """One drawing for all pictures of one size is kept once."""
    inputs: Inputs = here.inputs()
    for number in range(5):
        here.put(f"{number}.png", noise((40, 30), seed=number))
    paths = {inputs.mask(Mask(box=(1, 1, 9, 9)), f"{number}.png").path for number in range(5)}
    assert len(paths) == 1
