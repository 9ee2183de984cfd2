"""The lines of a batch: what its input file says, checked as the API does, and the bytes of its output and error files.

Owns both formats. Refuses to know what becomes of a line.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from runner.catalog import Catalog
from runner.simulator import tokens, validate
from runner.simulator.answers import Body
from runner.simulator.problems import Problem

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
_MOST_LINES = 50_000
_MOST_LINE_BYTES = 64_000_000
"""As much as an edit in JSON can have online."""
_MOST_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a batch fails in validation; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def told(self) -> dict[str, object]:
        """As the API tells it."""
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


@dataclass(frozen=True, slots=True)
class Survey:
    """What is in an input file. `ends` has where each line ends, one before the first included."""

    sha256: str
    ends: Sequence[int]
    model: str | None
    prompt_tokens: int
    flaws: tuple[Flaw, ...]

    @property
    def lines(self) -> int:
        """How many there are."""
        return len(self.ends) - 1

    def read(self, file: BinaryIO, number: int) -> Any:
        """The line of this number, from 0, of the file that was surveyed."""
        file.seek(self.ends[number])
        return json.loads(file.read(self.ends[number + 1] - self.ends[number]))


def survey(file: BinaryIO, endpoint: str, catalog: Catalog) -> Survey:
    """Reads an input file, a line at a time."""
    reading = _Reading(endpoint, catalog)
    digest = hashlib.sha256()
    ends = array("Q", [0])
    while line := file.readline(_MOST_LINE_BYTES + 1):
        digest.update(line)
        ends.append(ends[-1] + len(line))
        if len(line) > _MOST_LINE_BYTES:
            reading.flaws.append(Flaw("line_too_long", "This line is too long.", line=len(ends) - 1))
            break
        if len(ends) > _MOST_LINES + 1:
            message = f"The batch input file contains too many requests. The limit is {_MOST_LINES}."
            reading.flaws = [Flaw("too_many_requests", message)]
            break
        flaw = reading.flaw_of(line)
        if flaw is not None and len(reading.flaws) < _MOST_PROBLEMS:
            reading.flaws.append(Flaw(*flaw, line=len(ends) - 1))
    if len(ends) == 1:
        reading.flaws.append(Flaw("empty_file", "The batch input file is empty."))
    return Survey(digest.hexdigest(), ends, reading.model, reading.prompt_tokens, tuple(reading.flaws))


class _Reading:
    """What holds between the lines of one file."""

    def __init__(self, endpoint: str, catalog: Catalog) -> None:
        self._endpoint = endpoint
        self._catalog = catalog
        self._custom_ids: set[bytes] = set()
        self.model: str | None = None
        self.prompt_tokens = 0
        self.flaws: list[Flaw] = []

    def flaw_of(self, line: bytes) -> tuple[str, str, str | None] | None:
        """The code, message and parameter of what is wrong with a line; None if nothing is."""
        try:
            given: Any = json.loads(line)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            return "invalid_json_line", "This line is not parseable as valid JSON.", None
        for param, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
            if not isinstance(given.get(param), kind):
                return "missing_required_parameter", f"Missing required parameter: '{param}'.", param
        custom_id: str = given["custom_id"]
        digest = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._custom_ids:
            message = f"The custom_id '{custom_id[:100]}' is a duplicate of another request's."
            return "duplicate_custom_id", message, "custom_id"
        self._custom_ids.add(digest)
        if given["method"] != "POST":
            return "invalid_method", "The method of every request in a batch is POST.", "method"
        if given["url"] != self._endpoint:
            message = f"The URL provided for this request does not match the batch endpoint: {self._endpoint}."
            return "invalid_url", message, "url"
        return self._flaw_of_body(given["body"])

    def _flaw_of_body(self, body: Mapping[str, Any]) -> tuple[str, str, str | None] | None:
        model = body.get("model")
        if not isinstance(model, str):
            return "missing_required_parameter", "Missing required parameter: 'model'.", "body.model"
        if self.model is None:
            try:
                validate.find_model(self._catalog, model, "batch")
            except Problem:
                message = f"The provided model '{model}' is not supported by the Batch API."
                return "model_not_found", message, "body.model"
            self.model = model
        if model != self.model:
            message = f"All requests of a batch have one model: this one has '{model}', another '{self.model}'."
            return "mismatched_model", message, "body.model"
        prompt = body.get("prompt")
        self.prompt_tokens += tokens.prompt_tokens(prompt) if isinstance(prompt, str) else 0
        return None


def answered(custom_id: str, request_id: str, body: Body, *, broken: bool = False) -> Iterator[bytes]:
    """The line of a request that was answered with 200, in pieces; a `broken` one ends in its middle."""
    head = {"id": _id(), "custom_id": custom_id, "response": {"status_code": 200, "request_id": request_id}}
    opening, closing = json.dumps(head)[:-2].encode() + b', "body": ', b'}, "error": null}'
    if body.content_type != "application/json":
        inner: Iterable[bytes] = [json.dumps(b"".join(body.pieces).decode()).encode()]
    else:
        inner = body.pieces if body.length_bytes else [b"null"]
    if not broken:
        yield opening
        yield from inner
        yield closing + b"\n"
        return
    room = (len(opening) + body.length_bytes) * 3 // 5
    yield opening[:room]
    room -= len(opening)
    for piece in inner:
        yield piece[: max(0, room)]
        room -= len(piece)
    yield b"\n"


def refused(custom_id: str, request_id: str, problem: Problem) -> bytes:
    """The line of a request that was answered with an error."""
    body: object = bytes(problem.response().body).decode() if problem.html else problem.document
    response = {"status_code": problem.status, "request_id": request_id, "body": body}
    return _line({"id": _id(), "custom_id": custom_id, "response": response, "error": None})


def unreached(survey: Survey, file: BinaryIO, numbers: Iterable[int], code: str) -> Iterator[bytes]:
    """The lines of requests that a batch ended before."""
    messages = {
        "batch_expired": "This request could not be executed before the completion window expired.",
        "batch_cancelled": "This request was not executed before the batch was cancelled.",
    }
    for number in numbers:
        custom_id = survey.read(file, number)["custom_id"]
        error = {"code": code, "message": messages[code]}
        yield _line({"id": _id(), "custom_id": custom_id, "response": None, "error": error})


def _line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _id() -> str:
    return f"batch_req_{secrets.token_hex(12)}"
