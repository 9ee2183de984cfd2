"""The pace of one provider key among the runs of one machine: a small file, and its lock.

Owns the small file in which the runs that use one key keep their common gates, and the order of reading, booking and
writing it under a lock. The arithmetic is `rules.pacing`; each run goes through two sets of gates: its own, with the
numbers of its manifest, and the key's, with the largest numbers that any run which is alive goes by. Refuses to stop a
run: where the file cannot be used, a run paces itself alone.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner import locks
from runner.rules.pacing import TRUSTED, Claimed, Gate, Heard, Pacer, Tempo

ALIVE_S = 120.0
"""A run that has booked nothing for so long has no say in how fast the key is."""
FARTHEST_S = 3600.0
"""No booking lies so far ahead: an instant beyond it was written by another clock."""
KEPT_S = 86_400.0
"""The file of a key that nobody has used for so long is removed."""
PATIENCE_MS = 100
"""How long to wait for a lock that is held for microseconds: whoever holds it longer has been stopped."""
_LARGEST_BYTES = 65_536
_LONGEST = 1e9
"""Requests without a 429, beyond which they are no longer counted."""


def key_file(folder: Path, digest: str) -> Path:
    """Where the runs that use the key of this digest meet."""
    return folder / f"{digest}.json"


def default_folder() -> Path | None:
    """Where the files of all keys lie: in the user's state folder (XDG Base Directory); None if there is none."""
    told = os.environ.get("XDG_STATE_HOME", "")
    if told.startswith("/"):
        return Path(told) / "runner" / "pacing"
    try:
        return Path.home() / ".local" / "state" / "runner" / "pacing"
    except RuntimeError:
        return None


class SharedPacer:
    """A `rules.pacing.Pace` whose gates are also those of every other run with the same key.

    `wall` is the clock that all processes share, `monotonic` the one by which instants are given here; both in seconds.
    """

    def __init__(
        self,
        own: Pacer,
        path: Path,
        *,
        run: str,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._run = run
        self._wall = wall
        self._monotonic = monotonic
        self._descriptor: int | None = None
        self._written: tuple[bytes, _State] = b"", _State()
        """What this run wrote last: while nobody else has written, it need not be read again."""
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _forget_old(path, before=wall() - KEPT_S)
            self._descriptor = locks.open_file(path)

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def is_shared(self) -> bool:
        """Whether other runs are heeded; False where there is no place for the file."""
        return self._descriptor is not None

    @property
    def lead_s(self) -> float:
        """How long before its instant a place is to be claimed, at most."""
        return self._own.lead_s

    @property
    def per_minute(self) -> float | None:
        """Requests a minute that this run may send at most."""
        return self._own.per_minute

    def check(self, costs: Mapping[str, float]) -> None:
        """Raise InputError for an amount that a gate of this run can never hold."""
        self._own.check(costs)

    def claim(self, at: float, until: float, costs: Mapping[str, float]) -> Claimed:
        """The first instant from `at` on, and whether it is booked with everyone: if it is by `until`."""
        own = self._own.earliest(at)
        if own > until:
            return own, False
        with self._common() as common:
            found = max(own, common.earliest(at))
            if found > until:
                return found, False
            self._own.book(found, costs)
            common.book(found, costs)
            return found, True

    def void(self, at: float, now: float) -> bool:
        """Whether nobody of this run may leave now. What holds the others is heard with the next claim."""
        return self._own.void(at, now)

    def recorded(self, took_s: float) -> None:
        """Note how long it took to put a request on record."""
        self._own.recorded(took_s)

    def depart(self, at: float, now: float, costs: Mapping[str, float]) -> float:
        """Note that a request of this run that was booked for `at` leaves `now`; a later instant, if it has to wait."""
        return self._own.depart(at, now, costs)

    def hold(self, now: float, wait_s: float) -> None:
        """No run of this key sends for `wait_s` seconds."""
        with self._common() as common:
            self._own.hold(now, wait_s)
            common.hold(now, wait_s)

    def slow_down(self, now: float, wait_s: float, left_at: float) -> None:
        """A 429 came: it concerns every run of this key."""
        with self._common() as common:
            self._own.slow_down(now, wait_s, left_at)
            common.slow_down(now, wait_s, left_at)

    def heed(self, now: float, name: str, heard: Heard) -> None:
        """Take over what the provider says of a gate; what is no news to this run is none to the others."""
        before = self._own.hold_until, self._rates()
        self._own.heed(now, name, heard)
        if before != (self._own.hold_until, self._rates()):
            with self._common() as common:
                common.heed(now, name, heard)

    @contextmanager
    def _common(self) -> Iterator[Pacer]:
        """The key's gates, in this run's time, for a block that nobody else can come between."""
        descriptor = self._descriptor
        if descriptor is None or not _lock(descriptor):
            yield Pacer()
            return
        try:
            now, wall = self._monotonic(), self._wall()
            text = _contents(descriptor)
            state = self._written[1] if text == self._written[0] else _State.parse(text)
            state.settle(wall)
            rates = self._rates()
            common = state.pacer(self._run, rates, now=now, wall=wall)
            yield common
            state.runs[self._run] = _Run(wall, rates)
            state.take(common, now=now, wall=wall)
            self._written = _replace(descriptor, text, state.text()), state
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _rates(self) -> dict[str, float]:
        return {name: gate.per_minute for name, gate in self._own.gates.items()}


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that uses the key: when it last booked (wall seconds), and what it believes of each gate, per minute."""

    at: float
    rates: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Debt:
    """What a gate had yet to drain at an instant. As an amount, not a time: it drains at the rate of the runs to come.

    One that has drained keeps the instant at which it had, so that no rate is lost to a late loop.
    """

    at: float
    amount: float


@dataclass(slots=True)
class _State:
    """What the file says. Instants are wall seconds."""

    debts: dict[str, _Debt] = field(default_factory=dict)
    hold_until: float = 0.0
    slowed_at: float = 0.0
    tempo: Tempo = field(default_factory=Tempo)
    runs: dict[str, _Run] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: bytes) -> _State:
        """The state of a file. One that makes no sense is taken for an empty one: it holds no facts."""
        try:
            # A run that died in its write has left the end of a longer text behind.
            found, _ = json.JSONDecoder().raw_decode(text.decode() or "{}")
            runs = {
                str(name): _Run(float(run["at"]), {str(gate): _rate(rate) for gate, rate in run["rates"].items()})
                for name, run in found.get("runs", {}).items()
            }
            tempo = found.get("tempo", {})
            return cls(
                debts={
                    str(gate): _Debt(_finite(debt["at"]), max(0.0, _finite(debt["amount"])))
                    for gate, debt in found.get("debts", {}).items()
                },
                hold_until=_finite(found.get("hold_until", 0.0)),
                slowed_at=_finite(found.get("slowed_at", 0.0)),
                tempo=Tempo(
                    min(1.0, _rate(tempo.get("broke", 1.0))),
                    min(1.0, max(0.0, _finite(tempo.get("fall", 0.0)))),
                    min(_LONGEST, max(0.0, _finite(tempo.get("passed", TRUSTED)))),
                    min(_LONGEST, max(1.0, _finite(tempo.get("before", TRUSTED)))),
                ),
                runs=runs,
            )
        except (ValueError, OverflowError, TypeError, KeyError, AttributeError, RecursionError):
            return cls()

    def settle(self, wall: float) -> None:
        """Bring the state to `wall`: runs that have gone are forgotten, and instants that no clock has."""
        self.runs = {name: run for name, run in self.runs.items() if abs(wall - run.at) <= ALIVE_S}
        if not self.runs:
            # Whoever was slowed down has long gone: the pace is found anew.
            self.tempo = Tempo()
        for name, debt in self.debts.items():
            if debt.at > wall:
                self.debts[name] = _Debt(wall, debt.amount)
        if self.hold_until > wall + FARTHEST_S:
            self.hold_until = 0.0
        self.slowed_at = min(self.slowed_at, wall)

    def pacer(self, run: str, own: Mapping[str, float], *, now: float, wall: float) -> Pacer:
        """The key's gates in the time of which `now` is this instant; `own` is what this run believes by now."""
        rates: dict[str, float] = dict(own)
        for other, theirs in self.runs.items():
            if other != run:
                for name, rate in theirs.rates.items():
                    rates[name] = max(rate, rates.get(name, 0.0))
        gates = {name: Gate(rate) for name, rate in rates.items()}
        shift = now - wall
        pacer = Pacer(gates, self.hold_until + shift, self.tempo, self.slowed_at + shift)
        pace = pacer.pace
        for name, debt in self.debts.items():
            if name in gates:
                drains_s = debt.amount * 60.0 / (gates[name].per_minute * pace)
                gates[name].free_at = debt.at + shift + (drains_s if drains_s <= FARTHEST_S else 0.0)
        return pacer

    def take(self, pacer: Pacer, *, now: float, wall: float) -> None:
        """Take over what was booked."""
        shift, pace = wall - now, pacer.pace
        for name, gate in pacer.gates.items():
            left_s = max(0.0, gate.free_at - now)
            self.debts[name] = _Debt(min(gate.free_at, now) + shift, left_s * gate.per_minute * pace / 60.0)
        self.hold_until = pacer.hold_until + shift
        self.slowed_at = pacer.slowed_at + shift
        self.tempo = pacer.tempo

    def text(self) -> bytes:
        """The file's contents."""
        told: dict[str, Any] = {
            "debts": {name: {"at": debt.at, "amount": debt.amount} for name, debt in self.debts.items()},
            "hold_until": self.hold_until,
            "slowed_at": self.slowed_at,
            "tempo": {name: getattr(self.tempo, name) for name in ("broke", "fall", "passed", "before")},
            "runs": {name: {"at": run.at, "rates": run.rates} for name, run in self.runs.items()},
        }
        return json.dumps(told).encode()


def _contents(descriptor: int) -> bytes:
    with suppress(OSError):
        return os.pread(descriptor, _LARGEST_BYTES, 0)
    return b""


def _replace(descriptor: int, before: bytes, text: bytes) -> bytes:
    """Write a new text, and return it. A disk that refuses costs the sharing, not the run."""
    with suppress(OSError):
        os.pwrite(descriptor, text, 0)
        if len(text) < len(before):
            os.ftruncate(descriptor, len(text))
    return text


def _lock(descriptor: int) -> bool:
    for _ in range(PATIENCE_MS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            return False
        else:
            return True
    return False


def _finite(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]  # what is no number raises what the caller expects
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _rate(value: object) -> float:
    rate = _finite(value)
    if rate <= 0:
        raise ValueError("a rate is above zero")
    return rate


def _forget_old(path: Path, *, before: float) -> None:
    for other in path.parent.glob("*.json"):
        with suppress(OSError):
            if other != path and other.stat().st_mtime < before:
                other.unlink()
