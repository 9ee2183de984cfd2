"""What the client of the Batch API holds over real HTTP: what may have been created is never taken for what was not,
files stream both ways and go on where they broke off, whatever is answered is an error of ours, and no key is told."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import traceback
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import anyio
import pytest

from runner.errors import (
    Expired,
    Lost,
    ProviderError,
    RateLimited,
    Refused,
    Retryable,
    StopRun,
    StoreError,
    Unusable,
)
from runner.provider import Timeouts
from runner.provider.batches import Batches
from tests.edges.batch_server import (
    USAGE,
    Asked,
    Fetched,
    Handle,
    Reply,
    client_of,
    fetch,
    http,
    image_line,
    refusal,
    serving,
    told,
)
from tests.edges.provider_support import KEY, ODD_KEY, QUICK, Sink

pytestmark = pytest.mark.anyio

FILE: dict[str, Any] = {"id": "file-1", "object": "file", "bytes": 5, "filename": "a.jsonl", "created_at": 7}
BATCH: dict[str, Any] = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/images/generations",
    "input_file_id": "file-in",
    "completion_window": "24h",
    "status": "validating",
    "created_at": 1_763_800_000,
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "metadata": {"runner_batch": "token"},
}
HASTY = Timeouts(connect_s=5.0, first_byte_s=0.5, stall_s=0.5, total_s=5.0)
PAGE = http(b"<html><title>404 Not Found</title></html>", "404 Not Found", "text/html")


def always(reply: Reply) -> Handle:
    return lambda asked: reply


def patience(reply: Reply) -> Timeouts:
    """Little where the server is to be waited for in vain, else enough for any machine."""
    return QUICK if isinstance(reply, bytes) or not any(isinstance(piece, float) for piece in reply) else HASTY


# -- upload ------------------------------------------------------------------------------------


@pytest.fixture
def lines_file(tmp_path: Path) -> Path:
    path = tmp_path / "private name.jsonl"
    path.write_bytes(b'{"custom_id": "1"}\n' * 1000)
    return path


async def upload(batches: Batches, path: Path, **more: Any) -> Any:
    return await batches.upload(path, filename="batch-1.jsonl", purpose="batch", media_type="application/jsonl", **more)


def form(asked: Asked) -> dict[str, Message]:
    """The parts of a form, by their names."""
    raw = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode() + asked.body
    message = BytesParser().parsebytes(raw)
    return {
        str(part.get_param("name", header="content-disposition")): part
        for part in message.walk()
        if part.get_payload(decode=True) is not None
    }


async def test_a_file_is_sent_as_it_is(lines_file: Path) -> None:
    """Its bytes, its purpose, and the name that it is given: what it is called here is nobody else's business."""
    async with serving(always(told({**FILE, "expires_at": 9}))) as server, client_of(server.base_url) as batches:
        found = await upload(batches, lines_file, expires_after_s=3600)
    assert (found.id, found.bytes, found.filename, found.created_at, found.expires_at) == ("file-1", 5, "a.jsonl", 7, 9)
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.headers["authorization"]) == ("POST", "/v1/files", f"Bearer {KEY}")
    parts = form(asked)
    assert parts["file"].get_payload(decode=True) == lines_file.read_bytes()
    assert (parts["file"].get_filename(), parts["file"].get_content_type()) == ("batch-1.jsonl", "application/jsonl")
    fields = {name: part.get_payload(decode=True) for name, part in parts.items() if name != "file"}
    assert fields == {
        "purpose": b"batch",
        "expires_after[anchor]": b"created_at",
        "expires_after[seconds]": b"3600",
    }


async def test_a_file_is_not_in_memory_while_it_leaves(tmp_path: Path) -> None:
    """Two hundred megabytes are allowed: a piece of them is held."""
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(60_000_000)
    async with serving(always(told(FILE)), forgetful=True) as server, client_of(server.base_url) as batches:
        tracemalloc.start()
        try:
            assert (await upload(batches, path)).id == "file-1"
            assert tracemalloc.get_traced_memory()[1] < 6_000_000
        finally:
            tracemalloc.stop()


async def test_a_file_that_was_not_sent_to_its_end_is_not_there(tmp_path: Path) -> None:
    """Whatever a server says that has not seen all of it."""
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(30_000_000)
    async with serving(always(told(FILE)), most_body_bytes=1000) as server, client_of(server.base_url) as batches:
        with pytest.raises(Retryable) as caught:
            await upload(batches, path)
    assert caught.value.code == "upload_cut"


async def test_a_file_that_is_not_there_is_an_error_of_the_store(tmp_path: Path, lines_file: Path) -> None:
    """Nothing is asked of the provider: no other try would help."""
    async with serving(always(told(FILE))) as server, client_of(server.base_url) as batches:
        with pytest.raises(StoreError, match="cannot be read") as caught:
            await upload(batches, tmp_path / "none.jsonl")
    assert caught.value.hint
    assert server.asked == []


async def test_a_file_that_shrinks_while_it_leaves_is_an_error_of_the_store(
    lines_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not what was put on record, and must not be taken for it."""

    class Longer:
        st_size = 10_000_000

    async with serving(always(told(FILE))) as server, client_of(server.base_url) as batches:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "stat", lambda self, **_: Longer)
            with pytest.raises(StoreError, match="changed while it was sent"):
                await upload(batches, lines_file)


UPLOADS: list[tuple[Reply, type[ProviderError], str]] = [
    (b"", Retryable, "connection_cut"),
    (told(FILE)[:-5], Retryable, "bad_answer"),
    (http(b"{}"), Retryable, "bad_answer"),
    (http(b"nonsense"), Retryable, "bad_answer"),
    (told({**FILE, "id": 5}), Retryable, "bad_answer"),
    (refusal(429, "rate_limit_exceeded", retry_after="2"), RateLimited, "rate_limit_exceeded"),
    (refusal(400, "invalid_file"), Refused, "invalid_file"),
    (refusal(401, "invalid_api_key"), StopRun, "invalid_api_key"),
    (refusal(404, None, "not found"), StopRun, "http_404"),
    (refusal(500), Retryable, "http_500"),
    (http(b"", "504 Gone"), Retryable, "http_504"),
    (http(b"", "302 Elsewhere", location="/v1/x"), StopRun, "http_302"),
    (b"HTTP/1.1 nonsense\r\n\r\n", Retryable, "bad_answer"),
    ([20.0], Retryable, "timeout_first_byte"),
    ([told(FILE)[:-5], 20.0], Retryable, "timeout_stall"),
]


@pytest.mark.parametrize(("reply", "kind", "code"), UPLOADS)
async def test_an_upload_that_fails_may_be_repeated(
    reply: Reply, kind: type[Exception], code: str, lines_file: Path
) -> None:
    """A second copy of a file costs nothing, so that nothing of it is ever a doubt."""
    async with serving(always(reply)) as server, client_of(server.base_url, timeouts=patience(reply)) as batches:
        with pytest.raises(ProviderError) as caught:
            await upload(batches, lines_file)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert len(server.asked) == 1


async def test_the_wait_for_an_answer_begins_when_the_file_has_left(lines_file: Path) -> None:
    """Sending takes longer than an answer may, and than a whole answer may: nothing of it is counted."""
    with lines_file.open("wb") as file:
        file.truncate(48_000_000)
    timeouts = Timeouts(connect_s=5.0, first_byte_s=1.0, stall_s=5.0, total_s=0.5)
    slow = serving(always(told(FILE)), forgetful=True, pauses=5)
    async with slow as server, client_of(server.base_url, timeouts=timeouts) as batches:
        assert (await upload(batches, lines_file)).id == "file-1"


async def test_a_server_that_takes_nothing_any_more_is_given_up(lines_file: Path) -> None:
    """What has not left cannot be answered."""
    with lines_file.open("wb") as file:
        file.truncate(30_000_000)
    async with (
        serving(always([20.0]), most_body_bytes=1000) as server,
        client_of(server.base_url, timeouts=HASTY) as batches,
    ):
        with pytest.raises(Retryable) as caught:
            await upload(batches, lines_file)
    assert caught.value.code == "upload_stalled"


# -- list, look, delete, cancel ----------------------------------------------------------------


async def test_files_come_page_by_page() -> None:
    """Newest first, of one purpose, whatever a server thinks of the filter."""
    pages = [
        {"data": [{**FILE, "id": f"file-{n}", "purpose": "vision"} for n in (5, 4)], "has_more": True},
        {
            "data": [{**FILE, "id": "file-3", "purpose": "batch"}, {"bytes": 5}, {**FILE, "id": "file-2"}],
            "has_more": True,
        },
        {"data": [], "has_more": False},
    ]
    async with (
        serving(lambda asked: told(pages[len(server.asked) - 1])) as server,
        client_of(server.base_url) as batches,
    ):
        found = [each.id async for each in batches.files("vision")]
    assert found == ["file-5", "file-4", "file-2"]
    assert [asked.query.get("after") for asked in server.asked] == [None, "file-4", "file-2"]
    assert {(asked.path, asked.query["purpose"], asked.query["order"]) for asked in server.asked} == {
        ("/v1/files", "vision", "desc")
    }


async def test_batches_come_page_by_page() -> None:
    """All of them, until the list says that it is over."""
    ids = [f"batch_{n}" for n in range(7)]

    def page(asked: Asked) -> Reply:
        start = ids.index(asked.query["after"]) + 1 if "after" in asked.query else 0
        return told(
            {"data": [{**BATCH, "id": each} for each in ids[start : start + 3]], "has_more": start + 3 < len(ids)}
        )

    async with serving(page) as server, client_of(server.base_url) as batches:
        found = [each async for each in batches.batches()]
    assert [each.id for each in found] == ids
    assert found[0].metadata == {"runner_batch": "token"}
    assert len(server.asked) == 3


async def test_a_list_without_a_word_on_more_is_asked_until_nothing_is_new() -> None:
    """Some servers send everything at once, and again whatever is asked."""
    everything = told({"data": [{**BATCH, "id": each} for each in ("batch_1", "batch_2")]})
    async with serving(always(everything)) as server, client_of(server.base_url) as batches:
        assert [each.id async for each in batches.batches()] == ["batch_1", "batch_2"]
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (told({"data": [BATCH], "has_more": True}), Retryable),
        (told({"data": None}), Retryable),
        (told({"data": [5]}), Retryable),
        (told([]), Retryable),
        (told({"data": [{**BATCH, "id": None}]}), Retryable),
        (told({"data": [{**BATCH, "status": 5}]}), Retryable),
        (http(b"", "204 Nothing"), Retryable),
        (refusal(404, None, "Not Found"), StopRun),
        (PAGE, StopRun),
        (refusal(500), Retryable),
        (b"", Retryable),
    ],
)
async def test_a_list_that_cannot_be_read_to_its_end_is_never_an_empty_one(
    reply: Reply, kind: type[ProviderError]
) -> None:
    """Law 3: a batch is looked for in it, and what is not found is submitted again."""
    async with serving(always(reply)) as server, client_of(server.base_url) as batches:
        with pytest.raises(kind):
            assert [each.id async for each in batches.batches()] == [BATCH["id"]]


async def test_a_batch_is_looked_at() -> None:
    """By its id, as it is told."""
    async with (
        serving(always(told({**BATCH, "status": "completed", "output_file_id": "file-out"}))) as server,
        client_of(server.base_url) as batches,
    ):
        found = await batches.retrieve("batch_1")
    assert found is not None
    assert (found.id, found.status, found.output_file_id) == ("batch_1", "completed", "file-out")
    assert (server.asked[0].method, server.asked[0].path) == ("GET", "/v1/batches/batch_1")


Call = Callable[[Batches], Awaitable[Any]]
LOOKS: dict[str, Call] = {
    "retrieve": lambda batches: batches.retrieve("batch_1"),
    "cancel": lambda batches: batches.cancel("batch_1"),
    "delete": lambda batches: batches.delete("file-1"),
}


@pytest.mark.parametrize("what", LOOKS)
async def test_what_the_provider_does_not_know_is_no_error(what: str) -> None:
    """None, or False: in the API's own words."""
    async with (
        serving(always(refusal(404, None, "No batch found with id 'batch_1'."))) as server,
        client_of(server.base_url) as batches,
    ):
        assert not await LOOKS[what](batches)


LOOKED: list[tuple[Reply, type[ProviderError], str]] = [
    (PAGE, StopRun, "http_404"),
    (told({"detail": "Not Found"}, "404 Not Found"), StopRun, "http_404"),
    (refusal(404, None, "Invalid URL (GET /v1/x)"), StopRun, "http_404"),
    (refusal(404, "model_not_found"), StopRun, "model_not_found"),
    (refusal(401, "invalid_api_key"), StopRun, "invalid_api_key"),
    (refusal(429), RateLimited, "rate_limit_exceeded"),
    (refusal(503), Retryable, "http_503"),
    (http(b"", "504 Late"), Retryable, "http_504"),
    (http(b"{"), Retryable, "bad_answer"),
    (http(b"[" * 100_000), Retryable, "bad_answer"),
    (b"", Retryable, "connection_cut"),
    ([20.0], Retryable, "timeout_first_byte"),
]


@pytest.mark.parametrize("what", LOOKS)
@pytest.mark.parametrize(("reply", "kind", "code"), LOOKED)
async def test_a_question_that_fails_may_be_repeated(
    what: str, reply: Reply, kind: type[ProviderError], code: str
) -> None:
    """A 404 that is none of the API's own says nothing of a batch: then there is no such API."""
    async with serving(always(reply)) as server, client_of(server.base_url, timeouts=patience(reply)) as batches:
        with pytest.raises(kind) as caught:
            await LOOKS[what](batches)
    assert caught.value.code == code
    # What changes nothing when it is repeated is asked once more by aiohttp, where nothing at all was answered.
    assert len(server.asked) == (2 if reply == b"" and what != "cancel" else 1)


async def test_a_file_is_deleted() -> None:
    """True once, and by the method that does it."""
    async with (
        serving(always(told({"id": "file-1", "object": "file", "deleted": True}))) as server,
        client_of(server.base_url) as batches,
    ):
        assert await batches.delete("file-1") is True
    assert (server.asked[0].method, server.asked[0].path) == ("DELETE", "/v1/files/file-1")
    async with serving(always(told({"deleted": False}))) as server, client_of(server.base_url) as batches:
        assert await batches.delete("file-1") is False


@pytest.mark.parametrize("status", [400, 409])
async def test_the_end_of_a_batch_that_is_over_is_refused(status: int) -> None:
    """To ask again would not help."""
    async with (
        serving(always(refusal(status, None, "it is completed"))) as server,
        client_of(server.base_url) as batches,
    ):
        with pytest.raises(Refused, match="completed"):
            await batches.cancel("batch_1")
    async with (
        serving(always(told({**BATCH, "status": "cancelling"}))) as server,
        client_of(server.base_url) as batches,
    ):
        found = await batches.cancel("batch_1")
    assert found is not None
    assert (found.status, server.asked[0].method, server.asked[0].path) == (
        "cancelling",
        "POST",
        "/v1/batches/batch_1/cancel",
    )


# -- create ------------------------------------------------------------------------------------


async def create(batches: Batches) -> Any:
    return await batches.create(
        input_file_id="file-in", endpoint="/v1/images/edits", metadata={"runner_batch": "token", "job": "night"}
    )


async def test_a_batch_is_created_with_what_it_is_found_by() -> None:
    """Its file, its endpoint, its window, its token."""
    async with serving(always(told(BATCH))) as server, client_of(server.base_url) as batches:
        found = await create(batches)
    assert (found.id, found.status, found.metadata) == ("batch_1", "validating", {"runner_batch": "token"})
    assert (server.asked[0].method, server.asked[0].path) == ("POST", "/v1/batches")
    assert server.asked[0].json == {
        "input_file_id": "file-in",
        "endpoint": "/v1/images/edits",
        "completion_window": "24h",
        "metadata": {"runner_batch": "token", "job": "night"},
    }


CREATED: list[tuple[Reply, type[ProviderError], str]] = [
    # What may have been created.
    (b"", Lost, "connection_cut"),
    ([told(BATCH)[:40]], Lost, "connection_cut"),
    (told(BATCH)[:-5], Lost, "bad_answer"),
    (http(b"nonsense"), Lost, "bad_answer"),
    (http(b"{}"), Lost, "bad_answer"),
    (told({**BATCH, "status": None}), Lost, "bad_answer"),
    (refusal(500), Lost, "http_500"),
    (refusal(503, "rate_limit_exceeded"), Lost, "rate_limit_exceeded"),
    (http(b"<html>", "502 Bad", "text/html"), Lost, "http_502"),
    (http(b"", "504 Late"), Lost, "http_504"),
    (http(b"", "408 Late"), Lost, "http_408"),
    ([20.0], Lost, "timeout_first_byte"),
    ([told(BATCH)[:-5], 20.0], Lost, "timeout_stall"),
    # What certainly was not.
    (refusal(429, "rate_limit_exceeded", retry_after="2"), RateLimited, "rate_limit_exceeded"),
    (refusal(429, "token_limit_exceeded"), RateLimited, "token_limit_exceeded"),
    (refusal(429, "insufficient_quota"), StopRun, "insufficient_quota"),
    (refusal(400, "token_limit_exceeded", "Enqueued token limit reached"), Refused, "token_limit_exceeded"),
    (refusal(400, "billing_hard_limit_reached"), StopRun, "billing_hard_limit_reached"),
    (refusal(400, "invalid_file"), Refused, "invalid_file"),
    (refusal(409), Retryable, "http_409"),
    (refusal(401, "invalid_api_key"), StopRun, "invalid_api_key"),
    (refusal(403), StopRun, "forbidden"),
    (PAGE, StopRun, "http_404"),
    (http(b"", "307 Elsewhere", location="/v1/batches"), StopRun, "http_307"),
]


@pytest.mark.parametrize(("reply", "kind", "code"), CREATED)
async def test_what_may_have_been_created_is_lost_and_nothing_else(
    reply: Reply, kind: type[ProviderError], code: str
) -> None:
    """Law 3: a batch that exists must be looked for, and one that does not may be created again. One request each."""
    async with serving(always(reply)) as server, client_of(server.base_url, timeouts=patience(reply)) as batches:
        with pytest.raises(ProviderError) as caught:
            await create(batches)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert len(server.asked) == 1


async def test_a_file_that_is_gone_is_refused_at_the_create() -> None:
    """In the API's words for what it does not know; nothing was created."""
    async with (
        serving(always(refusal(404, None, "No such File object: file-in"))) as server,
        client_of(server.base_url) as batches,
    ):
        with pytest.raises(Refused, match="No such File"):
            await create(batches)


@pytest.mark.parametrize("call", [create, *LOOKS.values()])
async def test_what_never_left_is_no_doubt(call: Call) -> None:
    """Nobody listens: it was certainly not created."""
    async with client_of("http://127.0.0.1:1/v1") as batches:
        with pytest.raises(Retryable) as caught:
            await call(batches)
    assert caught.value.code == "connection_failed"


# -- lines -------------------------------------------------------------------------------------


IMAGES = {f"{n}-abc": os.urandom(50_000 + n) for n in range(4)}
PARTS = [image_line(name, image) for name, image in IMAGES.items()]
OUTPUT = b"".join(PARTS)


async def read_file(handle: Handle, *, timeouts: Timeouts = QUICK, key: str = KEY, **settings: Any) -> Fetched:
    async with serving(handle) as server, client_of(server.base_url, timeouts=timeouts, key=key) as batches:
        fetched = await fetch(batches, **settings)
    fetched_asked[:] = server.asked
    return fetched


fetched_asked: list[Asked] = []
"""What the server of the last `read_file` was asked."""


def ranged(asked: Asked) -> Reply:
    """A server that knows ranges."""
    start = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-")) if "range" in asked.headers else 0
    if start >= len(OUTPUT):
        return http(b"", "416 Range Not Satisfiable", content_range=f"bytes */{len(OUTPUT)}")
    if not start:
        return http(OUTPUT, content_type="application/octet-stream")
    return http(OUTPUT[start:], "206 Partial", content_range=f"bytes {start}-{len(OUTPUT) - 1}/{len(OUTPUT)}")


async def test_a_file_is_its_lines() -> None:
    """Every image byte for byte, with its usage, whose it is, and where the next one begins."""
    fetched = await read_file(ranged)
    assert fetched.error is None
    assert fetched.images == IMAGES
    assert [line.end_bytes for line in fetched.lines] == [len(b"".join(PARTS[: n + 1])) for n in range(4)]
    assert all(line.made is not None and line.made.envelope.usage is not None for line in fetched.lines)
    (asked,) = fetched_asked
    assert (asked.method, asked.path) == ("GET", "/v1/files/file-out/content")
    assert asked.headers["accept-encoding"] == "identity"
    assert "range" not in asked.headers


@pytest.mark.parametrize("done", [1, 3])
async def test_reading_goes_on_where_it_was(done: int) -> None:
    """Only what is missing is sent, where the server knows ranges; else what comes before is dropped unread."""
    start = len(b"".join(PARTS[:done]))
    for handle in (ranged, always(http(OUTPUT))):
        fetched = await read_file(handle, start_bytes=start)
        assert fetched.error is None
        assert fetched.names == fetched.asked_for == list(IMAGES)[done:]
        assert fetched.images == dict(list(IMAGES.items())[done:])
        assert fetched.lines[-1].end_bytes == len(OUTPUT)
        assert fetched_asked[0].headers["range"] == f"bytes={start}-"


async def test_at_the_end_there_is_nothing_more() -> None:
    """Whether the server says so, or sends all of it again."""
    for handle in (ranged, always(http(OUTPUT))):
        fetched = await read_file(handle, start_bytes=len(OUTPUT))
        assert (fetched.lines, fetched.error) == ([], None)
    fetched = await read_file(always(http(b"")))
    assert (fetched.lines, fetched.error) == ([], None)
    # Without a range the answer makes no sense.
    fetched = await read_file(always(refusal(416)))
    assert type(fetched.error) is Refused


@pytest.mark.parametrize(
    "headers",
    [{"content_range": "bytes 5-9/10"}, {"content_range": "nonsense"}, {}, {"content_encoding": "gzip"}],
)
async def test_a_part_that_is_not_the_one_that_was_asked_for_is_not_taken(headers: dict[str, str]) -> None:
    """The whole file is asked for instead, and its beginning dropped."""
    start = len(PARTS[0])

    def handle(asked: Asked) -> Reply:
        if "range" not in asked.headers:
            return http(OUTPUT)
        return http(OUTPUT[start:], "206 Partial", **{"content_range": f"bytes {start}-/x", **headers})

    if not headers:
        plain = handle
        handle = lambda asked: http(OUTPUT[start:], "206 Partial") if "range" in asked.headers else plain(asked)  # noqa: E731 - one more answer of the same server
    fetched = await read_file(handle, start_bytes=start)
    assert fetched.error is None
    assert fetched.images == dict(list(IMAGES.items())[1:])
    assert len(fetched_asked) == 2
    fetched = await read_file(always(http(OUTPUT, "206 Partial")), start_bytes=start)
    assert isinstance(fetched.error, Retryable)


@pytest.mark.parametrize("start", [0, len(PARTS[0])])
async def test_a_compressed_file_is_unpacked(start: int) -> None:
    """Places in it are those of what it says, not of what is sent."""
    fetched = await read_file(always(http(gzip.compress(OUTPUT), content_encoding="gzip")), start_bytes=start)
    assert fetched.error is None
    assert fetched.images == dict(list(IMAGES.items())[1 if start else 0 :])
    assert fetched.lines[-1].end_bytes == len(OUTPUT)
    fetched = await read_file(always(http(gzip.compress(OUTPUT)[:-30_000], content_encoding="gzip")), start_bytes=start)
    assert isinstance(fetched.error, Retryable)
    assert fetched.names == list(IMAGES)[1 if start else 0 : 3]
    fetched = await read_file(always(http(b"nonsense", content_encoding="gzip")), start_bytes=start)
    assert isinstance(fetched.error, Retryable)


CUT = len(b"".join(PARTS[:2])) + 30_000
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: x/y\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (http(OUTPUT)[: len(http(OUTPUT)) - len(OUTPUT) + CUT], "connection_cut"),
        ([http(OUTPUT)[: len(http(OUTPUT)) - len(OUTPUT) + CUT], 20.0], "timeout_stall"),
        ([ENDLESS + OUTPUT[:CUT]], "truncated_file"),
        ([ENDLESS + OUTPUT[:CUT], 20.0], "timeout_stall"),
    ],
)
async def test_a_file_that_breaks_off_leaves_what_came_whole(reply: Reply, code: str) -> None:
    """What was yielded stays true, and the rest is read from there."""
    fetched = await read_file(always(reply), timeouts=patience(reply))
    assert isinstance(fetched.error, Retryable)
    assert fetched.error.code == code
    assert fetched.images == dict(list(IMAGES.items())[:2])
    rest = await read_file(ranged, start_bytes=fetched.lines[-1].end_bytes)
    assert {**fetched.images, **rest.images} == IMAGES


async def test_a_last_line_without_its_line_break_counts() -> None:
    """It is whole JSON, so that nothing of it is missing."""
    fetched = await read_file(always([ENDLESS + OUTPUT[:-1]]))
    assert (fetched.error, fetched.images) == (None, IMAGES)
    assert fetched.lines[-1].end_bytes == len(OUTPUT) - 1


async def test_a_slow_reader_is_no_stall() -> None:
    """Only the waiting for the server is timed: between two lines there may be hours. The whole has no limit."""
    names: list[str | None] = []
    pauses = [piece for part in PARTS for piece in (part, 0.05)]
    timeouts = Timeouts(connect_s=5.0, first_byte_s=5.0, stall_s=1.5, total_s=0.1)
    async with serving(always([ENDLESS, *pauses])) as server, client_of(server.base_url, timeouts=timeouts) as batches:
        async for line in batches.lines("file-out", start_bytes=0, open_sink=lambda _: Sink()):
            names.append(line.custom_id)
            if len(names) == 2:
                await anyio.sleep(2.0)
    assert names == list(IMAGES)


FAILED: list[tuple[Reply, type[ProviderError], str]] = [
    (refusal(404, None, "No such File object: file-out"), Expired, "file_gone"),
    (PAGE, StopRun, "http_404"),
    (refusal(401, "invalid_api_key"), StopRun, "invalid_api_key"),
    (refusal(429), RateLimited, "rate_limit_exceeded"),
    (refusal(500), Retryable, "http_500"),
    (http(b"", "504 Late"), Retryable, "http_504"),
    (http(b"", "204 Nothing"), Retryable, "file_not_fetched"),
    (http(b"<html>please log in</html>", content_type="text/html; charset=utf-8"), Retryable, "file_not_fetched"),
    (b"", Retryable, "connection_cut"),
    ([20.0], Retryable, "timeout_first_byte"),
    (http(b"", "302 Elsewhere"), StopRun, "http_302"),
    (http(b"", "302 Elsewhere", location="http://files.invalid/x"), StopRun, "http_302"),
    (http(b"", "302 Elsewhere", location="file:///etc/passwd"), StopRun, "http_302"),
    (http(b"", "302 Elsewhere", location="/v1/files/file-out/content"), StopRun, "http_302"),
    (http(b"", "302 Elsewhere", location="https://127.0.0.1:1/x"), Retryable, "file_not_fetched"),
]


@pytest.mark.parametrize(("reply", "kind", "code"), FAILED)
async def test_a_file_that_cannot_be_had_is_an_error_of_ours(
    reply: Reply, kind: type[ProviderError], code: str
) -> None:
    """Gone is what the API says is gone; everything else can be asked again, or ends the run."""
    fetched = await read_file(always(reply), timeouts=patience(reply))
    assert (type(fetched.error), fetched.lines) == (kind, [])
    assert fetched.error is not None
    assert fetched.error.code == code


async def test_nobody_listens() -> None:
    """It never left."""
    async with client_of("http://127.0.0.1:1/v1") as batches:
        assert getattr((await fetch(batches)).error, "code", None) == "connection_failed"


async def test_a_redirect_is_followed_and_the_key_stays_at_home() -> None:
    """Files may lie at another server: it gets the range, and no key."""
    async with serving(ranged) as other:
        far = f"{other.base_url}/elsewhere?signature=1"

        def handle(asked: Asked) -> Reply:
            if asked.path == "/v1/near":
                return http(b"", "307 Elsewhere", location=far)
            return http(b"", "302 Elsewhere", location="/v1/near")

        fetched = await read_file(handle, start_bytes=len(PARTS[0]))
        near = list(fetched_asked)
    assert fetched.images == dict(list(IMAGES.items())[1:])
    assert [asked.headers.get("authorization") for asked in near] == [f"Bearer {KEY}"] * 2
    (asked,) = other.asked
    assert "authorization" not in asked.headers
    assert asked.headers["range"] == f"bytes={len(PARTS[0])}-"


async def test_an_unwanted_image_is_read_over() -> None:
    """What is on disk already is not written again; its line is told all the same."""
    fetched = await read_file(ranged, unwanted=["1-abc"])
    assert fetched.names == list(IMAGES)
    assert fetched.images == {name: image for name, image in IMAGES.items() if name != "1-abc"}
    line = fetched.lines[1]
    assert line.made is not None
    assert (line.sink, line.error, line.made.envelope.image_bytes) == (None, None, 0)
    assert line.made.envelope.usage is not None


@pytest.mark.parametrize("there", [True, False])
async def test_an_image_that_lies_elsewhere_is_fetched(there: bool) -> None:
    """It is paid for, as online; where it cannot be had, what it cost is known."""

    def handle(asked: Asked) -> Reply:
        if asked.path.endswith(".png"):
            assert "authorization" not in asked.headers
            return http(b"image") if there else http(b"", "404 Gone")
        body = {"data": [{"url": f"http://{asked.headers['host']}/a.png"}], "usage": USAGE}
        line = {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
        return http(json.dumps(line).encode() + b"\n" + PARTS[0])

    fetched = await read_file(handle)
    assert fetched.names == fetched.asked_for == ["a", "0-abc"]
    assert fetched.images == ({"a": b"image"} if there else {}) | {"0-abc": IMAGES["0-abc"]}
    error = fetched.lines[0].error
    if not there:
        assert isinstance(error, Unusable)
        assert error.code == "url_not_fetched"
        assert error.usage is not None
    fetched = await read_file(handle, unwanted=["a"])
    assert fetched.lines[0].made is not None
    assert not any(asked.path.endswith(".png") for asked in fetched_asked)


@pytest.mark.parametrize("kind", [StoreError, OSError, ValueError])
async def test_what_a_sink_raises_comes_through_as_it_is(kind: type[Exception]) -> None:
    """A full disk is not the provider's fault: from the sink, from whoever opens it, and where it is fetched for."""

    class Full:
        def write(self, data: bytes, /) -> object:
            raise kind("no space left")

    def refuse(custom_id: str | None) -> Sink:
        raise kind("no space left")

    def elsewhere(asked: Asked) -> Reply:
        if asked.path.endswith(".png"):
            return http(b"image")
        body = {"data": [{"url": f"http://{asked.headers['host']}/a.png"}]}
        return told({"custom_id": "a", "response": {"status_code": 200, "body": body}})

    for handle in (ranged, elsewhere):
        for open_sink in (lambda _: Full(), refuse):
            async with serving(handle) as server, client_of(server.base_url) as batches:
                with pytest.raises(kind, match="no space left"):
                    async for _ in batches.lines("file-out", start_bytes=0, open_sink=open_sink):
                        pass


async def test_a_reader_may_leave_early() -> None:
    """The connection is given back, and the next question is answered."""
    async with serving(ranged) as server, client_of(server.base_url) as batches:
        for _ in range(10):
            async with aclosing(batches.lines("file-out", start_bytes=0, open_sink=lambda _: Sink())) as found:
                assert (await anext(found)).custom_id == "0-abc"
        assert (await fetch(batches)).images == IMAGES


_CHILD = """
import asyncio, os, resource, sys
from tests.edges.batch_server import client_of, image_line, serving
LINES, BYTES = 200, 3_000_000
line = image_line("1-abc", os.urandom(BYTES))
head = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % (LINES * len(line))
pieces = [line[at : at + 65536] for at in range(0, len(line), 65536)]

class Counter:
    taken = 0
    def write(self, data, /):
        Counter.taken += len(data)

async def main():
    found = 0
    async with serving(lambda asked: [head, *(pieces * LINES)]) as server, client_of(server.base_url) as batches:
        async for each in batches.lines("file-out", start_bytes=0, open_sink=lambda _: Counter()):
            found += each.made is not None
            if found == 1:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(found, Counter.taken == LINES * BYTES, (after - before) * 1024)

asyncio.run(main())
"""


def test_memory_does_not_grow_with_the_lines() -> None:
    """Law 8: two hundred images of 3 MB in one file; what is held is a piece of one."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found, whole, grown_bytes = done.stdout.split()
    assert (found, whole) == ("200", "True")
    assert int(grown_bytes) < 4_000_000


# -- the key -----------------------------------------------------------------------------------


def everywhere(key: str) -> dict[str, bytes]:
    """Every place of an answer that has room for a text."""
    error = {"message": f"The key {key} is bad.", "type": key, "code": key}
    batch = {
        **BATCH,
        "id": f"batch_{key}",
        "endpoint": key,
        "input_file_id": key,
        "output_file_id": key,
        "error_file_id": key,
        "metadata": {key: f"x {key}", "job": key},
        "errors": {"data": [{"code": key, "message": key, "line": 1}]},
    }
    image = {"data": [{"b64_json": "aW1hZ2U="}], "size": key, "quality": key, "usage": {**USAGE, "note": key}}
    response = {"status_code": 200, "request_id": key, "body": image}
    lines = [
        {"custom_id": key, "response": response, "error": None},
        {"custom_id": "b", "response": {"status_code": 400, "request_id": key, "body": {"error": error}}},
        {"custom_id": "c", "response": None, "error": {"code": "batch_expired", "message": key}},
        {"custom_id": "d", "response": {"status_code": 200, "body": {"data": [{"b64_json": key + "*"}]}}},
        {"custom_id": "e", key: key},
    ]
    content = b"".join(json.dumps(each).encode() + b"\n" for each in lines) + key.encode() + b"\n"
    return {
        "an error": told({"error": error}, "400 No", x_request_id=key),
        "a lost error": told({"error": error}, "500 No", x_request_id=key),
        "no such": told({"error": error}, "404 No", x_request_id=key),
        "a page": http(f"<title>{key}</title>".encode(), "502 No", "text/html"),
        "a batch": told({**batch, "status": key}, x_request_id=key),
        "a file": told({**FILE, "id": key, "filename": key}),
        "a list": told({"data": [{**batch, "purpose": "batch", "filename": key}], "has_more": False}),
        "nonsense": http(key.encode()),
        "lines": http(content, x_request_id=key),
        "no encoding": http(content, content_encoding=key),
        "a redirect": http(b"", "302 No", location=f"https://127.0.0.1:1/{key}"),
        "a bad redirect": http(b"", "302 No", location=f"http://{key}.invalid/"),
    }


@pytest.mark.parametrize("key", [KEY, ODD_KEY])
@pytest.mark.parametrize("place", everywhere(KEY))
async def test_the_key_is_nowhere(place: str, key: str, lines_file: Path, tmp_path: Path) -> None:
    """Not in what is returned, in no error, in no traceback, and not in what a sink is opened for."""
    names: list[str | None] = []

    def open_sink(custom_id: str | None) -> Sink:
        names.append(custom_id)
        return Sink()

    async def lines(batches: Batches) -> Any:
        return [line async for line in batches.lines("file-out", start_bytes=0, open_sink=open_sink)]

    async def files(batches: Batches) -> Any:
        return [each async for each in batches.files("batch")]

    async def listed(batches: Batches) -> Any:
        return [each async for each in batches.batches()]

    calls: list[Call] = [create, *LOOKS.values(), lines, files, listed, lambda batches: upload(batches, lines_file)]
    said: list[str] = []
    async with serving(always(everywhere(key)[place])) as server, client_of(server.base_url, key=key) as batches:
        for call in calls:
            try:
                found = await call(batches)
            except ProviderError as error:
                said.append("".join(traceback.format_exception(error)) + repr(vars(error)))
            else:
                errors = [each.error for each in found if hasattr(each, "error")] if isinstance(found, list) else []
                said.append(repr(found) + repr([(str(error), vars(error)) for error in errors if error is not None]))
    text = "\n".join([*said, *map(str, names)])
    assert len(said) == len(calls)
    assert key not in text
    assert not any(key[at : at + 12] in text for at in range(len(key) - 12))
