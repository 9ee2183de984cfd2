"""In the driver: the engine's generator and landing, which have every request made on some node.

Owns which node makes which attempt, and what the death of one means for those that are there: they are lost, and in
doubt on record. Refuses to try anything again: the pool does, and pays for it.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from runner import __version__
from runner.cluster.crew import Crew, Gone, Kind, Member, NobodyLeft
from runner.cluster.joining import Cluster
from runner.cluster.messages import Answer, Brought, Failed, Picture, Place, Service, Unmade
from runner.cluster.sender import Sender, environment
from runner.engine.sink import ImageSink
from runner.errors import InputError, Lost, Retryable, RunnerError, StoreError
from runner.provider import Endpoint, Made, Timeouts, Upload
from runner.provider.decode import Sink
from runner.provider.endpoint import is_loopback
from runner.rules.pacing import Heard
from runner.store import BadImage, Output, Partial, Sealed, Store
from runner.tasks import ImageRequest

NODE_DIED = "node_died"
"""The code of a request whose node is gone."""
_BESIDE = 64
"""Calls to a sender beside the requests themselves: files to make, to place, to discard."""
_PICTURES_BYTES = 64 << 20
"""Inputs that are kept in the cluster's memory for further requests."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What a pool needs to have its requests made on a cluster."""

    client: Dispatcher
    landing: Nodes


@asynccontextmanager
async def sending(
    cluster: Cluster,
    store: Store,
    endpoint: Endpoint,
    timeouts: Timeouts,
    *,
    most: int,
    warn: Callable[[str], None],
    end: Callable[[RunnerError, str], None],
) -> AsyncIterator[Sending]:
    """Senders on all nodes for the block, for `most` requests at a time; `end` stops the run.

    Raises:
        InputError: a node cannot be used; nothing was sent.
        StoreError: the store cannot be written.
    """
    await anyio.to_thread.run_sync(_reachable, cluster, endpoint)
    async with seen(store) as place:
        service = Service(endpoint, timeouts, most, environment())
        kind = Kind("requests", Sender, (place, service), cpus=0, at_once=most * 2 + _BESIDE)
        crew = Crew(cluster, kind, warn=warn)
        try:
            await crew.begin()
            async with anyio.create_task_group() as group:
                group.start_soon(crew.run)
                nodes = Nodes(crew, store)
                yield Sending(Dispatcher(cluster, crew, nodes, end), nodes)
                group.cancel_scope.cancel()
        finally:
            crew.close()


@asynccontextmanager
async def seen(store: Store) -> AsyncIterator[Place]:
    """The place of a store, with something in it by which a node knows it, for the block."""
    token = secrets.token_bytes(16)
    path = f"{store.job}/.partial/nodes-{token.hex()}"
    output: Output = store.output.absolute() if isinstance(store.output, Path) else store.output
    await anyio.to_thread.run_sync(store.derived.put, path, token)
    try:
        yield Place(output, store.job, path, token, __version__)
    finally:
        with anyio.CancelScope(shield=True), suppress(StoreError):
            await anyio.to_thread.run_sync(store.release, path)


def _reachable(cluster: Cluster, endpoint: Endpoint) -> None:
    """See that a server of this very machine is asked by nodes of this machine only."""
    if not is_loopback(urlsplit(endpoint.base_url).hostname or ""):
        return
    own = cluster.own_address
    away = [node.name for node in cluster.nodes() if node.address != own]
    if away:
        raise InputError(
            f"{endpoint.base_url} is this machine alone, and a node of the cluster is another: {away[0]}",
            hint="serve it on an address that the nodes reach, and name that with --base-url",
        )


class Arriving:
    """An image that some node receives, or none yet: the driver's side of a `Partial`."""

    def __init__(self, nodes: Nodes, attempt_id: int) -> None:
        self._nodes = nodes
        self.attempt_id = attempt_id
        self.member: Member | None = None
        self.answer: Brought | None = None

    def write(self, _data: bytes, /) -> None:
        """Nothing of it passes here."""
        raise RuntimeError("an image of a node was written in the driver")

    def seal(self) -> Sealed:
        """What the node has sealed.

        Raises:
            BadImage: it is not whole.
        """
        if self.answer is None or self.answer.sealed is None:
            message, code = (self.answer.bad if self.answer else None) or ("nothing was received", "incomplete_image")
            raise BadImage(message, code=code)
        return self.answer.sealed

    def discard(self) -> None:
        """Have what was received removed; it is of no use."""
        self._nodes.discard(self)


class Nodes:
    """The engine's landing: images are received on nodes, and get their names where their bytes are."""

    def __init__(self, crew: Crew, store: Store) -> None:
        self._crew = crew
        self._store = store
        self._arriving: dict[int, Arriving] = {}
        self._placed: dict[Member, list[int]] = {}

    @property
    def is_remote(self) -> bool:
        """Whether `place` waits for a node: it does not where the driver sees the same folder."""
        return self._store.is_remote

    def partial(self, attempt_id: int) -> Partial:
        """Room for the image of an attempt; which node receives it is not chosen yet."""
        arriving = self._arriving[attempt_id] = Arriving(self, attempt_id)
        return arriving

    def place(self, attempt_id: int, path: str) -> None:
        """Have a sealed image given its own name, durably and verified. Blocking.

        Raises:
            StoreError: as `Store.place`.
            Lost: the node died with it.
        """
        arriving = self._arriving.pop(attempt_id)
        member = arriving.member
        if not self._store.is_remote or member is None:
            # A shared folder: a change of name needs no node, and so none can die before it.
            self._store.place(attempt_id, path)
            if member is not None:
                self._placed.setdefault(member, []).append(attempt_id)
            return
        try:
            error: RunnerError | None = self._crew.ask_blocking(member, "place", attempt_id, path)
        except Gone as gone:
            self._place_after(arriving, path, gone)
            return
        if error is not None:
            raise error

    def _place_after(self, arriving: Arriving, path: str, gone: Gone) -> None:
        """The node is gone: it may have placed the image before, or its disk be this machine's."""
        sha256 = arriving.seal().sha256
        if self._store.partial_matches(arriving.attempt_id, sha256):
            self._store.place(arriving.attempt_id, path)
        elif not self._store.matches(path, sha256):
            raise Lost(f"the node {gone.node.name} died with the image that it had received", code=NODE_DIED)

    def placed(self, member: Member) -> list[int]:
        """Attempts that this sender need not remember any more; each is told once."""
        return self._placed.pop(member, [])

    def discard(self, arriving: Arriving) -> None:
        """See `Arriving.discard`."""
        self._arriving.pop(arriving.attempt_id, None)
        if arriving.member is not None:
            self._crew.tell(arriving.member, "discard", arriving.attempt_id)


class Dispatcher:
    """The engine's generator: each request is made by the sender with the most room."""

    def __init__(self, cluster: Cluster, crew: Crew, nodes: Nodes, end: Callable[[RunnerError, str], None]) -> None:
        self._cluster = cluster
        self._crew = crew
        self._nodes = nodes
        self._end = end
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._shipping = anyio.Lock()

    @property
    def room(self) -> int:
        """Requests that the nodes take at a time."""
        return self._crew.room

    async def generate(
        self,
        request: ImageRequest,
        *,
        model: str,
        sink: Sink,
        on_headers: Callable[[Mapping[str, Heard]], None],
        uploads: Sequence[Upload] = (),
    ) -> Made:
        """Have one request made; see `engine.shared.Generator`. What it brings is in the sink's `Arriving`.

        Raises:
            Lost: the node died meanwhile.
            ProviderError, StoreError: as the node says.
        """
        arriving = _arriving(sink)
        pictures = [await self._picture(upload) for upload in uploads]
        member = arriving.member = await self._prepared(arriving.attempt_id)
        try:
            answer: Answer = await self._crew.ask(member, "send", arriving.attempt_id, request, model, pictures)
        except Gone as gone:
            raise Lost(f"the node {gone.node.name} died while this request was under way", code=NODE_DIED) from None
        except BaseException:
            # Given up by a person: that there is no answer is on record, and the node need not wait for one.
            self._crew.tell(member, "cancel", arriving.attempt_id)
            raise
        finally:
            self._crew.done(member)
        for heard in answer.heard:
            on_headers(heard)
        if isinstance(answer, Failed):
            raise answer.error
        arriving.answer = answer
        return answer.made

    async def _prepared(self, attempt_id: int) -> Member:
        """A sender that has a file for the image: what fails until then is no doubt, and another is asked.

        Raises:
            Retryable: there is none, and the run ends.
        """
        while True:
            try:
                member = await self._crew.choose()
            except NobodyLeft as error:
                raise self._ended(error, "no_node") from None
            try:
                unmade: Unmade | None = await self._crew.ask(member, "prepare", attempt_id, self._nodes.placed(member))
            except Gone:
                self._crew.done(member)
                continue
            except BaseException:
                self._crew.done(member)
                raise
            if unmade is None:
                return member
            self._crew.done(member)
            self._crew.lose(member, unmade.message)
            if not self._crew.nodes:
                raise self._ended(StoreError(unmade.message), "store_failed")

    def _ended(self, error: RunnerError, code: str) -> Retryable:
        self._end(error, "failed")
        return Retryable(error.message, code=code)

    async def _picture(self, upload: Upload) -> Picture:
        """A file that goes with a request, in the cluster's memory; one at a time is in this process's."""
        async with self._shipping:
            try:
                identity = await anyio.to_thread.run_sync(_identity, upload)
                found = self._pictures.get(identity)
                if found is None:
                    data = await anyio.to_thread.run_sync(upload.path.read_bytes)
                    if len(data) != upload.bytes:
                        raise OSError(0, "it has changed")
                    where = await anyio.to_thread.run_sync(self._cluster.put, data)
                    found = self._pictures[identity] = Picture(identity, upload.bytes, upload.format, [where])
            except OSError as error:
                told = f"{upload.path} cannot be read: {error.strerror or error}"
                raise Retryable(told, code="input_unreadable") from error
            self._pictures.move_to_end(identity)
            while len(self._pictures) > 1 and sum(each.bytes for each in self._pictures.values()) > _PICTURES_BYTES:
                self._pictures.popitem(last=False)
            return found


def _arriving(sink: Sink) -> Arriving:
    if not isinstance(sink, ImageSink) or not isinstance(sink.partial, Arriving):
        raise TypeError("only what `Nodes.partial` has given can be received on a node")
    return sink.partial


def _identity(upload: Upload) -> str:
    """By what a file is the same as before, until someone changes it."""
    state = upload.path.stat()
    return f"{upload.path}:{state.st_size}:{state.st_mtime_ns}:{state.st_ino}"
