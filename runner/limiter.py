"""The pace of one provider key, shared by every run on this machine.

Owns the small file in which the runs that use one key keep their common gates, and the order of reading, booking and
writing it under a lock. The arithmetic is `rules.pacing`; each run goes through two sets of gates: its own, with the
numbers of its manifest, and the key's, with the largest numbers that any run which is alive goes by. Refuses to stop a
run: where the file cannot be used, a run paces itself alone.
"""

from __future__ import annotations

import fcntl
import hashlib
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
from runner.rules.pacing import Gate, Heard, Pacer

ALIVE_S = 120.0
"""A run that has booked nothing for so long has no say in how fast the key is."""
FARTHEST_S = 3600.0
"""No booking lies so far ahead: an instant beyond it was written by another clock."""
KEPT_S = 86_400.0
"""The file of a key that nobody has used for so long is removed."""
PATIENCE_MS = 100
"""How long to wait for a lock that is held for microseconds: whoever holds it longer has been stopped."""
_LARGEST_BYTES = 65_536


def key_file(folder: Path, base_url: str, api_key: str) -> Path:
    """Where the runs that use this key with this server meet. The name does not tell the key."""
    digest = hashlib.sha256(f"{base_url}\n{api_key}".encode()).hexdigest()
    return folder / f"{digest[:32]}.json"


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

    def check(self, costs: Mapping[str, float]) -> None:
        """Raise InputError for an amount that a gate of this run can never hold."""
        self._own.check(costs)

    def earliest(self, now: float) -> float:
        """The first instant at which the next request may leave."""
        with self._common(write=False) as common:
            return max(self._own.earliest(now), common.earliest(now))

    def claim(self, at: float, now: float, costs: Mapping[str, float]) -> float | None:
        """Book one request with everyone if its instant has come by `now`; else the instant to wait for."""
        with self._common() as common:
            found = max(self._own.earliest(at), common.earliest(at))
            if found > now:
                return found
            self._own.book(found, costs)
            common.book(found, costs)
            return None

    def hold(self, now: float, wait_s: float) -> None:
        """No run of this key sends for `wait_s` seconds."""
        with self._common() as common:
            self._own.hold(now, wait_s)
            common.hold(now, wait_s)

    def slow_down(self, now: float, wait_s: float) -> None:
        """A 429 came: it concerns every run of this key."""
        with self._common() as common:
            self._own.slow_down(now, wait_s)
            common.slow_down(now, wait_s)

    def speed_up(self) -> None:
        """An image came back: recover a little of the pace."""
        with self._common() as common:
            self._own.speed_up()
            common.speed_up()

    def heed(self, now: float, name: str, heard: Heard) -> None:
        """Take over what the provider says of a gate."""
        with self._common() as common:
            self._own.heed(now, name, heard)
            common.heed(now, name, heard)

    @contextmanager
    def _common(self, *, write: bool = True) -> Iterator[Pacer]:
        """The key's gates, in this run's time, for a block that nobody else can come between."""
        descriptor = self._descriptor
        if descriptor is None or not _lock(descriptor):
            yield Pacer({})
            return
        try:
            now, wall = self._monotonic(), self._wall()
            state = _State.read(descriptor, wall=wall)
            state.runs.pop(self._run, None)
            common = state.pacer(self._rates(), now=now, wall=wall)
            yield common
            if write:
                state.runs[self._run] = _Run(wall, self._rates())
                state.take(common, now=now, wall=wall)
                state.write(descriptor)
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
    slowed_until: float = 0.0
    pace: float = 1.0
    runs: dict[str, _Run] = field(default_factory=dict)

    @classmethod
    def read(cls, descriptor: int, *, wall: float) -> _State:
        """The state as it is at `wall`. A file that makes no sense is taken for an empty one: it holds no facts."""
        try:
            # A run that died in its write has left the end of a longer text behind.
            found, _ = json.JSONDecoder().raw_decode(os.pread(descriptor, _LARGEST_BYTES, 0).decode() or "{}")
            runs = {
                str(name): _Run(float(run["at"]), {str(gate): _rate(rate) for gate, rate in run["rates"].items()})
                for name, run in found.get("runs", {}).items()
            }
            state = cls(
                debts={
                    str(gate): _Debt(min(_finite(debt["at"]), wall), max(0.0, _finite(debt["amount"])))
                    for gate, debt in found.get("debts", {}).items()
                },
                hold_until=_instant(found.get("hold_until", 0.0), wall),
                slowed_until=_instant(found.get("slowed_until", 0.0), wall),
                pace=min(1.0, _rate(found.get("pace", 1.0))),
                runs={name: run for name, run in runs.items() if abs(wall - run.at) <= ALIVE_S},
            )
        except (OSError, ValueError, OverflowError, TypeError, KeyError, AttributeError, RecursionError):
            return cls()
        if not state.runs:
            # Whoever was slowed down has long gone: the pace is found anew.
            state.pace = 1.0
        return state

    def pacer(self, own: Mapping[str, float], *, now: float, wall: float) -> Pacer:
        """The key's gates in the time of which `now` is this instant."""
        rates: dict[str, float] = dict(own)
        for run in self.runs.values():
            for name, rate in run.rates.items():
                rates[name] = max(rate, rates.get(name, 0.0))
        gates = {name: Gate(rate) for name, rate in rates.items()}
        for name, debt in self.debts.items():
            if name in gates:
                drains_s = debt.amount * 60.0 / (gates[name].per_minute * self.pace)
                gates[name].free_at = debt.at - wall + now + (drains_s if drains_s <= FARTHEST_S else 0.0)
        return Pacer(gates, self.hold_until - wall + now, self.pace, self.slowed_until - wall + now)

    def take(self, pacer: Pacer, *, now: float, wall: float) -> None:
        """Take over what was booked."""
        for name, gate in pacer.gates.items():
            left_s = max(0.0, gate.free_at - now)
            self.debts[name] = _Debt(min(gate.free_at, now) - now + wall, left_s * gate.per_minute * pacer.pace / 60.0)
        self.hold_until = pacer.hold_until - now + wall
        self.slowed_until = pacer.slowed_until - now + wall
        self.pace = pacer.pace

    def write(self, descriptor: int) -> None:
        """Write the state. A disk that refuses costs the sharing, not the run."""
        told: dict[str, Any] = {
            "debts": {name: {"at": debt.at, "amount": debt.amount} for name, debt in self.debts.items()},
            "hold_until": self.hold_until,
            "slowed_until": self.slowed_until,
            "pace": self.pace,
            "runs": {name: {"at": run.at, "rates": run.rates} for name, run in self.runs.items()},
        }
        text = json.dumps(told).encode()
        with suppress(OSError):
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))


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


def _instant(value: object, wall: float) -> float:
    at = _finite(value)
    return at if at <= wall + FARTHEST_S else 0.0


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
