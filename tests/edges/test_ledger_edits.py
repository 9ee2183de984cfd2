"""What is on record of edits: what tasks start from, where their inputs are, and what was derived from answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runner.errors import LedgerError, Usage
from runner.ledger import COMPOSITE, Cost, Job, Ledger, Wanting
from tests.edges.ledger_support import (
    NOW_MS,
    begin,
    begin_run,
    change,
    enrolled,
    finish,
    make_edit,
    make_task,
    make_tasks,
    open_ledger,
    rendition,
    rows,
)

MADE = "job/composites/a.png"
COST = Cost(1, "usage", Usage(20, 272, 614, 20, 323))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as it:
        yield it


def finished(ledger: Ledger, job: Job) -> None:
    run_id = begin_run(ledger, job)
    for todo in ledger.todo(job, -1, 100):
        finish(ledger, job, run_id, todo, cost=COST)


def test_a_task_comes_back_with_all_that_it_starts_from(ledger: Ledger) -> None:
    """Images in their order, the mask, the fidelity, and where each is found: also beside tasks that have none."""
    edits = [make_edit(1, images=16), make_edit(2, mask=False, fidelity="high"), None]
    tasks = [make_task(f"p{n}", edit=edit) for n, edit in enumerate(edits)]
    todo = ledger.todo(enrolled(ledger, tasks), -1, 10)
    assert [each.request for each in todo] == [task.request for task in tasks]
    assert [each.sources for each in todo] == [task.sources for task in tasks]
    assert [len(each.sources) for each in todo] == [17, 1, 0]


def test_what_many_tasks_start_from_is_kept_once(ledger: Ledger) -> None:
    enrolled(ledger, [make_task(f"p{n}", edit=make_edit(n % 2, images=3)) for n in range(50)])
    assert rows(ledger, "SELECT count(*) AS n FROM edits") == [{"n": 2}]
    assert rows(ledger, "SELECT count(*) AS n FROM inputs") == [{"n": 8}]


def test_a_file_that_was_renamed_is_found_under_its_new_name_and_makes_no_new_task(ledger: Ledger) -> None:
    """Law 3: an input's name is not what is paid for. Another job still finds it where it has it."""
    other = enrolled(ledger, [make_task(edit=make_edit(), folder="theirs")], name="other")
    job = enrolled(ledger, [make_task(edit=make_edit())])
    finished(ledger, job)
    again = enrolled(
        ledger,
        [make_task(edit=make_edit(), folder="moved"), make_task("b", edit=make_edit(), folder="moved")],
        digest="2",
    )
    assert len(ledger.todo(again, -1, 10)) == 1
    (left,) = enrolled_sources(ledger, again)
    assert all("moved" in recipe for recipe in left)
    (theirs,) = enrolled_sources(ledger, other)
    assert all("theirs" in recipe for recipe in theirs)


def enrolled_sources(ledger: Ledger, job: Job) -> list[list[str]]:
    return [[source.recipe for source in todo.sources] for todo in ledger.todo(job, -1, 10)]


def test_composites_are_wanted_of_what_is_done_and_wanted_and_has_none(ledger: Ledger) -> None:
    """Neither of a task that is not done, nor of one without a composite, nor of one that the job no longer wants."""
    tasks = [
        make_task("with", edit=make_edit(), composite="paste"),
        make_task("without", edit=make_edit()),
        make_task("plain"),
        make_task("gone", edit=make_edit(), composite="paste"),
    ]
    job = enrolled(ledger, tasks)
    assert ledger.renditions.composites_wanted(job, 0, 10) == []
    finished(ledger, job)
    job = enrolled(ledger, [*tasks[:3], make_task("later", edit=make_edit(), composite="paste")], digest="d2")
    assert names(ledger, job) == ["with/16x16-low-1.png"]
    (item,) = ledger.renditions.composites_wanted(job, 0, 10)
    assert (item.recipe, item.old_path) == ("paste", None)
    rendered(ledger, item)
    assert names(ledger, job) == []


def rendered(ledger: Ledger, item: Wanting) -> None:
    ledger.renditions.made([rendition(item, COMPOSITE, item.digest, MADE)], now_ms=NOW_MS)


def names(ledger: Ledger, job: Job, after: int = 0) -> list[str]:
    return [item.name for item in ledger.renditions.composites_wanted(job, after, 10)]


def test_pages_go_on_from_the_last_asset(ledger: Ledger) -> None:
    job = enrolled(ledger, [make_task(f"p{n}", edit=make_edit(), composite="x") for n in range(5)])
    finished(ledger, job)
    first = ledger.renditions.composites_wanted(job, 0, 2)
    rest = ledger.renditions.composites_wanted(job, first[-1].asset_id, 10)
    assert [item.name for item in (*first, *rest)] == names(ledger, job)
    assert len(rest) == 3


def wanted_again(ledger: Ledger, job: Job) -> Wanting:
    (item,) = ledger.renditions.composites_wanted(job, 0, 10)
    assert item.old_path == MADE
    return item


def test_a_composite_is_made_again_when_anything_of_it_has_changed(ledger: Ledger) -> None:
    """Its recipe, its asset or its name; the task itself is not made again."""
    task = make_task(edit=make_edit(), composite="old")
    job = enrolled(ledger, [task])
    finished(ledger, job)
    rendered(ledger, ledger.renditions.composites_wanted(job, 0, 1)[0])
    for digest, now in (("2", replace(task, composite="new")), ("3", replace(task, composite="new", name="other.png"))):
        job = enrolled(ledger, [now], digest=digest)
        assert ledger.todo(job, -1, 10) == []
        rendered(ledger, wanted_again(ledger, job))
        assert ledger.renditions.composites_wanted(job, 0, 10) == []
    change(ledger, "UPDATE assets SET sha256 = ?", "e" * 64)
    wanted_again(ledger, job)
    job = enrolled(ledger, [replace(task, composite=None)], digest="4")
    assert ledger.renditions.composites_wanted(job, 0, 10) == []


def test_a_path_belongs_to_whoever_was_rendered_there_last(ledger: Ledger) -> None:
    """Two tasks that swap names swap composites: the file of the one is not the other's to remove."""
    job = enrolled(ledger, [make_task(f"p{n}", edit=make_edit(), composite="x") for n in range(2)])
    finished(ledger, job)
    one, other = ledger.renditions.composites_wanted(job, 0, 2)
    rendered(ledger, one)
    assert ledger.renditions.owners([MADE, "job/composites/b.png"]) == {MADE: {(one.task_id, COMPOSITE)}}
    assert other.task_id != one.task_id
    change(ledger, "UPDATE tasks SET name = 'renamed' WHERE id = ?", one.task_id)
    assert ledger.renditions.owners([MADE]) == {}


def test_what_inputs_took_is_told_newest_first_and_simulated_apart(ledger: Ledger) -> None:
    job = enrolled(ledger, [*make_tasks(3), *(make_task(f"e{n}", edit=make_edit(n)) for n in range(3))])
    run_id = begin_run(ledger, job)
    for number, todo in enumerate(ledger.todo(job, -1, 5)):
        images = 0 if todo.request.edit is None else 100 + number
        finish(ledger, job, run_id, todo, cost=Cost(1, "usage", Usage(20, 272, 292 + images, 20, images)))
    seen = ledger.seen_edits(simulated=False)
    assert [(each.edit, each.input_image_tokens) for each in seen] == [(make_edit(1), 104), (make_edit(0), 103)]
    assert ledger.seen_edits(simulated=False, limit=1) == seen[:1]
    assert ledger.seen_edits(simulated=True) == []


def test_what_a_dead_run_left_is_known_with_its_edit(ledger: Ledger) -> None:
    job = enrolled(ledger, [make_task(edit=make_edit())])
    begin(ledger, job, begin_run(ledger, job), ledger.todo(job, -1, 1)[0].task_id)
    (orphan,) = ledger.orphans(job, 10)
    assert orphan.request.edit == make_edit()


@pytest.mark.parametrize(
    "spec", ["", "[]", "{}", '{"images":[],"mask":null,"fidelity":null}', '{"images":[["x",1,1]]}']
)
def test_nonsense_on_record_is_told_as_damage(ledger: Ledger, spec: str) -> None:
    job = enrolled(ledger, [make_task(edit=make_edit())])
    change(ledger, "UPDATE edits SET spec = ?", spec)
    with pytest.raises(LedgerError, match="is damaged"):
        ledger.todo(job, -1, 10)


def test_an_input_that_is_not_on_record_is_told_as_damage(ledger: Ledger) -> None:
    job = enrolled(ledger, [make_task(edit=make_edit())])
    change(ledger, "DELETE FROM inputs")
    with pytest.raises(LedgerError, match="is damaged"):
        ledger.todo(job, -1, 10)
