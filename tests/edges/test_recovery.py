"""What recovery must hold: whatever a dead run left, nothing is paid twice, nothing is lost, and doubt is on record."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine import recovery
from runner.engine.events import Adopted, FoundInDoubt, Reused, Warned
from runner.ledger import Ledger, Spending, attempts
from runner.tasks import Status
from tests.edges.ledger_support import (
    ESTIMATE,
    NOW_MS,
    RESERVED,
    SIZE,
    House,
    begin_run,
    enrolled,
    make_task,
    make_tasks,
    move_in,
    open_house,
    open_ledger,
    png,
    rows,
    tree,
    write,
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path / "output") as it:
        yield it


def recover(house: House) -> None:
    recovery.recover(house.ledger, house.store, house.job, house.events.append, now_ms=NOW_MS + 60_000)


def reuse(house: House) -> int:
    return recovery.reuse(house.ledger, house.store, house.job, house.events.append, now_ms=NOW_MS + 60_000)


def tidy(house: House) -> None:
    recovery.tidy(house.ledger, house.store, house.job, house.events.append)


def spent(house: House) -> Spending:
    return house.ledger.spending(house.job, simulated=False)


def assert_sound(house: House) -> None:
    """Laws 2 and 3 after recovery: done means a file with these bytes; nothing is open, nothing temporary is left."""
    assert house.partials() == []
    assert house.ledger.orphans(house.job, 10) == []
    assert rows(house.ledger, "SELECT * FROM tasks WHERE status = 'running'") == []
    assert rows(house.ledger, "SELECT * FROM attempts WHERE outcome IS NULL") == []
    done = rows(house.ledger, "SELECT id FROM tasks WHERE status = 'done' ORDER BY id")
    assets = rows(house.ledger, "SELECT * FROM assets ORDER BY task_id")
    assert [asset["task_id"] for asset in assets] == [task["id"] for task in done]
    for asset in assets:
        assert house.store.matches(asset["path"], asset["sha256"]), asset["path"]
    assert house.ledger.check() == []


def assert_lost(house: House, task_id: int, attempt_id: int) -> None:
    """In doubt, with what was reserved."""
    assert house.task(task_id)["status"] == "in_doubt"
    assert house.task(task_id)["error_code"] == "run_died"
    attempt = house.attempt(attempt_id)
    assert (attempt["outcome"], attempt["cost_microusd"], attempt["doubt_microusd"]) == ("lost", None, RESERVED)
    assert attempt["ended_ms"] == NOW_MS + 60_000
    assert house.asset(task_id) is None


def test_nothing_left_is_nothing_to_do(house: House) -> None:
    """After a run that ended by itself."""
    todo = house.todo()[0]
    house.make(todo, png())
    before = tree(house.output)
    recover(house)
    assert (house.events, tree(house.output)) == ([], before)
    assert_sound(house)


def test_begun_and_no_file(house: House) -> None:
    """Law 3: the request may have left; it is on record as in doubt, with all it reserved."""
    todo = house.todo()[0]
    attempt_id = house.begin(todo)
    recover(house)
    assert_lost(house, todo.task_id, attempt_id)
    assert house.events == [FoundInDoubt(todo.name, RESERVED)]
    assert spent(house) == Spending(0, RESERVED)
    assert house.ledger.statuses(house.job)[Status.PLANNED] == 2
    assert_sound(house)


@pytest.mark.parametrize("left", [b"", png()[:20], png()[: len(png()) // 2], png()[:-1], b"<html>", png() + b"\0"])
def test_begun_with_a_file_that_is_no_whole_image(house: House, left: bytes) -> None:
    """Law 2: what is not whole is never an asset; the temporary file goes."""
    todo = house.todo()[0]
    attempt_id = house.begin(todo)
    house.store.partial(attempt_id).path.write_bytes(left)
    recover(house)
    assert_lost(house, todo.task_id, attempt_id)
    assert tree(house.output) == {}
    assert_sound(house)


def test_whole_but_not_on_record_as_received(house: House) -> None:
    """Law 3: the image is there, so it is not asked for again; what it cost was never told, so that stays in doubt."""
    todo = house.todo()[0]
    attempt_id = house.begin(todo, model="gpt-image-2")
    house.receive(attempt_id, png())
    recover(house)
    path = house.store.path(todo.name)
    assert tree(house.output) == {path: png()}
    assert house.task(todo.task_id)["status"] == "done"
    assert house.events == [Adopted(todo.name, path)]
    attempt = house.attempt(attempt_id)
    assert (attempt["outcome"], attempt["cost_microusd"], attempt["doubt_microusd"]) == ("saved", None, RESERVED)
    assert spent(house) == Spending(0, RESERVED)
    asset = house.asset(todo.task_id)
    assert asset is not None
    assert (asset["path"], asset["model"], asset["attempt_id"]) == (path, "gpt-image-2", attempt_id)
    assert (asset["sha256"], asset["bytes"]) == (hashlib.sha256(png()).hexdigest(), len(png()))
    assert_sound(house)


@pytest.mark.parametrize("data", [png(1, "24x16"), png(1, SIZE, "WEBP")])
def test_a_whole_image_that_was_not_asked_for_is_not_adopted(house: House, data: bytes) -> None:
    """Another size or another format than the request had is no answer to it."""
    todo = house.todo()[0]
    attempt_id = house.begin(todo)
    house.receive(attempt_id, data)
    recover(house)
    assert_lost(house, todo.task_id, attempt_id)
    assert_sound(house)


def test_a_size_that_was_left_open_fits_any_image(tmp_path: Path) -> None:
    """`auto` asked for no size."""
    with open_house(tmp_path, [make_task(size="auto")]) as house:
        (todo,) = house.todo()
        house.receive(house.begin(todo), png(1, "24x16"))
        recover(house)
        assert house.task(todo.task_id)["status"] == "done"
        assert_sound(house)


@pytest.mark.parametrize("placed", [False, True])
def test_received_and_perhaps_placed(house: House, placed: bool) -> None:
    """Laws 3 and 4: the image is adopted at its known cost, with nothing in doubt, before or after the rename."""
    todo = house.todo()[0]
    attempt_id = house.begin(todo)
    file = house.record(attempt_id, todo, house.receive(attempt_id, png()))
    if placed:
        house.store.place(attempt_id, file.path)
    recover(house)
    assert tree(house.output) == {file.path: png()}
    assert house.events == [Adopted(todo.name, file.path)]
    assert spent(house) == Spending(11_250, 0)
    attempt = house.attempt(attempt_id)
    assert (attempt["outcome"], attempt["doubt_microusd"], attempt["request_id"]) == ("saved", None, "req-1")
    assert_sound(house)


def test_received_and_placed_and_then_changed(house: House) -> None:
    """Law 2: bytes that are not those that were received are no asset; its known cost counts, without a doubt."""
    todo = house.todo()[0]
    attempt_id = house.begin(todo)
    file = house.record(attempt_id, todo, house.receive(attempt_id, png()), cost=ESTIMATE)
    house.store.place(attempt_id, file.path)
    (house.output / file.path).write_bytes(png(2))
    recover(house)
    assert house.task(todo.task_id)["status"] == "in_doubt"
    assert house.events == [FoundInDoubt(todo.name, 0)]
    assert spent(house) == Spending(9_000, 0)
    # Whose bytes these are nobody knows: they stay.
    assert tree(house.output) == {file.path: png(2)}
    assert_sound(house)


def test_received_and_its_file_changed_or_gone(house: House) -> None:
    """The hash on record is the judge of the temporary file, too: another whole image is not taken for it."""
    changed, gone, _ = house.todo()
    for todo in (changed, gone):
        attempt_id = house.begin(todo)
        house.record(attempt_id, todo, house.receive(attempt_id, png(todo.task_id)))
        partial = house.store.partial(attempt_id)
        partial.discard()
        if todo is changed:
            partial.path.write_bytes(png(99))
    recover(house)
    assert [house.task(todo.task_id)["status"] for todo in (changed, gone)] == ["in_doubt", "in_doubt"]
    assert spent(house) == Spending(22_500, 0)
    assert tree(house.output) == {}
    assert_sound(house)


def test_received_under_a_name_that_the_manifest_has_changed_since(house: House) -> None:
    """A placed one is adopted where it lies and moved by `tidy`; one that waits gets the name of today."""
    first, second, _ = house.todo()
    for todo in (first, second):
        attempt_id = house.begin(todo)
        file = house.record(attempt_id, todo, house.receive(attempt_id, png(todo.task_id)))
        if todo is first:
            house.store.place(attempt_id, file.path)
    renamed = [make_task(task.request.prompt, name=f"{n}.png") for n, task in enumerate(make_tasks(3))]
    house.job = enrolled(house.ledger, renamed, digest="d2")
    recover(house)
    assert tree(house.output) == {
        house.store.path(first.name): png(first.task_id),
        "job/images/1.png": png(second.task_id),
    }
    tidy(house)
    assert tree(house.output) == {"job/images/0.png": png(first.task_id), "job/images/1.png": png(second.task_id)}
    assert_sound(house)


def test_an_orphan_that_is_no_longer_wanted_is_settled_as_well(house: House) -> None:
    """Law 4: its money was spent whatever the manifest says now."""
    todo = house.todo()[0]
    attempt_id = house.begin(todo)
    house.job = enrolled(house.ledger, [make_task("something else")], digest="d2")
    recover(house)
    assert_lost(house, todo.task_id, attempt_id)
    assert spent(house) == Spending(0, RESERVED)
    assert_sound(house)


def test_more_orphans_than_a_page(tmp_path: Path) -> None:
    """Law 8: page by page, each settled once; the attempts of another job are left alone."""
    count = recovery.PAGE * 2 + 3
    with open_house(tmp_path, count) as house:
        for number, todo in enumerate(house.todo()):
            attempt_id = house.begin(todo)
            if number % 100 == 0:
                house.receive(attempt_id, png(number))
        other = move_in(house.ledger, tmp_path, 2, name="other")
        under_way = other.begin(other.todo()[0])
        other.receive(under_way, png(7))
        recover(house)
        statuses = house.ledger.statuses(house.job)
        assert (statuses[Status.DONE], statuses[Status.IN_DOUBT]) == (5, count - 5)
        assert len(house.events) == count
        assert spent(house) == Spending(0, count * RESERVED)
        assert other.attempt(under_way)["outcome"] is None
        assert other.partials() == [f"{under_way}.part"]


def test_earlier_attempts_of_the_task_stay_as_they_ended(house: House) -> None:
    """Only the open attempt is settled; what was lost before stays in doubt beside it."""
    todo = house.todo()[0]
    first = house.begin(todo)
    with write(house.ledger) as connection:
        attempts.lost(connection, first, task_id=todo.task_id, answer=recovery._DIED, try_again=True, now_ms=NOW_MS + 1)
    second = house.begin(todo, reserved_microusd=7)
    house.record(second, todo, house.receive(second, png()))
    recover(house)
    assert (house.attempt(first)["outcome"], house.attempt(first)["ended_ms"]) == ("lost", NOW_MS + 1)
    assert house.attempt(second)["outcome"] == "saved"
    assert spent(house) == Spending(11_250, RESERVED)
    assert_sound(house)


def test_an_unknown_file_in_the_way_is_kept(house: House) -> None:
    """Law 5: a file that is not on record gives way, and is found in `superseded/`."""
    todo = house.todo()[0]
    path = house.store.path(todo.name)
    (house.output / path).parent.mkdir(parents=True)
    (house.output / path).write_bytes(b"holiday picture")
    attempt_id = house.begin(todo)
    house.receive(attempt_id, png())
    recover(house)
    aside = f"job/superseded/{todo.name.removesuffix('.png')}~unknown.png"
    assert tree(house.output) == {path: png(), aside: b"holiday picture"}
    assert_sound(house)


def test_the_asset_of_an_edited_prompt_gives_its_name_away(house: House) -> None:
    """Law 5: the old image stays on record and on disk, under a name that says whose it is."""
    todo = house.todo()[0]
    old = house.make(todo, png(1))
    house.job = enrolled(house.ledger, [make_task("edited", name=todo.name)], digest="d2")
    (edited,) = house.todo()
    attempt_id = house.begin(edited)
    house.record(attempt_id, edited, house.receive(attempt_id, png(2)))
    recover(house)
    asset = house.asset(todo.task_id)
    assert asset is not None
    aside = f"job/superseded/{todo.name.removesuffix('.png')}~{asset['id']}.png"
    assert asset["path"] == aside
    assert tree(house.output) == {old.path: png(2), aside: png(1)}
    assert_sound(house)


@pytest.mark.parametrize("placed", [False, True])
def test_the_old_file_of_that_name_was_removed_by_hand(house: House, placed: bool) -> None:
    """Law 3: a record without a file does not keep a paid image from being recorded, now or ever."""
    todo = house.todo()[0]
    old = house.make(todo, png(1))
    (house.output / old.path).unlink()
    house.job = enrolled(house.ledger, [make_task("edited", name=todo.name)], digest="d2")
    (edited,) = house.todo()
    attempt_id = house.begin(edited)
    file = house.record(attempt_id, edited, house.receive(attempt_id, png(2)))
    if placed:
        house.store.place(attempt_id, file.path)
    recover(house)
    assert house.events == [Adopted(edited.name, file.path)]
    assert tree(house.output) == {old.path: png(2)}
    assert (house.task(edited.task_id)["status"], house.partials()) == ("done", [])
    assert house.asset(edited.task_id) == {**(house.asset(edited.task_id) or {}), "path": old.path}


def test_the_same_bytes_under_the_name_belong_to_who_had_it_before(house: House) -> None:
    """Two requests can bring equal images: neither takes the other's file for its own."""
    todo = house.todo()[0]
    old = house.make(todo, png(1))
    house.job = enrolled(house.ledger, [make_task("edited", name=todo.name)], digest="d2")
    (edited,) = house.todo()
    attempt_id = house.begin(edited)
    house.record(attempt_id, edited, house.receive(attempt_id, png(1)))
    recover(house)
    assert house.events == [Adopted(edited.name, old.path)]
    assert sorted(tree(house.output).values()) == [png(1), png(1)]
    assert_sound(house)


# -- moving assets to the names of today ------------------------------------------------------------


def named(*names: str) -> list[Any]:
    """One task for each name, the same ones whatever they are called."""
    return [make_task(f"prompt {n}", name=name) for n, name in enumerate(names)]


def made(folder: Path, ledger: Ledger, *names: str) -> House:
    """A job whose tasks are all done, each with an image of its own."""
    house = move_in(ledger, folder, named(*names), name="job")
    for number, todo in enumerate(house.todo()):
        house.make(todo, png(number))
    return house


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as it:
        yield it


@pytest.mark.parametrize(
    "names", [("b.png", "a.png", "c.png"), ("c.png", "a.png", "b.png"), ("x/a.png", "x/b.png", "b.png")]
)
def test_assets_that_swap_their_names(tmp_path: Path, ledger: Ledger, names: tuple[str, ...]) -> None:
    """Law 5: swaps, rings and moves into folders: each image ends under its new name, and none twice."""
    house = made(tmp_path, ledger, "a.png", "b.png", "c.png")
    house.job = enrolled(ledger, named(*names), digest="d2")
    tidy(house)
    assert house.events == []
    assert tree(tmp_path) == {f"job/images/{name}": png(number) for number, name in enumerate(names)}
    assert list(ledger.misplaced(house.job, house.store.images)) == []
    assert_sound(house)
    before = tree(tmp_path)
    tidy(house)
    assert tree(tmp_path) == before


def test_swapping_with_a_name_whose_file_is_gone(tmp_path: Path, ledger: Ledger) -> None:
    """One missing file neither stops the run nor takes another image's name; it is told."""
    house = made(tmp_path, ledger, "a.png", "b.png")
    (tmp_path / "job/images/b.png").unlink()
    house.job = enrolled(ledger, named("b.png", "a.png"), digest="d2")
    tidy(house)
    assert tree(tmp_path) == {"job/images/b.png": png(0)}
    (warned,) = house.events
    assert isinstance(warned, Warned)
    assert "missing or changed" in warned.message
    assert "job/images/a.png" in warned.message


def test_an_equal_file_of_another_task_is_not_taken_over(tmp_path: Path, ledger: Ledger) -> None:
    """Law 2: two tasks with equal images have a file each, also when one gets the name of the other."""
    house = move_in(ledger, tmp_path, named("a.png", "b.png"), name="job")
    for todo in house.todo():
        house.make(todo, png(7))
    house.job = enrolled(ledger, named("b.png"), digest="d2")
    tidy(house)
    (other,) = rows(ledger, "SELECT id FROM assets WHERE path LIKE '%superseded%'")
    assert tree(tmp_path) == {"job/images/b.png": png(7), f"job/superseded/b~{other['id']}.png": png(7)}
    assert_sound(house)


def test_a_changed_asset_is_not_moved(tmp_path: Path, ledger: Ledger) -> None:
    """What a person painted over stays where they look for it, and is told."""
    house = made(tmp_path, ledger, "a.png", "b.png")
    (tmp_path / "job/images/a.png").write_bytes(b"retouched")
    house.job = enrolled(ledger, named("x.png", "y.png"), digest="d2")
    tidy(house)
    assert tree(tmp_path) == {"job/images/a.png": b"retouched", "job/images/y.png": png(1)}
    assert [type(event) for event in house.events] == [Warned]


def test_an_asset_that_cannot_be_moved_stops_nothing(tmp_path: Path, ledger: Ledger) -> None:
    """The trouble of one file is told; the others are moved, and it stays where it was."""
    house = made(tmp_path, ledger, "a.png", "b.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "job/images/out").symlink_to(tmp_path / "elsewhere")
    house.job = enrolled(ledger, named("out/a.png", "y.png"), digest="d2")
    tidy(house)
    assert tree(tmp_path) == {"job/images/a.png": png(0), "job/images/y.png": png(1)}
    (warned,) = house.events
    assert isinstance(warned, Warned)
    assert "symbolic link" in warned.message
    assert_sound(house)


# -- what other jobs have made ----------------------------------------------------------------------


def source(tmp_path: Path, ledger: Ledger, name: str, seed: int = 1) -> str:
    """A job that has made the one image; its path."""
    house = move_in(ledger, tmp_path, [make_task()], name=name)
    return house.make(house.todo()[0], png(seed)).path


def test_another_jobs_image_serves_without_a_request(tmp_path: Path, ledger: Ledger) -> None:
    """Law 3: the same request is paid once; both jobs have the file under their own names."""
    path = source(tmp_path, ledger, "first")
    house = move_in(ledger, tmp_path, [make_task(name="mine.png"), make_task("new")], name="second")
    assert reuse(house) == 1
    assert house.events == [Reused("mine.png", "second/images/mine.png")]
    assert tree(tmp_path) == {path: png(), "second/images/mine.png": png()}
    assert house.ledger.statuses(house.job)[Status.DONE] == 1
    assert (spent(house), ledger.reused(house.job)) == (Spending(0, 0), 1)
    asset = house.asset(house.ledger.todo(house.job, -1, 1)[0].task_id - 1)
    assert asset is not None
    assert (asset["attempt_id"], asset["reused_from"]) == (None, 1)
    assert_sound(house)
    assert reuse(house) == 0


@pytest.mark.parametrize("left", [None, b"", png(2)])
def test_a_source_that_is_gone_or_changed_is_not_reused(tmp_path: Path, ledger: Ledger, left: bytes | None) -> None:
    """Law 2: no done without the very bytes; the task stays planned and is made."""
    path = source(tmp_path, ledger, "first")
    (tmp_path / path).unlink()
    if left is not None:
        (tmp_path / path).write_bytes(left)
    house = move_in(ledger, tmp_path, [make_task()], name="second")
    assert reuse(house) == 0
    assert (house.events, len(house.todo())) == ([], 1)
    assert tree(tmp_path / "second") == {}


@pytest.mark.parametrize("gone", ["first", "second"])
def test_one_source_that_is_left_is_enough(tmp_path: Path, ledger: Ledger, gone: str) -> None:
    """Law 3: while any job still has the file, it is not paid for again."""
    paths = {name: source(tmp_path, ledger, name, seed) for seed, name in ((1, "first"), (2, "second"))}
    (tmp_path / paths[gone]).unlink()
    house = move_in(ledger, tmp_path, [make_task()], name="third")
    assert reuse(house) == 1
    assert tree(tmp_path / "third/images").popitem()[1] == (png(2) if gone == "first" else png(1))
    assert_sound_except(house, gone)


def assert_sound_except(house: House, job: str) -> None:
    """Sound but for the assets of `job`, whose files a test has removed."""
    for asset in rows(house.ledger, "SELECT * FROM assets"):
        assert house.store.matches(asset["path"], asset["sha256"]) is not asset["path"].startswith(f"{job}/")


def test_what_lies_under_the_name_gives_way_to_a_reused_image(tmp_path: Path, ledger: Ledger) -> None:
    """A stranger's file is kept; one with the very bytes is left by a run that died in between, and is taken."""
    source(tmp_path, ledger, "first")
    house = move_in(ledger, tmp_path, [make_task(name="a.png")], name="second")
    (tmp_path / "second/images/a.png").write_bytes(b"mine")
    assert reuse(house) == 1
    assert tree(tmp_path / "second") == {"images/a.png": png(), "superseded/a~unknown.png": b"mine"}
    third = move_in(ledger, tmp_path, [make_task(name="a.png")], name="third")
    (tmp_path / "third/images/a.png").write_bytes(png())
    assert reuse(third) == 1
    assert tree(tmp_path / "third") == {"images/a.png": png()}
    assert_sound(third)


# -- killed at every step ---------------------------------------------------------------------------


class Killed(BaseException):
    """SIGKILL, as far as a test can have it in its own process: nothing that follows is done."""


class Fuse:
    """Lets a number of changes to disk and ledger pass, and dies before the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        for owner, names in (
            (os, ("link", "rename", "unlink", "mkdir")),
            (Ledger, ("found", "adopt", "lose", "reuse", "asset_moved")),
        ):
            for name in names:
                monkeypatch.setattr(owner, name, self._burning(getattr(owner, name)))

    def _burning(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            if self.left is not None:
                if self.left == 0:
                    raise Killed
                self.left -= 1
            return real(*given, **more)

        return call


def killed_at_every_step(
    fuse: Fuse,
    prepare: Callable[[int], House],
    work: Callable[[House], object],
    then: Callable[[House], object] | None = None,
) -> int:
    """Do `work` in a fresh house, killed before its first change, its second and so on, and each time once more.

    With `then` that is done the second time instead.

    After every kill each byte that there was is still somewhere, and the second time ends it. Returns the steps.
    """
    for step in itertools.count():
        fuse.left = None
        house = prepare(step)
        there = set(tree(house.output).values())
        fuse.left = step
        try:
            work(house)
            return step
        except Killed:
            assert there <= set(tree(house.output).values()), step
        finally:
            fuse.left = None
        (then or work)(house)
        assert there <= set(tree(house.output).values()), step
        assert_sound(house)
    raise AssertionError


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    return Fuse(monkeypatch)


@pytest.fixture
def houses(tmp_path: Path) -> Iterator[Callable[[int, list[Any]], House]]:
    """A new house for each step of a test."""
    ledgers: list[Ledger] = []

    def build(step: int, tasks: list[Any]) -> House:
        folder = tmp_path / str(step)
        ledgers.append(Ledger.open(folder / "ledger.sqlite3", create=True))
        return move_in(ledgers[-1], folder, tasks, name="job")

    yield build
    for each in ledgers:
        each.close()


def test_swapping_names_can_be_killed_at_any_step(fuse: Fuse, houses: Callable[[int, list[Any]], House]) -> None:
    """Laws 2, 3 and 5: no image is lost or taken for another, and the next run ends what was begun."""
    names = ("b.png", "c.png", "a.png")

    def prepare(step: int) -> House:
        house = houses(step, named("a.png", "b.png", "c.png"))
        for number, todo in enumerate(house.todo()):
            house.make(todo, png(number))
        house.job = enrolled(house.ledger, named(*names), digest="d2")
        return house

    def work(house: House) -> None:
        tidy(house)
        for number, name in enumerate(names):
            assert (house.output / "job/images" / name).read_bytes() == png(number)
        assert list(house.ledger.misplaced(house.job, house.store.images)) == []

    assert killed_at_every_step(fuse, prepare, work) > 10


def test_recovery_can_be_killed_at_any_step(fuse: Fuse, houses: Callable[[int, list[Any]], House]) -> None:
    """Law 3: recovery of a recovery that died adopts the same images at the same cost, and loses the same one."""

    def prepare(step: int) -> House:
        house = houses(step, named("old.png"))
        house.make(house.todo()[0], png(50))
        house.job = enrolled(
            house.ledger, [make_task(f"new {n}", name=f"{n}.png" if n else "old.png") for n in range(5)], digest="d2"
        )
        received, placed, whole, renamed, _ = todos = house.todo()
        for number, todo in enumerate(todos[:4]):
            attempt_id = house.begin(todo)
            sealed = house.receive(attempt_id, png(number))
            if todo is renamed:
                todo = replace(todo, name="before.png")
            if todo is not whole:
                house.record(attempt_id, todo, sealed)
            if todo is placed:
                house.store.place(attempt_id, house.store.path(todo.name))
        house.begin(todos[4])
        assert received.name == "old.png"
        (house.output / "job/images/2.png").write_bytes(b"in the way")
        return house

    def work(house: House) -> None:
        recover(house)
        for number, name in enumerate(("old", "1", "2", "3")):
            assert (house.output / f"job/images/{name}.png").read_bytes() == png(number)
        statuses = house.ledger.statuses(house.job)
        assert (statuses[Status.DONE], statuses[Status.IN_DOUBT]) == (4, 1)
        # The old image, and the three whose cost was told; the one that was whole but not on record, and the lost one.
        assert spent(house) == Spending(11_250 * 4, RESERVED * 2)

    assert killed_at_every_step(fuse, prepare, work) > 10


def test_reuse_can_be_killed_at_any_step(fuse: Fuse, houses: Callable[[int, list[Any]], House]) -> None:
    """Law 3: what was linked and not yet recorded is recorded by the next run."""

    def prepare(step: int) -> House:
        first = houses(step, [make_task(), make_task("second")])
        for number, todo in enumerate(first.todo()):
            first.make(todo, png(number))
        tasks = [make_task(name="deep/a.png"), make_task("second", name="b.png")]
        house = move_in(first.ledger, first.output, tasks, name="other")
        (house.output / "other/images/b.png").write_bytes(b"in the way")
        return house

    def work(house: House) -> None:
        reuse(house)
        assert house.todo() == []
        assert (house.output / "other/images/deep/a.png").read_bytes() == png(0)
        assert (house.output / "other/images/b.png").read_bytes() == png(1)

    assert killed_at_every_step(fuse, prepare, work) > 5


def test_what_was_linked_for_a_name_that_is_not_wanted_any_more_is_let_go(
    fuse: Fuse, houses: Callable[[int, list[Any]], House]
) -> None:
    """Killed anywhere in a reuse, and renamed before the next run: in the end each image has one name that is known."""

    def prepare(step: int) -> House:
        first = houses(step, [make_task(), make_task("second")])
        for number, todo in enumerate(first.todo()):
            first.make(todo, png(number))
        tasks = [make_task(name="a.png"), make_task("second", name="b.png")]
        return move_in(first.ledger, first.output, tasks, name="other")

    def then(house: House) -> None:
        """A person has edited the manifest after the death."""
        renamed = [make_task(name="new/a.png"), make_task("second", name="new/b.png")]
        house.job = enrolled(house.ledger, renamed, name="other", digest="d2")
        recover(house)
        reuse(house)
        tidy(house)
        images = house.output / "other/images"
        assert {path.relative_to(images).as_posix() for path in images.rglob("*.png")} == {"new/a.png", "new/b.png"}

    assert killed_at_every_step(fuse, prepare, reuse, then) > 5


def test_a_doubt_is_sent_again_only_when_it_is_planned_again(house: House) -> None:
    """Law 3: recovery itself plans nothing: whether a doubt is tried again is the caller's to say."""
    todo = house.todo()[0]
    house.begin(todo)
    recover(house)
    assert todo.task_id not in {each.task_id for each in house.todo()}
    assert house.ledger.retry(house.job, Status.IN_DOUBT, None) == 1
    house.run_id = begin_run(house.ledger, house.job)
    house.make(todo, png())
    assert spent(house) == Spending(11_250, RESERVED)
    assert_sound(house)
