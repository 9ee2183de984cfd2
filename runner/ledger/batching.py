"""What may be done to batches and to the requests in them: one transaction each, and every move by compare-and-set.

Owns the life of a batch on record, and what each ending of one of its requests means there. Refuses to know what a
provider's answer looks like.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from runner.errors import LedgerError
from runner.ledger.attempts import add_asset, close, inserted, move, submit
from runner.ledger.claims import IsLive
from runner.ledger.queries import request_of, todos, with_request
from runner.ledger.tables import metadata
from runner.ledger.types import (
    Answer,
    Batch,
    Begin,
    Cost,
    File,
    Hindrance,
    Job,
    Member,
    NewBatch,
    Outcome,
    Todo,
    Told,
)
from runner.tasks import NOT_SENT, Event, Status

_jobs = metadata.tables["jobs"]
_tasks = metadata.tables["tasks"]
_attempts = metadata.tables["attempts"]
_batches = metadata.tables["batches"]

UNTRIED = (NOT_SENT, "batch_expired", "batch_cancelled", "batch_given_up")
"""Error codes of requests in a batch that nobody worked on: they say nothing about their task."""
_CAME_BACK = (
    _attempts.c.batch_row.is_not(None),
    _attempts.c.outcome.in_(["backoff", "refused", "gave_up", "lost"]),
    # What a person has ended is not to be made in another way, at twice the price.
    sa.func.coalesce(_attempts.c.error_code, "").not_in([NOT_SENT, "batch_cancelled"]),
)
"""A request that a batch was to answer, and has not answered with an image."""
_NOTHING = (None, None)
# As a literal, so that the index of what is open is used.
_IS_OPEN = _batches.c.state.not_in([sa.literal_column(f"'{state}'") for state in ("collected", "dissolved")])


# -- the life of a batch ----------------------------------------------------------------------------


def prepare(connection: sa.Connection, new: NewBatch, *, now_ms: int) -> int:
    """Begin a batch that has nothing in it yet; its number."""
    return inserted(
        connection.execute(
            sa.insert(_batches).values(
                job_id=new.job_id,
                run_id=new.run_id,
                provider=new.provider,
                base_url=new.base_url,
                simulated=new.simulated,
                token=new.token,
                endpoint=new.endpoint,
                model=new.model,
                state="preparing",
                requests=0,
                bytes=0,
                output_read=0,
                error_read=0,
                created_ms=now_ms,
            )
        )
    )


def add(
    connection: sa.Connection,
    number: int,
    new: NewBatch,
    tasks: Iterable[tuple[int, int]],
    *,
    now_ms: int,
    is_live: IsLive,
) -> list[int | Hindrance]:
    """Put an attempt on record (law 1) for each of these (task, micro-dollars reserved).

    In this order: the id of each, or why its task may not be asked for now.
    """
    return [
        submit(
            connection,
            Begin(
                task_id, new.run_id, new.job_id, new.model, new.simulated, reserved_microusd, new.price_version, now_ms
            ),
            batch_row=number,
            is_live=is_live,
        )
        for task_id, reserved_microusd in tasks
    ]


def go_on(connection: sa.Connection, number: int, from_states: Sequence[str], state: str, **values: Any) -> None:
    """Move a batch from one of these states to another, and write down what belongs to that.

    Raises:
        LedgerError: it is in none of them.
    """
    change = sa.update(_batches).where(_batches.c.id == number, _batches.c.state.in_(from_states))
    if connection.execute(change.values(state=state, **values)).rowcount != 1:
        found = connection.scalar(sa.select(_batches.c.state).where(_batches.c.id == number))
        raise LedgerError(f"batch {number} was to become {state}, and is {found}")


def note(connection: sa.Connection, number: int, **values: Any) -> None:
    """Write down something about a batch."""
    connection.execute(sa.update(_batches).where(_batches.c.id == number).values(**values))


def told(connection: sa.Connection, number: int, what: Told, *, now_ms: int) -> None:
    """What the provider says of a batch now."""
    note(
        connection,
        number,
        status=what.status,
        output_file_id=what.output_file_id,
        error_file_id=what.error_file_id,
        total=what.total,
        completed=what.completed,
        failed=what.failed,
        expires_ms=what.expires_ms,
        ended_ms=what.ended_ms,
        checked_ms=now_ms,
    )


# -- what is asked of them --------------------------------------------------------------------------


def todo(connection: sa.Connection, job: Job, after_position: int, limit: int, *, fallen: bool | None) -> list[Todo]:
    """The next planned tasks in the manifest's order: of those that came back from a batch without their image, only
    (`fallen`), none (False), or also (None)."""
    came_back = sa.exists().where(_attempts.c.task_id == _tasks.c.id, *_CAME_BACK)
    narrow = () if fallen is None else (came_back,) if fallen else (~came_back,)
    return todos(connection, job, after_position, limit, *narrow)


def count_fallen(connection: sa.Connection, job: Job) -> int:
    """How many planned tasks came back from a batch without their image."""
    planned = sa.select(_tasks.c.id).where(
        _tasks.c.job_id == job.id, _tasks.c.revision == job.revision, _tasks.c.status == Status.PLANNED
    )
    query = sa.select(sa.func.count(sa.distinct(_attempts.c.task_id))).where(
        *_CAME_BACK, _attempts.c.task_id.in_(planned)
    )
    return int(connection.execute(query).scalar_one())


def batches(connection: sa.Connection, job_id: int, *, only_open: bool, limit: int | None) -> list[Batch]:
    """Batches of a job, oldest first: the newest `limit` of them, or all."""
    query = sa.select(_batches).where(_batches.c.job_id == job_id)
    if only_open:
        query = query.where(_IS_OPEN)
    rows = connection.execute(query.order_by(_batches.c.id.desc()).limit(limit)).all()
    return [_batch(row) for row in reversed(rows)]


def batch(connection: sa.Connection, number: int) -> Batch:
    """One batch."""
    return _batch(connection.execute(sa.select(_batches).where(_batches.c.id == number)).one())


def open_jobs(connection: sa.Connection) -> list[str]:
    """The names of the jobs that have batches which are not collected."""
    query = sa.select(_jobs.c.name).where(_jobs.c.id.in_(sa.select(_batches.c.job_id).where(_IS_OPEN)))
    return sorted(connection.scalars(query))


def open_ids(connection: sa.Connection, number: int) -> list[int]:
    """The attempts of a batch whose answer is not known yet."""
    rows = connection.execute(
        sa.select(_attempts.c.id).where(_attempts.c.batch_row == number, _attempts.c.outcome.is_(None))
    )
    return [attempt_id for (attempt_id,) in rows]


def nth(connection: sa.Connection, number: int, line: int) -> int | None:
    """The attempt that stands in this line (from 1) of a batch's file."""
    if line < 1:
        return None
    query = sa.select(_attempts.c.id).where(_attempts.c.batch_row == number).order_by(_attempts.c.id)
    found = connection.scalar(query.offset(line - 1).limit(1))
    return None if found is None else int(found)


def members(connection: sa.Connection, attempt_ids: Sequence[int]) -> list[Member]:
    """These requests (at most CHUNK), as far as their answer is not known yet."""
    rows = connection.execute(
        with_request()
        .add_columns(
            _attempts.c.id.label("attempt_id"),
            _attempts.c.batch_row,
            _attempts.c.run_id,
            _attempts.c.model.label("asked_model"),
            _attempts.c.simulated,
            _attempts.c.reserved_microusd,
            _attempts.c.begun_ms,
            (_tasks.c.revision == _jobs.c.revision).label("wanted"),
        )
        .join(_attempts, _attempts.c.task_id == _tasks.c.id)
        .join(_jobs, _jobs.c.id == _tasks.c.job_id)
        .where(_attempts.c.id.in_(attempt_ids), _attempts.c.batch_row.is_not(None), _attempts.c.outcome.is_(None))
    )
    return [
        Member(
            attempt_id=row.attempt_id,
            task_id=row.id,
            batch=row.batch_row,
            run_id=row.run_id,
            key=row.key,
            name=row.name,
            prompt_id=row.prompt_id,
            wanted=bool(row.wanted),
            request=request_of(row),
            model=row.asked_model,
            simulated=row.simulated,
            reserved_microusd=row.reserved_microusd,
            begun_ms=row.begun_ms,
        )
        for row in rows
    ]


def tally(connection: sa.Connection, task_id: int) -> tuple[int, int]:
    """How often a task came back from a batch with an error: without a bill, and with one, or with a doubt."""
    bill = sa.or_(_attempts.c.cost_microusd.is_not(None), _attempts.c.doubt_microusd.is_not(None))
    unbilled, billed = connection.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(sa.case((bill, 0), else_=1)), 0),
            sa.func.coalesce(sa.func.sum(sa.case((bill, 1), else_=0)), 0),
        ).where(
            _attempts.c.task_id == task_id,
            _attempts.c.batch_row.is_not(None),
            _attempts.c.outcome.in_(["backoff", "gave_up", "lost"]),
            sa.func.coalesce(_attempts.c.error_code, "").not_in(UNTRIED),
        )
    ).one()
    return int(unbilled), int(billed)


def answered(connection: sa.Connection, number: int) -> int:
    """How many requests of a batch were answered with a success, whether an image came of it or not."""
    query = sa.select(sa.func.count()).where(
        _attempts.c.batch_row == number, _attempts.c.outcome.is_not(None), _attempts.c.http_status == 200
    )
    return int(connection.execute(query).scalar_one())


def reserved(connection: sa.Connection, number: int) -> int:
    """What the requests of a batch reserve whose answer is not known yet."""
    query = sa.select(sa.func.coalesce(sa.func.sum(_attempts.c.reserved_microusd), 0)).where(
        _attempts.c.batch_row == number, _attempts.c.outcome.is_(None)
    )
    return int(connection.execute(query).scalar_one())


def outcome(connection: sa.Connection, number: int) -> Outcome:
    """What has become of a batch's requests so far."""
    rows = connection.execute(
        sa.select(
            _attempts.c.outcome,
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(_attempts.c.cost_microusd), 0),
            sa.func.coalesce(sa.func.sum(_attempts.c.doubt_microusd), 0),
            sa.func.coalesce(sa.func.sum(sa.case((_attempts.c.error_code.in_(UNTRIED), 1), else_=0)), 0),
        )
        .where(_attempts.c.batch_row == number)
        .group_by(_attempts.c.outcome)
    ).all()
    counts = {name: count for name, count, *_ in rows}
    return Outcome(
        saved=counts.get("saved", 0),
        refused=counts.get("refused", 0),
        failed=counts.get("gave_up", 0),
        planned=counts.get("backoff", 0),
        in_doubt=counts.get("lost", 0),
        cost_microusd=sum(int(cost) for _, _, cost, _, _ in rows),
        in_doubt_microusd=sum(int(doubt) for _, _, _, doubt, _ in rows),
        untried=sum(int(untried) for *_, untried in rows),
    )


# -- how its requests end ---------------------------------------------------------------------------


def saved(
    connection: sa.Connection, member: Member, *, answer: Answer, cost: Cost, file: File, run_id: int, now_ms: int
) -> None:
    """The image of a line is durable under its own name: its task is done (law 2)."""
    move(connection, member.task_id, Status.SUBMITTED, Event.SAVED, told=_NOTHING)
    close(
        connection,
        member.attempt_id,
        answer,
        cost,
        outcome="saved",
        ended_ms=now_ms,
        collected_run=run_id,
        received_sha256=file.sha256,
        received_bytes=file.bytes,
        received_path=file.path,
    )
    add_asset(
        connection,
        task_id=member.task_id,
        attempt_id=member.attempt_id,
        reused_from=None,
        file=file,
        model=member.model,
        simulated=member.simulated,
        now_ms=now_ms,
    )


def unsaved(
    connection: sa.Connection,
    member: Member,
    event: Event,
    *,
    answer: Answer,
    cost: Cost | None,
    run_id: int,
    now_ms: int,
) -> None:
    """A line brought no image: `event` is EXPIRED, BACKOFF, REFUSED or GAVE_UP."""
    move(connection, member.task_id, Status.SUBMITTED, event, told=(answer.error_code, answer.error_message))
    ended = Event.BACKOFF if event is Event.EXPIRED else event
    close(
        connection,
        member.attempt_id,
        answer,
        cost,
        outcome=ended.value,
        ended_ms=now_ms,
        collected_run=run_id,
    )


def lost(
    connection: sa.Connection, member: Member, *, answer: Answer, try_again: bool, run_id: int, now_ms: int
) -> None:
    """A request may have been billed, and no image came of it: its reserved cost stays on record as in doubt."""
    move(connection, member.task_id, Status.SUBMITTED, Event.LOST, told=(answer.error_code, answer.error_message))
    close(
        connection, member.attempt_id, answer, None, doubt=True, outcome="lost", ended_ms=now_ms, collected_run=run_id
    )
    if try_again:
        move(connection, member.task_id, Status.IN_DOUBT, Event.RETRY)


def lose_some(connection: sa.Connection, number: int, limit: int, answer: Answer, *, now_ms: int) -> int:
    """Put requests of a batch that nobody can bring home in doubt; how many there were, at most `limit`."""
    found = _open(connection, number, limit)
    for attempt_id, task_id in found:
        move(connection, task_id, Status.SUBMITTED, Event.LOST, told=(answer.error_code, answer.error_message))
        close(connection, attempt_id, answer, None, doubt=True, outcome="lost", ended_ms=now_ms)
    return len(found)


def give_back(connection: sa.Connection, number: int, limit: int, answer: Answer, *, now_ms: int) -> int:
    """Let requests of a batch of which nothing was run be planned again; how many there were, at most `limit`."""
    given_back = Answer(error_code=NOT_SENT, error_message=answer.error_message)
    found = _open(connection, number, limit)
    for attempt_id, task_id in found:
        move(connection, task_id, Status.SUBMITTED, Event.EXPIRED, told=(answer.error_code, answer.error_message))
        close(connection, attempt_id, given_back, None, outcome="backoff", ended_ms=now_ms)
    return len(found)


def _open(connection: sa.Connection, number: int, limit: int) -> list[tuple[int, int]]:
    """Requests of a batch whose answer is not known yet: attempt and task."""
    rows = connection.execute(
        sa.select(_attempts.c.id, _attempts.c.task_id)
        .where(_attempts.c.batch_row == number, _attempts.c.outcome.is_(None))
        .limit(limit)
    )
    return [(row.id, row.task_id) for row in rows]


def _batch(row: sa.Row[Any]) -> Batch:
    return Batch(**row._mapping)
