"""A wire that can be cut: passes bytes on between a client and a server, until a test says otherwise.

    with proxy(server.port) as wire:      # clients connect to wire.port
        wire.cut_at(b"COMMIT\0", after=True)  # the server gets it, and its answer never comes back

Owns the connections that go through it. Refuses to know what they carry.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Wire:
    """One listening port, and the connections through it. `cuts` counts those that were cut by `cut_at`."""

    def __init__(self, target: int) -> None:
        self.cuts = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._sign: tuple[bytes, bool] | None = None
        self._closes = False
        self._is_open = True
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut_at(self, sign: bytes, *, after: bool, for_good: bool = False) -> None:
        """Cut the connection on which a client next sends this: `after` the server has it, or before.

        With `for_good` nobody is let in any more from then on.
        """
        self._sign = (sign, after)
        self._closes = for_good

    def cut(self) -> None:
        """Cut every connection; new ones can be made."""
        for pair in self._pairs:
            _end(*pair)
        self._pairs.clear()

    def close_down(self) -> None:
        """Cut every connection, and let nobody in any more."""
        self._is_open = False
        self.cut()

    def open_up(self) -> None:
        """Let clients in again."""
        self._is_open = True

    def close(self) -> None:
        """End everything."""
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._is_open:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            for source, target, watched in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pass_on, args=(source, target, watched), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, watched: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sign = self._sign
                if watched and sign is not None and sign[0] in data:
                    self._sign = None
                    self.cuts += 1
                    self._is_open = not self._closes
                    if sign[1]:
                        # The way back is closed first, so that no answer slips through.
                        with suppress(OSError):
                            source.shutdown(socket.SHUT_WR)
                        target.sendall(data)
                        # Until the server has answered, and so has done it.
                        target.settimeout(5)
                        target.recv(65536)
                    break
                target.sendall(data)
        _end(source, target)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextmanager
def proxy(target: int) -> Iterator[Wire]:
    """A wire to this port of loopback, for the block."""
    wire = Wire(target)
    try:
        yield wire
    finally:
        wire.close()
