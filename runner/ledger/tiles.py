"""Tasks as they are looked at: one row for each wanted image, with its file, its thumbnail and its cost, as a stream.

Owns the questions of the gallery and of the review. Refuses to hold more than a page of an answer.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa

from runner.ledger.bulk import Bulk
from runner.ledger.renditions import COMPOSITE, THUMBNAIL
from runner.ledger.statements import aside, streamed
from runner.ledger.tables import metadata
from runner.ledger.types import Job, Nonsense, status_of
from runner.ledger.views import Relative, Tile
from runner.planner import CHUNK, chunks

_jobs = metadata.tables["jobs"]
_prompts = metadata.tables["prompts"]
_tasks = metadata.tables["tasks"]
_attempts = metadata.tables["attempts"]
_assets = metadata.tables["assets"]
_renditions = metadata.tables["renditions"]
_origins = metadata.tables["origins"]

_ADD_ORIGIN = Bulk(
    "origins",
    ("task_id", "origin_task", "origin_sha256", "created_ms"),
    conflict="(task_id, origin_task) DO NOTHING",
)


def tiles(
    connection: sa.Connection, job: Job, task_ids: Sequence[int] | None = None, *, knows_edits: bool
) -> Generator[Tile, None, None]:
    """Every wanted task of a job in the manifest's order, or those of `task_ids` (at most CHUNK) that it wants."""
    composite, thumbnail = _renditions.alias("composite"), _renditions.alias("thumbnail")
    query = (
        sa.select(
            _tasks.c.id.label("task_id"),
            _tasks.c.key,
            _tasks.c.position,
            _tasks.c.name,
            _tasks.c.prompt_id,
            _prompts.c.text.label("prompt"),
            _tasks.c.variant,
            _tasks.c.model.label("wanted_model"),
            _tasks.c.size,
            _tasks.c.quality,
            _tasks.c.background,
            _tasks.c.output_format,
            _tasks.c.output_compression,
            _tasks.c.moderation,
            _tasks.c.sample,
            _tasks.c.status,
            _tasks.c.error_code,
            _tasks.c.error_message,
            _assets.c.model,
            _assets.c.path,
            _assets.c.sha256,
            _assets.c.bytes,
            _assets.c.width,
            _assets.c.height,
            _assets.c.simulated,
            _assets.c.created_ms,
            (_tasks.c.edit_row.is_not(None) if knows_edits else sa.false()).label("has_edit"),
            _summed(_attempts.c.cost_microusd).label("cost_microusd"),
            _summed(_attempts.c.doubt_microusd).label("in_doubt_microusd"),
            (composite.c.path if knows_edits else sa.null()).label("composite"),
            (thumbnail.c.path if knows_edits else sa.null()).label("thumbnail"),
        )
        .join(_prompts, _prompts.c.id == _tasks.c.prompt_row)
        .outerjoin(_assets, _assets.c.task_id == _tasks.c.id)
        .where(_tasks.c.job_id == job.id, _tasks.c.revision == job.revision)
        .order_by(_tasks.c.position)
    )
    if knows_edits:
        query = query.outerjoin(composite, _is_of(composite, COMPOSITE))
        query = query.outerjoin(thumbnail, _is_of(thumbnail, THUMBNAIL))
    if task_ids is not None:
        query = query.where(_tasks.c.id.in_(task_ids))
    with streamed(connection, query) as found:
        for row in found.mappings():
            has_edit = bool(row["has_edit"])
            variant, status = _variant(row["variant"]), status_of(row["status"])
            yield Tile(**{**row, "variant": variant, "status": status, "has_edit": has_edit})


def relatives(connection: sa.Connection, job: Job) -> Iterator[Relative]:
    """What images of this job were made from, and what they became, by the job's own tasks."""
    yield from _relatives(connection, job, "before", own=_origins.c.task_id, other=_origins.c.origin_task)
    yield from _relatives(connection, job, "after", own=_origins.c.origin_task, other=_origins.c.task_id)


def link(connection: sa.Connection, job: Job, origins: Mapping[str, Sequence[str]], *, of_job: str, now_ms: int) -> int:
    """Put on record which images the prompts of a job, by their ids, are made again from, by the keys of those.

    What is on record already stays. How many of the images were found.
    """
    wanted = sorted({key for keys in origins.values() for key in keys})
    found: dict[str, tuple[int, str]] = {}
    for page in chunks(wanted, CHUNK):
        rows = connection.execute(
            sa.select(_tasks.c.key, _tasks.c.id, _assets.c.sha256)
            .join(_jobs, _jobs.c.id == _tasks.c.job_id)
            .join(_assets, _assets.c.task_id == _tasks.c.id)
            .where(_tasks.c.key.in_(page), _jobs.c.name == of_job)
        )
        found.update((key, (task_id, sha256)) for key, task_id, sha256 in rows)
    mine = connection.execute(
        sa.select(_tasks.c.id, _tasks.c.prompt_id).where(_tasks.c.job_id == job.id, _tasks.c.revision == job.revision)
    )
    links = [
        (task_id, *found[key], now_ms)
        for task_id, prompt_id in mine
        for key in origins.get(prompt_id, ())
        if key in found
    ]
    for some in chunks(links, CHUNK):
        _ADD_ORIGIN(connection, some)
    return len(found)


def _relatives(
    connection: sa.Connection,
    job: Job,
    side: Literal["before", "after"],
    *,
    own: sa.ColumnElement[int],
    other: sa.ColumnElement[int],
) -> Iterator[Relative]:
    mine, theirs = _tasks.alias("mine"), _tasks.alias("theirs")
    thumbnail = _renditions.alias("thumbnail")
    rows = connection.execute(
        sa.select(
            mine.c.id.label("task_id"),
            theirs.c.id.label("other_task"),
            _jobs.c.name.label("job"),
            theirs.c.key,
            theirs.c.prompt_id,
            sa.func.coalesce(_assets.c.model, theirs.c.model).label("model"),
            theirs.c.size,
            theirs.c.quality,
            theirs.c.status,
            _assets.c.path,
            _assets.c.width,
            _assets.c.height,
            thumbnail.c.path.label("thumbnail"),
            _summed(_attempts.c.cost_microusd, theirs).label("cost_microusd"),
        )
        .select_from(_origins)
        .join(mine, mine.c.id == own)
        .join(theirs, theirs.c.id == other)
        .join(_jobs, _jobs.c.id == theirs.c.job_id)
        .outerjoin(_assets, _assets.c.task_id == theirs.c.id)
        .outerjoin(thumbnail, _is_of(thumbnail, THUMBNAIL, theirs))
        # From the few links to their tasks, not from all tasks to their links.
        .where(aside(mine.c.job_id) == job.id, mine.c.revision == job.revision)
        .order_by(mine.c.position, _origins.c.id)
    )
    for row in rows.mappings():
        yield Relative(side=side, **{**row, "status": status_of(row["status"])})


def _summed(column: sa.Column[Any], tasks: sa.FromClause = _tasks) -> sa.ColumnElement[int]:
    summed = sa.select(sa.func.coalesce(sa.func.sum(column), 0)).where(_attempts.c.task_id == tasks.c.id)
    return summed.correlate(tasks).scalar_subquery()


def _is_of(rendition: sa.FromClause, kind: str, tasks: sa.FromClause = _tasks) -> sa.ColumnElement[bool]:
    """Whether a rendition is that of a task, and of the image that it has now."""
    return sa.and_(
        rendition.c.task_id == tasks.c.id, rendition.c.kind == kind, rendition.c.asset_sha256 == _assets.c.sha256
    )


@lru_cache(maxsize=4096)
def _variant(text: str) -> tuple[tuple[str, str], ...]:
    try:
        return tuple((str(name), str(value)) for name, value in json.loads(text).items())
    except (ValueError, AttributeError, RecursionError):
        raise Nonsense(f"{text[:80]!r} is no variant") from None
