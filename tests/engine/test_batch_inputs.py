"""How the pictures of edits come to a provider of which no document says what it takes them for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from runner.engine.batch.inputs import KEEP_S, RemoteInputs
from runner.errors import Refused
from runner.provider import RemoteFile, Upload

UPLOAD = Upload(Path("mug.png"), 9, "png")


class _Picky:
    """A provider that takes files for one purpose, and perhaps only without a date of expiry."""

    def __init__(self, takes: set[tuple[str, int | None]]) -> None:
        self.takes = takes
        self.asked: list[tuple[str, int | None]] = []

    async def upload(self, path: Path, *, purpose: str, expires_after_s: int | None, **_: Any) -> RemoteFile:
        assert path == UPLOAD.path
        self.asked.append((purpose, expires_after_s))
        if (purpose, expires_after_s) not in self.takes:
            raise Refused("not this way", code="invalid_purpose", http_status=400)
        return RemoteFile("file-1", 9, "mug.png", 0, None)


def _send(api: _Picky) -> RemoteFile:
    async def persist(ask: Callable[[], Awaitable[RemoteFile]]) -> RemoteFile:
        return await ask()

    desk: Any = SimpleNamespace(api=api, persist=persist)
    return anyio.run(RemoteInputs(desk)._upload, "0" * 64, UPLOAD)


@pytest.mark.parametrize("way", [("vision", KEEP_S), ("user_data", KEEP_S), ("vision", None)])
def test_an_input_is_sent_in_the_first_way_that_the_provider_takes(way: tuple[str, int | None]) -> None:
    """What is refused in one way is tried in the next, and no further once it is taken."""
    api = _Picky({way})
    assert _send(api).id == "file-1"
    assert api.asked[-1] == way
    assert len(api.asked) == len(set(api.asked))


def test_a_provider_that_takes_it_in_no_way_is_believed() -> None:
    """The last refusal is what a person hears."""
    with pytest.raises(Refused, match="not this way"):
        _send(_Picky(set()))
