"""The Files API: upload, list, look, read, delete.

Owns its routes, its errors, and how a file's bytes leave (ranges, and what spoils them). Where files lie is `depot`.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from runner.simulator import intake
from runner.simulator.calls import Calls
from runner.simulator.depot import DAYS_30_S, Depot, Stored
from runner.simulator.intake import Run
from runner.simulator.problems import Problem, invalid
from runner.simulator.wire import Wire

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_MOST_BYTES = 512_000_000
_MOST_BATCH_BYTES = 200_000_000
_MOST_LISTED = 10_000
_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_PIECE_BYTES = 1 << 18


class Filing:
    """The Files API of one server."""

    def __init__(self, depot: Depot, calls: Calls, run: Run) -> None:
        self._depot = depot
        self._calls = calls
        self._run = run

    def routes(self) -> list[BaseRoute]:
        """What is served."""
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.files),
            Route("/v1/files/{id}", self.file),
            Route("/v1/files/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self.content),
        ]

    def _begin(self, request: Request, call: str) -> None:
        self._calls.authorise(request)
        self._calls.counts[call] += 1

    async def upload(self, request: Request) -> Any:
        """POST /v1/files."""
        self._begin(request, "upload")
        with contextlib.ExitStack() as open_files:
            upload, purpose, expires_after_s = await _read(request, open_files)
            filename = upload.filename or "upload"

            async def keep() -> JSONResponse:
                path = self._depot.new_path()
                await self._run(_copied, upload.file, path)
                stored = self._depot.keep(path, filename=filename, purpose=purpose, expires_after_s=expires_after_s)
                self._calls.uploads[purpose] += 1
                return JSONResponse(stored.told())

            return await self._calls.answer("upload", filename, keep)

    async def files(self, request: Request) -> Any:
        """GET /v1/files."""
        self._begin(request, "files")

        async def listed() -> JSONResponse:
            query = request.query_params
            order = query.get("order", "desc")
            if order not in ("asc", "desc"):
                raise invalid(f"Invalid value: '{order}'. Supported values are: 'asc' and 'desc'.", "order")
            found = [each for each in self._depot.all() if query.get("purpose") in (None, each.purpose)]
            if order == "desc":
                found.reverse()
            limit = limit_of(request, _MOST_LISTED, _MOST_LISTED)
            page = page_of([each.told() for each in found], query.get("after"), limit)
            # Their schema wants a text, even of an empty list.
            return JSONResponse({"first_id": "", "last_id": "", **page})

        return await self._calls.answer("files", "", listed)

    async def file(self, request: Request) -> Any:
        """GET /v1/files/{id}."""
        self._begin(request, "file")
        file_id: str = request.path_params["id"]

        async def told() -> JSONResponse:
            return JSONResponse(self._depot.find(file_id).told())

        return await self._calls.answer("file", file_id, told)

    async def delete(self, request: Request) -> Any:
        """DELETE /v1/files/{id}."""
        self._begin(request, "delete")
        file_id: str = request.path_params["id"]

        async def deleted() -> JSONResponse:
            self._depot.remove(file_id)
            return JSONResponse({"id": file_id, "object": "file", "deleted": True})

        return await self._calls.answer("delete", file_id, deleted)

    async def content(self, request: Request) -> Any:
        """GET /v1/files/{id}/content; a range of bytes can be asked for."""
        self._begin(request, "content")
        stored = self._depot.find(request.path_params["id"])
        fault = self._calls.fault("content", stored.id)
        kind = fault.kind if fault else None
        asked = None if kind == "content_whole" else request.headers.get("range")
        answer = _Content(stored, *_range(asked, stored.bytes))
        match kind:
            case None | "content_whole":
                return answer
            case "content_gone":
                raise Problem(404, f"No such File object: {stored.id}", param="id")
            case "content_cut":
                answer.cut_after = float(fault.value or 0.5) if fault else None
                return answer
            case _:
                assert fault is not None, "it has a kind"
                return await self._calls.spoilt(fault, _nothing)


async def _nothing() -> None:
    """What a call that only looks has done before it goes wrong."""


def limit_of(request: Request, default: int, most: int) -> int:
    """The `limit` of a list.

    Raises:
        Problem: it is no number from 1 to `most`.
    """
    text = request.query_params.get("limit")
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise invalid(f"Invalid 'limit': expected a number from 1 to {most}, but got '{text}'.", "limit")
    return int(text)


def page_of(things: Sequence[dict[str, object]], after: str | None, limit: int) -> dict[str, object]:
    """One page of a list, as the API tells it: at most `limit` of the things behind the one with the id `after`.

    Raises:
        Problem: there is no such thing.
    """
    begin = 0
    if after is not None:
        places = [index for index, each in enumerate(things) if each["id"] == after]
        if not places:
            raise invalid(f"Invalid 'after': there is no '{after}' in this list.", "after")
        begin = places[0] + 1
    page = things[begin : begin + limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
    return {"object": "list", "data": page, **ends, "has_more": begin + limit < len(things)}


async def _read(request: Request, open_files: contextlib.ExitStack) -> tuple[UploadFile, str, int | None]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise invalid(f"Invalid Content-Type: '{kind}'. Supported values are: 'multipart/form-data'.", None)
    fields: dict[str, str] = {}
    uploads: list[UploadFile] = []
    for name, value in await intake.parts(request, open_files, _MOST_BYTES + 1_000_000):
        if name == "file" and isinstance(value, UploadFile):
            uploads.append(value)
        elif name in _FIELDS and isinstance(value, str):
            fields[name] = value
        else:
            raise invalid(f"Unknown parameter, or not of its type: '{name}'.", name, "unknown_parameter")
    if len(uploads) != 1:
        raise invalid(f"Expected one 'file', but got {len(uploads)}.", "file", "missing_required_parameter")
    purpose = fields.get("purpose")
    if purpose not in PURPOSES:
        known = ", ".join(f"'{each}'" for each in PURPOSES)
        raise invalid(f"Invalid 'purpose': '{purpose}'. Supported values are: {known}.", "purpose")
    _check_file(uploads[0], purpose)
    return uploads[0], purpose, _expiry_s(fields, DAYS_30_S if purpose == "batch" else None)


def _check_file(upload: UploadFile, purpose: str) -> None:
    most = _MOST_BATCH_BYTES if purpose == "batch" else _MOST_BYTES
    if (upload.size or 0) > most:
        raise Problem(413, f"The file has {upload.size} bytes; one for '{purpose}' can have {most}.", param="file")
    if purpose == "batch" and not (upload.filename or "").endswith(".jsonl"):
        raise invalid("Invalid file format for Batch API. Must be .jsonl", "file", "invalid_file_format")


def _expiry_s(fields: dict[str, str], default_s: int | None) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]", "")
    if anchor is None and not seconds:
        return default_s
    return expiry_s({"anchor": anchor, "seconds": int(seconds) if seconds.isdecimal() else None})


def expiry_s(given: object, param: str = "expires_after") -> int:
    """Seconds until a file expires, from what asks for it.

    Raises:
        Problem: it is not valid.
    """
    seconds = given.get("seconds") if isinstance(given, dict) else None
    is_whole = isinstance(seconds, int) and not isinstance(seconds, bool)
    if not isinstance(given, dict) or given.get("anchor") != "created_at" or not is_whole:
        raise invalid(f"Invalid '{param}': expected the anchor 'created_at' and seconds.", param)
    assert isinstance(seconds, int), "looked at above"
    if not 3600 <= seconds <= DAYS_30_S:
        raise invalid(f"Invalid '{param}.seconds': expected 3600 to {DAYS_30_S}.", f"{param}.seconds")
    return seconds


def _copied(source: BinaryIO, path: Path) -> None:
    source.seek(0)
    with path.open("wb") as target:
        shutil.copyfileobj(source, target, _PIECE_BYTES)


def _range(asked: str | None, length_bytes: int) -> tuple[int, int, bool]:
    """From which byte to which, and whether that is a part. What is not understood asks for the whole.

    Raises:
        Problem: 416, the range begins behind the end.
    """
    match = _RANGE.fullmatch(asked.strip()) if asked else None
    if match is None or match[0] == "bytes=-":
        return 0, length_bytes, False
    first, last = match[1], match[2]
    begin = int(first) if first else max(0, length_bytes - int(last))
    end = min(int(last) + 1, length_bytes) if first and last else length_bytes
    if first and last and int(last) < begin:
        return 0, length_bytes, False
    if begin >= length_bytes:
        headers = {"content-range": f"bytes */{length_bytes}"}
        raise Problem(416, f"The file has {length_bytes} bytes; {asked} is not in it.", headers=headers)
    return begin, end, True


class _Content:
    """Sends a file's bytes from `begin` to `end`, read as they leave."""

    def __init__(self, stored: Stored, begin: int, end: int, is_part: bool) -> None:
        self._stored = stored
        self._begin = begin
        self._end = end
        self._is_part = is_part
        self.cut_after: float | None = None
        """The share of it after which the connection ends; None for no such end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        length = self._end - self._begin
        headers = {
            "content-type": "application/octet-stream",
            "content-length": str(length),
            "content-disposition": "attachment",
            "accept-ranges": "bytes",
        }
        if self._is_part:
            headers["content-range"] = f"bytes {self._begin}-{self._end - 1}/{self._stored.bytes}"
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        room = length if self.cut_after is None else int(length * self.cut_after)
        with self._stored.path.open("rb") as file:
            await send({"type": "http.response.start", "status": 206 if self._is_part else 200, "headers": raw})
            file.seek(self._begin)
            while room > 0 and (piece := file.read(min(_PIECE_BYTES, room))):
                room -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self.cut_after is not None:
            wire = Wire.of(scope)
            await wire.flushed()
            wire.close()
            await Wire.ended(receive)
            return
        await send({"type": "http.response.body", "body": b""})
