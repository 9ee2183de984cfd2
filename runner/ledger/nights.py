"""What one run has done, and what days have cost: the questions of the report of a night and of charts.

Owns them; each is one transaction. Refuses to know how an answer is drawn. A ledger of an older version is looked at as
it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from runner.ledger.database import Database, once_more
from runner.ledger.queries import DAY_MS
from runner.ledger.renditions import THUMBNAIL
from runner.ledger.tables import metadata
from runner.ledger.types import Job
from runner.tasks import NOT_SENT

_jobs = metadata.tables["jobs"]
_runs = metadata.tables["runs"]
_tasks = metadata.tables["tasks"]
_attempts = metadata.tables["attempts"]
_assets = metadata.tables["assets"]
_renditions = metadata.tables["renditions"]

MINUTE_MS = 60_000
_SLOWEST = 3
_LOOKED_AT = 60
"""Images among which those to show are chosen."""


@dataclass(frozen=True, slots=True)
class Group:
    """What a run has asked of one model in one size and quality. Money is micro-dollars."""

    model: str
    size: str
    quality: str
    requests: int
    images: int
    cost_microusd: int


@dataclass(frozen=True, slots=True)
class Glimpse:
    """An image to show, one of each prompt first. Paths are relative to the output folder."""

    name: str
    path: str
    thumbnail: str | None


@dataclass(frozen=True, slots=True)
class Night:
    """One run. `run` is as `Ledger.last_run` gives it; `minutes` are (minutes since 1970, images).

    `slowest` has (name, milliseconds); `mean_ms` is of every image that was asked for by itself, None without one.
    """

    run: dict[str, Any]
    groups: tuple[Group, ...]
    minutes: tuple[tuple[int, int], ...]
    mean_ms: float | None
    slowest: tuple[tuple[str, int], ...]
    glimpses: tuple[Glimpse, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """What was begun on one day (UTC, counted from 1970-01-01) has cost, and may have: micro-dollars."""

    day: int
    simulated: bool
    images: int
    cost_microusd: int
    in_doubt_microusd: int


@dataclass(frozen=True, slots=True)
class Pace:
    """The images of one run by `minutes`, as in `Night`."""

    job: str
    run_id: int
    simulated: bool
    minutes: tuple[tuple[int, int], ...]


class Nights:
    """Every method is one transaction. `known` False: this ledger knows no batches."""

    def __init__(self, database: Database, *, known: bool) -> None:
        self._database = database
        self._known = known

    @once_more
    def night(self, job: Job, run_id: int | None, *, glimpses: int) -> Night | None:
        """One run of a job, its newest if `run_id` is None, with up to so many `glimpses`; None if there is none."""
        query = sa.select(_runs).where(_runs.c.job_id == job.id).order_by(_runs.c.id.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query if run_id is None else query.where(_runs.c.id == run_id)).mappings().first()
            if row is None:
                return None
            mine = self._of_run(row["id"])
            mean_ms, slowest = _latencies(connection, mine)
            return Night(
                dict(row),
                _groups(connection, mine),
                _minutes(connection, mine),
                mean_ms,
                slowest,
                _glimpses(connection, mine, glimpses, thumbnails=self._known),
            )

    @once_more
    def run_ids(self, job: Job, limit: int) -> list[int]:
        """The newest runs of a job, the newest first."""
        query = sa.select(_runs.c.id).where(_runs.c.job_id == job.id).order_by(_runs.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return list(connection.scalars(query))

    @once_more
    def spent_by_day(self, job: Job | None, since_day: int) -> list[Day]:
        """What each day has cost since `since_day`, real and simulated apart; of all jobs if `job` is None."""
        day = (_attempts.c.begun_ms - _attempts.c.begun_ms % DAY_MS) / DAY_MS
        query = (
            sa.select(
                sa.cast(day, sa.Integer).label("day"),
                _attempts.c.simulated,
                _sum(sa.case((_attempts.c.outcome == "saved", 1), else_=0)).label("images"),
                _sum(_attempts.c.cost_microusd).label("cost_microusd"),
                _sum(_attempts.c.doubt_microusd).label("in_doubt_microusd"),
            )
            .where(_attempts.c.begun_ms >= since_day * DAY_MS)
            .group_by("day", _attempts.c.simulated)
            .order_by("day", _attempts.c.simulated)
        )
        if job is not None:
            query = query.where(_attempts.c.job_id == job.id)
        with self._database.read() as connection:
            return [Day(**row) for row in connection.execute(query).mappings()]

    @once_more
    def images_by_minute(self, job: Job | None) -> Pace | None:
        """How quick the newest run was that brought images (of a job, or of any); None if none ever did."""
        saved = _attempts.c.outcome == "saved"
        if job is not None:
            saved = sa.and_(saved, _attempts.c.job_id == job.id)
        with self._database.read() as connection:
            own = sa.select(sa.func.max(_attempts.c.run_id)).where(saved)
            newest = connection.scalar(own.where(_attempts.c.batch_row.is_(None)) if self._known else own) or 0
            if self._known:
                collected = sa.select(sa.func.max(_attempts.c.collected_run)).where(saved)
                newest = max(newest, connection.scalar(collected) or 0)
            row = connection.execute(
                sa.select(_jobs.c.name, _runs.c.simulated)
                .join(_runs, _runs.c.job_id == _jobs.c.id)
                .where(_runs.c.id == newest)
            ).first()
            if row is None:
                return None
            return Pace(row.name, newest, row.simulated, _minutes(connection, self._of_run(newest)))

    def _of_run(self, run_id: int) -> sa.ColumnElement[bool]:
        """The attempts of a run: those it has made by itself, and those of batches that it has collected."""
        if not self._known:
            return _attempts.c.run_id == run_id
        own = sa.and_(_attempts.c.run_id == run_id, _attempts.c.batch_row.is_(None))
        return sa.or_(own, _attempts.c.collected_run == run_id)


def _groups(connection: sa.Connection, mine: sa.ColumnElement[bool]) -> tuple[Group, ...]:
    rows = connection.execute(
        sa.select(
            _attempts.c.model,
            _tasks.c.size,
            _tasks.c.quality,
            _sum(sa.case((_attempts.c.error_code == NOT_SENT, 0), else_=1)).label("requests"),
            _sum(sa.case((_attempts.c.outcome == "saved", 1), else_=0)).label("images"),
            _sum(_attempts.c.cost_microusd).label("cost_microusd"),
        )
        .join(_tasks, _tasks.c.id == _attempts.c.task_id)
        .where(mine)
        .group_by(_attempts.c.model, _tasks.c.size, _tasks.c.quality)
    )
    found = (Group(**row) for row in rows.mappings())
    return tuple(sorted(found, key=lambda each: (-each.images, each.model, each.size, each.quality)))


def _minutes(connection: sa.Connection, mine: sa.ColumnElement[bool]) -> tuple[tuple[int, int], ...]:
    minute = sa.cast((_attempts.c.ended_ms - _attempts.c.ended_ms % MINUTE_MS) / MINUTE_MS, sa.Integer)
    rows = connection.execute(
        sa.select(minute.label("minute"), sa.func.count())
        .where(mine, _attempts.c.outcome == "saved")
        .group_by("minute")
        .order_by("minute")
    )
    return tuple((int(at), int(images)) for at, images in rows)


def _latencies(
    connection: sa.Connection, mine: sa.ColumnElement[bool]
) -> tuple[float | None, tuple[tuple[str, int], ...]]:
    timed = sa.and_(mine, _attempts.c.outcome == "saved", _attempts.c.latency_ms.is_not(None))
    mean = connection.scalar(sa.select(sa.func.avg(_attempts.c.latency_ms)).where(timed))
    rows = connection.execute(
        sa.select(_tasks.c.name, _attempts.c.latency_ms)
        .join(_tasks, _tasks.c.id == _attempts.c.task_id)
        .where(timed)
        .order_by(_attempts.c.latency_ms.desc(), _attempts.c.id)
        .limit(_SLOWEST)
    )
    return None if mean is None else float(mean), tuple((name, int(ms)) for name, ms in rows)


def _glimpses(
    connection: sa.Connection, mine: sa.ColumnElement[bool], most: int, *, thumbnails: bool
) -> tuple[Glimpse, ...]:
    current = sa.and_(
        _renditions.c.task_id == _tasks.c.id,
        _renditions.c.kind == THUMBNAIL,
        _renditions.c.asset_sha256 == _assets.c.sha256,
    )
    thumbnail = sa.select(_renditions.c.path).where(current).correlate(_tasks, _assets).scalar_subquery()
    rows = connection.execute(
        sa.select(
            _tasks.c.prompt_row,
            _tasks.c.name,
            _assets.c.path,
            thumbnail.label("thumbnail") if thumbnails else sa.null().label("thumbnail"),
        )
        .select_from(_attempts)
        .join(_tasks, _tasks.c.id == _attempts.c.task_id)
        .join(_assets, _assets.c.task_id == _tasks.c.id)
        .where(mine, _attempts.c.outcome == "saved", _assets.c.attempt_id == _attempts.c.id)
        .order_by(_attempts.c.id.desc())
        .limit(_LOOKED_AT)
    ).all()
    seen: set[int] = set()
    ranked = []
    for place, row in enumerate(rows):
        ranked.append((row.prompt_row in seen, place, Glimpse(row.name, row.path, row.thumbnail)))
        seen.add(row.prompt_row)
    return tuple(glimpse for _, _, glimpse in sorted(ranked, key=lambda one: one[:2])[:most])


def _sum(column: Any) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(column), 0)
