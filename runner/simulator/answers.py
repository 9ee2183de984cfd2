"""A billed answer on its way out: the JSON around the images, its bytes in pieces, and what spoils them.

Owns how a billed answer looks on the wire, faults included. Refuses to decide about faults and to bill.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from binascii import b2a_base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from runner.simulator.bill import Bill, Entry
from runner.simulator.faults import Fault
from runner.simulator.studio import Shot
from runner.simulator.tokens import Charge
from runner.simulator.validate import Order
from runner.simulator.wire import Wire

_PIECE_BYTES = 3 << 15
"""Divisible by three, so that pieces of base64 join without padding between them."""
_TOLD_SIZES = ("1024x1024", "1024x1536", "1536x1024")
_TOLD_QUALITIES = ("low", "medium", "high")
_TOLD_FORMATS = ("png", "webp", "jpeg")
"""The values that the published schema of an answer has words for; another value is left out, as it may be."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an answer: their number, and themselves in pieces."""

    length_bytes: int
    pieces: Iterator[bytes]
    content_type: str = "application/json"
    encoding: str | None = None

    @classmethod
    def of(cls, data: bytes, content_type: str = "application/json", encoding: str | None = None) -> Body:
        """A body that is in memory as a whole."""
        pieces = (data[i : i + _PIECE_BYTES] for i in range(0, len(data), _PIECE_BYTES))
        return cls(len(data), pieces, content_type, encoding)


def compose(
    order: Order,
    shots: Sequence[Shot],
    *,
    created: int,
    charge: Charge,
    fault: Fault | None = None,
    urls: Sequence[str] = (),
    one_line: bool = False,
) -> Body:
    """The body of an answer. Images are encoded piece by piece as it is sent, but for the faults that need it whole.

    `one_line` is for a body that stands within a line.
    """
    kind = fault.kind if fault else None
    head: dict[str, object] = {
        "created": created,
        "background": "transparent" if order.transparent else "opaque",
    }
    tail = _tail(order, charge, kind)
    match kind:
        case "empty":
            return Body.of(b"")
        case "not_json":
            return Body.of(b"upstream says: OK\n", "text/plain")
        case "no_data":
            data: dict[str, object] = {"data": []} if fault and fault.value == "empty" else {}
            return Body.of(_json({**head, **data, **tail}))
        case "url":
            return Body.of(_json({**head, "data": [{"url": url} for url in urls], **tail}))
        case "escaped":
            return Body.of(_escaped(order, head, shots, tail, one_line=one_line))
        case _:
            pass
    plain = Body(*_plain(head, [shot.data for shot in shots], tail, spoil=kind == "bad_base64"))
    match kind:
        case "gzip":
            return Body.of(gzip.compress(b"".join(plain.pieces), 1), encoding="gzip")
        case "truncated_json":
            whole = b"".join(plain.pieces)
            return Body.of(whole[: len(whole) * 3 // 5])
        case _:
            return plain


def _tail(order: Order, charge: Charge, kind: str | None) -> dict[str, object]:
    tail: dict[str, object] = {}
    if order.output_format in _TOLD_FORMATS:
        tail["output_format"] = order.output_format
    if order.quality in _TOLD_QUALITIES:
        tail["quality"] = order.quality
    if order.size in _TOLD_SIZES:
        tail["size"] = order.size
    if kind == "zero_usage":
        charge = Charge(0, 0, 0, 0)
    if kind != "missing_usage":
        tail["usage"] = {
            "input_tokens": charge.input_tokens,
            "input_tokens_details": {"image_tokens": charge.image_tokens, "text_tokens": charge.text_tokens},
            "output_tokens": charge.output_tokens,
            "output_tokens_details": {"image_tokens": charge.output_tokens, "text_tokens": 0},
            "total_tokens": charge.total_tokens,
        }
    return tail


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document).encode()


def _plain(
    head: Mapping[str, object], images: Sequence[bytes], tail: Mapping[str, object], *, spoil: bool
) -> tuple[int, Iterator[bytes]]:
    opening, closing = _json(head)[:-1] + b', "data": [', b"], " + _json(tail)[1:] if tail else b"]}"
    before, between, after = b'{"b64_json": "', b", ", b'"}'
    length = len(opening) + len(closing) + len(between) * (len(images) - 1)
    length += sum(len(before) + len(after) + -(-len(image) // 3) * 4 for image in images)

    def pieces() -> Iterator[bytes]:
        lead = opening
        for index, image in enumerate(images):
            lead += (between if index else b"") + before
            view = memoryview(image)
            for start in range(0, len(image), _PIECE_BYTES):
                piece = b2a_base64(view[start : start + _PIECE_BYTES], newline=False)
                if spoil and start == 0:
                    piece = piece[: len(piece) // 2] + b"!*!*" + piece[len(piece) // 2 + 4 :]
                yield lead + piece
                lead = b""
            lead += after
        yield lead + closing

    return length, pieces()


def _escaped(
    order: Order, head: Mapping[str, object], shots: Sequence[Shot], tail: Mapping[str, object], *, one_line: bool
) -> bytes:
    """The same answer as another server might write it: escapes, white space and unknown fields. It is valid JSON."""
    document = {
        "x_gateway": {"node": "a-7", "trace": [1, 2.5, None, {"b64_json": "bm90IHRoZSBpbWFnZQ=="}]},
        **head,
        "data": [
            {
                "revised_prompt": f'"b64_json": "{order.prompt}"',
                "b64_json": b2a_base64(shot.data, newline=False).decode(),
                "x_seed": -1,
            }
            for shot in shots
        ],
        **tail,
    }
    text = json.dumps(document, indent=None if one_line else "\t", separators=(" ,", " : "))
    # Neither sign can stand outside a string in this document.
    data = text.replace("/", "\\/").replace("+", "\\u002b").encode()
    return data if one_line else b"\r\n " + data + b"\r\n\r\n"


class ImagesAnswer:
    """Sends a billed answer, spoils it as its fault says, and notes on the bill how it fared."""

    def __init__(
        self, body: Body, headers: Mapping[str, str], *, bill: Bill, entry: Entry, fault: Fault | None
    ) -> None:
        self._body = body
        self._headers = dict(headers)
        self._bill = bill
        self._entry = entry
        self._kind = fault.kind if fault else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        wire = Wire.of(scope)
        match self._kind:
            case "hang":
                await Wire.ended(receive)
            case "reset":
                wire.reset()
                await Wire.ended(receive)
            case "stall" | "cut" | "reset_body":
                await self._start(send)
                await self._send_part(send)
                await wire.flushed()
                if self._kind == "cut":
                    wire.close()
                if self._kind == "reset_body":
                    # A moment for the peer to read: what it has not read when the RST comes is lost to it.
                    await asyncio.sleep(0.05)
                    wire.reset()
                await Wire.ended(receive)
            case _:
                await self._start(send)
                for piece in self._body.pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                is_there = not wire.is_gone
                await send({"type": "http.response.body", "body": b""})
                if is_there:
                    self._bill.amend(self._entry, self._kind or "whole")

    async def _start(self, send: Send) -> None:
        headers = {
            **self._headers,
            "content-type": self._body.content_type,
            "content-length": str(self._body.length_bytes),
        }
        if self._body.encoding:
            headers["content-encoding"] = self._body.encoding
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _send_part(self, send: Send) -> None:
        """The first half of the body."""
        room = self._body.length_bytes // 2
        for piece in self._body.pieces:
            await send({"type": "http.response.body", "body": piece[:room], "more_body": True})
            room -= len(piece[:room])
            if room <= 0:
                return
