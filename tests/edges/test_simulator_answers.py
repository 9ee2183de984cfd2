"""What the simulator answers: the documented shape, real images, the documented errors."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.edges.simulator_support import Peer, check_schema, needs_openapi, running


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with running(seed=7) as it:
        yield it


@needs_openapi
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"quality": None, "size": None},
        {"quality": "auto", "size": "auto", "n": 2},
        {"output_format": "webp", "background": "transparent", "output_compression": 40},
        {"model": "gpt-image-2", "size": "1536x864", "output_format": "jpeg"},
        {"model": "gpt-image-2.6-flare", "quality": "max", "output_format": "gif"},
    ],
)
def test_an_answer_fits_the_published_schema(peer: Peer, more: dict[str, Any]) -> None:
    """Every answer validates against ImagesResponse, with values that the schema has no word for left out."""
    answer = peer.generate(**more)
    assert answer.status == 200
    check_schema(answer.json, "ImagesResponse")


@needs_openapi
@pytest.mark.parametrize(
    "body",
    [b"{", {"model": "gpt-image-1-mini"}, {"model": "nobody", "prompt": "a"}, {"prompt": "[[fault:moderation]]"}],
)
def test_an_error_fits_the_published_schema(peer: Peer, body: object) -> None:
    """Every error body validates against ErrorResponse."""
    answer = peer.call("POST", "/v1/images/generations", body)
    assert answer.status >= 400
    check_schema(answer.json, "ErrorResponse")


@pytest.mark.parametrize(
    ("output_format", "named"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("gif", "GIF")]
)
@pytest.mark.parametrize("size", ["1024x1024", "1536x1024", "1024x1536", "816x512"])
def test_an_image_has_the_size_and_format_that_were_asked_for(
    peer: Peer, output_format: str, named: str, size: str
) -> None:
    """What arrives opens as that format, in that size, and says that it is simulated."""
    answer = peer.generate(model="gpt-image-2.6-flare", size=size, output_format=output_format)
    (image,) = answer.images()
    assert image.format == named
    assert f"{image.width}x{image.height}" == size
    assert b"runner simulator" in answer.files()[0]


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_a_transparent_background_is_a_real_alpha_channel(peer: Peer, output_format: str) -> None:
    """Transparent means both: pixels that are wholly clear, and pixels that are wholly opaque."""
    answer = peer.generate(background="transparent", output_format=output_format)
    assert answer.json["background"] == "transparent"
    (image,) = answer.images()
    assert image.mode == "RGBA"
    assert image.getchannel("A").getextrema() == (0, 255)


def test_an_opaque_image_has_no_alpha_channel(peer: Peer) -> None:
    """Without `transparent` the answer says opaque, and the image is."""
    answer = peer.generate()
    assert answer.json["background"] == "opaque"
    assert not answer.images()[0].has_transparency_data


def test_output_compression_is_the_quality_of_a_jpeg(peer: Peer) -> None:
    """0 is the smallest file, and not the library's default."""
    sizes = [
        len(peer.generate("A scale", output_format="jpeg", output_compression=value).files()[0])
        for value in (0, 50, 100)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2]


def test_quality_auto_is_rendered_and_billed_as_high(peer: Peer) -> None:
    """The dear reading of the documents is the one to test against."""
    answer = peer.generate(quality="auto", size="auto").json
    assert (answer["quality"], answer["size"], answer["usage"]["output_tokens"]) == ("high", "1024x1024", 4160)


def test_n_images_are_n_different_images(peer: Peer) -> None:
    """`n` is honoured, and each image is a picture of its own."""
    answer = peer.generate(n=4)
    assert len(set(answer.files())) == 4
    assert answer.json["usage"]["output_tokens"] == 4 * 272


def test_the_same_order_of_requests_gives_the_same_images() -> None:
    """Pictures follow from the seed and the count of like requests; two samples of one prompt differ."""

    def series(seed: int) -> list[bytes]:
        with running(seed=seed) as it:
            return [it.generate(prompt).files()[0] for prompt in ("one", "two", "one", "one")]

    first, again, other = series(1), series(1), series(2)
    assert first == again
    assert len(set(first)) == 4
    assert not set(first) & set(other)


def test_finer_qualities_show_more(peer: Peer) -> None:
    """A finer quality of the same prompt is a richer picture, so that a person sees the difference."""

    def edges(quality: str) -> int:
        image = peer.generate("How much is there to see", quality=quality).images()[0].convert("L")
        data = io.BytesIO()
        image.save(data, "PNG")
        return len(data.getvalue())

    assert edges("low") < edges("medium") < edges("high")


@pytest.mark.parametrize("art", ["drawn", "flat"])
@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "gif"])
def test_payload_kb_fills_a_file_that_stays_valid(art: str, output_format: str) -> None:
    """A filled file is about as large as was asked, opens, and no two are the same."""
    with running(art=art, payload_kb=900) as it:
        answer = it.generate(model="gpt-image-2.6-flare", output_format=output_format, n=2)
        files = answer.files()
        assert files[0] != files[1]
        for file, image in zip(files, answer.images(), strict=True):
            assert 880_000 < len(file) < 920_000
            assert image.size == (1024, 1024)


def test_a_prompt_that_no_font_has_letters_for_is_drawn_all_the_same(peer: Peer) -> None:
    """Any Unicode, a lone surrogate, one endless word, and 32,000 characters give an image, not an error."""
    for prompt in ("\u706f\u53f0 \U0001f680 \u0000", "\ud83d alone", "w" * 5000, "many words " * 2900):
        assert peer.generate(prompt).images()[0].size == (1024, 1024)


def test_small_and_narrow_images_have_room_for_the_words(peer: Peer) -> None:
    """The smallest sizes that the free rule allows are drawn too."""
    for size in ("16x16", "16x48", "96x32"):
        image = peer.generate("A long prompt for a small picture", model="gpt-image-2", size=size).images()[0]
        assert f"{image.width}x{image.height}" == size


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"size": "999x999"}, "size", "invalid_value"),
        ({"model": "gpt-image-2", "size": "1000x1000"}, "size", "invalid_value"),
        ({"model": "gpt-image-2", "size": "3200x800"}, "size", "invalid_value"),
        ({"quality": "ultra"}, "quality", "invalid_value"),
        ({"quality": "xhigh"}, "quality", "invalid_value"),
        ({"output_format": "bmp"}, "output_format", "invalid_value"),
        ({"output_format": "gif"}, "output_format", "invalid_value"),
        ({"background": "clear"}, "background", "invalid_value"),
        ({"background": "transparent", "output_format": "jpeg"}, "background", "invalid_value"),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression", "integer_above_max_value"),
        ({"output_compression": -1, "output_format": "jpeg"}, "output_compression", "integer_below_min_value"),
        ({"output_compression": 50}, "output_compression", "invalid_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 11}, "n", "integer_above_max_value"),
        ({"n": True}, "n", "invalid_type"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"prompt": ""}, "prompt", "empty_string"),
        ({"prompt": " \n"}, "prompt", "empty_string"),
        ({"prompt": "x" * 32_001}, "prompt", "string_above_max_length"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"moderation": "none"}, "moderation", "invalid_value"),
        ({"stream": True}, "stream", "unsupported_value"),
        ({"style": "vivid"}, "style", "unknown_parameter"),
        ({"response_format": "url"}, "response_format", "unknown_parameter"),
        ({"model": None}, "model", "missing_required_parameter"),
    ],
)
def test_a_wrong_parameter_is_named(peer: Peer, more: dict[str, Any], param: str, code: str) -> None:
    """400 invalid_request_error with `param` and `code`, and nothing is billed."""
    before = peer.bill()["billed_requests"]
    asked = {"prompt": "A cat", **more}
    answer = peer.generate(**asked)
    assert answer.status == 400
    assert (answer.error["type"], answer.error["param"], answer.error["code"]) == ("invalid_request_error", param, code)
    assert peer.bill()["billed_requests"] == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(peer: Peer, body: bytes) -> None:
    """Garbage is a 400 in the documented shape, however deep it nests."""
    answer = peer.call("POST", "/v1/images/generations", body)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("model", ["gpt-image-9", "dall-e-3"])
def test_an_unknown_model_is_not_found(peer: Peer, model: str) -> None:
    """404 model_not_found, also for a model that nobody can bill any more."""
    answer = peer.generate(model=model)
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


def test_a_model_past_its_shutdown_is_still_served(peer: Peer) -> None:
    """Only a fault makes a model go away, so that tests do not depend on today's date."""
    assert peer.generate(model="chatgpt-image-latest").status == 200


def test_a_request_without_a_key_is_refused(peer: Peer) -> None:
    """401, before anything else is looked at."""
    assert peer.call("POST", "/v1/images/generations", b"{", key=None).status == 401
    assert peer.call("GET", "/v1/models", key=None).status == 401


def test_only_the_one_key_is_accepted_when_one_is_set() -> None:
    """401 invalid_api_key for another, which the error does not repeat."""
    with running(api_key="right") as it:
        answer = it.call("GET", "/v1/models", key="wrong-and-secret")
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        assert b"secret" not in answer.body
        assert it.call("GET", "/v1/models", key="right").status == 200


def test_models_are_listed_with_their_shutdown_date(peer: Peer) -> None:
    """`GET /v1/models` and `/v1/models/ID` tell what the catalog knows."""
    listed = {each["id"]: each for each in peer.call("GET", "/v1/models").json["data"]}
    mini = peer.call("GET", "/v1/models/gpt-image-1-mini").json
    assert listed["gpt-image-1-mini"] == mini
    assert (mini["object"], mini["shutdown_date"]) == ("model", "2026-12-01")
    assert listed["gpt-image-2"]["shutdown_date"] is None
    assert peer.call("GET", "/v1/models/nobody").error["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/none", 404), ("GET", "/v1/images/generations", 405)]
)
def test_any_other_address_answers_in_the_documented_shape(peer: Peer, method: str, path: str, status: int) -> None:
    """A stranger's request gets an error object, never a page."""
    answer = peer.call(method, path)
    assert answer.status == status
    assert set(answer.error) == {"message", "type", "param", "code"}


def test_every_answer_has_an_id_of_its_own(peer: Peer) -> None:
    """`x-request-id` is unique, on errors as well."""
    ids = {peer.call("GET", path).headers["x-request-id"] for path in ("/v1/models", "/v1/none", "/v1/none")}
    assert len(ids) == 3


def test_a_catalog_of_ones_own_is_served(tmp_path: Path) -> None:
    """A model that only the user's file has can be generated, and is billed at that file's price."""
    own = tmp_path / "own.yaml"
    own.write_text(
        """
        models:
          my-model:
            sizes: [64x64]
            qualities: [low, high]
            output_tokens: {low: {64x64: 10}, high: {64x64: 20}}
            output_tokens_source: own
            lifecycle: {}
            source: own
        prices:
          - {provider: simulator, model: my-model, text_in: 0, cached_text_in: 0, image_in: 0, cached_image_in: 0,
             image_out: 1.25, source: own}
        """
    )
    with running(catalog=str(own)) as it:
        assert it.generate(model="my-model", size="64x64").images()[0].size == (64, 64)
        # 10 tokens at 1.25: half a micro-dollar goes up.
        assert it.bill()["cost_microusd"] == 13


def test_the_picture_is_made_for_a_person(peer: Peer) -> None:
    """Not one colour: a scene, and the words in a light ink on a dark card at its foot."""
    image = peer.generate("Words to be read").images()[0].convert("L")
    card = image.crop((60, 850, 964, 960)).resize((200, 40), Image.Resampling.BOX)
    low, high = card.getextrema()
    assert isinstance(low, float | int) and isinstance(high, float | int)
    assert low < 60 < 120 < high
