"""What a job wants: jobs, enrolment in chunks, what is known of a task, and what other jobs have made already.

Owns idempotent enrolment: the same manifest enrolled twice changes nothing, an edited one adds what is new and leaves
the rest. Refuses to judge whether a manifest is valid: that was done before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from runner.errors import InputError
from runner.ledger.tables import metadata
from runner.ledger.types import File, Job, Misplaced, Reusable
from runner.planner import Known
from runner.tasks import Status, Task

_jobs = metadata.tables["jobs"]
_prompts = metadata.tables["prompts"]
_tasks = metadata.tables["tasks"]
_assets = metadata.tables["assets"]

_ADD_PROMPT = sa.text("INSERT INTO prompts (digest, text) VALUES (:digest, :text) ON CONFLICT (digest) DO NOTHING")
_ADD_TASK = sa.text(
    """
    INSERT INTO tasks (job_id, key, revision, position, status, prompt_id, prompt_row, model, size, quality,
                       background, output_format, output_compression, moderation, sample, variant, name)
    VALUES (:job_id, :key, :revision, :position, 'planned', :prompt_id, :prompt_row, :model, :size, :quality,
            :background, :output_format, :output_compression, :moderation, :sample, :variant, :name)
    ON CONFLICT (key, job_id) DO UPDATE SET
        revision = excluded.revision, position = excluded.position, prompt_id = excluded.prompt_id,
        variant = excluded.variant, name = excluded.name
    """
)


def job(connection: sa.Connection, name: str) -> Job | None:
    """The job of this name, if it was ever run."""
    row = connection.execute(sa.select(_jobs).where(_jobs.c.name == name)).first()
    if row is None:
        return None
    return Job(row.id, row.name, row.manifest_path, row.revision, row.digest, row.wanted)


def make_job(connection: sa.Connection, name: str, *, manifest_path: str | None, now_ms: int) -> Job:
    """The job of this name, made if need be; its manifest's path is brought up to date."""
    known = job(connection, name)
    if known is None:
        connection.execute(
            sa.insert(_jobs).values(name=name, manifest_path=manifest_path, revision=0, wanted=0, created_ms=now_ms)
        )
    elif manifest_path is not None and known.manifest_path != manifest_path:
        connection.execute(sa.update(_jobs).where(_jobs.c.id == known.id).values(manifest_path=manifest_path))
    made = job(connection, name)
    if made is None:
        raise InputError(f"the job {name!r} vanished from the ledger")
    return made


def next_revision(connection: sa.Connection, job_id: int) -> int:
    """The number of the next version of what is wanted; it counts once it is activated."""
    return 1 + int(connection.execute(sa.select(_jobs.c.revision).where(_jobs.c.id == job_id)).scalar_one())


def add(connection: sa.Connection, job_id: int, revision: int, first_position: int, tasks: Sequence[Task]) -> None:
    """Enrol one chunk of tasks: new ones are planned, known ones keep their status."""
    rows = _prompt_rows(connection, {task.request.prompt for task in tasks})
    variants: dict[tuple[tuple[str, str], ...], str] = {}
    values = []
    for offset, task in enumerate(tasks):
        request = task.request
        variant = variants.get(task.variant)
        if variant is None:
            variant = variants[task.variant] = json.dumps(dict(task.variant), ensure_ascii=False)
        values.append(
            {
                "job_id": job_id,
                "key": task.key,
                "revision": revision,
                "position": first_position + offset,
                "prompt_id": task.prompt_id,
                "prompt_row": rows[request.prompt],
                "model": request.model,
                "size": request.size,
                "quality": request.quality,
                "background": request.background,
                "output_format": request.output_format,
                "output_compression": request.output_compression,
                "moderation": request.moderation,
                "sample": task.sample,
                "variant": variant,
                "name": task.name,
            }
        )
    connection.execute(_ADD_TASK, values)


def activate(connection: sa.Connection, job_id: int, revision: int, *, digest: str, wanted: int) -> None:
    """From now on the tasks of `revision` are what the job wants."""
    connection.execute(
        sa.update(_jobs).where(_jobs.c.id == job_id).values(revision=revision, digest=digest, wanted=wanted)
    )


def known(connection: sa.Connection, job_id: int | None, keys: Sequence[str]) -> Mapping[str, Known]:
    """What is on record of these keys, in this job and in others."""
    found: dict[str, Known] = {}
    rows = connection.execute(sa.select(_tasks.c.key, _tasks.c.job_id, _tasks.c.status).where(_tasks.c.key.in_(keys)))
    for key, owner, status in rows:
        before = found.get(key, Known(None))
        if owner == job_id:
            found[key] = Known(Status(status), before.reusable)
        elif status == Status.DONE:
            found[key] = Known(before.status, True)
    return found


def reusable(
    connection: sa.Connection, job_id: int, revision: int, after: tuple[int, int], limit: int
) -> list[Reusable]:
    """Planned tasks of the job with each asset that another job has for them, by (task, asset), from after `after`.

    All of them, oldest first: the file of one may be gone while that of another is still there.
    """
    other = _tasks.alias("other")
    rows = connection.execute(
        sa.select(_tasks.c.id.label("task_id"), _tasks.c.name, _assets)
        .join(other, sa.and_(other.c.key == _tasks.c.key, other.c.job_id != _tasks.c.job_id))
        .join(_assets, _assets.c.task_id == other.c.id)
        .where(
            _tasks.c.job_id == job_id,
            _tasks.c.revision == revision,
            _tasks.c.status == Status.PLANNED,
            other.c.status == Status.DONE,
            sa.tuple_(_tasks.c.id, _assets.c.id) > after,
        )
        .order_by(_tasks.c.id, _assets.c.id)
        .limit(limit)
    )
    return [Reusable(row.task_id, row.name, row.id, file_of(row), row.model, row.simulated) for row in rows]


def others_have_assets(connection: sa.Connection, job_id: int) -> bool:
    """Whether any other job has an image at all: without one there is nothing to look for."""
    return (
        connection.execute(
            sa.select(_assets.c.id)
            .join(_tasks, _tasks.c.id == _assets.c.task_id)
            .where(_tasks.c.job_id != job_id)
            .limit(1)
        ).first()
        is not None
    )


def misplaced(
    connection: sa.Connection, job_id: int, revision: int, folder: str, after_id: int, limit: int
) -> list[Misplaced]:
    """Done tasks that are wanted and whose asset is not at `folder`/name."""
    rows = connection.execute(
        sa.select(_tasks.c.id.label("task_id"), _tasks.c.name, _assets)
        .join(_assets, _assets.c.task_id == _tasks.c.id)
        .where(
            _tasks.c.job_id == job_id,
            _tasks.c.revision == revision,
            _tasks.c.status == Status.DONE,
            _assets.c.path != sa.literal(f"{folder}/") + _tasks.c.name,
            _tasks.c.id > after_id,
        )
        .order_by(_tasks.c.id)
        .limit(limit)
    )
    return [Misplaced(row.task_id, row.name, row.id, file_of(row)) for row in rows]


def file_of(row: sa.Row[tuple[object, ...]]) -> File:
    """The file that a row of assets describes."""
    return File(row.path, row.sha256, row.bytes, row.format, row.width, row.height, row.has_c2pa)


def _prompt_rows(connection: sa.Connection, prompts: set[str]) -> dict[str, int]:
    digests = {hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(): text for text in prompts}
    if digests:
        connection.execute(_ADD_PROMPT, [{"digest": digest, "text": text} for digest, text in digests.items()])
    rows = connection.execute(sa.select(_prompts.c.id, _prompts.c.digest).where(_prompts.c.digest.in_(list(digests))))
    return {digests[digest]: row_id for row_id, digest in rows}
