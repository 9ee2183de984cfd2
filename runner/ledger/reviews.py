"""What people have chosen: each choice at once on record, and never removed; one that is undone says when.

Owns who may be chosen: an image that the job wants and has. Refuses to know what choices mean (`rules.ranking`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from runner.errors import InputError
from runner.ledger.bulk import Bulk
from runner.ledger.database import Database, once_more
from runner.ledger.tables import metadata
from runner.ledger.types import Job
from runner.ledger.views import Choice, NewChoice
from runner.planner import CHUNK

_tasks = metadata.tables["tasks"]
_assets = metadata.tables["assets"]
_choices = metadata.tables["choices"]

_ADD = Bulk(
    "choices",
    (
        "job_id",
        "token",
        "reviewer",
        "left_task",
        "left_sha256",
        "right_task",
        "right_sha256",
        "verdict",
        "stars",
        "blind",
        "created_ms",
    ),
    conflict="(token) DO NOTHING",
)


class Reviews:
    """Every method is one transaction. `known` False: this ledger is of an older version, and nothing was chosen."""

    def __init__(self, database: Database, *, known: bool) -> None:
        self._database = database
        self._known = known

    @once_more
    def add(self, job: Job, new: NewChoice, *, now_ms: int) -> Choice:
        """Put a choice on record; one with a token that is known already is the one on record, and nothing is added.

        Raises:
            InputError: an image is none of the job's, or not there.
        """
        with self._database.write() as connection:
            is_known = sa.select(_choices.c.id).where(_choices.c.token == new.token)
            if connection.scalar(is_known) is None:
                seen = {side: _image(connection, job, side) for side in (new.left, new.right) if side is not None}
                right_sha256 = None if new.right is None else seen[new.right]
                _ADD(
                    connection,
                    [
                        (
                            job.id,
                            new.token,
                            new.reviewer,
                            new.left,
                            seen[new.left],
                            new.right,
                            right_sha256,
                            new.verdict,
                            new.stars,
                            new.blind,
                            now_ms,
                        )
                    ],
                )
            return _choice(connection.execute(_asked(_choices.c.token == new.token)).one())

    def undo(self, job: Job, reviewer: str, *, now_ms: int) -> Choice | None:
        """Take back the newest choice of this person that counts; None where there is none."""
        with self._database.write() as connection:
            mine = sa.and_(_choices.c.job_id == job.id, _choices.c.reviewer == reviewer, _choices.c.undone_ms.is_(None))
            while True:
                row = connection.execute(_asked(mine).order_by(_choices.c.id.desc()).limit(1)).first()
                if row is None:
                    return None
                # What the same person has taken back elsewhere in this moment is not taken back once more.
                change = sa.update(_choices).where(_choices.c.id == row.id, _choices.c.undone_ms.is_(None))
                if connection.execute(change.values(undone_ms=now_ms)).rowcount:
                    return _choice(row)

    def all(self, job: Job) -> Iterator[Choice]:
        """Every choice that counts, oldest first, read in pages."""
        if not self._known:
            return
        last = 0
        while True:
            counts = sa.and_(_choices.c.job_id == job.id, _choices.c.undone_ms.is_(None), _choices.c.id > last)
            with self._database.read() as connection:
                page = [_choice(row) for row in connection.execute(_asked(counts).order_by(_choices.c.id).limit(CHUNK))]
            if not page:
                return
            last = page[-1].id
            yield from page


def _image(connection: sa.Connection, job: Job, task_id: int) -> str:
    """The SHA-256 of the image that a task has."""
    found = connection.scalar(
        sa.select(_assets.c.sha256)
        .join(_tasks, _tasks.c.id == _assets.c.task_id)
        .where(_tasks.c.id == task_id, _tasks.c.job_id == job.id)
    )
    if found is None:
        raise InputError(f"the job {job.name!r} has no image {task_id}", hint="open the page anew")
    return str(found)


def _asked(where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    left, right = _assets.alias("left_asset"), _assets.alias("right_asset")
    is_current = sa.and_(
        left.c.sha256.is_not_distinct_from(_choices.c.left_sha256),
        right.c.sha256.is_not_distinct_from(_choices.c.right_sha256),
    )
    return (
        sa.select(_choices, is_current.label("is_current"))
        .outerjoin(left, left.c.task_id == _choices.c.left_task)
        .outerjoin(right, right.c.task_id == _choices.c.right_task)
        .where(where)
    )


def _choice(row: sa.Row[Any]) -> Choice:
    return Choice(
        id=row.id,
        reviewer=row.reviewer,
        left=row.left_task,
        right=row.right_task,
        verdict=row.verdict,
        stars=row.stars,
        blind=bool(row.blind),
        token=row.token,
        created_ms=row.created_ms,
        is_current=bool(row.is_current),
    )
