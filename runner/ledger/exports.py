"""Every task of a job with all that is on record of it, as a stream.

Owns the one question that joins everything. Refuses to hold more than a page of the answer.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import sqlalchemy as sa

from runner.ledger import edits
from runner.ledger.renditions import COMPOSITE
from runner.ledger.statements import streamed
from runner.ledger.tables import metadata
from runner.ledger.types import Job
from runner.tasks import REQUEST_FIELDS, Source

_prompts = metadata.tables["prompts"]
_tasks = metadata.tables["tasks"]
_attempts = metadata.tables["attempts"]
_assets = metadata.tables["assets"]
_edits = metadata.tables["edits"]
_renditions = metadata.tables["renditions"]

_MOST_KEPT = 1000


def export(connection: sa.Connection, job: Job, *, knows_batches: bool) -> Generator[dict[str, Any], None, None]:
    """Every wanted task with its asset and what its attempts cost, in the manifest's order, as a stream.

    `sources` are those of an edit's images, and with `has_mask` that of its mask after them. `batch` is that of its
    last attempt, by its number in the ledger.
    """
    tried = (
        sa.select(
            _attempts.c.task_id,
            sa.func.count().label("attempts"),
            sa.func.sum(_attempts.c.cost_microusd).label("cost_microusd"),
            sa.func.sum(_attempts.c.doubt_microusd).label("in_doubt_microusd"),
            sa.func.sum(_attempts.c.input_tokens).label("input_tokens"),
            sa.func.sum(_attempts.c.output_tokens).label("output_tokens"),
            sa.func.sum(_attempts.c.input_image_tokens).label("input_image_tokens"),
            sa.func.max(_attempts.c.id).label("last"),
        )
        .where(_attempts.c.job_id == job.id)
        .group_by(_attempts.c.task_id)
        .subquery()
    )
    last = _attempts.alias("last_attempt")
    knows_edits = edits.known(connection)
    composite: sa.ColumnElement[Any] = _renditions.c.path if knows_edits else sa.null()
    query = (
        sa.select(
            sa.literal(job.name).label("job"),
            _tasks.c.key,
            _tasks.c.prompt_id,
            _prompts.c.text.label("prompt"),
            _tasks.c.model.label("wanted_model"),
            _assets.c.model,
            *(_tasks.c[name] for name in REQUEST_FIELDS if name != "model"),
            _tasks.c.sample,
            _tasks.c.variant,
            _tasks.c.status,
            _assets.c.path,
            _assets.c.sha256,
            _assets.c.bytes,
            _assets.c.width,
            _assets.c.height,
            _assets.c.simulated,
            _assets.c.created_ms,
            sa.case((_assets.c.reused_from.is_not(None), True), else_=False).label("reused"),
            sa.func.coalesce(tried.c.attempts, 0).label("attempts"),
            sa.func.coalesce(tried.c.cost_microusd, 0).label("cost_microusd"),
            sa.func.coalesce(tried.c.in_doubt_microusd, 0).label("in_doubt_microusd"),
            tried.c.input_tokens,
            tried.c.input_image_tokens,
            tried.c.output_tokens,
            (_edits.c.spec if knows_edits else sa.null()).label("spec"),
            composite.label("composite"),
            last.c.price_version,
            (last.c.batch_row if knows_batches else sa.null()).label("batch"),
            last.c.request_id,
            last.c.latency_ms,
            _tasks.c.error_code,
            _tasks.c.error_message,
        )
        .join(_prompts, _prompts.c.id == _tasks.c.prompt_row)
        .outerjoin(_assets, _assets.c.task_id == _tasks.c.id)
        .outerjoin(tried, tried.c.task_id == _tasks.c.id)
        .outerjoin(last, last.c.id == tried.c.last)
        .where(_tasks.c.job_id == job.id, _tasks.c.revision == job.revision)
        .order_by(_tasks.c.position)
    )
    if knows_edits:
        is_its = sa.and_(_renditions.c.task_id == _tasks.c.id, _renditions.c.kind == COMPOSITE)
        query = query.outerjoin(_edits, _edits.c.id == _tasks.c.edit_row).outerjoin(_renditions, is_its)
    sources: dict[str, tuple[Source, ...]] = {}
    with streamed(connection, query) as rows:
        for row in rows.mappings():
            found = dict(row)
            spec = found.pop("spec")
            edit = None if spec is None else edits.edit_of(spec)
            if edit is not None and spec not in sources:
                if len(sources) >= _MOST_KEPT:
                    sources.clear()
                sources |= {spec: edits.sources_of(connection, job.id, [edit])[edit]}
            found["sources"] = sources.get(spec, ())
            found["has_mask"] = edit is not None and edit.mask is not None
            yield found
