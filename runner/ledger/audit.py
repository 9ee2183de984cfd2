"""What the ledger can tell of its assets, page by page, and where it contradicts itself. Reads only.

Owns the questions of `runner verify`. Refuses to know whether a file is there: the store looks.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import sqlalchemy as sa

from runner.ledger import edits
from runner.ledger.enrol import file_of
from runner.ledger.queries import request_of, with_request
from runner.ledger.statements import streamed
from runner.ledger.tables import metadata
from runner.ledger.types import Contradiction, Job, Paid, Recorded, status_of
from runner.tasks import Status

_jobs = metadata.tables["jobs"]
_tasks = metadata.tables["tasks"]
_attempts = metadata.tables["attempts"]
_assets = metadata.tables["assets"]


def totals(connection: sa.Connection, job_id: int) -> tuple[int, int]:
    """How many assets a job has on record, and their bytes; also those that it no longer wants."""
    count, size = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(_assets.c.bytes), 0))
        .select_from(_assets.join(_tasks, _tasks.c.id == _assets.c.task_id))
        .where(_tasks.c.job_id == job_id)
    ).one()
    return int(count), int(size)


def assets(connection: sa.Connection, after_id: int, limit: int) -> list[Recorded]:
    """The next assets of any job, from after `after_id`: asked for by job, each page would sort all of the job."""
    page = sa.select(_assets).where(_assets.c.id > after_id).order_by(_assets.c.id).limit(limit).subquery("assets")
    return [_asset(row) for row in connection.execute(_recorded(page).order_by(page.c.id))]


def assets_of(connection: sa.Connection, asset_ids: Sequence[int]) -> list[Recorded]:
    """These assets, as far as they are still on record."""
    rows = connection.execute(_recorded(_assets).where(_assets.c.id.in_(asset_ids)).order_by(_assets.c.id))
    return [_asset(row) for row in rows]


def same_bytes(connection: sa.Connection, digests: Sequence[str]) -> Generator[Recorded, None, None]:
    """Every asset of any job with one of these hashes, as a stream."""
    query = _recorded(_assets).where(_assets.c.sha256.in_(digests)).order_by(_assets.c.id)
    with streamed(connection, query) as rows:
        yield from (_asset(row) for row in rows)


def recorded(connection: sa.Connection, job_id: int, paths: Sequence[str]) -> set[str]:
    """Those of these paths that an asset is recorded at, or is about to be: an image that a run has received."""
    found = connection.scalars(sa.select(_assets.c.path).where(_assets.c.path.in_(paths)))
    waits = connection.scalars(
        sa.select(_attempts.c.received_path).where(
            _attempts.c.job_id == job_id, _attempts.c.outcome.is_(None), _attempts.c.received_path.in_(paths)
        )
    )
    return {*found, *waits}


def paid(connection: sa.Connection, asset_ids: Sequence[int]) -> list[Paid]:
    """What these assets were asked for and have cost; one that was reused costs what its origin did."""
    origin = _assets.alias("origin")
    rows = connection.execute(
        with_request(edits=edits.known(connection))
        .add_columns(
            _assets.c.id.label("asset_id"),
            _assets.c.simulated,
            _attempts.c.cost_microusd,
            _attempts.c.reserved_microusd,
        )
        .join(_assets, _assets.c.task_id == _tasks.c.id)
        .outerjoin(origin, origin.c.id == _assets.c.reused_from)
        .outerjoin(_attempts, _attempts.c.id == sa.func.coalesce(_assets.c.attempt_id, origin.c.attempt_id))
        .where(_assets.c.id.in_(asset_ids))
    )
    return [
        Paid(row.asset_id, request_of(row), row.simulated, row.cost_microusd, row.reserved_microusd) for row in rows
    ]


def contradictions(connection: sa.Connection, job: Job) -> Generator[Contradiction, None, None]:
    """Where the records of a job cannot all be true, as a stream."""
    wanted = connection.execute(
        sa.select(sa.func.count()).where(_tasks.c.job_id == job.id, _tasks.c.revision == job.revision)
    ).scalar_one()
    enrolled = connection.execute(sa.select(_jobs.c.revision, _jobs.c.wanted).where(_jobs.c.id == job.id)).one()
    if enrolled.revision == job.revision and enrolled.wanted != wanted:
        yield Contradiction(job.name, None, f"the job wants {enrolled.wanted} images, and has {wanted} tasks")
    tasks = sa.select(_tasks.c.name, _tasks.c.status).where(_tasks.c.job_id == job.id)
    has_asset = sa.exists().where(_assets.c.task_id == _tasks.c.id)
    is_open = sa.exists().where(_attempts.c.task_id == _tasks.c.id, _attempts.c.outcome.is_(None))
    under_way = [Status.RUNNING, Status.SUBMITTED]
    unpaid = sa.and_(_assets.c.attempt_id.is_(None), _assets.c.reused_from.is_(None))
    unsaved = sa.or_(_attempts.c.outcome.is_(None), _attempts.c.outcome != "saved")
    for query, message in (
        (tasks.where(_tasks.c.status == Status.DONE, ~has_asset), "the task is done, and has no image on record"),
        (tasks.where(_tasks.c.status != Status.DONE, has_asset), "there is an image on record, and the task is {}"),
        (tasks.where(_tasks.c.status.in_(under_way), ~is_open), "the task is {}, and no request is under way"),
        (tasks.where(_tasks.c.status.not_in(under_way), is_open), "a request is under way, and the task is {}"),
        (
            tasks.join(_assets, _assets.c.task_id == _tasks.c.id).where(unpaid),
            "the image was neither asked for nor taken over from another job",
        ),
        (
            tasks.join(_assets, _assets.c.task_id == _tasks.c.id)
            .join(_attempts, _attempts.c.id == _assets.c.attempt_id)
            .where(unsaved),
            "the request that brought the image is not on record as saved",
        ),
    ):
        with streamed(connection, query) as rows:
            for row in rows:
                yield Contradiction(job.name, row.name, message.format(str(row.status).replace("_", " ")))


def _recorded(assets: sa.FromClause) -> sa.Select[tuple[object, ...]]:
    wanted = sa.case((_tasks.c.revision == _jobs.c.revision, True), else_=False).label("wanted")
    return (
        sa.select(assets, _tasks.c.name, _tasks.c.status, _jobs.c.name.label("job"), wanted)
        .join(_tasks, _tasks.c.id == assets.c.task_id)
        .join(_jobs, _jobs.c.id == _tasks.c.job_id)
    )


def _asset(row: sa.Row[tuple[object, ...]]) -> Recorded:
    return Recorded(row.id, row.task_id, row.job, row.name, status_of(row.status), bool(row.wanted), file_of(row))
