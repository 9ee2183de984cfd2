"""Law 3 at precise places: SIGKILL before and after each step of an image's way, then the same command again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.crash import laws
from tests.crash.crash_support import Bench, DyingRunner, provider
from tests.crash.laws import Books
from tests.crash.steps import CHANGE, CLIENT, FRAME, IMAGE, LEDGER, PARTIAL, PICTURES, STORE, WRITER, Step
from tests.edges.simulator_support import Peer

KILLED, STOPPED_AT_THE_BUDGET = -9, 5
PROMPTS = ("A lighthouse at dusk", "A bakery window", "An oak chair")
# A second death, while the first is being cleared up: (first, when, second, when, requests beyond one an image).
TWICE = [
    (f"{WRITER}saved", "before", f"{LEDGER}adopt", "after", 0),
    (f"{CHANGE}saved", "after", f"{CHANGE}adopted", "after", 0),
    (f"{WRITER}received", "after", f"{STORE}place", "after", 0),
    (f"{STORE}place", "before", f"{STORE}sweep", "before", 0),
    (f"{CLIENT}generate", "before", f"{LEDGER}lose", "after", 0),
    (f"{CLIENT}generate", "before", f"{LEDGER}retry", "after", 0),
    (f"{PARTIAL}write", "after", f"{STORE}sweep", "after", 1),
    (f"{PARTIAL}seal", "after", f"{LEDGER}adopt", "before", 0),
    (f"{PARTIAL}seal", "after", f"{LEDGER}adopt", "after", 0),
]


@pytest.fixture(scope="module")
def dying() -> Iterator[DyingRunner]:
    with DyingRunner() as dying:
        yield dying


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with provider(art="flat", payload_kb=300) as peer:
        yield peer


@pytest.fixture
def bench(tmp_path: Path, server: Peer) -> Bench:
    """A job of three images, one at a time, and an empty bill."""
    server.call("POST", "/simulator/reset")
    return Bench(tmp_path, server, PROMPTS)


def _named(step: Step) -> str:
    return f"{step.name} ({step.when})"


def _kill(place: str, when: str, nth: int) -> dict[str, Any]:
    return {"place": place, "when": when, "nth": nth}


CARD = {"name": "card", "width": 32, "height": 20, "fit": "cover"}


@pytest.mark.parametrize("step", IMAGE, ids=_named)
def test_a_kill_on_an_images_way(dying: DyingRunner, bench: Bench, step: Step) -> None:
    """Dead at the second image: the first is not asked for again, and neither is the second if it was whole on disk."""
    arguments = bench.arguments(bench.write(concurrency=1))
    assert dying.run(arguments, bench.folder, kill=step.kill(2)).code == KILLED
    resumed = dying.run(arguments, bench.folder)
    account = bench.hold_against_the_bill()
    assert resumed.code == 0
    assert account.requests == account.billed == len(PROMPTS) + step.more
    assert resumed.count("adopted") == step.adopted
    assert account.in_doubt == step.in_doubt
    if step.in_doubt == 0:
        assert account.settled_microusd == account.billed_microusd


@pytest.mark.parametrize("step", PICTURES, ids=_named)
def test_a_kill_beside_an_edit(dying: DyingRunner, bench: Bench, step: Step) -> None:
    """Dead while something is made of an image, or before a request has its pictures: each is made, and paid once.

    Requests that were under way at that moment are the ones that may be repeated.
    """
    Image.radial_gradient("L").resize((96, 96)).convert("RGB").save(bench.folder / "base.png")
    edit = {"images": ["base.png"], "mask": {"box": [8, 8, 40, 40], "feather": 2}, "composite": True}
    arguments = bench.arguments(bench.write(concurrency=1, more={"edit": edit, "renditions": [CARD]}))
    assert dying.run(arguments, bench.folder, kill=step.kill(2)).code == KILLED
    resumed = dying.run(arguments, bench.folder)
    assert resumed.code == 0
    account = bench.hold_against_the_bill()
    assert account.requests <= len(PROMPTS) + 1
    books = Books.copied(bench.output / "ledger.sqlite3")
    assert list(laws.at_the_end(books, bench.peer.entries(), bench.output, complete=True)) == []
    assert sorted(one["kind"] for one in books.renditions) == ["card"] * len(PROMPTS) + ["composite"] * len(PROMPTS)
    again = dying.run(arguments, bench.folder)
    assert (again.code, bench.peer.bill()["requests"]) == (0, account.requests)
    assert (again.count("composed"), again.count("rendered")) == (0, 0)


@pytest.mark.parametrize("step", FRAME, ids=_named)
def test_a_kill_before_or_after_all_images(dying: DyingRunner, bench: Bench, step: Step) -> None:
    """Dead between requests: the next run is as if nothing had been."""
    arguments = bench.arguments(bench.write(concurrency=1))
    assert dying.run(arguments, bench.folder, kill=step.kill(1)).code == KILLED
    assert dying.run(arguments, bench.folder).code == 0
    account = bench.hold_against_the_bill()
    assert (account.requests, account.in_doubt) == (len(PROMPTS), 0)
    assert account.settled_microusd == account.billed_microusd


@pytest.mark.parametrize(("first", "when", "second", "then", "more"), TWICE)
def test_a_kill_while_an_earlier_one_is_cleared_up(
    dying: DyingRunner, bench: Bench, first: str, when: str, second: str, then: str, more: int
) -> None:
    """Recovery can die at any of its steps as well: what was whole is still taken over, what was lost is lost once."""
    arguments = bench.arguments(bench.write(concurrency=1))
    assert dying.run(arguments, bench.folder, kill=_kill(first, when, 2)).code == KILLED
    assert dying.run(arguments, bench.folder, kill=_kill(second, then, 1)).code == KILLED
    assert dying.run(arguments, bench.folder).code == 0
    account = bench.hold_against_the_bill()
    assert account.requests == len(PROMPTS) + more


def test_what_a_kill_has_put_in_doubt_counts_against_the_cap(dying: DyingRunner, bench: Bench) -> None:
    """Law 4: a cap for three requests is a cap for three, also when one of them was lost with the run that sent it."""
    cap_microusd = 3 * 6_000
    budget = {"budget": {"usd": f"{cap_microusd / 1e6}", "per": "job"}}
    arguments = bench.arguments(bench.write(concurrency=1, more=budget))
    sent = next(step for step in IMAGE if step.name == "request sent")
    assert dying.run(arguments, bench.folder, kill=sent.kill(2)).code == KILLED
    for _ in range(2):
        resumed = dying.run(arguments, bench.folder)
        assert resumed.code == STOPPED_AT_THE_BUDGET
        books, entries = Books.copied(bench.output / "ledger.sqlite3"), bench.peer.entries()
        assert list(laws.at_every_instant(books, entries, bench.output, cap_microusd)) == []
        assert list(laws.at_the_end(books, entries, bench.output, complete=False)) == []
        assert (len(entries), len(books.assets)) == (3, 2)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("fault", "place", "billed"), [("cut*1", f"{WRITER}lost", True), ("status=500*1", f"{WRITER}unsaved", False)]
)
def test_a_kill_while_a_failure_is_recorded(
    dying: DyingRunner, server: Peer, tmp_path: Path, fault: str, place: str, billed: bool, when: str
) -> None:
    """The answer that failed is repeated, as it would have been without the kill, and no other is."""
    server.call("POST", "/simulator/reset")
    bench = Bench(tmp_path, server, (PROMPTS[0], f"{PROMPTS[1]} [[fault:{fault}]]", PROMPTS[2]))
    arguments = bench.arguments(bench.write(concurrency=1))
    assert dying.run(arguments, tmp_path, kill=_kill(place, when, 1)).code == KILLED
    assert dying.run(arguments, tmp_path).code == 0
    account = bench.hold_against_the_bill()
    assert (account.requests, account.billed) == (len(PROMPTS) + 1, len(PROMPTS) + billed)
    # Not billed and not recorded as such: a doubt remains. Billed: a doubt either way.
    assert account.in_doubt == (1 if billed or when == "before" else 0)


@pytest.mark.parametrize("place", [f"{STORE}link", f"{LEDGER}reuse", f"{CHANGE}reused"])
def test_a_kill_while_another_jobs_images_are_taken_over(dying: DyingRunner, bench: Bench, place: str) -> None:
    """Reuse costs no request, also when it dies half-way and has to find what it had linked."""
    assert dying.run(bench.arguments(bench.write(concurrency=1)), bench.folder).code == 0
    other = bench.arguments(bench.write(concurrency=1, job="other"))
    assert dying.run(other, bench.folder, kill=_kill(place, "after", 2)).code == KILLED
    assert dying.run(other, bench.folder).code == 0
    account = bench.hold_against_the_bill()
    assert (account.requests, account.in_doubt) == (len(PROMPTS), 0)


@pytest.mark.parametrize("place", [f"{STORE}move", f"{LEDGER}asset_moved"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_images_get_the_names_of_an_edited_manifest(
    dying: DyingRunner, bench: Bench, place: str, when: str
) -> None:
    """Every image is found under its new name and no other, and none is asked for again."""
    assert dying.run(bench.arguments(bench.write(concurrency=1)), bench.folder).code == 0
    renamed = bench.arguments(bench.write(concurrency=1, name="new/{{ size }}-{{ prompt_id }}"))
    assert dying.run(renamed, bench.folder, kill=_kill(place, when, 2)).code == KILLED
    assert dying.run(renamed, bench.folder).code == 0
    assert not list((bench.output / "crash" / "images").glob("*.png"))
    account = bench.hold_against_the_bill()
    assert (account.requests, account.in_doubt) == (len(PROMPTS), 0)
    paths = {row["path"] for row in bench.rows("SELECT path FROM assets")}
    assert paths == {f"crash/images/new/1024x1024-p{number:04d}.png" for number in range(len(PROMPTS))}


@pytest.mark.parametrize(
    ("place", "when"),
    [(f"{STORE}keep_aside", "after"), (f"{LEDGER}asset_moved", "after"), (f"{STORE}release", "after")],
)
@pytest.mark.parametrize("renamed", [False, True], ids=["the same names", "other names"])
def test_a_kill_while_an_image_makes_room_for_its_successor(
    dying: DyingRunner, bench: Bench, place: str, when: str, renamed: bool
) -> None:
    """Each of the two images has one name in the end, also when the next run wants them under other names."""
    assert dying.run(bench.arguments(bench.write(concurrency=1)), bench.folder).code == 0
    edited = replace(bench, prompts=[PROMPTS[0], "An elm chair", PROMPTS[2]])
    arguments = edited.arguments(edited.write(concurrency=1))
    assert dying.run(arguments, bench.folder, kill=_kill(place, when, 1)).code == KILLED
    edited.write(concurrency=1, name="new/{{ prompt_id }}" if renamed else "{{ prompt_id }}")
    assert dying.run(arguments, bench.folder).code == 0
    assert bench.peer.bill()["requests"] == len(PROMPTS) + 1
    books = Books.copied(bench.output / "ledger.sqlite3")
    assert list(laws.at_the_end(books, bench.peer.entries(), bench.output, complete=True)) == []
    assert len(books.assets) == len(PROMPTS) + 1


@pytest.mark.parametrize(
    ("place", "when"), [(f"{WRITER}begin", "after"), (f"{WRITER}received", "before"), (f"{WRITER}saved", "before")]
)
def test_a_kill_with_several_in_flight(dying: DyingRunner, bench: Bench, place: str, when: str) -> None:
    """With four in flight at most four are repeated, and each is on record as in doubt."""
    bench = Bench(bench.folder, bench.peer, [f"{prompt}, version {n}" for prompt in PROMPTS for n in range(4)])
    arguments = bench.arguments(bench.write(concurrency=4))
    assert dying.run(arguments, bench.folder, kill=_kill(place, when, 6)).code == KILLED
    assert dying.run(arguments, bench.folder).code == 0
    account = bench.hold_against_the_bill()
    assert account.requests - len(bench.prompts) <= account.lost <= 4
