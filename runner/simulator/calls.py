"""The calls of the Files and Batch API: who may make them, how many of each were made, and what goes wrong with them.

Owns the counts and the ways in which a call fails. Refuses to know what a call does.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from runner.simulator import problems
from runner.simulator.bill import Bill
from runner.simulator.faults import Fault, Faults
from runner.simulator.wire import Wire


class Calls:
    """The calls of one server."""

    def __init__(self, *, api_key: str | None, faults: Faults, bill: Bill) -> None:
        self._api_key = api_key
        self._faults = faults
        self._bill = bill
        self.counts: Counter[str] = Counter()
        """Of every call that had a key, by its name."""
        self.uploads: Counter[str] = Counter()
        """Of the files that were taken, by their purpose."""
        self.creates = 0
        """Of the batches that were made."""

    def reset(self) -> None:
        """As if none had come."""
        self.counts.clear()
        self.uploads.clear()
        self.creates = 0

    def authorise(self, request: Request) -> None:
        """Raises Problem: the request has no key, or another than the one that was asked for."""
        given = request.headers.get("authorization", "")
        if not given.strip():
            raise problems.no_api_key()
        scheme, _, key = given.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise problems.wrong_api_key()
        wanted = self._api_key
        if wanted is not None and not secrets.compare_digest(key.strip().encode(), wanted.encode()):
            raise problems.wrong_api_key()

    def fault(self, call: str, about: str) -> Fault | None:
        """What is to go wrong with this call; it is counted."""
        fault = self._faults.of_call(call, about)
        if fault is not None:
            self._bill.count_faults([fault.kind])
        return fault

    async def answer(self, call: str, about: str, act: Callable[[], Awaitable[Any]]) -> Any:
        """What `act` answers, or what a fault makes of it.

        Raises:
            Problem: `act` does, or a fault.
        """
        fault = self.fault(call, about)
        return await act() if fault is None else await self.spoilt(fault, act)

    async def spoilt(self, fault: Fault, act: Callable[[], Awaitable[Any]]) -> Any:
        """What becomes of a call that goes wrong like this.

        Raises:
            Problem: `act` does, or the fault is one.
        """
        end = fault.kind.rpartition("_")[2]
        if end == "429":
            raise problems.rate_limited("requests", "Rate limit reached on requests per min (as was asked for).", 1.0)
        if fault.value != "before":
            await act()
        if end == "500":
            raise problems.of_status(500, "")
        return Unanswered(is_reset=end == "reset")


class Unanswered:
    """A request that ends without an answer."""

    def __init__(self, *, is_reset: bool) -> None:
        self._is_reset = is_reset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if self._is_reset:
            Wire.of(scope).reset()
        await Wire.ended(receive)
