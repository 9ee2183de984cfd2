"""What the simulator does with an edit: takes what the API takes, shows what it was made from, and bills it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from PIL import Image, ImageChops, ImageStat

from tests.edges.simulator_support import (
    Answer,
    Part,
    Peer,
    check_schema,
    edit_parts,
    encoded,
    form,
    landscape,
    mask_of,
    needs_openapi,
    running,
)

EDITS = "/v1/images/edits"
BASE = encoded(landscape())
MASK = mask_of(768, 512, (200, 100, 600, 400))
SMALL = encoded(Image.new("RGB", (64, 48), "teal"))
# USD per million tokens: text in, image in, image out. Written down here once more on purpose.
_PRICES: dict[str, tuple[int, int | Fraction, int]] = {
    "gpt-image-1-mini": (2, Fraction(5, 2), 8),
    "gpt-image-1.5": (5, 8, 32),
    "gpt-image-2": (5, 8, 30),
}


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with running(seed=7) as it:
        yield it


@pytest.fixture
def sdk(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAI]:
    """The real client; loopback is asked directly, whatever the machine's own settings are."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with OpenAI(base_url=peer.base_url, api_key="anything", max_retries=0) as client:
        yield client


def _data_url(file: bytes, kind: str = "png") -> dict[str, str]:
    return {"image_url": f"data:image/{kind};base64,{base64.b64encode(file).decode()}"}


def _first(answer: Answer) -> Image.Image:
    assert answer.status == 200, answer.body[:500]
    return answer.images()[0].convert("RGB")


def _told(file: bytes, width: int, height: int, format_: str = "png") -> dict[str, object]:
    return {
        "sha256": hashlib.sha256(file).hexdigest(),
        "bytes": len(file),
        "format": format_,
        "width": width,
        "height": height,
    }


def test_the_sdk_edits_one_image(peer: Peer, sdk: OpenAI) -> None:
    """`images.edit` with a file: an image of the asked size, usage in both kinds of tokens, an entry on the bill."""
    answer = sdk.images.edit(model="gpt-image-1-mini", image=BASE, prompt="A hat", size="1536x1024", quality="low", n=2)
    assert answer.data and answer.usage
    assert len(answer.data) == 2
    for each in answer.data:
        with Image.open(io.BytesIO(base64.b64decode(each.b64_json or ""))) as image:
            assert image.size == (1536, 1024)
    # 768x512 covers two tiles: 65 + 2 * 129. The prompt's two words and the frame's six.
    assert (answer.usage.input_tokens_details.image_tokens, answer.usage.input_tokens_details.text_tokens) == (323, 8)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (331, 800)
    entry = peer.entries()[-1]
    assert (entry["endpoint"], entry["inputs"], entry["mask"]) == ("edits", [_told(BASE, 768, 512)], None)


def test_the_sdk_sends_a_list_and_a_mask(peer: Peer, sdk: OpenAI) -> None:
    """All images go into one request; the bill lists them in their order, with the mask by itself."""
    jpeg, webp = encoded(landscape(300, 200, 1), "JPEG"), encoded(landscape(200, 300, 2), "WEBP")
    sdk.images.edit(model="gpt-image-1-mini", image=[BASE, jpeg, webp], mask=MASK, prompt="A hat", size="1024x1024")
    entry = peer.entries()[-1]
    assert entry["inputs"] == [
        _told(BASE, 768, 512),
        _told(jpeg, 300, 200, "jpeg"),
        _told(webp, 200, 300, "webp"),
    ]
    assert entry["mask"] == _told(MASK, 768, 512)


def test_the_sdk_meets_the_apis_errors(sdk: OpenAI) -> None:
    """A refusal arrives as the SDK's own error, with code and parameter."""
    with pytest.raises(BadRequestError) as caught:
        sdk.images.edit(model="gpt-image-1-mini", image=b"no image", prompt="A hat")
    assert (caught.value.code, caught.value.param) == ("invalid_image_file", "image")


@needs_openapi
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"quality": None, "size": None, "n": 2},
        {"output_format": "webp", "background": "transparent", "output_compression": 40},
        {"model": "gpt-image-1.5", "input_fidelity": "high", "output_format": "jpeg"},
        {"model": "gpt-image-2", "size": "1536x864"},
    ],
)
def test_an_answer_fits_the_published_schema(peer: Peer, more: dict[str, Any]) -> None:
    """Every answer to an edit validates against ImagesResponse, every error against ErrorResponse."""
    answer = peer.edit(images=[BASE, SMALL], mask=MASK, **more)
    assert answer.status == 200
    check_schema(answer.json, "ImagesResponse")
    check_schema(peer.edit(images=[], **more).json, "ErrorResponse")


@needs_openapi
def test_a_json_edit_is_the_same_edit(peer: Peer) -> None:
    """Images as data URLs, moderation included: the same picture and the same bill as the form's."""
    peer.call("POST", "/simulator/reset")
    asked = {"model": "gpt-image-1-mini", "prompt": "A hat", "size": "1024x1024", "quality": "low"}
    body = {**asked, "images": [_data_url(BASE), _data_url(SMALL)], "mask": _data_url(MASK), "moderation": "low"}
    check_schema(body, "EditImageBodyJsonParam")
    as_json = peer.edit_json(body)
    peer.call("POST", "/simulator/reset")
    as_form = peer.edit("A hat", [BASE, SMALL], MASK)
    assert as_json.files() == as_form.files()
    assert as_json.json["usage"] == as_form.json["usage"]


_TWICE = [("image", BASE), ("image", BASE)]
_BOTH = [("image", BASE), ("image[]", BASE)]


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"n": "two"}, "n", "invalid_type"),
        ({"n": "1.5"}, "n", "invalid_type"),
        ({"n": ""}, "n", "invalid_type"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 11}, "n", "integer_above_max_value"),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression", "integer_above_max_value"),
        ({"stream": "true"}, "stream", "unsupported_value"),
        ({"partial_images": 2}, "partial_images", "unsupported_value"),
        ({"size": "999x999"}, "size", "invalid_value"),
        ({"quality": "ultra"}, "quality", "invalid_value"),
        ({"background": "transparent", "output_format": "jpeg"}, "background", "invalid_value"),
        ({"moderation": "low"}, "moderation", "unknown_parameter"),
        ({"style": "vivid"}, "style", "unknown_parameter"),
        ({"prompt": "x" * 32_001}, "prompt", "string_above_max_length"),
        ({"prompt": ""}, "prompt", "empty_string"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"input_fidelity": "low"}, "input_fidelity", "invalid_value"),
        ({"input_fidelity": "high", "model": "gpt-image-2"}, "input_fidelity", "invalid_value"),
        ({"input_fidelity": "middling", "model": "gpt-image-1.5"}, "input_fidelity", "invalid_value"),
    ],
)
def test_a_wrong_parameter_is_named(peer: Peer, more: dict[str, Any], param: str, code: str) -> None:
    """400 with `param` and `code`, as for a generation, and nothing is billed."""
    _refused(peer, edit_parts(**{"prompt": "A hat", "images": [BASE], **more}), param, code)


@pytest.mark.parametrize(
    ("parts", "param", "code"),
    [
        ([], "image", "missing_required_parameter"),
        ([("mask", MASK)], "image", "missing_required_parameter"),
        ([("image[]", SMALL)] * 17, "image", "array_above_max_length"),
        (_TWICE, "image", "duplicate_parameter"),
        (_BOTH, "image", "duplicate_parameter"),
        ([("image", BASE), ("mask", MASK), ("mask", MASK)], "mask", "duplicate_parameter"),
        ([("image", BASE), ("size", "1024x1024")], "size", "duplicate_parameter"),
        ([("image", "no file")], "image", "invalid_type"),
        ([("image", BASE), ("user", b"a file")], "user", "invalid_type"),
        ([("image", BASE), ("markup", BASE)], "markup", "invalid_type"),
        ([("image", BASE), *[(f"extra{n}", "x") for n in range(70)]], None, None),
        ([("image", BASE), ("user", "x" * 1_100_000)], None, None),
    ],
)
def test_a_form_of_another_shape_is_refused(peer: Peer, parts: list[Part], param: str | None, code: str | None) -> None:
    """Too many, too few, the wrong kind: 400, and the parameter is named where there is one."""
    _refused(peer, [*edit_parts("A hat", ()), *parts], param, code)


def _cut(file: bytes) -> bytes:
    return file[: len(file) * 2 // 3]


def _noise(width: int, height: int) -> Image.Image:
    return Image.effect_noise((width, height), 90)


_LARGE = BASE + b"\0" * (50_000_000 - len(BASE))
_BOMB = encoded(Image.new("1", (9000, 9000)))
_LARGE_MASK = MASK + b"\0" * (4_000_000 - len(MASK))


@pytest.mark.parametrize(
    ("image", "code"),
    [
        pytest.param(b"", "invalid_image_file", id="empty"),
        pytest.param(b"some text that is no image", "invalid_image_file", id="text"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "invalid_image_file", id="svg"),
        pytest.param(_cut(BASE), "invalid_image_file", id="cut-png"),
        pytest.param(BASE[:60] + b"\xff" + BASE[61:], "invalid_image_file", id="damaged-png"),
        pytest.param(BASE[:33], "invalid_image_file", id="png-without-pixels"),
        pytest.param(_cut(encoded(_noise(300, 300), "JPEG")), "invalid_image_file", id="cut-jpeg"),
        pytest.param(_cut(encoded(_noise(300, 300), "WEBP")), "invalid_image_file", id="cut-webp"),
        pytest.param(encoded(Image.new("P", (9, 9)), "GIF"), "invalid_image_format", id="gif"),
        pytest.param(encoded(Image.new("RGB", (9, 9)), "BMP"), "invalid_image_format", id="bmp"),
        pytest.param(encoded(Image.new("RGB", (9, 9)), "TIFF"), "invalid_image_format", id="tiff"),
        pytest.param(_LARGE, "image_too_large", id="50-mb"),
        pytest.param(_BOMB, "image_too_large", id="81-megapixels"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused(peer: Peer, image: bytes, code: str) -> None:
    """By content and not by name; the message says which of the images it is."""
    answer = _refused(peer, edit_parts("A hat", [SMALL, image]), "image", code)
    assert "image 2" in answer.error["message"]


def test_an_image_just_under_the_limit_is_taken(peer: Peer) -> None:
    """Less than 50 MB: the last byte decides."""
    assert peer.edit(images=[_LARGE[:-1]]).status == 200


@pytest.mark.parametrize(
    ("mask", "code", "words"),
    [
        pytest.param(b"no image", "invalid_image_file", "cannot be read", id="text"),
        pytest.param(_cut(MASK), "invalid_image_file", "cannot be read", id="cut"),
        pytest.param(encoded(landscape()), "invalid_mask_image_format", "alpha channel", id="no-alpha"),
        pytest.param(encoded(Image.new("L", (768, 512))), "invalid_mask_image_format", "alpha channel", id="grey"),
        pytest.param(
            encoded(Image.new("RGBA", (768, 512)), "WEBP"), "invalid_image_format", "must be a PNG file", id="webp"
        ),
        pytest.param(
            mask_of(512, 768, (0, 0, 9, 9)), "invalid_mask_image_format", "512x768.*768x512", id="another-size"
        ),
        pytest.param(_LARGE_MASK, "image_too_large", "less than 4 MB", id="4-mb"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(peer: Peer, mask: bytes, code: str, words: str) -> None:
    """A PNG with an alpha channel, under 4 MB, of exactly the first image's size: or 400 with the reason."""
    answer = _refused(peer, edit_parts("A hat", [BASE, SMALL], mask), "mask", code)
    assert re.search(words, answer.error["message"])


def _refused(peer: Peer, parts: list[Part], param: str | None, code: str | None) -> Answer:
    before = peer.bill()["billed_requests"]
    kind, data = form(parts)
    answer = peer.call("POST", EDITS, data, kind=kind)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert (answer.error["param"], answer.error["code"]) == (param, code)
    assert peer.bill()["billed_requests"] == before
    return answer


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"images": None}, "images", "missing_required_parameter"),
        ({"images": []}, "images", "missing_required_parameter"),
        ({"images": [_data_url(SMALL)] * 17}, "images", "array_above_max_length"),
        ({"images": "all"}, "images", "invalid_type"),
        ({"images": ["one"]}, "images[0]", "invalid_type"),
        ({"images": [{"file_id": 5}]}, "images[0].file_id", "invalid_type"),
        ({"images": [{"image_url": 5}]}, "images[0].image_url", "invalid_type"),
        ({"images": [{}]}, "images[0]", "invalid_value"),
        ({"images": [{**_data_url(SMALL), "file_id": "file-1"}]}, "images[0]", "invalid_value"),
        ({"images": [{**_data_url(SMALL), "detail": "low"}]}, "images[0].detail", "unknown_parameter"),
        ({"images": [{"file_id": "file-1"}]}, "images[0].file_id", "file_not_found"),
        ({"images": [{"image_url": "https://example.com/a.png"}]}, "images[0].image_url", "unsupported_value"),
        ({"images": [{"image_url": "/etc/passwd"}]}, "images[0].image_url", "invalid_value"),
        ({"images": [{"image_url": "data:image/png;base64,%%%"}]}, "images[0].image_url", "invalid_value"),
        ({"images": [{"image_url": "data:image/png;base64," + "A" * 20_971_520}]}, "images[0].image_url", None),
        ({"images": [_data_url(b"text")]}, "image", "invalid_image_file"),
        ({"mask": {"file_id": "file-1"}}, "mask.file_id", "file_not_found"),
        ({"mask": _data_url(SMALL)}, "mask", "invalid_mask_image_format"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"image": "x"}, "image", "unknown_parameter"),
        ({"moderation": "none"}, "moderation", "invalid_value"),
    ],
)
def test_a_json_edit_of_another_shape_is_refused(
    peer: Peer, more: dict[str, Any], param: str, code: str | None
) -> None:
    """An image is a data URL or the id of an uploaded file, and whatever else is wrong is named by its place."""
    asked = {"model": "gpt-image-1-mini", "prompt": "A hat", "images": [_data_url(SMALL)], **more}
    answer = peer.edit_json(asked)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert answer.error["code"] == (code or "string_above_max_length")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("text/plain", b"x"),
        ("application/x-www-form-urlencoded", b"prompt=a"),
        ("multipart/form-data", form(edit_parts("A hat", [SMALL]))[1]),
        ("multipart/form-data; boundary=another", form(edit_parts("A hat", [SMALL]))[1]),
        ("multipart/form-data; boundary=a-border", b"\xff\xfe no form at all"),
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b"[" * 100_000),
    ],
)
def test_a_body_that_is_neither_form_nor_object_is_refused(peer: Peer, kind: str, data: bytes) -> None:
    """Garbage is a 400 in the documented shape."""
    answer = peer.call("POST", EDITS, data, kind=kind)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


def test_a_wrong_key_is_told_even_while_much_is_on_its_way(peer: Peer) -> None:
    """The connection is not ended under who is still sending: that would hide the answer."""
    assert peer.edit(images=[_LARGE[:-1]], key=None).status == 401


def test_a_json_edit_that_is_too_large_is_told(peer: Peer) -> None:
    """413, although the peer was still sending."""
    answer = peer.call("POST", EDITS, b" " * 70_000_000, kind="application/json")
    assert answer.status == 413


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(encoded(landscape().convert("L")), id="grey"),
        pytest.param(encoded(landscape().convert("1")), id="two-colours"),
        pytest.param(encoded(landscape().quantize(32)), id="palette"),
        pytest.param(encoded(landscape().convert("LA")), id="grey-with-alpha"),
        pytest.param(encoded(landscape().convert("RGBA")), id="alpha"),
        pytest.param(encoded(landscape().convert("I;16")), id="16-bits"),
        pytest.param(encoded(landscape().convert("CMYK"), "JPEG"), id="cmyk"),
        pytest.param(encoded(landscape(), "JPEG", progressive=True), id="progressive"),
        pytest.param(encoded(landscape(), "JPEG") + b"\0" * 9000, id="jpeg-with-something-behind-it"),
        pytest.param(encoded(landscape(), "MPO", save_all=True, append_images=[landscape()]), id="phone"),
        pytest.param(encoded(landscape().convert("RGBA"), "WEBP", lossless=True), id="webp-with-alpha"),
        pytest.param(encoded(Image.new("RGB", (1, 1))), id="one-pixel"),
        pytest.param(encoded(Image.new("RGB", (3000, 10))), id="narrow"),
    ],
)
def test_every_kind_of_valid_image_is_edited(peer: Peer, image: bytes) -> None:
    """As base and as reference; the answer is an image of the asked size."""
    assert _first(peer.edit(images=[image, image])).size == (1024, 1024)


def test_an_image_is_turned_upright(peer: Peer) -> None:
    """EXIF orientation is heeded: on the bill, for the mask's size, and in the picture."""
    upright = landscape(400, 600)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    mask = mask_of(400, 600, (0, 0, 400, 100))
    answer = peer.edit(images=[lying], mask=mask, size="1024x1536")
    assert (peer.entries()[-1]["inputs"][0]["width"], peer.entries()[-1]["inputs"][0]["height"]) == (400, 600)
    below = (0, 300, 1024, 1536)
    expected = upright.resize((1024, 1536)).crop(below)
    difference = ImageStat.Stat(ImageChops.difference(_first(answer).crop(below), expected)).mean
    assert max(difference) < 4


def test_outside_the_mask_about_one_percent_changes(peer: Peer) -> None:
    """As with the real provider: a few stray pixels, some far off; inside, the change is plain to see."""
    base = landscape(1024, 1024)
    box = (256, 256, 768, 768)
    picture = _first(peer.edit(images=[encoded(base)], mask=mask_of(1024, 1024, box)))
    bands = ImageChops.difference(picture, base).split()
    most = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    inside = most.crop(box)
    outside = most.copy()
    outside.paste(0, box)
    strays = sum(outside.histogram()[1:])
    assert 0.008 < strays / (1024 * 1024 - 512 * 512) < 0.012
    assert 180 < outside.getextrema()[1] <= 220  # type: ignore[operator] # one band has two numbers
    assert sum(inside.histogram()[24:]) > 0.85 * 512 * 512


def test_without_a_mask_the_base_is_changed_and_can_be_known(peer: Peer) -> None:
    """Most pixels differ, and still light stays light and dark stays dark."""
    base = landscape(1024, 1024)
    picture = _first(peer.edit(images=[encoded(base)]))
    above_the_card = (0, 0, 1024, 700)
    changed = ImageChops.difference(picture, base).convert("L").crop(above_the_card)
    assert sum(changed.histogram()[9:]) > 0.8 * 1024 * 700
    a, b = (
        list(each.convert("L").crop(above_the_card).resize((24, 16), Image.Resampling.BOX).tobytes())
        for each in (base, picture)
    )
    assert _correlation(a, b) > 0.7


def _correlation(a: list[int], b: list[int]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    both = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return float(both / (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5)


@pytest.mark.parametrize("masked", [True, False])
def test_each_reference_can_be_seen(peer: Peer, masked: bool) -> None:
    """A thumbnail of every one, sixteen images in all, inside the mask where there is one."""
    colours = [(16 * n, 255 - 16 * n, 128 + 100 * (n % 2)) for n in range(15)]
    references = [encoded(Image.new("RGB", (300, 200), colour)) for colour in colours]
    grey = encoded(Image.new("RGB", (1024, 1024), (120, 120, 120)))
    mask = mask_of(1024, 1024, (100, 100, 900, 900)) if masked else None
    picture = _first(peer.edit(images=[grey, *references], mask=mask))
    seen = {colour: count for count, colour in picture.getcolors(1 << 20) or ()}
    assert all(seen.get(colour, 0) > 400 for colour in colours)


def test_the_words_and_the_references_stay_inside_the_mask(peer: Peer) -> None:
    """Nothing but stray pixels shows outside it, whatever its shape."""
    base = landscape(1024, 1024)
    mask = Image.new("RGBA", (1024, 1024), (0, 0, 0, 255))
    for x in range(700):
        mask.paste((0, 0, 0, 0), (x, 900 - x, x + 1, 1000))
    picture = _first(peer.edit("word " * 40, [encoded(base), BASE, SMALL], encoded(mask)))
    difference = ImageChops.difference(picture, base).convert("L").point([0] + [255] * 255)
    outside = ImageChops.multiply(difference, mask.getchannel("A"))
    assert outside.histogram()[255] < 0.012 * mask.getchannel("A").histogram()[255]


def test_the_base_covers_the_asked_size(peer: Peer) -> None:
    """A wide base in a square: its middle is seen, at the same scale both ways, and its sides are cut off."""
    base = Image.new("RGB", (1500, 500), "red")
    base.paste("blue", (500, 0, 1000, 500))
    mask = mask_of(1500, 500, (700, 200, 800, 300))
    picture = _first(peer.edit(images=[encoded(base)], mask=mask))
    assert sum(1 for colour in (picture.getpixel((x, y)) for x in range(0, 1024, 97) for y in range(0, 300, 97))
               if colour == (0, 0, 255)) > 35  # fmt: skip # one sum


def test_a_mask_of_a_few_pixels_is_drawn_too(peer: Peer) -> None:
    """There is no room for words in it: they stand in a corner, and the picture still says that it is simulated."""
    base = landscape()
    answer = peer.edit(images=[BASE, SMALL], mask=mask_of(768, 512, (10, 10, 14, 14)), size="1536x1024")
    corner = _first(answer).crop((0, 820, 600, 1024))
    expected = base.resize((1536, 1024), Image.Resampling.BICUBIC).crop((0, 820, 600, 1024))
    assert sum(ImageChops.difference(corner, expected).convert("L").histogram()[24:]) > 4000


@pytest.mark.parametrize("mask", [mask_of(768, 512, (0, 0, 768, 512)), mask_of(768, 512, (0, 0, 0, 0))])
def test_a_mask_of_everything_or_of_nothing_is_taken(peer: Peer, mask: bytes) -> None:
    """The API does not say that it refuses them."""
    assert _first(peer.edit(images=[BASE], mask=mask)).size == (1024, 1024)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("has_alpha", [True, False])
def test_a_transparent_edit_has_a_real_alpha_channel(peer: Peer, masked: bool, has_alpha: bool) -> None:
    """Pixels that are wholly clear, pixels that are wholly opaque; what the base has clear stays so."""
    base = landscape().convert("RGBA")
    if has_alpha:
        base.paste((0, 0, 0, 0), (0, 0, 768, 40))
    answer = peer.edit(images=[encoded(base)], mask=MASK if masked else None, background="transparent")
    (image,) = answer.images()
    assert image.mode == "RGBA"
    assert image.getchannel("A").getextrema() == (0, 255)
    if has_alpha:
        assert image.getchannel("A").crop((0, 0, 1024, 70)).getextrema() == (0, 0)


@pytest.mark.parametrize("art", ["drawn", "flat"])
def test_equal_edits_give_equal_images_and_other_inputs_others(art: str) -> None:
    """Pictures follow from the seed, the words, every input and the count of like requests; names do not matter."""
    other = encoded(landscape(hue=1))
    edits: list[tuple[list[bytes], bytes | None]] = [
        ([BASE], None),
        ([BASE], MASK),
        ([other], None),
        ([BASE, SMALL], None),
        ([SMALL, BASE], None),
        ([BASE], None),
    ]

    def series(seed: int, order: list[int]) -> dict[tuple[int, int], bytes]:
        with running(seed=seed, art=art) as it:
            seen: dict[tuple[int, int], bytes] = {}
            for place in order:
                images, mask = edits[place]
                seen[place, len(seen)] = it.edit("A hat", images, mask).files()[0]
            return seen

    first = series(1, [0, 1, 2, 3, 4, 5])
    assert len(set(first.values())) == 6
    # The others' place in the order changes nothing: samples are counted for equal inputs alone.
    again = series(1, [4, 2, 0, 5])
    assert again[4, 0] == first[4, 4]
    assert again[2, 1] == first[2, 2]
    assert again[0, 2] == first[0, 0]
    assert again[5, 3] == first[5, 5]
    assert not set(series(2, [0, 1]).values()) & set(first.values())


def test_fidelity_is_part_of_what_is_asked(peer: Peer) -> None:
    """Two fidelities are two orders: each has its own count of samples."""
    peer.call("POST", "/simulator/reset")
    low = peer.edit(images=[SMALL], model="gpt-image-1.5", input_fidelity="low").files()
    high = peer.edit(images=[SMALL], model="gpt-image-1.5", input_fidelity="high").files()
    assert low == high
    assert peer.edit(images=[SMALL], model="gpt-image-1.5", input_fidelity="high").files() != high


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (100, 100, 194),  # never made larger: one tile
        (512, 512, 194),
        (513, 512, 323),  # one pixel too wide: two tiles
        (1024, 1024, 194),  # made smaller to 512x512
        (1536, 1024, 323),  # 768x512
        (1024, 1536, 323),
        (1600, 400, 581),  # fits already: four tiles
        (4096, 1024, 581),  # 2048x512
        (4000, 100, 581),  # 2048x51
        (3000, 2990, 323),  # 513.7x512
    ],
)
@pytest.mark.parametrize(
    ("model", "fidelity", "square", "other"),
    [
        ("gpt-image-1-mini", None, 0, 0),
        ("gpt-image-1.5", None, 0, 0),
        ("gpt-image-1.5", "high", 4160, 6240),
        ("gpt-image-2", None, 4160, 6240),
    ],
)
def test_an_input_takes_the_tokens_that_its_size_says(
    flat: Peer, width: int, height: int, tokens: int, model: str, fidelity: str | None, square: int, other: int
) -> None:
    """65 and 129 for each tile of the shrunken image, and what the fidelity adds; billed at the input's own price."""
    image = encoded(Image.new("1", (width, height)))
    usage = flat.edit("A hat", [image], model=model, input_fidelity=fidelity).json["usage"]
    expected = tokens + (square if width == height else other)
    assert usage["input_tokens_details"] == {"text_tokens": 8, "image_tokens": expected}
    assert usage["input_tokens"] == expected + 8
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    entry = flat.entries()[-1]
    assert (entry["input_tokens"], entry["input_text_tokens"], entry["input_image_tokens"]) == (
        expected + 8,
        8,
        expected,
    )
    text, image_in, image_out = _PRICES[model]
    cost = Fraction(8 * text + expected * image_in + usage["output_tokens"] * image_out)
    assert entry["cost_microusd"] == (2 * cost.numerator + cost.denominator) // (2 * cost.denominator)


@pytest.fixture(scope="module")
def flat() -> Iterator[Peer]:
    with running(art="flat") as it:
        yield it


def test_the_totals_have_the_tokens_of_inputs(flat: Peer) -> None:
    """The mask adds none; a generation has none; the sum is in the totals, and in those of the model."""
    flat.call("POST", "/simulator/reset")
    flat.generate()
    flat.edit(images=[BASE, SMALL], mask=MASK)
    bill = flat.bill()
    assert bill["input_image_tokens"] == bill["by_model"]["gpt-image-1-mini"]["input_image_tokens"] == 323 + 194
    generation, edit = flat.entries()
    assert (generation["endpoint"], generation["inputs"], generation["mask"]) == ("generations", [], None)
    assert generation["input_image_tokens"] == 0
    assert generation["input_text_tokens"] == generation["input_tokens"]
    assert edit["input_tokens"] == edit["input_text_tokens"] + 323 + 194


def test_a_bill_from_before_there_were_edits_is_carried_on(tmp_path: Path) -> None:
    """An entry without the newer fields counts as one without inputs."""
    path = tmp_path / "bill.jsonl"
    with running(bill_path=str(path), art="flat") as it:
        it.generate()
        before = it.bill()
    entry = json.loads(path.read_text())
    for name in ("endpoint", "inputs", "mask", "input_text_tokens", "input_image_tokens"):
        del entry[name]
    path.write_text(json.dumps(entry) + "\n")
    with running(bill_path=str(path), art="flat") as it:
        assert {**it.bill(), "requests": 0} == {**before, "requests": 0}
        it.edit(images=[SMALL])
        assert it.bill()["input_image_tokens"] == 194
        assert it.bill()["billed_requests"] == 2


def test_input_images_count_against_the_limit() -> None:
    """An edit books as many images as it brings, and the refusal tells that number; the mask is none of them."""
    with running(images_per_minute=5, art="flat") as it:
        first = it.edit(images=[BASE, SMALL, SMALL], mask=MASK)
        assert first.headers["x-ratelimit-remaining-images"] == "2"
        refused = it.edit(images=[SMALL] * 3)
        assert refused.status == 429
        assert "Limit 5, Used 3, Requested 3. Please try again in" in refused.error["message"]
        assert it.edit(images=[SMALL], n=2).headers["x-ratelimit-remaining-images"] == "0"


def test_an_edit_with_more_images_than_the_limit_never_passes() -> None:
    """429 each time, without a time to wait for."""
    with running(images_per_minute=5, art="flat") as it:
        for _ in range(2):
            refused = it.edit(images=[SMALL] * 6)
            assert (refused.status, refused.error["type"]) == (429, "input-images")
            assert "too large" in refused.error["message"] and "Requested 6" in refused.error["message"]
            assert "retry-after" not in refused.headers


def test_input_images_count_only_where_the_catalog_says_so(tmp_path: Path) -> None:
    """With `counts_input_images: false` an edit is one image, whatever it brings."""
    own = tmp_path / "own.yaml"
    own.write_text("providers: {simulator: {counts_input_images: false}}")
    with running(images_per_minute=5, art="flat", catalog=str(own)) as it:
        assert it.edit(images=[SMALL] * 6).headers["x-ratelimit-remaining-images"] == "4"


def test_a_model_without_input_tokens_makes_no_edits(tmp_path: Path) -> None:
    """400 with the model's name, although it makes images."""
    own = tmp_path / "own.yaml"
    own.write_text("models: {gpt-image-2: {input_tokens: null}}")
    with running(art="flat", catalog=str(own)) as it:
        answer = it.edit(images=[SMALL], model="gpt-image-2")
        assert (answer.status, answer.error["param"]) == (400, "model")
        assert "makes no edits" in answer.error["message"]
        assert it.generate(model="gpt-image-2").status == 200


def test_the_tokens_of_inputs_count_against_the_limit() -> None:
    """Text, inputs and output are booked together."""
    with running(tokens_per_minute=10_000, art="flat") as it:
        answer = it.edit("A hat", [SMALL, SMALL])
        assert answer.headers["x-ratelimit-remaining-tokens"] == str(10_000 - (8 + 2 * 194 + 272))


@pytest.mark.parametrize(
    ("marker", "status"),
    [("status=503", 503), ("rate_limit=7", 429), ("moderation", 400), ("insufficient_quota", 429), ("unverified", 403)],
)
def test_a_refusal_strikes_an_edit(flat: Peer, marker: str, status: int) -> None:
    """Faults are for edits as for generations: refused before anything is billed."""
    before = flat.bill()["billed_requests"]
    assert flat.edit(f"[[fault:{marker}]]", [SMALL]).status == status
    assert flat.bill()["billed_requests"] == before


def test_an_edits_answer_is_spoilt_as_asked(flat: Peer) -> None:
    """Bodies: without usage, without data, of another size; each is billed with its inputs."""
    assert "usage" not in flat.edit("[[fault:missing_usage]]", [SMALL]).json
    assert "data" not in flat.edit("[[fault:no_data]]", [SMALL]).json
    assert flat.edit("[[fault:wrong_size]]", [SMALL]).images()[0].size == (512, 512)
    assert [entry["delivered"] for entry in flat.entries()[-3:]] == ["missing_usage", "no_data", "wrong_size"]
    assert all(entry["input_image_tokens"] == 194 for entry in flat.entries()[-3:])


@pytest.mark.parametrize("marker", ["cut", "reset", "reset_body", "hang=unbilled", "reset=unbilled"])
def test_an_edits_connection_ends_as_asked(flat: Peer, marker: str) -> None:
    """The wire: no whole answer arrives, and it is billed unless the rule says otherwise."""
    before = flat.bill()["billed_requests"]
    kind, data = form(edit_parts(f"[[fault:{marker}]]", [SMALL]))
    whole = b""
    with flat.raw_body(EDITS, kind, data) as connection:
        connection.settimeout(0.5 if "hang" in marker else 30)
        try:
            while piece := connection.recv(1 << 16):
                whole += piece
        except (ConnectionResetError, TimeoutError):
            pass
    assert b'"total_tokens"' not in whole
    assert flat.bill()["billed_requests"] == before + ("unbilled" not in marker)


_PROC = Path("/proc")
_needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="open files and memory are read from /proc")


def _open_files(peer: Peer) -> int:
    """How many files without a name the server holds: its bill is one of them."""
    count = 0
    for link in (_PROC / str(peer.process.pid) / "fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        count += target.endswith("(deleted)")
    return count


def _until(peer: Peer, files: int) -> None:
    """Waits for this number; that it never comes shows only in that nobody would wait so long."""
    deadline = time.monotonic() + 20
    while (found := _open_files(peer)) != files:
        assert time.monotonic() < deadline, f"{found} files are open instead of {files}"
        time.sleep(0.01)


@_needs_proc
def test_files_lie_on_disk_and_are_gone_with_their_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is in flight, after its answer, after a refusal, and when the peer goes away in the middle."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    image = encoded(_noise(400, 400))
    images = [image] * 4
    with running(art="flat") as it:
        own = _open_files(it)
        kind, data = form(edit_parts("[[fault:delay=600]]", images))
        with it.raw_body(EDITS, kind, data):
            _until(it, own + 4)
        kind, data = form(edit_parts("A hat", images))
        with it.raw_body(EDITS, kind, data, sent=len(data) - len(image) // 2):
            _until(it, own + 4 + 4)
        # The one that waits goes on without its peer: what was ordered is made. The half one is gone.
        _until(it, own + 4)
        for prompt in ("A hat", "[[fault:moderation]]", "[[fault:hang=unbilled]]", ""):
            kind, data = form(edit_parts(prompt, images))
            with it.raw_body(EDITS, kind, data) as connection:
                if "hang" not in prompt:
                    assert connection.recv(1)
            _until(it, own + 4)
        json_edit = {"model": "gpt-image-1-mini", "prompt": "A hat", "images": [_data_url(image)] * 4}
        assert it.edit_json(json_edit).status == 200
        _until(it, own + 4)
        assert list(tmp_path.iterdir()) == []


@_needs_proc
def test_memory_does_not_grow_with_what_is_uploaded() -> None:
    """Twenty-four edits of 16 MB in flight at once take a small part of their 384 MB."""
    images = [BASE + os.urandom(1_000_000)] * 16

    with running(art="flat", latency_s="1") as it:
        it.edit(images=images)
        before = it.peak_kb()
        with ThreadPoolExecutor(24) as threads:
            answers = list(threads.map(lambda n: it.edit(f"number {n}", images), range(24)))
        assert [answer.status for answer in answers] == [200] * 24
        assert it.peak_kb() - before < 100_000
