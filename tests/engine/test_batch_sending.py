"""How a batch that may have been created is looked for, among lists of which nobody says in what order they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from runner.engine.batch.sending import Sender
from runner.provider import BatchInfo

NOW_S = 1_795_000_000
OURS: Any = SimpleNamespace(id=1, input_file_id="file-ours", token="token-ours", created_ms=NOW_S * 1000)


def _batch(number: int, *, created_at: int, file_id: str | None = None, token: str | None = None) -> BatchInfo:
    return BatchInfo(
        id=f"batch-{number}",
        status="in_progress",
        endpoint="/v1/images/generations",
        input_file_id=file_id or f"file-{number}",
        output_file_id=None,
        error_file_id=None,
        total=None,
        completed=None,
        failed=None,
        created_at=created_at,
        expires_at=None,
        ended_at=None,
        metadata={} if token is None else {"runner_batch": token},
        problems=(),
    )


def _found(listed: Sequence[BatchInfo]) -> tuple[str | None, int]:
    """The id of what is found in a list, and how much of that was read."""
    read = 0

    async def batches() -> AsyncIterator[BatchInfo]:
        nonlocal read
        for info in listed:
            read += 1
            yield info

    async def persist(ask: Callable[[], Awaitable[BatchInfo | None]]) -> BatchInfo | None:
        return await ask()

    desk: Any = SimpleNamespace(api=SimpleNamespace(batches=batches), persist=persist)
    info = anyio.run(Sender(desk)._find, OURS)
    return (info.id if info else None), read


@pytest.mark.parametrize("known_by", ["file_id", "token"])
@pytest.mark.parametrize("others_created_at", [NOW_S, NOW_S - 86_400, 0])
def test_ours_is_found_wherever_it_stands(known_by: str, others_created_at: int) -> None:
    """Law 3: also behind older ones, and behind those of which the provider does not say when they were created."""
    ours = _batch(0, created_at=NOW_S, **{known_by: f"{known_by.removesuffix('_id')}-ours"})
    others = [_batch(number, created_at=others_created_at) for number in range(1, 151)]
    assert _found([*others, ours])[0] == "batch-0"


def test_a_long_past_is_not_read_to_its_end() -> None:
    """Among years of batches it is enough to look at the newest, and at some that are certainly older."""
    name, read = _found([_batch(number, created_at=NOW_S - 86_400) for number in range(1, 5000)])
    assert name is None
    assert read < 500
