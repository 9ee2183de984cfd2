"""Runs the simulator on uvicorn: the socket, the signals, and a prompt end.

Owns the process's side of serving. Refuses to know what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

import uvicorn

from runner.errors import InputError
from runner.simulator import Settings
from runner.simulator.app import Simulator
from runner.simulator.wire import WiredProtocol

if sys.platform != "win32":
    import resource

_BACKLOG = 4096
_KEEP_ALIVE_S = 300
"""Long, so that a connection is never closed under a client that was about to use it again."""
_MOST_OPEN_FILES = 65_536
_GRACE_S = 1
"""How long a stop waits for answers that are under way."""


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready, and returns after a signal instead of raising it again."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(settings: Settings, *, on_ready: Callable[[str], None], stop_when_stdin_closes: bool) -> None:
    """See `runner.simulator.serve`."""
    simulator = Simulator(settings)
    _allow_open_files()
    # What the readers of forms and pictures say beside their errors has no reader here: the answer tells it.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    try:
        listener = _listen(settings.host, settings.port)
        config = uvicorn.Config(
            simulator.app(),
            http=WiredProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
        server = _Server(config, lambda: on_ready(_base_url(settings.host, listener)))
        if stop_when_stdin_closes:
            threading.Thread(target=_stop_at_end_of_stdin, args=(server,), daemon=True).start()
        with listener:
            asyncio.run(server.serve(sockets=[listener]))
    finally:
        simulator.close()


def _allow_open_files() -> None:
    """As many as the system grants: each picture of an edit that is in flight is one."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise InputError(f"the simulator cannot listen on {host}:{port}: {error}") from None
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise InputError(
            f"the simulator cannot listen on {host}:{port}: {error.strerror}",
            hint="another program may use the port; port 0 takes any free one",
        ) from None
    return listener


def _base_url(host: str, listener: socket.socket) -> str:
    port: int = listener.getsockname()[1]
    named = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - told apart, not bound
    return f"http://[{named}]:{port}/v1" if ":" in named else f"http://{named}:{port}/v1"


def _stop_at_end_of_stdin(server: uvicorn.Server) -> None:
    """Not through `sys.stdin`: a thread that waits inside it would block the interpreter's end."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    server.should_exit = True
