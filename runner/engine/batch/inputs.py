"""The pictures of edits in a batch: each is sent to the provider once, and named by its id there from then on.

Owns which input lies at the provider under which id, and for how long that can be relied on. Refuses to know what a
picture shows: it is known by its identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial

import anyio

from runner.engine.batch.common import Desk, in_thread
from runner.errors import ProviderError, Refused
from runner.ledger import Todo
from runner.provider import Purpose, RemoteFile, Upload
from runner.tasks import Source

KEEP_S = 30 * 86_400
"""How long the provider is asked to keep an input: the longest that it can be asked for."""
NEEDED_S = 3 * 86_400
"""How long it must still be there when a batch that names it is submitted: 24 h, and room for a slow queue."""
_WAYS: tuple[tuple[Purpose, int | None], ...] = (("vision", KEEP_S), ("user_data", KEEP_S), ("vision", None))
"""What an input is sent as, and how long it is to be kept: no document says which purpose is the one for edits."""
_PURPOSES: tuple[Purpose, ...] = ("vision", "user_data")
AT_ONCE = 4
_MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


class RemoteInputs:
    """The inputs of one run's batches, as they lie at the provider."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._ids: dict[str, str] = {}
        self._there: set[str] | None = None
        self._has_asked = False

    async def ids(self, todos: Iterable[Todo]) -> dict[str, str]:
        """The id at the provider of every input of these tasks, by its identity; what is not there is sent.

        Raises:
            InputError: a file is gone, or shows something else than it did.
            ProviderError: it cannot be sent.
        """
        wanted = {source.identity: source for todo in todos for source in todo.sources}
        if not wanted:
            return {}
        await self._remembered(sorted(wanted))
        missing = [source for identity, source in wanted.items() if identity not in self._ids]
        limiter = anyio.Semaphore(AT_ONCE)
        trouble: list[Exception] = []
        async with anyio.create_task_group() as group:
            for source in missing:
                group.start_soon(self._send, source, limiter, trouble)
        if trouble:
            raise trouble[0]
        return {identity: self._ids[identity] for identity in wanted}

    async def _remembered(self, identities: list[str]) -> None:
        """Look up what an earlier batch has sent, and whether it is there still."""
        desk = self._desk
        unknown = [identity for identity in identities if identity not in self._ids]
        place = desk.terms.base_url
        if not unknown or place is None:
            return
        good_ms = desk.now_ms() + NEEDED_S * 1000
        found = await in_thread(lambda: desk.ledger.batches.remote_files(place, unknown, good_ms=good_ms))
        if found and not self._has_asked:
            self._there, self._has_asked = await self._listed(), True
        there = self._there
        self._ids.update(
            (identity, file_id) for identity, file_id in found.items() if there is None or file_id in there
        )

    async def _listed(self) -> set[str] | None:
        """What lies at the provider; None where it does not tell: then the record is believed."""
        try:
            return {file.id for purpose in _PURPOSES async for file in self._desk.api.files(purpose)}
        except ProviderError:
            return None

    async def _send(self, source: Source, limiter: anyio.Semaphore, trouble: list[Exception]) -> None:
        desk = self._desk
        async with limiter:
            if trouble:
                return
            try:
                (upload,) = await in_thread(lambda: desk.inputs([source]))
                file = await self._upload(source.identity, upload)
            except Exception as error:  # told to whoever waits for all of them
                trouble.append(error)
                return
            self._ids[source.identity] = file.id
            place = desk.terms.base_url
            if place is not None:
                expires_ms = None if file.expires_at is None else file.expires_at * 1000
                await in_thread(
                    lambda: desk.ledger.batches.remember(
                        place, source.identity, file.id, expires_ms=expires_ms, now_ms=desk.now_ms()
                    )
                )

    async def _upload(self, identity: str, upload: Upload) -> RemoteFile:
        """Send one file, in the first way that the provider takes."""
        desk = self._desk
        *others, last = _WAYS
        send = partial(
            desk.api.upload,
            upload.path,
            filename=f"{identity[:32]}.{upload.format}",
            media_type=_MEDIA[upload.format],
        )
        for purpose, expires_after_s in others:
            with suppress(Refused):
                return await desk.persist(partial(send, purpose=purpose, expires_after_s=expires_after_s))
        purpose, expires_after_s = last
        return await desk.persist(partial(send, purpose=purpose, expires_after_s=expires_after_s))
