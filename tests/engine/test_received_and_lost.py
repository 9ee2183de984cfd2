"""An image that is lost with whoever had received it, and renditions by hands that put files into the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from runner.engine import events
from runner.engine.hands import Put, Targets
from runner.engine.renditions import Renderer
from runner.errors import Lost
from runner.renditions import Recipe
from runner.store import Store
from tests.engine.support import COST, bench_at, task

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_an_image_that_is_lost_after_it_was_received_is_paid_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it cost is known and on record, so nothing of it is in doubt: budget, ledger and event say the same."""
    with bench_at(tmp_path, ["a"]) as bench:
        place, lost = bench.store.place, list[int]()

        def dies_once(attempt_id: int, path: str) -> None:
            if not lost:
                lost.append(attempt_id)
                raise Lost("the node died", code="node_died")
            place(attempt_id, path)

        monkeypatch.setattr(bench.store, "place", dies_once)
        bench.policy = replace(bench.policy, billed_attempts=2, base_s=0.001)
        await bench.run_to_the_end()
        assert bench.statuses() == {"a": "done"}
        assert bench.attempts("outcome, error_code, cost_microusd, doubt_microusd") == [
            ("lost", "node_died", COST, None),
            ("saved", None, COST, None),
        ]
        (failed,) = bench.heard(events.AttemptFailed)
        assert (failed.cost_microusd, failed.in_doubt_microusd) == (COST, 0)


class Placing:
    """Hands that put files into the store by themselves, and only when all that are asked have been given names."""

    count = 4

    def __init__(self, store: Store, expected: int) -> None:
        self._store = store
        self._expected = expected
        self._all = anyio.Event()
        self.given: list[str] = []

    async def render(self, asset: str, recipes: Sequence[Recipe], targets: Targets) -> Sequence[bytes | Put]:
        paths = await targets()
        self.given += paths
        if len(self.given) >= self._expected:
            self._all.set()
        await self._all.wait()
        data = asset.encode()
        self._store.derived.put_all([(path, data) for path in paths])
        return [Put(path, "00", len(data)) for path in paths]

    async def paste(self, base: Path, recipe: str, asset: str) -> bytes:
        raise NotImplementedError


async def test_two_images_that_are_worked_on_at_once_get_names_of_their_own(tmp_path: Path) -> None:
    """Files whose images differ in their ending alone would have one name: neither replaces the other's."""
    with bench_at(tmp_path, []) as bench:
        bench.want([task("a", name="same.png"), task("b", name="same.webp")])
        await bench.run_to_the_end()
        hands = Placing(bench.store, 2)

        @asynccontextmanager
        async def opened() -> AsyncIterator[Placing]:
            yield hands

        renderer = Renderer(
            ledger=bench.ledger,
            store=bench.store,
            job=bench.job,
            base=tmp_path,
            recipes={"card": Recipe("card", width=8)},
            composites=False,
            emit=lambda event: None,
            now_ms=lambda: 0,
            hands=opened,
        )
        renderer.end()
        await renderer.run()
        assert renderer.renditions.made == 2
        assert len(set(hands.given)) == 2
        on_record = dict(bench.rows("SELECT path, bytes FROM renditions"))
        assert on_record.keys() == set(hands.given)
        for path, size in on_record.items():
            assert (bench.output / path).stat().st_size == size
