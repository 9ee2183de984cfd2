"""How a request comes in: its body is read, as JSON or as a form, and becomes an order and its files.

Owns bodies, their limits, and the files of an edit for as long as its request lasts: they lie on disk, never whole in
memory, and are gone when the request ends, whatever ended it (those that were uploaded before are the `depot`'s, and
stay). Refuses to know what a parameter may be (`validate`) and what a picture may be (`pictures`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol, TypeVar

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from runner.catalog import Catalog
from runner.simulator import pictures, validate
from runner.simulator.problems import Problem, invalid
from runner.simulator.validate import Order

_MOST_JSON_BYTES = 4_000_000
_MOST_FORM_BYTES = 16 * 50_000_000 + 4_000_000 + 1_000_000
_MOST_JSON_EDIT_BYTES = 64_000_000
"""JSON can only be read as a whole: a form is the way to send more."""
_MOST_URL_CHARS = 20_971_520
_MOST_FIELD_BYTES = 1_000_000
_MOST_PARTS = 64
"""More than is valid, so that too many images are counted and told."""
_MEMORY_BYTES = 1 << 14
"""Up to this a file stays in memory: most of what is in flight lies on disk."""

T = TypeVar("T")


class Run(Protocol):
    """Runs a function in a thread and hands back what it gives."""

    def __call__(self, function: Callable[..., T], /, *arguments: Any) -> Awaitable[T]:
        """The result of `function(*arguments)`."""
        ...


@dataclass(frozen=True, slots=True)
class Files:
    """The files of an edit, open while its request lasts; the first image is the one that is edited."""

    images: tuple[BinaryIO, ...] = ()
    mask: BinaryIO | None = None


NO_FILES = Files()


FindFile = Callable[[str], BinaryIO | None]
"""Opens an uploaded file by its id; None where there is none. It is called in any thread."""


class Intake:
    """The door of one server. `run` takes what would hold up the event loop."""

    def __init__(self, catalog: Catalog, run: Run, find_file: FindFile) -> None:
        self._catalog = catalog
        self._run = run
        self._find_file = find_file
        self._one_json_edit = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def generation(self, request: Request) -> AsyncIterator[tuple[Order, Files]]:
        """The order in the body of `POST /v1/images/generations`.

        Raises:
            Problem: it is not valid.
        """
        yield validate.generation(parsed(await body(request)), self._catalog), NO_FILES

    @contextlib.asynccontextmanager
    async def edit(self, request: Request) -> AsyncIterator[tuple[Order, Files]]:
        """The order in the body of `POST /v1/images/edits`, and its files for the length of the `with` block.

        Raises:
            Problem: it is not valid.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        with contextlib.ExitStack() as open_files:
            match kind:
                case "multipart/form-data":
                    given, files = await _form(request, open_files)
                case "application/json":
                    given, files = await self._json(request, open_files)
                case _:
                    raise invalid(
                        f"Invalid Content-Type: '{kind}'. Supported values are: 'multipart/form-data', "
                        "'application/json'.",
                        None,
                    )
            order = validate.edit(given, self._catalog, is_form=kind == "multipart/form-data")
            yield await self._pictured(order, files), files

    @contextlib.asynccontextmanager
    async def line(self, body: Mapping[str, Any], *, is_edit: bool) -> AsyncIterator[tuple[Order, Files]]:
        """The order in the body of a line of a batch, and its files as `edit` has them.

        Raises:
            Problem: it is not valid.
        """
        if not is_edit:
            yield validate.generation(body, self._catalog, "batch"), NO_FILES
            return
        with contextlib.ExitStack() as open_files:
            async with self._one_json_edit:
                given, files = await self._run(_unpacked, body, open_files, self._find_file)
            order = validate.edit(given, self._catalog, "batch", is_form=False)
            yield await self._pictured(order, files), files

    async def _pictured(self, order: Order, files: Files) -> Order:
        inputs, mask = await self._run(pictures.check, files.images, files.mask)
        return replace(order, inputs=inputs, mask=mask)

    async def _json(self, request: Request, open_files: contextlib.ExitStack) -> tuple[Mapping[str, Any], Files]:
        spool = open_files.enter_context(_spool())
        async for piece in _pieces(request, _MOST_JSON_EDIT_BYTES):
            spool.write(piece)
        # One at a time: between text and files such a body is in memory twice.
        async with self._one_json_edit:
            return await self._run(_spooled, spool, open_files, self._find_file)


async def body(request: Request) -> bytes:
    """A small body as a whole.

    Raises:
        Problem: 413, it is not small.
    """
    data = bytearray()
    async for piece in _pieces(request, _MOST_JSON_BYTES):
        data += piece
    return bytes(data)


async def _pieces(request: Request, most_bytes: int) -> AsyncGenerator[bytes, None]:
    total_bytes = 0
    async for piece in request.stream():
        total_bytes += len(piece)
        if total_bytes > most_bytes:
            raise Problem(413, f"The body of the request is larger than {most_bytes} bytes.")
        yield piece


def parsed(data: bytes) -> Mapping[str, Any]:
    """A body that is a JSON object.

    Raises:
        Problem: it is none.
    """
    try:
        given: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise invalid("The body of the request could not be parsed as JSON.", None, None) from None
    if not isinstance(given, dict):
        raise invalid("The body of the request is not a JSON object.", None, None)
    return given


class _Parser(MultiPartParser):
    """Starlette's parser, which keeps less in memory here: 64 requests may have 17 files each."""

    spool_max_size = _MEMORY_BYTES


async def parts(
    request: Request, open_files: contextlib.ExitStack, most_bytes: int = _MOST_FORM_BYTES
) -> list[tuple[str, str | UploadFile]]:
    """The parts of a form, each with its name; its files lie on disk, and are closed by `open_files`.

    Raises:
        Problem: it is no form, or longer than `most_bytes`.
    """
    parser = _Parser(
        request.headers,
        _pieces(request, most_bytes),
        max_files=_MOST_PARTS,
        max_fields=_MOST_PARTS,
        max_part_size=_MOST_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise invalid(
            f"The form could not be read: {error.message} (A file needs a filename in its Content-Disposition.)",
            None,
            None,
        ) from None
    items = form.multi_items()
    for _, value in items:
        if isinstance(value, UploadFile):
            open_files.callback(value.file.close)
    return items


async def _form(request: Request, open_files: contextlib.ExitStack) -> tuple[Mapping[str, Any], Files]:
    items = await parts(request, open_files)
    uploads = [(name, value.file) for name, value in items if isinstance(value, UploadFile)]
    fields: dict[str, str] = {}
    for name, value in items:
        if not isinstance(value, str):
            continue
        if name in _FILE_FIELDS:
            raise invalid(f"Invalid type for '{name}': expected a file, but got a string instead.", name, _WRONG_TYPE)
        if name in fields:
            raise _twice(name)
        fields[name] = value
    for name, _ in uploads:
        if name not in _FILE_FIELDS:
            raise invalid(f"Invalid type for '{name}': expected a string, but got a file instead.", name, _WRONG_TYPE)
    single = [file for name, file in uploads if name == "image"]
    listed = [file for name, file in uploads if name == "image[]"]
    masks = [file for name, file in uploads if name == "mask"]
    if len(single) > 1 or (single and listed):
        raise _twice("image")
    if len(masks) > 1:
        raise _twice("mask")
    _counted(len(single) + len(listed), "image")
    return fields, Files(tuple(single or listed), masks[0] if masks else None)


_FILE_FIELDS = ("image", "image[]", "mask")
_WRONG_TYPE = "invalid_type"


def _twice(name: str) -> Problem:
    hint = " To send several images, name each of them 'image[]'." if name == "image" else ""
    return invalid(f"Duplicate parameter: '{name}'.{hint}", name, "duplicate_parameter")


def _counted(images: int, param: str) -> None:
    if not images:
        raise invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    if images > pictures.MOST_IMAGES:
        raise invalid(
            f"Invalid '{param}': too many images. Expected at most {pictures.MOST_IMAGES}, but got {images} instead.",
            param,
            "array_above_max_length",
        )


def _spool() -> BinaryIO:
    # A file like any other; only its type says less than BinaryIO.
    file: Any = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115 - whoever asked for it closes it
    return file  # type: ignore[no-any-return] # see above


def _spooled(spool: BinaryIO, open_files: contextlib.ExitStack, find_file: FindFile) -> tuple[Mapping[str, Any], Files]:
    spool.seek(0)
    given = parsed(spool.read())
    spool.truncate(0)
    return _unpacked(given, open_files, find_file)


def _unpacked(
    body: Mapping[str, Any], open_files: contextlib.ExitStack, find_file: FindFile
) -> tuple[Mapping[str, Any], Files]:
    """The parameters of a JSON edit, and its pictures in files of their own."""
    given = dict(body)
    images, mask = given.pop("images", None), given.pop("mask", None)
    if images is not None and not isinstance(images, list):
        raise invalid("Invalid type for 'images': expected an array of objects.", "images", _WRONG_TYPE)
    _counted(len(images or ()), "images")
    files = tuple(_fetched(each, f"images[{index}]", open_files, find_file) for index, each in enumerate(images or ()))
    return given, Files(files, _fetched(mask, "mask", open_files, find_file) if mask is not None else None)


def _fetched(reference: object, param: str, open_files: contextlib.ExitStack, find_file: FindFile) -> BinaryIO:
    """The picture that a reference holds or names, as a file."""
    if not isinstance(reference, dict):
        raise invalid(f"Invalid type for '{param}': expected an object with 'image_url'.", param, _WRONG_TYPE)
    for name in reference:
        if name not in ("image_url", "file_id"):
            raise invalid(f"Unknown parameter: '{param}.{name}'.", f"{param}.{name}", "unknown_parameter")
    url, file_id = reference.get("image_url"), reference.get("file_id")
    if (url is None) == (file_id is None):
        raise invalid(f"Invalid '{param}': give exactly one of 'image_url' and 'file_id'.", param)
    if file_id is not None:
        if not isinstance(file_id, str):
            raise invalid(f"Invalid type for '{param}.file_id': expected a string.", f"{param}.file_id", _WRONG_TYPE)
        found = find_file(file_id)
        if found is None:
            raise invalid(f"Invalid '{param}.file_id': no such file: {file_id}.", f"{param}.file_id", "file_not_found")
        return open_files.enter_context(found)
    if not isinstance(url, str):
        raise invalid(f"Invalid type for '{param}.image_url': expected a string.", f"{param}.image_url", _WRONG_TYPE)
    if len(url) > _MOST_URL_CHARS:
        raise invalid(
            f"Invalid '{param}.image_url': string too long. Expected a string with maximum length {_MOST_URL_CHARS}, "
            f"but got a string with length {len(url)} instead.",
            f"{param}.image_url",
            "string_above_max_length",
        )
    head, comma, text = url.partition(",")
    kind = head.lower()
    if kind.startswith(("http:", "https:")):
        raise invalid(
            f"Invalid '{param}.image_url': the simulator fetches nothing from elsewhere. Send the picture as a data "
            "URL, or in a form.",
            f"{param}.image_url",
            "unsupported_value",
        )
    if not (comma and kind.startswith("data:image/") and kind.endswith(";base64")):
        raise invalid(
            f"Invalid '{param}.image_url': expected a URL like 'data:image/png;base64,...'.", f"{param}.image_url"
        )
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"Invalid '{param}.image_url': its base64 is not valid.", f"{param}.image_url") from None
    file = open_files.enter_context(_spool())
    file.write(data)
    return file
