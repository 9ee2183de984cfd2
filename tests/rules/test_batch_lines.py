"""What the lines of a batch hold: what is sent is one line of the API's own words; what comes back is whose it says it
is, an image byte for byte or an error of the table, in any chunking, in any order of keys, whatever else it holds."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import (
    Expired,
    Lost,
    ModelGone,
    ProviderError,
    RateLimited,
    Refused,
    Retryable,
    StopRun,
    StoreError,
    Unusable,
    Usage,
)
from runner.provider import Line, batch_line, lines
from runner.provider.lines import LineReader
from runner.provider.remote import BatchProblem, read_batch, read_file
from runner.tasks import Edit, ImageRequest, Input
from tests.edges.simulator_support import check_schema, needs_openapi

IMAGE = bytes(range(256)) * 3 + b"\xfb\xff\xbf\xfe"
USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"image_tokens": 40, "text_tokens": 10},
    "output_tokens": 272,
    "total_tokens": 322,
}
COUNTS = Usage(50, 272, 322, 10, 40)


class Basket:
    """A sink that remembers whose it was said to be."""

    def __init__(self, custom_id: str | None) -> None:
        self.custom_id = custom_id
        self.image = b""

    def write(self, data: bytes, /) -> None:
        assert data
        self.image += data


def answer(image: bytes = IMAGE, **more: Any) -> dict[str, Any]:
    """The body of an answer with an image."""
    return {"created": 1, "data": [{"b64_json": base64.b64encode(image).decode()}], "usage": USAGE, **more}


def line(
    custom_id: str | None, body: object, status: object = 200, error: object = None, **more: Any
) -> dict[str, Any]:
    """One line as the API documents it."""
    response = {"status_code": status, "request_id": "req_1", "body": body}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": error, **more}


def unanswered(custom_id: str, code: object, message: object = "because") -> dict[str, Any]:
    """A line of a request that was not answered."""
    return {"id": "x", "custom_id": custom_id, "response": None, "error": {"code": code, "message": message}}


def written(*told: object) -> bytes:
    """A file of these lines."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in told)


def read(*pieces: bytes, start_bytes: int = 0, wanted: bool = True) -> list[Line]:
    """All lines of a file."""
    reader = LineReader(lambda custom_id: Basket(custom_id) if wanted else None, start_bytes=start_bytes)
    found: list[Line] = []
    for piece in pieces:
        reader.receive(piece)
        while (each := reader.next_line()) is not None:
            found.append(each)
    last = reader.finish()
    return found if last is None else [*found, last]


def only(*told: object, **settings: Any) -> Line:
    (found,) = read(written(*told), **settings)
    assert (found.made is None) != (found.error is None)
    return found


def image_of(found: Line) -> bytes | None:
    return found.sink.image if isinstance(found.sink, Basket) else None


def cut_at(body: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(bounds)]


def summary(found: Line) -> tuple[object, ...]:
    """What a line says, in values that can be compared; how much of a broken image came before its fault is none."""
    error = found.error
    made = found.made
    return (
        found.custom_id,
        found.end_bytes,
        image_of(found) if made is not None else None,
        (made.envelope, made.http_status, made.request_id) if made is not None else None,
        (type(error), error.code, error.http_status, error.request_id) if error is not None else None,
        error.usage if isinstance(error, Unusable) else None,
    )


# -- any file, any chunking --------------------------------------------------------------------


bodies = st.one_of(
    st.binary(min_size=1, max_size=60).map(answer),
    st.just({"data": [], "usage": USAGE}),
    st.just({"error": {"code": "moderation_blocked", "message": "no"}}),
    st.just({"data": [{"b64_json": "AA=A"}], "usage": USAGE}),
    st.none(),
    st.just("text"),
)
told_lines = st.builds(
    line,
    st.sampled_from(["a-1", "b-2", "é", "]}\n", ""]) | st.none(),
    bodies,
    st.sampled_from([200, 400, 429, 500, None, "200"]),
    st.sampled_from([None, None, {}, {"code": "batch_expired", "message": "late"}, "text"]),
) | st.builds(unanswered, st.just("c-3"), st.sampled_from(["batch_expired", "x", None]))


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file with lines of any kind, in one of the many ways to write it."""
    text = ""
    for each in draw(st.lists(told_lines, max_size=5)):
        ordered = dict(draw(st.permutations(list(each.items()))))
        if isinstance(each["response"], dict):
            ordered["response"] = dict(draw(st.permutations(list(each["response"].items()))))
        dumped = json.dumps(
            ordered, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([None, (",", ":")]))
        )
        if draw(st.booleans()):
            dumped = dumped.replace("response", "resp\\u006fnse").replace("/", "\\/")
        text += (
            draw(st.sampled_from(["", "", " ", "\r\n", "\n"])) + dumped + draw(st.sampled_from(["\n", "\r\n", " \n"]))
        )
    if draw(st.booleans()):
        text = text.rstrip()
    return text.encode()


def expected_image(told: dict[str, Any]) -> bytes | None:
    """The image of a line, by the ordinary means: None where it has none that came whole."""
    response = told["response"]
    if not isinstance(response, dict) or not isinstance(response["body"], dict):
        return None
    data = response["body"].get("data")
    try:
        return binascii.a2b_base64(data[0]["b64_json"], strict_mode=True) if data else None
    except ValueError:
        return None


@given(body=files(), places=st.lists(st.integers(0, 10_000), max_size=12))
def test_any_file_in_any_chunking_is_what_a_whole_parse_gives(body: bytes, places: list[int]) -> None:
    """json.loads of each line is the model; the chunks make no difference to anything."""
    whole = read(body)
    expected = [json.loads(text) for text in body.split(b"\n") if text.strip()]
    assert len(whole) == len(expected)
    for found, told in zip(whole, expected, strict=True):
        assert (found.made is None) != (found.error is None)
        custom_id = told["custom_id"]
        assert found.custom_id == (custom_id if custom_id and custom_id.isprintable() else None)
        status = told["response"]["status_code"] if told["response"] else None
        image = expected_image(told)
        assert (found.made is not None) == (image is not None and status not in (400, 429, 500))
        if found.made is not None:
            assert (image_of(found), found.made.envelope.usage) == (image, COUNTS)
    for pieces in (cut_at(body, places), [body[i : i + 1] for i in range(len(body))]):
        assert [summary(each) for each in read(*pieces)] == [summary(each) for each in whole]


@given(body=files(), place=st.integers(0, 10_000))
def test_reading_goes_on_where_a_line_ended(body: bytes, place: int) -> None:
    """`end_bytes` of any line is a place to begin at: the rest is the same."""
    whole = read(body)
    starts = [0, *(each.end_bytes for each in whole)]
    number = place % len(starts)
    rest = read(body[starts[number] :], start_bytes=starts[number])
    assert [summary(each) for each in rest] == [summary(each) for each in whole[number:]]


@given(body=st.binary(max_size=300), places=st.lists(st.integers(0, 300), max_size=4))
def test_random_bytes_are_lines_that_cannot_be_read(body: bytes, places: list[int]) -> None:
    """Noise raises nothing but, at the end of the file, that it ends too early."""
    try:
        found = read(*cut_at(body, places))
    except Retryable as error:
        assert error.code == "truncated_file"
    else:
        assert all(type(each.error) is Unusable and each.custom_id is None for each in found)


@given(
    place=st.integers(0, 5_000),
    stuff=st.binary(max_size=8),
    removed=st.integers(0, 8),
    places=st.lists(st.integers(0, 5_000), max_size=3),
)
def test_a_damaged_file_costs_no_more_than_the_lines_that_are_damaged(
    place: int, stuff: bytes, removed: int, places: list[int]
) -> None:
    """Bytes replaced, inserted or lost: the lines before and behind come whole, and the chunks make no difference."""
    parts = [written(line(name, answer(IMAGE[:60]))) for name in ("a", "b", "c")]
    middle = parts[1]
    place %= len(middle) - 1
    middle = middle[:place] + stuff + middle[min(place + removed, len(middle) - 1) :]
    body = parts[0] + middle + parts[2]
    found = read(body)
    assert [image_of(found[0]), image_of(found[-1])] == [IMAGE[:60], IMAGE[:60]]
    assert [found[0].custom_id, found[-1].custom_id] == ["a", "c"]
    assert [summary(each) for each in read(*cut_at(body, places))] == [summary(each) for each in found]


noise = st.sampled_from(
    [
        *'{}[]:,"\\ 1n\n',
        '"response":',
        '"body":',
        '"data":',
        '"b64_json":',
        '"QUJD"',
        '"custom_id":',
        '"error":',
        "null",
    ]
)


@given(data=st.lists(noise, max_size=40), places=st.lists(st.integers(0, 300), max_size=3))
def test_structural_noise_is_never_more_than_json_allows(data: list[str], places: list[int]) -> None:
    """Brackets, quotes and the names that count: a success is one for json.loads too."""
    body = ('{"custom_id":"a","response":{"body":{"data":[{"b64_json":"' + "".join(data)).encode() + b"\n"
    found = read(body)
    for each, text in zip(found, (text for text in body.split(b"\n") if text.strip()), strict=True):
        if each.made is not None:
            data_of = json.loads(text)["response"]["body"]["data"]
            assert (base64.b64decode(data_of[0]["b64_json"]) or None) == image_of(each)
    assert [summary(each) for each in read(*cut_at(body, places))] == [summary(each) for each in found]


# -- what a line says --------------------------------------------------------------------------


def test_a_line_is_its_image_its_usage_and_its_place() -> None:
    """All that the ledger wants to know."""
    body = written(line("a-1", answer(quality="low", size="1024x1024")))
    (found,) = read(body)
    assert found.made is not None
    assert (found.custom_id, found.end_bytes, image_of(found)) == ("a-1", len(body), IMAGE)
    assert (found.made.http_status, found.made.request_id) == (200, "req_1")
    envelope = found.made.envelope
    assert (envelope.usage, envelope.quality, envelope.size, envelope.image_bytes) == (COUNTS, "low", "1024x1024", 772)


@pytest.mark.parametrize("order", list(itertools.permutations(["id", "custom_id", "response", "error"])))
def test_keys_come_in_any_order(order: tuple[str, ...]) -> None:
    """Whose an image is may be said after it: then the sink is asked for without a name."""
    told = line("a-1", answer())
    (found,) = read(written({key: told[key] for key in order}))
    assert (found.custom_id, image_of(found)) == ("a-1", IMAGE)
    assert isinstance(found.sink, Basket)
    assert found.sink.custom_id == ("a-1" if order.index("custom_id") < order.index("response") else None)


def test_an_image_that_nobody_wants_is_read_over() -> None:
    """Such a line has been answered all the same, and its cost is told; what follows it is whole."""
    body = written(line("a", answer(usage=USAGE)), line("b", answer()))
    asked: list[str | None] = []

    def open_sink(custom_id: str | None) -> Basket | None:
        asked.append(custom_id)
        return Basket(custom_id) if custom_id == "b" else None

    reader = LineReader(open_sink)
    reader.receive(body)
    first, second = reader.next_line(), reader.next_line()
    assert first is not None
    assert second is not None
    assert first.made is not None
    assert (first.sink, first.made.envelope.usage, first.made.envelope.image_bytes) == (None, COUNTS, 0)
    assert (image_of(second), asked) == (IMAGE, ["a", "b"])


def test_what_is_read_over_is_not_held_against_the_alphabet() -> None:
    """Nobody needs to know whether it was an image."""
    body = written(line("a", {"data": [{"b64_json": "no base64 \\ at all"}], "usage": USAGE}))
    assert read(body, wanted=False)[0].made is not None
    assert type(read(body)[0].error) is Unusable


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\n\n \t\r\n"])
@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b" \r\n \n"])
def test_blank_lines_are_no_lines(separator: bytes, ending: bytes) -> None:
    """Files of others end their lines as they like, the last one too."""
    parts = [written(line(name, answer())).rstrip() for name in ("a", "b", "c")]
    found = read(separator.join(parts) + ending)
    assert [(each.custom_id, image_of(each)) for each in found] == [("a", IMAGE), ("b", IMAGE), ("c", IMAGE)]
    assert read(ending) == []


def test_a_file_that_ends_in_the_middle_of_a_line_is_not_whole() -> None:
    """At each byte of the last line: what came before is kept, and the rest can be asked for again."""
    first, second = written(line("a", answer())), written(line("b", answer()))
    for length in range(1, len(second) - 1):
        reader = LineReader(Basket)
        reader.receive(first + second[:length])
        found = reader.next_line()
        assert found is not None
        assert (found.end_bytes, reader.next_line()) == (len(first), None)
        with pytest.raises(Retryable) as caught:
            reader.finish()
        assert caught.value.code == "truncated_file"
    assert [each.custom_id for each in read(first + second[:-1])] == ["a", "b"]


MEANINGS: list[tuple[str, object, type[ProviderError], str]] = [
    ("expired", unanswered("a", "batch_expired"), Expired, "batch_expired"),
    ("cancelled", unanswered("a", "batch_cancelled"), Expired, "batch_cancelled"),
    ("canceled", unanswered("a", "batch_canceled"), Expired, "batch_cancelled"),
    (
        "expired, with the shell of an answer",
        line("a", None, None, {"code": "batch_expired", "message": "x"}),
        Expired,
        "batch_expired",
    ),
    ("moderated", line("a", {"error": {"code": "moderation_blocked"}}, 400), Refused, "moderation_blocked"),
    ("moderated beside an answer", unanswered("a", "moderation_blocked"), Refused, "moderation_blocked"),
    (
        "invalid",
        line("a", {"error": {"code": None, "type": "invalid_request_error"}}, 400),
        Refused,
        "invalid_request_error",
    ),
    ("bare error body", line("a", {"message": "no", "code": "bad_size"}, 400), Refused, "bad_size"),
    ("error as a sentence", line("a", {"error": "overloaded"}, 503), Retryable, "http_503"),
    ("status and the error beside", line("a", None, 400, {"code": "odd_size"}), Refused, "odd_size"),
    ("slower", line("a", {"error": {"code": "rate_limit_exceeded"}}, 429), RateLimited, "rate_limit_exceeded"),
    ("no money", line("a", {"error": {"code": "insufficient_quota"}}, 429), StopRun, "insufficient_quota"),
    ("key", line("a", {"error": {"code": "invalid_api_key"}}, 401), StopRun, "invalid_api_key"),
    ("model", line("a", {"error": {"code": "model_not_found"}}, 404), ModelGone, "model_not_found"),
    ("server", line("a", {"error": {"message": "oops"}}, 500), Retryable, "http_500"),
    ("proxy gave up", line("a", "<html>", 504), Lost, "http_504"),
    ("server without a body", line("a", None, 500), Retryable, "http_500"),
    ("unknown error", unanswered("a", "strange"), Retryable, "strange"),
    ("error as text", {"custom_id": "a", "response": None, "error": "text"}, Retryable, "http_500"),
    ("no image", line("a", {"data": []}), Unusable, "no_data"),
    ("empty image", line("a", {"data": [{"b64_json": ""}]}), Unusable, "no_data"),
    ("no base64", line("a", {"data": [{"b64_json": "????"}]}), Unusable, "bad_base64"),
    ("an error in a success", line("a", {"error": {"code": "moderation_blocked"}}), Refused, "moderation_blocked"),
    ("an expiry that was answered", line("a", {}, 200, {"code": "batch_expired"}), Retryable, "batch_expired"),
    ("nothing", {"custom_id": "a", "response": None, "error": None}, Unusable, "no_data"),
    ("nothing at all", {"custom_id": "a"}, Unusable, "no_data"),
    ("empty error", {"custom_id": "a", "response": None, "error": {"code": None, "message": ""}}, Unusable, "no_data"),
    ("odd types", {"custom_id": "a", "response": [1], "error": 5}, Unusable, "no_data"),
    ("odd status", line("a", {"data": []}, "400"), Unusable, "no_data"),
]


@pytest.mark.parametrize(("told", "kind", "code"), [each[1:] for each in MEANINGS], ids=[each[0] for each in MEANINGS])
def test_a_line_without_an_image_is_an_error_of_the_table(told: object, kind: type[Exception], code: str) -> None:
    """The same as online; what a batch never came to is no failure and no cost."""
    found = only(told)
    assert (type(found.error), found.custom_id) == (kind, "a")
    assert found.error is not None
    assert found.error.code == code
    assert found.error.message


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (line("a", {"data": [], "usage": USAGE}), "no_data"),
        (line("a", {"data": [], "usage": USAGE}, 200, {"code": "batch_expired", "message": "x"}), "no_data"),
        (line("a", {"data": [], "usage": USAGE}, None, {"code": "strange", "message": "x"}), "no_data"),
        (line("a", {"data": [{"b64_json": "QUJD*"}], "usage": USAGE}), "bad_base64"),
    ],
)
def test_what_an_answer_without_its_image_cost_is_told(told: object, code: str) -> None:
    """It was billed, whatever stands beside it."""
    error = only(told).error
    assert isinstance(error, Unusable)
    assert (error.code, error.usage) == (code, COUNTS)


def test_an_image_that_came_whole_is_never_thrown_away() -> None:
    """It is paid for: an error beside it, or a status that cannot be read, does not change that."""
    for told in (
        line("a", answer(), 200, {"code": "batch_expired", "message": "x"}),
        line("a", answer(), None),
        line("a", answer(), "200"),
    ):
        found = only(told)
        assert found.made is not None
        assert (image_of(found), found.made.http_status) == (IMAGE, 200)


def test_bytes_of_a_line_that_failed_are_told_to_be_none() -> None:
    """The sink comes with the error, so that what it has is thrown away."""
    found = only(line("a", answer(), 500))
    assert type(found.error) is Retryable
    assert isinstance(found.sink, Basket)


def test_only_the_answers_own_image_counts() -> None:
    """The names lie elsewhere too: outside of the answer, deeper in it, in another of its items."""
    inner: dict[str, Any] = {"data": [{"b64_json": "bm8="}]}
    told: dict[str, Any] = {
        "data": [{"b64_json": "bm8="}],
        "body": inner,
        "custom_id": "a",
        "response": {"data": inner["data"], "body": {"meta": inner, "body": inner, **answer()}, "more": inner},
        "error": None,
        "extra": {"response": {"body": inner}},
    }
    assert image_of(only(told)) == IMAGE
    told["response"] = {"body": [answer()]}
    assert type(only(told).error) is Unusable


@pytest.mark.parametrize(
    "text",
    [
        b'{"custom_id":"a","response":{"body":{"data":[{"b64_json":"QUJD"}]}},"response":{"body":{"data":[{"b64_json":"QUJD"}]}}}',
        b'{"custom_id":"a","response":{"body":{"data":[{"b64_json":"QUJD"}]},"body":{}}}',
        b'{"custom_id":"a","response":{"body":{"data":[{"b64_json":"QUJD"}]}},"response":null}',
        b'{"custom_id":"a","response":{"body":{"data":[{"b64_json":"QUJD"}]}},"custom_id":"b"}',
    ],
)
@pytest.mark.parametrize("wanted", [True, False])
def test_a_line_that_says_two_things_says_nothing(text: bytes, wanted: bool) -> None:
    """A repeated key makes readers disagree on which value counts, and the sink already has one of them."""
    (found,) = read(text, wanted=wanted)
    assert type(found.error) is Unusable
    assert found.error.code == "not_json"
    assert found.custom_id in (None, "a")


@pytest.mark.parametrize(
    ("text", "custom_id"),
    [
        (b"<html>Bad Gateway</html>", None),
        (b"null", None),
        (b'"custom_id"', None),
        (b'{"custom_id": "a", "response": {"status_code": 200, "bo', "a"),
        (b'{"custom_id": "a", "response": {"body": {"data": [{"b64_json": "QUJD', "a"),
        (b'{"response": {"body": {"data": [{"b64_json": "QUJD', None),
        (b'{"custom_id": "a", "x": }', "a"),
        (b'{"custom_id": 5}', None),
        (b'{"custom_id": "' + b"x" * 513 + b'"}', None),
        (b'{"custom_id": "\\u001b[31m"}', None),
        (b'{"custom_id": "\\ud800"}', None),
    ],
)
def test_a_line_that_cannot_be_read_is_one_line(text: bytes, custom_id: str | None) -> None:
    """It is whose it still says it is, and those around it are whole."""
    found = read(written(line("1", answer())) + text + b"\n" + written(line("2", answer())))
    assert [image_of(found[0]), image_of(found[2])] == [IMAGE, IMAGE]
    assert type(found[1].error) is Unusable
    assert found[1].custom_id == custom_id


def test_a_cut_line_tells_what_it_cost_if_that_came() -> None:
    """The bill of an image that is lost within its line."""
    told = {"custom_id": "a", "response": {"body": {"usage": USAGE, **answer()}}}
    (found,) = read(json.dumps(told).encode()[:-40] + b"\n")
    assert isinstance(found.error, Unusable)
    assert (found.error.code, found.error.usage, found.custom_id) == ("truncated_json", COUNTS, "a")


def test_a_line_is_bounded_beside_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a megabyte of it is read over to its end, and the next line is whole."""
    long = written({**line("a", answer(usage=USAGE)), "z": "x" * 1_100_000})
    found = read(long, written(line("b", answer())))
    assert isinstance(found[0].error, Unusable)
    assert (found[0].error.code, found[0].error.usage, found[0].custom_id) == ("answer_too_large", COUNTS, "a")
    assert (found[1].custom_id, image_of(found[1])) == ("b", IMAGE)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 3_000)
    body = written(line("a", answer(IMAGE * 9)), line("b", answer()))
    for pieces in ([body], cut_at(body, list(range(0, len(body), 700)))):
        found = read(*pieces)
        assert isinstance(found[0].error, Unusable)
        assert found[0].error.code == "answer_too_large"
        assert (found[1].custom_id, image_of(found[1]), found[1].end_bytes) == ("b", IMAGE, len(body))


def test_what_a_sink_raises_passes_through() -> None:
    """A full disk is the store's error, not the line's: from the sink, and from whoever opens it."""

    class Full(Basket):
        def write(self, data: bytes, /) -> None:
            raise OSError("no space left")

    def refuse(custom_id: str | None) -> Basket:
        raise StoreError("no space left")

    for open_sink in (Full, refuse):
        reader = LineReader(open_sink)
        reader.receive(written(line("a", answer())))
        with pytest.raises((OSError, StoreError), match="no space"):
            reader.next_line()


# -- what is sent ------------------------------------------------------------------------------


MODEL = "gpt-image-1-mini"
CHOSEN: dict[str, Any] = {
    "size": "1536x1024",
    "quality": "medium",
    "background": "opaque",
    "output_format": "webp",
    "output_compression": 0,
    "moderation": "low",
}
PICTURE = Input("a" * 64, 64, 64)


def parsed(data: bytes) -> Any:
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    return json.loads(data)


def test_only_what_differs_from_the_default_is_sent() -> None:
    """The body is the one of the same request online, but for `n`: one image is what is made."""
    assert parsed(batch_line("7-abc", ImageRequest("a prompt", "wanted"), model=MODEL)) == {
        "custom_id": "7-abc",
        "method": "POST",
        "url": "/v1/images/generations",
        "body": {"model": MODEL, "prompt": "a prompt"},
    }
    request = ImageRequest("a prompt", "wanted", **CHOSEN)
    assert parsed(batch_line("7", request, model=MODEL))["body"] == {"model": MODEL, "prompt": "a prompt", **CHOSEN}


def test_an_edit_names_its_pictures_by_their_files() -> None:
    """In their order, the mask apart."""
    edit = Edit((PICTURE, PICTURE), PICTURE, "low")
    told = parsed(
        batch_line(
            "7", ImageRequest("a hat", MODEL, edit=edit), model=MODEL, images=["file-1", "file-2"], mask="file-m"
        )
    )
    assert told["url"] == "/v1/images/edits"
    assert told["body"] == {
        "model": MODEL,
        "prompt": "a hat",
        "images": [{"file_id": "file-1"}, {"file_id": "file-2"}],
        "mask": {"file_id": "file-m"},
        "input_fidelity": "low",
    }
    told = parsed(batch_line("7", ImageRequest("a", MODEL, edit=Edit((PICTURE,))), model=MODEL, images=["file-1"]))
    assert told["body"] == {"model": MODEL, "prompt": "a", "images": [{"file_id": "file-1"}]}


@needs_openapi
@pytest.mark.parametrize("settings", [{}, CHOSEN])
def test_the_bodies_are_those_of_the_published_schema(settings: dict[str, Any]) -> None:
    """Every parameter that a request can have, in a generation and in an edit."""
    request = ImageRequest("a prompt", MODEL, **settings)
    check_schema(parsed(batch_line("7", request, model=MODEL))["body"], "CreateImageRequest")
    request = ImageRequest("a prompt", MODEL, **settings, edit=Edit((PICTURE,), PICTURE, "high"))
    told = parsed(batch_line("7", request, model=MODEL, images=["file-1"], mask="file-2"))
    check_schema(told["body"], "EditImageBodyJsonParam")


@given(
    prompt=st.text() | st.text(alphabet='\x00\n\r\x0b\x0c\x1c\x1e\x85\u2028\u2029\ud800\udfff"\\/{}é🦁', max_size=30)
)
def test_any_prompt_is_one_line_and_comes_back_as_it_was(prompt: str) -> None:
    """No character ends the line, for whoever splits bytes or text, and none is lost."""
    data = batch_line("7", ImageRequest(prompt, MODEL), model=MODEL)
    # Two halves of a pair side by side are one character for every reader of JSON.
    assert parsed(data)["body"]["prompt"] == json.loads(json.dumps(prompt))
    assert len(data.decode().splitlines()) == 1


# -- what the provider says of files and batches -----------------------------------------------


BATCH: dict[str, Any] = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/images/generations",
    "errors": {"object": "list", "data": [{"code": "invalid_line", "line": 3, "message": "no", "param": None}]},
    "input_file_id": "file-in",
    "completion_window": "24h",
    "status": "failed",
    "output_file_id": "file-out",
    "error_file_id": "file-err",
    "created_at": 1_763_800_000,
    "expires_at": 1_763_886_400,
    "failed_at": 1_763_800_100,
    "request_counts": {"total": 5, "completed": 3, "failed": 2},
    "metadata": {"runner_batch": "token", "job": "night"},
}


def same(text: str) -> str:
    return text


def test_a_batch_is_read_as_it_is_documented() -> None:
    """Every field that the engine wants to know."""
    info = read_batch(BATCH, same)
    assert info is not None
    assert (info.id, info.status, info.endpoint, info.input_file_id) == (
        "batch_1",
        "failed",
        BATCH["endpoint"],
        "file-in",
    )
    assert (info.output_file_id, info.error_file_id) == ("file-out", "file-err")
    assert (info.total, info.completed, info.failed) == (5, 3, 2)
    assert (info.created_at, info.expires_at, info.ended_at) == (1_763_800_000, 1_763_886_400, 1_763_800_100)
    assert info.metadata == {"runner_batch": "token", "job": "night"}
    assert info.problems == (BatchProblem("invalid_line", "no", 3),)


def test_a_bare_batch_is_one() -> None:
    """An id and a status are all that is needed."""
    info = read_batch({"id": "batch_1", "status": "canceled"}, same)
    assert info is not None
    assert (info.status, info.endpoint, info.created_at, info.total, info.ended_at) == ("cancelled", "", 0, None, None)
    assert (info.metadata, info.problems) == ({}, ())
    assert read_batch({"id": "batch_1"}, same) is None
    assert read_batch({"status": "completed"}, same) is None
    assert read_file({"bytes": 5}, same) is None


@pytest.mark.parametrize("odd", [None, True, -1, 10**20, 1.5, "5", [], {}, "\x1b[31m", "\ud800", "x" * 5000])
@pytest.mark.parametrize("field", [key for key in BATCH if key not in ("id", "status")])
def test_a_field_of_the_wrong_type_is_left_out(field: str, odd: object) -> None:
    """The rest of the batch is as it was, and what is kept of it can be printed and stored."""
    info, plain = read_batch({**BATCH, field: odd}, same), read_batch(BATCH, same)
    assert info is not None
    assert plain is not None
    assert (info.id, info.status) == (plain.id, plain.status)
    if odd != "5" and field != "endpoint":
        expected = read_batch({key: value for key, value in BATCH.items() if key != field}, same)
        assert info == expected
    assert info.endpoint.isprintable()
    assert len(info.endpoint) <= 400


@pytest.mark.parametrize("odd", [None, True, -1, 10**20, "5", [5]])
def test_counts_are_counts(odd: object) -> None:
    """Numbers of a batch and of a problem are numbers, or nothing."""
    told = {**BATCH, "request_counts": dict.fromkeys(("total", "completed", "failed"), odd)}
    told["errors"] = {"data": [{"code": 5, "message": None, "line": odd}, 7]}
    info = read_batch(told, same)
    assert info is not None
    assert (info.total, info.completed, info.failed) == (None, None, None)
    assert [(each.code, each.line) for each in info.problems] == [("unknown", None)]


def test_a_file_is_read_as_it_is_documented() -> None:
    """With its expiry, and without what a gateway leaves out."""
    told = {"id": "file-1", "bytes": 5, "filename": "a.png", "created_at": 7, "expires_at": 9, "purpose": "vision"}
    found = read_file(told, same)
    assert found is not None
    assert (found.id, found.bytes, found.filename, found.created_at, found.expires_at) == ("file-1", 5, "a.png", 7, 9)
    bare = read_file({"id": "file-1", "bytes": "5", "filename": 3, "created_at": -1, "expires_at": None}, same)
    assert bare is not None
    assert (bare.bytes, bare.filename, bare.created_at, bare.expires_at) == (0, "", 0, None)
    assert read_file({"id": "a\nb"}, same) is None
