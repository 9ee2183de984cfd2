"""Actors of one kind, on every node of a cluster: recruited as nodes come, asked, and mourned as they go.

Owns which of them is asked: the one with the most room; and that none has more questions than it takes. Refuses to know
what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from runner.cluster.joining import Cluster, Node
from runner.cluster.messages import Ready
from runner.errors import InputError, RunnerError

LOOK_EVERY_S = 2.0
"""How often nodes are looked for that have come or gone."""
BEGIN_S = 60.0
"""How long an actor may take to begin: a process is started for it, and imports what it needs."""
REST_S = 15.0
"""After this long a node on which no actor could begin is tried again: the cluster may not have noticed its death."""


PATIENCE_S = 60.0
"""How long a node is waited for when there is none."""


class NobodyLeft(RunnerError):
    """Work is there, and nobody to do it."""


class _Silent(InputError):
    """A node on which nothing can be begun: it may be dead, and the cluster not have noticed yet."""


class Gone(Exception):
    """The actor that was asked is gone, or its node, or the way to it: what it did with the question is unknown."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.name)
        self.node = node


@dataclass(eq=False, slots=True)
class Member:
    """One actor. `busy` of its `room` questions are under way."""

    node: Node
    actor: Any
    room: int
    busy: int = 0
    is_gone: bool = False

    @property
    def share(self) -> float:
        """How much of its room is taken."""
        return self.busy / self.room


@dataclass(frozen=True, slots=True)
class Kind:
    """What the actors of a crew are: their class, how they are begun (the arguments of `open`), how many on a node."""

    name: str
    actor: type
    opening: tuple[object, ...]
    cpus: int
    at_once: int
    """Calls that one of them may have at a time, beside which none waits in its queue."""
    count: Callable[[Node], int] = field(default=lambda node: 1)


class Crew:
    """The actors of one kind. `run` looks after them; everything else may be called while it does."""

    def __init__(self, cluster: Cluster, kind: Kind, *, warn: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._kind = kind
        self._warn = warn
        self._members: list[Member] = []
        self._known: set[str] = set()
        self._resting: dict[str, float] = {}
        self._changed = anyio.Event()
        self._told: set[str] = set()

    @property
    def room(self) -> int:
        """Questions that all of them together take at a time."""
        return sum(member.room for member in self._members)

    @property
    def nodes(self) -> int:
        """How many nodes there are with one of them."""
        return len({member.node.id for member in self._members})

    async def begin(self) -> None:
        """Recruit on every node that is there. One that does not answer is told of, and tried again later.

        Raises:
            InputError: one of them is of no use; it says why, and what to do.
            RunnerError: the cluster does not answer.
        """
        found = await anyio.to_thread.run_sync(self._cluster.nodes)
        problems: list[InputError] = []

        async def recruit(node: Node) -> None:
            try:
                await self._recruit(node)
            except InputError as error:
                self._resting[node.id] = anyio.current_time() + REST_S
                problems.append(error)

        async with anyio.create_task_group() as group:
            for node in found:
                if self._kind.count(node):
                    self._known.add(node.id)
                    group.start_soon(recruit, node)
        of_no_use = [error for error in problems if not isinstance(error, _Silent)]
        if of_no_use:
            raise of_no_use[0]
        if not self._members:
            nobody = InputError(f"the cluster has no node for {self._kind.name}", hint="see `ray status`")
            raise problems[0] if problems else nobody
        for error in problems:
            self._warn(f"not used for {self._kind.name} as yet: {error}")

    async def run(self) -> None:
        """Look for nodes that come and go, until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                # Whoever is asked while the cluster does not answer says that it is gone.
                with suppress(RunnerError):
                    for node in await self._look():
                        group.start_soon(self._recruit_late, node)
                await anyio.sleep(LOOK_EVERY_S)

    async def _look(self) -> list[Node]:
        """See which nodes have gone; those that are to be recruited on."""
        found = await anyio.to_thread.run_sync(self._cluster.nodes, abandon_on_cancel=True)
        alive = {node.id for node in found}
        for member in list(self._members):
            if member.node.id not in alive:
                self.lose(member)
        now = anyio.current_time()
        manned = {member.node.id for member in self._members}
        wanted = []
        for node in found:
            is_new = node.id not in self._known
            is_rested = node.id not in manned and self._resting.get(node.id, float("inf")) <= now
            if (is_new or is_rested) and self._kind.count(node):
                self._known.add(node.id)
                self._resting.pop(node.id, None)
                wanted.append(node)
        return wanted

    async def choose(self) -> Member:
        """The one with the most room, with a place in it taken; waits for one. To be given back with `done`.

        Raises:
            NobodyLeft: there is none, and none has come for a while.
        """
        while True:
            free = [member for member in self._members if member.busy < member.room]
            if free:
                member = min(free, key=lambda each: each.share)
                member.busy += 1
                return member
            if self._members:
                await self._change()
                continue
            with anyio.move_on_after(PATIENCE_S) as scope:
                await self._change()
            if scope.cancelled_caught and not self._members:
                raise NobodyLeft(
                    f"no node of the cluster has been of use for {self._kind.name} for {PATIENCE_S:g} s",
                    hint="see `ray status`, and run it again: it goes on where it stopped",
                )

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    def done(self, member: Member) -> None:
        """A place is free again."""
        member.busy -= 1
        self._changed.set()

    async def ask(self, member: Member, question: str, *words: object) -> Any:
        """What an actor answers.

        Raises:
            Gone: it does not.
        """
        try:
            return await getattr(member.actor, question).remote(*words)
        except self._cluster.errors as error:
            self.lose(member)
            raise Gone(member.node) from error

    def ask_blocking(self, member: Member, question: str, *words: object) -> Any:
        """As `ask`, for a thread; that it is gone is left to others to tell."""
        try:
            return self._cluster.wait(getattr(member.actor, question).remote(*words))
        except self._cluster.errors as error:
            raise Gone(member.node) from error

    def tell(self, member: Member, question: str, *words: object) -> None:
        """Ask, and do not wait for the answer."""
        if not member.is_gone:
            getattr(member.actor, question).remote(*words)

    def lose(self, member: Member, why: str | None = None) -> None:
        """Ask this one no more: it is gone, or (with `why`) of no use."""
        if member.is_gone:
            return
        member.is_gone = True
        self._members.remove(member)
        self._resting[member.node.id] = anyio.current_time() + REST_S
        self._warn(f"{self._kind.name} on the node {member.node.name}: {why or _died(member)}")
        # What can still be reached must not go on with work that others are given.
        self._cluster.end(member.actor)
        self._changed.set()

    def close(self) -> None:
        """End all of them."""
        for member in self._members:
            member.is_gone = True
            self._cluster.end(member.actor)
        self._members.clear()

    async def _recruit_late(self, node: Node) -> None:
        """On a node that has come while work goes on: what keeps it from being of use is told, and that is all."""
        try:
            await self._recruit(node)
        except InputError as error:
            self._resting[node.id] = anyio.current_time() + REST_S
            if error.message not in self._told:
                self._told.add(error.message)
                self._warn(f"not used for {self._kind.name}: {error}")

    async def _recruit(self, node: Node) -> None:
        count = self._kind.count(node)
        async with anyio.create_task_group() as group:
            problems: list[InputError] = []
            for _ in range(count):
                group.start_soon(partial(self._begin_one, node, problems))
        if problems:
            raise problems[0]

    async def _begin_one(self, node: Node, problems: list[InputError]) -> None:
        kind = self._kind
        actor = await anyio.to_thread.run_sync(
            partial(self._cluster.actor, kind.actor, node, cpus=kind.cpus, at_once=kind.at_once)
        )
        ready: Ready | None = None
        why = f"no answer within {BEGIN_S:g} s"
        try:
            with anyio.move_on_after(BEGIN_S):
                ready = await actor.open.remote(*kind.opening)
        except self._cluster.errors as error:
            why = _cause(error)
        finally:
            if ready is None or ready.problem is not None:
                self._cluster.end(actor)
        if ready is None:
            problems.append(_unbegun(node, why))
        elif ready.problem is not None:
            problems.append(InputError(ready.problem, hint=ready.hint))
        else:
            self._members.append(Member(node, actor, ready.room))
            self._changed.set()


def _died(member: Member) -> str:
    if not member.busy:
        return "it has died; others go on"
    return f"it has died, with {member.busy} under way there; others go on"


def _unbegun(node: Node, why: str) -> InputError:
    if "No module named 'runner" in why:
        return InputError(
            f"the node {node.name} does not have runner",
            hint="install it there, in the Python that Ray runs with: the same version, with the same extras",
        )
    return _Silent(f"nothing can be begun on the node {node.name}: {why}", hint="see `ray status` and its logs there")


def _cause(error: Exception) -> str:
    """Why an actor did not begin: the last line of Ray's words, which say where, is the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = next((line for line in lines if line.startswith("ModuleNotFoundError")), None)
    return missing or (lines[-1] if lines else type(error).__name__)
