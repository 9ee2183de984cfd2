"""One image of one request: through the `openai` SDK, its body streamed into a sink.

Owns how an image is asked for, and the line between "the request never left" and "it may have been billed". Everything
it raises is one of `runner.errors`, and nothing that it raises or returns has the key in it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import anyio
import httpx2
import openai

from runner.errors import Lost, Retryable, Unusable
from runner.provider.answer import Answer, Made, explained, request_id_of
from runner.provider.batches import Batches
from runner.provider.decode import AnswerDecoder, BadAnswer, Sink
from runner.provider.endpoint import Endpoint, Timeouts
from runner.provider.redact import Redaction
from runner.provider.translate import clean, date_of, heard
from runner.provider.transport import Sdk, http_client, keyless_logs, never_left, reason
from runner.provider.upload import Upload, Uploads
from runner.provider.wire import BROKEN, UNREADABLE, PassingSink, TooLong, Wire
from runner.provider.wording import words_of
from runner.rules.pacing import Heard
from runner.tasks import ImageRequest

_Call = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the provider says of a model: `shutdown_date` as ISO text, `server_time` (aware) from its Date header."""

    id: str
    owned_by: str | None
    shutdown_date: str | None
    server_time: dt.datetime | None


@asynccontextmanager
async def connect(endpoint: Endpoint, timeouts: Timeouts, *, connections: int) -> AsyncIterator[Client]:
    """A client for the block, with room for `connections` requests at a time."""
    http = http_client(connect_s=timeouts.connect_s, stall_s=timeouts.stall_s, connections=connections)
    redaction = Redaction(endpoint.api_key, public=endpoint.provider)
    with keyless_logs(redaction):
        async with Sdk(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            max_retries=0,
            http_client=http,
            timeout=None,
        ) as sdk:
            if endpoint.provider != "openai":
                # The SDK reads them from the environment for every server; they are nobody else's business.
                sdk.organization = sdk.project = None
            yield Client(endpoint, timeouts, sdk, http, redaction)


class Client:
    """One provider endpoint; safe for many requests at a time."""

    def __init__(
        self,
        endpoint: Endpoint,
        timeouts: Timeouts,
        sdk: Sdk,
        http: httpx2.AsyncClient,
        redaction: Redaction,
    ) -> None:
        self.endpoint = endpoint
        self._timeouts = timeouts
        self._sdk = sdk
        # Named here: the SDK reads its modules when they are first named, and the first request is to leave in time.
        self._images = sdk.images.with_streaming_response
        self._wire = Wire(endpoint, timeouts, sdk, http, redaction)

    @cached_property
    def batches(self) -> Batches:
        """The Batch API of this endpoint."""
        return Batches(self._wire)

    async def generate(
        self,
        request: ImageRequest,
        *,
        model: str,
        sink: Sink,
        on_headers: Callable[[Mapping[str, Heard]], None],
        uploads: Sequence[Upload] = (),
    ) -> Made:
        """Ask for one image and stream it into `sink`; one request, never repeated.

        `uploads` are the files of an edit's images in their order, and that of its mask after them.

        Raises:
            ProviderError: Retryable (not billed), Lost (possibly billed), Unusable (billed, no image), Refused,
                StopRun.
            Exception: whatever `sink.write` raises, as it is.
        """
        words, answer, outer = words_of(request), Answer(), PassingSink(sink)
        with self._wire.keyless(outer):
            with suppress(TimeoutError):
                with anyio.move_on_after(self._timeouts.total_s), self._call(request, uploads, answer) as call:
                    made = await self._generate(call, model, words, outer, on_headers, answer)
                    return self._wire.fit_to_keep(made)
                answer.waiting_for = "timeout_total"
            raise answer.overdue(self._timeouts)

    async def model(self, name: str) -> ModelInfo:
        """What the provider says of a model; free of charge.

        Raises:
            ProviderError: it is not served, or there is no answer that can be read.
        """
        with self._wire.keyless():
            info = await self._model(name)
        text, optional = self._wire.redaction.text, self._wire.redaction.optional
        return replace(
            info,
            id=text(info.id),
            owned_by=optional(info.owned_by),
            shutdown_date=optional(info.shutdown_date),
        )

    async def _model(self, name: str) -> ModelInfo:
        try:
            with anyio.fail_after(self._timeouts.connect_s + 20):
                raw = await self._sdk.models.with_raw_response.retrieve(name)
                found = raw.parse()
        except TimeoutError:
            raise Retryable("no answer to a question about a model", code="timeout_first_byte") from None
        except openai.OpenAIError as error:
            raise self._wire.translated(error, name) from error
        except UNREADABLE as error:
            raise Retryable(f"the answer about a model cannot be read ({reason(error)})", code="bad_answer") from error
        told = {field: getattr(found, field, None) for field in ("id", "owned_by", "shutdown_date")}
        words = {field: clean(value) for field, value in told.items() if isinstance(value, str)}
        if "id" not in words:
            raise Retryable("the answer about a model is not what the API documents", code="bad_answer")
        return ModelInfo(words["id"], words.get("owned_by"), words.get("shutdown_date"), date_of(raw.headers))

    @contextmanager
    def _call(self, request: ImageRequest, files: Sequence[Upload], answer: Answer) -> Iterator[_Call]:
        """The SDK's method for a request, with what it starts from."""
        edit = request.edit
        if edit is None:
            yield partial(self._images.generate, prompt=request.prompt)
            return
        count = len(edit.images)
        mask = files[count] if edit.mask is not None else None
        uploads = answer.uploads = Uploads(files[:count], mask, answer.has_moved)
        words: dict[str, Any] = {"image": uploads.images, "prompt": request.prompt}
        if uploads.mask is not None:
            words["mask"] = uploads.mask
        if edit.fidelity is not None:
            words["input_fidelity"] = edit.fidelity
        with closing(uploads):
            yield partial(self._images.edit, **words)

    async def _generate(
        self,
        call: _Call,
        model: str,
        words: dict[str, Any],
        sink: PassingSink,
        on_headers: Callable[[Mapping[str, Heard]], None],
        answer: Answer,
    ) -> Made:
        decoder = AnswerDecoder(sink)
        async with AsyncExitStack() as stack:
            try:
                with anyio.fail_after(self._timeouts.first_byte_s) as scope:
                    # While files are being sent, the wait for the answer has not begun.
                    answer.waits(scope, self._timeouts.first_byte_s)
                    response = await stack.enter_async_context(call(model=model, n=1, **words))
                answer.http_status = response.status_code
                answer.request_id = request_id_of(response.headers)
                answer.headers = response.headers
                on_headers(heard(response.headers))
                answer.waiting_for = "timeout_stall"
                await self._wire.receive(response.http_response, decoder.feed)
            except BadAnswer as error:
                raise explained(error, answer) from None
            except TooLong as error:
                raise Unusable(f"the answer is {error}", code="answer_too_large") from None
            except openai.APIStatusError as error:
                on_headers(heard(error.response.headers))
                raise self._wire.translated(error, model) from None
            except openai.OpenAIError as error:
                unsent = answer.unsent() if never_left(error) is None else None
                raise unsent or self._wire.translated(error, model) from error
            except BROKEN as error:
                if isinstance(error, TimeoutError) or error is sink.raised:
                    raise
                raise Lost(
                    f"the connection broke in the middle of the answer ({reason(error)})",
                    code="connection_cut",
                    http_status=answer.http_status,
                    request_id=answer.request_id,
                ) from error
        answer.waiting_for = "timeout_total"
        try:
            envelope = decoder.finish()
        except BadAnswer as error:
            raise explained(error, answer) from None
        if envelope.image_bytes == 0 and envelope.url is not None:
            answer.usage = envelope.usage
            await self._wire.fetch(envelope.url, sink, answer)
        return Made(envelope, answer.http_status or 200, answer.request_id)
