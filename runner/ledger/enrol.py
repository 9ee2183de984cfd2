"""What a job wants: jobs, enrolment in chunks, what is known of a task, and what other jobs have made already.

Owns idempotent enrolment: the same manifest enrolled twice changes nothing, an edited one adds what is new and leaves
the rest. Refuses to judge whether a manifest is valid: that was done before.

An enrolment is many transactions, so that no other job waits long for one of them, and it can be cut off after any:

- A task is wanted when its revision is the job's. An enrolment takes a number that is larger than the job's and than
  that of any task of the job, so no task has it, and none can come to have it but by this enrolment.
- Before its last transaction it adds tasks under that number, and moves to it tasks that are planned and not wanted:
  none of them has an open request or an image, so nobody looks for them under their name. Neither is wanted before,
  or after: what the job wants is the same until the last transaction.
- Every other task that the manifest has (one that is wanted now, or that is not planned) waits in a file beside, and is
  moved in the last transaction, together with the job's own revision, digest and count. That one is as long as these
  are many: none for a new job, seconds for a million.
- Cut off before that, the tasks of the half stay under a number that no job has. The next enrolment takes a larger one;
  what it has in common with the half it moves, and the rest is as any task that is no longer wanted.
- The last transaction counts: as many tasks as were told must have the new number, or it is undone.

Whoever enrols holds the job's lock; that nobody came between is seen in the last transaction all the same. It is long
because the steps are one thing: each is only right as the others are.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from runner.errors import InputError, LedgerError
from runner.ledger import edits
from runner.ledger.bulk import Bulk, Moves
from runner.ledger.statements import Statement
from runner.ledger.tables import metadata
from runner.ledger.types import File, Job, Misplaced, Reusable, status_of
from runner.planner import CHUNK, Known, chunks
from runner.tasks import Status, Task

_jobs = metadata.tables["jobs"]
_prompts = metadata.tables["prompts"]
_tasks = metadata.tables["tasks"]
_assets = metadata.tables["assets"]
_runs = metadata.tables["runs"]

# Without the marks: a ledger of an older version, which has none, can be looked at as it is.
_JOB = sa.select(
    _jobs.c.id,
    _jobs.c.name,
    _jobs.c.manifest_path,
    _jobs.c.revision,
    _jobs.c.digest,
    _jobs.c.wanted,
)
_NEWEST_REVISION = (
    sa.select(sa.func.max(_tasks.c.revision)).where(_tasks.c.job_id == _jobs.c.id).correlate(_jobs).scalar_subquery()
)
_MOST_VARIANTS: Final = 20_000
_ADD_JOB = Statement(
    sa.text(
        "INSERT INTO jobs (name, manifest_path, revision, wanted, created_ms)"
        " VALUES (:name, :manifest_path, 0, 0, :created_ms) ON CONFLICT (name) DO NOTHING"
    )
)

# The statements of the hot path: many rows a call, without a word about each.
_ADD_PROMPT = Bulk("prompts", ("digest", "text"), conflict="(digest) DO NOTHING")
# A key that is there already is found by the count at the end.
_ADD_TASK = Bulk(
    "tasks",
    (
        "job_id",
        "key",
        "revision",
        "position",
        "prompt_id",
        "prompt_row",
        "model",
        "size",
        "quality",
        "background",
        "output_format",
        "output_compression",
        "moderation",
        "sample",
        "variant",
        "name",
        "edit_row",
    ),
    conflict="(key, job_id) DO NOTHING",
    always={"status": "'planned'"},
)
_MOVE_TASK = Moves("tasks", ("revision", "position", "prompt_id", "variant", "name", "edit_row"))

Row = tuple[Any, ...]
"""The values of `_ADD_TASK`, in its order."""


def job(connection: sa.Connection, name: str, *, knows_output: bool = True) -> Job | None:
    """The job of this name, if it was ever run."""
    row = connection.execute(_asked(knows_output).where(_jobs.c.name == name)).first()
    return None if row is None else Job(*row)


def jobs(connection: sa.Connection, *, knows_output: bool = True) -> list[Job]:
    """Every job, by name."""
    found = [Job(*row) for row in connection.execute(_asked(knows_output))]
    # Not by the server, which may sort by the rules of some language.
    return sorted(found, key=lambda each: each.name)


def _asked(knows_output: bool) -> sa.Select[Any]:
    """Jobs, also of a ledger of an older version, which does not know where their files are."""
    return _JOB.add_columns(_jobs.c.output if knows_output else sa.null().label("output"))


def make_job(connection: sa.Connection, name: str, *, manifest_path: str | None, now_ms: int) -> Job:
    """The job of this name, made if need be; its manifest's path is brought up to date."""
    known = job(connection, name)
    if known is None:
        # Another host may make it at this very moment: then that one is found below.
        _ADD_JOB(connection, name=name, manifest_path=manifest_path, created_ms=now_ms)
    elif manifest_path is not None and known.manifest_path != manifest_path:
        connection.execute(sa.update(_jobs).where(_jobs.c.id == known.id).values(manifest_path=manifest_path))
    made = job(connection, name)
    if made is None:
        raise InputError(f"the job {name!r} vanished from the ledger")
    return made


class Enrolment:
    """One enrolment under way; see the module for why it can be cut off anywhere."""

    def __init__(self, connection: sa.Connection, job_id: int) -> None:
        before, newest = connection.execute(
            sa.select(_jobs.c.revision, _NEWEST_REVISION).where(_jobs.c.id == job_id)
        ).one()
        self.revision = 1 + max(before, newest or 0)
        self.wanted = 0
        self._job_id = job_id
        self._before = int(before)
        self._is_first = newest is None
        self._variants: dict[tuple[tuple[str, str], ...], str] = {}
        self._staged = Staged()

    def close(self) -> None:
        """Drop what was staged."""
        self._staged.close()

    def prompts(self, connection: sa.Connection, tasks: Sequence[Task]) -> dict[str, int]:
        """The row of each text of a chunk, put on record if need be."""
        return _prompt_rows(connection, {task.request.prompt for task in tasks})

    def starts(self, connection: sa.Connection, tasks: Sequence[Task]) -> Mapping[edits.What, int]:
        """The row of what each task of a chunk starts from, put on record if need be."""
        return edits.record(connection, self._job_id, tasks)

    def rows(self, tasks: Sequence[Task], prompts: Mapping[str, int], starts: Mapping[edits.What, int]) -> list[Row]:
        """A chunk as rows, worked out while the ledger is not held."""
        job_id, revision, first = self._job_id, self.revision, self.wanted
        self.wanted += len(tasks)
        rows = []
        for position, task in enumerate(tasks, first):
            request = task.request
            rows.append(
                (
                    job_id,
                    task.key,
                    revision,
                    position,
                    task.prompt_id,
                    prompts[request.prompt],
                    request.model,
                    request.size,
                    request.quality,
                    request.background,
                    request.output_format,
                    request.output_compression,
                    request.moderation,
                    task.sample,
                    self._variants.get(task.variant) or self._variant(task.variant),
                    task.name,
                    starts[request.edit, task.composite] if request.edit is not None else None,
                )
            )
        return rows

    def add(self, connection: sa.Connection, rows: list[Row]) -> None:
        """Put one chunk on record, where nothing of it is wanted yet.

        Raises:
            LedgerError: another enrolment of this job has counted meanwhile.
        """
        # Shared to the end of this transaction, so that another one, on a host that has taken over a lost lock, either
        # waits before it counts, and then counts these as well, or has counted already.
        query = sa.select(_jobs.c.revision).where(_jobs.c.id == self._job_id).with_for_update(read=True)
        if connection.scalar(query) != self._before:
            raise _overtaken()
        fresh = rows
        if not self._is_first:
            found = self._found(connection, rows)
            fresh = [row for row in rows if row[1] not in found]
            self._keep(connection, [(row, *found[row[1]]) for row in rows if row[1] in found])
        if fresh:
            _ADD_TASK(connection, fresh)

    def activate(self, connection: sa.Connection, *, digest: str) -> None:
        """From now on the tasks of this enrolment are what the job wants.

        Raises:
            LedgerError: another enrolment came between, or the tasks are not those that were checked.
        """
        for moved in self._staged.pages():
            _MOVE_TASK(connection, moved)
        changed = connection.execute(
            sa.update(_jobs)
            .where(_jobs.c.id == self._job_id, _jobs.c.revision == self._before)
            .values(revision=self.revision, digest=digest, wanted=self.wanted, offered_run=0)
        )
        if changed.rowcount != 1:
            raise _overtaken()
        count = connection.execute(
            sa.select(sa.func.count()).where(_tasks.c.job_id == self._job_id, _tasks.c.revision == self.revision)
        ).scalar_one()
        if count != self.wanted:
            raise LedgerError(
                f"{self.wanted} images were to be put on record, and {count} are: a prompt file has changed meanwhile",
                hint="run it again: nothing was changed",
            )

    def _variant(self, variant: tuple[tuple[str, str], ...]) -> str:
        if len(self._variants) >= _MOST_VARIANTS:
            self._variants.clear()
        text = self._variants[variant] = json.dumps(dict(variant), ensure_ascii=False)
        return text

    def _found(self, connection: sa.Connection, rows: Sequence[Row]) -> dict[str, tuple[int, bool]]:
        """(id, whether it may be moved at once) of each key that this job has on record."""
        found: dict[str, tuple[int, bool]] = {}
        for page in chunks(rows, CHUNK):
            keys = [row[1] for row in page]
            for key, task_id, revision, status in connection.execute(
                sa.select(_tasks.c.key, _tasks.c.id, _tasks.c.revision, _tasks.c.status).where(
                    _tasks.c.key.in_(keys), _tasks.c.job_id == self._job_id
                )
            ):
                found[key] = task_id, revision != self._before and status == Status.PLANNED
        return found

    def _keep(self, connection: sa.Connection, known: Sequence[tuple[Row, int, bool]]) -> None:
        moves = [
            ((self.revision, row[3], row[4], row[14], row[15], row[16], task_id), at_once)
            for row, task_id, at_once in known
        ]
        now = [move for move, at_once in moves if at_once]
        if now:
            _MOVE_TASK(connection, now)
        self._staged.add([move for move, at_once in moves if not at_once])


def _overtaken() -> LedgerError:
    return LedgerError("another process has changed what this job wants", hint="run it again")


class Staged:
    """Moves that wait for the last transaction: in a private file, so that memory does not grow with them."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA cache_size = -4096")
        self._database.execute("CREATE TABLE moves (revision, position, prompt_id, variant, name, edit_row, task_id)")
        self._database.execute("BEGIN")

    def add(self, moves: Sequence[Row]) -> None:
        """Keep these, each with the values of `_MOVE_TASK`."""
        self._database.executemany("INSERT INTO moves VALUES (?, ?, ?, ?, ?, ?, ?)", moves)

    def pages(self) -> Iterator[list[Row]]:
        """All of them, in pages."""
        cursor = self._database.execute("SELECT * FROM moves")
        while page := cursor.fetchmany(CHUNK):
            yield page

    def close(self) -> None:
        """Drop them."""
        self._database.close()


def any_tasks(connection: sa.Connection) -> bool:
    """Whether any task of any job is on record."""
    return connection.execute(sa.select(_tasks.c.id).limit(1)).first() is not None


def known(connection: sa.Connection, job_id: int | None, keys: Sequence[str]) -> Mapping[str, Known]:
    """What is on record of these keys, in this job and in others."""
    found: dict[str, Known] = {}
    rows = connection.execute(sa.select(_tasks.c.key, _tasks.c.job_id, _tasks.c.status).where(_tasks.c.key.in_(keys)))
    for key, owner, status in rows:
        before = found.get(key, Known(None))
        if owner == job_id:
            found[key] = Known(status_of(status), before.reusable)
        elif status == Status.DONE:
            found[key] = Known(before.status, True)
    return found


def reusable(
    connection: sa.Connection,
    job_id: int,
    revision: int,
    after: tuple[int, int],
    limit: int,
    *narrow: sa.ColumnElement[bool],
) -> list[Reusable]:
    """Planned tasks of the job with each asset that another job has for them, by (position, asset), from after `after`.

    Those of which `narrow` holds too.

    All of them, oldest first: the file of one may be gone while that of another is still there.
    """
    other = _tasks.alias("other")
    rows = connection.execute(
        sa.select(_tasks.c.id.label("task_id"), _tasks.c.position, _tasks.c.name, _jobs.c.output, _assets)
        .join(other, sa.and_(other.c.key == _tasks.c.key, other.c.job_id != _tasks.c.job_id))
        .join(_jobs, _jobs.c.id == other.c.job_id)
        .join(_assets, _assets.c.task_id == other.c.id)
        .where(
            _tasks.c.job_id == job_id,
            _tasks.c.revision == revision,
            _tasks.c.status == Status.PLANNED,
            other.c.status == Status.DONE,
            _tasks.c.position >= after[0],
            sa.tuple_(_tasks.c.position, _assets.c.id) > after,
            *narrow,
        )
        .order_by(_tasks.c.position, _assets.c.id)
        .limit(limit)
    )
    return [
        Reusable(row.task_id, row.position, row.name, row.id, file_of(row), row.model, row.simulated, row.output)
        for row in rows
    ]


def move_job(connection: sa.Connection, job_id: int, output: str | None) -> None:
    """The files of a job lie at this URL from now on, None for a folder."""
    connection.execute(sa.update(_jobs).where(_jobs.c.id == job_id).values(output=output))


def others_since_offered(connection: sa.Connection, job_id: int) -> bool:
    """Whether any other job has had a run since all that others had made was offered to this one."""
    offered = sa.select(_jobs.c.offered_run).where(_jobs.c.id == job_id).scalar_subquery()
    later = sa.select(_runs.c.id).where(_runs.c.id > offered, _runs.c.job_id != job_id).limit(1)
    return connection.execute(later).first() is not None


def offerable(connection: sa.Connection, job_id: int, revision: int) -> int | None:
    """The newest run, if all that was made up to it can be offered now; None where more of it can come.

    More can come of another job whose newest run has not ended, and of a task of this one that is held in doubt or part
    of a batch: it is not offered anything until it is planned again.
    """
    newest = sa.select(sa.func.max(_runs.c.id)).where(_runs.c.job_id == _jobs.c.id).correlate(_jobs).scalar_subquery()
    under_way = (
        sa.select(_jobs.c.id)
        .join(_runs, _runs.c.id == newest)
        .where(_jobs.c.id != job_id, _runs.c.ended_ms.is_(None))
        .limit(1)
    )
    held = (
        sa.select(_tasks.c.id)
        .where(
            _tasks.c.job_id == job_id,
            _tasks.c.revision == revision,
            _tasks.c.status.in_([Status.IN_DOUBT, Status.SUBMITTED]),
        )
        .limit(1)
    )
    if connection.execute(under_way).first() is not None or connection.execute(held).first() is not None:
        return None
    through = connection.execute(sa.select(sa.func.max(_runs.c.id))).scalar_one()
    return None if through is None else int(through)


def mark(connection: sa.Connection, job_id: int, **marks: int) -> None:
    """Put down how far a job's tasks and assets have been looked through."""
    connection.execute(sa.update(_jobs).where(_jobs.c.id == job_id).values(**marks))


def forget_offered(connection: sa.Connection, name: str) -> None:
    """Tasks of this job are planned that were not when it was offered what others have made."""
    connection.execute(sa.update(_jobs).where(_jobs.c.name == name).values(offered_run=0))


def is_tidy(connection: sa.Connection, job_id: int, revision: int) -> bool:
    """Whether every asset of this revision was seen under its name."""
    tidied = connection.execute(sa.select(_jobs.c.tidied_revision).where(_jobs.c.id == job_id)).scalar_one()
    return bool(tidied == revision)


def misplaced(
    connection: sa.Connection, job_id: int, revision: int, folder: str, after_position: int, limit: int
) -> list[Misplaced]:
    """Done tasks that are wanted and whose asset is not at `folder`/name, in the manifest's order."""
    rows = connection.execute(
        sa.select(_tasks.c.id.label("task_id"), _tasks.c.position, _tasks.c.name, _assets)
        .join(_assets, _assets.c.task_id == _tasks.c.id)
        .where(
            _tasks.c.job_id == job_id,
            _tasks.c.revision == revision,
            _tasks.c.status == Status.DONE,
            _assets.c.path != sa.literal(f"{folder}/") + _tasks.c.name,
            _tasks.c.position > after_position,
        )
        .order_by(_tasks.c.position)
        .limit(limit)
    )
    return [Misplaced(row.task_id, row.position, row.name, row.id, file_of(row)) for row in rows]


def file_of(row: sa.Row[tuple[object, ...]]) -> File:
    """The file that a row of assets describes."""
    return File(row.path, row.sha256, row.bytes, row.format, row.width, row.height, row.has_c2pa)


def _prompt_rows(connection: sa.Connection, prompts: set[str]) -> dict[str, int]:
    """The row of each prompt, made if need be."""
    digests = {hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(): text for text in prompts}
    found: dict[str, int] = {}
    for page in chunks(sorted(digests), CHUNK):
        # In order, so that of two who add the same texts neither waits for the other in a circle.
        _ADD_PROMPT(connection, [(digest, digests[digest]) for digest in page])
        rows = connection.execute(sa.select(_prompts.c.digest, _prompts.c.id).where(_prompts.c.digest.in_(page)))
        found.update((digests[digest], row_id) for digest, row_id in rows)
    return found
