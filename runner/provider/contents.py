"""The bytes of a file that lies at the provider, from any place on, as they come.

Owns ranges, redirects and how long is waited for the next byte. Refuses to know what the bytes say. To ask again costs
nothing, so that whatever breaks is `Retryable`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from urllib.parse import urljoin, urlsplit

import anyio
import httpx2
import openai

from runner.errors import Expired, ProviderError, Retryable
from runner.provider.transport import pieces, reason
from runner.provider.wire import UNREADABLE, NoSuch, Wire, harmless

MAX_REDIRECTS = 5

_REDIRECTS = {301, 302, 303, 307, 308}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-")


class Contents:
    """One file, from `start_bytes` on; it is asked for when the first piece is wanted."""

    def __init__(self, wire: Wire, file_id: str, start_bytes: int) -> None:
        self._wire = wire
        self._file_id = file_id
        self._start_bytes = start_bytes
        self._before_bytes = 0  # so many of those that are still to come lie before the start
        self._stack = AsyncExitStack()
        self._pieces: AsyncGenerator[bytes, None] | None = None
        self._ended = False

    async def piece(self) -> bytes | None:
        """The next bytes, never none of them; None at the end of the file.

        Raises:
            ProviderError: Retryable, Expired (`file_gone`), and what the table makes of another answer.
        """
        if self._pieces is None and not self._ended:
            await self._open()
        while self._pieces is not None:
            try:
                with anyio.fail_after(self._wire.timeouts.stall_s):
                    piece = await anext(self._pieces)
            except StopAsyncIteration:
                self._pieces, self._ended = None, True
                break
            except TimeoutError:
                words = f"the file stalled: nothing more came within {self._wire.timeouts.stall_s:g} s"
                raise Retryable(words, code="timeout_stall") from None
            except UNREADABLE as error:
                raise Retryable(f"the file broke off ({reason(error)})", code="connection_cut") from error
            dropped = min(self._before_bytes, len(piece))
            self._before_bytes -= dropped
            if dropped < len(piece):
                return piece[dropped:] if dropped else piece
        return None

    async def aclose(self) -> None:
        """Give the connection back."""
        if self._pieces is not None:
            await self._pieces.aclose()
        await self._stack.aclose()

    async def _open(self) -> None:
        """Ask for the file, and see what of it comes."""
        from_start = self._start_bytes > 0
        response = await self._ask({"Range": f"bytes={self._start_bytes}-"} if from_start else {})
        if response is not None and response.status_code == 206 and not self._goes_on(response):
            # What is sent begins elsewhere, or is packed, so that no one knows where: all of it, then.
            await self._stack.aclose()
            response = await self._ask({})
        if response is None:
            self._ended = True
            return
        whole = response.status_code == 200
        if not whole and not (response.status_code == 206 and self._goes_on(response)):
            raise Retryable(
                f"the provider answers HTTP {response.status_code} instead of the file",
                code="file_not_fetched",
                http_status=response.status_code,
            )
        if response.headers.get("content-type", "").lower().startswith("text/html"):
            raise Retryable("a page came instead of the file", code="file_not_fetched", http_status=200)
        self._before_bytes = self._start_bytes if whole else 0
        self._pieces = pieces(response)

    def _goes_on(self, response: httpx2.Response) -> bool:
        """Whether a part of the file is the one that was asked for, as it lies there."""
        found = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
        packed = response.headers.get("content-encoding", "identity") != "identity"
        return found is not None and int(found[1]) == self._start_bytes and not packed

    async def _ask(self, wanted: Mapping[str, str]) -> httpx2.Response | None:
        """The answer to a request for the file; None where it ends before what is wanted begins."""
        headers = {"Accept-Encoding": "identity", **wanted}
        try:
            try:
                with anyio.fail_after(self._wire.timeouts.first_byte_s):
                    call = self._wire.sdk.files.with_streaming_response.content(self._file_id, extra_headers=headers)
                    answer = await self._stack.enter_async_context(call)
                return answer.http_response
            except openai.APIStatusError as error:
                if error.status_code == 416 and wanted:
                    return None
                if error.status_code not in _REDIRECTS:
                    raise self._refused(error) from None
                response = await self._followed(error, headers)
                if response.status_code == 416 and wanted:
                    return None
                return response
        except openai.OpenAIError as error:
            raise harmless(self._wire.translated(error, "the model")) from error
        except TimeoutError:
            words = f"no answer within {self._wire.timeouts.first_byte_s:g} s"
            raise Retryable(words, code="timeout_first_byte") from None
        except UNREADABLE as error:
            raise Retryable(f"the file cannot be fetched ({reason(error)})", code="file_not_fetched") from error

    def _refused(self, error: openai.APIStatusError) -> ProviderError:
        told = harmless(self._wire.translated_of_one(error))
        if isinstance(told, NoSuch):
            return Expired(told.message, code="file_gone", http_status=told.http_status, request_id=told.request_id)
        return told

    async def _followed(self, error: openai.APIStatusError, headers: Mapping[str, str]) -> httpx2.Response:
        """What lies where an answer points to; the key goes along only to where it belongs.

        Raises:
            ProviderError: it points to nowhere that may be asked.
        """
        url, own = str(error.response.request.url), self._wire.endpoint
        told: httpx2.Response = error.response
        for _ in range(MAX_REDIRECTS):
            url = urljoin(url, told.headers.get("location", ""))
            try:
                self._wire.check_address(url)
            except ValueError:
                break
            key = {"Authorization": f"Bearer {own.api_key}"} if _origin(url) == _origin(own.base_url) else {}
            with anyio.fail_after(self._wire.timeouts.first_byte_s):
                told = await self._stack.enter_async_context(
                    self._wire.http.stream("GET", url, headers={**headers, **key}, follow_redirects=False)
                )
            if told.status_code not in _REDIRECTS:
                return told
            await self._stack.aclose()
        raise self._wire.translated(error, "the model") from None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
