"""The Batch API and the files that it needs, through the `openai` SDK: upload, create, look, cancel, read.

Owns how they are asked for, and the line between "it was certainly not created" and "it may have been". Refuses to know
tasks, and what becomes of a line. Everything it raises is one of `runner.errors`, and nothing that it raises or returns
has the key in it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from runner.errors import Lost, ProviderError, Refused, Retryable, StopRun, StoreError
from runner.provider.answer import Answer, Made
from runner.provider.contents import Contents
from runner.provider.decode import Sink
from runner.provider.lines import Line, LineReader, OpenSink
from runner.provider.remote import FINAL, BatchInfo, BatchProblem, Redact, RemoteFile, read_batch, read_file
from runner.provider.upload import Document
from runner.provider.wire import NoSuch, PassingSink, Wire, harmless
from runner.provider.wording import ENDPOINTS, batch_line

__all__ = [
    "ENDPOINTS",
    "FINAL",
    "BatchInfo",
    "BatchProblem",
    "Batches",
    "Line",
    "OpenSink",
    "Purpose",
    "RemoteFile",
    "batch_line",
]

Purpose = Literal["batch", "vision", "user_data"]
FILES_PER_PAGE, BATCHES_PER_PAGE = 1000, 100
"""How many are asked for at a time: the API allows 10,000 files, and 100 batches."""

_UNREADABLE = "see that the file is there and can be read, then run again"
_NO_BATCHES = "this server does not have the Batch API: `delivery: online` does without it"
_Call = AbstractAsyncContextManager[Any]
_Object = dict[str, Any]
_T = TypeVar("_T", RemoteFile, BatchInfo)


class Batches:
    """The Batch API of one provider endpoint. Nothing that could cost anything is repeated by itself."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._files = wire.sdk.files.with_streaming_response
        self._batches = wire.sdk.batches.with_streaming_response

    async def upload(
        self, path: Path, *, filename: str, purpose: Purpose, media_type: str, expires_after_s: int | None = None
    ) -> RemoteFile:
        """Send a file, read from the disk while it leaves. Free of charge.

        Raises:
            ProviderError: Retryable (also where it may have arrived: a second copy costs nothing), RateLimited,
                Refused, StopRun.
            StoreError: it cannot be read.
        """
        answer = Answer()
        try:
            document = Document(path, filename, media_type, answer.has_moved)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror or error}", hint=_UNREADABLE) from error
        answer.uploads = document
        words: dict[str, Any] = {"file": document.part, "purpose": purpose}
        if expires_after_s is not None:
            words["expires_after"] = {"anchor": "created_at", "seconds": expires_after_s}
        with closing(document):
            try:
                told = await self._free(self._files.create(**words), about="a file", answer=answer)
                if not document.are_whole:
                    raise Retryable("the provider answered before all of the file was sent", code="upload_cut")
            except NoSuch as error:
                raise _not_served(error) from None
            except ProviderError:
                if document.problem is not None:
                    raise StoreError(document.problem, hint=_UNREADABLE) from None
                raise
        return self._read(told, read_file)

    async def files(self, purpose: Purpose) -> AsyncIterator[RemoteFile]:
        """The files of this purpose, newest first, page by page.

        Raises:
            ProviderError: Retryable, RateLimited, StopRun, Refused.
        """

        def page(after: dict[str, Any]) -> _Call:
            return self._files.list(purpose=purpose, order="desc", limit=FILES_PER_PAGE, **after)

        async for told in self._listed(page, "files"):
            found = read_file(told, self._wire.redaction.text)
            # A gateway may not heed what was asked for.
            if found is not None and told.get("purpose") in (purpose, None):
                yield found

    async def delete(self, file_id: str) -> bool:
        """Remove a file; False where there is none of this id.

        Raises:
            ProviderError: Retryable, RateLimited, StopRun, Refused.
        """
        try:
            told = await self._free(self._files.delete(file_id), about="a file")
        except NoSuch:
            return False
        return told.get("deleted") is not False

    async def create(self, *, input_file_id: str, endpoint: str, metadata: Mapping[str, str]) -> BatchInfo:
        """Create a batch with a window of 24 h.

        Raises:
            ProviderError: Lost, where it may have been created (a cut connection, a time-out, a 5xx, an answer that
                cannot be read); RateLimited; Refused; StopRun; Retryable only where it certainly was not.
        """
        words: dict[str, Any] = {"endpoint": endpoint, "metadata": dict(metadata)}
        with self._wire.keyless():
            try:
                told = await self._wire.document(
                    self._batches.create(input_file_id=input_file_id, completion_window="24h", **words),
                    about="a batch",
                )
            except Retryable as error:
                # Whoever answers so may have passed the request on before it failed.
                if error.http_status is not None and (error.http_status >= 500 or error.http_status == 408):
                    raise Lost(
                        error.message, code=error.code, http_status=error.http_status, request_id=error.request_id
                    ) from None
                raise
            info = read_batch(told, self._wire.redaction.text)
            if info is None:
                raise Lost("what the provider says of a new batch is not what the API documents", code="bad_answer")
            return info

    async def retrieve(self, batch_id: str) -> BatchInfo | None:
        """What the provider says of a batch; None where it knows none of this id (404).

        Raises:
            ProviderError: Retryable, RateLimited, StopRun (a 404 that is none of the API's among it), Refused.
        """
        try:
            told = await self._free(self._batches.retrieve(batch_id), about="a batch")
        except NoSuch:
            return None
        return self._read(told, read_batch)

    async def batches(self) -> AsyncIterator[BatchInfo]:
        """All batches, newest first, page by page.

        Raises:
            ProviderError: Retryable (also where one of them cannot be read: it may be the one that is looked for),
                RateLimited, StopRun, Refused.
        """

        def page(after: dict[str, Any]) -> _Call:
            return self._batches.list(limit=BATCHES_PER_PAGE, **after)

        async for told in self._listed(page, "batches"):
            yield self._read(told, read_batch)

    async def cancel(self, batch_id: str) -> BatchInfo | None:
        """Ask for the end of a batch; None where the provider knows none of this id.

        Raises:
            ProviderError: among others Refused, where it is over already (400, 409).
        """
        try:
            told = await self._free(self._batches.cancel(batch_id), about="a batch")
        except NoSuch:
            return None
        except Retryable as error:
            if error.http_status != 409:
                raise
            raise Refused(error.message, code=error.code, http_status=409, request_id=error.request_id) from None
        return self._read(told, read_batch)

    async def lines(self, file_id: str, *, start_bytes: int, open_sink: OpenSink) -> AsyncGenerator[Line, None]:
        """The lines of an output or error file from `start_bytes` on, each once it has ended; images go to sinks.

        Close it (`contextlib.aclosing`) where not all of it is read.

        Raises:
            ProviderError: Retryable, where the file broke off or does not answer (what was yielded stays true);
                Expired (`code` `file_gone`), where the provider has no such file any more.
            Exception: whatever a sink raises, as it is.
        """
        sinks = _Sinks(open_sink, self._wire.redaction.optional)
        reader = LineReader(sinks.open, start_bytes=start_bytes)
        async with aclosing(Contents(self._wire, file_id, start_bytes)) as contents:
            while True:
                with self._wire.keyless(sinks):
                    line = await self._next(contents, reader, sinks)
                if line is None:
                    return
                yield line

    async def _next(self, contents: Contents, reader: LineReader, sinks: _Sinks) -> Line | None:
        """The next line, fit to keep; None at the end of the file."""
        line = reader.next_line()
        while line is None:
            piece = await contents.piece()
            if piece is None:
                line = reader.finish()
                break
            reader.receive(piece)
            line = reader.next_line()
        if line is None:
            return None
        if line.made is not None and line.made.envelope.image_bytes == 0 and line.made.envelope.url is not None:
            line = await self._fetched(line, line.made, sinks)
        return replace(
            line,
            custom_id=self._wire.redaction.optional(line.custom_id),
            made=line.made and self._wire.fit_to_keep(line.made),
            error=line.error and self._wire.without_key(line.error),
            sink=sinks.given(line.sink),
        )

    async def _fetched(self, line: Line, made: Made, sinks: _Sinks) -> Line:
        """The same line with its image, which the provider has put elsewhere, in a sink, if anybody wants it."""
        sink, url = sinks.open(line.custom_id), made.envelope.url
        if sink is None or url is None:
            return line
        answer = Answer(http_status=made.http_status, request_id=made.request_id, usage=made.envelope.usage)
        try:
            await self._wire.fetch(url, sink, answer)
        except ProviderError as error:
            return replace(line, made=None, error=error, sink=sink)
        return replace(line, sink=sink)

    async def _free(self, call: _Call, *, about: str, answer: Answer | None = None) -> dict[str, object]:
        """The answer to a question that costs nothing: it may be asked as often as one likes."""
        with self._wire.keyless():
            try:
                return await self._wire.document(call, about=about, answer=answer)
            except Lost as error:
                raise harmless(error) from None

    def _read(self, told: Mapping[str, object], read: Callable[[Mapping[str, object], Redact], _T | None]) -> _T:
        found = read(told, self._wire.redaction.text)
        if found is None:
            raise Retryable("the answer has no id, or no status: it is not what the API documents", code="bad_answer")
        return found

    async def _listed(self, page: Callable[[dict[str, Any]], _Call], about: str) -> AsyncGenerator[_Object, None]:
        """The objects of a list, from page to page.

        A list is looked through for what must not be made twice: one that cannot be read to its end is an error.
        """
        seen: set[str] = set()
        after: dict[str, Any] = {}
        while True:
            try:
                told = await self._free(page(after), about=about)
            except NoSuch as error:
                raise _not_served(error) from None
            data = told.get("data")
            if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
                raise Retryable(f"the list of {about} is not what the API documents", code="bad_answer")
            last: str | None = None
            for each in data:
                name = each.get("id")
                if isinstance(name, str) and name in seen:
                    continue
                if isinstance(name, str):
                    seen.add(name)
                    last = name
                yield each
            more = told.get("has_more")
            if more is True and last is None:
                raise Retryable(f"the list of {about} does not come to an end", code="bad_answer")
            if more is False or last is None:
                return
            after = {"after": last}


def _not_served(error: NoSuch) -> StopRun:
    """The error of a place that is there even when it is empty, where the Batch API is."""
    return StopRun(error.message, code=error.code, http_status=404, request_id=error.request_id, hint=_NO_BATCHES)


class _Sinks:
    """The sinks of a caller, one after the other, whose own errors are told apart from those of a file."""

    def __init__(self, open_sink: OpenSink, redact: Callable[[str | None], str | None]) -> None:
        self._open_sink = open_sink
        self._redact = redact
        self._last: PassingSink | None = None
        self._raised: Exception | None = None

    def open(self, custom_id: str | None) -> Sink | None:
        """As the caller has it."""
        try:
            sink = self._open_sink(self._redact(custom_id))
        except Exception as error:
            self._raised = error
            raise
        self._last = PassingSink(sink) if sink is not None else None
        return self._last

    def given(self, sink: Sink | None) -> Sink | None:
        """The caller's own sink."""
        return sink.sink if isinstance(sink, PassingSink) else None

    @property
    def raised(self) -> Exception | None:
        """What the caller's own code has raised."""
        return self._raised or (self._last.raised if self._last is not None else None)
