"""What enrolment must hold: a manifest can be edited, repeated and cut off anywhere, and only what is new is to do."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from runner.engine.stop import Stop
from runner.errors import InputError, LedgerError
from runner.invocation import Options, prepare
from runner.ledger import Job, Ledger
from runner.planner import CHUNK, Known
from runner.session import Session
from runner.store.folder import FolderStore
from runner.tasks import Status, Task
from tests.edges.ledger_support import (
    NOW_MS,
    address_of,
    begin,
    begin_run,
    change,
    contents,
    enrolled,
    finish,
    make_file,
    make_task,
    make_tasks,
    open_ledger,
    rows,
)

PROMPTS = ("a lighthouse", "a bakery", "a harbour")
SIZES = ("16x16", "24x16")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as it:
        yield it


def sweep(prompts: Iterable[str] = PROMPTS, sizes: Iterable[str] = SIZES) -> list[Task]:
    """A small A/B sweep."""
    return [make_task(prompt, size=size) for prompt in prompts for size in sizes]


def counted(ledger: Ledger, job: Job) -> dict[str, int]:
    """The statuses that occur."""
    return {status.value: count for status, count in ledger.statuses(job).items() if count}


def finish_all(ledger: Ledger, job: Job) -> None:
    run_id = begin_run(ledger, job)
    for todo in ledger.todo(job, -1, 1000):
        finish(ledger, job, run_id, todo)


def test_a_task_comes_back_as_it_was_enrolled(ledger: Ledger) -> None:
    """What is asked of the provider is what the manifest said, in the manifest's order."""
    tasks = [make_task("ein Café bei Nacht ☕", sample=2), make_task("b", size="auto", quality="high")]
    job = enrolled(ledger, tasks)
    found = ledger.todo(job, -1, 10)
    assert [todo.request for todo in found] == [task.request for task in tasks]
    assert [(todo.key, todo.name, todo.sample, todo.prompt_id) for todo in found] == [
        (task.key, task.name, task.sample, task.prompt_id) for task in tasks
    ]
    assert [todo.position for todo in found] == [0, 1]
    assert (job.wanted, job.digest, job.revision) == (2, "d1", 1)
    assert ledger.job("job") == job
    assert ledger.jobs() == [job]


def test_todo_comes_in_pages(ledger: Ledger) -> None:
    """Law 8: the pool reads a page at a time and meets every task once."""
    job = enrolled(ledger, 25)
    seen, last = [], -1
    while page := ledger.todo(job, last, 10):
        assert len(page) <= 10
        seen += [todo.position for todo in page]
        last = page[-1].position
    assert seen == list(range(25))


def test_enrolling_the_same_again_changes_no_task(ledger: Ledger) -> None:
    """Law 3: idempotent; what is done stays done, with its asset, and prompts are kept once."""
    job = enrolled(ledger, sweep())
    run_id = begin_run(ledger, job)
    finish(ledger, job, run_id, ledger.todo(job, -1, 1)[0])
    change(ledger, "UPDATE tasks SET status = 'failed', error_code = 'x' WHERE position = 2")
    before = contents(ledger)
    again = enrolled(ledger, sweep())
    after = contents(ledger)
    assert (again.wanted, counted(ledger, again)) == (6, {"done": 1, "failed": 1, "planned": 4})
    for table in ("prompts", "runs", "attempts", "assets"):
        assert after[table] == before[table]
    columns = "id, key, position, status, name, error_code"
    assert len(rows(ledger, f"SELECT {columns} FROM tasks")) == 6
    assert len(rows(ledger, "SELECT * FROM prompts")) == len(PROMPTS)


def test_an_edited_prompt_makes_only_its_variants_new(ledger: Ledger) -> None:
    """Law 3: only what is new is paid for, and what is no longer wanted no longer counts."""
    finish_all(ledger, enrolled(ledger, sweep()))
    job = enrolled(ledger, sweep(("a lighthouse", "a bakery at dawn", "a harbour")), digest="d2")
    assert counted(ledger, job) == {"done": 4, "planned": 2}
    assert {todo.request.prompt for todo in ledger.todo(job, -1, 10)} == {"a bakery at dawn"}
    assert len(rows(ledger, "SELECT * FROM tasks")) == 8


def test_an_added_size_makes_only_its_column_new(ledger: Ledger) -> None:
    """Law 3: only that column is paid for."""
    finish_all(ledger, enrolled(ledger, sweep()))
    job = enrolled(ledger, sweep(sizes=(*SIZES, "32x16")), digest="d2")
    assert counted(ledger, job) == {"done": 6, "planned": 3}
    assert {todo.request.size for todo in ledger.todo(job, -1, 10)} == {"32x16"}
    assert [todo.position for todo in ledger.todo(job, -1, 10)] == [2, 5, 8]


def test_a_removed_size_is_neither_wanted_nor_forgotten(ledger: Ledger) -> None:
    """What was paid for stays on record, and comes back without a request when it is wanted again."""
    finish_all(ledger, enrolled(ledger, sweep()))
    less = enrolled(ledger, sweep(sizes=("16x16",)), digest="d2")
    assert (less.wanted, counted(ledger, less)) == (3, {"done": 3})
    more = enrolled(ledger, sweep(), digest="d1")
    assert (more.wanted, counted(ledger, more)) == (6, {"done": 6})
    assert more.revision > less.revision


def test_renamed_prompts_are_the_same_tasks_under_new_names(ledger: Ledger) -> None:
    """The name is no part of a task's key: nothing is to do but to move the files."""
    finish_all(ledger, enrolled(ledger, sweep()))
    renamed = [make_task(prompt, prompt_id=f"p{n}", size=size) for n, prompt in enumerate(PROMPTS) for size in SIZES]
    job = enrolled(ledger, renamed, digest="d2")
    assert counted(ledger, job) == {"done": 6}
    with ledger.export(job) as lines:
        assert [line["prompt_id"] for line in lines] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    moves = [item for page in ledger.misplaced(job, "job/images") for item in page]
    assert [item.name for item in moves] == [task.name for task in renamed]


def test_a_reordered_manifest_is_made_in_its_new_order(ledger: Ledger) -> None:
    """The order is the manifest's of today, across chunks, for tasks that were known before as well."""
    tasks = list(make_tasks(CHUNK + 5))
    enrolled(ledger, tasks)
    job = enrolled(ledger, reversed(tasks), digest="d2")
    found = ledger.todo(job, -1, 2 * CHUNK)
    assert [todo.position for todo in found] == list(range(CHUNK + 5))
    assert [todo.key for todo in found] == [task.key for task in reversed(tasks)]


def dying(tasks: Iterable[Task], after: int) -> Iterator[Task]:
    """Tasks whose source fails after some."""
    for number, task in enumerate(tasks):
        if number == after:
            raise OSError("prompts.csv went away")
        yield task


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enrolments of many transactions, with few tasks."""
    monkeypatch.setattr("runner.ledger.ledger.ENROLLED", 10)


def wish(ledger: Ledger, name: str = "job") -> list[object]:
    """Everything that the ledger says of what a job wants."""
    job = ledger.job(name)
    assert job is not None
    with ledger.export(job) as lines:
        exported = list(lines)
    with ledger.contradictions(job) as found:
        assert list(found) == []
    return [job, ledger.statuses(job), ledger.todo(job, -1, 10_000), exported, ledger.orphans(job, 100)]


def edited_from(count: int) -> list[Task]:
    """Half of the first `count` tasks, in another order and under new names, and as many new ones."""
    kept = [make_task(f"prompt {n:06d}", name=f"moved/{n}.png") for n in range(count) if n % 2 == 0]
    return [*reversed(kept), *(make_task(f"new {n}") for n in range(count))]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("after", [0, 1, 10, 15, 25, 59])
def test_an_enrolment_that_dies_half_way_changes_nothing_that_is_wanted(ledger: Ledger, after: int) -> None:
    """The job wants what it wanted before, to the last task, name and place, and later enrolments are not confused."""
    count = 40
    job = enrolled(ledger, count)
    run_id = begin_run(ledger, job)
    finish(ledger, job, run_id, ledger.todo(job, -1, 1)[0])
    begin(ledger, job, run_id, ledger.todo(job, 5, 1)[0].task_id)
    before, recorded = wish(ledger), contents(ledger)
    edited = edited_from(count)
    with pytest.raises(OSError, match="went away"):
        enrolled(ledger, dying(edited, after), digest="d2")
    assert wish(ledger) == before
    assert {table: contents(ledger)[table] for table in ("jobs", "runs", "attempts", "assets")} == {
        table: recorded[table] for table in ("jobs", "runs", "attempts", "assets")
    }
    for number, tasks in enumerate((list(make_tasks(count)), edited, edited[::-1])):
        later = enrolled(ledger, tasks, digest=f"later {number}")
        assert later.wanted == len(tasks)
        with ledger.export(later) as lines:
            assert [line["key"] for line in lines] == [task.key for task in tasks]
        assert sum(ledger.statuses(later).values()) == len(tasks)
        assert rows(ledger, "SELECT name FROM tasks WHERE revision = ? ORDER BY position", later.revision) == [
            {"name": task.name} for task in tasks
        ]


@pytest.mark.usefixtures("small_chunks")
def test_a_half_enrolled_number_is_never_used_again(ledger: Ledger) -> None:
    """Otherwise tasks of the half would be wanted, and paid for, by whoever got its number."""
    enrolled(ledger, 5)
    with pytest.raises(OSError, match="went away"):
        enrolled(ledger, dying(edited_from(40), 35), digest="d2")
    left = {row["revision"] for row in rows(ledger, "SELECT DISTINCT revision FROM tasks")}
    assert len(left) == 2, "nothing was put on record before it died: the test shows nothing"
    later = enrolled(ledger, 6, digest="d3")
    assert later.revision > max(left)
    assert counted(ledger, later) == {"planned": 6}
    assert wish(ledger)[0] == later


def test_a_job_that_never_was_can_be_half_enrolled(ledger: Ledger, small_chunks: None) -> None:
    """Its first enrolment dies: it wants nothing, and the second one is as any other."""
    with pytest.raises(OSError, match="went away"):
        enrolled(ledger, dying(make_tasks(40), 35))
    job = ledger.job("job")
    assert job is not None
    assert (job.digest, job.wanted, counted(ledger, job), ledger.todo(job, -1, 10)) == (None, 0, {}, [])
    job = enrolled(ledger, 33)
    assert (job.wanted, counted(ledger, job)) == (33, {"planned": 33})


_DYING = """
import os, signal, sys
from pathlib import Path
from runner.ledger import Ledger, ledger, locate
from tests.edges.ledger_support import make_tasks
from tests.edges.test_ledger_enrol import edited_from
ledger.ENROLLED = 10
def dying(tasks):
    for number, task in enumerate(tasks):
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield task
with Ledger.open(locate(sys.argv[1], Path()), create=True) as opened:
    job = opened.job("job")
    opened.enrol(job, dying(edited_from(40)), digest="d2")
"""


@pytest.mark.parametrize("after", [5, 31, 59])
def test_an_enrolment_that_is_killed_changes_nothing_that_is_wanted(ledger: Ledger, after: int) -> None:
    """SIGKILL, between two of its transactions; the same and another manifest go on from there."""
    job = enrolled(ledger, 40)
    run_id = begin_run(ledger, job)
    finish(ledger, job, run_id, ledger.todo(job, -1, 1)[0])
    before = wish(ledger)
    for _ in range(2):
        killed = subprocess.run(
            [sys.executable, "-c", _DYING, address_of(ledger), str(after)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert wish(ledger) == before
    assert len(rows(ledger, "SELECT DISTINCT revision FROM tasks")) == (1 if after < 10 else 2)
    same = enrolled(ledger, edited_from(40), digest="d2")
    assert counted(ledger, same) == {"done": 1, "planned": 59}
    assert wish(ledger)[0] == same
    other = enrolled(ledger, 41, digest="d3")
    assert counted(ledger, other) == {"done": 1, "planned": 40}


@pytest.mark.usefixtures("small_chunks")
def test_another_jobs_changes_need_not_wait_for_an_enrolment(ledger: Ledger) -> None:
    """Its tasks are read, and worked out, while nothing is held: between any two chunks others may write."""
    enrolled(ledger, 20)

    def watched() -> Iterator[Task]:
        for number, task in enumerate(edited_from(40)):
            # Without patience: a lock that is held now is an error now.
            change(ledger, "UPDATE jobs SET created_ms = ?", number, wait_s=0)
            yield task

    job = enrolled(ledger, watched(), digest="d2")
    assert job.wanted == 60
    assert rows(ledger, "SELECT created_ms FROM jobs") == [{"created_ms": 59}]


@pytest.mark.usefixtures("small_chunks")
def test_two_enrolments_at_once_are_not_mixed(ledger: Ledger) -> None:
    """Whoever runs holds the job's lock; without it, the second to end is refused, and nothing of it is wanted."""
    enrolled(ledger, 20)

    def overtaken() -> Iterator[Task]:
        for number, task in enumerate(edited_from(40)):
            if number == 35:
                enrolled(ledger, 25, digest="d3")
            yield task

    with pytest.raises(LedgerError, match="another process") as caught:
        enrolled(ledger, overtaken(), digest="d2")
    assert caught.value.hint
    job = ledger.job("job")
    assert job is not None
    assert (job.digest, job.wanted, counted(ledger, job)) == ("d3", 25, {"planned": 25})


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("known", [0, 30])
def test_tasks_that_are_not_those_that_were_checked_are_refused(ledger: Ledger, known: int) -> None:
    """A prompt file that was changed between the checks and the enrolment, so that a request stands twice in it."""
    enrolled(ledger, known)
    before = wish(ledger)
    with pytest.raises(LedgerError, match="a prompt file has changed") as caught:
        enrolled(ledger, [*make_tasks(35), make_task("prompt 000003")], digest="d2")
    assert caught.value.hint
    assert wish(ledger) == before


CSV = "id,text\na,A lighthouse\nb,A bakery\nc,A harbour\n"
MANIFEST = """
name: job
model: gpt-image-2
prompts: [{file: prompts.csv, id: id, text: text}]
matrix: {size: [1024x1024, 1536x1024]}
"""


@pytest.mark.parametrize(
    ("row", "manifest", "sign"),
    [
        ("d,\n", MANIFEST, "empty"),
        ("a,Another text\n", MANIFEST, "two tasks would be written"),
        ("d,A bakery\n", MANIFEST, "the same image"),
        (f"d,{'long ' * 4000}\n", MANIFEST + "limits: {tokens_per_minute: 8000}\n", "tokens"),
    ],
)
def test_a_manifest_that_is_wrong_in_its_last_row_puts_nothing_on_record(
    tmp_path: Path, ledger: Ledger, small_chunks: None, row: str, manifest: str, sign: str
) -> None:
    """A row, a name, a request that stands twice, one that no limit lets pass: what was wanted stays wanted."""
    path, prompts = tmp_path / "job.yaml", tmp_path / "prompts.csv"

    def enrol() -> Job:
        options = Options(provider="simulator", output=tmp_path / "output")
        request = prepare(path, options, None)
        session = Session(request, options, ledger, lambda event: None, Stop(), False)
        return session._enrol(FolderStore(options.output_folder, request.manifest.name))

    path.write_text(MANIFEST)
    prompts.write_text(CSV)
    assert enrol().wanted == 6
    before, recorded = wish(ledger), contents(ledger)
    path.write_text(manifest)
    prompts.write_text(CSV + row)
    with pytest.raises(InputError, match=sign):
        enrol()
    assert contents(ledger) == recorded
    assert wish(ledger) == before
    prompts.write_text(CSV + "d,A mill\n")
    assert enrol().wanted == 8


def test_a_job_that_wants_nothing(ledger: Ledger) -> None:
    """No task is a valid wish too: nothing is to do."""
    enrolled(ledger, 3)
    job = enrolled(ledger, 0, digest="d2")
    assert (job.wanted, counted(ledger, job), ledger.todo(job, -1, 10)) == (0, {}, [])


def test_enrolment_streams(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: ten times as many tasks need no more memory."""

    def peak_bytes(count: int) -> int:
        tracemalloc.start()
        enrolled(ledger, count, digest=f"{count}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    monkeypatch.setattr("runner.ledger.ledger.ENROLLED", CHUNK)
    # The command line has garbage looked for less often, and a test that calls it in this process leaves it so. What
    # waits to be found is bounded, but by more than is measured here.
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    try:
        peak_bytes(10)
        few, many = peak_bytes(2 * CHUNK), peak_bytes(20 * CHUNK)
        assert many < few + 2_000_000
        assert peak_bytes(20 * CHUNK) < few + 2_000_000, "known ones wait in a file"
    finally:
        gc.set_threshold(*before)


def test_what_is_known_of_a_key(ledger: Ledger) -> None:
    """A plan sees a task's status in its own job, and apart from that whether another job has its image."""
    mine, theirs = enrolled(ledger, 3, name="mine"), enrolled(ledger, 5, name="theirs")
    run_id = begin_run(ledger, theirs)
    for todo in ledger.todo(theirs, 1, 2):
        finish(ledger, theirs, run_id, todo)
    keys = [task.key for task in make_tasks(6)]
    planned = Status.PLANNED
    assert ledger.known(mine, keys) == {
        keys[0]: Known(planned),
        keys[1]: Known(planned),
        keys[2]: Known(planned, reusable=True),
        keys[3]: Known(None, reusable=True),
    }
    assert ledger.known(theirs, keys)[keys[2]] == Known(Status.DONE)
    assert ledger.known(None, keys) == {keys[2]: Known(None, reusable=True), keys[3]: Known(None, reusable=True)}
    assert ledger.known(mine, []) == {}


def test_what_another_job_has_made_is_offered_in_pages(ledger: Ledger) -> None:
    """Law 3: the same request in another job is reused; each page is bounded, every task is in one."""
    count = CHUNK + 50
    first = enrolled(ledger, count, name="first")
    finish_all(ledger, first)
    assert list(ledger.reusable(first)) == []
    finish_rest = ledger.todo(first, -1, count)
    run_id = begin_run(ledger, first)
    for todo in finish_rest:
        finish(ledger, first, run_id, todo)
    second = enrolled(ledger, count, name="second")
    pages = list(ledger.reusable(second))
    assert [len(page) for page in pages] == [CHUNK, 50]
    items = [item for page in pages for item in page]
    assert [item.name for item in items] == [task.name for task in make_tasks(count)]
    assert items[0].file.path == f"first/images/{items[0].name}"


@pytest.mark.parametrize("page", [1, 3, CHUNK])
def test_every_asset_that_would_serve_is_offered_oldest_first(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Law 3: when the file of one job is gone, that of another still spares a request, wherever a page ends."""
    monkeypatch.setattr("runner.ledger.ledger.CHUNK", page)
    for name in ("first", "second"):
        finish_all(ledger, enrolled(ledger, 2, name=name))
    third = enrolled(ledger, 2, name="third")
    items = [item for page in ledger.reusable(third) for item in page]
    assert [item.file.path.split("/")[0] for item in items] == ["first", "second"] * 2
    assert len({item.task_id for item in items}) == 2


def test_only_planned_tasks_that_are_wanted_are_offered(ledger: Ledger) -> None:
    """Neither a done one, nor a refused one, nor one that an edit has removed."""
    finish_all(ledger, enrolled(ledger, 4, name="first"))
    job = enrolled(ledger, 4, name="second")
    change(ledger, "UPDATE tasks SET status = 'refused' WHERE job_id = ? AND position = 1", job.id)
    finish(ledger, job, begin_run(ledger, job), ledger.todo(job, -1, 1)[0])
    job = enrolled(ledger, 3, name="second", digest="d2")
    assert [item.name for page in ledger.reusable(job) for item in page] == [list(make_tasks(3))[2].name]


def test_a_simulated_image_is_never_offered_for_a_real_one(ledger: Ledger) -> None:
    """The key tells them apart, in both directions."""
    simulated = enrolled(ledger, list(make_tasks(3, simulated=True)), name="simulated")
    run_id = begin_run(ledger, simulated, simulated=True)
    for todo in ledger.todo(simulated, -1, 10):
        finish(ledger, simulated, run_id, todo, simulated=True)
    real = enrolled(ledger, 3, name="real")
    assert list(ledger.reusable(real)) == []
    assert not any(known.reusable for known in ledger.known(real, [task.key for task in make_tasks(3)]).values())
    finish_all(ledger, real)
    other = enrolled(ledger, list(make_tasks(3, simulated=True)), name="other")
    assert {item.simulated for page in ledger.reusable(other) for item in page} == {True}


def test_what_lies_under_another_name_than_it_should(ledger: Ledger) -> None:
    """`misplaced` gives done and wanted tasks whose asset is elsewhere, in pages, and nothing else."""
    count = CHUNK + 20
    job = enrolled(ledger, count)
    finish_all(ledger, job)
    for todo in ledger.todo(job, -1, count):
        finish(ledger, job, begin_run(ledger, job), todo)
    assert list(ledger.misplaced(job, "job/images")) == []
    renamed = [make_task(f"prompt {n:06d}", name=f"{n}.png") for n in range(count)]
    job = enrolled(ledger, renamed, digest="d2")
    pages = list(ledger.misplaced(job, "job/images"))
    assert [len(page) for page in pages] == [CHUNK, 20]
    assert [item.name for page in pages for item in page] == [task.name for task in renamed]
    first = pages[0][0]
    assert first.file == make_file("job/images/prompt-000000/16x16-low-1.png", seed=first.task_id)
    ledger.asset_moved(first.asset_id, "job/images/0.png")
    assert sum(len(page) for page in ledger.misplaced(job, "job/images")) == count - 1
    job = enrolled(ledger, renamed[:2], digest="d3")
    assert [item.name for page in ledger.misplaced(job, "job/images") for item in page] == ["1.png"]


def test_retry_plans_again_what_was_asked_and_nothing_else(ledger: Ledger) -> None:
    """Failed and refused tasks are sent again only when a person asks: by status, and by code."""
    job = enrolled(ledger, 6)
    for position, status, code in ((0, "failed", "a"), (1, "failed", "b"), (2, "refused", "a"), (3, "in_doubt", "a")):
        change(ledger, "UPDATE tasks SET status = ?, error_code = ? WHERE position = ?", status, code, position)
    change(ledger, "UPDATE tasks SET status = 'failed', error_code = 'a', revision = 0 WHERE position = 5")
    assert ledger.retry(job, Status.FAILED, "a") == 1
    assert counted(ledger, job) == {"planned": 2, "failed": 1, "refused": 1, "in_doubt": 1}
    assert ledger.retry(job, Status.FAILED, "nothing") == 0
    assert ledger.retry(job, Status.FAILED, None) == 1
    assert ledger.retry(job, Status.REFUSED, None) == 1
    assert ledger.retry(job, Status.IN_DOUBT, None) == 1
    assert counted(ledger, job) == {"planned": 5}
    assert rows(ledger, "SELECT status FROM tasks WHERE position = 5") == [{"status": "failed"}]


@pytest.mark.parametrize("status", [Status.PLANNED, Status.RUNNING, Status.DONE, Status.SUBMITTED])
def test_retry_never_plans_what_is_done_or_under_way(ledger: Ledger, status: Status) -> None:
    """Law 3: the table has no such move, so there is no way to ask for it."""
    job = enrolled(ledger, 2)
    change(ledger, "UPDATE tasks SET status = ?", status.value)
    before = contents(ledger)
    with pytest.raises(LedgerError):
        ledger.retry(job, status, None)
    assert contents(ledger) == before


def test_retry_touches_no_other_job(ledger: Ledger) -> None:
    """Nor its tasks of the same key."""
    one, other = enrolled(ledger, 2, name="one"), enrolled(ledger, 2, name="other")
    change(ledger, "UPDATE tasks SET status = 'failed'")
    assert ledger.retry(one, Status.FAILED, None) == 2
    assert counted(ledger, other) == {"failed": 2}
    assert ledger.make_job("one", manifest_path=None, now_ms=NOW_MS + 1) == ledger.job("one")
