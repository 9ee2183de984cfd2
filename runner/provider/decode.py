"""Turns the bytes of an images answer, as they arrive, into an image and the small rest of the JSON.

Owns the incremental reading of `{"created": ..., "data": [{"b64_json": "..."}], "usage": {...}}`, by itself or within
other objects: the base64 text is decoded piece by piece into a sink, everything else is kept (bounded) and parsed once
at the end, so that neither the base64 nor the image is ever held. Refuses to know where the bytes come from, where the
image goes, what it shows, and what an answer costs.

An answer that brings no image may have been billed all the same. That is why every error carries what could still be
read of the answer, `usage` above all.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NoReturn, Protocol

import pybase64

from runner.provider.envelope import BadAnswer, Envelope, describe, first_item, parse

__all__ = ["AnswerDecoder", "BadAnswer", "Envelope", "Sink"]

_PIECE_BYTES: Final = 256 * 1024
_WHITESPACE: Final = b" \t\r\n"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_EXCERPT_BYTES: Final = 60

_STRUCTURAL = re.compile(rb'["{}\[\],:]')
# Possessive throughout: a run of text is never given back, so a hostile body costs no backtracking.
_STRING_RUN = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_IMAGE_RUN = re.compile(rb'(?:[^"\\]++|\\u[0-9a-fA-F]{4}|\\[^u])*+', re.DOTALL)
_UNICODE_ESCAPE = re.compile(rb"\\u00([0-7][0-9a-fA-F])")
_CUT_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?")

_OBJECT, _ARRAY, _OBJECT_END, _ARRAY_END, _COMMA, _COLON, _QUOTE = b'{[}],:"'
_OPENER_OF: Final = {_OBJECT_END: _OBJECT, _ARRAY_END: _ARRAY}


class Sink(Protocol):
    """Whatever takes the image's bytes, in order."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes of the image. What it raises passes through `AnswerDecoder.feed`."""


class _Mode(Enum):
    OUTSIDE = auto()
    """Between strings."""
    KEPT = auto()
    """In a string that belongs to the envelope."""
    IMAGE = auto()
    """In the base64 of the first image."""
    SKIPPED = auto()
    """In base64 that is not wanted: a further image's, or what follows a fault."""
    LOST = auto()
    """No longer JSON; nothing after this place means anything."""


class AnswerDecoder:
    """Reads one answer, fed in chunks of any size; `data[0].b64_json` goes to `sink` as it comes.

    Holds at most `max_envelope_bytes` of the answer beside one piece of the image. Text inside `b64_json` that is not
    strict base64 (the standard alphabet, padded, no line breaks) stops the writing, not the reading.

    `under` are the keys of the objects around the answer, from the outermost. Without a `sink`, `on_image` is asked for
    one when the image begins; None is an image that nobody wants: it is read over, and not held against the alphabet.
    """

    def __init__(
        self,
        sink: Sink | None = None,
        *,
        under: tuple[str, ...] = (),
        on_image: Callable[[], Sink | None] = lambda: None,
        max_envelope_bytes: int = 1_048_576,
    ) -> None:
        self._sink = sink
        self._under = under
        self._on_image = on_image
        self._max_envelope_bytes = max_envelope_bytes
        self._kept = bytearray()
        self._whole = 0  # up to here, `_kept` holds whole members of the objects on the way to the answer
        self._whole_way = 0  # how many of those objects are open there
        self._mode = _Mode.OUTSIDE
        self._stack = bytearray()  # the open brackets
        self._way = 0  # how many of them lead to the answer, itself among them
        self._depth = len(under) + 1  # how many do when it has been reached
        self._last = 0  # the structural byte (or the quote of a string) that came last
        self._closed = False
        self._escaped = False
        self._key_start: int | None = None  # where in `_kept` the key being read begins
        self._way_key = b""
        self._item_key = b""
        self._in_data = False
        self._item = 0
        self._seen = 0  # how many strings there were at data[0].b64_json
        self._cut_escape = b""
        self._quad = b""  # base64 characters that wait for the rest of their group of four
        self._padded = False
        self._unwanted = False
        self._fault: str | None = None
        self._image_bytes = 0
        self._failure: BadAnswer | None = None

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes of the body.

        Raises:
            BadAnswer: `answer_too_large` (or `not_json`) once more than `max_envelope_bytes` came beside the image;
                every other fault waits for `finish`, because the usage may still follow.
        """
        if self._failure is not None:
            raise self._failure
        if len(chunk) <= _PIECE_BYTES:
            self._scan(bytes(chunk))
            return
        view = memoryview(chunk)
        for start in range(0, len(view), _PIECE_BYTES):
            self._scan(bytes(view[start : start + _PIECE_BYTES]))

    def finish(self) -> Envelope:
        """The body has ended: what it said beside the image, of which every byte is in the sink.

        An answer with `url` instead of base64 is returned too, with `image_bytes` 0.

        Raises:
            BadAnswer: there is no whole image in the answer.
        """
        return self.envelope_of(self.parsed())

    def parsed(self) -> dict[str, object]:
        """The body has ended: all of it as JSON, the outermost object, with an empty text for the image.

        Raises:
            BadAnswer: it is not whole, or no JSON object.
        """
        if self._failure is not None:
            raise self._failure
        if not bytes(self._kept).removeprefix(_BYTE_ORDER_MARK).strip(_WHITESPACE):
            self._fail("empty_body", "The answer's body is empty.")
        if self._mode is _Mode.LOST:
            self._fail("not_json", f"The answer is not a JSON object; it begins {self._excerpt()}.")
        if not self._closed:
            self._fail("truncated_json", f"The answer was cut after {self._image_bytes} bytes of image.")
        try:
            return parse(self._kept)
        except ValueError as error:
            self._fail("not_json", f"The answer is not valid JSON: {error}.")

    def envelope_of(self, parsed: dict[str, object]) -> Envelope:
        """What the answer within `parsed` said beside its image, as `finish` has it.

        Raises:
            BadAnswer: there is no whole image in it.
        """
        answer = self._answer_in(parsed)
        envelope = describe(answer, self._image_bytes)
        if self._fault is not None:
            self._fail("bad_base64", f"data[0].b64_json is not base64: {self._fault}.", envelope)
        # A repeated key makes readers disagree on which value counts, and the sink already has one of them.
        was_read = self._image_bytes > 0 or self._unwanted
        if self._seen > 1 or (was_read and first_item(answer).get("b64_json") != ""):
            self._fail("not_json", "The answer names data[0].b64_json more than once.", envelope)
        if not was_read and envelope.url is None:
            reason = " It carries an error object." if envelope.error is not None else ""
            self._fail("no_data", f"The answer has no image: no data[0].b64_json and no data[0].url.{reason}", envelope)
        return envelope

    def so_far(self) -> dict[str, object]:
        """What the whole members that have come so far say, the objects around the answer among them."""
        try:
            return parse(self._kept[: self._whole] + b"}" * self._whole_way) if self._whole else {}
        except ValueError:
            return {}

    def salvaged(self) -> Envelope | None:
        """What the whole members of the answer that have come so far say of it; None where there are none."""
        answer = self._answer_in(self.so_far())
        return describe(answer, self._image_bytes) if answer else None

    # --- reading

    def _scan(self, chunk: bytes) -> None:
        if self._cut_escape:
            chunk, self._cut_escape = self._cut_escape + chunk, b""
        position = 0
        while position < len(chunk):
            if self._mode is _Mode.OUTSIDE:
                position = self._read_outside(chunk, position)
            elif self._mode is _Mode.IMAGE:
                position = self._read_image(chunk, position)
            elif self._mode is _Mode.LOST:
                self._keep(chunk[position:])
                return
            else:
                position = self._read_string(chunk, position)

    def _read_outside(self, chunk: bytes, position: int) -> int:
        found = _STRUCTURAL.search(chunk, position)
        end = found.end() if found else len(chunk)
        if not self._stack:
            gap = chunk[position : found.start() if found else end]
            blank = _WHITESPACE if self._closed else _WHITESPACE + _BYTE_ORDER_MARK
            if gap.strip(blank) or (found and (self._closed or found[0] != b"{")):
                self._mode = _Mode.LOST
                return position
        self._keep(chunk[position:end])
        if found:
            self._take_structural(found[0][0])
        return end

    def _take_structural(self, byte: int) -> None:
        if byte == _QUOTE:
            self._open_string()
        elif byte in (_OBJECT, _ARRAY):
            if len(self._stack) == self._way:
                self._open_on_the_way(byte)
            self._stack.append(byte)
        elif byte in _OPENER_OF:
            if self._stack.pop() != _OPENER_OF[byte]:
                self._mode = _Mode.LOST
                return
            self._closed = not self._stack
            self._way = min(self._way, len(self._stack))
            if self._stack and len(self._stack) == self._way:
                self._whole, self._whole_way = len(self._kept), self._way
        elif byte == _COMMA:
            if self._stack and len(self._stack) == self._way:
                self._whole, self._whole_way = len(self._kept) - 1, self._way
            elif len(self._stack) == self._depth + 1 and self._in_data:
                self._item += 1
        self._last = byte

    def _open_on_the_way(self, byte: int) -> None:
        """A bracket opens where so far all others lead to the answer: it may lead on, or be the list of images."""
        self._in_data = False
        if self._way == 0:
            self._way = 1
        elif self._last != _COLON:
            return
        elif self._way == self._depth:
            self._in_data = byte == _ARRAY and _names(self._way_key, "data")
            self._item = 0
        elif byte == _OBJECT and _names(self._way_key, self._under[self._way - 1]):
            self._way += 1

    def _open_string(self) -> None:
        depth = len(self._stack)
        in_item = self._in_data and depth == self._depth + 2 and self._stack[-1] == _OBJECT
        if (in_item or depth == self._way) and self._last in (_OBJECT, _COMMA):
            self._key_start = len(self._kept) - 1
        is_image = in_item and self._last == _COLON and _names(self._item_key, "b64_json")
        if not is_image:
            self._mode = _Mode.KEPT
            return
        if self._item == 0:
            self._seen += 1
        self._mode = _Mode.IMAGE if self._item == 0 and self._seen == 1 else _Mode.SKIPPED

    def _read_string(self, chunk: bytes, position: int) -> int:
        start = position
        if self._escaped:
            self._escaped = False
            position += 1
        quote = chunk.find(b'"', position)
        end = quote if quote >= 0 else len(chunk)
        if chunk.find(b"\\", position, end) >= 0:
            found = _STRING_RUN.match(chunk, position)
            end = found.end() if found else position
        position = end
        closes = position < len(chunk) and chunk[position] == _QUOTE
        if position < len(chunk):
            self._escaped = not closes
            position += 1
        if self._mode is _Mode.KEPT:
            self._keep(chunk[start:position])
        elif closes:
            self._keep(b'"')
        if closes:
            self._close_string()
        return position

    def _close_string(self) -> None:
        if self._key_start is not None:
            key = bytes(self._kept[self._key_start :])
            if len(self._stack) == self._way:
                self._way_key = key
            else:
                self._item_key = key
            self._key_start = None
        self._mode = _Mode.OUTSIDE
        self._last = _QUOTE

    def _read_image(self, chunk: bytes, position: int) -> int:
        """Decode up to the closing quote, or up to what the chunk holds of an escape that it cuts."""
        if self._sink is None and chunk[position] != _QUOTE:
            self._sink = self._on_image()
            if self._sink is None:
                self._unwanted = True
                self._mode = _Mode.SKIPPED
                return position
        quote = chunk.find(b'"', position)
        end = quote if quote >= 0 else len(chunk)
        if chunk.find(b"\\", position, end) < 0:
            self._decode(memoryview(chunk)[position:end])
        else:
            found = _IMAGE_RUN.match(chunk, position)
            end = found.end() if found else position
            self._decode(_unescape(chunk[position:end]))
            if self._fault is None and end < len(chunk) and chunk[end] != _QUOTE:
                if _CUT_ESCAPE.fullmatch(chunk, end):
                    self._cut_escape = chunk[end:]
                    return len(chunk)
                self._spoil("it holds a broken escape")
        if self._fault is None and end < len(chunk) and self._quad:
            self._spoil("its last characters are missing")
        if self._fault is not None:
            self._mode = _Mode.SKIPPED
        elif end < len(chunk):
            self._keep(b'"')
            self._close_string()
            end += 1
        return end

    def _decode(self, text: bytes | memoryview) -> None:
        if not text:
            return
        if self._padded:
            self._spoil("text follows its padding")
            return
        usable = len(text) - (len(self._quad) + len(text)) % 4
        if usable < 0:
            self._quad += bytes(text)
            return
        group = b"".join((self._quad, text[:usable])) if self._quad else text[:usable]
        self._quad = bytes(text[usable:])
        if not group:
            return
        try:
            data = pybase64.b64decode(group, validate=True)
        except binascii.Error as error:
            self._spoil(str(error).lower())
            return
        self._padded = group[-1:] == b"="
        self._image_bytes += len(data)
        assert self._sink is not None, "an image without a sink is read over"
        self._sink.write(data)

    def _spoil(self, fault: str) -> None:
        self._fault = self._fault or fault

    def _keep(self, data: bytes) -> None:
        if len(self._kept) + len(data) > self._max_envelope_bytes:
            if self._mode is _Mode.LOST:
                self._fail("not_json", f"The answer is not a JSON object; it begins {self._excerpt()}.")
            limit = self._max_envelope_bytes
            self._fail("answer_too_large", f"The answer holds more than {limit} bytes beside its image.")
        self._kept += data

    # --- telling

    def _fail(self, code: str, message: str, envelope: Envelope | None = None) -> NoReturn:
        self._failure = BadAnswer(message, code=code, envelope=envelope or self.salvaged())
        raise self._failure

    def _answer_in(self, parsed: dict[str, object]) -> dict[str, object]:
        """The answer within the objects around it; nothing where it is not there."""
        for key in self._under:
            inner = parsed.get(key)
            if not isinstance(inner, dict):
                return {}
            parsed = inner
        return parsed

    def _excerpt(self) -> str:
        return ascii(bytes(self._kept[:_EXCERPT_BYTES]).decode("latin-1"))


def _names(key: bytes, name: str) -> bool:
    """Whether a key, as it stands in the answer, with quotes and escapes, is `name`."""
    if b"\\" not in key:
        return key == b'"%s"' % name.encode()
    try:
        return bool(json.loads(key) == name)
    except ValueError:
        return False


def _unescape(text: bytes) -> bytes:
    """Undo the JSON escapes that can stand for a base64 character; any other is left for the decoder to refuse.

    An escaped backslash always leaves one of its two behind, whatever follows it, and so is refused too.
    """
    return _UNICODE_ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), text.replace(b"\\/", b"/"))
