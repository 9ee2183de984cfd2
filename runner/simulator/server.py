"""Runs the simulator on its web server.

Owns the process's side of serving an Images API: open files, what is said beside answers, the end with the parent.
Refuses to know what is served.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable

from runner.serving import Server, listen
from runner.simulator import Settings
from runner.simulator.app import Simulator
from runner.simulator.wire import WiredProtocol

if sys.platform != "win32":
    import resource

_BACKLOG = 4096
_KEEP_ALIVE_S = 300
"""Long, so that a connection is never closed under a client that was about to use it again."""
_MOST_OPEN_FILES = 65_536


def serve(settings: Settings, *, on_ready: Callable[[str], None], stop_when_stdin_closes: bool) -> None:
    """See `runner.simulator.serve`."""
    simulator = Simulator(settings)
    _allow_open_files()
    # What the readers of forms and pictures say beside their errors has no reader here: the answer tells it.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    try:
        listener = listen(settings.host, settings.port, what="the simulator")
        server = Server(
            simulator.app(),
            lambda: on_ready(_base_url(settings.host, listener)),
            http=WiredProtocol,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        if stop_when_stdin_closes:
            threading.Thread(target=_stop_at_end_of_stdin, args=(server,), daemon=True).start()
        server.serve_on(listener)
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


def _base_url(host: str, listener: socket.socket) -> str:
    port: int = listener.getsockname()[1]
    named = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - told apart, not bound
    return f"http://[{named}]:{port}/v1" if ":" in named else f"http://{named}:{port}/v1"


def _stop_at_end_of_stdin(server: Server) -> None:
    """Not through `sys.stdin`: a thread that waits inside it would block the interpreter's end."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    server.should_exit = True
