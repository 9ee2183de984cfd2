"""The gates of a provider key that all runs which share a ledger go through.

Owns how a place is booked by one statement, which reads nothing but the row that it changes, and how the rest (a hold,
a 429, a run that comes or goes) is read, worked out and written while that row is locked. The arithmetic is that of
`rules.pacing`; the claim's is the same in the database's words. Instants are seconds since 1970 by the database's
clock, the only one that all of its users share; a file has that of its machine. Nothing here has to survive: what a
crash of the server takes with it are a moment's bookings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from runner.ledger.database import Database
from runner.ledger.statements import Statement
from runner.ledger.tables import metadata
from runner.rules.pacing import HARDEST_FALL, HEADROOM, SLOWEST, Gate, Heard, Pacer, Reply, Says, Tempo

_paces = metadata.tables["paces"]
_runs = metadata.tables["paced_runs"]

ALIVE_S = 120.0
"""A run that was not heard of for so long has no say in how fast the key is."""
FARTHEST_S = 3600.0
"""No booking and no hold lies so far ahead: an instant beyond it was written by another clock."""
STEPPED_S = 1.0
"""A run that was seen so far in the future was seen before the clock was set back."""
NAMES = ("images", "requests", "tokens")
"""The gates that a ledger knows."""
_LONGEST = 1e9
"""Requests without a 429, beyond which they are no longer counted."""


class Gates:
    """What one run asks of the gates of one key. Every method is one transaction, and may be called in any thread.

    `key` is a digest that does not tell the key, `run` a name that no other run of this ledger has. Whoever says
    something of itself is alive. Every method raises LedgerError.
    """

    def __init__(self, database: Database, key: str, run: str) -> None:
        self._database = database
        self._key = key
        self._run = run

    def claim(self, at: float, until: float, costs: Mapping[str, float]) -> Reply | None:
        """The first instant from `at` on, booked if it is by `until`; None while nobody has joined with this key."""
        values = {name: costs.get(name, 0.0) for name in NAMES}
        with self._database.prompt() as connection:
            asked = _CLAIMS[connection.dialect.name]
            row = asked(connection, key=self._key, at=at, until=until, now=time.time(), **values).one_or_none()
        return None if row is None else Reply(row.place_at, row.place_at <= until, row.clock, row.lead_s)

    def join(self, says: Says) -> None:
        """This run is alive."""
        self._change(says, lambda pacer, clock: None)

    def hold(self, says: Says, wait_s: float) -> None:
        """No run of this key sends for `wait_s` seconds."""
        self._change(says, lambda pacer, clock: pacer.hold(clock, wait_s))

    def slow_down(self, says: Says, wait_s: float, left_at: float) -> None:
        """A 429 came for a request that had left at `left_at`: it concerns every run of this key."""
        self._change(says, lambda pacer, clock: pacer.slow_down(clock, wait_s, left_at))

    def heed(self, says: Says, name: str, heard: Heard) -> None:
        """The provider has said something of a gate that was news to this run."""
        self._change(says, lambda pacer, clock: pacer.heed(clock, name, heard))

    def _change(self, says: Says, change: Callable[[Pacer, float], None]) -> None:
        """Let `change` have the key's gates, and the clock, while nobody else has them."""
        with self._database.write() as connection:
            if self._database.is_shared:
                connection.exec_driver_sql(_AWAKE)
            row = connection.execute(_LOCK, {"of_key": self._key}).one_or_none()
            if row is None:
                _ADD(connection, of_key=self._key)
                row = connection.execute(_LOCK, {"of_key": self._key}).one()
            # Only now: the statement that waits for the row reads the clock before it waits.
            clock = _clock(connection)
            living, stepped_s = _living(connection, row.id, clock)
            others = [run for run in living if run.run != self._run]
            believed = _fastest(says.rates, others)
            lead_s = max([says.lead_s, *(run.lead_s for run in others)])
            pacer = _pacer(row, believed, is_new=not living, clock=clock, stepped_s=stepped_s)
            change(pacer, clock)
            rates = {name: says.rates.get(name) for name in NAMES}
            _SEE(connection, row=row.id, run=self._run, seen=clock, lead_s=says.lead_s, **rates)
            connection.execute(_SET, {"of_id": row.id, "lead_s": lead_s, **_values(pacer, believed)})


def _clock(connection: sa.Connection) -> float:
    return float(connection.execute(_NOW).scalar_one()) if connection.dialect.name == "postgresql" else time.time()


def _living(connection: sa.Connection, row: int, clock: float) -> tuple[list[sa.Row[Any]], float]:
    """The runs that were heard of lately, and by how much the clock was set back since; the others are forgotten."""
    mine = _runs.c.pace_row == row
    connection.execute(sa.delete(_runs).where(mine, _runs.c.seen_at < clock - ALIVE_S))
    living = list(connection.execute(sa.select(_runs).where(mine)))
    ahead_s = max((run.seen_at for run in living), default=clock) - clock
    if ahead_s <= STEPPED_S:
        return living, 0.0
    connection.execute(sa.update(_runs).where(mine, _runs.c.seen_at > clock).values(seen_at=clock))
    return living, ahead_s


def _fastest(rates: Mapping[str, float], others: list[sa.Row[Any]]) -> dict[str, float]:
    """What goes through each gate in a minute: who has asked for less than the key allows does not slow the others."""
    found = {name: rates[name] for name in NAMES if name in rates}
    for run in others:
        for name in NAMES:
            if (rate := getattr(run, name)) is not None:
                found[name] = max(rate, found.get(name, 0.0))
    return found


def _pacer(row: sa.Row[Any], believed: Mapping[str, float], *, is_new: bool, clock: float, stepped_s: float) -> Pacer:
    """The gates of a row at these rates. What one of them owes is an amount: it drains at the rate of now."""
    # Whoever was slowed down has long gone, where nobody is alive: the pace is found anew.
    tempo = Tempo() if is_new else Tempo(row.broke, row.fall, min(_LONGEST, row.passed), row.before)
    before = {name: rate for name in NAMES if (rate := getattr(row, name)) is not None}
    pace_before = Tempo(row.broke, row.fall, row.passed, row.before).pace(_slowest(before))
    hold_until = row.hold_until - stepped_s
    pacer = Pacer(
        {name: Gate(rate) for name, rate in believed.items()},
        hold_until if hold_until <= clock + FARTHEST_S else 0.0,
        tempo,
        min(clock, row.slowed_at - stepped_s),
    )
    pace = pacer.pace
    for name, gate in pacer.gates.items():
        free_at = getattr(row, f"{name}_at") - stepped_s
        left_s = max(0.0, free_at - clock)
        if name in before and left_s <= FARTHEST_S:
            gate.free_at = min(free_at, clock) + left_s * before[name] * pace_before / (gate.per_minute * pace)
    return pacer


def _values(pacer: Pacer, believed: Mapping[str, float]) -> dict[str, float | None]:
    """A row: what `change` made of the gates, at what the living believe."""
    tempo = pacer.tempo
    recovery, whole = tempo.curve(_slowest(believed))
    values: dict[str, float | None] = {name: believed.get(name) for name in NAMES}
    for name in NAMES:
        values[f"{name}_at"] = pacer.gates[name].free_at if name in believed else 0.0
    return values | {
        "hold_until": pacer.hold_until,
        "slowed_at": pacer.slowed_at,
        "broke": tempo.broke,
        "fall": tempo.fall,
        "passed": tempo.passed,
        "before": tempo.before,
        "recovery": recovery,
        "whole": whole,
    }


def _slowest(rates: Mapping[str, float]) -> float:
    """The rate that a tempo's curve goes by: that of `Pacer.per_minute`."""
    return Pacer({name: Gate(rate) for name, rate in rates.items()}).per_minute or 60.0


def _add() -> Statement:
    """A key's row at its beginning, where it has none."""
    numbers = {name: value for name, value in _values(Pacer(), {}).items() if value is not None} | {
        "slowed_at": 0.0,
        "lead_s": 0.0,
    }
    names, values = ", ".join(numbers), ", ".join(f"{value!r}" for value in numbers.values())
    text = f"INSERT INTO paces (key, {names}) VALUES (:of_key, {values}) ON CONFLICT DO NOTHING"  # noqa: S608  # ours
    return Statement(sa.text(text))


def _claim(most: str, least: str, clock: str) -> Statement:
    """The claim, in a database's words for the most and the least of several, and for its clock.

    All of it is said of the row that it changes: whoever has waited for that row works with what the one before has
    left. A refusal changes nothing but `place_at`, which is the answer.
    """
    found = f"{most}(:at, hold_until, images_at, requests_at, tokens_at)"
    curve = "((passed - whole) / recovery)"
    pace = f"{least}(1.0, {most}({SLOWEST}, broke * (1.0 + {HARDEST_FALL} * {curve} * {curve} * {curve})))"
    books = [
        f"{name}_at = CASE WHEN {found} > :until OR {name} IS NULL OR :{name} <= 0 THEN {name}_at"
        f" ELSE {found} + :{name} * {1.0 + HEADROOM} * 60.0 / ({name} * {pace}) END"
        for name in NAMES
    ]
    passed = f"passed = CASE WHEN {found} > :until THEN passed ELSE passed + 1.0 END"
    return Statement(
        sa.text(
            f"UPDATE paces SET place_at = {found}, {', '.join(books)}, {passed}"  # noqa: S608  # ours
            f" WHERE key = :key RETURNING place_at, lead_s, {clock} AS clock"
        )
    )


_CLAIMS = {
    "sqlite": _claim("max", "min", ":now"),
    "postgresql": _claim("greatest", "least", "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"),
}
_AWAKE = "SET LOCAL idle_in_transaction_session_timeout = '5s'"
"""A host that falls asleep with the row in its hand does not stop all the others."""
_NOW = sa.text("SELECT extract(epoch FROM clock_timestamp())")
_ADD = _add()
_LOCK = sa.select(_paces).where(_paces.c.key == sa.bindparam("of_key")).with_for_update()
_SEE = Statement(
    sa.text(
        "INSERT INTO paced_runs (pace_row, run, images, requests, tokens, lead_s, seen_at)"
        " VALUES (:row, :run, :images, :requests, :tokens, :lead_s, :seen)"
        " ON CONFLICT (pace_row, run) DO UPDATE SET images = excluded.images, requests = excluded.requests,"
        " tokens = excluded.tokens, lead_s = excluded.lead_s, seen_at = excluded.seen_at"
    )
)
_SET = sa.update(_paces).where(_paces.c.id == sa.bindparam("of_id"))
