"""The connection under a request: to end it as no well-behaved application would.

Owns the one place that reaches past ASGI to the transport. Refuses to know why.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from starlette.types import Receive
from uvicorn.protocols.http.h11_impl import H11Protocol

_STATE_KEY = "simulator_wire"


class Wire:
    """One connection."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    @classmethod
    def of(cls, scope: Any) -> Wire:
        """The connection that a request came in on."""
        wire = scope["state"][_STATE_KEY]
        assert isinstance(wire, Wire)
        return wire

    @property
    def is_gone(self) -> bool:
        """Whether one of the two sides has ended it."""
        return self._transport.is_closing()

    async def flushed(self) -> None:
        """Waits until the kernel has taken everything that was written (or nobody is there any more)."""
        # Polled, because asyncio has no event for an empty write buffer.
        while self._transport.get_write_buffer_size() and not self._transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """FIN, after what was written."""
        self._transport.close()

    def reset(self) -> None:
        """RST: with nothing to linger for, closing a socket sends no FIN."""
        under: socket.socket | None = self._transport.get_extra_info("socket")
        if under is not None and not self._transport.is_closing():
            under.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    @staticmethod
    async def ended(receive: Receive) -> None:
        """Waits until the connection has come to its end."""
        while (await receive())["type"] != "http.disconnect":
            pass


class WiredProtocol(H11Protocol):
    """uvicorn's HTTP protocol, which tells every request of the connection that it came in on."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the parent's
        """Puts the connection into the state that each request gets a copy of."""
        self.app_state = {**self.app_state, _STATE_KEY: Wire(transport)}
        super().connection_made(transport)
