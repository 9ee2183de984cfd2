"""Who is asked, and what becomes of work when nodes go: the crew and the dispatcher without a cluster, and fast."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from runner.cluster import crew as crews
from runner.cluster.crew import Crew, Kind, NobodyLeft
from runner.cluster.joining import Cluster, Node
from runner.cluster.messages import Brought, Failed, Ready, Unmade
from runner.cluster.sending import Arriving, Dispatcher, Nodes
from runner.engine.sink import ImageSink
from runner.errors import InputError, Lost, Refused, Retryable, RunnerError, StoreError
from runner.provider import Made
from runner.provider.envelope import Envelope
from runner.store import store_at
from runner.store.folder import FolderStore
from runner.tasks import ImageRequest
from tests.engine.support import picture

pytestmark = pytest.mark.anyio
REQUEST = ImageRequest("A lighthouse", "gpt-image-2")
PNG = picture()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Fallen(Exception):
    """What Ray raises for an actor that is gone."""


class Actor:
    """Stands in for a sender: answers as it is told, or is gone."""

    def __init__(self, world: World, node: Node) -> None:
        self.world = world
        self.node = node
        self.asked: list[str] = []

    def __getattr__(self, question: str) -> Any:
        return _Method(self, question)

    async def answer(self, question: str, words: tuple[object, ...]) -> Any:
        self.asked.append(question)
        await anyio.sleep(0)
        if self.node.id in self.world.dead | self.world.silent:
            raise Fallen
        if question == "open":
            return self.world.ready
        return await self.world.answer(self, question, words)


class _Method:
    def __init__(self, actor: Actor, question: str) -> None:
        self._actor, self._question = actor, question

    def remote(self, *words: object) -> Awaitable[Any]:
        return self._actor.answer(self._question, words)


class World:
    """Stands in for a cluster: nodes that come and go."""

    errors = (Fallen,)

    def __init__(self, count: int) -> None:
        self.alive = [Node(f"n{number}", f"node {number}", "10.0.0.1", 1) for number in range(count)]
        self.dead: set[str] = set()
        self.silent: set[str] = set()
        """Dead as well, and nobody has noticed."""
        self.ready = Ready(room=2)
        self.actors: list[Actor] = []
        self.ended: list[Actor] = []
        self.answer: Callable[[Actor, str, tuple[object, ...]], Awaitable[Any]] = _well

    def nodes(self) -> list[Node]:
        return [node for node in self.alive if node.id not in self.dead]

    def actor(self, kind: type, node: Node, *, cpus: int, at_once: int) -> Actor:
        self.actors.append(Actor(self, node))
        return self.actors[-1]

    def wait(self, answer: Any) -> Any:
        answer.close()
        raise Fallen

    def end(self, actor: Actor) -> None:
        self.ended.append(actor)


async def _well(actor: Actor, question: str, words: tuple[object, ...]) -> Any:
    if question == "send":
        return Failed(Refused("no", code=f"seen_by_{actor.node.id}"), [])
    return None


def crew_of(world: World, said: list[str] | None = None) -> Crew:
    kind = Kind("requests", object, (), cpus=0, at_once=8)
    return Crew(cast(Cluster, world), kind, warn=(said if said is not None else []).append)


def dispatcher(world: World, crew: Crew, folder: Path, ended: list[RunnerError]) -> tuple[Dispatcher, Nodes]:
    store = store_at(folder, "job")
    store.prepare()
    nodes = Nodes(crew, store)
    return Dispatcher(cast(Cluster, world), crew, nodes, lambda error, reason: ended.append(error)), nodes


async def asked(client: Dispatcher, nodes: Nodes, number: int = 1) -> Any:
    sink = ImageSink(nodes.partial(number))
    return await client.generate(REQUEST, model="m", sink=sink, on_headers=lambda told: None)


async def test_work_goes_to_whoever_has_the_most_room_and_never_beyond_it() -> None:
    """Three nodes of two places each: six are shared evenly, and the seventh waits until one is given back."""
    crew = crew_of(World(3))
    await crew.begin()
    taken = [await crew.choose() for _ in range(6)]
    for three in (taken[:3], taken[3:]):
        assert {member.node.id for member in three} == {"n0", "n1", "n2"}
    with anyio.move_on_after(0.05) as scope:
        await crew.choose()
    assert scope.cancelled_caught
    crew.done(taken[3])
    assert await crew.choose() is taken[3]


async def test_a_node_that_is_of_no_use_ends_it_before_anything_is_sent() -> None:
    """What it says is the error, and what it began is ended."""
    world = World(2)
    world.ready = Ready("it has another version", hint="install the same")
    with pytest.raises(InputError, match="another version"):
        await crew_of(world).begin()
    assert len(world.ended) == 2


async def test_a_node_that_does_not_answer_does_not_keep_others_from_beginning() -> None:
    """It may have died a moment ago, and the cluster not have noticed: it is told of, and only others are asked."""
    world, said = World(2), list[str]()
    world.silent = {"n0"}
    crew = crew_of(world, said)
    await crew.begin()
    assert ((await crew.choose()).node.id, crew.nodes) == ("n1", 1)
    assert len(said) == 1
    assert "node 0" in said[0]
    world.silent.add("n1")
    with pytest.raises(InputError, match="nothing can be begun"):
        await crew_of(world).begin()


async def test_a_node_that_died_before_a_request_left_is_no_doubt(tmp_path: Path) -> None:
    """The question for a file fails, so nothing has left: another node is asked, and nobody is told of a loss."""
    world, ended = World(2), list[RunnerError]()
    crew = crew_of(world)
    await crew.begin()
    world.dead = {"n0"}
    client, nodes = dispatcher(world, crew, tmp_path, ended)
    for number in range(4):
        with pytest.raises(Refused) as caught:
            await asked(client, nodes, number)
        assert caught.value.code == "seen_by_n1"
    assert (crew.nodes, ended) == (1, [])


async def test_a_node_that_dies_with_a_request_has_lost_it(tmp_path: Path) -> None:
    """In doubt, with its name and the code for it; the next request goes to another."""
    world, said = World(2), list[str]()

    async def dies(actor: Actor, question: str, words: tuple[object, ...]) -> Any:
        if question == "send":
            world.dead.add(actor.node.id)
            raise Fallen
        return None

    world.answer = dies
    crew = crew_of(world, said)
    await crew.begin()
    client, nodes = dispatcher(world, crew, tmp_path, [])
    with pytest.raises(Lost) as caught:
        await asked(client, nodes)
    (dead,) = (node for node in world.alive if node.id in world.dead)
    assert caught.value.code == "node_died"
    assert dead.name in caught.value.message
    assert crew.nodes == 1
    assert said == [f"requests on the node {dead.name}: it has died, with 1 under way there; others go on"]


async def test_a_node_whose_disk_refuses_is_left_out(tmp_path: Path) -> None:
    """Another is asked; when all refuse, the run ends with what they say, and nothing is in doubt."""
    world, ended, said = World(2), list[RunnerError](), list[str]()
    full: set[str] = set()

    async def refuses(actor: Actor, question: str, words: tuple[object, ...]) -> Any:
        if question == "prepare" and actor.node.id in full:
            return Unmade("the disk is full")
        return await _well(actor, question, words)

    world.answer = refuses
    crew = crew_of(world, said)
    await crew.begin()
    client, nodes = dispatcher(world, crew, tmp_path, ended)
    first = await crew.choose()
    crew.done(first)
    full.add(first.node.id)
    with anyio.fail_after(5), pytest.raises(Refused):
        await asked(client, nodes, 1)
    assert (ended, crew.nodes) == ([], 1)
    full |= {node.id for node in world.alive}
    with anyio.fail_after(5), pytest.raises(Retryable, match="the disk is full"):
        await asked(client, nodes, 2)
    assert [type(error) for error in ended] == [StoreError]
    assert len(said) == 2


async def test_with_nobody_left_the_run_ends_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and the request that waited never left."""
    monkeypatch.setattr(crews, "PATIENCE_S", 0.1)
    world, ended = World(1), list[RunnerError]()
    crew = crew_of(world)
    await crew.begin()
    world.dead = {"n0"}
    client, nodes = dispatcher(world, crew, tmp_path, ended)
    with pytest.raises(Retryable, match="no node of the cluster"):
        await asked(client, nodes)
    assert [type(error) for error in ended] == [NobodyLeft]


async def test_nodes_that_come_are_recruited_and_those_that_go_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by looking, without a request that fails first."""
    monkeypatch.setattr(crews, "LOOK_EVERY_S", 0.01)
    world, said = World(1), list[str]()
    crew = crew_of(world, said)
    await crew.begin()
    async with anyio.create_task_group() as group:
        group.start_soon(crew.run)
        world.alive.append(Node("n7", "node 7", "10.0.0.2", 1))
        await _until(lambda: crew.nodes == 2)
        world.dead.add("n0")
        await _until(lambda: crew.nodes == 1)
        group.cancel_scope.cancel()
    assert said == ["requests on the node node 0: it has died; others go on"]


async def test_a_request_that_is_given_up_is_cancelled_on_its_node(tmp_path: Path) -> None:
    """Its place is free again, and the node is told to stop and to throw away what it has."""
    world = World(1)

    async def forever(actor: Actor, question: str, words: tuple[object, ...]) -> Any:
        if question == "send":
            await anyio.sleep_forever()
        return None

    told: list[str] = []
    world.answer = forever
    crew = crew_of(world)
    await crew.begin()
    crew.tell = lambda member, question, *words: told.append(question)  # type: ignore[method-assign]  # to listen
    client, nodes = dispatcher(world, crew, tmp_path, [])
    arriving = nodes.partial(1)
    with anyio.move_on_after(0.05):
        await client.generate(REQUEST, model="m", sink=ImageSink(arriving), on_headers=lambda heard: None)
    arriving.discard()
    assert told == ["cancel", "discard"]
    assert (await crew.choose()).busy == 1


class Remote(FolderStore):
    """A folder that is taken for a bucket: images get their names where they were received."""

    is_remote = True


@pytest.mark.parametrize("left", ["spool", "placed", "nothing"])
async def test_an_image_whose_node_died_is_lost_only_if_it_is_nowhere(tmp_path: Path, left: str) -> None:
    """Neither in the spool of this machine, nor under its name, where the node may have put it before it died."""
    world = World(1)
    crew = crew_of(world)
    await crew.begin()
    store = Remote(tmp_path, "job")
    store.prepare()
    nodes = Nodes(crew, store)
    arriving = nodes.partial(1)
    assert isinstance(arriving, Arriving)
    received = store.partial(1)
    received.write(PNG)
    sealed = received.seal()
    if left == "placed":
        store.place(1, "job/images/a.png")
    elif left == "nothing":
        received.discard()
    arriving.member = await crew.choose()
    arriving.answer = Brought(Made(Envelope(), 200, None), sealed, None, [])
    world.dead = {"n0"}
    if left == "nothing":
        with pytest.raises(Lost) as caught:
            nodes.place(1, "job/images/a.png")
        assert caught.value.code == "node_died"
    else:
        nodes.place(1, "job/images/a.png")
        assert store.matches("job/images/a.png", sealed.sha256)


async def _until(what: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not what():
            await anyio.sleep(0.01)
