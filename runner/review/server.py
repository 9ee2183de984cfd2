"""The review over HTTP, on 127.0.0.1 alone.

Owns the addresses: what is a number is looked up in the ledger, and no path from a browser reaches the file system.
Whoever has the token can look and choose; `guard` turns everyone else away.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from runner.errors import InputError, RunnerError
from runner.ledger import Ledger, Relative, Tile
from runner.review import Settings
from runner.review.desk import Desk
from runner.review.guard import Guard, refusal
from runner.review.media import Picture, open_picture
from runner.review.wire import LARGEST, MOST_BODY_BYTES, Asked, Chosen, M, Skipped, named, read
from runner.serving import Server, listen
from runner.store import Store

HOST = "127.0.0.1"
_PIECE_CHARS = 128 * 1024
KINDS = ("media", "thumb", "composite")
"""The pictures of an image: as it is, small, pasted onto its original."""
_DIGITS = len(str(LARGEST)) + 1
_PICTURE_HEADERS = {"cache-control": "private, max-age=300", "content-security-policy": "default-src 'none'; sandbox"}


def serve(ledger: Ledger, store: Store, settings: Settings, *, on_ready: Callable[[str], None]) -> None:
    """See `runner.review.serve`."""
    if settings.reviewer is not None:
        settings = replace(settings, reviewer=named(settings.reviewer))
    desk = Desk(ledger, store.job, settings)
    token = secrets.token_urlsafe(32)
    listener = listen(HOST, settings.port, what="the review")
    port = listener.getsockname()[1]
    app = make_app(desk, store, token=token, port=port)
    Server(app, lambda: on_ready(f"http://{HOST}:{port}/?token={token}"), http="h11").serve_on(listener)


def make_app(desk: Desk, store: Store, *, token: str, port: int) -> Guard:
    """The whole of it as an ASGI application, for a server that listens on `port`."""
    addresses = _Addresses(desk, store, token)
    app = Starlette(
        routes=[
            Route("/", addresses.page, methods=["GET"]),
            Route("/api/next", addresses.next, methods=["GET"]),
            Route("/api/results", addresses.results, methods=["GET"]),
            Route("/api/choices", addresses.choose, methods=["POST"]),
            Route("/api/skip", addresses.skip, methods=["POST"]),
            Route("/api/undo", addresses.undo, methods=["POST"]),
            *(Route(f"/{kind}/{{number}}", partial(addresses.picture, kind), methods=["GET"]) for kind in KINDS),
        ],
        exception_handlers={HTTPException: _not_found, RunnerError: _failed, Exception: _unexpected},
    )
    app.router.redirect_slashes = False
    return Guard(app, token=token, port=port)


class _Links:
    """Addresses beside the page, each with the token; a picture by its task's number."""

    def __init__(self, token: str) -> None:
        self._end = f"?token={token}"

    def image(self, tile: Tile) -> str | None:
        return self._of("media", tile.task_id, tile.path)

    def thumbnail(self, tile: Tile) -> str | None:
        return self._of("thumb", tile.task_id, tile.thumbnail)

    def composite(self, tile: Tile) -> str | None:
        return self._of("composite", tile.task_id, tile.composite)

    def relative(self, relative: Relative) -> str | None:
        return self._of("media", relative.other_task, relative.path)

    def relative_thumbnail(self, relative: Relative) -> str | None:
        return self._of("thumb", relative.other_task, relative.thumbnail)

    def _of(self, kind: str, task_id: int, path: str | None) -> str | None:
        return None if path is None else f"{kind}/{task_id}{self._end}"


class _TooLarge(Exception):
    """A body that never ends."""


class _Addresses:
    """What is answered where. Everything that waits for the ledger or a disk does so in a thread."""

    def __init__(self, desk: Desk, store: Store, token: str) -> None:
        self._desk = desk
        self._store = store
        self._links = _Links(token)

    async def page(self, _request: Request) -> Response:
        pieces = await to_thread.run_sync(self._desk.page, self._links)
        return StreamingResponse(_streamed(pieces), media_type="text/html")

    async def picture(self, kind: str, request: Request) -> Response:
        number = request.path_params["number"]
        if not (number.isascii() and number.isdigit() and len(number) < _DIGITS):
            raise HTTPException(404)
        picture = await to_thread.run_sync(self._open, int(number), kind)
        if picture is None:
            raise HTTPException(404)
        headers = {"content-length": str(picture.size_bytes), **_PICTURE_HEADERS}
        return _Pictured(picture, headers)

    async def next(self, request: Request) -> Response:
        return JSONResponse(await to_thread.run_sync(self._desk.next, _reviewer(request)))

    async def results(self, request: Request) -> Response:
        reviewer = _reviewer(request) if "reviewer" in request.query_params else None
        return JSONResponse(await to_thread.run_sync(self._desk.results, reviewer))

    async def choose(self, request: Request) -> Response:
        return await self._posted(request, Chosen, self._desk.choose)

    async def skip(self, request: Request) -> Response:
        return await self._posted(request, Skipped, self._desk.skip)

    async def undo(self, request: Request) -> Response:
        return await self._posted(request, Asked, lambda asked: self._desk.undo(asked.reviewer))

    async def _posted(self, request: Request, model: type[M], act: Callable[[M], Mapping[str, Any]]) -> Response:
        try:
            body = await _body(request)
        except _TooLarge:
            return refusal(413, f"a choice has at most {MOST_BODY_BYTES} bytes")
        try:
            said = read(model, body)
        except ValueError:
            return refusal(400, "this is no JSON", "open the page anew")
        return JSONResponse(await to_thread.run_sync(act, said))

    def _open(self, number: int, kind: str) -> Picture | None:
        path = self._desk.path(number, kind)
        return None if path is None else open_picture(self._store, path)


async def _body(request: Request) -> bytes:
    """A body that keeps to its size; raises _TooLarge."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY_BYTES:
            raise _TooLarge
    return body


class _Pictured(StreamingResponse):
    """A picture on its way, each piece read in a thread."""

    def __init__(self, picture: Picture, headers: Mapping[str, str]) -> None:
        super().__init__(_pieces(picture), media_type=picture.content_type, headers=headers)
        self._picture = picture

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and close it: also when the browser has gone, before the first piece or with the last one."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._picture.close()  # without an await: what was cancelled would not come to it


async def _pieces(picture: Picture) -> AsyncIterator[bytes]:
    while piece := await to_thread.run_sync(picture.read):
        yield piece


async def _streamed(pieces: Iterator[str]) -> AsyncIterator[bytes]:
    """A page made in a thread, in pieces large enough to be worth the way."""
    gathered = _gathered(pieces)
    try:
        while (piece := await to_thread.run_sync(next, gathered, None)) is not None:
            yield piece
    finally:
        # A browser that has gone must not keep the ledger's snapshot open.
        gathered.close()


def _gathered(pieces: Iterator[str]) -> Generator[bytes, None, None]:
    waiting: list[str] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE_CHARS:
            yield "".join(waiting).encode("utf-8", "replace")
            waiting, size = [], 0
    yield "".join(waiting).encode("utf-8", "replace")


def _reviewer(request: Request) -> str:
    return named(request.query_params.get("reviewer", ""))


async def _not_found(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "nothing is here", 405: "this address is asked in another way"}
    return refusal(error.status_code, words.get(error.status_code, error.detail), headers=error.headers)


async def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RunnerError)
    return refusal(422 if isinstance(error, InputError) else 503, error.message, error.hint)


async def _unexpected(_request: Request, error: Exception) -> Response:
    return refusal(500, f"unexpected error: {type(error).__name__}", "what was chosen before is on record and safe")
