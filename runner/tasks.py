"""The words of the project as frozen types, and the one table of a task's life.

Owns `ImageRequest`, `Task`, its key, and `TRANSITIONS`: everything that moves a task from one status to another reads
that table, and so do the tests and the drawing in `docs/design.md`. Refuses to know where tasks come from, who makes
them, and where they are recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from typing import Protocol, Self

from runner.errors import LedgerError

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Status(StrEnum):
    """Where a task is in its life."""

    PLANNED = "planned"
    """Wanted, and free to be begun."""
    RUNNING = "running"
    """An attempt is on record and its request may have left."""
    SUBMITTED = "submitted"
    """Part of a batch that the provider works on."""
    DONE = "done"
    """The asset is complete, verified and durable on disk."""
    IN_DOUBT = "in_doubt"
    """An attempt was lost: the provider may have billed it, and no image came of it."""
    FAILED = "failed"
    """Every attempt that the policy allows has failed."""
    REFUSED = "refused"
    """The provider will not make it (moderation, invalid request)."""


class Event(StrEnum):
    """What can happen to a task."""

    BEGIN = "begin"
    SUBMIT = "submit"
    REUSE = "reuse"
    SAVED = "saved"
    BACKOFF = "backoff"
    REFUSED = "refused"
    GAVE_UP = "gave_up"
    LOST = "lost"
    EXPIRED = "expired"
    ADOPT = "adopt"
    RETRY = "retry"
    GONE = "gone"


TRANSITIONS: Mapping[tuple[Status, Event], Status] = {
    (Status.PLANNED, Event.BEGIN): Status.RUNNING,
    (Status.PLANNED, Event.SUBMIT): Status.SUBMITTED,
    (Status.PLANNED, Event.REUSE): Status.DONE,
    (Status.RUNNING, Event.SAVED): Status.DONE,
    (Status.RUNNING, Event.BACKOFF): Status.PLANNED,
    (Status.RUNNING, Event.REFUSED): Status.REFUSED,
    (Status.RUNNING, Event.GAVE_UP): Status.FAILED,
    (Status.RUNNING, Event.LOST): Status.IN_DOUBT,
    (Status.SUBMITTED, Event.SAVED): Status.DONE,
    (Status.SUBMITTED, Event.REFUSED): Status.REFUSED,
    (Status.SUBMITTED, Event.GAVE_UP): Status.FAILED,
    (Status.SUBMITTED, Event.EXPIRED): Status.PLANNED,
    (Status.SUBMITTED, Event.BACKOFF): Status.PLANNED,
    (Status.SUBMITTED, Event.LOST): Status.IN_DOUBT,
    (Status.IN_DOUBT, Event.ADOPT): Status.DONE,
    (Status.IN_DOUBT, Event.RETRY): Status.PLANNED,
    (Status.FAILED, Event.RETRY): Status.PLANNED,
    (Status.REFUSED, Event.RETRY): Status.PLANNED,
    (Status.DONE, Event.GONE): Status.PLANNED,
}


def after(status: Status, event: Event) -> Status:
    """The status that `event` leads to from `status`.

    Raises:
        LedgerError: the table has no such move.
    """
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise LedgerError(f"a task that is {status} cannot take the event {event}") from None


@dataclass(frozen=True, slots=True)
class Input:
    """One picture that goes with a request: what it shows and how it was prepared, never what its file is called.

    `identity` is 64 hex digits, equal for equal pictures; `width` and `height` are its pixels as it is sent.
    """

    identity: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Edit:
    """What a request starts from: up to 16 pictures, the first of which is the one that `mask` is for.

    `fidelity` is the API's `input_fidelity`; None leaves it to the model.
    """

    images: tuple[Input, ...]
    mask: Input | None = None
    fidelity: str | None = None


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image as it is asked of the Images API, in the API's own words.

    `size` is `auto` or `WIDTHxHEIGHT` in pixels; `output_compression` is 0-100, for jpeg and webp only. Values equal
    to the API's default are part of the request here, and are left out on the wire. With `edit` it is an edit.
    """

    prompt: str
    model: str
    size: str = "auto"
    quality: str = "auto"
    background: str = "auto"
    output_format: str = "png"
    output_compression: int | None = None
    moderation: str = "auto"
    edit: Edit | None = None

    @property
    def pixels(self) -> tuple[int, int] | None:
        """(width, height) in pixels, or None for `auto`."""
        width, _, height = self.size.partition("x")
        return (int(width), int(height)) if height else None


NOT_SENT = "not_sent"
"""The error code of an attempt that was put on record and then given back: no request of it ever left."""

API_DEFAULTS: Mapping[str, str | int | None] = {
    field.name: field.default for field in fields(ImageRequest) if field.default is not MISSING and field.name != "edit"
}
"""What the API does where a parameter is left out, by the parameter's name."""
REQUEST_FIELDS: tuple[str, ...] = ("model", *API_DEFAULTS)
"""What a request has beside its prompt, in the order of `ImageRequest`."""


class Digest(Protocol):
    """A hash that is under way."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""

    def copy(self) -> Self:
        """Another one that goes on from here."""

    def hexdigest(self) -> str:
        """What it has come to, in hex."""


def task_key(request: ImageRequest, *, sample: int, edition: str | None, simulated: bool) -> str:
    """The identity of one wanted image: 64 hex digits of SHA-256 over the canonical request.

    The job's name, the prompt's id and the file's name are not part of it, so that the same request is never paid
    twice, whatever it is called. The model is the one that is *wanted*: a fallback that made the image does not change
    the key. A simulated image is never taken for a real one, so that counts too.

    It is the hash of three parts in a row, because most of the tasks of a manifest share two of them with others.
    """
    digest = key_head(request.prompt)
    digest.update(key_middle(request) + key_end(sample=sample, edition=edition, simulated=simulated))
    return digest.hexdigest()


def key_head(prompt: str) -> Digest:
    """The first of the three parts that a key is the hash of, hashed already: all that hangs on the prompt."""
    return hashlib.sha256(('["generate/1",' + _JSON(prompt)).encode("utf-8", "surrogatepass"))


def key_middle(request: ImageRequest) -> bytes:
    """The second part: what is asked for beside the prompt. Of an input counts what it shows, not its name."""
    parts: list[object] = [
        request.model,
        request.size,
        request.quality,
        request.background,
        request.output_format,
        request.output_compression,
        request.moderation,
    ]
    edit = request.edit
    if edit is not None:
        # A mapping, where the sample's number stands for what starts from nothing: the two can never be one.
        images = [image.identity for image in edit.images]
        parts.append({"images": images, "mask": edit.mask and edit.mask.identity, "fidelity": edit.fidelity})
    return f",{_JSON(parts)[1:-1]},".encode("utf-8", "surrogatepass")


def key_end(*, sample: int, edition: str | None, simulated: bool) -> bytes:
    """The third part: which of several images of one request it is."""
    return _JSON([sample, edition, simulated])[1:].encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in the user's files something was written; lines and columns count from 1."""

    source: str
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """How the input of this `identity` is made again, for `inputs`: JSON, with paths as the manifest has them."""

    identity: str
    recipe: str


@dataclass(frozen=True, slots=True)
class Task:
    """One wanted image.

    `name` is the asset's path below the job's image folder: relative, POSIX, with its extension. `variant` has every
    axis of the matrix with its value as text, own variables among them, in the order of the manifest. `sources` has
    those of the edit's images in their order, and the mask's after them. `composite` is how the answer is pasted onto
    the original (JSON for `inputs`); None where it is not.
    """

    key: str
    prompt_id: str
    sample: int
    request: ImageRequest
    variant: tuple[tuple[str, str], ...]
    name: str
    origin: Origin
    sources: tuple[Source, ...] = ()
    composite: str | None = None
