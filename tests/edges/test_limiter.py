"""What runs with one key must hold together: no more than the key allows, whoever of them sends, dies or lies."""

from __future__ import annotations

import fcntl
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import limiter
from runner.limiter import SharedPacer
from runner.rules.pacing import HEADROOM, LEAST_FALL, Gate, Heard, Pacer

COST = {"images": 1.0, "requests": 1.0}


class Clock:
    """A wall clock and the event loops' clocks, which began at other moments."""

    def __init__(self) -> None:
        self.wall_s = 1_800_000_000.0

    def wall(self) -> float:
        return self.wall_s

    def loop(self, began_s: float) -> Callable[[], float]:
        return lambda: self.wall_s - 1_800_000_000.0 + began_s


class Run:
    """One process' view of the key."""

    def __init__(self, clock: Clock, path: Path, name: str, per_minute: float, began_s: float = 0.0) -> None:
        self.now = clock.loop(began_s)
        self.own = Pacer({"images": Gate(per_minute)})
        self.pacer = SharedPacer(self.own, path, run=name, wall=clock.wall, monotonic=self.now)
        assert self.pacer.is_shared
        self.at: float | None = None

    def send(self) -> bool:
        """Whether a request may leave at this very moment; it is booked if so, as the pool does it."""
        now = self.now()
        at, booked = self.pacer.claim(now if self.at is None else self.at, now, COST)
        self.at = None if booked else at
        return booked


def earliest(pacer: SharedPacer, now: float) -> float:
    """The first instant at which the next request may leave; nothing is booked."""
    with pacer._common() as common:
        return max(pacer._own.earliest(now), common.earliest(now))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pacing" / "key.json"


def test_two_runs_together_keep_the_keys_limit(path: Path) -> None:
    """Each believes in 60 a minute; in any minute, both together send no more than one more than that."""
    clock = Clock()
    runs = [Run(clock, path, "a", 60.0), Run(clock, path, "b", 60.0, began_s=5000.0)]
    dice = random.Random(7)
    sent: list[tuple[float, int]] = []
    while clock.wall_s < 1_800_000_300.0:
        which = dice.randrange(2)
        if runs[which].send():
            sent.append((clock.wall_s, which))
        clock.wall_s += 0.05
    for at, _ in sent:
        assert sum(at <= other < at + 60 for other, _ in sent) <= 61
    assert len(sent) >= 295, "and nothing of the limit is wasted"
    assert min(sum(who == which for _, who in sent) for which in (0, 1)) > 100, "neither is starved"


def test_a_run_with_a_lower_limit_of_its_own_does_not_slow_the_others(path: Path) -> None:
    """`images_per_minute: 6` is a wish for one job; the key, as the other run knows, allows 600."""
    clock = Clock()
    slow, fast = Run(clock, path, "slow", 6.0), Run(clock, path, "fast", 600.0)
    sent = {"slow": 0, "fast": 0}
    while clock.wall_s < 1_800_000_060.0:
        sent["slow"] += slow.send()
        sent["fast"] += fast.send()
        clock.wall_s += 0.02
    assert sent["slow"] in (6, 7)
    assert sent["fast"] >= 580


def test_a_429_of_one_run_holds_and_slows_the_others(path: Path) -> None:
    clock = Clock()
    one, other = Run(clock, path, "one", 60.0), Run(clock, path, "other", 60.0, began_s=77.0)
    one.pacer.slow_down(one.now(), 20.0, one.now())
    assert earliest(other.pacer, other.now()) == pytest.approx(other.now() + 20.0)
    clock.wall_s += 20.0
    other.pacer.slow_down(other.now(), 0.0, other.now())
    assert other.send()
    assert earliest(other.pacer, other.now()) > other.now() + 1.02, "a second 429 of the key so soon is no bad luck"


def test_a_crowd_of_429s_is_one_crowd_whichever_run_hears_it(path: Path) -> None:
    """Both had sent before either was told: the key slows down once, by what a stray 429 takes."""
    clock = Clock()
    one, other = Run(clock, path, "one", 60.0), Run(clock, path, "other", 60.0, began_s=77.0)
    left = one.now(), other.now()
    clock.wall_s += 1.0
    one.pacer.slow_down(one.now(), 0.0, left[0])
    clock.wall_s += 1.0
    other.pacer.slow_down(other.now(), 0.0, left[1])
    tempo = json.loads(path.read_text())["tempo"]
    assert tempo["fall"] == pytest.approx(LEAST_FALL)
    assert tempo["passed"] == 0


def test_what_is_no_news_costs_no_look_at_the_file(path: Path) -> None:
    """Every answer repeats the limits: only what changes something is told to the others."""
    clock = Clock()
    run = Run(clock, path, "run", 60.0)
    assert run.send()
    before = path.read_bytes(), path.stat().st_mtime_ns
    clock.wall_s += 0.5
    for _ in range(3):
        run.pacer.heed(run.now(), "images", Heard(limit=60.0, remaining=0, reset_s=60.0))
        run.pacer.heed(run.now(), "images", Heard(limit=60.0, remaining=7, reset_s=60.0))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    run.pacer.heed(run.now(), "images", Heard(limit=30.0))
    assert json.loads(path.read_text())["runs"]["run"]["rates"] == {"images": 30.0}


def test_a_run_remembers_what_it_wrote_only_while_nobody_else_writes(path: Path) -> None:
    """The file is read again as soon as it is another's."""
    clock = Clock()
    one, other = Run(clock, path, "one", 60.0), Run(clock, path, "other", 60.0)
    assert one.send()
    clock.wall_s += 2.0
    assert other.send()
    assert not one.send(), "the other one's request was this very moment"
    path.write_bytes(b"nonsense")
    clock.wall_s += 2.0
    assert one.send()


def test_an_instant_is_booked_ahead_for_everyone(path: Path) -> None:
    """What one run has booked for a moment to come is gone for the others."""
    clock = Clock()
    one, other = Run(clock, path, "one", 60.0), Run(clock, path, "other", 60.0, began_s=77.0)
    assert one.send()
    at, booked = one.pacer.claim(one.now(), one.now() + 1.5, COST)
    assert booked
    assert at == pytest.approx(one.now() + 1.0, abs=0.01)
    assert earliest(other.pacer, other.now()) == pytest.approx(other.now() + 2.0, abs=0.01)


def test_what_headers_say_of_the_key_reaches_the_others(path: Path) -> None:
    """Nothing remains for 30 s of a limit of 2: one place comes free after 15 s, for whoever is first."""
    clock = Clock()
    one, other = Run(clock, path, "one", 6000.0), Run(clock, path, "other", 6000.0)
    one.pacer.heed(one.now(), "images", Heard(limit=2, remaining=0, reset_s=30.0))
    assert earliest(other.pacer, other.now()) == pytest.approx(other.now() + 15.0)


def test_a_run_that_ended_leaves_its_bookings_but_not_its_pace_or_limit(path: Path) -> None:
    """What it sent still counts; how slow it had become, and what it believed, does not."""
    clock = Clock()
    first = Run(clock, path, "first", 6.0)
    assert first.send()
    first.pacer.slow_down(first.now(), 0.0, first.now())
    first.pacer.close()
    clock.wall_s += 1.0
    second = Run(clock, path, "second", 6.0)
    assert not second.send(), "the first one's request was a second ago, and one in ten is allowed"
    clock.wall_s += limiter.ALIVE_S + 1
    third = Run(clock, path, "third", 60.0)
    assert third.send()
    assert earliest(third.pacer, third.now()) == pytest.approx(third.now() + 1.0 + HEADROOM)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"tempo": {"broke": 0}}',
        b'{"tempo": {"passed": "NaN"}}',
        b'{"tempo": {"passed": 1e300, "before": -1, "fall": 7}}',
        b'{"tempo": 5}',
        b'{"slowed_at": 9e99}',
        b'{"runs": {"x": {"at": NaN, "rates": {"images": -1}}}}',
        b'{"runs": []}',
        b'{"debts": {"images": {"at": 9e99, "amount": 1e308}}}',
        b'{"debts": {"images": 5}}',
        b'{"hold_until": 9e99}',
        b'{"hold_until": 1' + b"0" * 400 + b"}",
        b"[" * 60_000,
        b'{"hold_until": 1' + b"0" * 5000 + b"}",
    ],
)
def test_a_file_that_makes_no_sense_stops_nobody(path: Path, text: bytes) -> None:
    """It holds no facts: what is lost with it is a moment's bookings."""
    path.parent.mkdir()
    path.write_bytes(text)
    clock = Clock()
    run = Run(clock, path, "run", 60.0)
    assert run.send()
    assert not run.send()
    assert json.loads(path.read_text())["runs"]["run"]["rates"] == {"images": 60.0}


def test_a_writer_that_died_half_way_is_understood(path: Path) -> None:
    """The end of a longer text may stay behind a shorter one."""
    clock = Clock()
    run = Run(clock, path, "run", 60.0)
    assert run.send()
    with path.open("ab") as file:
        file.write(b'}}"leftover')
    assert not run.send()


def test_a_holder_that_was_stopped_holds_nobody_up(path: Path) -> None:
    """Whoever keeps the lock is passed by: the run goes by its own gates."""
    run = Run(Clock(), path, "run", 60.0)
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert run.send()
        assert not run.send()
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("spoil", ["file in the way", "symbolic link", "pipe"])
def test_without_a_place_for_the_file_a_run_paces_itself(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "pacing" / "key.json"
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if spoil == "file in the way":
        path.parent.write_text("")
    else:
        path.parent.mkdir()
        path.symlink_to(victim) if spoil == "symbolic link" else os.mkfifo(path)
    pacer = SharedPacer(Pacer({"images": Gate(60.0)}), path, run="run")
    assert not pacer.is_shared
    now = time.monotonic()
    assert pacer.claim(now, now, COST) == (now, True)
    assert earliest(pacer, now) == pytest.approx(now + 1.0 + HEADROOM)
    pacer.close()
    assert victim.read_text() == "precious"


def test_the_file_of_a_key_does_not_tell_it_and_goes_when_it_is_old(tmp_path: Path) -> None:
    key, other = "sk-secret-0123456789", "sk-other"
    url = "https://api.example.com/v1"
    path = limiter.key_file(tmp_path, limiter.key_digest(url, key))
    assert path == limiter.key_file(tmp_path, limiter.key_digest(url, key))
    assert len({limiter.key_digest(url, key), limiter.key_digest(url, other), limiter.key_digest(url + "2", key)}) == 3
    assert key not in str(path)
    path.write_text("{}")
    recent = limiter.key_file(tmp_path, limiter.key_digest(url, other))
    recent.write_text("{}")
    old = time.time() - limiter.KEPT_S - 60
    os.utime(path, (old, old))
    pacer = SharedPacer(Pacer({}), tmp_path / "new.json", run="run")
    pacer.claim(0.0, 0.0, COST)
    pacer.close()
    assert not path.exists()
    assert recent.exists()
    assert key.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_the_folder_is_the_users_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert limiter.default_folder() == tmp_path / "runner" / "pacing"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert limiter.default_folder() == tmp_path / "home" / ".local" / "state" / "runner" / "pacing"
