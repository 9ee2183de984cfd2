"""What ends a run before its end: too many failures and the time limit; and what an outage does to everyone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio.testing

from runner.engine.events import AttemptBegan, Held
from runner.errors import Refused, Retryable, TimeLimit, TooManyFailures, Unreached
from runner.rules.breaker import FailureLimit, default_limit
from tests.engine.command_support import GOOD, REFUSED, Desk
from tests.engine.support import Bench, Step, failing, inline

BROKEN = "[[fault:status=500]] broken"
SLOW = "[[fault:delay=0.2]] slow"


# -- through the command line, with a server ------------------------------------------------------


@pytest.mark.parametrize("fault", ["status=500", "moderation", "cut", "no_data=empty"])
def test_so_many_failures_in_a_row_end_the_run(desk: Desk, fault: str) -> None:
    """With 4 in flight the fifth failure ends it: few requests, exit code 4, a reason, and the rest still planned."""
    job = desk.manifest("row", [f"[[fault:{fault}]] {n}" for n in range(60)])
    said = desk.run(job, "--json", "--max-failures", "5")
    assert said.code == said.summary["exit_code"] == 4
    assert "requests in a row brought no image" in said.summary["reason"]
    assert "--max-failures" in said.summary["reason"]
    assert 5 <= said.summary["requests"] == desk.requests() <= 5 + 4
    assert said.summary["planned"] >= 60 - said.summary["requests"]
    assert Counter(entry["type"] for entry in said.entries)["stopping"] == 1


def test_after_the_cause_is_mended_the_same_command_goes_on(desk: Desk) -> None:
    job = desk.manifest("mended", [f"A bakery window, number {n}" for n in range(30)], retry={"base_s": 0.001})
    desk.peer.call("POST", "/simulator/faults", {"rules": ["status:value=503"]})
    assert desk.run(job, "--max-failures", "6").code == 4
    desk.peer.call("POST", "/simulator/faults", {"rules": []})
    said = desk.run(job, "--json")
    assert (said.code, said.summary["done"]) == (0, 30)
    assert desk.peer.bill()["images"] == 30


def test_a_share_of_the_run_ends_it(desk: Desk) -> None:
    """10 % of 40: the fifth image that cannot be made is one too many, whatever came in between."""
    prompts = [REFUSED + str(n) if n % 3 == 0 else f"A lighthouse, number {n}" for n in range(40)]
    said = desk.run(desk.manifest("share", prompts), "--json", "--max-failures", "10%")
    assert said.code == 4
    assert "5 of the 40 images of this run could not be made, more than 10 %" in said.summary["reason"]
    assert 5 <= said.summary["refused"] <= 5 + 4
    assert said.summary["planned"] > 0
    assert said.summary["in_doubt"] == 0


def test_a_hundred_in_a_row_are_too_many_unless_someone_says_otherwise(desk: Desk) -> None:
    job = desk.manifest("many", [f"{REFUSED} {n}" for n in range(130)])
    said = desk.run(job, "--json")
    assert said.code == 4
    assert 100 <= said.summary["refused"] <= 104
    rest = desk.run(job, "--json", "--max-failures", "none")
    assert rest.code == 4
    assert rest.summary["refused"] == 130
    assert desk.requests() == 130


def test_the_time_limit_finishes_what_is_in_flight_and_nothing_more(desk: Desk) -> None:
    """Exit code 8; nothing is in doubt; the next run makes the rest, and everything is paid once."""
    job = desk.manifest("time", [f"{SLOW} {n}" for n in range(40)])
    said = desk.run(job, "--json", "--max-duration", "0.7s")
    assert said.code == said.summary["exit_code"] == 8
    assert "--max-duration" in said.summary["reason"]
    assert said.summary["in_doubt"] == said.summary["failed"] == 0
    assert said.summary["done"] == said.summary["requests"] < 40
    assert said.summary["planned"] == 40 - said.summary["done"]
    rest = desk.run(job, "--json", "--max-duration", "1h30m")
    assert (rest.code, rest.summary["done"]) == (0, 40)
    assert desk.requests() == 40


def test_time_that_was_over_before_the_first_request_sends_nothing(desk: Desk) -> None:
    said = desk.run(desk.manifest("late", GOOD), "--json", "--max-duration", "0.000001s")
    assert said.code == 8
    assert desk.requests() == 0
    assert desk.run(desk.manifest("late", GOOD), "--json").code == 0
    again = desk.run(desk.manifest("late", GOOD), "--json", "--max-duration", "0.000001s")
    assert again.code == 0, "nothing was left to do"


def test_time_that_is_over_while_the_last_images_come_in_has_stopped_nothing(desk: Desk) -> None:
    """All four are in flight when the limit strikes, all four are made: 0."""
    job = desk.manifest("just", [f"[[fault:delay=3]] {n}" for n in range(4)])
    said = desk.run(job, "--json", "--max-duration", "2")
    assert Counter(entry["type"] for entry in said.entries)["stopping"] == 1
    assert (said.code, said.summary["done"]) == (0, 4)


@pytest.mark.parametrize(
    "words",
    [
        ("--max-duration", "soon"),
        ("--max-duration", ""),
        ("--max-duration", "0"),
        ("--max-duration", "-5m"),
        ("--max-duration", "90x"),
        ("--max-duration", "5m3h"),
        ("--max-duration", "999999999d"),
        ("--max-failures", "0"),
        ("--max-failures", "-3"),
        ("--max-failures", "101%"),
        ("--max-failures", "1.5"),
        ("--max-failures", "many"),
        ("--max-failures", ""),
    ],
)
def test_a_limit_that_is_none_is_refused_with_an_example(desk: Desk, words: tuple[str, str]) -> None:
    said = desk.run(desk.manifest("words", GOOD), *words)
    assert said.code == 2
    assert words[0] in said.err
    assert "such as" in said.err or "neither" in said.err
    assert desk.requests() == 0


# -- in virtual time ------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend(monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    """Trio, with a clock that jumps to the next deadline whenever everyone waits."""
    monkeypatch.setattr(anyio.to_thread, "run_sync", inline)
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[int], Bench]]:
    made: list[Bench] = []

    def build(prompts: int) -> Bench:
        made.append(Bench(tmp_path, [f"p{n:03d}" for n in range(prompts)]))
        return made[-1]

    yield build
    for bench in made:
        bench.ledger.close()


def _down(latency_s: float = 0.0) -> Step:
    return failing(Retryable("HTTP 503", code="http_503", http_status=503), latency_s)


@pytest.mark.anyio
async def test_what_is_in_flight_when_the_breaker_falls_is_finished_and_kept(make: Callable[[int], Bench]) -> None:
    """The three failures are 1 s old when the slow image comes in: it is saved and paid."""
    bench = make(20)
    bench.failures = FailureLimit(in_a_row=3)
    bench.provider.otherwise = failing(Refused("no", code="moderation_blocked"), 1.0)
    bench.provider.steps = {"p000": [Step(latency_s=60.0)]}
    pool = await bench.run(concurrency=4)
    assert isinstance(pool.error, TooManyFailures)
    assert Counter(bench.statuses().values()) == {"done": 1, "refused": 3, "planned": 16}
    bench.check_accounts()


@pytest.mark.anyio
async def test_an_outage_of_ten_minutes_costs_a_few_tasks_not_hundreds(make: Callable[[int], Bench]) -> None:
    """Everyone waits together and tries again now and then; when the provider is back, the rest is made."""
    bench = make(300)
    bench.pacer.gates = {}
    bench.provider.judge = lambda call: _down(0.2) if 30.0 < call.at_s < 630.0 else None
    bench.provider.otherwise = Step(latency_s=1.0)
    pool = await bench.run(concurrency=4)
    assert pool.error is None
    ended = Counter(bench.statuses().values())
    assert ended["done"] + ended["failed"] == 300
    assert 0 < ended["failed"] < 100
    probes = [call for call in bench.provider.calls if 60.0 < call.at_s < 630.0]
    assert len(probes) < 600, "less than one request a second, though four places are free"
    assert {held.outage for held in bench.heard(Held)} == {True}


def _cut_off() -> Step:
    return failing(Unreached("cannot reach the provider", code="timeout_connect"), 0.2)


@pytest.mark.anyio
async def test_a_network_that_is_gone_for_twenty_minutes_costs_no_task(make: Callable[[int], Bench]) -> None:
    """It is nobody's fault: one request at a time looks whether it is over, and then all that is left is made."""
    bench = make(300)
    bench.pacer.gates = {}
    bench.failures = default_limit(16)
    bench.provider.judge = lambda call: _cut_off() if 5.0 < call.at_s < 1205.0 else None
    bench.provider.otherwise = Step(latency_s=1.0)
    pool = await bench.run(concurrency=16)
    assert pool.error is None
    assert Counter(bench.statuses().values()) == {"done": 300}
    probes = [call.at_s for call in bench.provider.calls if 6.0 < call.at_s < 1205.0]
    assert len(probes) < 100
    assert min(later - before for before, later in pairwise(probes[30:])) > 1.0, "never two at a time"
    bench.check_accounts()


@pytest.mark.anyio
async def test_a_provider_that_was_never_reached_ends_the_run_as_soon_as_any_failure(
    make: Callable[[int], Bench],
) -> None:
    """A wrong address is no outage to sit through: the tasks' attempts count, and nobody waits for long."""
    bench = make(10)
    bench.provider.otherwise = _cut_off()
    bench.failures = FailureLimit(in_a_row=100)
    await bench.run(concurrency=4)
    assert Counter(bench.statuses().values()) == {"failed": 10}
    assert len(bench.provider.calls) == 50


@pytest.mark.anyio
@pytest.mark.parametrize(("limit", "ended"), [(100, "planned"), (None, "failed")])
async def test_a_network_that_stays_away_ends_the_run(
    make: Callable[[int], Bench], limit: int | None, ended: str
) -> None:
    """By its limit, with its tasks planned; where it has none, by the tasks' attempts."""
    bench = make(60)
    bench.failures = FailureLimit(in_a_row=limit)
    bench.provider.judge = lambda call: _cut_off() if call.at_s > 1.0 else None
    bench.provider.otherwise = Step(latency_s=0.5)
    pool = await bench.run(concurrency=4)
    assert isinstance(pool.error, TooManyFailures) == (limit is not None)
    assert set(bench.statuses().values()) == {"done", ended}


@pytest.mark.anyio
async def test_an_outage_that_lasts_ends_the_run_with_its_tasks_planned(make: Callable[[int], Bench]) -> None:
    bench = make(300)
    bench.failures = FailureLimit(in_a_row=100)
    bench.provider.otherwise = _down(0.2)
    pool = await bench.run(concurrency=4)
    assert isinstance(pool.error, TooManyFailures)
    ended = Counter(bench.statuses().values())
    assert ended["planned"] > 270
    assert ended["failed"] <= 25


@pytest.mark.anyio
async def test_one_bad_prompt_after_another_among_good_ones_is_no_outage(make: Callable[[int], Bench]) -> None:
    """Every other image fails at first: nobody waits for it but the task itself."""
    bench = make(40)
    bench.provider.steps = {f"p{n:03d}": [_down()] for n in range(0, 40, 2)}
    await bench.run_to_the_end(concurrency=2)
    assert not bench.heard(Held)


@pytest.mark.anyio
async def test_a_request_that_had_not_left_when_everything_was_given_up_is_not_in_doubt(
    make: Callable[[int], Bench],
) -> None:
    """The second interrupt comes when the attempt is on record, and its request not yet sent: it never is."""
    bench = make(3)
    bench.listener = lambda event: bench.stop.now() if isinstance(event, AttemptBegan) else None
    await bench.run(concurrency=1)
    assert bench.provider.calls == []
    assert bench.attempts("outcome, doubt_microusd, error_code") == [("backoff", None, "not_sent")]
    assert set(bench.statuses().values()) == {"planned"}
    bench.check_accounts()


@pytest.mark.anyio
async def test_the_end_that_comes_first_counts(make: Callable[[int], Bench]) -> None:
    bench = make(10)
    bench.failures = FailureLimit(in_a_row=1)
    bench.provider.otherwise = _down(1.0)
    pool = await bench.run(concurrency=1)
    pool.end(TimeLimit("late"), "time limit")
    assert isinstance(pool.error, TooManyFailures)
