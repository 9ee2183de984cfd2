"""Reads the lines of a batch's output or error file, as their bytes arrive.

Owns where a line begins and ends, whose it is, and what it means: an image, whose bytes go to a sink as they pass, or
an error of the table. Refuses to know where the bytes come from, and what becomes of a line.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from runner.errors import Expired, ProviderError, Retryable, Unusable
from runner.provider.answer import Answer, Made, explained
from runner.provider.decode import AnswerDecoder, BadAnswer, Sink
from runner.provider.envelope import read_error
from runner.provider.translate import clean, error_of

MAX_LINE_BYTES = 512 << 20
"""A line longer than this is no image answer."""
MAX_CUSTOM_ID_CHARS = 512
"""A longer one is none that was given to a request: the API allows no more in a file."""

_NOT_RUN = {
    "batch_expired": "batch_expired",
    "batch_cancelled": "batch_cancelled",
    "batch_canceled": "batch_cancelled",
}
"""Codes of a request that a batch never came to, and what they are called here."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an output or error file: exactly one of `made` and `error`.

    `custom_id` is None for a line that does not say whose it is. `sink` is what `open_sink` gave for its image; None
    where there was no image, or it was not wanted: such a line has `made` all the same, with what the answer says of
    itself and its cost, and `image_bytes` is 0. With an `error`, what went to `sink` is to be thrown away.
    `end_bytes` is where in the file the next line begins.
    """

    custom_id: str | None
    end_bytes: int
    made: Made | None
    error: ProviderError | None
    sink: Sink | None


OpenSink = Callable[[str | None], Sink | None]
"""Where the image of a line goes, asked when its first bytes have come; the argument is its custom_id, None where the
line has not said it yet. None as the answer: the image is not wanted, and is read over. The sink of a line that was
never yielded, because the file broke off in it, stays with whoever opened it."""


class LineReader:
    """Reads a file that is fed in pieces of any size, from `start_bytes` on: the beginning of a line.

    Holds of a line what `AnswerDecoder` holds of an answer, and one piece.
    """

    def __init__(self, open_sink: OpenSink, *, start_bytes: int = 0) -> None:
        self._open_sink = open_sink
        self._piece = b""
        self._at = 0
        self._offset = start_bytes  # where in the file the first byte that was not read yet lies
        self._begin()

    def _begin(self) -> None:
        self._decoder = AnswerDecoder(under=("response", "body"), on_image=self._image_begins)
        self._failure: BadAnswer | None = None
        self._line_bytes = 0
        self._sink: Sink | None = None
        self._told_early: str | None = None

    def receive(self, piece: bytes) -> None:
        """Take the next bytes of the file, once `next_line` has no more of what came before."""
        assert self._at == len(self._piece), "the lines of a piece are read before the next one comes"
        self._piece, self._at = piece, 0

    def next_line(self) -> Line | None:
        """The next line that has ended; None where more has to come.

        Raises:
            Exception: whatever `open_sink` and a sink raise, and nothing else.
        """
        while self._at < len(self._piece):
            found = self._piece.find(b"\n", self._at)
            end = found if found >= 0 else len(self._piece)
            whole = self._at == 0 and end == len(self._piece)
            part = self._piece if whole else self._piece[self._at : end]
            self._at = end + 1 if found >= 0 else end
            self._offset += len(part) + (found >= 0)
            self._take(part)
            if found >= 0:
                line = self._ended()
                self._begin()
                if line is not None:
                    return line
        return None

    def finish(self) -> Line | None:
        """The file has ended: the line that no line break ends, None where there is none.

        Raises:
            Retryable: the file ends in the middle of a line.
        """
        if self._failure is None:
            try:
                self._decoder.parsed()
            except BadAnswer as error:
                if error.code == "empty_body":
                    return None
                raise Retryable("the file ends in the middle of a line", code="truncated_file") from None
        # A line that failed before its end fails however it goes on.
        line = self._ended()
        self._begin()
        return line

    def _take(self, part: bytes) -> None:
        self._line_bytes += len(part)
        if self._failure is not None:
            return
        if self._line_bytes > MAX_LINE_BYTES:
            self._failure = BadAnswer(f"The line is longer than {MAX_LINE_BYTES} bytes.", code="answer_too_large")
            return
        try:
            self._decoder.feed(part)
        except BadAnswer as error:
            self._failure = error

    def _image_begins(self) -> Sink | None:
        self._told_early = custom_id_in(self._decoder.so_far())
        self._sink = self._open_sink(self._told_early)
        return self._sink

    def _ended(self) -> Line | None:
        """What the line that has ended says; None where it is blank."""
        try:
            if self._failure is not None:
                raise self._failure
            parsed = self._decoder.parsed()
        except BadAnswer as failure:
            if failure.code == "empty_body":
                return None
            return self._unreadable(custom_id_in(self._decoder.so_far()), failure.code, clean(failure.message))
        custom_id = custom_id_in(parsed)
        if self._told_early not in (None, custom_id):
            return self._unreadable(None, "not_json", "it says of two requests that it is theirs")
        try:
            return Line(custom_id, self._offset, self._made(parsed), None, self._sink)
        except ProviderError as error:
            return Line(custom_id, self._offset, None, error, self._sink)

    def _unreadable(self, custom_id: str | None, code: str, why: str) -> Line:
        envelope = self._decoder.salvaged()
        usage = envelope.usage if envelope else None
        error = Unusable(f"a line of the file cannot be read: {why}", code=code, http_status=None, usage=usage)
        return Line(custom_id, self._offset, None, error, self._sink)

    def _made(self, parsed: dict[str, object]) -> Made:
        """The image of a line.

        Raises:
            ProviderError: there is none.
        """
        response, outer = parsed.get("response"), _error_in(parsed)
        told = response if isinstance(response, dict) else {}
        status, request_id, body = _status(told.get("status_code")), _text(told.get("request_id")), told.get("body")
        if status is not None and status >= 300:
            raise _refused(status, _error_in(body) or outer or body, request_id)
        try:
            # An image that came whole is paid for, whatever stands beside it.
            return Made(self._decoder.envelope_of(parsed), status or 200, request_id)
        except BadAnswer as error:
            if outer is None or (error.envelope is not None and error.envelope.usage is not None):
                raise explained(error, Answer(http_status=status, request_id=request_id)) from None
        code = _NOT_RUN.get(str(outer.get("code")))
        if code is not None and status is None:
            message = outer.get("message")
            raise Expired(clean(message) if isinstance(message, str) and message else code, code=code)
        raise _refused(500, outer, request_id)


def custom_id_in(parsed: dict[str, object]) -> str | None:
    """Whose a line is, as far as it says so."""
    told = parsed.get("custom_id")
    return told if isinstance(told, str) and told.isprintable() and 0 < len(told) <= MAX_CUSTOM_ID_CHARS else None


def _error_in(told: object) -> dict[str, object] | None:
    """The error of an object; one with nothing in it is none."""
    error = read_error(told.get("error")) if isinstance(told, dict) else None
    return error if error and any(value not in (None, "") for value in error.values()) else None


def _refused(status: int, body: object, request_id: str | None) -> ProviderError:
    return error_of(status, body, {}, request_id=request_id, model="the model", now=dt.datetime.now(dt.UTC))


def _status(value: object) -> int | None:
    return value if type(value) is int and 100 <= value <= 599 else None


def _text(value: object) -> str | None:
    return clean(value)[:200] or None if isinstance(value, str) else None
