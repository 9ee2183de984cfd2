"""What was derived from assets, and can be made again for nothing: composites, thumbnails, renditions of a manifest.

Owns what is lacking and what is on record. To it, recipes are text: what they make is known to whoever makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from runner.ledger.bulk import Bulk
from runner.ledger.database import Database, once_more
from runner.ledger.statements import aside
from runner.ledger.tables import metadata
from runner.ledger.types import Job, Lacking, Rendition, Wanting
from runner.planner import CHUNK, chunks
from runner.tasks import Status

_tasks = metadata.tables["tasks"]
_assets = metadata.tables["assets"]
_edits = metadata.tables["edits"]
_renditions = metadata.tables["renditions"]

_FACTS = ("recipe", "asset_sha256", "task_name", "path", "sha256", "bytes", "created_ms")
_ADD = Bulk(
    "renditions",
    ("task_id", "kind", *_FACTS),
    # Where another host has put its own on record since that was removed.
    conflict=f"(task_id, kind) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _FACTS)}",
)

COMPOSITE = "composite"
"""The kind of rendition that pastes an answer onto its original."""
THUMBNAIL = "thumbnail"
"""The kind that the gallery shows."""


class Renditions:
    """Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @once_more
    def newest_asset(self) -> int:
        """The newest asset of any job; 0 without one."""
        with self._database.read() as connection:
            return int(connection.scalar(sa.select(sa.func.max(_assets.c.id))) or 0)

    @once_more
    def composites_wanted(self, job: Job, after_asset: int, limit: int) -> list[Wanting]:
        """Done tasks that lack their composite, by asset, from after `after_asset`: what is made later comes later."""
        with self._database.read() as connection:
            return _composites_wanted(connection, job, after_asset, limit)

    @once_more
    def lacking(self, job: Job, kinds: Mapping[str, str], after_asset: int, limit: int) -> list[Lacking]:
        """Done tasks that lack any of these kinds (with the digest of its recipe), as `composites_wanted`."""
        with self._database.read() as connection:
            return _lacking(connection, job, kinds, after_asset, limit)

    @once_more
    def made(self, renditions: Sequence[Rendition], *, now_ms: int) -> None:
        """These files lie at their paths; they take the place of those of the same kind."""
        if not renditions:
            return
        with self._database.write() as connection:
            for one in sorted(renditions, key=lambda one: (one.task_id, one.kind)):
                mine = sa.and_(_renditions.c.task_id == one.task_id, _renditions.c.kind == one.kind)
                connection.execute(sa.delete(_renditions).where(mine))
            _ADD(
                connection,
                [
                    (
                        one.task_id,
                        one.kind,
                        one.recipe,
                        one.asset_sha256,
                        one.task_name,
                        one.path,
                        one.sha256,
                        one.bytes,
                        now_ms,
                    )
                    for one in renditions
                ],
            )

    def all(self, job: Job) -> Iterator[list[tuple[int, str, int]]]:
        """(id, path, bytes) of every file that was derived for a job, in pages."""
        last = 0
        while True:
            with self._database.read() as connection:
                rows = connection.execute(
                    sa.select(_renditions.c.id, _renditions.c.path, _renditions.c.bytes)
                    .join(_tasks, _tasks.c.id == _renditions.c.task_id)
                    .where(_renditions.c.id > last, aside(_tasks.c.job_id) == job.id)
                    .order_by(_renditions.c.id)
                    .limit(CHUNK)
                )
                page = [(row.id, row.path, row.bytes) for row in rows]
            if not page:
                return
            last = page[-1][0]
            yield page

    @once_more
    def forget(self, rendition_ids: Sequence[int]) -> None:
        """These files are not there any more: they are wanted again."""
        with self._database.write() as connection:
            for page in chunks(rendition_ids, CHUNK):
                connection.execute(sa.delete(_renditions).where(_renditions.c.id.in_(page)))

    @once_more
    def owners(self, paths: Sequence[str]) -> dict[str, set[tuple[int, str]]]:
        """The tasks, and the kinds, whose rendition is on record at one of these paths and named as they are."""
        found: dict[str, set[tuple[int, str]]] = {}
        with self._database.read() as connection:
            for page in chunks(paths, CHUNK):
                rows = connection.execute(
                    sa.select(_renditions.c.path, _renditions.c.task_id, _renditions.c.kind)
                    .join(_tasks, _tasks.c.id == _renditions.c.task_id)
                    .where(_renditions.c.path.in_(page), _renditions.c.task_name == _tasks.c.name)
                )
                for path, task_id, kind in rows:
                    found.setdefault(path, set()).add((task_id, kind))
        return found

    @once_more
    def count_lacking(self, job: Job, kinds: Mapping[str, str]) -> int:
        """How many done tasks lack any of these kinds."""
        if not kinds:
            return 0
        with self._database.read() as connection:
            query = sa.select(sa.func.count()).select_from(_assets).join(_tasks, _tasks.c.id == _assets.c.task_id)
            return int(connection.scalar(query.where(*_done_after(job, 0), _lacks(kinds))) or 0)


def _composites_wanted(connection: sa.Connection, job: Job, after_asset: int, limit: int) -> list[Wanting]:
    has = sa.and_(_renditions.c.task_id == _tasks.c.id, _renditions.c.kind == COMPOSITE)
    is_old = sa.or_(
        _renditions.c.id.is_(None),
        _renditions.c.recipe != _edits.c.digest,
        _renditions.c.asset_sha256 != _assets.c.sha256,
        _renditions.c.task_name != _tasks.c.name,
    )
    rows = connection.execute(
        sa.select(
            _assets.c.id,
            _assets.c.task_id,
            _tasks.c.name,
            _assets.c.path,
            _assets.c.sha256,
            _edits.c.digest,
            _edits.c.composite,
            _renditions.c.path.label("old_path"),
        )
        .join(_tasks, _tasks.c.id == _assets.c.task_id)
        .join(_edits, _edits.c.id == _tasks.c.edit_row)
        .outerjoin(_renditions, has)
        .where(*_done_after(job, after_asset), _edits.c.composite.is_not(None), is_old)
        .order_by(_assets.c.id)
        .limit(limit)
    )
    return [Wanting(*row) for row in rows]


def _lacking(
    connection: sa.Connection, job: Job, kinds: Mapping[str, str], after_asset: int, limit: int
) -> list[Lacking]:
    if not kinds:
        return []
    rows = connection.execute(
        sa.select(_assets.c.id, _assets.c.task_id, _tasks.c.name, _assets.c.path, _assets.c.sha256)
        .join(_tasks, _tasks.c.id == _assets.c.task_id)
        .where(*_done_after(job, after_asset), _lacks(kinds))
        .order_by(_assets.c.id)
        .limit(limit)
    ).all()
    there: dict[int, list[Any]] = {}
    for row in connection.execute(
        sa.select(
            _renditions.c.task_id,
            _renditions.c.kind,
            _renditions.c.recipe,
            _renditions.c.asset_sha256,
            _renditions.c.task_name,
            _renditions.c.path,
        ).where(_renditions.c.task_id.in_([row.task_id for row in rows]), _renditions.c.kind.in_(list(kinds)))
    ):
        there.setdefault(row.task_id, []).append(row)
    found = []
    for asset_id, task_id, name, path, sha256 in rows:
        mine = there.get(task_id, [])
        good = {
            row.kind for row in mine if (row.recipe, row.asset_sha256, row.task_name) == (kinds[row.kind], sha256, name)
        }
        lacking = tuple(kind for kind in kinds if kind not in good)
        old = {row.kind: row.path for row in mine if row.kind not in good}
        found.append(Lacking(asset_id, task_id, name, path, sha256, lacking, old))
    return found


def _lacks(kinds: Mapping[str, str]) -> sa.ColumnElement[bool]:
    """Whether any of these kinds is not there, or not made as it would be now."""
    wanted = [sa.and_(_renditions.c.kind == kind, _renditions.c.recipe == recipe) for kind, recipe in kinds.items()]
    there = (
        sa.select(sa.func.count())
        .where(
            _renditions.c.task_id == _tasks.c.id,
            _renditions.c.asset_sha256 == _assets.c.sha256,
            _renditions.c.task_name == _tasks.c.name,
            sa.or_(*wanted),
        )
        .correlate(_tasks, _assets)
        .scalar_subquery()
    )
    return there < len(kinds)


def _done_after(job: Job, after_asset: int) -> Sequence[sa.ColumnElement[bool]]:
    """The job's wanted and done tasks, by assets, so that a large ledger is read from where it was left."""
    return (
        _assets.c.id > after_asset,
        aside(_tasks.c.job_id) == job.id,
        _tasks.c.revision == job.revision,
        _tasks.c.status == Status.DONE,
    )
