"""Law 3 at precise places of a team's ground: SIGKILL on an image's way from the spool into the bucket, then the same
command again, on the same host or on another, which has nothing of what the dead one had for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash import laws
from tests.crash.crash_support import Bench, DyingRunner, provider
from tests.crash.grounds import HOSTS, Ground, grounds, preload
from tests.crash.steps import BUCKET, CHANGE, CLIENT, PARTIAL, WRITER
from tests.edges.simulator_support import Peer
from tests.servers.postgres import ABSENT, programs

KILLED = -9
ON = "postgres+s3"
PROMPTS = ("A lighthouse at dusk", "A bakery window", "An oak chair")

pytestmark = pytest.mark.skipif(programs() is None, reason=ABSENT)


@dataclass(frozen=True, slots=True)
class Way:
    """One instant of the second image's way, and what a death there costs: `here` and `elsewhere` are further requests.

    `doubts` are attempts whose cost is never known, here and elsewhere.
    """

    name: str
    place: str
    when: str
    here: int
    elsewhere: int
    doubts: tuple[int, int]


WAYS = [
    # On record, not yet sent: nobody can tell.
    Way("attempt committed", f"{WRITER}begin", "after", 0, 0, (1, 1)),
    # Whole in the spool, and nowhere else.
    Way("temporary file written", f"{CLIENT}generate", "after", 0, 1, (1, 1)),
    Way("temporary file flushed", f"{PARTIAL}seal", "after", 0, 1, (1, 1)),
    Way("cost recorded, not committed", f"{CHANGE}received", "after", 0, 1, (1, 1)),
    # Its cost is known: it is paid for once more, and nothing of that is in doubt.
    Way("cost committed, not put", f"{BUCKET}place", "before", 0, 1, (0, 0)),
    # In the bucket: anybody finds it.
    Way("put", f"{BUCKET}place", "after", 0, 0, (0, 0)),
    Way("done not on record", f"{WRITER}saved", "before", 0, 0, (0, 0)),
    Way("done recorded, not committed", f"{CHANGE}saved", "after", 0, 0, (0, 0)),
]


@pytest.fixture(scope="module")
def dying() -> Iterator[DyingRunner]:
    with DyingRunner(*preload(ON)) as dying:
        yield dying


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with provider(art="flat", payload_kb=300) as peer:
        yield peer


@pytest.fixture(scope="module")
def make() -> Iterator[Callable[[Path], Ground]]:
    with grounds(ON) as make:
        yield make


@pytest.fixture
def ground(tmp_path: Path, make: Callable[[Path], Ground]) -> Iterator[Ground]:
    ground = make(tmp_path)
    yield ground
    ground.close()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.name} ({way.when})")
def test_a_kill_on_an_images_way_into_a_bucket(
    dying: DyingRunner, server: Peer, ground: Ground, tmp_path: Path, way: Way, host: str
) -> None:
    """What is in the bucket is taken over by whoever goes on; what was on the dead host's disk alone only by that host.

    All else is on record, with its cost or in doubt, and made once more.
    """
    server.call("POST", "/simulator/reset")
    bench = Bench(tmp_path, server, PROMPTS, place=ground.output)
    arguments = bench.arguments(bench.write(concurrency=1))
    kill = {"place": way.place, "when": way.when, "nth": 2}
    assert dying.run(arguments, tmp_path, kill=kill, more=ground.environment()).code == KILLED
    cut = ground.ledger.books().open()
    assert len(cut) == 1
    assert list(laws.at_every_instant(ground.ledger.books(), server.entries(), ground.files.files(), None)) == []

    ground.host = host
    resumed = dying.run(arguments, tmp_path, more=ground.environment())
    assert (resumed.code, resumed.stderr.count("error")) == (0, 0)
    again = way.here if host == HOSTS[0] else way.elsewhere
    books, entries = ground.ledger.books(), server.entries()
    assert len(entries) == len(PROMPTS) + again
    assert sum(attempt["doubt_microusd"] is not None for attempt in books.attempts) == way.doubts[host != HOSTS[0]]
    reckoning = laws.reckon(books, entries, cut)
    assert reckoning.problems == []
    assert reckoning.lost_in_flight == again
    assert list(laws.at_the_end(books, entries, ground.files.files(), complete=True)) == []
    assert ground.left() == []
    if way.doubts == (0, 0):
        assert books.settled_microusd() == sum(entry["cost_microusd"] for entry in entries)

    # The dead host comes back: what it still has is of no use to anybody, and goes.
    ground.host = HOSTS[0]
    assert dying.run(arguments, tmp_path, more=ground.environment()).code == 0
    assert ground.left() == []
    assert server.bill()["requests"] == len(entries)
