"""What is on record of edits: what tasks start from, and where the inputs are found.

Owns the form in which an edit is kept. Refuses to open a picture: to it, recipes are text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import sqlalchemy as sa

from runner.ledger.bulk import Bulk
from runner.ledger.tables import metadata
from runner.ledger.types import Nonsense, Seen
from runner.planner import CHUNK, chunks
from runner.tasks import Edit, Input, Source, Task

_tasks = metadata.tables["tasks"]
_attempts = metadata.tables["attempts"]
_edits = metadata.tables["edits"]
_inputs = metadata.tables["inputs"]

_ADD_EDIT = Bulk("edits", ("digest", "spec", "composite"), conflict="(digest) DO NOTHING")
_ADD_INPUT = Bulk(
    "inputs", ("job_id", "identity", "recipe"), conflict="(job_id, identity) DO UPDATE SET recipe = excluded.recipe"
)

What = tuple[Edit, str | None]
"""An edit, and how its answers are pasted."""


def record(connection: sa.Connection, job_id: int, tasks: Iterable[Task]) -> Mapping[What, int]:
    """Put what these tasks start from on record, and where their inputs are; the row of each."""
    wanted: set[What] = set()
    sources: dict[str, str] = {}
    for task in tasks:
        edit = task.request.edit
        if edit is not None:
            wanted.add((edit, task.composite))
            sources.update((source.identity, source.recipe) for source in task.sources)
    if not wanted:
        return {}
    _ADD_INPUT(connection, [(job_id, identity, recipe) for identity, recipe in sorted(sources.items())])
    rows = {_digest(what): what for what in wanted}
    found: dict[What, int] = {}
    for page in chunks(sorted(rows), CHUNK):
        _ADD_EDIT(connection, [(digest, _spec(rows[digest][0]), rows[digest][1]) for digest in page])
        ids = connection.execute(sa.select(_edits.c.digest, _edits.c.id).where(_edits.c.digest.in_(page)))
        found.update((rows[digest], row_id) for digest, row_id in ids)
    return found


def has_inputs(connection: sa.Connection, job_id: int) -> bool:
    """Whether any task of a job starts, or once started, from an image."""
    return connection.execute(sa.select(_inputs.c.id).where(_inputs.c.job_id == job_id).limit(1)).first() is not None


def sources_of(connection: sa.Connection, job_id: int, edits: Iterable[Edit | None]) -> dict[Edit, tuple[Source, ...]]:
    """Where a job finds the images of each of these edits, and its mask after them.

    Raises:
        Nonsense: an input is not on record.
    """
    distinct = {edit for edit in edits if edit is not None}
    identities = {one.identity for edit in distinct for one in _inputs_of(edit)}
    recipes: dict[str, str] = {}
    for page in chunks(sorted(identities), CHUNK):
        rows = connection.execute(
            sa.select(_inputs.c.identity, _inputs.c.recipe).where(
                _inputs.c.job_id == job_id, _inputs.c.identity.in_(page)
            )
        )
        recipes.update((identity, recipe) for identity, recipe in rows)
    try:
        return {
            edit: tuple(Source(one.identity, recipes[one.identity]) for one in _inputs_of(edit)) for edit in distinct
        }
    except KeyError as error:
        raise Nonsense(f"nothing is on record of the input {error}") from None


@lru_cache(maxsize=1024)
def edit_of(spec: str) -> Edit:
    """The edit that a row describes.

    Raises:
        Nonsense: it describes none.
    """
    try:
        told = json.loads(spec)
        images = tuple(_input(one) for one in told["images"])
        mask = None if told["mask"] is None else _input(told["mask"])
        fidelity = told["fidelity"]
        if not images or not (fidelity is None or isinstance(fidelity, str)):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Nonsense(f"{spec[:80]!r} is no edit") from None
    return Edit(images, mask, fidelity)


def known(connection: sa.Connection) -> bool:
    """Whether this ledger knows edits: one of an older version is looked at as it is."""
    return sa.inspect(connection).has_table(_edits.name)


def seen(connection: sa.Connection, *, simulated: bool, limit: int) -> list[Seen]:
    """The newest edits whose answers have told what their inputs took."""
    if not known(connection):
        return []
    rows = connection.execute(
        sa.select(_attempts.c.model, _edits.c.spec, _attempts.c.input_image_tokens)
        .join(_tasks, _tasks.c.id == _attempts.c.task_id)
        .join(_edits, _edits.c.id == _tasks.c.edit_row)
        .where(_attempts.c.input_image_tokens > sa.literal_column("0"), _attempts.c.simulated.is_(simulated))
        .order_by(_attempts.c.id.desc())
        .limit(limit)
    )
    return [Seen(model, edit_of(spec), tokens) for model, spec, tokens in rows]


def _inputs_of(edit: Edit) -> Sequence[Input]:
    return edit.images if edit.mask is None else (*edit.images, edit.mask)


def _spec(edit: Edit) -> str:
    def told(one: Input) -> list[str | int]:
        return [one.identity, one.width, one.height]

    return json.dumps(
        {
            "images": [told(one) for one in edit.images],
            "mask": edit.mask and told(edit.mask),
            "fidelity": edit.fidelity,
        },
        separators=(",", ":"),
    )


def _digest(what: What) -> str:
    edit, composite = what
    return hashlib.sha256(json.dumps([_spec(edit), composite]).encode("utf-8", "surrogatepass")).hexdigest()


def _input(told: object) -> Input:
    match told:
        case [str(identity), int(width), int(height)] if len(identity) == 64 and width > 0 and height > 0:
            return Input(identity, width, height)
    raise ValueError
