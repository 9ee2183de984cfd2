"""What the decoder of answers must hold: the same image and figures as a whole-body parse, in any chunking; never a
success from a cut or broken answer; and the usage told even when the image is lost, because it was billed."""

from __future__ import annotations

import base64
import binascii
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import Usage
from runner.provider.decode import AnswerDecoder, BadAnswer, Envelope
from runner.provider.envelope import read_usage

IMAGE = bytes(range(256)) * 3 + b"\xfb\xff\xbf\xfe"
TEXT = base64.b64encode(IMAGE).decode()
USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"image_tokens": 40, "text_tokens": 10},
    "output_tokens": 272,
    "total_tokens": 322,
}
COUNTS = Usage(50, 272, 322, 10, 40)
ANSWER: dict[str, object] = {
    "created": 1_763_800_000,
    "background": "opaque",
    "data": [{"b64_json": TEXT}],
    "output_format": "png",
    "quality": "low",
    "size": "1024x1024",
    "usage": USAGE,
}


class Basket:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes, /) -> None:
        assert data
        self.parts.append(data)

    @property
    def image(self) -> bytes:
        return b"".join(self.parts)


def decode(*chunks: bytes | memoryview, max_envelope_bytes: int = 1_048_576) -> tuple[bytes, Envelope]:
    basket = Basket()
    decoder = AnswerDecoder(basket, max_envelope_bytes=max_envelope_bytes)
    for chunk in chunks:
        decoder.feed(chunk)
    envelope = decoder.finish()
    assert envelope.image_bytes == len(basket.image)
    return basket.image, envelope


def refused(*chunks: bytes, max_envelope_bytes: int = 1_048_576) -> BadAnswer:
    with pytest.raises(BadAnswer) as caught:
        decode(*chunks, max_envelope_bytes=max_envelope_bytes)
    assert caught.value.message
    return caught.value


def one_by_one(body: bytes) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


def cut_at(body: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(bounds)]


def dumped(answer: object, **options: object) -> bytes:
    return json.dumps(answer, **options).encode()  # type: ignore[arg-type]  # options of json.dumps, by name


# --- any answer, any chunking


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
names = st.sampled_from(["data", "b64_json", "url", "usage", "x", '"', "\\", "[{", "}]"]) | st.text(max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
images = st.binary(min_size=1, max_size=80).map(lambda data: base64.b64encode(data).decode())
items = st.dictionaries(names, values, max_size=3).flatmap(
    lambda item: st.just(item) | images.map(lambda text: {**item, "b64_json": text})
)
answers = st.tuples(st.dictionaries(names, values, max_size=4), st.lists(items, max_size=3) | values).flatmap(
    lambda parts: st.permutations([*parts[0].items(), ("data", parts[1])]).map(dict)
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[object, bytes]:
    """An answer and one of the many ways to write it."""
    answer = draw(answers)
    text = json.dumps(answer, indent=draw(st.none() | st.integers(0, 2)), ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        text = text.replace("/", "\\/")
    if draw(st.booleans()):
        text = text.replace("b64_json", "b\\u00364_json").replace('"data"', '"\\u0064ata"')
    if draw(st.booleans()):
        text = text.replace("A", "\\u0041")
    space = draw(st.text(" \n\r\t", max_size=3))
    return answer, (space + text + space).encode("utf-8", "surrogatepass")


def expected(answer: object) -> bytes | str:
    """The image, or the code of what is wrong, by the ordinary means."""
    assert isinstance(answer, dict)
    data = answer.get("data")
    item = data[0] if isinstance(data, list) and data else None
    item = item if isinstance(item, dict) else {}
    text = item.get("b64_json")
    if isinstance(text, str) and text:
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            return "bad_base64"
    return b"" if isinstance(item.get("url"), str) and item["url"] else "no_data"


@given(body=bodies(), places=st.lists(st.integers(0, 10_000), max_size=12))
def test_any_answer_in_any_chunking_is_what_a_whole_parse_gives(body: tuple[object, bytes], places: list[int]) -> None:
    """json.loads and a strict base64 decode of the whole are the model."""
    answer, text = body
    assert isinstance(answer, dict)
    try:
        text.decode()
    except UnicodeDecodeError:
        assert refused(*cut_at(text, places)).code == "not_json"
        return
    want = expected(answer)
    for chunks in (cut_at(text, places), one_by_one(text)):
        if isinstance(want, str):
            error = refused(*chunks)
            envelope = error.envelope
            assert error.code == want
        else:
            image, envelope = decode(*chunks)
            assert image == want
        assert envelope is not None
        data = answer.get("data")
        assert envelope.images == (len(data) if isinstance(data, list) else 0)
        assert envelope.usage == read_usage(answer.get("usage"))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 64, 100_000])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 700])
def test_every_alignment_of_chunks_and_groups(size: int, length: int) -> None:
    """Groups of four characters may lie across chunks in any way, with any padding."""
    image = IMAGE[:length]
    body = dumped(ANSWER | {"data": [{"b64_json": base64.b64encode(image).decode()}]})
    chunks = [memoryview(body)[i : i + size] for i in range(0, len(body), size)]
    assert decode(*chunks)[0] == image


def test_a_whole_answer_is_described() -> None:
    """Every documented field, and the usage both as counts and as it came."""
    image, envelope = decode(dumped(ANSWER))
    assert image == IMAGE
    assert envelope == Envelope(
        created=1_763_800_000,
        size="1024x1024",
        quality="low",
        background="opaque",
        output_format="png",
        usage=COUNTS,
        usage_json=json.dumps(USAGE, separators=(",", ":")),
        images=1,
        image_bytes=len(IMAGE),
    )


def test_a_large_image_is_written_in_bounded_pieces() -> None:
    """Law 8: however large the chunk that is fed, no write holds the whole image."""
    image = IMAGE * 2_000
    body = dumped({"data": [{"b64_json": base64.b64encode(image).decode()}]})
    basket = Basket()
    decoder = AnswerDecoder(basket)
    decoder.feed(memoryview(body))
    decoder.finish()
    assert basket.image == image
    assert max(map(len, basket.parts)) <= 200_000


def test_pretty_printing_order_and_escapes_change_nothing() -> None:
    """Usage before data, any whitespace, escaped slashes and characters, in values and keys."""
    text = json.dumps({"usage": USAGE, "x": [{"b64_json": "no"}], "data": ANSWER["data"]}, indent=4)
    text = text.replace("b64_json", "\\u0062\\u00364_json").replace("/", "\\/").replace("+", "\\u002b")
    text = text.replace("data", "dat\\u0061")
    for chunks in ([text.encode()], one_by_one(text.encode())):
        image, envelope = decode(*chunks)
        assert image == IMAGE
        assert envelope.usage == COUNTS


def test_only_the_first_item_of_the_top_data_array_counts() -> None:
    """b64_json anywhere else is an unknown field; a second image is passed over without a limit on its length."""
    answer = {
        "b64_json": "no",
        "meta": {"data": [{"b64_json": "no"}]},
        "data": [{"meta": {"b64_json": "no"}, "b64_json": TEXT, "list": [{"b64_json": "no"}]}, {"b64_json": TEXT * 99}],
        "more": [{"b64_json": "no"}],
    }
    for chunks in ([dumped(answer)], one_by_one(dumped(answer))):
        image, envelope = decode(*chunks, max_envelope_bytes=300)
        assert (image, envelope.images) == (IMAGE, 2)
    assert refused(dumped({"data": [{}, {"b64_json": TEXT}]})).code == "no_data"
    assert refused(dumped({"data": [[{"b64_json": TEXT}]]})).code == "no_data"


def test_a_byte_order_mark_is_no_fault() -> None:
    """The image behind it is paid for."""
    assert decode(b"\xef\xbb\xbf" + dumped(ANSWER))[0] == IMAGE
    assert refused(b"\xef\xbb\xbf").code == "empty_body"


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 5_000])
def test_a_number_that_is_none_spoils_no_image(number: str) -> None:
    """It is a field of the wrong type; the image beside it is paid for."""
    body = dumped(ANSWER).replace(b"1763800000", number.encode())
    assert body != dumped(ANSWER)
    image, envelope = decode(body)
    assert (image, envelope.created, envelope.usage) == (IMAGE, None, COUNTS)
    image, envelope = decode(dumped({**ANSWER, "usage": {"output_tokens": "HERE"}}).replace(b'"HERE"', number.encode()))
    assert (image, envelope.usage, envelope.usage_json) == (IMAGE, None, '{"output_tokens":null}')


# --- what is not an answer


@given(body=bodies(), place=st.integers(0, 10_000))
def test_a_cut_answer_is_never_a_success(body: tuple[object, bytes], place: int) -> None:
    """Cut at any byte before its closing brace."""
    text = body[1].rstrip()
    cut = text[: place % len(text)]
    assert refused(cut).code == ("truncated_json" if cut.strip() else "empty_body")


def test_an_answer_cut_anywhere_is_truncated() -> None:
    """The ordinary answer, cut at each of its bytes; figures that came whole before the cut are kept."""
    body = dumped({"usage": USAGE, **ANSWER})
    usage_end = body.index(b"}", body.index(b"total_tokens")) + 1
    for length in range(1, len(body)):
        error = refused(body[:length])
        assert error.code == "truncated_json"
        assert (error.envelope.usage if error.envelope else None) == (COUNTS if length >= usage_end else None)


def test_plain_fields_before_a_cut_are_told() -> None:
    """Each member that a comma ends is whole; the one that the cut divides is not guessed at."""
    envelope = refused(b'{"created": 1763800000, "quality": "low", "size": "1024x').envelope
    assert envelope == Envelope(created=1_763_800_000, quality="low")


@given(data=st.binary(max_size=200), places=st.lists(st.integers(0, 200), max_size=4))
def test_random_bytes_raise_nothing_but_bad_answer(data: bytes, places: list[int]) -> None:
    """Noise is refused, in any chunking."""
    refused(*cut_at(data, places))


@given(data=st.lists(st.sampled_from([*'{}[]:,"\\ 1n', '"data"', '"b64_json"', '"QUJD"', "\\u0", "\\/"]), max_size=30))
def test_structural_noise_is_never_more_than_json_allows(data: list[str]) -> None:
    """Text of nothing but brackets, quotes and escapes: a success is one for json.loads too."""
    text = '{"data":[{"b64_json":"' + "".join(data)
    try:
        image, _ = decode(text.encode())
    except BadAnswer as error:
        failure: BadAnswer | None = error
    else:
        failure = None
        assert expected(json.loads(text)) == image
    for chunks in (one_by_one(text.encode()), [text[:30].encode(), text[30:].encode()]):
        if failure:
            assert refused(*chunks).code == failure.code
        else:
            assert decode(*chunks)[0] == image


@given(
    place=st.integers(0, 2_000),
    stuff=st.binary(max_size=6),
    removed=st.integers(0, 6),
    places=st.lists(st.integers(0, 2_000), max_size=3),
)
def test_a_damaged_answer_raises_nothing_but_bad_answer(
    place: int, stuff: bytes, removed: int, places: list[int]
) -> None:
    """Bytes replaced, inserted or lost: what passes is valid JSON, and says the same in any chunking."""
    body = dumped(ANSWER)
    place %= len(body)
    body = body[:place] + stuff + body[place + removed :]
    try:
        image, envelope = decode(body)
    except BadAnswer as error:
        assert refused(*cut_at(body, places)).code == error.code
    else:
        assert image == expected(json.loads(body))
        assert decode(*cut_at(body, places)) == (image, envelope)


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("empty_body", b""),
        ("empty_body", b" \r\n\t"),
        ("not_json", b"<html><body>502 Bad Gateway</body></html>"),
        ("not_json", b'<a href="{"data": []}">'),
        ("not_json", b"null"),
        ("not_json", b'"text"'),
        ("not_json", b"[" + dumped(ANSWER) + b"]"),
        ("not_json", b"["),
        ("not_json", dumped(ANSWER) + b"x"),
        ("not_json", dumped(ANSWER) + b" {}"),
        ("not_json", dumped(ANSWER) + b"}"),
        ("not_json", dumped(ANSWER).replace(b'"created":', b'"created"')),
        ("not_json", dumped(ANSWER).replace(b"}]", b"]}")),
        ("not_json", dumped(ANSWER).replace(b"opaque", b"\xff\xfe")),
        ("not_json", b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("not_json", '{"data": []}'.encode("utf-16")),
        ("not_json", b'{"data": [{"b64_json": "QUJD", "b64_json": "QUJD"}]}'),
        ("not_json", b'{"data": [{"b64_json": "QUJD", "b64_json": null}]}'),
        ("not_json", b'{"data": [{"b64_json": "QUJD"}], "data": []}'),
        ("not_json", b'{"data": [}'),
        ("not_json", b'{"data": [}, "usage": {}}]}'),
        ("truncated_json", b"{"),
        ("truncated_json", b'{"data": [{"b64_json": "QUJD'),
        ("truncated_json", b'{"data": [{"b64_json": "QUJD\\u00'),
        ("no_data", b"{}"),
        ("no_data", b'{"data": null}'),
        ("no_data", b'{"data": []}'),
        ("no_data", b'{"data": {"b64_json": "QUJD"}}'),
        ("no_data", b'{"data": "QUJD"}'),
        ("no_data", b'{"data": [null]}'),
        ("no_data", b'{"data": [{}]}'),
        ("no_data", b'{"data": [{"b64_json": null}]}'),
        ("no_data", b'{"data": [{"b64_json": ""}]}'),
        ("no_data", b'{"data": [{"b64_json": 5}]}'),
        ("no_data", b'{"data": [{"b64_json": "", "url": ""}]}'),
    ],
)
def test_what_is_wrong_has_its_name(code: str, body: bytes) -> None:
    """Each way to fail has one code, whatever the chunks."""
    assert refused(body).code == code
    assert refused(*one_by_one(body[:30]), body[30:]).code == code


@pytest.mark.parametrize(
    "text",
    [
        "Q",
        "QUI",
        "QUJDR",
        "QUI==",
        "Q===",
        "====",
        "QQ==QUJD",
        "QQ==" * 2,
        "QUJDQQ==QUJD",
        "QU=JD",
        "-_-_",
        "QUJD QUJD",
        "QUJD\\nQUJD",
        "QUJD\\r\\n",
        "QUJD\n",
        "QU\\\\/JD",
        "QU\\\\JD",
        "QU\\\\u0041JD",
        "QU\\\\\\/JD",
        'QUJD\\"QUJD',
        "QUJ\\u00e9",
        "QUJ\\u0",
        "QUJ\\u00zz",
        "QUJ\\x",
        "QUJ\\uD83D\\uDE00",
        "QUJé",
        "data:image/png;base64,QUJD",
    ],
)
def test_bad_base64_is_refused_and_the_usage_is_still_told(text: str) -> None:
    """Nothing but the standard alphabet with its padding; what follows is read on for the bill."""
    body = (
        '{"data": [{"b64_json": "' + text + '", "revised_prompt": "x"}], "usage": ' + json.dumps(USAGE) + "}"
    ).encode()
    for chunks in ([body], one_by_one(body), cut_at(body, [24, 27, 30])):
        error = refused(*chunks)
        assert error.code == "bad_base64"
        assert error.envelope is not None
        assert (error.envelope.usage, error.envelope.images) == (COUNTS, 1)


def test_nothing_is_written_after_a_fault() -> None:
    """The sink has only what came before the bad place."""
    body = dumped(ANSWER | {"data": [{"b64_json": TEXT + "*" + TEXT}]})
    basket = Basket()
    decoder = AnswerDecoder(basket)
    for chunk in one_by_one(body):
        decoder.feed(chunk)
    with pytest.raises(BadAnswer) as caught:
        decoder.finish()
    assert IMAGE.startswith(basket.image)
    assert caught.value.envelope is not None
    assert caught.value.envelope.image_bytes == len(basket.image)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (dumped({"usage": USAGE, "data": []}), "no_data"),
        (dumped({"usage": USAGE, "data": [{"b64_json": None}]}), "no_data"),
        (dumped({"usage": USAGE, "data": [{"b64_json": TEXT}]})[:-1] + b', "x": ?}', "not_json"),
        (dumped({"usage": USAGE}) + b"<html>", "not_json"),
        (dumped({"usage": USAGE, "x": "y" * 2_000}), "answer_too_large"),
    ],
)
def test_usage_that_came_whole_is_told_with_any_fault(body: bytes, code: str) -> None:
    """A billed answer without an image must still be settled at its real cost."""
    error = refused(body, max_envelope_bytes=1_000)
    assert error.code == code
    assert error.envelope is not None
    assert error.envelope.usage == COUNTS


def test_the_envelope_is_bounded_and_the_image_is_not() -> None:
    """An endless body beside the image is refused as it comes; the verdict stays."""
    body = dumped({"data": [{"b64_json": TEXT * 75}]})  # 772 bytes are not a multiple of three: one image only
    body = body.replace(TEXT.encode() * 75, base64.b64encode(IMAGE * 99))
    assert decode(body, max_envelope_bytes=50)[0] == IMAGE * 99
    decoder = AnswerDecoder(Basket(), max_envelope_bytes=1_000)
    decoder.feed(b'{"x": "')
    with pytest.raises(BadAnswer, match="1000"):
        for _ in range(100):
            decoder.feed(b"y" * 100)
    for again in (lambda: decoder.feed(b"z"), decoder.finish):
        with pytest.raises(BadAnswer) as caught:
            again()
        assert caught.value.code == "answer_too_large"


def test_an_endless_page_is_not_json() -> None:
    """A page longer than the bound is called what it is."""
    assert refused(b"<html>" + b" " * 2_000, max_envelope_bytes=1_000).code == "not_json"


def test_the_message_shows_the_beginning_of_a_page() -> None:
    """A user sees whose page it is."""
    assert "<html>proxy" in refused(b"<html>proxy \xff\x00").message


def test_an_image_by_address_is_told() -> None:
    """Some gateways answer with a URL: no bytes, no error."""
    image, envelope = decode(dumped({"data": [{"b64_json": None, "url": "https://host/image.png"}]}))
    assert (image, envelope.url, envelope.image_bytes) == (b"", "https://host/image.png", 0)


def test_an_error_in_a_success_is_told() -> None:
    """A gateway may wrap an error in a 200: the caller can translate it."""
    error = refused(b'{"error": {"code": "moderation_blocked", "message": "\\ud800"}}')
    assert error.code == "no_data"
    assert error.envelope is not None
    assert error.envelope.error == {"code": "moderation_blocked", "message": "?"}
    error = refused(b'{"error": "overloaded"}')
    assert error.envelope is not None
    assert error.envelope.error == {"message": "overloaded"}
    assert decode(dumped({"error": None, **ANSWER}))[1].error is None


def test_fields_of_the_wrong_type_are_none() -> None:
    """The image is paid for: a strange field beside it is no reason to lose it."""
    odd = {"created": True, "size": 5, "quality": [], "background": {}, "output_format": "", "usage": "none"}
    image, envelope = decode(dumped(ANSWER | odd))
    assert image == IMAGE
    assert envelope == Envelope(images=1, image_bytes=len(IMAGE))
    assert decode(dumped(ANSWER | {"created": 10**30}))[1].created is None
    assert decode(dumped(ANSWER | {"size": "\ud800"}))[1].size == "?"


# --- usage


def test_missing_details_count_as_text() -> None:
    """A request without images has nothing but text to bill."""
    told = {"input_tokens": 50, "output_tokens": 272}
    assert read_usage(told) == Usage(50, 272, 322, 50, 0)
    assert read_usage(told | {"input_tokens_details": None}) == Usage(50, 272, 322, 50, 0)
    assert read_usage(told | {"input_tokens_details": {}}) == Usage(50, 272, 322, 50, 0)
    assert read_usage(told | {"input_tokens_details": {"image_tokens": 20}}) == Usage(50, 272, 322, 30, 20)
    zeros = {"image_tokens": 0, "text_tokens": 0}
    assert read_usage(told | {"input_tokens_details": zeros}) == Usage(50, 272, 322, 50, 0)


def test_zeros_are_a_usage_that_tells_nothing() -> None:
    """A gateway's zeros stay visible as what they are."""
    usage = read_usage({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0})
    assert usage is not None
    assert not usage.is_told


@pytest.mark.parametrize(
    ("details", "cached"),
    [
        ({"cached_tokens": 8}, (8, 0)),
        ({"cached_tokens": 15}, (10, 5)),
        ({"cached_tokens": 51}, (0, 0)),
        ({"cached_tokens": -1}, (0, 0)),
        ({"cached_tokens": "8"}, (0, 0)),
        ({"cached_tokens": 15, "cached_tokens_details": {"text_tokens": 3, "image_tokens": 12}}, (3, 12)),
        ({"cached_tokens_details": {"text_tokens": 3}}, (3, 0)),
        ({"cached_tokens_details": {"text_tokens": 11, "image_tokens": 1}}, (0, 0)),
        ({"cached_tokens_details": {"text_tokens": None, "image_tokens": -1}}, (0, 0)),
    ],
)
def test_cached_tokens_count_only_where_they_can_be_true(details: dict[str, object], cached: tuple[int, int]) -> None:
    """A discount is taken only from figures that agree with what they are part of."""
    usage = read_usage(USAGE | {"input_tokens_details": {"image_tokens": 40, "text_tokens": 10, **details}})
    assert usage is not None
    assert (usage.cached_text_tokens, usage.cached_image_tokens) == cached


@pytest.mark.parametrize(
    "odd",
    [
        {"input_tokens": -1},
        {"output_tokens": 10**9 + 1},
        {"output_tokens": None},
        {"output_tokens": 272.0},
        {"output_tokens": "272"},
        {"output_tokens": True},
        {"total_tokens": -1},
        {"input_tokens_details": []},
        {"input_tokens_details": {"image_tokens": -1, "text_tokens": 51}},
        {"input_tokens_details": {"image_tokens": 1, "text_tokens": "49"}},
    ],
)
def test_a_usage_of_the_wrong_shape_is_none(odd: dict[str, object]) -> None:
    """Figures that cannot be billed from are none, but what came is kept for a later look."""
    image, envelope = decode(dumped(ANSWER | {"usage": USAGE | odd}))
    assert image == IMAGE
    assert envelope.usage is None
    assert envelope.usage_json == json.dumps(USAGE | odd, separators=(",", ":"))


def test_the_limit_of_a_count_is_allowed() -> None:
    """10**9 tokens are absurd, but not impossible."""
    assert read_usage({"input_tokens": 0, "output_tokens": 10**9}) == Usage(0, 10**9, 10**9, 0, 0)


def test_what_the_sink_raises_passes_through() -> None:
    """A full disk is the store's error, not the answer's."""

    class Full:
        def write(self, data: bytes, /) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        AnswerDecoder(Full()).feed(dumped(ANSWER))


# --- an answer within other objects, and an image that somebody has to ask for


UNDER = ("response", "body")


def around(answer: bytes) -> bytes:
    """The answer where a line of a batch has it, with the same names around it."""
    return (
        b'{"data": [{"b64_json": "bm8="}], "body": {"data": []}, "id": "x", "response": {"data": 1, "body": '
        + answer
        + b', "body 2": {"data": [{"b64_json": "bm8="}]}}, "error": null}'
    )


def outcome(decoder: AnswerDecoder, basket: Basket, chunks: list[bytes]) -> tuple[object, ...]:
    """What came of it, to be compared."""
    try:
        for chunk in chunks:
            decoder.feed(chunk)
        return decoder.finish(), basket.image
    except BadAnswer as error:
        return error.code, error.envelope


@given(body=bodies(), places=st.lists(st.integers(0, 10_000), max_size=8))
def test_an_answer_within_other_objects_is_the_same_answer(body: tuple[object, bytes], places: list[int]) -> None:
    """Whatever it is, and whatever the chunks are."""
    text = body[1]
    plain = outcome(AnswerDecoder(alone := Basket()), alone, [text])
    if plain[0] == "not_json":
        return  # there, what breaks is another text
    inner = around(text.removeprefix(b"\xef\xbb\xbf"))
    for chunks in ([inner], cut_at(inner, places), one_by_one(inner)):
        assert outcome(AnswerDecoder(within := Basket(), under=UNDER), within, chunks) == plain


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_sink_is_asked_for_when_the_image_begins(size: int) -> None:
    """Once, with what has come before it."""
    text = around(dumped(ANSWER | {"data": [{"b64_json": TEXT}, {"b64_json": TEXT}]}))
    basket = Basket()
    told: list[dict[str, object]] = []

    def asked() -> Basket:
        told.append(decoder.so_far())
        return basket

    decoder = AnswerDecoder(under=UNDER, on_image=asked)
    for at in range(0, len(text), size):
        decoder.feed(text[at : at + size])
    assert decoder.finish().images == 2
    assert basket.image == IMAGE
    (before,) = told
    assert before["id"] == "x"
    assert before["response"] == {"data": 1, "body": {"created": 1_763_800_000, "background": "opaque"}}


@pytest.mark.parametrize("item", ['{"b64_json": ""}', "{}", '{"b64_json": null}', '{"url": "https://x"}'])
def test_no_sink_is_asked_for_where_there_is_no_image(item: str) -> None:
    """Whoever opens one makes a file."""
    decoder = AnswerDecoder(on_image=lambda: pytest.fail("there is no image"))
    for chunk in one_by_one(b'{"data": [' + item.encode() + b"]}"):
        decoder.feed(chunk)


@given(body=bodies(), places=st.lists(st.integers(0, 10_000), max_size=8))
def test_an_image_that_nobody_wants_is_read_over(body: tuple[object, bytes], places: list[int]) -> None:
    """What is said beside it is the same; nothing of the image is looked at."""
    answer, text = body
    try:
        text.decode()
    except UnicodeDecodeError:
        return
    want = expected(answer)
    decoder = AnswerDecoder()
    for chunk in cut_at(text, places):
        decoder.feed(chunk)
    if want == "no_data":
        with pytest.raises(BadAnswer):
            decoder.finish()
        return
    envelope = decoder.finish()
    assert isinstance(answer, dict)
    assert (envelope.image_bytes, envelope.usage) == (0, read_usage(answer.get("usage")))
