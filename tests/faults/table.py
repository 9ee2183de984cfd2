"""The error table of `docs/design.md` as data: what each class of fault comes to, and which fault is of which class.

Owns the classes (`Kind`, `EXPECTED`) and the faults: those that the simulator knows by name (`SIMULATED`), and answers
that only a broken gateway gives, as bytes (`STRANGE`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from tests.faults.support import COST_MICROUSD, GOOD, USAGE, Script, error_json, http_answer, image_json, picture

Scripts = Callable[[], dict[str, list[Script]]]

ATTEMPTS, BILLED_ATTEMPTS, LIMITED_ATTEMPTS = 3, 2, 4
RETRY = {
    "attempts": ATTEMPTS,
    "billed_attempts": BILLED_ATTEMPTS,
    "rate_limited_attempts": LIMITED_ATTEMPTS,
    "base_s": 0.001,
    "max_s": 0.002,
}
PATIENT = {"connect_s": 10, "first_byte_s": 20, "stall_s": 20, "total_s": 30}
HASTY = {"connect_s": 10, "first_byte_s": 1.2, "stall_s": 0.6, "total_s": 30}
BEFORE, ONCE, STAYS, AFTER = "a lighthouse", "meets the fault once", "meets the fault each time", "a bakery window"
"""The tasks of a job, in their order."""


class Kind(Enum):
    """The classes of the error table, told apart by what becomes of task and money."""

    DONE = "an image, whatever is odd about it"
    ESTIMATED = "an image whose answer told no usage: its cost is an estimate"
    RETRYABLE = "not billed, tried again"
    LIMITED = "slower"
    LOST = "possibly billed: lost, or a 200 without an image and without usage"
    UNUSABLE = "a 200 without an image that told its usage: a cost"
    REFUSED = "this task alone"
    STOP = "the whole run"


@dataclass(frozen=True, slots=True)
class Expected:
    """What becomes of a struck task: its attempts when the fault stays, and when it strikes once."""

    status: str
    outcomes: tuple[str, ...]
    once: tuple[str, ...]
    exit_code: int


EXPECTED = {
    Kind.DONE: Expected("done", ("saved",), ("saved",), 0),
    Kind.ESTIMATED: Expected("done", ("saved",), ("saved",), 0),
    Kind.RETRYABLE: Expected("failed", ("backoff",) * (ATTEMPTS - 1) + ("gave_up",), ("backoff", "saved"), 4),
    Kind.LIMITED: Expected("failed", ("backoff",) * (LIMITED_ATTEMPTS - 1) + ("gave_up",), ("backoff", "saved"), 4),
    Kind.LOST: Expected("in_doubt", ("lost",) * BILLED_ATTEMPTS, ("lost", "saved"), 4),
    Kind.UNUSABLE: Expected("failed", ("backoff",) * (BILLED_ATTEMPTS - 1) + ("gave_up",), ("backoff", "saved"), 4),
    Kind.REFUSED: Expected("refused", ("refused",), ("refused",), 4),
    Kind.STOP: Expected("planned", ("backoff",), ("backoff",), 6),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A line of the table: a fault, the class that it belongs to, and the words that go on record."""

    name: str
    kind: Kind
    code: str | None = None
    http_status: int | None = 200
    scripts: Scripts | None = field(default=None, repr=False)
    """What the scripted server plays; None for a fault that the simulator knows by its name."""

    @property
    def timeouts(self) -> dict[str, float]:
        """Short waits where the fault is one."""
        waits = ("hang", "stall", "drip")
        return dict(HASTY if any(word in self.name for word in waits) else PATIENT)


# -- what the simulator can do ------------------------------------------------------------------

SIMULATED = [
    Fault("rate_limit=0.01", Kind.LIMITED, "rate_limit_exceeded", 429),
    Fault("rate_limit=none", Kind.LIMITED, "rate_limit_exceeded", 429),
    Fault("status=500", Kind.RETRYABLE, "http_500", 500),
    Fault("status=502", Kind.RETRYABLE, "http_502", 502),  # HTML
    Fault("status=503", Kind.RETRYABLE, "http_503", 503),
    Fault("status=408", Kind.RETRYABLE, "http_408", 408),
    Fault("status=409", Kind.RETRYABLE, "http_409", 409),
    Fault("status=425", Kind.RETRYABLE, "http_425", 425),
    Fault("status=504", Kind.LOST, "http_504", 504),
    Fault("status=524", Kind.LOST, "http_524", 524),
    Fault("reset", Kind.LOST, "connection_cut", None),
    Fault("reset=unbilled", Kind.LOST, "connection_cut", None),
    Fault("hang", Kind.LOST, "timeout_first_byte", None),
    Fault("hang=unbilled", Kind.LOST, "timeout_first_byte", None),
    Fault("stall", Kind.LOST, "timeout_stall"),
    Fault("cut", Kind.LOST, "connection_cut"),
    Fault("reset_body", Kind.LOST, "connection_cut"),
    Fault("truncated_json", Kind.LOST, "truncated_json"),
    Fault("empty", Kind.LOST, "empty_body"),
    Fault("not_json", Kind.LOST, "not_json"),
    Fault("bad_base64", Kind.UNUSABLE, "bad_base64"),
    Fault("no_data", Kind.UNUSABLE, "no_data"),
    Fault("no_data=empty", Kind.UNUSABLE, "no_data"),
    Fault("not_image", Kind.UNUSABLE, "not_an_image"),
    Fault("wrong_size", Kind.UNUSABLE, "wrong_image"),
    Fault("wrong_format", Kind.UNUSABLE, "wrong_image"),
    Fault("truncated_image", Kind.UNUSABLE, "incomplete_image"),
    Fault("missing_usage", Kind.ESTIMATED),
    Fault("zero_usage", Kind.ESTIMATED),
    Fault("gzip", Kind.DONE),
    Fault("escaped", Kind.DONE),
    Fault("url", Kind.DONE),
    Fault("delay=0.05", Kind.DONE),
    Fault("moderation", Kind.REFUSED, "moderation_blocked", 400),
    Fault("invalid_request", Kind.REFUSED, "invalid_value", 400),
    Fault("status=413", Kind.REFUSED, "invalid_request_error", 413),
    Fault("status=422", Kind.REFUSED, "invalid_request_error", 422),
    Fault("insufficient_quota", Kind.STOP, "insufficient_quota", 429),
    Fault("billing_hard_limit", Kind.STOP, "billing_hard_limit_reached", 400),
    Fault("status=402", Kind.STOP, "invalid_request_error", 402),
    Fault("invalid_api_key", Kind.STOP, "invalid_api_key", 401),
    Fault("unverified", Kind.STOP, "forbidden", 403),
    Fault("model_not_found", Kind.STOP, "model_not_found", 404),
    Fault("status=405", Kind.STOP, "http_405", 405),
]

# -- what it cannot -----------------------------------------------------------------------------

HTML = {"Content-Type": "text/html"}
PAGE = b"<html><head><title>Somewhere else</title></head><body>Nothing here.</body></html>"
PAID = COST_MICROUSD


def plays(*steps: bytes | float | str, billed: int | None = PAID) -> Scripts:
    """The struck tasks meet these steps."""
    script = Script(steps, billed)
    return lambda: {ONCE: [script, GOOD], STAYS: [script]}


def says(body: bytes, headers: Mapping[str, str] | None = None, *, length: int | None = None) -> Scripts:
    """The struck tasks meet a whole 200, and it is on the bill."""
    return plays(http_answer(body, headers=headers, length=length))


def fails(body: bytes, status: str, headers: Mapping[str, str] | None = None) -> Scripts:
    """The struck tasks meet a whole answer that costs nothing."""
    return plays(http_answer(body, status, headers), billed=None)


def behind_a_url(*steps: bytes | float | str) -> Scripts:
    """The image of a struck task is said to lie elsewhere, and there one meets these steps."""
    body = json.dumps({"data": [{"url": "BASE-URL/shelf/a.png"}], "usage": USAGE}).encode()
    # The address is written in by the server, so the length is not known here: the end of the connection is the end.
    answer = http_answer(body, headers={"Content-Length": "", "Connection": "close"})
    told = plays(answer, "close")
    return lambda: {**told(), "/shelf/a.png": [Script(steps)]}


def chunked(body: bytes) -> bytes:
    """An answer whose length is told piece by piece, without its end."""
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 700]), body[i : i + 700]) for i in range(0, len(body), 700))
    return http_answer(pieces, headers={"Content-Length": "", "Transfer-Encoding": "chunked"})


def _errors() -> Iterator[Fault]:
    """Errors, and what can be wrong with their bodies."""
    yield Fault("404 with HTML", Kind.STOP, "http_404", 404, fails(PAGE, "404 Not Found", HTML))
    yield Fault("403 with HTML", Kind.STOP, "forbidden", 403, fails(PAGE, "403 Forbidden", HTML))
    yield Fault("401 without a body", Kind.STOP, "invalid_api_key", 401, fails(b"", "401 Unauthorized"))
    yield Fault("429 with HTML", Kind.LIMITED, "rate_limit_exceeded", 429, fails(PAGE, "429 Slow", HTML))
    yield Fault("503 with HTML", Kind.RETRYABLE, "http_503", 503, fails(PAGE, "503 Busy", HTML))
    yield Fault("524 with HTML", Kind.LOST, "http_524", 524, fails(PAGE, "524 Late", HTML))
    yield Fault("400 with HTML", Kind.REFUSED, "http_400", 400, fails(PAGE, "400 Bad", HTML))
    for status in (301, 302, 303, 307, 308):
        there = fails(b"", f"{status} Moved", {"Location": "/v1/images/generations"})
        yield Fault(f"{status}", Kind.STOP, f"http_{status}", status, there)
    for what, body, headers in (
        ("then a megabyte", b"x" * 1_000_000, HTML),
        ("nested without end", b'{"error": ' + b"[" * 60_000, None),
        ("of no known charset", b"\xff\xfe\x00", {"Content-Type": "text/html; charset=klingon"}),
    ):
        yield Fault(f"500, {what}", Kind.RETRYABLE, "http_500", 500, fails(body, "500 Oops", headers))
    begun = http_answer(PAGE, "503 Busy", length=5000)
    yield Fault("503, and its body stalls", Kind.RETRYABLE, "http_503", 503, plays(begun, "hang", billed=None))
    yield Fault("503, and its body is cut", Kind.RETRYABLE, "http_503", 503, plays(begun, "reset", billed=None))
    begun = http_answer(b'{"error"', "401 No", length=5000)
    yield Fault("401, and its body is cut", Kind.STOP, "invalid_api_key", 401, plays(begun, "close", billed=None))
    for code, kind in (
        ("insufficient_quota", Kind.STOP),
        ("invalid_api_key", Kind.STOP),
        ("model_not_found", Kind.STOP),
        ("moderation_blocked", Kind.REFUSED),
        ("rate_limit_exceeded", Kind.LIMITED),
        ("server_error", Kind.RETRYABLE),
    ):
        yield Fault(f"200 with {code} inside", kind, code, 200, fails(error_json(code), "200 OK"))
    yield Fault("200 with a sentence", Kind.RETRYABLE, "http_500", 200, fails(b'{"error": "no"}', "200 OK"))
    both = error_json("server_error")[:-1] + b', "usage": ' + json.dumps(USAGE).encode() + b"}"
    yield Fault("200 with an error and usage", Kind.UNUSABLE, "no_data", 200, says(both))


def _transport() -> Iterator[Fault]:
    """Odd and broken ways for a good answer to come."""
    good = image_json()
    whole = http_answer(good)
    yield Fault("chunked", Kind.DONE, scripts=plays(chunked(good) + b"0\r\n\r\n"))
    yield Fault("it comes in a drip", Kind.DONE, scripts=plays(whole[:-9], 0.3, whole[-9:-4], 0.3, whole[-4:]))
    for hint in (b"100 Continue", b"103 Early Hints\r\nLink: </a>"):
        first = b"HTTP/1.1 " + hint + b"\r\n\r\n"
        yield Fault(f"{hint[:3].decode()} first", Kind.DONE, scripts=plays(first, whole))
    many = {f"x-more-{number}": "x" * 1000 for number in range(100)}
    yield Fault("100 kB of headers", Kind.DONE, scripts=says(good, many))
    yield Fault("text/html around it", Kind.DONE, scripts=says(good, HTML))
    yield Fault("no content type", Kind.DONE, scripts=says(good, {"Content-Type": ""}))

    def broken(name: str, scripts: Scripts, *, headers_came: bool, code: str = "connection_cut") -> Fault:
        return Fault(name, Kind.LOST, code, 200 if headers_came else None, scripts)

    yield broken("chunked, without an end", plays(chunked(good), "close"), headers_came=True)
    shorter, longer = http_answer(good, length=len(good) + 50), http_answer(good, length=len(good) - 200)
    yield broken("shorter than its Content-Length", plays(shorter, "close"), headers_came=True)
    # The HTTP client sees at once that what follows is no answer, and gives the whole connection up.
    yield broken("longer than its Content-Length", plays(longer, "close"), headers_came=False)
    yield broken("chunked, and no chunk", plays(chunked(good[:700]) + b"ZZZ\r\n", "close"), headers_came=False)
    yield broken("gzip that is none", says(good, {"Content-Encoding": "gzip"}), headers_came=True)
    cut = says(gzip.compress(good)[:-30], {"Content-Encoding": "gzip"})
    yield broken("gzip that is cut", cut, headers_came=True, code="truncated_json")
    yield broken("Content-Length: many", says(good, {"Content-Length": "many"}), headers_came=False)
    yield broken("a header of 100 kB", says(good, {"x-long": "x" * 100_000}), headers_came=False)
    yield broken("no HTTP at all", plays(b"SSH-2.0-OpenSSH_9.9\r\n", "close", billed=None), headers_came=False)
    yield broken("closed before headers", plays("close"), headers_came=False)
    yield broken("cut in the headers", plays(b"HTTP/1.1 200 OK\r\nContent-Le", "reset"), headers_came=False)


def _content() -> Iterator[Fault]:
    """What a 200 can hold that is no image, or more than one."""
    good = image_json()
    more = image_json(more=', {"b64_json": "aW1hZ2U="}, {"url": "x"}')
    yield Fault("several images", Kind.DONE, scripts=says(more))
    for name, kind, code, body in (
        ("garbage after it", Kind.UNUSABLE, "not_json", good + b"\r\nTrailer"),
        ("a second answer after it", Kind.UNUSABLE, "not_json", good + good),
        ("a stream of events", Kind.LOST, "not_json", b"event: completed\ndata: " + good + b"\n\n"),
        ("null", Kind.LOST, "not_json", b"null"),
        ("an array", Kind.LOST, "not_json", b"[" + good + b"]"),
        ("no image, no usage", Kind.LOST, "no_data", b'{"data": [{}]}'),
        ("an empty image", Kind.UNUSABLE, "no_data", image_json(image=b"")),
        ("text for an image", Kind.UNUSABLE, "not_an_image", image_json(image=b"text")),
        ("half an image, no usage", Kind.LOST, "incomplete_image", image_json(None, image=picture()[:-40])),
        ("another size, no usage", Kind.LOST, "wrong_image", image_json(None, image=picture(512, 512))),
    ):
        yield Fault(name, kind, code, 200, says(body))
    nothing = plays(http_answer(b"", "204 No Content", {"Content-Length": ""}))
    yield Fault("204", Kind.LOST, "empty_body", 204, nothing)


def _usage() -> Iterator[Fault]:
    """A good image beside a usage that cannot be billed from."""
    for told in ("null", "[]", '"many"', "{}", '{"input_tokens": 10}'):
        yield Fault(f"usage {told}", Kind.ESTIMATED, scripts=says(image_json(told)))
    for count in ("NaN", "Infinity", "1e999", "-196", "196.0", '"196"', "true", "1000000000000", "9" * 5000, "0"):
        told = f'{{"input_tokens": 10, "output_tokens": {count}}}'
        yield Fault(f"{count[:20]} output tokens", Kind.ESTIMATED, scripts=says(image_json(told)))
    yield Fault(
        "-10 input tokens", Kind.ESTIMATED, scripts=says(image_json('{"input_tokens": -10, "output_tokens": 196}'))
    )


def _elsewhere() -> Iterator[Fault]:
    """An image that the answer says to lie elsewhere: it is paid for, whatever is there."""
    yield Fault("url", Kind.DONE, scripts=behind_a_url(http_answer(picture())))
    part = http_answer(picture(), length=len(picture()) + 9)
    steps: dict[str, tuple[bytes | str, ...]] = {
        "404": (http_answer(b"", "404 Not Found"),),
        "a redirect": (http_answer(b"", "302 Found", {"Location": "/elsewhere.png"}),),
        "a reset": ("reset",),
        "half of it": (part, "close"),
        "hang": ("hang",),
        "stall": (part, "hang"),
    }
    for name, there in steps.items():
        yield Fault(f"url, and there: {name}", Kind.UNUSABLE, "url_not_fetched", 200, behind_a_url(*there))
    yield Fault("url, and there: text", Kind.UNUSABLE, "not_an_image", 200, behind_a_url(http_answer(b"text")))
    nowhere = json.dumps({"data": [{"url": "http://127.0.0.1:1/a.png"}], "usage": USAGE}).encode()
    yield Fault("url, and nobody there", Kind.UNUSABLE, "url_not_fetched", 200, says(nowhere))


STRANGE = [*_errors(), *_transport(), *_content(), *_usage(), *_elsewhere()]
