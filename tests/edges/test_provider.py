"""What the client holds over real HTTP: every byte, what errors mean, one request whatever happens, no key told."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import logging
import socket
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from runner.errors import (
    InputError,
    Lost,
    ModelGone,
    ProviderError,
    RateLimited,
    Refused,
    Retryable,
    StopRun,
    StoreError,
    Unreached,
    Unusable,
)
from runner.provider import Endpoint, Timeouts, connect
from runner.provider import wire as wire_module
from runner.rules.pacing import Heard
from runner.simulator.faults import KINDS
from runner.tasks import ImageRequest
from tests.edges.provider_support import (
    IMAGE,
    KEY,
    MODEL,
    ODD_KEY,
    QUICK,
    USAGE,
    Sink,
    answer,
    ask,
    ask_with,
    recording,
)
from tests.edges.simulator_support import Peer, running

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with running(art="flat") as it:
        yield it


# -- good answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("fault", ["", "[[fault:gzip]]", "[[fault:escaped]]", "[[fault:url]]", "[[fault:delay=0.05]]"])
async def test_an_image_arrives_byte_for_byte(peer: Peer, output_format: str, fault: str) -> None:
    """Law 5: what reaches the sink has the checksum that the server billed, however the answer was written."""
    outcome = await ask(peer.base_url, f"{fault} bytes", output_format=output_format)
    assert outcome.error is None
    (entry,) = [e for e in peer.entries() if e["request_id"] == outcome.made.request_id]
    assert [hashlib.sha256(outcome.image).hexdigest()] == entry["images"]
    usage = outcome.made.envelope.usage
    assert (usage.input_tokens, usage.output_tokens) == (entry["input_tokens"], entry["output_tokens"])
    assert outcome.made.http_status == 200


async def test_many_at_a_time_share_a_client(peer: Peer) -> None:
    """Each call gets its own image, and each is one request."""
    before = peer.bill()["requests"]
    endpoint = Endpoint.checked("openai", peer.base_url, KEY, insecure=False)
    async with connect(endpoint, QUICK, connections=12) as client:
        outcomes = await asyncio.gather(*(ask_with(client, f"number {i}") for i in range(12)))
    assert len({outcome.image for outcome in outcomes}) == 12
    assert peer.bill()["requests"] == before + 12


# -- what goes over the wire --------------------------------------------------------------------


async def test_only_what_differs_from_the_default_is_sent() -> None:
    """Model, prompt and n=1 always; a parameter only where it says something."""
    async with recording(answer(IMAGE)) as server:
        outcome = await ask(server.base_url, "a prompt", size="auto", quality="auto")
    assert outcome.image == b"image"
    assert server.json == {"model": MODEL, "prompt": "a prompt", "n": 1}
    assert server.heads[0].startswith("POST /v1/images/generations HTTP/1.1\r\n")
    assert f"authorization: bearer {KEY}" in server.heads[0].lower()


@pytest.mark.parametrize(("provider", "told"), [("openai", True), ("cometapi", False)])
async def test_an_organisation_is_told_to_openai_alone(
    provider: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would read it from the environment and send it to any server."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-mine")
    async with recording(answer(IMAGE)) as server:
        endpoint = Endpoint.checked(provider, server.base_url, KEY, insecure=False)
        async with connect(endpoint, QUICK, connections=1) as client:
            await ask_with(client)
    assert ("org-of-mine" in server.heads[0], "project-of-mine" in server.heads[0]) == (told, told)


async def test_every_parameter_that_was_chosen_is_sent() -> None:
    """In the API's own words, numbers as numbers, and text as it is."""
    settings: dict[str, Any] = {
        "size": "1536x1024",
        "quality": "medium",
        "background": "opaque",
        "output_format": "webp",
        "output_compression": 0,
        "moderation": "low",
    }
    async with recording(answer(IMAGE)) as server:
        await ask(server.base_url, 'ein "Löwe" 🦁\n', **settings)
    assert server.json == {"model": MODEL, "prompt": 'ein "Löwe" 🦁\n', "n": 1, **settings}


@pytest.mark.parametrize(
    "reply",
    [
        answer(b'{"error": {"message": "x"}}', "500 Oops"),
        answer(b'{"error": {"message": "x"}}', "500 Oops", x_should_retry="true"),
        answer(b'{"error": {"message": "x"}}', "429 Slower", retry_after="0"),
        answer(b'{"error": {"message": "x"}}', "408 Late"),
        answer(b'{"error": {"message": "x"}}', "409 Lock"),
        answer(b"", "307 Elsewhere", location="/v1/images/generations"),
        answer(b"", "302 Elsewhere", location="/v1/images/generations"),
        answer(b"nonsense"),
        answer(IMAGE)[:-9],
        b"HTTP/1.1 nonsense\r\n\r\n",
        b"",
    ],
)
async def test_one_call_is_one_request_whatever_happens(reply: bytes) -> None:
    """The SDK's own retries and redirects would pass pacing and ledger by: each could be a second bill."""
    async with recording(reply, close=True) as server:
        outcome = await ask(server.base_url)
    assert outcome.error is not None
    assert len(server.bodies) == 1


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("after", [b"", b"HTTP/1.1 500 Oops\r\n\r\n"])
async def test_no_request_suffers_from_the_answer_before_it(close: bool, after: bytes) -> None:
    """A server may close without a word, or send another answer unasked: each request has a connection of its own."""
    async with recording(answer(IMAGE), after, close=close) as server:
        endpoint = Endpoint.checked("openai", server.base_url, KEY, insecure=False)
        async with connect(endpoint, QUICK, connections=1) as client:
            for _ in range(5):
                assert (await ask_with(client)).error is None
    assert len(server.bodies) == server.connections == 5


# -- errors and their meaning -------------------------------------------------------------------

FAULTS: dict[str, tuple[type[ProviderError] | None, str | None, int | None, bool]] = {
    "status=500": (Retryable, "http_500", 500, False),
    "status=502": (Retryable, "http_502", 502, False),
    "status=503": (Retryable, "http_503", 503, False),
    "status=504": (Lost, "http_504", 504, False),
    "status=429": (RateLimited, "rate_limit_exceeded", 429, False),
    "rate_limit": (RateLimited, "rate_limit_exceeded", 429, False),
    "insufficient_quota": (StopRun, "insufficient_quota", 429, False),
    "billing_hard_limit": (StopRun, "billing_hard_limit_reached", 400, False),
    "invalid_api_key": (StopRun, "invalid_api_key", 401, False),
    "unverified": (StopRun, "forbidden", 403, False),
    "model_not_found": (ModelGone, "model_not_found", 404, False),
    "moderation": (Refused, "moderation_blocked", 400, False),
    "invalid_request": (Refused, "invalid_value", 400, False),
    "reset": (Lost, "connection_cut", None, False),
    "reset=unbilled": (Lost, "connection_cut", None, False),
    "hang": (Lost, "timeout_first_byte", None, False),
    "hang=unbilled": (Lost, "timeout_first_byte", None, False),
    "stall": (Lost, "timeout_stall", 200, False),
    "cut": (Lost, "connection_cut", 200, False),
    "reset_body": (Lost, "connection_cut", 200, False),
    "truncated_json": (Unusable, "truncated_json", 200, False),
    "empty": (Unusable, "empty_body", 200, False),
    "not_json": (Unusable, "not_json", 200, False),
    "bad_base64": (Unusable, "bad_base64", 200, True),
    "no_data": (Unusable, "no_data", 200, True),
    "no_data=empty": (Unusable, "no_data", 200, True),
    # These arrive whole as far as the JSON can tell: what the bytes are is for the store to judge.
    "not_image": (None, None, 200, True),
    "wrong_size": (None, None, 200, True),
    "wrong_format": (None, None, 200, True),
    "truncated_image": (None, None, 200, True),
    "missing_usage": (None, None, 200, False),
    "zero_usage": (None, None, 200, False),
    "escaped": (None, None, 200, True),
    "gzip": (None, None, 200, True),
    "url": (None, None, 200, True),
    "delay=0.01": (None, None, 200, True),
}


def test_every_fault_of_the_simulator_is_in_the_table() -> None:
    """A new kind of fault needs a meaning."""
    assert {fault.partition("=")[0] for fault in FAULTS} == set(KINDS)


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_a_fault_means(peer: Peer, fault: str) -> None:
    """Class, code, status and usage; and whatever the server billed is never taken for free."""
    kind, code, http_status, usage_is_told = FAULTS[fault]
    billed = peer.bill()["billed_requests"]
    waits = fault.startswith(("hang", "stall"))
    timeouts = Timeouts(connect_s=5.0, first_byte_s=0.3, stall_s=0.3, total_s=10.0) if waits else QUICK
    outcome = await ask(peer.base_url, f"[[fault:{fault}]]", timeouts=timeouts)
    assert outcome.usage_is_told == usage_is_told
    billed = peer.bill()["billed_requests"] - billed
    if kind is None:
        assert outcome.error is None
        assert outcome.made.http_status == http_status
        assert outcome.made.request_id.startswith("req_")
        return
    error = outcome.error
    assert type(error) is kind
    assert (error.code, error.http_status) == (code, http_status)
    if http_status is not None:
        assert error.request_id is not None
        assert error.request_id.startswith("req_")
    if billed:
        assert isinstance(error, (Lost, Unusable))


@pytest.mark.parametrize(("value", "wait_s"), [("7", 7.0), ("absurd", 86_400.0), ("none", None)])
async def test_retry_after_is_passed_on(peer: Peer, value: str, wait_s: float | None) -> None:
    """As it was told; what is too long is for the rules to say."""
    error = (await ask(peer.base_url, f"[[fault:rate_limit={value}]]")).error
    assert isinstance(error, RateLimited)
    assert error.retry_after_s == wait_s


async def test_a_connection_that_was_refused_never_left() -> None:
    """Nobody listens: nothing was sent, nothing can have been billed."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = (await ask(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")).error
    assert type(error) is Unreached
    assert error.code == "connection_failed"
    assert "127.0.0.1" in error.message


async def test_a_name_that_does_not_resolve_never_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most common way to be offline."""

    def resolve(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    error = (await ask("https://images.invalid/v1")).error
    assert type(error) is Unreached
    assert error.code == "connection_failed"


async def test_a_connection_that_is_never_made_times_out_and_never_left() -> None:
    """The time-out of connecting is its own, and says that nothing was sent."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:  # the queue of a listener that accepts nobody
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            await asyncio.sleep(0.05)
            timeouts = Timeouts(connect_s=0.2, first_byte_s=30.0, stall_s=30.0, total_s=30.0)
            error = (await ask(f"http://127.0.0.1:{full.getsockname()[1]}/v1", timeouts=timeouts)).error
        finally:
            for each in waiting:
                each.close()
    assert type(error) is Unreached
    assert error.code == "timeout_connect"


HEAD = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\nx-request-id: r\r\n\r\n{"data": ['
LONG = 30.0


@pytest.mark.parametrize(
    ("pieces", "timeouts", "code", "http_status", "words"),
    [
        ((LONG,), Timeouts(LONG, 0.15, LONG, LONG), "timeout_first_byte", None, "no answer within 0.15 s"),
        (
            (HEAD, LONG),
            Timeouts(LONG, LONG, 0.15, LONG),
            "timeout_stall",
            200,
            "stalled: nothing more came within 0.15",
        ),
        ((LONG,), Timeouts(LONG, LONG, LONG, 0.15), "timeout_total", None, "no whole answer within 0.15 s"),
        ((HEAD, LONG), Timeouts(LONG, LONG, LONG, 0.15), "timeout_total", 200, "no whole answer within 0.15 s"),
        ((HEAD, *([0.05, b" "] * 20)), Timeouts(LONG, LONG, 5.0, 0.3), "timeout_total", 200, "no whole answer"),
    ],
    ids=["first byte", "stall", "whole, nothing came", "whole, it stalled", "whole, it dripped"],
)
async def test_each_wait_has_its_own_time_out(
    pieces: tuple[bytes | float, ...], timeouts: Timeouts, code: str, http_status: int | None, words: str
) -> None:
    """Each is a lost request: it may have been billed. The message names the wait that was too long."""
    async with recording(*pieces) as server:
        error = (await ask(server.base_url, timeouts=timeouts)).error
    assert type(error) is Lost
    assert (error.code, error.http_status) == (code, http_status)
    assert words in error.message
    assert error.request_id == (None if http_status is None else "r")


async def test_an_answer_that_drips_is_no_stall() -> None:
    """Each byte starts the wait anew."""
    pieces = [piece for byte in answer(IMAGE)[-40:] for piece in (0.01, bytes([byte]))]
    async with recording(answer(IMAGE)[:-40], *pieces) as server:
        outcome = await ask(server.base_url, timeouts=Timeouts(LONG, LONG, 0.25, LONG))
    assert outcome.image == b"image"


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (answer(b"<html>" + b"x" * 2_000_000, content_type="text/html"), Unusable, "not_json"),
        (answer(b'{"a": "' + b"x" * 2_000_000 + b'"}'), Unusable, "answer_too_large"),
        (answer(b"no gzip", content_encoding="gzip"), Lost, "connection_cut"),
        (b"SMTP READY\r\n\r\n", Lost, "connection_cut"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", Lost, "connection_cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", Lost, "connection_cut"),
        (answer(b"no gzip", "500 Oops", content_encoding="gzip"), Lost, "connection_cut"),
        (answer(b"<html><title>Busy</title></html>", "503 Busy", content_type="text/html"), Retryable, "http_503"),
        (answer(b"[1, 2]", "400 No"), Refused, "http_400"),
        (answer(b"", "307 Elsewhere", location="https://example.invalid/"), StopRun, "http_307"),
        (answer(b'{"error": {"code": "moderation_blocked", "message": "no"}}'), Refused, "moderation_blocked"),
        (answer(b'{"error": {"code": "insufficient_quota", "message": "no"}}'), StopRun, "insufficient_quota"),
        (answer(b'{"error": "upstream is down"}'), Retryable, "http_500"),
        # With usage it was billed, whatever else it says.
        (answer(b'{"error": {"code": "moderation_blocked"}, "usage": ' + USAGE + b"}"), Unusable, "no_data"),
        (answer(b'{"data": [{"url": "https://[bad"}]}'), Unusable, "url_not_fetched"),
        (answer(b'{"data": [{"url": "http://example.invalid/a.png"}]}'), Unusable, "url_not_fetched"),
        (answer(b'{"data": [{"url": "file:///etc/passwd"}]}'), Unusable, "url_not_fetched"),
        (answer(b'{"data": [{"url": "https://127.0.0.1:1/a.png"}]}'), Unusable, "url_not_fetched"),
    ],
)
async def test_whatever_a_gateway_answers_is_an_error_of_ours(reply: bytes, kind: type[Exception], code: str) -> None:
    """Nothing but `ProviderError` comes out, so that one odd answer never ends a run by accident."""
    async with recording(reply, close=True) as server:
        error = (await ask(server.base_url)).error
    assert type(error) is kind
    assert error is not None
    assert error.code == code


async def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image answer is as long as that, whatever it says."""
    monkeypatch.setattr(wire_module, "MAX_ANSWER_BYTES", 100_000)
    async with recording(answer(b'{"data": [{"b64_json": "' + b"AAAA" * 50_000 + b'"}]}')) as server:
        error = (await ask(server.base_url)).error
    assert type(error) is Unusable
    assert error.code == "answer_too_large"


async def test_what_the_sink_raises_comes_through_as_it_is(peer: Peer) -> None:
    """A full disk is not the provider's fault."""
    endpoint = Endpoint.checked("openai", peer.base_url, KEY, insecure=False)
    async with connect(endpoint, QUICK, connections=1) as client:
        with pytest.raises(StoreError):
            await client.generate(
                ImageRequest("full", MODEL), model=MODEL, sink=Sink(1000), on_headers=lambda told: None
            )


# -- images behind a URL ------------------------------------------------------------------------


async def test_an_image_behind_a_url_is_fetched_without_the_key() -> None:
    """It is paid for. Whoever keeps it is not shown the key."""
    async with recording(answer(b"the image", content_type="image/png")) as shelf:
        url = shelf.base_url.removesuffix("/v1") + "/shelf/a.png"
        body = json.dumps({"data": [{"url": url}], "usage": {"input_tokens": 7, "output_tokens": 272}})
        async with recording(answer(body.encode())) as server:
            outcome = await ask(server.base_url)
    assert outcome.image == b"the image"
    assert outcome.usage_is_told
    assert [head.split("\r\n")[0] for head in shelf.heads] == ["GET /shelf/a.png HTTP/1.1"]
    assert KEY not in shelf.heads[0]
    assert len(server.bodies) == 1


async def test_an_image_on_another_machine_is_not_fetched_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody on the way could put another one in its place: not even a connection is made."""
    real = socket.getaddrinfo

    def resolve(host: str | None, *args: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host == "images.invalid" else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with recording(answer(b"the image", content_type="image/png")) as shelf:
        port = shelf.base_url.removesuffix("/v1").rpartition(":")[2]
        body = json.dumps({"data": [{"url": f"http://images.invalid:{port}/a.png"}]})
        async with recording(answer(body.encode())) as server:
            error = (await ask(server.base_url)).error
    assert isinstance(error, Unusable)
    assert error.code == "url_not_fetched"
    assert shelf.heads == []


@pytest.mark.parametrize("status", ["404 Gone", "302 Elsewhere"])
async def test_an_image_that_cannot_be_fetched_is_billed_all_the_same(status: str) -> None:
    """The usage that the answer told goes with the error."""
    async with recording(answer(b"", status, location="/other.png")) as shelf:
        url = shelf.base_url.removesuffix("/v1") + "/shelf/a.png"
        body = json.dumps({"data": [{"url": url}], "usage": {"input_tokens": 7, "output_tokens": 272}})
        async with recording(answer(body.encode(), x_request_id="r")) as server:
            outcome = await ask(server.base_url)
    assert isinstance(outcome.error, Unusable)
    assert (outcome.error.code, outcome.error.http_status, outcome.error.request_id) == ("url_not_fetched", 200, "r")
    assert outcome.usage_is_told
    assert len(shelf.heads) == 1


# -- keys and headers ---------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, ODD_KEY])
@pytest.mark.parametrize(
    "reply",
    [
        answer(f'{{"error": {{"message": "Incorrect API key: {k}.", "code": "invalid_api_key"}}}}'.encode(), status)
        for k in (KEY, ODD_KEY)
        for status in ("401 No", "500 No", "429 No", "200 OK")
    ]
    + [answer(f"{KEY} {ODD_KEY}".encode(), "502 No", "text/html"), answer(f"{KEY} {ODD_KEY}".encode()), b""],
)
async def test_the_key_is_in_no_error_and_in_no_log(caplog: pytest.LogCaptureFixture, key: str, reply: bytes) -> None:
    """Even where a gateway repeats it, and with everything logged that can be."""
    with caplog.at_level(logging.DEBUG):
        async with recording(reply, close=True) as server:
            error = (await ask(server.base_url, key=key)).error
    assert error is not None
    told = "".join(traceback.format_exception(error)) + repr(error) + str(error.args) + error.message
    assert key not in told
    assert caplog.text
    assert key not in caplog.text
    assert key not in repr(Endpoint("openai", server.base_url, key))


async def test_headers_of_good_and_bad_answers_are_passed_on() -> None:
    """Limits, what remains of them, and when they are whole again."""
    headers = {
        "x_ratelimit_limit_input_images": "5",
        "x_ratelimit_remaining_input_images": "0",
        "x_ratelimit_reset_input_images": "1m30s",
        "x_ratelimit_limit_tokens": "100000",
    }
    for reply in (answer(IMAGE, **headers), answer(b"{}", "429 Slower", **headers)):
        async with recording(reply) as server:
            heard = (await ask(server.base_url)).heard
        assert heard == [{"images": Heard(5.0, 0.0, 90.0), "tokens": Heard(100_000.0, None, None)}]


async def test_the_simulators_own_headers_are_understood() -> None:
    """What it says of its limits is what it was started with."""
    with running(art="flat", images_per_minute=5) as it:
        outcome = await ask(it.base_url)
    (told,) = outcome.heard
    assert (told["images"].limit, told["images"].remaining) == (5.0, 4.0)


# -- models and endpoints -----------------------------------------------------------------------


async def test_a_model_is_described(peer: Peer) -> None:
    """Its end as the provider tells it, and the provider's clock."""
    async with connect(Endpoint.checked("openai", peer.base_url, KEY, insecure=False), QUICK, connections=1) as client:
        info = await client.model(MODEL)
        assert (info.id, info.owned_by, info.shutdown_date) == (MODEL, "runner-simulator", "2026-12-01")
        assert info.server_time is not None
        assert abs(dt.datetime.now(dt.UTC) - info.server_time) < dt.timedelta(minutes=5)
        assert (await client.model("gpt-image-2.6-flare")).shutdown_date is None
        with pytest.raises(ModelGone):
            await client.model("gpt-image-0")


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (answer(b"<html></html>", content_type="text/html"), "bad_answer"),
        (answer(b"<html></html>"), "bad_answer"),
        (answer(b"[]"), "bad_answer"),
        (answer(b"{}"), "bad_answer"),
        (b"SMTP READY\r\n\r\n", "bad_answer"),
        (b"", "connection_cut"),
        (answer(b"", "401 No"), "invalid_api_key"),
    ],
)
async def test_a_description_that_cannot_be_read_is_an_error_of_ours(reply: bytes, code: str) -> None:
    """A gateway's page is no model."""
    async with recording(reply, close=True) as server:
        endpoint = Endpoint.checked("openai", server.base_url, KEY, insecure=False)
        async with connect(endpoint, QUICK, connections=1) as client:
            with pytest.raises(ProviderError) as caught:
                await client.model(MODEL)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("base_url", "word"),
    [
        ("api.openai.com/v1", "is not a base URL"),
        ("ftp://api.openai.com/v1", "is not a base URL"),
        ("https://", "is not a base URL"),
        ("https://[bad/v1", "is not a base URL"),
        ("https://host:99999/v1", "is not a base URL"),
        ("https://user:secret@host/v1", "carries a password"),
        ("https://user:secret@[bad/v1", "is not a base URL"),
        ("http://example.com/v1", "in the clear"),
        ("http://127.0.0.1.example.com/v1", "in the clear"),
    ],
)
def test_a_base_url_that_is_not_fit_to_carry_a_key_is_refused(base_url: str, word: str) -> None:
    """Before anything is sent, with what to do, and without repeating a password."""
    with pytest.raises(InputError) as caught:
        Endpoint.checked("openai", base_url, KEY, insecure=False)
    assert word in caught.value.message
    assert caught.value.hint
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url", ["http://localhost:1/v1", "http://127.0.0.9/v1", "http://[::1]:80/v1", "https://h/"]
)
def test_a_base_url_on_this_machine_may_be_plain(base_url: str) -> None:
    """Nothing crosses a network; elsewhere it takes https, or a person's word."""
    assert Endpoint.checked("openai", base_url, KEY, insecure=False).base_url == base_url.rstrip("/")
    assert Endpoint.checked("openai", "http://example.com/v1", KEY, insecure=True).base_url == "http://example.com/v1"
