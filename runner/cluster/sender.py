"""On a node: an actor that sends requests and receives their images into the store.

Owns what of a request is on this node: its file, its way to be cancelled, the pictures that go with it. Refuses to
choose what is sent and when, and to try anything again: one question is one request.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import anyio.to_thread

from runner.cluster.looking import opened
from runner.cluster.messages import Answer, Brought, Failed, Picture, Place, Ready, Service, Unmade
from runner.engine.descriptors import descriptors
from runner.engine.sink import ImageSink
from runner.errors import Lost, ProviderError, Retryable, RunnerError, StoreError
from runner.provider import Client, Upload, connect
from runner.rules.concurrency import descriptors_for, places_for
from runner.rules.pacing import Heard
from runner.store import BadImage, Partial, Store
from runner.tasks import ImageRequest

_MOST_PICTURES = 64
"""Files of inputs that are kept for further requests."""


class Sender:
    """One on each node. All of its methods run in one event loop."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._partials: dict[int, Partial] = {}
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._pictures: _Pictures | None = None
        self._store: Store | None = None
        self._client: Client | None = None

    async def open(self, place: Place, service: Service) -> Ready:
        """Begin: look at the store and connect."""
        store = await anyio.to_thread.run_sync(opened, place)
        if isinstance(store, Ready):
            return store
        for name in _OF_THE_DRIVER:
            os.environ.pop(name, None)
        os.environ.update(service.environment)
        room = places_for(descriptors(descriptors_for(service.connections)))
        self._client = await self._stack.enter_async_context(
            connect(service.endpoint, service.timeouts, connections=service.connections)
        )
        self._store = store
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="runner-inputs-"))
        self._pictures = _Pictures(Path(folder))
        return Ready(room=min(room, service.connections))

    async def prepare(self, attempt_id: int, placed: Sequence[int] = ()) -> Unmade | None:
        """Make the file that an image is to be received into; why there is none, before anything leaves.

        `placed` are attempts whose files the driver has given their names by itself.
        """
        for other in placed:
            self._partials.pop(other, None)
        if self._store is None:
            return Unmade("this node has not begun")
        try:
            self._partials[attempt_id] = self._store.partial(attempt_id)
        except StoreError as error:
            return Unmade(str(error))
        return None

    async def send(
        self, attempt_id: int, request: ImageRequest, model: str, pictures: Sequence[Picture] = ()
    ) -> Answer:
        """Make one request and receive its image; the file is sealed when this returns."""
        heard: list[Mapping[str, Heard]] = []
        sink = ImageSink(self._partials[attempt_id])
        try:
            with anyio.CancelScope() as scope:
                self._scopes[attempt_id] = scope
                return await self._send(sink, request, model, pictures, heard)
            error: ProviderError | StoreError = Lost("stopped while this request was under way", code="interrupted")
        except (ProviderError, StoreError) as failure:
            error = failure
        except Exception as failure:
            # By its kind only: its words may be of a library that knows the key.
            error = Lost(f"the node met an error of its own ({type(failure).__name__})", code="node_failed")
        finally:
            self._scopes.pop(attempt_id, None)
        self._discard(attempt_id)
        return Failed(error, heard)

    async def _send(
        self,
        sink: ImageSink,
        request: ImageRequest,
        model: str,
        pictures: Sequence[Picture],
        heard: list[Mapping[str, Heard]],
    ) -> Brought:
        if self._client is None or self._pictures is None:
            raise Retryable("this node has not begun", code="node_failed")
        async with self._pictures.held(pictures) as uploads:
            made = await self._client.generate(
                request, model=model, sink=sink, on_headers=heard.append, uploads=uploads
            )
        # What is paid for is sealed also when the run is being stopped at once.
        with anyio.CancelScope(shield=True):
            try:
                sealed = await anyio.to_thread.run_sync(sink.seal)
            except BadImage as error:
                return Brought(made, None, (error.message, error.code), heard)
        return Brought(made, sealed, None, heard)

    async def place(self, attempt_id: int, path: str) -> RunnerError | None:
        """Give the sealed file of an attempt its own name; what kept it from that."""
        try:
            if self._store is None:
                raise StoreError("this node has not begun")
            await anyio.to_thread.run_sync(self._store.place, attempt_id, path)
        except RunnerError as error:
            return error
        self._partials.pop(attempt_id, None)
        return None

    async def cancel(self, attempt_id: int) -> None:
        """Give a request up that is under way, and what was received of it."""
        scope = self._scopes.get(attempt_id)
        if scope is not None:
            scope.cancel()

    async def discard(self, attempt_id: int) -> None:
        """Remove what was received; it is of no use."""
        self._discard(attempt_id)

    def _discard(self, attempt_id: int) -> None:
        partial = self._partials.pop(attempt_id, None)
        if partial is not None:
            partial.discard()


_OF_THE_DRIVER = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
"""What the SDK reads from its environment: the driver's counts, on whichever node."""


def environment() -> dict[str, str]:
    """The driver's environment, as far as a client reads it."""
    return {name: os.environ[name] for name in _OF_THE_DRIVER if name in os.environ}


class _Pictures:
    """The files of inputs on this node: each fetched once while it is in use, and for some time after."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: OrderedDict[str, Path] = OrderedDict()
        self._users: dict[str, int] = {}
        self._turn = anyio.Lock()
        self._count = 0

    @asynccontextmanager
    async def held(self, pictures: Sequence[Picture]) -> AsyncIterator[Sequence[Upload]]:
        """Files to send, for the block.

        Raises:
            Retryable: one of them cannot be had; nothing has left.
        """
        for picture in pictures:
            self._users[picture.identity] = self._users.get(picture.identity, 0) + 1
        try:
            # One at a time: no more than one is in memory, however many requests wait.
            async with self._turn:
                uploads = [await self._upload(picture) for picture in pictures]
            yield uploads
        finally:
            for picture in pictures:
                self._users[picture.identity] -= 1
            self._make_room()

    async def _upload(self, picture: Picture) -> Upload:
        path = self._files.get(picture.identity)
        if path is None:
            self._count += 1
            path = self._folder / str(self._count)
            try:
                data = await cast(Awaitable[bytes], picture.where[0])
                await anyio.to_thread.run_sync(path.write_bytes, data)
            except Exception as error:
                told = f"an input could not be brought to the node ({type(error).__name__})"
                raise Retryable(told, code="input_unreadable") from error
            self._files[picture.identity] = path
        self._files.move_to_end(picture.identity)
        return Upload(path, picture.bytes, picture.format)

    def _make_room(self) -> None:
        for identity in list(self._files):
            if len(self._files) <= _MOST_PICTURES:
                break
            if not self._users.get(identity):
                self._users.pop(identity, None)
                self._files.pop(identity).unlink(missing_ok=True)
