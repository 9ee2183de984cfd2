"""What happens to one task: every statement that moves it, each inside a transaction that the caller holds.

Owns the compare-and-set (`move`) and the record of attempts and assets. The table in `tasks.py` says which moves exist;
a move that does not find its task in the expected status is an error, not a no-op. It is long because every way in
which an attempt begins and ends is here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa

from runner.errors import LedgerError
from runner.ledger import caps, claims
from runner.ledger.claims import IsLive
from runner.ledger.statements import Statement
from runner.ledger.tables import metadata
from runner.ledger.types import Answer, Begin, Cost, File, Hindrance, Orphan, Reusable
from runner.tasks import Event, Status, after

_tasks = metadata.tables["tasks"]
_attempts = metadata.tables["attempts"]
_assets = metadata.tables["assets"]


def _values(table: sa.Table, *names: str) -> dict[str, sa.BindParameter[Any]]:
    """Parameters for these columns, named `new_...`: SQLAlchemy keeps the columns' own names for itself."""
    return {name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in names}


_FROM_STATUS = sa.and_(_tasks.c.id == sa.bindparam("task_id"), _tasks.c.status == sa.bindparam("status"))
_MOVE = Statement(sa.update(_tasks).where(_FROM_STATUS).values(_values(_tasks, "status")))
_MOVE_TOLD = Statement(
    sa.update(_tasks).where(_FROM_STATUS).values(_values(_tasks, "status", "error_code", "error_message"))
)
_BEGIN = Statement(
    sa.insert(_attempts).values(
        _values(
            _attempts,
            "task_id",
            "run_id",
            "job_id",
            "model",
            "simulated",
            "reserved_microusd",
            "price_version",
            "begun_ms",
            "batch_row",
        )
    ),
    gives=_attempts.c.id,
)
_ADD_ASSET = Statement(
    sa.insert(_assets).values(_values(_assets, *(column.name for column in _assets.c if column.name != "id")))
)
_VACATE = Statement(
    sa.update(_assets)
    .where(_assets.c.path == sa.bindparam("taken"), _assets.c.id != sa.bindparam("but"))
    .values(path=_assets.c.path + sa.literal_column("'~missing-'", sa.Text) + sa.cast(_assets.c.id, sa.Text))
)
_NOTHING = (None, None)
_NOBODY = -1
"""No row has this id."""


def _everyone(_job: str) -> bool:
    return True


def move(
    connection: sa.Connection,
    task_id: int,
    status: Status,
    event: Event,
    *,
    told: tuple[str | None, str | None] | None = None,
) -> None:
    """Move a task by compare-and-set. `told` is the error's code and message from now on; None leaves what there is.

    Raises:
        LedgerError: the table has no such move, or the task is not in `status`.
    """
    to = after(status, event)
    if told is None:
        changed = _MOVE(connection, task_id=task_id, status=status.value, new_status=to.value)
    else:
        code, message = told
        changed = _MOVE_TOLD(
            connection,
            task_id=task_id,
            status=status.value,
            new_status=to.value,
            new_error_code=code,
            new_error_message=message,
        )
    if changed.rowcount != 1:
        found = connection.scalar(sa.select(_tasks.c.status).where(_tasks.c.id == task_id))
        raise LedgerError(f"task {task_id} was to go from {status} to {to}, and is {found}")


def begin(
    connection: sa.Connection, what: Begin, *, alone: bool = False, is_live: IsLive = _everyone
) -> int | Hindrance:
    """Put an attempt on record before its request leaves (law 1): its id, or why it may not be begun.

    With `alone`, what other jobs have made of this image is of no use; `is_live` tells whether a run holds a job.
    """
    return _begin(connection, what, Event.BEGIN, alone=alone, is_live=is_live, batch_row=None)


def submit(connection: sa.Connection, what: Begin, *, batch_row: int, is_live: IsLive = _everyone) -> int | Hindrance:
    """As `begin`, for a request that goes into this batch."""
    return _begin(connection, what, Event.SUBMIT, alone=False, is_live=is_live, batch_row=batch_row)


def _begin(
    connection: sa.Connection, what: Begin, event: Event, *, alone: bool, is_live: IsLive, batch_row: int | None
) -> int | Hindrance:
    found = claims.look(
        connection, task_id=what.task_id, job_id=what.job_id, run_id=what.run_id, alone=alone, is_live=is_live
    )
    if isinstance(found, Hindrance):
        return found
    if found.capped:
        connection.exec_driver_sql("SAVEPOINT unreserved")
    move(connection, what.task_id, Status.PLANNED, event)
    attempt_id = made(
        _BEGIN(
            connection,
            new_task_id=what.task_id,
            new_run_id=what.run_id,
            new_job_id=what.job_id,
            new_model=what.model,
            new_simulated=what.simulated,
            new_reserved_microusd=what.reserved_microusd,
            new_price_version=what.price_version,
            new_begun_ms=what.now_ms,
            new_batch_row=batch_row,
        )
    )
    amount, at_ms = what.reserved_microusd, what.now_ms
    # Last: all who spend wait for whoever has reserved, until its transaction is over.
    if found.capped and not caps.reserve(connection, amount, simulated=what.simulated, now_ms=at_ms):
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT unreserved")
        return Hindrance.CAPPED
    return attempt_id


def received(connection: sa.Connection, attempt_id: int, *, answer: Answer, cost: Cost, file: File) -> None:
    """The image is complete and durable under its temporary name; what it cost is known from here on."""
    close(connection, attempt_id, answer, cost, **_received(file))


def found(connection: sa.Connection, attempt_id: int, file: File) -> None:
    """The image of an attempt whose run died is whole under its temporary name; what it cost is known no better."""
    close(connection, attempt_id, None, None, **_received(file))


def saved(
    connection: sa.Connection,
    attempt_id: int,
    *,
    task_id: int,
    file: File,
    model: str,
    simulated: bool,
    now_ms: int,
) -> None:
    """The asset is durable under its own name: the task is done (law 2)."""
    move(connection, task_id, Status.RUNNING, Event.SAVED, told=_NOTHING)
    close(connection, attempt_id, None, None, outcome="saved", ended_ms=now_ms)
    add_asset(
        connection,
        task_id=task_id,
        attempt_id=attempt_id,
        reused_from=None,
        file=file,
        model=model,
        simulated=simulated,
        now_ms=now_ms,
    )


def unsaved(
    connection: sa.Connection,
    attempt_id: int,
    event: Event,
    *,
    task_id: int,
    answer: Answer,
    cost: Cost | None,
    now_ms: int,
) -> None:
    """The attempt ended without an image: `event` is BACKOFF, REFUSED or GAVE_UP."""
    move(
        connection,
        task_id,
        Status.RUNNING,
        event,
        told=(answer.error_code, answer.error_message),
    )
    close(connection, attempt_id, answer, cost, outcome=event.value, ended_ms=now_ms)


def lost(
    connection: sa.Connection,
    attempt_id: int,
    *,
    task_id: int,
    answer: Answer,
    try_again: bool,
    now_ms: int,
) -> None:
    """The attempt may have been billed: its reserved cost stays on record as in doubt.

    With `try_again` the task is free to be begun once more at once.
    """
    move(
        connection,
        task_id,
        Status.RUNNING,
        Event.LOST,
        told=(answer.error_code, answer.error_message),
    )
    close(
        connection,
        attempt_id,
        answer,
        None,
        doubt=True,
        outcome="lost",
        ended_ms=now_ms,
    )
    if try_again:
        move(connection, task_id, Status.IN_DOUBT, Event.RETRY)


def adopted(connection: sa.Connection, orphan: Orphan, file: File, *, now_ms: int) -> None:
    """The image of an attempt whose run died was found whole on disk: the task is done, and paid once.

    Where the answer's usage was not on record yet, the reserved cost stays in doubt.
    """
    move(connection, orphan.task_id, Status.RUNNING, Event.LOST)
    move(connection, orphan.task_id, Status.IN_DOUBT, Event.ADOPT, told=_NOTHING)
    close(connection, orphan.attempt_id, None, None, doubt=True, outcome="saved", ended_ms=now_ms)
    add_asset(
        connection,
        task_id=orphan.task_id,
        attempt_id=orphan.attempt_id,
        reused_from=None,
        file=file,
        model=orphan.model,
        simulated=orphan.simulated,
        now_ms=now_ms,
    )


def reused(connection: sa.Connection, item: Reusable, file: File, *, now_ms: int) -> None:
    """Another job has made this very image, and its bytes lie at `file` as well: done without a request."""
    move(connection, item.task_id, Status.PLANNED, Event.REUSE)
    add_asset(
        connection,
        task_id=item.task_id,
        attempt_id=None,
        reused_from=item.asset_id,
        file=file,
        model=item.model,
        simulated=item.simulated,
        now_ms=now_ms,
    )


def add_asset(
    connection: sa.Connection,
    *,
    task_id: int,
    attempt_id: int | None,
    reused_from: int | None,
    file: File,
    model: str,
    simulated: bool,
    now_ms: int,
) -> None:
    """Record the file of a task that is done in this very transaction."""
    _vacate(connection, file.path)
    _ADD_ASSET(
        connection,
        new_task_id=task_id,
        new_attempt_id=attempt_id,
        new_reused_from=reused_from,
        new_path=file.path,
        new_sha256=file.sha256,
        new_bytes=file.bytes,
        new_format=file.format,
        new_width=file.width,
        new_height=file.height,
        new_has_c2pa=file.has_c2pa,
        new_model=model,
        new_simulated=simulated,
        new_created_ms=now_ms,
    )


def gone(connection: sa.Connection, *, task_id: int, asset_id: int) -> None:
    """The file of an asset is lost: its task is planned again. What was paid for it stays on record.

    Raises:
        LedgerError: the task is not done, or that is not its asset.
    """
    move(connection, task_id, Status.DONE, Event.GONE)
    mine = sa.and_(_assets.c.id == asset_id, _assets.c.task_id == task_id)
    # Held, so that whoever takes it over at this moment is seen below, or finds it gone.
    query = sa.select(_assets.c.attempt_id, _assets.c.reused_from).where(mine).with_for_update()
    asset = connection.execute(query).first()
    if asset is None:
        raise LedgerError(f"asset {asset_id} is not that of task {task_id}")
    others = sa.and_(_assets.c.reused_from == asset_id, _assets.c.id != asset_id)
    oldest = connection.scalar(sa.select(sa.func.min(_assets.c.id)).where(others))
    if oldest is not None:
        # What was taken over from it stays taken over, and what that saved can still be told: from where it was taken
        # over itself, or else the oldest of them stands for it, with the attempt that paid.
        heir = asset.reused_from if asset.reused_from not in (None, asset_id) else oldest
        if heir == oldest:
            connection.execute(sa.update(_assets).where(_assets.c.id == heir).values(attempt_id=asset.attempt_id))
        connection.execute(sa.update(_assets).where(others).values(reused_from=heir))
    connection.execute(sa.delete(_assets).where(mine))


def asset_moved(connection: sa.Connection, asset_id: int, path: str) -> None:
    """An asset lies elsewhere now; its bytes are the same."""
    _vacate(connection, path, but=asset_id)
    connection.execute(sa.update(_assets).where(_assets.c.id == asset_id).values(path=path))


def asset_at(connection: sa.Connection, path: str) -> int | None:
    """The asset that is recorded at `path` (relative to the output folder)."""
    found = connection.scalar(sa.select(_assets.c.id).where(_assets.c.path == path))
    return None if found is None else int(found)


def asset_path(connection: sa.Connection, asset_id: int) -> str:
    """Where an asset lies, relative to the output folder."""
    return str(connection.execute(sa.select(_assets.c.path).where(_assets.c.id == asset_id)).scalar_one())


def _vacate(connection: sa.Connection, path: str, *, but: int | None = None) -> None:
    """Take a path from the asset that is still recorded there after its file was removed by hand.

    A path holds one file, and whoever calls has just put another there. Without this the new asset could never be
    recorded, in this run or in any later one, although it is paid for and lies on disk.
    """
    _VACATE(connection, taken=path, but=_NOBODY if but is None else but)


def _received(file: File) -> dict[str, Any]:
    return {"received_sha256": file.sha256, "received_bytes": file.bytes, "received_path": file.path}


def close(
    connection: sa.Connection,
    attempt_id: int,
    answer: Answer | None,
    cost: Cost | None,
    *,
    doubt: bool = False,
    **values: Any,
) -> None:
    """Write down what is known of an attempt that has not ended; with `doubt`, that it may have been billed.

    Raises:
        LedgerError: it has ended already.
    """
    if answer is not None:
        heard = {
            "request_id": answer.request_id,
            "http_status": answer.http_status,
            "latency_ms": answer.latency_ms,
        }
        # An answer that is on record as received is not unheard because its run has died.
        values.update({name: value for name, value in heard.items() if value is not None})
        values.update(error_code=answer.error_code, error_message=answer.error_message)
    if cost is not None:
        values.update(cost_microusd=cost.microusd, cost_basis=cost.basis, usage_json=cost.usage_json)
        if cost.usage is not None:
            values.update(
                input_tokens=cost.usage.input_tokens,
                input_text_tokens=cost.usage.input_text_tokens,
                input_image_tokens=cost.usage.input_image_tokens,
                output_tokens=cost.usage.output_tokens,
                total_tokens=cost.usage.total_tokens,
            )
    counted = caps.Counted(connection, attempt_id)
    changed = _closing(tuple(values), doubt)(
        connection, attempt_id=attempt_id, **{f"new_{name}": value for name, value in values.items()}
    )
    if changed.rowcount != 1:
        raise LedgerError(f"attempt {attempt_id} has ended already")
    counted.follow(connection)


@cache
def _closing(names: tuple[str, ...], doubt: bool) -> Statement:
    """There are few kinds of endings, and so few of these."""
    values: dict[str, Any] = dict(_values(_attempts, *names))
    if doubt:
        # What is known to have been billed is a cost; only the rest is a doubt.
        values["doubt_microusd"] = sa.case(
            (_attempts.c.cost_microusd.is_(None), _attempts.c.reserved_microusd), else_=sa.null()
        )
    return Statement(
        sa.update(_attempts)
        .where(_attempts.c.id == sa.bindparam("attempt_id"), _attempts.c.outcome.is_(None))
        .values(values)
    )


def made(result: sa.CursorResult[Any]) -> int:
    """The id that the database gave to the one row that a `Statement` has inserted (`gives`).

    By the driver's own word, as SQLite's has it; another database says it with RETURNING.
    """
    if result.returns_rows:
        return int(result.scalar_one())
    if result.lastrowid is None:
        raise LedgerError("the ledger gave no id for a new row")
    return int(result.lastrowid)


def inserted(result: sa.CursorResult[Any]) -> int:
    """The id that the database gave to a new row."""
    key = result.inserted_primary_key
    if key is None:
        raise LedgerError("the ledger gave no id for a new row")
    return int(key[0])
