"""Whatever a provider answers, it is an image or an error of the table: in bounded memory, in words that fit."""

from __future__ import annotations

import base64
import datetime as dt
import io
import json
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner.errors import ProviderError
from runner.provider import Endpoint, Made, Timeouts, connect
from runner.provider.decode import AnswerDecoder, BadAnswer, Envelope
from runner.provider.translate import MAX_MESSAGE_CHARS, clean, error_of, heard, retry_after_s
from runner.store.verify import BadImage, ImageFacts, ImageVerifier
from runner.tasks import ImageRequest
from tests.fuzz.fuzz_support import HOSTILE_TEXTS, ODD_NUMBERS, disturbed, mutated, search, texts, values, watched

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
CODES = {"empty_body", "not_json", "truncated_json", "no_data", "bad_base64", "answer_too_large"}


def drawn(form: str, **options: Any) -> bytes:
    """A small picture with something to see in it."""
    picture = Image.radial_gradient("L").resize((40, 24)).convert("RGB")
    made = io.BytesIO()
    picture.save(made, form, **options)
    return made.getvalue()


IMAGES = [drawn("PNG"), drawn("JPEG"), drawn("JPEG", progressive=True), drawn("WEBP"), drawn("WEBP", lossless=True)]
ANSWER: dict[str, Any] = {
    "created": 1_763_800_000,
    "background": "opaque",
    "data": [{"b64_json": base64.b64encode(IMAGES[0]).decode(), "revised_prompt": "A cat"}],
    "output_format": "png",
    "quality": "low",
    "size": "1024x1024",
    "usage": {
        "input_tokens": 50,
        "input_tokens_details": {"image_tokens": 40, "text_tokens": 10, "cached_tokens": 3},
        "output_tokens": 272,
        "total_tokens": 322,
    },
}
BODIES = [
    json.dumps(ANSWER).encode(),
    json.dumps(ANSWER, indent=1).replace("/", "\\/").encode(),
    json.dumps({"data": [{"url": "https://images.example/1.png"}], "usage": ANSWER["usage"]}).encode(),
    json.dumps({"error": {"code": "moderation_blocked", "message": "no"}}).encode(),
]


class Basket:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.image = b""

    def write(self, data: bytes, /) -> None:
        assert data
        self.image += data


def pieces(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    """`body` in chunks of these sizes, again and again."""
    at = number = 0
    while at < len(body):
        size = sizes[number % len(sizes)]
        yield body[at : at + size]
        at, number = at + size, number + 1


def decode(body: bytes, sizes: list[int]) -> tuple[bytes, Envelope | None]:
    """What the decoder makes of a body; None where it refuses it, in words and with a code of its list."""
    basket, envelope = Basket(), None
    decoder = AnswerDecoder(basket)
    try:
        for piece in pieces(body, sizes):
            decoder.feed(piece)
        envelope = decoder.finish()
    except BadAnswer as error:
        assert error.code in CODES
        assert 0 < len(error.message) < 400
        envelope_of_error = error.envelope
        assert envelope_of_error is None or envelope_of_error.image_bytes == len(basket.image)
        with pytest.raises(BadAnswer):  # it stays refused
            decoder.finish()
    assert len(basket.image) <= len(body) * 3 // 4
    if envelope is not None:
        assert envelope.image_bytes == len(basket.image)
        assert basket.image or envelope.url
        for text in (envelope.size, envelope.quality, envelope.background, envelope.output_format, envelope.url):
            assert text is None or text.encode()
        assert envelope.usage_json is None or isinstance(json.loads(envelope.usage_json), dict)
    return basket.image, envelope


chunkings = st.lists(st.integers(1, 400), min_size=1, max_size=5)


@search(250)
@given(body=mutated(BODIES), sizes=chunkings)
def test_mutated_answers(body: bytes, sizes: list[int]) -> None:
    """Nothing but an envelope or a refusal, and the same whatever the chunks are."""
    with watched():
        image, envelope = decode(body, sizes)
        whole, same = decode(body, [max(1, len(body))])
    assert (envelope is None) == (same is None)
    if envelope is not None:
        assert (image, envelope) == (whole, same)


@search(100)
@given(answer=disturbed(ANSWER), sizes=chunkings, ascii_only=st.booleans())
def test_disturbed_answers(answer: Any, sizes: list[int], ascii_only: bool) -> None:
    """Values of every kind in every field: an image that came whole is not lost to a field beside it."""
    body = json.dumps(answer, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    with watched():
        _, envelope = decode(body, sizes)
    if envelope is not None and envelope.usage is not None:
        usage = envelope.usage
        assert all(count >= 0 for count in (usage.input_tokens, usage.output_tokens, usage.total_tokens))


IN_IMAGE = json.dumps({"data": [{"b64_json": "@"}]}).encode()
LARGE = {
    "a string beside the image": b'{"x": "' + b"x" * 40_000_000 + b'"}',
    "a key": b'{"' + b"x" * 40_000_000 + b'": 1}',
    "depth": b"[" * 20_000_000,
    "depth within": b'{"x": ' + b'{"a": ' * 150_000 + b"1",
    "a closed depth": b'{"x": ' + b"[" * 400_000 + b"]" * 400_000 + b', "data": []}',
    "keys": b"{" + b",".join(b'"k%d": %d' % (n, n) for n in range(1_000_000)) + b"}",
    "digits": b'{"created": ' + b"9" * 1_000_000 + b"}",
    "digits of usage": b'{"usage": {"output_tokens": ' + b"9" * 900_000 + b"}}",
    "a float": b'{"created": 1e' + b"9" * 900_000 + b"}",
    "spaces": b'{"a": ' + b" " * 40_000_000 + b"1}",
    "nothing": b" " * 40_000_000,
    "zeros": bytes(40_000_000),
    "a page": b"<html>" + b"x" * 40_000_000,
    "images without end": b'{"data": [' + b'{"b64_json": "AAAA"},' * 1_000_000,
    "a second image": b'{"data": [{"b64_json": "AAAA"}, {"b64_json": "' + b"A" * 40_000_000 + b'"}]}',
    "what is no base64": IN_IMAGE.replace(b"@", b"A" * 3 + b"!" * 40_000_000),
    "escapes": IN_IMAGE.replace(b"@", b"\\u0041" * 2_000_000),
    "broken escapes": IN_IMAGE.replace(b"@", b"\\u00" * 2_000_000),
    "backslashes": b'{"x": "' + b"\\" * 900_001 + b'"}',
}
_CHILD = """
import json, resource, sys
from tests.fuzz.test_answers import LARGE, Basket, decode
from runner.provider.decode import AnswerDecoder, BadAnswer

class Nothing:
    def write(self, data, /): pass

for what, body in LARGE.items():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    decoder, code = AnswerDecoder(Nothing()), None
    try:
        for at in range(0, len(body), 65536):
            decoder.feed(body[at : at + 65536])
        decoder.finish()
    except BadAnswer as error:
        code = error.code
    print(json.dumps([code, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024]), flush=True)
"""


@pytest.fixture(scope="module")
def weighed() -> dict[str, tuple[str | None, int]]:
    """What became of each large answer, and how many bytes of memory it took."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(LARGE), f"it died of {list(LARGE)[len(lines)]!r}: {done.stderr}"
    return dict(zip(LARGE, lines, strict=True))


@pytest.mark.parametrize("what", LARGE)
def test_a_large_answer(weighed: dict[str, tuple[str | None, int]], what: str) -> None:
    """Forty megabytes of anything but an image take a few."""
    code, took_bytes = weighed[what]
    assert code in CODES or what in ("escapes", "a second image")
    assert took_bytes < 30_000_000


# --- errors and headers


headers = st.dictionaries(
    st.sampled_from(
        ["retry-after", "retry-after-ms", "date", "x-request-id"]
        + [
            f"x-ratelimit-{what}-{of}"
            for what in ("limit", "remaining", "reset")
            for of in ("requests", "tokens", "images")
        ]
        + ["x-ratelimit-limit-input-images", "x-ratelimit-reset-input-images"]
    ),
    texts
    | st.sampled_from(ODD_NUMBERS).map(str)
    | st.sampled_from(
        ["1s", "6m0s", "1h2m3s", "99999999999999999999h", "1e400", "0.0000001ms", "1" * 8000, "1_0", "٣", "-1s"]
    )
    | st.sampled_from(
        ["Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 99 Foo 99999 99:99:99 +9999", "Mon, 01 Jan 0001 00:00:00 +2359"]
    )
    | st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    | st.text(alphabet="0123456789 :,+-GMTWedOct.smh", max_size=40),
    max_size=6,
)
ERROR = {
    "code": "rate_limit_exceeded",
    "type": "requests",
    "message": "Rate limit reached. Please try again in 12s. Key sk-abcdefgh12345",
    "moderation_details": {"moderation_stage": "input", "categories": ["a", "b"]},
    "param": None,
}


@search(250)
@given(
    status=st.sampled_from(
        [300, 302, 400, 401, 402, 403, 404, 405, 408, 409, 413, 422, 429, 500, 502, 503, 504, 524, 599, 999]
    ),
    body=disturbed(ERROR) | values | st.sampled_from(HOSTILE_TEXTS) | st.just("<title>" + "x" * 100_000),
    given_headers=headers,
)
def test_any_error(status: int, body: Any, given_headers: dict[str, str]) -> None:
    """Always an error of the table, with words that are printable and short, and a wait that can be waited for."""
    with watched():
        error = error_of(status, body, given_headers, request_id=None, model="gpt-image-2", now=NOW)
    assert isinstance(error, ProviderError)
    assert type(error) is not ProviderError
    assert error.message.isprintable()
    assert error.code and error.code.isprintable()
    assert len(error.message) <= MAX_MESSAGE_CHARS * 3
    assert len(error.code) <= 100
    assert "sk-abcdefgh" not in str(error)
    wait = getattr(error, "retry_after_s", None)
    assert wait is None or (math.isfinite(wait) and wait >= 0)


@search(250)
@given(given_headers=headers, message=texts)
def test_any_headers(given_headers: dict[str, str], message: str) -> None:
    """Figures that are finite and not below zero, or nothing."""
    with watched():
        wait = retry_after_s(given_headers, message, NOW)
        gates = heard(given_headers)
    assert wait is None or (math.isfinite(wait) and wait >= 0)
    for gate in gates.values():
        assert all(n is None or (math.isfinite(n) and n >= 0) for n in (gate.limit, gate.remaining, gate.reset_s))


@search(150)
@given(text=texts)
def test_a_strangers_text(text: str) -> None:
    """One line, printable, short: no control character and no direction mark."""
    assert clean(text).isprintable()
    assert len(clean(text)) <= MAX_MESSAGE_CHARS


# --- images


def verify(content: bytes, sizes: list[int]) -> ImageFacts | None:
    verifier = ImageVerifier()
    try:
        for piece in pieces(content, sizes):
            verifier.feed(piece)
        return verifier.finish()
    except BadImage as error:
        assert error.code and error.message
        return None


@search(300)
@given(content=mutated(IMAGES), sizes=chunkings)
def test_mutated_images(content: bytes, sizes: list[int]) -> None:
    """Taken or refused, the same in any chunks; what is taken, Pillow opens, and sees as large."""
    with watched():
        facts = verify(content, sizes)
        assert facts == verify(content, [max(1, len(content))])
    if facts is not None:
        with Image.open(io.BytesIO(content)) as image:
            assert image.format is not None
            assert (image.format.lower(), image.size) == (facts.format, (facts.width, facts.height))
            if facts.format == "png":  # the one whose checksums cover every pixel
                image.load()


# --- real HTTP


class Player:
    """A server that answers every request with the same bytes, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with closing(connection):
                try:
                    self._read(connection)
                    connection.sendall(self.answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError:
                    continue

    @staticmethod
    def _read(connection: socket.socket) -> None:
        seen = b""
        while b"\r\n\r\n" not in seen:
            piece = connection.recv(65536)
            if not piece:
                return
            seen += piece
        head, _, body = seen.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += connection.recv(65536)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    made = Player()
    yield made
    made.close()


def ask(player: Player, answer: bytes) -> Made | ProviderError:
    """One request; only what the table knows may come of it."""
    player.answer = answer

    async def generate() -> Made | ProviderError:
        endpoint = Endpoint.checked("mine", player.base_url, "sk-a-key-for-the-fuzz-0123", insecure=False)
        async with connect(endpoint, Timeouts(5, 5, 5, 10), connections=1) as client:
            try:
                return await client.generate(
                    ImageRequest("A cat", "gpt-image-2"), model="gpt-image-2", sink=Basket(), on_headers=lambda _: None
                )
            except ProviderError as error:
                assert error.message.isprintable()
                assert len(str(error)) < 2000
                assert error.request_id is None or error.request_id.isprintable()
                return error

    with watched():
        return anyio.run(generate)


def http(body: bytes, status: str = "200 OK", *lines: str, length: bool = True) -> bytes:
    head = [f"HTTP/1.1 {status}", *lines, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join(head).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body


STATUS = st.sampled_from(
    ["200 OK", "201 x", "204 x", "206 x", "302 x", "304 x", "400 x", "404 x", "429 x", "500 x", "600 x", "999 x"]
)
LINES = st.lists(
    st.sampled_from(
        [
            "Content-Encoding: gzip",
            "Content-Encoding: br",
            "Content-Encoding: nonsense",
            "Transfer-Encoding: chunked",
            "Content-Type: text/html; charset=zlib",
            "Content-Type: application/json; charset=utf-7",
            "Content-Type: text/plain; charset=no-such",
            "Content-Type: application/json",
            "Location: javascript:alert(1)",
            "Location: /v1/images/generations",
            "Set-Cookie: \x7f=;;;=",
            "X-Request-Id: \x1b[31mred",
            "X-Request-Id: " + "r" * 3000,
            "Retry-After: 1e400",
            "Content-Length: -5",
            "Content-Length: 99999999999999999999",
            "Connection: upgrade",
            "Upgrade: websocket",
        ]
    ),
    max_size=3,
)


@search(40, factor=30)
@given(status=STATUS, lines=LINES, body=mutated(BODIES), length=st.booleans())
def test_mutated_http(player: Player, status: str, lines: list[str], body: bytes, length: bool) -> None:
    """Any status, odd headers, a damaged body."""
    ask(player, http(body, status, *lines, length=length))


@search(40, factor=30)
@given(
    raw=mutated([http(BODIES[0]), http(BODIES[3], "429 Too Many", "Retry-After: 1", "Content-Type: application/json")])
    | st.binary(max_size=200)
)
def test_any_bytes_on_the_wire(player: Player, raw: bytes) -> None:
    """What is hardly HTTP."""
    ask(player, raw)


@pytest.mark.parametrize(
    "status",
    [
        "100 Continue",
        "101 Switching Protocols",
        "199 x",
        "000 x",
        "99 x",
        "1000 x",
        "-1 x",
        "2e2 x",
        "",
        "200",
        "OK 200",
    ],
)
def test_an_odd_status_line(player: Player, status: str) -> None:
    """A status that is none."""
    assert not isinstance(ask(player, http(BODIES[0], status)), Made) or status == "200"


@pytest.mark.parametrize(
    "charset", ["zlib", "base64", "hex", "bz2", "rot13", "utf-7", "idna", "punycode", "undefined", "\x00"]
)
def test_an_odd_charset_of_an_error(player: Player, charset: str) -> None:
    """A codec that is for no text does not get in the way of the error."""
    assert isinstance(
        ask(player, http(BODIES[3], "500 x", f"Content-Type: text/html; charset={charset}")), ProviderError
    )


def test_the_player_can_serve_an_image(player: Player) -> None:
    """What the other tests disturb works."""
    assert isinstance(ask(player, http(BODIES[0], "200 OK", "Content-Type: application/json")), Made)
