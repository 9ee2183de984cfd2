"""The ledger's cap: what all of its jobs together may spend, on whatever host they run (law 4).

Owns the cap and the sums that are held against it. A sum is moved by one statement that also compares, in the same
transaction as the attempt that it is about, so that no two runs can both take what is left; and what a dead run leaves
is counted as it is put on record. Refuses to know why an attempt costs what it does.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

import sqlalchemy as sa

from runner.ledger.database import Database, once_more
from runner.ledger.statements import Statement
from runner.ledger.tables import metadata
from runner.ledger.types import Cap, CapPer, Committed
from runner.rules.budget import period_end, period_start

_attempts = metadata.tables["attempts"]
_caps = metadata.tables["caps"]
_periods = metadata.tables["cap_periods"]

FOR_EVER_MS: Final = 1 << 62
_CAP = sa.select(_caps.c.microusd).where(_caps.c.id == sa.literal_column("1")).scalar_subquery()
_COUNTS = sa.func.coalesce(
    _attempts.c.cost_microusd,
    _attempts.c.doubt_microusd,
    sa.case((_attempts.c.outcome.is_(None), _attempts.c.reserved_microusd), else_=sa.literal_column("0")),
)
"""What an attempt counts: what it was billed, or may have been, or what is reserved for it while it is under way."""
_IS_NOW = sa.and_(
    _periods.c.simulated == sa.bindparam("of_simulated", type_=sa.Boolean),
    _periods.c.start_ms <= sa.bindparam("at_ms", type_=sa.BigInteger),
    _periods.c.end_ms > sa.bindparam("at_ms", type_=sa.BigInteger),
)
_AMOUNT = sa.bindparam("amount", type_=sa.BigInteger)
_RESERVE = Statement(
    sa.update(_periods)
    .where(_IS_NOW, _periods.c.committed_microusd + _AMOUNT <= _CAP)
    .values(committed_microusd=_periods.c.committed_microusd + _AMOUNT)
)
_READ = {
    name: Statement(
        sa.select(
            _COUNTS.label("counted"),
            _attempts.c.simulated,
            _attempts.c.begun_ms,
            # To have looked for a cap keeps any from being set until this transaction is over.
            sa.exists(sa.select(_periods.c.id)).label("capped"),
        ).where(_attempts.c.id == sa.bindparam("of_attempt", type_=sa.BigInteger)),
        end=end,
    )
    for name, end in (("sqlite", ""), ("postgresql", " FOR UPDATE OF attempts"))
}
_RECOUNT = Statement(sa.select(_COUNTS).where(_attempts.c.id == sa.bindparam("of_attempt", type_=sa.BigInteger)))
_MOVE = Statement(sa.update(_periods).where(_IS_NOW).values(committed_microusd=_periods.c.committed_microusd + _AMOUNT))


class Caps:
    """Every method is one transaction. `known` False: this ledger is of an older version, and has none."""

    def __init__(self, database: Database, *, known: bool) -> None:
        self._database = database
        self._known = known

    @once_more
    def cap(self) -> Cap | None:
        """The cap of this ledger, if it has one."""
        if not self._known:
            return None
        with self._database.read() as connection:
            return _cap(connection)

    @once_more
    def committed(self, *, now_ms: int) -> list[Committed]:
        """What counts against the cap in the present period, real and simulated apart; nothing without a cap."""
        if not self._known:
            return []
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(_periods.c.simulated, _periods.c.start_ms, _periods.c.committed_microusd)
                .where(_periods.c.start_ms <= now_ms, _periods.c.end_ms > now_ms)
                .order_by(_periods.c.simulated)
            )
            return [Committed(bool(simulated), start_ms, microusd) for simulated, start_ms, microusd in rows]

    @once_more
    def set(self, cap: Cap | None, *, now_ms: int) -> None:
        """Let this be the cap from now on, for runs that are under way as well; what the period has cost counts."""
        with self._database.write() as connection:
            if connection.dialect.name == "postgresql":
                # Whoever begins or ends a request meanwhile comes here first, and waits until the sums are right.
                connection.execute(sa.text("LOCK TABLE cap_periods IN ACCESS EXCLUSIVE MODE"))
            connection.execute(sa.delete(_periods))
            connection.execute(sa.delete(_caps))
            if cap is None:
                return
            connection.execute(sa.insert(_caps).values(id=1, per=cap.per, microusd=cap.microusd, set_ms=now_ms))
            for simulated in (False, True):
                _begin_period(connection, cap.per, simulated=simulated, now_ms=now_ms)

    @once_more
    def differences(self) -> list[str]:
        """Where a sum is not that of the attempts: in words, for `verify`."""
        if not self._known:
            return []
        told = []
        with self._database.read() as connection:
            for row in connection.execute(sa.select(_periods)).all():
                found = _sum(connection, simulated=row.simulated, start_ms=row.start_ms, end_ms=row.end_ms)
                if found != row.committed_microusd:
                    told.append(
                        f"{row.committed_microusd} micro-dollars are counted against the ledger's cap since "
                        f"{row.start_ms} ms, and the requests come to {found}"
                    )
        return told


def reserve(connection: sa.Connection, amount_microusd: int, *, simulated: bool, now_ms: int) -> bool:
    """Count the worst case of a request whose attempt was just put on record; False if the cap could be passed."""
    for _ in range(2):
        if _RESERVE(connection, amount=amount_microusd, of_simulated=simulated, at_ms=now_ms).rowcount:
            return True
        cap = _cap(connection)
        if cap is None:
            return True
        if _has_period(connection, simulated=simulated, now_ms=now_ms):
            return False
        # The first request of a day or a month.
        _begin_period(connection, cap.per, simulated=simulated, now_ms=now_ms, without_microusd=amount_microusd)
    return False


class Counted:
    """What an attempt counts, read before it is changed, so that the sum follows it afterwards (`follow`).

    The sum is one row for all who spend, and is changed last: whoever changes it makes the others wait until its
    transaction is over.
    """

    __slots__ = ("_attempt_id", "_before")

    def __init__(self, connection: sa.Connection, attempt_id: int) -> None:
        self._attempt_id = attempt_id
        self._before = _READ[connection.dialect.name](connection, of_attempt=attempt_id).one_or_none()

    def follow(self, connection: sa.Connection) -> None:
        """Count the attempt as it is now."""
        before = self._before
        if before is None or not before.capped:
            return
        change = _RECOUNT(connection, of_attempt=self._attempt_id).scalar_one() - before.counted
        if change:
            _MOVE(connection, amount=change, of_simulated=bool(before.simulated), at_ms=before.begun_ms)


def _cap(connection: sa.Connection) -> Cap | None:
    row = connection.execute(sa.select(_caps.c.per, _caps.c.microusd)).first()
    return None if row is None else Cap(row.per, row.microusd)


def _has_period(connection: sa.Connection, *, simulated: bool, now_ms: int) -> bool:
    query = sa.select(_periods.c.id).where(_IS_NOW)
    return connection.execute(query, {"of_simulated": simulated, "at_ms": now_ms}).first() is not None


def _begin_period(
    connection: sa.Connection, per: CapPer, *, simulated: bool, now_ms: int, without_microusd: int = 0
) -> None:
    """Make the row of the period that this instant lies in; another run may have made it meanwhile.

    `without_microusd` is on record already, and counted next.
    """
    start_ms, end_ms = _bounds(per, now_ms)
    values = {
        "simulated": simulated,
        "start_ms": start_ms,
        "end_ms": end_ms,
        "committed_microusd": _sum(connection, simulated=simulated, start_ms=start_ms, end_ms=end_ms)
        - without_microusd,
    }
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        connection.execute(postgresql.insert(_periods).values(values).on_conflict_do_nothing())
    else:
        from sqlalchemy.dialects import sqlite

        connection.execute(sqlite.insert(_periods).values(values).on_conflict_do_nothing())


def _bounds(per: CapPer, now_ms: int) -> tuple[int, int]:
    if per == "ever":
        return 0, FOR_EVER_MS
    start = period_start(per, dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC))
    end = None if start is None else period_end(per, start)
    if start is None or end is None:
        raise AssertionError(per)
    return round(start.timestamp() * 1000), round(end.timestamp() * 1000)


def _sum(connection: sa.Connection, *, simulated: bool, start_ms: int, end_ms: int) -> int:
    found = connection.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(_COUNTS), 0)).where(
            _attempts.c.simulated == simulated, _attempts.c.begun_ms >= start_ms, _attempts.c.begun_ms < end_ms
        )
    )
    return int(found or 0)
