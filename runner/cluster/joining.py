"""The cluster that a run works on: joined, looked at, left.

Owns how Ray is begun and kept quiet: stdout may carry `--json`, and Ctrl-C is the run's. Refuses to know what is done
on the nodes.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import anyio
import anyio.to_thread

from runner.errors import InputError, RunnerError

LOCAL = "local"
"""The address that means: a cluster of this machine alone, which begins and ends with the run."""
AUTO = "auto"
CONNECT_S = 5.0
_START = "start one (`ray start --head`), give its address (--ray-address HOST:6379), or --ray-address local"


@dataclass(frozen=True, slots=True)
class Node:
    """One node that is alive. `name` is for people; `address` is the machine's, several nodes may share it."""

    id: str
    name: str
    address: str
    cpus: int


class Cluster:
    """A cluster that this process has joined. Its methods are blocking, but for `actor`."""

    def __init__(self, ray: ModuleType) -> None:
        self._ray = ray

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What asking an actor comes to when it, its node or the way to it is gone."""
        return (self._ray.exceptions.RayError,)

    def nodes(self) -> list[Node]:
        """The nodes that are alive, as far as the cluster knows.

        Raises:
            RunnerError: the cluster does not answer.
        """
        try:
            told = self._ray.nodes()
        except Exception as error:
            raise RunnerError(f"the Ray cluster does not answer ({type(error).__name__})", hint=_START) from error
        return [
            Node(
                each["NodeID"],
                f"{each['NodeManagerHostname']} ({each['NodeManagerAddress']}, {each['NodeID'][:8]})",
                each["NodeManagerAddress"],
                int(each.get("Resources", {}).get("CPU", 0)),
            )
            for each in told
            if each["Alive"]
        ]

    @property
    def own_address(self) -> str:
        """The address of the machine that this process is on, as the cluster knows it."""
        return str(self._ray.util.get_node_ip_address())

    def actor(self, kind: type, node: Node, *, cpus: int, at_once: int) -> Any:
        """An actor of this class on this node, which ends with this process; its class takes no arguments.

        It is begun once: neither it nor a question to it is ever repeated.
        """
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        return (
            self._ray.remote(kind)
            .options(
                num_cpus=cpus,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=at_once,
                scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node.id, soft=False),
            )
            .remote()
        )

    def end(self, actor: Any) -> None:
        """End an actor at once, whatever it does."""
        with suppress(Exception):  # whoever is gone already need not be ended
            self._ray.kill(actor, no_restart=True)

    def put(self, data: bytes) -> Any:
        """A reference to bytes, for whichever node asks for them."""
        return self._ray.put(data)

    def wait(self, reference: Any) -> Any:
        """What a reference comes to."""
        return self._ray.get(reference)


@asynccontextmanager
async def joined(address: str | None) -> AsyncIterator[Cluster]:
    """The cluster at an address for the block: that of $RAY_ADDRESS, or one of this machine, if none is given.

    Raises:
        InputError: Ray is not installed; there is no cluster, or it cannot be joined.
    """
    ray = _ray()
    # Not in the main thread: there Ray would take SIGTERM, which is the run's.
    with _silenced():
        was_joined = ray.is_initialized()
        if not was_joined:
            given = AUTO if address is None else address
            found = os.environ.get("RAY_ADDRESS") or AUTO if given == AUTO else given
            await anyio.to_thread.run_sync(_join, ray, found)
        try:
            yield Cluster(ray)
        finally:
            if not was_joined:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(ray.shutdown)


def _ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError(
            "--engine ray needs Ray, which is not installed here",
            hint="python -m pip install 'runner[ray]' (on the cluster's nodes as well), or leave out --engine",
        ) from error


def _join(ray: ModuleType, address: str) -> None:
    if address.startswith("ray://"):
        raise InputError(
            f"{address} is the address of a Ray client server, and the run must be on a machine of the cluster",
            hint="start it there (e.g. with `ray job submit`) with --ray-address auto",
        )
    if address not in (LOCAL, AUTO):
        _reached(address)
    told: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            configure_logging=True,
            **told,
        )
    except Exception as error:
        if "AuthenticationError" in "".join(traceback.format_exception(error)):  # the last cause of several, in words
            raise InputError(
                f"the Ray cluster at {address} is not for those without its token",
                hint="set RAY_AUTH_MODE=token, and give the token that `ray start --head` made: RAY_AUTH_TOKEN, or a "
                "file, ~/.ray/auth_token or that which RAY_AUTH_TOKEN_PATH names; so on every machine",
            ) from error
        if isinstance(error, ConnectionError):
            what = "no Ray cluster is found" if address == AUTO else f"there is no Ray cluster at {address}"
            raise InputError(what, hint=_START) from error
        if not isinstance(error, RuntimeError | ValueError | OSError | ray.exceptions.RayError):
            raise
        text = " ".join(str(error).split())
        if "Version mismatch" in text:
            raise InputError(
                f"this process and the Ray cluster do not fit each other: {text}",
                hint="install the same versions of Ray and Python on this machine and on the nodes",
            ) from error
        raise InputError(f"the Ray cluster at {address} cannot be joined: {text}", hint=_START) from error


def _reached(address: str) -> None:
    """See that something listens there: Ray itself would try for minutes, and write about it to stderr."""
    host, _, port = address.rpartition(":")
    try:
        if not host or not 0 < int(port) < 65536:
            raise ValueError
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except ValueError:
        raise InputError(f"{address!r} is no address of a Ray cluster", hint="it looks like HOST:6379") from None
    except OSError as error:
        told = error.strerror or "no answer"
        raise InputError(f"there is no Ray cluster at {address} ({told})", hint=_START) from error


@contextmanager
def _silenced() -> Iterator[None]:
    """What Ray prints of its own (the last words of a node's log among it) goes to its log files alone."""
    worker: Any = importlib.import_module("ray._private.worker")
    # There is no public way: `log_to_driver` is about what actors print.
    before = getattr(worker, "_worker_logs_enabled", None)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        if before is not None:
            worker._worker_logs_enabled = before
