"""What the client holds when a request carries images: every byte of them, streamed, and no doubt where none left."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest

from runner.errors import InputError, Lost, Refused, Retryable
from runner.provider import Endpoint, Timeouts, Upload, connect
from runner.provider.upload import Uploads
from runner.tasks import Edit, ImageRequest, Input
from tests.edges.provider_support import IMAGE, KEY, MODEL, QUICK, Outcome, Sink, answer, recording

pytestmark = pytest.mark.anyio


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[Upload]]:
    def made(*sizes: int, form: str = "png") -> list[Upload]:
        found = []
        for number, size in enumerate(sizes):
            path = tmp_path / f"private name {number}.{form}"
            path.write_bytes(os.urandom(size))
            found.append(Upload(path, size, form))
        return found

    return made


def edit(images: int, *, mask: bool = False, fidelity: str | None = None) -> Edit:
    return Edit(
        tuple(Input(f"{n:064x}", 64, 64) for n in range(images)), Input("f" * 64, 64, 64) if mask else None, fidelity
    )


async def ask(
    base_url: str, what: Edit, uploads: list[Upload], *, timeouts: Timeouts = QUICK, **settings: Any
) -> Outcome:
    outcome, sink = Outcome(), Sink()
    endpoint = Endpoint.checked("openai", base_url, KEY, insecure=False)
    async with connect(endpoint, timeouts, connections=2) as client:
        try:
            outcome.made = await client.generate(
                ImageRequest("a hat", MODEL, **{"size": "1024x1024", "quality": "low", **settings}, edit=what),
                model=MODEL,
                sink=sink,
                on_headers=outcome.heard.append,
                uploads=uploads,
            )
        except (Lost, Retryable, Refused) as error:
            outcome.error = error
    outcome.image = sink.data
    return outcome


async def sent(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write it, and see that it has left before the connection ends."""
    writer.write(data)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve, *, limit: int = 1 << 16) -> AsyncIterator[str]:
    """A server on loopback that does what it likes with each connection; its base URL."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=limit)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
        await asyncio.sleep(0.05)


def form(head: str, body: bytes) -> list[Message]:
    """The parts of a form, by another reader than the server's and the client's own."""
    (line,) = [line for line in head.split("\r\n") if line.lower().startswith("content-type:")]
    parsed = BytesParser().parsebytes(line.encode() + b"\r\n\r\n" + body)
    parts = parsed.get_payload()
    assert isinstance(parts, list)
    return parts  # type: ignore[return-value]  # of a form they are messages


def told(part: Message) -> dict[str, Any]:
    return {
        "name": part.get_param("name", header="content-disposition"),
        "filename": part.get_filename(),
        "type": part.get_content_type(),
        "data": part.get_payload(decode=True),
    }


async def test_a_form_has_every_image_in_order_the_mask_and_the_fields(files: Callable[..., list[Upload]]) -> None:
    """As the API documents it; the names of files on this machine stay here, and what is its default is left out."""
    images, (mask,) = files(100_000, 0, 70_001, form="jpeg"), files(3_000)
    async with recording(answer(IMAGE)) as server:
        outcome = await ask(server.base_url, edit(3, mask=True, fidelity="high"), [*images, mask], output_format="webp")
    assert outcome.error is None
    assert outcome.image == b"image"
    (head,), (body,) = server.heads, server.bodies
    assert head.startswith("POST /v1/images/edits HTTP/1.1\r\n")
    assert "transfer-encoding" not in head.lower()
    parts = [told(part) for part in form(head, body)]
    fields = {part["name"]: part["data"].decode() for part in parts if part["filename"] is None}
    assert fields == {
        "prompt": "a hat",
        "model": MODEL,
        "n": "1",
        "size": "1024x1024",
        "quality": "low",
        "output_format": "webp",
        "input_fidelity": "high",
    }
    sent = [part for part in parts if part["filename"] is not None]
    assert [(part["name"], part["filename"], part["type"]) for part in sent] == [
        ("image[]", "image-1.jpeg", "image/jpeg"),
        ("image[]", "image-2.jpeg", "image/jpeg"),
        ("image[]", "image-3.jpeg", "image/jpeg"),
        ("mask", "mask.png", "image/png"),
    ]
    assert [part["data"] for part in sent] == [each.path.read_bytes() for each in (*images, mask)]
    assert b"private name" not in body


async def test_the_files_are_not_in_memory_while_they_leave(files: Callable[..., list[Upload]]) -> None:
    """16 images of 5 MB take a piece of one at a time."""
    uploads = files(*[5_000_000] * 16)
    received = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while received < length:
            received += len(await reader.read(1 << 16))
        await sent(writer, answer(IMAGE))

    async with serving(serve) as url:
        tracemalloc.start()
        tracemalloc.reset_peak()
        before_bytes, _ = tracemalloc.get_traced_memory()
        try:
            outcome = await ask(url, edit(16), uploads)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert outcome.error is None
    assert received > 80_000_000
    assert peak_bytes - before_bytes < 15_000_000


@pytest.mark.parametrize("how", ["gone", "shorter", "longer"])
async def test_a_file_that_changes_while_it_is_sent_is_no_doubt(files: Callable[..., list[Upload]], how: str) -> None:
    """The end of the request never left, so nothing can have been made of it: it is told by name, and tried again."""
    uploads = files(3_000_000, 2_000_000)
    path = uploads[1].path
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"x" * (2_000_001 if how == "longer" else 1_999_999))
    async with recording(answer(IMAGE)) as server:
        outcome = await ask(server.base_url, edit(2), uploads)
    assert isinstance(outcome.error, Retryable)
    assert outcome.error.code == "input_unreadable"
    assert str(path) in outcome.error.message
    assert server.bodies == [], "no whole request came"


async def test_a_connection_that_breaks_before_all_was_sent_is_no_doubt(files: Callable[..., list[Upload]]) -> None:
    """Law 4 the other way round: what cannot have been billed is not held against the cap."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        writer.transport.abort()

    async with serving(serve) as url:
        outcome = await ask(url, edit(2), files(30_000_000, 1_000))
    assert isinstance(outcome.error, Retryable)
    assert outcome.error.code == "upload_cut"


async def test_a_connection_that_breaks_after_all_was_sent_is_a_doubt(files: Callable[..., list[Upload]]) -> None:
    """The whole request has arrived: it may have been billed."""
    async with recording(close=True) as server:
        outcome = await ask(server.base_url, edit(1), files(100_000))
    assert isinstance(outcome.error, Lost)
    assert outcome.error.code == "connection_cut"
    assert len(server.bodies) == 1


@pytest.mark.parametrize("timeouts", [Timeouts(5.0, 0.5, 5.0, 20.0), Timeouts(5.0, 5.0, 5.0, 0.5)])
async def test_a_server_that_takes_nothing_any_more_is_no_doubt(
    files: Callable[..., list[Upload]], timeouts: Timeouts
) -> None:
    """The wait for an answer begins anew with every piece that leaves, and ends when none does, or all time is over."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1000)
        await asyncio.sleep(30)

    async with serving(serve, limit=1 << 12) as url:
        outcome = await ask(url, edit(1), files(45_000_000), timeouts=timeouts)
    assert isinstance(outcome.error, Retryable)
    assert outcome.error.code == "upload_stalled"


async def test_a_slow_line_is_not_taken_for_a_slow_answer(files: Callable[..., list[Upload]]) -> None:
    """Sending takes longer than an answer may: the one is not counted against the other."""
    pauses = 6

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        left = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        size = left // pauses
        while left:
            left -= len(await reader.readexactly(min(left, size)))
            await asyncio.sleep(0.3 if left else 0)
        await sent(writer, answer(IMAGE))

    async with serving(serve, limit=1 << 16) as url:
        outcome = await ask(url, edit(1), files(48_000_000), timeouts=Timeouts(5.0, 1.0, 5.0, 30.0))
    assert outcome.error is None


async def test_an_early_refusal_is_heard(files: Callable[..., list[Upload]]) -> None:
    """A server need not read a body to refuse it; its answer is what counts, where it arrives."""
    refusal = b'{"error": {"message": "too large", "code": "invalid_image", "type": "invalid_request_error"}}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(refusal, "400 Bad Request"))
        await writer.drain()
        while await reader.read(1 << 16):
            pass

    async with serving(serve) as url:
        outcome = await ask(url, edit(1), files(20_000_000))
    assert isinstance(outcome.error, Refused)
    assert outcome.error.code == "invalid_image"


def test_no_file_is_open_before_it_is_read_nor_after(files: Callable[..., list[Upload]]) -> None:
    """64 requests with 16 images each would need a thousand descriptors at once."""
    uploads = files(10, 20)
    before = open_descriptors()
    form = Uploads(uploads, None, lambda: None)
    (_, first, _), (_, second, _) = form.images
    assert (first.seek(0, os.SEEK_END), first.tell(), first.seek(0)) == (10, 10, 0)
    assert open_descriptors() == before
    assert first.read(4) == uploads[0].path.read_bytes()[:4]
    assert open_descriptors() == before + 1
    whole = [form.are_whole]
    assert first.read(100) + first.read(100) == uploads[0].path.read_bytes()[4:]
    assert open_descriptors() == before
    whole.append(form.are_whole)
    assert (len(second.read(20)), second.read(20)) == (20, b"")
    assert [*whole, form.are_whole] == [False, False, True]
    form.close()


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_job_without_images_has_no_inputs() -> None:
    from runner.engine.shared import no_inputs

    with pytest.raises(InputError):
        no_inputs([])
