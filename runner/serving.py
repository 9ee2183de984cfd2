"""A web server in this process: the socket, the signals, and a prompt end; for the simulator and the review.

Owns uvicorn's settings. Refuses to know what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from runner.errors import InputError

_GRACE_S = 1
"""How long a stop waits for answers that are under way."""


class Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready, and returns after a signal instead of raising it again.

    It writes no log, and does not say what it is.
    """

    def __init__(self, app: Any, on_started: Callable[[], None], **settings: Any) -> None:
        config = uvicorn.Config(
            app,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
            **settings,
        )
        super().__init__(config)
        self._on_started = on_started

    def serve_on(self, listener: socket.socket) -> None:
        """Serve until a signal, or until `should_exit` is set; the socket is closed."""
        with listener:
            asyncio.run(self.serve(sockets=[listener]))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections, and say so."""
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End at SIGINT and SIGTERM, and leave what these did before as it was."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int, *, what: str) -> socket.socket:
    """A socket that is bound; port 0 takes any free one.

    Raises:
        InputError: `what` cannot listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise InputError(f"{what} cannot listen on {host}:{port}: {error}") from None
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise InputError(
            f"{what} cannot listen on {host}:{port}: {error.strerror}",
            hint="another program may use the port; port 0 takes any free one",
        ) from None
    return listener
