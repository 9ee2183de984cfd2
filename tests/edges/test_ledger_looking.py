"""What the ledger knows for whoever looks at images: tiles, renditions, choices, and what was made again from what."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from runner.errors import InputError, LedgerError
from runner.ledger import THUMBNAIL, Choice, Job, Ledger, NewChoice, Tile, attempts
from runner.tasks import Event, Status
from tests.edges.ledger_support import (
    COST,
    NOW_MS,
    REFUSAL,
    begin,
    begin_run,
    change,
    enrolled,
    finish,
    make_edit,
    make_task,
    make_tasks,
    open_ledger,
    path_of,
    rendition,
    rows,
    write,
)

CARD = {"card": "c" * 64}
BOTH = {**CARD, THUMBNAIL: "d" * 64}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as it:
        yield it


def finished(ledger: Ledger, job: Job, count: int = 100) -> None:
    run_id = begin_run(ledger, job)
    for todo in ledger.todo(job, -1, count):
        finish(ledger, job, run_id, todo)


def seen(ledger: Ledger, job: Job) -> list[Tile]:
    with ledger.tiles(job) as tiles:
        return list(tiles)


# -- tiles ------------------------------------------------------------------------------------------


def test_a_tile_has_all_that_is_shown_of_an_image(ledger: Ledger) -> None:
    job = enrolled(ledger, [*make_tasks(3), make_task("edited", edit=make_edit())])
    run_id = begin_run(ledger, job)
    first, second, _, edited = ledger.todo(job, -1, 4)
    file = finish(ledger, job, run_id, first)
    attempt_id = begin(ledger, job, run_id, second.task_id)
    with write(ledger) as connection:
        attempts.unsaved(
            connection, attempt_id, Event.REFUSED, task_id=second.task_id, answer=REFUSAL, cost=COST, now_ms=NOW_MS
        )
    done, refused, planned, start = seen(ledger, job)
    assert (done.task_id, done.status, done.path, done.sha256) == (first.task_id, Status.DONE, file.path, file.sha256)
    assert (done.key, done.prompt, done.width, done.cost_microusd) == (first.key, "prompt 000000", 16, COST.microusd)
    assert (refused.status, refused.error_code, refused.error_message) == (
        Status.REFUSED,
        REFUSAL.error_code,
        REFUSAL.error_message,
    )
    assert (refused.path, refused.cost_microusd) == (None, COST.microusd)
    assert (planned.status, planned.cost_microusd, planned.path) == (Status.PLANNED, 0, None)
    assert [tile.has_edit for tile in (done, start)] == [False, True]
    assert edited.task_id == start.task_id
    assert done.variant == (("size", "16x16"), ("quality", "low"))


def test_tiles_are_what_the_manifest_wants_now_in_its_order(ledger: Ledger) -> None:
    tasks = list(make_tasks(5))
    enrolled(ledger, tasks)
    job = enrolled(ledger, [tasks[3], tasks[1]], digest="2")
    assert [tile.prompt for tile in seen(ledger, job)] == ["prompt 000003", "prompt 000001"]
    ids = [tile.task_id for tile in seen(ledger, job)]
    with ledger.tiles(job, ids[:1]) as some:
        assert [tile.task_id for tile in some] == ids[:1]
    unwanted = rows(ledger, "SELECT id FROM tasks WHERE revision < 2")[0]["id"]
    with ledger.tiles(job, [unwanted]) as none:
        assert list(none) == []


@pytest.mark.file_only
def test_a_ledger_of_an_older_version_is_looked_at_as_it_is(ledger: Ledger, tmp_path: Path) -> None:
    """Before there were edits nothing was derived; before anything was chosen nothing is chosen."""
    job = enrolled(ledger, make_tasks(2))
    finished(ledger, job)
    old = tmp_path / "old.sqlite3"
    ledger.close()
    shutil.copy(path_of(ledger), old)
    with closing(sqlite3.connect(old)) as database:
        for table in ("choices", "origins", "renditions", "inputs", "batches", "remote_files"):
            database.execute(f"DROP TABLE {table}")
        database.execute("UPDATE alembic_version SET version_num = '0002'")
        database.commit()
    with Ledger.open(old, create=False) as looked_at:
        assert [tile.status for tile in seen(looked_at, job)] == [Status.DONE, Status.DONE]
        assert looked_at.relatives(job) == []
        assert list(looked_at.reviews.all(job)) == []


# -- renditions -------------------------------------------------------------------------------------


def lacking(ledger: Ledger, job: Job, kinds: dict[str, str] = BOTH) -> list[tuple[str, tuple[str, ...]]]:
    return [(item.name, item.kinds) for item in ledger.renditions.lacking(job, kinds, 0, 100)]


def make(ledger: Ledger, job: Job, kinds: dict[str, str]) -> None:
    """All that is lacking of these kinds."""
    for item in ledger.renditions.lacking(job, kinds, 0, 100):
        made = [rendition(item, kind, kinds[kind], f"job/{kind}/{item.name}") for kind in item.kinds]
        ledger.renditions.made(made, now_ms=NOW_MS)


def test_each_image_lacks_what_it_has_not_and_nothing_else(ledger: Ledger) -> None:
    """Only of what is done and wanted; only the kinds that are not there."""
    job = enrolled(ledger, make_tasks(3))
    assert lacking(ledger, job) == []
    finished(ledger, job, 2)
    names = [tile.name for tile in seen(ledger, job)[:2]]
    assert lacking(ledger, job) == [(name, ("card", THUMBNAIL)) for name in names]
    make(ledger, job, CARD)
    assert lacking(ledger, job) == [(name, (THUMBNAIL,)) for name in names]
    assert ledger.renditions.count_lacking(job, BOTH) == 2
    make(ledger, job, BOTH)
    assert (lacking(ledger, job), ledger.renditions.count_lacking(job, BOTH)) == ([], 0)
    assert lacking(ledger, job, {}) == []
    assert [tile.thumbnail for tile in seen(ledger, job)] == [*(f"job/{THUMBNAIL}/{name}" for name in names), None]


def test_a_changed_recipe_lacks_only_what_it_has_changed(ledger: Ledger) -> None:
    job = enrolled(ledger, make_tasks(2))
    finished(ledger, job)
    make(ledger, job, BOTH)
    changed = {**BOTH, "card": "e" * 64}
    (first, _) = ledger.renditions.lacking(job, changed, 0, 10)
    assert first.kinds == ("card",)
    assert first.old_paths == {"card": f"job/card/{first.name}"}
    make(ledger, job, changed)
    assert lacking(ledger, job, changed) == []
    assert len(rows(ledger, "SELECT * FROM renditions")) == 4


@pytest.mark.parametrize(
    "changed", ["UPDATE assets SET sha256 = substr(sha256, 2) || 'f'", "UPDATE tasks SET name = 'new/' || name"]
)
def test_another_image_or_name_lacks_all_of_it(ledger: Ledger, changed: str) -> None:
    """A thumbnail of what is no longer the image is not shown either."""
    job = enrolled(ledger, make_tasks(1))
    finished(ledger, job)
    make(ledger, job, BOTH)
    change(ledger, changed)
    ((_, kinds),) = lacking(ledger, job)
    assert kinds == ("card", THUMBNAIL)
    if "sha256" in changed:
        assert seen(ledger, job)[0].thumbnail is None


def test_what_is_forgotten_is_wanted_again(ledger: Ledger) -> None:
    job = enrolled(ledger, make_tasks(2))
    finished(ledger, job)
    make(ledger, job, CARD)
    ((first, _),) = list(ledger.renditions.all(job))
    assert first[1:] == ("job/card/prompt-000000/16x16-low-1.png", 100)
    ledger.renditions.forget([first[0]])
    assert lacking(ledger, job, CARD) == [("prompt-000000/16x16-low-1.png", ("card",))]


def test_pages_of_what_is_lacking_go_on_from_the_last(ledger: Ledger) -> None:
    job = enrolled(ledger, make_tasks(5))
    finished(ledger, job)
    first = ledger.renditions.lacking(job, BOTH, 0, 2)
    rest = ledger.renditions.lacking(job, BOTH, first[-1].asset_id, 10)
    assert [item.name for item in (*first, *rest)] == [name for name, _ in lacking(ledger, job)]


# -- choices ----------------------------------------------------------------------------------------


def pair(left: int, right: int, token: str, *, reviewer: str = "a", verdict: str = "left") -> NewChoice:
    return NewChoice(reviewer, left, right, verdict, None, blind=False, token=token)  # type: ignore[arg-type]  # checked


def all_of(ledger: Ledger, job: Job) -> list[Choice]:
    return list(ledger.reviews.all(job))


def test_a_choice_is_on_record_at_once_and_counts_once(ledger: Ledger) -> None:
    """What is sent twice because an answer was lost is one choice, whatever it says the second time."""
    job = enrolled(ledger, make_tasks(3))
    finished(ledger, job)
    one, other, third = (tile.task_id for tile in seen(ledger, job))
    added = ledger.reviews.add(job, pair(one, other, "t1"), now_ms=NOW_MS)
    again = ledger.reviews.add(job, pair(one, other, "t1", verdict="right"), now_ms=NOW_MS + 5)
    assert added == again == all_of(ledger, job)[0]
    assert (added.left, added.right, added.verdict, added.created_ms) == (one, other, "left", NOW_MS)
    stars = NewChoice("b", third, None, "stars", 5, blind=True, token="t2")
    assert ledger.reviews.add(job, stars, now_ms=NOW_MS).stars == 5
    assert [choice.reviewer for choice in all_of(ledger, job)] == ["a", "b"]


def test_undo_takes_back_ones_own_newest_and_keeps_it_on_record(ledger: Ledger) -> None:
    job = enrolled(ledger, make_tasks(2))
    finished(ledger, job)
    one, other = (tile.task_id for tile in seen(ledger, job))
    for token, who in (("1", "a"), ("2", "a"), ("3", "b")):
        ledger.reviews.add(job, pair(one, other, token, reviewer=who), now_ms=NOW_MS)
    undone = ledger.reviews.undo(job, "a", now_ms=NOW_MS + 1)
    assert undone is not None
    assert undone.token == "2"
    assert [choice.token for choice in all_of(ledger, job)] == ["1", "3"]
    assert ledger.reviews.undo(job, "a", now_ms=NOW_MS) is not None
    assert ledger.reviews.undo(job, "a", now_ms=NOW_MS) is None
    assert len(rows(ledger, "SELECT * FROM choices WHERE undone_ms IS NOT NULL")) == 2


def test_only_images_of_the_job_that_are_there_can_be_chosen(ledger: Ledger) -> None:
    other = enrolled(ledger, make_tasks(1), name="other")
    finished(ledger, other)
    job = enrolled(ledger, [*make_tasks(2), make_task("later")])
    finished(ledger, job, 2)
    (theirs,) = (tile.task_id for tile in seen(ledger, other))
    one, _, planned = (tile.task_id for tile in seen(ledger, job))
    for wrong in (theirs, planned, 10_000):
        with pytest.raises(InputError, match="has no image"):
            ledger.reviews.add(job, pair(one, wrong, "t"), now_ms=NOW_MS)
    assert all_of(ledger, job) == []


@pytest.mark.parametrize(
    "wrong",
    [{"verdict": "maybe"}, {"stars": 6, "verdict": "stars", "right": None}, {"stars": 3}, {"right": None}],
)
def test_nonsense_is_no_choice(ledger: Ledger, wrong: dict[str, object]) -> None:
    """Whatever lets it through above: the ledger's own rules hold."""
    job = enrolled(ledger, make_tasks(2))
    finished(ledger, job)
    one, other = (tile.task_id for tile in seen(ledger, job))
    with pytest.raises(LedgerError):
        ledger.reviews.add(job, replace(pair(one, other, "t"), **wrong), now_ms=NOW_MS)  # type: ignore[arg-type]  # nonsense


def test_a_choice_between_images_that_are_gone_is_not_current(ledger: Ledger) -> None:
    job = enrolled(ledger, make_tasks(2))
    finished(ledger, job)
    one, other = (tile.task_id for tile in seen(ledger, job))
    ledger.reviews.add(job, pair(one, other, "t"), now_ms=NOW_MS)
    assert all_of(ledger, job)[0].is_current
    change(ledger, "UPDATE assets SET sha256 = ? WHERE task_id = ?", "f" * 64, other)
    assert not all_of(ledger, job)[0].is_current


def test_every_choice_is_read_however_many_there_are(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.ledger.reviews.CHUNK", 3)
    job = enrolled(ledger, make_tasks(2))
    finished(ledger, job)
    one, other = (tile.task_id for tile in seen(ledger, job))
    for number in range(7):
        ledger.reviews.add(job, pair(one, other, str(number)), now_ms=NOW_MS)
    assert [choice.token for choice in all_of(ledger, job)] == [str(number) for number in range(7)]


# -- what was made again ----------------------------------------------------------------------------


def test_what_was_made_again_is_seen_from_both_sides(ledger: Ledger) -> None:
    origin = enrolled(ledger, make_tasks(3), name="sweep")
    finished(ledger, origin)
    chosen = seen(ledger, origin)
    finals = enrolled(ledger, [make_task("final", prompt_id="f", model="gpt-image-2", quality="high")], name="finals")
    keys = {"f": [chosen[0].key, chosen[2].key, "0" * 64], "nobody": [chosen[1].key]}
    for _ in range(2):  # a run that is repeated puts nothing on record twice
        assert ledger.link_origins(finals, keys, of_job="sweep", now_ms=NOW_MS) == 3
    assert ledger.link_origins(finals, keys, of_job="unknown", now_ms=NOW_MS) == 0
    (final,) = seen(ledger, finals)
    before = ledger.relatives(finals)
    assert [(one.side, one.task_id, one.other_task, one.job) for one in before] == [
        ("before", final.task_id, chosen[0].task_id, "sweep"),
        ("before", final.task_id, chosen[2].task_id, "sweep"),
    ]
    assert (before[0].path, before[0].cost_microusd) == (chosen[0].path, COST.microusd)
    after = ledger.relatives(origin)
    assert [(one.side, one.task_id, one.job, one.model, one.quality, one.status, one.path) for one in after] == [
        ("after", chosen[0].task_id, "finals", "gpt-image-2", "high", Status.PLANNED, None),
        ("after", chosen[2].task_id, "finals", "gpt-image-2", "high", Status.PLANNED, None),
    ]
    finished(ledger, finals)
    assert all(one.path is not None for one in ledger.relatives(origin))
