"""Whose turn it is: that no two runs make the same image, on whatever host they are (law 3).

Owns the question that is asked in the transaction in which a request is begun. A run that has lost its job's lock, and
whose job another has taken over, begins nothing; an image that another job has made meanwhile, or whose live run is
making it now, is not asked for once more. Refuses to know how a lock is held: who lives is told by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from runner.ledger.statements import Statement
from runner.ledger.tables import metadata
from runner.ledger.types import Hindrance
from runner.tasks import Status

_jobs = metadata.tables["jobs"]
_runs = metadata.tables["runs"]
_tasks = metadata.tables["tasks"]
_periods = metadata.tables["cap_periods"]

IsLive = Callable[[str], bool]
"""Whether a run holds the job of this name just now."""

_mine, _theirs = _tasks.alias("mine"), _tasks.alias("theirs")
_OF_TASK = sa.bindparam("of_task", type_=sa.BigInteger)
# As literals: there are two statuses, and each row that has another need not be looked at.
_ELSEWHERE = (
    sa.select(_jobs.c.name, _theirs.c.status)
    .select_from(_mine)
    .join(_theirs, sa.and_(_theirs.c.key == _mine.c.key, _theirs.c.job_id != _mine.c.job_id))
    .join(_jobs, _jobs.c.id == _theirs.c.job_id)
    .where(
        _mine.c.id == _OF_TASK,
        _theirs.c.status.in_([sa.literal_column(f"'{status}'") for status in (Status.RUNNING, Status.DONE)]),
    )
)
_FIND = Statement(_ELSEWHERE)
_NEWEST = sa.select(sa.func.max(_runs.c.id)).where(_runs.c.job_id == sa.bindparam("of_job", type_=sa.BigInteger))
_KEY = sa.select(_tasks.c.key).where(_tasks.c.id == _OF_TASK).scalar_subquery()
# Held to the end of the transaction: of two that begin the same image at once, one is told that it is elsewhere.
_TRY = sa.func.pg_try_advisory_xact_lock(
    sa.func.hashtextextended(sa.literal_column("'image:'") + _KEY, sa.literal_column("0"))
)
_LOOKS = {
    "sqlite": Statement(sa.select(_NEWEST.scalar_subquery().label("newest"), sa.true().label("is_mine"))),
    "postgresql": Statement(sa.select(_NEWEST.scalar_subquery().label("newest"), _TRY.label("is_mine"))),
}
"""Before `_SEE`, and not with it: what another has committed meanwhile is seen by a later statement only."""
_others = _ELSEWHERE.subquery("others")
_has_cap = sa.select(sa.exists(sa.select(_periods.c.id)).label("capped")).subquery("cap")
_SEE = Statement(
    sa.select(_has_cap.c.capped, _others.c.name, _others.c.status).select_from(_has_cap.outerjoin(_others, sa.true()))
)
"""Others that have the image, and whether there is a cap: to have looked for one keeps any from being set meanwhile."""


@dataclass(frozen=True, slots=True)
class Free:
    """Nothing stands in the way; `capped` is whether the ledger has a cap that is to be asked."""

    capped: bool


def elsewhere(connection: sa.Connection, task_id: int, *, is_live: IsLive) -> Status | None:
    """How another job stands with the very image of this task: RUNNING (in a live run), DONE, or None for neither."""
    return _standing(_FIND(connection, of_task=task_id).all(), is_live)


def look(
    connection: sa.Connection, *, task_id: int, job_id: int, run_id: int, alone: bool, is_live: IsLive
) -> Free | Hindrance:
    """Why this run may not begin this task, if it may not. With `alone` what others have made of it is of no use."""
    first = _LOOKS[connection.dialect.name](connection, of_job=job_id, of_task=task_id).one()
    if first.newest is not None and first.newest > run_id:
        return Hindrance.SUPERSEDED
    # NULL is the lock of a task that is not there; whoever begins it finds that.
    if first.is_mine is False:
        return Hindrance.ELSEWHERE
    rows = _SEE(connection, of_task=task_id).all()
    found = _standing([row for row in rows if row.name is not None], is_live)
    if found is Status.RUNNING or (found is Status.DONE and not alone):
        return Hindrance.ELSEWHERE
    return Free(bool(rows[0].capped))


def _standing(rows: Iterable[sa.Row[Any]], is_live: IsLive) -> Status | None:
    found = None
    for row in rows:
        if row.status == Status.RUNNING and is_live(row.name):
            return Status.RUNNING
        if row.status == Status.DONE:
            found = Status.DONE
    return found


def others_under_way(connection: sa.Connection, job_id: int) -> bool:
    """Whether any other job's newest run has not said that it is over."""
    newest = (
        sa.select(sa.func.max(_runs.c.id).label("id"))
        .where(_runs.c.job_id != job_id)
        .group_by(_runs.c.job_id)
        .subquery()
    )
    query = sa.select(_runs.c.id).join(newest, newest.c.id == _runs.c.id).where(_runs.c.ended_ms.is_(None)).limit(1)
    return connection.execute(query).first() is not None
