"""What the ledger can tell: counts, spending, exports, and what is still to do. Reads only.

Owns every question that is asked of the ledger. Refuses to load all rows: what can be long comes as an iterator or in
pages.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from runner.ledger import edits
from runner.ledger.statements import aside
from runner.ledger.tables import metadata
from runner.ledger.types import By, Job, Orphan, Spending, Todo, status_of
from runner.tasks import NOT_SENT, REQUEST_FIELDS, ImageRequest, Status

_jobs = metadata.tables["jobs"]
_runs = metadata.tables["runs"]
_prompts = metadata.tables["prompts"]
_tasks = metadata.tables["tasks"]
_attempts = metadata.tables["attempts"]
_assets = metadata.tables["assets"]
_edits = metadata.tables["edits"]
_renditions = metadata.tables["renditions"]

DAY_MS = 86_400_000


def statuses(connection: sa.Connection, job: Job) -> dict[Status, int]:
    """How many of the tasks that are wanted now are in each status."""
    rows = connection.execute(
        sa.select(_tasks.c.status, sa.func.count())
        .where(_tasks.c.job_id == job.id, _tasks.c.revision == job.revision)
        .group_by(_tasks.c.status)
    )
    found = {status_of(status): count for status, count in rows}
    return {status: found.get(status, 0) for status in Status}


def reused(connection: sa.Connection, job: Job) -> int:
    """How many of the wanted tasks were taken over from another job without a request."""
    # Only what was reused is looked at, and not all that is wanted: a sum has no index to be found by.
    taken = sa.select(_assets.c.task_id).where(_assets.c.reused_from.is_not(None))
    return int(
        connection.execute(
            sa.select(sa.func.count()).where(
                _tasks.c.id.in_(taken), aside(_tasks.c.job_id) == job.id, _tasks.c.revision == job.revision
            )
        ).scalar_one()
    )


def todos(
    connection: sa.Connection, job: Job, after_position: int, limit: int, *narrow: sa.ColumnElement[bool]
) -> list[Todo]:
    """The next planned tasks in the manifest's order, from after `after_position`, of which `narrow` holds too."""
    rows = connection.execute(
        with_request()
        .where(
            _tasks.c.job_id == job.id,
            _tasks.c.revision == job.revision,
            _tasks.c.status == Status.PLANNED,
            _tasks.c.position > after_position,
            *narrow,
        )
        .order_by(_tasks.c.position)
        .limit(limit)
    )
    found = [(row, request_of(row)) for row in rows]
    sources = edits.sources_of(connection, job.id, (request.edit for _, request in found))
    return [
        Todo(
            row.id,
            row.position,
            row.key,
            row.prompt_id,
            row.sample,
            request,
            row.name,
            () if request.edit is None else sources[request.edit],
        )
        for row, request in found
    ]


def orphans(connection: sa.Connection, job: Job, limit: int) -> list[Orphan]:
    """Tasks that a dead run left running: the caller holds the job's lock, so nobody works on them."""
    rows = connection.execute(
        with_request()
        .add_columns(
            _attempts.c.id.label("attempt_id"),
            _attempts.c.model.label("asked_model"),
            _attempts.c.simulated,
            _attempts.c.reserved_microusd,
            _attempts.c.cost_microusd,
            _attempts.c.received_sha256,
            _attempts.c.received_path,
        )
        .join(_attempts, _attempts.c.task_id == _tasks.c.id)
        .where(
            _attempts.c.job_id == job.id,
            _attempts.c.outcome.is_(None),
            _attempts.c.batch_row.is_(None),
            _tasks.c.status == Status.RUNNING,
        )
        .order_by(_attempts.c.id)
        .limit(limit)
    )
    return [
        Orphan(
            row.id,
            row.name,
            request_of(row),
            row.attempt_id,
            row.asked_model,
            row.simulated,
            row.reserved_microusd,
            row.cost_microusd,
            row.received_sha256,
            row.received_path,
        )
        for row in rows
    ]


def spending(
    connection: sa.Connection, *, job_id: int, simulated: bool, since_ms: int | None = None, batches: bool = True
) -> Spending:
    """What a job has spent since an instant, and what its open batches reserve; attempts count where they were begun.

    Without `batches`, as a ledger has it that knows none.
    """
    of_job = sa.and_(_attempts.c.job_id == job_id, _attempts.c.simulated.is_(simulated))
    since = () if since_ms is None else (_attempts.c.begun_ms >= since_ms,)
    settled, doubt = connection.execute(
        sa.select(_sum(_attempts.c.cost_microusd), _sum(_attempts.c.doubt_microusd)).where(of_job, *since)
    ).one()
    if not batches:
        return Spending(int(settled), int(doubt))
    # The index of what is open has all that is asked; as they are, these columns would be looked up in another.
    is_open = [of_job, _attempts.c.outcome.is_(None), aside(_attempts.c.batch_row).is_not(None)]
    if since_ms is not None:
        is_open.append(aside(_attempts.c.begun_ms) >= since_ms)
    reserved = sa.select(_sum(_attempts.c.reserved_microusd)).where(*is_open)
    return Spending(int(settled), int(doubt), int(connection.execute(reserved).scalar_one()))


def spent_by(
    connection: sa.Connection, *, job_id: int, simulated: bool, run_id: int, since_ms: int | None = None
) -> Spending:
    """What a run has spent: on its own requests, and on those of batches, of whichever run, that it has collected."""
    of_job = sa.and_(_attempts.c.job_id == job_id, _attempts.c.simulated.is_(simulated))
    if since_ms is not None:
        of_job = sa.and_(of_job, _attempts.c.begun_ms >= since_ms)
    settled = doubt = 0
    for mine in (
        sa.and_(_attempts.c.run_id == run_id, _attempts.c.batch_row.is_(None)),
        _attempts.c.collected_run == run_id,
    ):
        one, other = connection.execute(
            sa.select(_sum(_attempts.c.cost_microusd), _sum(_attempts.c.doubt_microusd)).where(mine, of_job)
        ).one()
        settled, doubt = settled + int(one), doubt + int(other)
    return Spending(settled, doubt)


def doubt_found(connection: sa.Connection, *, run_id: int, simulated: bool) -> int:
    """What a run has put on record as in doubt: of its own requests, and of those that a dead run had left open."""
    run = sa.select(_runs.c.job_id, _runs.c.started_ms).where(_runs.c.id == run_id).subquery()
    return int(
        connection.execute(
            sa.select(_sum(_attempts.c.doubt_microusd)).where(
                _attempts.c.job_id == run.c.job_id,
                _attempts.c.ended_ms >= run.c.started_ms,
                _attempts.c.simulated.is_(simulated),
                _attempts.c.doubt_microusd.is_not(None),
            )
        ).scalar_one()
    )


def costs(connection: sa.Connection, by: By, job: Job | None) -> list[dict[str, Any]]:
    """Spending grouped by one thing: real and simulated apart, each with what is in doubt and what reuse has saved.

    Amounts are micro-dollars. `open_microusd` is reserved by attempts that have not ended.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}

    def group(value: object, simulated: object) -> dict[str, Any]:
        key = ("" if value is None else str(value), bool(simulated))
        return groups.setdefault(
            key,
            {
                by: key[0],
                "simulated": key[1],
                "requests": 0,
                "images": 0,
                "input_tokens": 0,
                "output_tokens": 0,
                "cost_microusd": 0,
                "estimated_microusd": 0,
                "in_doubt_microusd": 0,
                "open_microusd": 0,
                "reused": 0,
                "saved_by_reuse_microusd": 0,
            },
        )

    open_attempt = sa.and_(_attempts.c.outcome.is_(None), _attempts.c.cost_microusd.is_(None))
    spent = (
        sa.select(
            _dimension(by, _attempts.c.begun_ms, _attempts.c.model).label("value"),
            _attempts.c.simulated,
            _sum(sa.case((_attempts.c.error_code == NOT_SENT, 0), else_=1)).label("requests"),
            _sum(sa.case((_attempts.c.outcome == "saved", 1), else_=0)).label("images"),
            _sum(_attempts.c.input_tokens).label("input_tokens"),
            _sum(_attempts.c.output_tokens).label("output_tokens"),
            _sum(_attempts.c.cost_microusd).label("cost"),
            _sum(sa.case((_attempts.c.cost_basis == "estimate", _attempts.c.cost_microusd), else_=0)).label("guess"),
            _sum(_attempts.c.doubt_microusd).label("doubt"),
            _sum(sa.case((open_attempt, _attempts.c.reserved_microusd), else_=0)).label("open"),
        )
        .select_from(_of_attempts(by))
        .group_by("value", _attempts.c.simulated)
    )
    if job is not None:
        spent = spent.where(_attempts.c.job_id == job.id)
    for row in connection.execute(spent):
        group(row.value, row.simulated).update(
            requests=row.requests,
            images=row.images,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cost_microusd=row.cost,
            estimated_microusd=row.guess,
            in_doubt_microusd=row.doubt,
            open_microusd=row.open,
        )
    origin = _assets.alias("origin")
    saved = (
        sa.select(
            _dimension(by, _assets.c.created_ms, _assets.c.model).label("value"),
            _assets.c.simulated,
            sa.func.count().label("reused"),
            _sum(_attempts.c.cost_microusd).label("saved"),
        )
        .select_from(
            _assets.join(_tasks, _tasks.c.id == _assets.c.task_id)
            .join(_jobs, _jobs.c.id == _tasks.c.job_id)
            .join(origin, origin.c.id == _assets.c.reused_from)
            .outerjoin(_attempts, _attempts.c.id == origin.c.attempt_id)
        )
        .where(_assets.c.reused_from.is_not(None))
        .group_by("value", _assets.c.simulated)
    )
    if job is not None:
        saved = saved.where(_tasks.c.job_id == job.id)
    for row in connection.execute(saved):
        group(row.value, row.simulated).update(reused=row.reused, saved_by_reuse_microusd=row.saved)
    return [groups[key] for key in sorted(groups)]


def problems(connection: sa.Connection, job: Job, limit: int) -> list[dict[str, Any]]:
    """Why wanted tasks are not done: each (status, code) with its number, an example's message and name."""
    rows = connection.execute(
        sa.select(
            _tasks.c.status,
            _tasks.c.error_code.label("code"),
            sa.func.count().label("tasks"),
            sa.func.min(_tasks.c.error_message).label("example"),
            sa.func.min(_tasks.c.name).label("name"),
        )
        .where(
            _tasks.c.job_id == job.id,
            _tasks.c.revision == job.revision,
            _tasks.c.status.in_([Status.FAILED, Status.REFUSED, Status.IN_DOUBT]),
        )
        .group_by(_tasks.c.status, _tasks.c.error_code)
        .order_by(sa.desc("tasks"))
        .limit(limit)
    )
    return [dict(row) for row in rows.mappings()]


def last_run(connection: sa.Connection, job: Job) -> dict[str, Any] | None:
    """The newest run of a job."""
    row = (
        connection.execute(sa.select(_runs).where(_runs.c.job_id == job.id).order_by(_runs.c.id.desc()).limit(1))
        .mappings()
        .first()
    )
    return None if row is None else dict(row)


def requests(connection: sa.Connection, run_id: int) -> tuple[int, int]:
    """How many requests a run has made, those in batches among them, and how many images came in it."""
    of_run = _attempts.c.run_id == run_id
    is_own_image = sa.and_(_attempts.c.outcome == "saved", _attempts.c.batch_row.is_(None))
    count, images = connection.execute(
        sa.select(sa.func.count(), _sum(sa.case((is_own_image, 1), else_=0))).where(of_run)
    ).one()
    images += connection.execute(
        sa.select(sa.func.count()).where(_attempts.c.collected_run == run_id, _attempts.c.outcome == "saved")
    ).scalar_one()
    # By itself and as a literal, so that each is answered by an index alone.
    is_unsent = _attempts.c.error_code == sa.literal_column(f"'{NOT_SENT}'")
    unsent = connection.scalar(sa.select(sa.func.count()).where(of_run, is_unsent))
    return int(count) - int(unsent or 0), int(images)


def with_request(*, edits: bool = True) -> sa.Select[Any]:
    """Tasks with the columns that `request_of` needs; without `edits`, as a ledger has them that knows none."""
    spec: sa.ColumnElement[Any] = _edits.c.spec if edits else sa.null().label("spec")
    query = sa.select(
        _tasks.c.id,
        _tasks.c.position,
        _tasks.c.key,
        _tasks.c.prompt_id,
        _tasks.c.sample,
        _tasks.c.name,
        _prompts.c.text,
        spec,
        *(_tasks.c[name] for name in REQUEST_FIELDS),
    ).join(_prompts, _prompts.c.id == _tasks.c.prompt_row)
    return query.outerjoin(_edits, _edits.c.id == _tasks.c.edit_row) if edits else query


def request_of(row: sa.Row[Any]) -> ImageRequest:
    """What a task asks for, from a row of `with_request`."""
    edit = None if row.spec is None else edits.edit_of(row.spec)
    return ImageRequest(prompt=row.text, edit=edit, **{name: getattr(row, name) for name in REQUEST_FIELDS})


def _sum(column: Any) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def _of_attempts(by: By) -> sa.FromClause:
    """Attempts with what `_dimension` needs of others, and no more: there can be very many."""
    if by == "job":
        return _attempts.join(_jobs, _jobs.c.id == _attempts.c.job_id)
    if by in ("size", "quality"):
        return _attempts.join(_tasks, _tasks.c.id == _attempts.c.task_id)
    return _attempts


def _dimension(by: By, at_ms: sa.ColumnElement[Any], model: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    match by:
        case "job":
            return _jobs.c.name
        case "day":
            return sa.cast((at_ms - at_ms % DAY_MS) / DAY_MS, sa.Integer)
        case "model":
            return model
        case "size" | "quality":
            return _tasks.c[by]
