"""What the pool holds, whatever the provider answers and whenever a run is stopped; hours pass in a moment."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio.testing

from runner.engine import events
from runner.engine import pool as pool_module
from runner.engine.pool import WAITING_PER_PLACE
from runner.errors import (
    BudgetExceeded,
    InputError,
    LedgerError,
    Lost,
    ModelGone,
    ProviderError,
    RateLimited,
    Refused,
    Retryable,
    RunnerError,
    StopRun,
    StoreError,
    Unusable,
    Usage,
)
from runner.ledger import Ledger, attempts
from runner.rules.pacing import HARDEST_FALL, HEADROOM, STARTING_S, Gate, Heard, Pacer, Tempo
from runner.rules.retry import Policy
from runner.store.folder import FolderStore
from runner.store.partial import FilePartial
from tests.engine.support import (
    COST,
    FALLBACK,
    MODEL,
    RESERVED,
    USAGE,
    Bench,
    Call,
    Step,
    WatchedBudget,
    bench_at,
    failing,
    inline,
    picture,
    task,
)

pytestmark = pytest.mark.anyio

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def anyio_backend(monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    """Trio, with a clock that jumps to the next deadline whenever everyone waits."""
    monkeypatch.setattr(anyio.to_thread, "run_sync", inline)
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes the bench of a test for so many prompts (`a`, `b`, ...), or for these."""
    made: list[Bench] = []

    def build(prompts: int | list[str]) -> Bench:
        count = prompts if isinstance(prompts, int) else 0
        names = [f"{LETTERS[i % 26]}{i // 26 or ''}" for i in range(count)]
        bench = Bench(tmp_path, prompts if isinstance(prompts, list) else names)
        made.append(bench)
        return bench

    yield build
    for bench in made:
        bench.ledger.close()


def rate_limited(retry_after_s: float | None = None) -> Step:
    error = RateLimited("slower", code="rate_limit_exceeded", http_status=429, retry_after_s=retry_after_s)
    return failing(error, 0.0)


def lost() -> Step:
    return failing(Lost("no answer", code="timeout_first_byte"))


def gone() -> Step:
    return failing(ModelGone("not served", code="model_not_found", http_status=404))


def retryable(retry_after_s: float | None = None) -> Step:
    return failing(Retryable("oops", code="http_500", http_status=500, retry_after_s=retry_after_s), 0.0)


# -- when requests leave ------------------------------------------------------------------------


async def test_an_hour_of_pacing_sends_no_more_than_the_limit_in_any_minute(make: Callable[..., Bench]) -> None:
    """300 images at 5 a minute take an hour, evenly: no window of 60 s holds a sixth request."""
    bench = make(300)
    bench.pacer = Pacer({"images": Gate(5.0)})
    bench.provider.otherwise = Step(latency_s=18.0)
    await bench.run_to_the_end()
    times = bench.provider.times
    assert len(times) == 300
    assert all(later - earlier >= 60 for earlier, later in zip(times, times[5:], strict=False))
    assert times[-1] == pytest.approx(299 * 12 * (1 + HEADROOM) + STARTING_S)
    assert set(bench.statuses().values()) == {"done"}


async def test_what_is_in_flight_never_exceeds_the_concurrency(make: Callable[..., Bench]) -> None:
    """Three places are all used, and there is no fourth."""
    bench = make(20)
    bench.provider.otherwise = Step(latency_s=10.0)
    await bench.run_to_the_end(concurrency=3)
    assert bench.provider.most_in_flight == 3
    assert bench.elapsed_s == pytest.approx(70)


async def test_an_image_that_can_never_pass_a_gate_ends_the_run(make: Callable[..., Bench]) -> None:
    """Waiting for it would be for ever; nothing is sent, and nothing stays reserved."""
    bench = make(1)
    bench.pacer = Pacer({"tokens": Gate(100.0)})
    pool = await bench.run()
    assert isinstance(pool.error, InputError)
    assert bench.provider.calls == []
    bench.check_accounts()


async def test_what_headers_say_of_the_limits_is_heeded(make: Callable[..., Bench]) -> None:
    """A limit that nobody knew of makes a gate from the first answer on."""
    bench = make(4)
    bench.provider.otherwise = Step(latency_s=1.0, headers={"images": Heard(limit=1.0, remaining=5.0)})
    await bench.run_to_the_end(concurrency=1)
    assert all(later - earlier >= 60 for earlier, later in pairwise(bench.provider.times[1:]))


async def test_a_hold_that_comes_while_a_task_waits_at_a_gate_counts_for_it(make: Callable[..., Bench]) -> None:
    """The task was already on its way out: it waits for the Retry-After of another all the same."""
    bench = make(2)
    bench.pacer = Pacer({"images": Gate(6.0)})
    error = RateLimited("slower", code="rate_limit_exceeded", http_status=429, retry_after_s=100.0)
    bench.provider.steps = {"a": [failing(error, 5.0)]}
    await bench.run_to_the_end()
    assert bench.provider.times[0] == 0
    assert bench.provider.times[1] >= 105


# -- on record first, then exactly at its instant -----------------------------------------------


def slow_commits(monkeypatch: pytest.MonkeyPatch, wait_s: Callable[[], float]) -> None:
    """Every transaction takes so long: a disk that flushes, on a clock that jumps."""

    async def run_sync(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
        result = await inline(function, *args)
        if function.__name__ == "serve":
            await anyio.sleep(wait_s())
        return result

    monkeypatch.setattr(anyio.to_thread, "run_sync", run_sync)


async def test_a_slow_disk_moves_no_request(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """Records take 2 to 90 ms, and each request leaves at its own instant: the first alone waits for its record."""
    bench = make(60)
    dice = Random(7)
    slow_commits(monkeypatch, lambda: dice.uniform(0.002, 0.09))
    bench.pacer = Pacer({"images": Gate(60.0)})
    await bench.run_to_the_end(concurrency=60)
    first, *others = bench.provider.times
    assert 0 < first < 0.09
    assert others == pytest.approx([first + STARTING_S + n * (1 + HEADROOM) for n in range(1, 60)])


@pytest.mark.parametrize(("counts", "apart_s"), [(True, 4.0), (False, 1.0)])
async def test_inputs_count_against_the_limit_where_the_provider_counts_them(
    make: Callable[..., Bench], counts: bool, apart_s: float
) -> None:
    """Four images with each request, at 60 a minute."""
    bench = make(0)
    bench.want([task(letter, images=4) for letter in "abcdef"])
    bench.inputs = lambda sources: []
    bench.pacer = Pacer({"images": Gate(60.0)})
    await bench.run_to_the_end(concurrency=8, counts_inputs=counts)
    apart = [later - earlier for earlier, later in pairwise(bench.provider.times)]
    assert apart == pytest.approx([apart_s * (1 + HEADROOM) + (STARTING_S if n == 0 else 0.0) for n in range(5)])


async def test_more_inputs_than_a_limit_can_hold_go_at_its_pace(make: Callable[..., Bench]) -> None:
    """16 images, and 5 a minute: whether they count is not known, so it is neither an error nor a rush."""
    bench = make(0)
    bench.want([task(letter, images=16) for letter in "ab"])
    bench.inputs = lambda sources: []
    bench.pacer = Pacer({"images": Gate(5.0)})
    await bench.run_to_the_end(counts_inputs=True)
    first, second = bench.provider.times
    assert second - first == pytest.approx(16 * 12 * (1 + HEADROOM) + STARTING_S)


async def test_an_hour_at_the_limit_draws_no_429_and_wastes_nothing(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 a minute, enforced as 1 in any 2 s; images take 18 s and now and then 46; records take up to 30 ms."""
    bench = make(600)
    dice = Random(7)
    slow_commits(monkeypatch, lambda: dice.uniform(0.002, 0.03))
    bench.pacer = Pacer({"images": Gate(30.0)})
    let: list[float] = []

    def judge(call: Call) -> Step:
        if let and call.at_s - let[-1] < 2.0 - 1e-6:
            return rate_limited(2.0)
        let.append(call.at_s)
        return Step(latency_s=dice.lognormvariate(2.89, 0.57))

    bench.provider.judge = judge
    await bench.run_to_the_end(concurrency=64)
    assert bench.heard(events.Held) == []
    assert len(let) == 600
    assert 599 / (let[-1] - let[0]) > 0.995 * 0.5


async def test_what_is_on_record_waits_for_a_hold_that_comes_before_its_instant(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several are booked within the lead when a 429 comes: all wait for its end, and then leave one by one."""
    bench = make(12)
    slow_commits(monkeypatch, lambda: 0.001)
    bench.pacer = Pacer({"images": Gate(3000.0)})
    error = RateLimited("slower", code="rate_limit_exceeded", http_status=429, retry_after_s=50.0)
    bench.provider.steps = {"a": [failing(error, 0.03)]}
    await bench.run_to_the_end(concurrency=12)
    times = bench.provider.times
    before = [at for at in times if at < 1]
    assert len(before) == 2
    after = [at for at in times if at >= 1]
    assert len(after) == 11
    assert after[0] == pytest.approx(50.031)
    assert all(later - earlier >= 0.0199 for earlier, later in pairwise(after))
    assert len(bench.attempts("id")) == 13, "and none was put on record twice"


@pytest.mark.parametrize("immediate", [False, True])
async def test_what_waits_on_record_when_a_run_is_stopped_is_given_back(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, immediate: bool
) -> None:
    """A hold of minutes is under way: the stop does not wait for its end, nothing leaves, nothing is in doubt."""
    bench = make(12)
    slow_commits(monkeypatch, lambda: 0.001)
    bench.pacer = Pacer({"images": Gate(3000.0)})
    error = RateLimited("slower", code="rate_limit_exceeded", http_status=429, retry_after_s=500.0)
    bench.provider.steps = {"a": [failing(error, 0.03)]}

    def stop() -> None:
        bench.stop.ask("interrupted")
        if immediate:
            bench.stop.now()

    async with anyio.create_task_group() as group:
        group.start_soon(_after, 10.0, stop)
        await bench.run(concurrency=12)
    assert bench.elapsed_s == pytest.approx(10.0, abs=0.1)
    assert bench.provider.prompts == ["a", "b"]
    assert list(bench.statuses().values()).count("planned") == 11
    assert len(bench.attempts("id")) > 2, "some were on record"
    assert set(bench.attempts("doubt_microusd")) == {(None,)}
    began, failed = bench.heard(events.AttemptBegan), bench.heard(events.AttemptFailed)
    assert len(began) == len(failed) + 1
    bench.check_accounts()


async def test_what_waits_on_record_while_a_new_day_begins_is_paid_from_that(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held over midnight: its money is of yesterday's budget, so it is given back and reserved anew."""
    bench = make(6)
    slow_commits(monkeypatch, lambda: 0.001)
    bench.pacer = Pacer({"images": Gate(3000.0)})
    bench.budget = WatchedBudget(100 * RESERVED, "day")
    error = RateLimited("slower", code="rate_limit_exceeded", http_status=429, retry_after_s=600.0)
    bench.provider.judge = lambda call: failing(error, 0.001) if call.at_s < 12 * 3600 else None
    await bench.run(concurrency=6)
    assert set(bench.statuses().values()) == {"done"}
    assert ("not_sent",) in bench.attempts("error_code")
    assert bench.budget.settled_microusd == 6 * COST


async def test_places_grow_with_the_latency_until_the_limit_is_used(make: Callable[..., Bench]) -> None:
    """60 a minute at two minutes an image take 120 in flight: four are not enough, and do not stay four."""
    bench = make(700)
    bench.pacer = Pacer({"images": Gate(60.0)})
    bench.provider.otherwise = Step(latency_s=120.0)
    await bench.run_to_the_end(concurrency=4, most_concurrency=1000)
    assert 118 <= bench.provider.most_in_flight <= 130
    gaps = [later - earlier for earlier, later in pairwise(bench.provider.times)]
    assert gaps[-1] == pytest.approx(1 + HEADROOM)


async def test_a_limit_that_headers_raise_gets_its_places(make: Callable[..., Bench]) -> None:
    """Believed were 5 a minute, the provider says 60: with 20 s an image that is 20 in flight, and no longer five."""
    bench = make(150)
    bench.pacer = Pacer({"images": Gate(5.0)})
    bench.provider.otherwise = Step(latency_s=20.0, headers={"images": Heard(limit=60.0, remaining=9.0)})
    await bench.run_to_the_end(concurrency=5, most_concurrency=1000)
    assert 19 <= bench.provider.most_in_flight <= 21


async def test_the_tokens_that_answers_tell_are_what_the_next_ones_book(make: Callable[..., Bench]) -> None:
    """A quote of 279 that takes 400 would draw 429s for ever, and one that takes 140 would waste half the limit."""
    bench = make(80)
    bench.pacer = Pacer({"tokens": Gate(2000.0)})
    bench.provider.otherwise = Step(latency_s=1.0, usage=Usage(10, 390, 400, 10, 0))
    await bench.run_to_the_end()
    times = bench.provider.times
    assert times[-1] - times[-2] == pytest.approx(12 * (1 + HEADROOM))


# -- trying again -------------------------------------------------------------------------------


async def test_retries_follow_the_policy_and_then_the_task_has_failed(make: Callable[..., Bench]) -> None:
    """Four attempts, with half of the doubled ceilings between them; the last word of the provider is on record."""
    bench = make(["a"])
    bench.policy = Policy(attempts=4, base_s=10.0)
    bench.provider.otherwise = retryable()
    await bench.run_to_the_end()
    assert bench.provider.times == [0, 5, 15, 35]
    assert bench.rows("SELECT status, error_code FROM tasks") == [("failed", "http_500")]
    assert bench.attempts("outcome") == [("backoff",)] * 3 + [("gave_up",)]
    assert [event.retry_in_s for event in bench.heard(events.AttemptFailed)] == [5, 10, 20, None]
    assert bench.budget.peak_microusd == RESERVED


async def test_a_server_that_asks_for_time_gets_it(make: Callable[..., Bench]) -> None:
    """Retry-After of a 5xx is the least wait of that task, and holds nobody else."""
    bench = make(2)
    bench.provider.steps = {"a": [retryable(300.0)]}
    await bench.run_to_the_end(concurrency=1)
    assert [(call.prompt, call.at_s) for call in bench.provider.calls] == [("a", 0), ("b", 0), ("a", 300)]


async def test_a_backoff_gives_its_place_to_another_task(make: Callable[..., Bench]) -> None:
    """With one place, the others are made while the first one waits."""
    bench = make(3)
    bench.policy = Policy(base_s=1000.0, max_s=1000.0)
    bench.provider.steps = {"a": [retryable()]}
    await bench.run_to_the_end(concurrency=1)
    assert bench.provider.prompts == ["a", "b", "c", "a"]
    assert set(bench.statuses().values()) == {"done"}


async def test_tasks_that_wait_are_bounded(make: Callable[..., Bench]) -> None:
    """When everything fails, no more is taken on than a few for each place, until the first ones are through."""
    bench = make(60)
    bench.policy = Policy(attempts=2, base_s=100.0, max_s=100.0)
    bench.provider.otherwise = retryable()
    await bench.run_to_the_end(concurrency=2)
    prompts = bench.provider.prompts
    first_repeat = next(i for i, prompt in enumerate(prompts) if prompt in prompts[:i])
    assert first_repeat <= 2 * WAITING_PER_PLACE + 2
    assert len(prompts) == 120


async def test_retry_after_holds_everyone(make: Callable[..., Bench]) -> None:
    """After one 429 nobody leaves until the time that it named."""
    bench = make(8)
    bench.pacer = Pacer({"images": Gate(60.0)})
    bench.provider.steps = {"b": [rate_limited(100.0)]}
    await bench.run_to_the_end(concurrency=8)
    assert bench.provider.times[:2] == [0, pytest.approx(1 + HEADROOM + STARTING_S)]
    assert bench.provider.times[2] == pytest.approx(101 + HEADROOM + STARTING_S)
    assert [event.wait_s for event in bench.heard(events.Held)] == [100]


async def test_the_pace_recovers_from_a_429_with_every_request(make: Callable[..., Bench]) -> None:
    """The second one shortly after another: it falls at once, most is soon back, and it returns to the limit."""
    bench = make(320)
    bench.pacer = Pacer({"images": Gate(60.0)}, tempo=Tempo(passed=0.0, before=1.0))
    bench.provider.steps = {"a": [rate_limited(5.0)]}
    await bench.run_to_the_end()
    full = 1 + HEADROOM
    gaps = [later - earlier for earlier, later in pairwise(bench.provider.times[1:])]
    assert gaps[0] == pytest.approx(full / (1 - HARDEST_FALL) + STARTING_S, rel=0.01)
    assert gaps[100] == pytest.approx(full / (1 - HARDEST_FALL / 3), abs=0.02)
    assert gaps[-1] == pytest.approx(full)
    assert min(gaps) == pytest.approx(full)


async def test_a_429_does_not_use_up_attempts(make: Callable[..., Bench]) -> None:
    """It says nothing about the task: with a single attempt allowed, the image still comes after ten of them."""
    bench = make(["a"])
    bench.policy = Policy(attempts=1, billed_attempts=1)
    bench.provider.steps = {"a": [rate_limited(7.0)] * 5 + [rate_limited()] * 5}
    await bench.run_to_the_end()
    assert bench.statuses() == {"a": "done"}
    assert len(bench.provider.calls) == 11


async def test_only_so_many_429s_are_taken(make: Callable[..., Bench]) -> None:
    """A server that never lets a task through does not keep the run for ever."""
    bench = make(["a"])
    bench.policy = Policy(rate_limited_attempts=3)
    bench.provider.otherwise = rate_limited(1.0)
    await bench.run_to_the_end()
    assert (len(bench.provider.calls), bench.statuses()) == (3, {"a": "failed"})


async def test_a_server_with_a_lower_limit_than_believed_ends_complete(make: Callable[..., Bench]) -> None:
    """10 a minute are served, 30 are believed: every image is made, and the 429s stay few."""
    bench = make(60)
    bench.pacer = Pacer({"images": Gate(30.0)})
    served: list[float] = []

    def judge(call: Call) -> Step | None:
        if len([at for at in served if at > call.at_s - 60]) >= 10:
            return rate_limited(6.0)
        served.append(call.at_s)
        return None

    bench.provider.judge = judge
    await bench.run_to_the_end(concurrency=8)
    assert set(bench.statuses().values()) == {"done"}
    assert len(bench.provider.calls) < 2 * 60


# -- money --------------------------------------------------------------------------------------


async def test_the_cap_holds_at_every_moment_and_waits_for_what_may_settle_lower(make: Callable[..., Bench]) -> None:
    """Room for three worst cases makes five images: as real costs come in, room comes back. Then it is over."""
    bench = make(20)
    bench.budget = WatchedBudget(3 * RESERVED)
    pool = await bench.run(concurrency=8)
    assert isinstance(pool.error, BudgetExceeded)
    assert bench.provider.most_in_flight == 3
    assert bench.budget.peak_microusd <= 3 * RESERVED
    done = list(bench.statuses().values()).count("done")
    assert done == len(bench.provider.calls) == (3 * RESERVED - RESERVED) // COST + 1 == 5
    bench.check_accounts()


async def test_a_cap_below_the_first_worst_case_sends_nothing(make: Callable[..., Bench]) -> None:
    """One micro-dollar short is short."""
    bench = make(1)
    bench.budget = WatchedBudget(RESERVED - 1)
    pool = await bench.run()
    assert isinstance(pool.error, BudgetExceeded)
    assert "$0.005014" in pool.error.message
    assert bench.provider.calls == []


async def test_what_is_in_doubt_counts_against_the_cap(make: Callable[..., Bench]) -> None:
    """A lost request may have been billed: its worst case is not spent a second time."""
    bench = make(2)
    bench.budget = WatchedBudget(2 * RESERVED - 1)
    bench.provider.steps = {"a": [lost()]}
    pool = await bench.run(concurrency=1)
    assert isinstance(pool.error, BudgetExceeded)
    assert bench.provider.prompts == ["a"]
    bench.check_accounts()


async def test_a_request_that_was_not_billed_gives_its_money_back(make: Callable[..., Bench]) -> None:
    """With room for one request, refusals and errors of the server leave room for the next one."""
    bench = make(3)
    bench.budget = WatchedBudget(RESERVED)
    bench.provider.steps = {"a": [retryable()], "b": [failing(Refused("no", code="moderation_blocked"))]}
    pool = await bench.run()
    assert isinstance(pool.error, BudgetExceeded)
    assert list(bench.statuses().values()).count("done") == 1
    bench.check_accounts()


async def test_a_model_that_takes_over_is_paid_from_its_own_reservation(make: Callable[..., Bench]) -> None:
    """The fallback may be dearer: a task that waits while it takes over never leaves with the old model's money."""
    bench = make(3)
    bench.pacer = Pacer({"images": Gate(6.0)})
    bench.provider.otherwise = Step(usage=Usage(7, 196, 203, 7, 0))
    bench.provider.judge = lambda call: gone() if call.model == MODEL else None
    await bench.run_to_the_end(fallback_model=FALLBACK)
    worst = {MODEL: RESERVED, FALLBACK: 196 * 30 + 5 * (1 + 6)}
    assert worst[FALLBACK] > worst[MODEL]
    assert set(bench.attempts("model, reserved_microusd")) == set(worst.items())


# -- the laws of order --------------------------------------------------------------------------


async def test_an_attempt_is_committed_before_its_request_leaves(make: Callable[..., Bench]) -> None:
    """Law 1: when the provider is asked, another connection can already read the attempt, with its reserved money."""
    bench = make(6)
    seen: list[list[tuple[Any, ...]]] = []

    def judge(call: Call) -> None:
        seen.append(
            bench.rows(
                "SELECT t.status, a.model, a.reserved_microusd, a.outcome FROM attempts a JOIN tasks t ON t.id = "
                "a.task_id WHERE t.prompt_id = ?",
                call.prompt,
            )
        )

    bench.provider.judge = judge
    await bench.run_to_the_end()
    assert seen == [[("running", MODEL, RESERVED, None)]] * 6


async def test_a_task_is_done_only_when_its_file_is_complete_at_its_place(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 2: at the moment the task is recorded as done, and when it is told, the asset's bytes are all there."""
    bench = make(3)
    recorded: list[bytes] = []
    real = attempts.saved

    def saved(*args: Any, file: Any, **more: Any) -> None:
        recorded.append((bench.output / file.path).read_bytes())
        real(*args, file=file, **more)

    monkeypatch.setattr(attempts, "saved", saved)
    told: list[tuple[bytes, str]] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Saved):
            rows = bench.rows(
                "SELECT t.status FROM tasks t JOIN assets s ON s.task_id = t.id WHERE path = ?", event.path
            )
            told.append(((bench.output / event.path).read_bytes(), rows[0][0]))

    bench.listener = listen
    await bench.run_to_the_end()
    assert recorded == [picture()] * 3
    assert told == [(picture(), "done")] * 3
    sha256 = hashlib.sha256(picture()).hexdigest()
    assert bench.rows("SELECT DISTINCT sha256, bytes, width, height, format, model FROM assets") == [
        (sha256, len(picture()), 1024, 1024, "png", MODEL)
    ]


async def test_what_an_answer_told_is_on_record(make: Callable[..., Bench]) -> None:
    """Raw token counts, the cost that follows from them, the request's id and how long it took."""
    bench = make(["a"])
    bench.provider.otherwise = Step(latency_s=18.0)
    await bench.run_to_the_end()
    assert bench.attempts(
        "outcome, cost_microusd, cost_basis, doubt_microusd, input_tokens, output_tokens, total_tokens, usage_json, "
        "request_id, http_status, latency_ms, price_version"
    ) == [("saved", COST, "usage", None, 10, 272, 282, '{"output_tokens":272}', "req-1", 200, 18_000, "prices")]
    (saved,) = bench.heard(events.Saved)
    assert (saved.cost_microusd, saved.cost_basis, saved.latency_s, saved.bytes) == (
        COST,
        "usage",
        18.0,
        len(picture()),
    )


@pytest.mark.parametrize("usage", [None, Usage(0, 0, 0, 0, 0)])
async def test_an_image_without_usage_costs_what_was_reserved(make: Callable[..., Bench], usage: Usage | None) -> None:
    """Never too little for a cap, and marked as an estimate."""
    bench = make(["a"])
    bench.provider.otherwise = Step(usage=usage)
    await bench.run_to_the_end()
    assert bench.statuses() == {"a": "done"}
    assert bench.attempts("cost_microusd, cost_basis, doubt_microusd") == [(RESERVED, "estimate", None)]


# -- requests that bring no image ---------------------------------------------------------------


async def test_a_lost_request_is_in_doubt_and_is_tried_again_within_its_bounds(make: Callable[..., Bench]) -> None:
    """Each lost attempt keeps its own doubt; after the last that is allowed, the task stays in doubt."""
    bench = make(2)
    bench.policy = Policy(billed_attempts=3, attempts=1)
    bench.provider.steps = {"a": [lost()] * 9, "b": [lost()]}
    await bench.run_to_the_end()
    assert bench.provider.prompts.count("a") == 3
    assert bench.statuses() == {"a": "in_doubt", "b": "done"}
    doubts = bench.rows("SELECT t.prompt_id, doubt_microusd FROM attempts a JOIN tasks t ON t.id = a.task_id")
    assert sorted(doubts, key=str) == [("a", RESERVED)] * 3 + [("b", RESERVED), ("b", None)]
    assert bench.rows("SELECT error_code FROM tasks WHERE prompt_id = 'a'") == [("timeout_first_byte",)]
    assert sum(event.in_doubt_microusd for event in bench.heard(events.AttemptFailed)) == 4 * RESERVED


async def test_doubt_can_be_held_for_a_person(make: Callable[..., Bench]) -> None:
    """With `hold_doubt` a lost request is not sent again, and the others go on."""
    bench = make(2)
    bench.provider.steps = {"a": [lost()]}
    await bench.run_to_the_end(hold_doubt=True, concurrency=1)
    assert bench.provider.prompts == ["a", "b"]
    assert bench.statuses() == {"a": "in_doubt", "b": "done"}
    assert [(event.status, event.retry_in_s) for event in bench.heard(events.AttemptFailed)] == [("in_doubt", None)]


@pytest.mark.parametrize(
    ("usage", "cost", "doubt", "status"),
    [
        (USAGE, COST, None, "failed"),
        (None, None, RESERVED, "in_doubt"),
        (Usage(0, 0, 0, 0, 0), None, RESERVED, "in_doubt"),
    ],
)
async def test_an_unusable_answer_is_billed_as_far_as_it_says(
    make: Callable[..., Bench], usage: Usage | None, cost: int | None, doubt: int | None, status: str
) -> None:
    """With its figures it is a cost, without (or with zeros) a doubt; either way only so many are paid for."""
    bench = make(["a"])
    bench.policy = Policy(billed_attempts=2, attempts=9)
    bench.provider.otherwise = failing(Unusable("no image", code="no_data", usage=usage))
    await bench.run_to_the_end()
    assert bench.attempts("cost_microusd, doubt_microusd") == [(cost, doubt)] * 2
    assert bench.statuses() == {"a": status}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (picture(512, 512), "wrong_image"),
        (picture(1024, 1024, "JPEG"), "wrong_image"),
        (picture()[:-20], "incomplete_image"),
        (b"This is a text where an image was expected.", "not_an_image"),
        (picture() + b"more", "damaged_image"),
    ],
)
async def test_what_is_not_the_image_that_was_asked_for_is_billed_and_not_kept(
    make: Callable[..., Bench], data: bytes, code: str
) -> None:
    """Another size, another format, a part of one, no image at all: never an asset, and its bill is read to the end."""
    bench = make(["a"])
    bench.policy = Policy(billed_attempts=2)
    bench.provider.steps = {"a": [Step(data=data)]}
    await bench.run_to_the_end()
    assert bench.attempts("outcome, cost_microusd, usage_json, error_code, http_status, request_id") == [
        ("backoff", COST, '{"output_tokens":272}', code, 200, "req-1"),
        ("saved", COST, '{"output_tokens":272}', None, 200, "req-2"),
    ]
    assert bench.image("a.png") == picture()


async def test_a_refusal_is_final_and_free(make: Callable[..., Bench]) -> None:
    """The provider will not make it: no second request, no cost, and the reason is on record."""
    bench = make(2)
    bench.provider.steps = {"a": [failing(Refused("not this", code="moderation_blocked", http_status=400))]}
    await bench.run_to_the_end(concurrency=1)
    assert bench.provider.prompts == ["a", "b"]
    assert bench.rows("SELECT status, error_code, error_message FROM tasks WHERE prompt_id = 'a'") == [
        ("refused", "moderation_blocked", "not this")
    ]
    assert bench.attempts("outcome, cost_microusd, doubt_microusd, http_status")[0] == ("refused", None, None, 400)


# -- what ends a run ----------------------------------------------------------------------------


async def test_a_stop_of_the_provider_ends_the_run_and_what_is_in_flight_finishes(make: Callable[..., Bench]) -> None:
    """No further request leaves; the task that heard it stays planned, unpaid."""
    bench = make(10)
    bench.provider.otherwise = Step(latency_s=30.0)
    bench.provider.steps = {"b": [failing(StopRun("no credit", code="insufficient_quota", http_status=429))]}
    pool = await bench.run(concurrency=3)
    assert isinstance(pool.error, StopRun)
    assert sorted(bench.provider.prompts) == ["a", "b", "c"]
    assert bench.stop.reason == "provider"
    statuses = bench.statuses()
    assert (statuses.pop("a"), statuses.pop("c")) == ("done", "done")
    assert set(statuses.values()) == {"planned"}
    assert bench.rows("SELECT error_code FROM tasks WHERE prompt_id = 'b'") == [("insufficient_quota",)]
    bench.check_accounts()


async def test_the_first_reason_to_stop_counts(make: Callable[..., Bench]) -> None:
    """Others that come while the run ends do not hide it."""
    bench = make(3)
    bench.provider.steps = {
        "a": [failing(StopRun("first", code="invalid_api_key"), 1.0)],
        "b": [failing(StopRun("second", code="invalid_api_key"), 2.0)],
    }
    pool = await bench.run()
    assert pool.error is not None
    assert pool.error.message == "first"


async def test_a_model_that_is_gone_hands_over_to_the_fallback(make: Callable[..., Bench]) -> None:
    """Everything is made by the fallback from there on; ledger and assets say which model made what."""
    bench = make(6)
    bench.policy = Policy(attempts=1)
    bench.provider.judge = lambda call: gone() if call.model == MODEL and call.at_s > 0 else None
    await bench.run_to_the_end(concurrency=2, fallback_model=FALLBACK)
    assert set(bench.statuses().values()) == {"done"}
    assert bench.rows("SELECT model, count(*) FROM assets GROUP BY model ORDER BY model") == [
        (MODEL, 2),
        (FALLBACK, 4),
    ]
    assert bench.rows("SELECT DISTINCT model FROM tasks") == [(MODEL,)]
    assert bench.attempts("DISTINCT model, outcome") == [(MODEL, "saved"), (MODEL, "backoff"), (FALLBACK, "saved")]
    warned = bench.heard(events.Warned)
    assert len(warned) == 1
    assert FALLBACK in warned[0].message


async def test_the_hand_over_is_not_counted_as_an_attempt(make: Callable[..., Bench]) -> None:
    """The task did nothing wrong: the fallback has every attempt that the policy allows."""
    bench = make(["a"])
    bench.policy = Policy(attempts=2)
    bench.provider.steps = {"a": [gone(), retryable()]}
    await bench.run_to_the_end(fallback_model=FALLBACK)
    assert [call.model for call in bench.provider.calls] == [MODEL, FALLBACK, FALLBACK]
    assert bench.statuses() == {"a": "done"}


async def test_a_model_that_is_gone_without_a_fallback_stops_the_run(make: Callable[..., Bench]) -> None:
    """Nothing further can succeed; the tasks stay planned."""
    bench = make(6)
    bench.provider.otherwise = gone()
    pool = await bench.run(concurrency=2)
    assert isinstance(pool.error, ModelGone)
    assert len(bench.provider.calls) == 2
    assert set(bench.statuses().values()) == {"planned"}


async def test_a_fallback_that_is_gone_too_stops_the_run(make: Callable[..., Bench]) -> None:
    """There is no third: each model was asked, and then it ends."""
    bench = make(3)
    bench.provider.otherwise = gone()
    pool = await bench.run(concurrency=1, fallback_model=FALLBACK)
    assert isinstance(pool.error, ModelGone)
    assert [call.model for call in bench.provider.calls] == [MODEL, FALLBACK]
    bench.check_accounts()


async def test_the_first_interrupt_lets_what_is_in_flight_finish(make: Callable[..., Bench]) -> None:
    """Nothing further begins, and what had left is saved."""
    bench = make(10)
    bench.provider.otherwise = Step(latency_s=30.0)
    async with anyio.create_task_group() as group:
        group.start_soon(_after, 5.0, lambda: bench.stop.ask("interrupted"))
        pool = await bench.run(concurrency=3)
    assert pool.error is None
    assert bench.elapsed_s == pytest.approx(30)
    assert sorted(bench.statuses().values()) == ["done"] * 3 + ["planned"] * 7
    bench.check_accounts()


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (lambda bench: setattr(bench, "pacer", Pacer({"images": Gate(1.0)})), Step()),
        (lambda bench: bench.provider.steps.update(a=[retryable(500.0)]), Step()),
        (lambda bench: setattr(bench, "budget", WatchedBudget(RESERVED)), Step(latency_s=20.0)),
    ],
    ids=["at a gate", "in a backoff", "for money"],
)
async def test_an_interrupt_ends_every_wait(
    make: Callable[..., Bench], first: Callable[[Bench], None], rest: Step
) -> None:
    """Whatever the feeder waits for, it stops waiting at once, and gives back what it had reserved."""
    bench = make(2)
    first(bench)
    bench.provider.otherwise = rest
    async with anyio.create_task_group() as group:
        group.start_soon(_after, 10.0, lambda: bench.stop.ask("interrupted"))
        pool = await bench.run()
    assert pool.error is None
    assert bench.elapsed_s in (10, 20)
    bench.check_accounts()


async def test_an_interrupt_while_the_ledger_is_read_is_not_missed(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one task that is left waits for hours; the run does not wait with it."""
    bench = make(1)
    bench.provider.steps = {"a": [retryable(500.0)]}
    real = Ledger.todo

    def todo(ledger: Ledger, *args: Any) -> Any:
        page = real(ledger, *args)
        if not page:  # by now the attempt has ended, and its task waits
            bench.stop.ask("interrupted")
        return page

    async def slow(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await anyio.sleep(10.0 if function.__name__ == "todo" else 0.0)
        return await inline(function, *args)

    monkeypatch.setattr(anyio.to_thread, "run_sync", slow)
    monkeypatch.setattr(Ledger, "todo", todo)
    await bench.run()
    assert bench.elapsed_s < 100


async def test_a_run_that_was_stopped_before_it_began_sends_nothing(make: Callable[..., Bench]) -> None:
    """A stop may come while the run is still being prepared."""
    bench = make(2)
    bench.stop.ask("interrupted")
    await bench.run_to_the_end()
    assert bench.provider.calls == []


async def test_the_second_interrupt_gives_up_what_is_in_flight(make: Callable[..., Bench]) -> None:
    """At once, and on record: each may have been billed. No temporary file is left, and no task is lost."""
    bench = make(10)
    bench.provider.otherwise = Step(latency_s=300.0)

    def stop() -> None:
        bench.stop.ask("interrupted")
        bench.stop.now()

    async with anyio.create_task_group() as group:
        group.start_soon(_after, 5.0, stop)
        await bench.run(concurrency=3)
    assert bench.elapsed_s == pytest.approx(5)
    assert sorted(bench.statuses().values()) == ["in_doubt"] * 3 + ["planned"] * 7
    assert bench.attempts("outcome, error_code, doubt_microusd") == [("lost", "interrupted", RESERVED)] * 3
    bench.check_accounts()


async def test_what_has_left_is_recorded_even_if_the_run_is_cancelled_from_outside(make: Callable[..., Bench]) -> None:
    """A cancelled scope around the run ends the feeder; what is in flight is shielded until its result is on record."""
    bench = make(10)
    bench.provider.otherwise = Step(latency_s=30.0)
    began_s = anyio.current_time()
    with anyio.move_on_after(5.0) as scope:
        await bench.run(concurrency=3)
    assert scope.cancelled_caught
    assert anyio.current_time() - began_s == pytest.approx(30)
    assert sorted(bench.statuses().values()) == ["done"] * 3 + ["planned"] * 7
    assert bench.partials() == []


async def test_a_limit_bounds_the_tasks_that_are_begun(make: Callable[..., Bench]) -> None:
    """Their retries are not counted: two tasks are asked for, two are done."""
    bench = make(10)
    bench.provider.steps = {"a": [retryable()] * 2}
    await bench.run_to_the_end(limit=2)
    assert bench.statuses() == {"a": "done", "b": "done", **dict.fromkeys(LETTERS[2:10], "planned")}


async def test_more_tasks_than_a_page_are_made_in_order(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of the ledger are seamless: nothing is left out, nothing comes twice."""
    monkeypatch.setattr(pool_module, "PAGE", 7)
    bench = make(30)
    bench.provider.otherwise = Step(latency_s=0.0)
    await bench.run_to_the_end(concurrency=1)
    assert bench.provider.prompts == [row[0] for row in bench.rows("SELECT prompt_id FROM tasks ORDER BY position")]


# -- disks and ledgers that fail ----------------------------------------------------------------


def disk_full(*_: object) -> Any:
    raise StoreError("No space left on device")


def ledger_full(*_: object, **__: object) -> Any:
    raise LedgerError("the disk is full")


async def test_a_disk_that_is_full_in_the_middle_ends_the_run(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request may have been billed; nothing further leaves, others that are whole are kept."""
    bench = make(10)
    real = FilePartial.write

    def write(partial: FilePartial, data: bytes, /) -> None:
        if partial.path.name == "2.part" and not data.startswith(b"\x89PNG"):
            disk_full()
        real(partial, data)

    monkeypatch.setattr(FilePartial, "write", write)
    pool = await bench.run(concurrency=3)
    assert isinstance(pool.error, StoreError)
    assert sorted(bench.provider.prompts) == ["a", "b", "c"]
    assert sorted(bench.statuses().values()) == ["done"] * 2 + ["in_doubt"] + ["planned"] * 7
    assert bench.attempts("error_code, doubt_microusd")[1] == ("store_failed", RESERVED)
    assert bench.heard(events.AttemptFailed)[0].retry_in_s is None
    bench.check_accounts()


async def test_a_disk_that_is_full_before_the_request_leaves_costs_nothing(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a place to receive the image nothing is asked, nothing is in doubt, and the task stays planned."""
    bench = make(10)
    monkeypatch.setattr(FolderStore, "partial", disk_full)
    pool = await bench.run(concurrency=2)
    assert isinstance(pool.error, StoreError)
    assert bench.provider.calls == []
    assert set(bench.statuses().values()) == {"planned"}
    assert set(bench.attempts("outcome, cost_microusd, doubt_microusd")) == {("backoff", None, None)}
    bench.check_accounts()


@pytest.mark.parametrize(
    ("owner", "name", "failure", "doubt"),
    [
        (FilePartial, "seal", disk_full, RESERVED),
        (FolderStore, "place", disk_full, None),
        (attempts, "received", ledger_full, RESERVED),
        (attempts, "saved", ledger_full, None),
    ],
    ids=["seal", "place", "received", "saved"],
)
async def test_what_was_received_whole_is_taken_over_by_the_next_run(
    make: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    failure: Callable[..., Any],
    doubt: int | None,
) -> None:
    """Whichever step after the last byte fails, the run ends with its reason, and the image is not paid for again."""
    bench = make(["a"])
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failure)
        pool = await bench.run()
    assert isinstance(pool.error, (StoreError, LedgerError))
    assert bench.statuses() == {"a": "running"}
    bench.recover()
    assert bench.statuses() == {"a": "done"}
    assert bench.image("a.png") == picture()
    assert bench.attempts("outcome, doubt_microusd") == [("saved", doubt)]
    bench.go_on()
    await bench.run()
    assert bench.provider.calls == []
    assert bench.partials() == []


async def test_a_ledger_that_cannot_be_written_sends_nothing(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 1: without a record no request leaves."""
    bench = make(10)
    monkeypatch.setattr(attempts, "begin", ledger_full)
    pool = await bench.run(concurrency=2)
    assert isinstance(pool.error, LedgerError)
    assert bench.provider.calls == []
    assert set(bench.statuses().values()) == {"planned"}


async def test_a_ledger_that_cannot_be_read_ends_the_run_after_what_is_in_flight(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the run's, not a crash; what had left is finished and recorded."""
    bench = make(2)
    real = Ledger.todo

    def todo(ledger: Ledger, job: Any, position: int, limit: int) -> Any:
        return real(ledger, job, position, limit) if position < 0 else ledger_full()

    async def slow(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await anyio.sleep(0.5 if function.__name__ == "todo" else 0.0)
        return await inline(function, *args)

    monkeypatch.setattr(anyio.to_thread, "run_sync", slow)
    monkeypatch.setattr(Ledger, "todo", todo)
    pool = await bench.run()
    assert isinstance(pool.error, LedgerError)
    assert bench.statuses() == {"a": "done", "b": "done"}
    bench.check_accounts()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StopRun("no such key", code="invalid_api_key"), "invalid_api_key"),
        (StoreError("No space left on device"), "store_failed"),
    ],
    ids=["key", "disk"],
)
async def test_what_is_on_record_when_another_request_would_be_in_vain_does_not_leave(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, error: RunnerError, code: str
) -> None:
    """Several wait for their near instant when a key proves wrong, or a disk full: all are given back."""
    bench = make(12)
    slow_commits(monkeypatch, lambda: 0.001)
    bench.pacer = Pacer({"images": Gate(3000.0)})
    bench.provider.steps = {"a": [failing(error, 0.03)]}
    bench.provider.otherwise = Step(latency_s=1.0)
    pool = await bench.run(concurrency=12)
    assert pool.error is error
    assert bench.provider.prompts == ["a", "b"]
    codes = [row[0] for row in bench.attempts("error_code")]
    assert (codes.count(code), codes.count(None)) == (1, 1)
    assert codes.count("not_sent") == len(codes) - 2 > 1
    assert list(bench.statuses().values()).count("planned") >= 10
    bench.check_accounts()


@pytest.mark.parametrize("step", [lost(), retryable(), Step()], ids=["lost", "retryable", "good"])
async def test_a_result_that_cannot_be_recorded_stays_open(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    """The attempt is there with its reserved money, for the next run to judge; its neighbour is not touched."""
    bench = make(2)
    bench.provider.steps = {"b": [step]}
    bench.pacer = Pacer({"images": Gate(120.0)})
    for name in ("lost", "unsaved", "received"):
        real = getattr(attempts, name)

        def fail(connection: Any, attempt_id: int, *args: Any, _real: Any = real, **more: Any) -> None:
            if attempt_id == 2:
                ledger_full()
            _real(connection, attempt_id, *args, **more)

        monkeypatch.setattr(attempts, name, fail)
    pool = await bench.run()
    assert isinstance(pool.error, LedgerError)
    assert bench.rows("SELECT a.id, t.status FROM attempts a JOIN tasks t ON t.id = a.task_id") == [
        (1, "done"),
        (2, "running"),
    ]
    assert bench.attempts("outcome, reserved_microusd")[1] == (None, RESERVED)


# -- names --------------------------------------------------------------------------------------


async def test_an_image_whose_place_is_taken_by_another_task_moves_it_aside(make: Callable[..., Bench]) -> None:
    """A prompt was edited and kept its file's name: the old image is kept in `superseded/`, and on record there."""
    bench = make(["a"])
    old = picture(1024, 1024)
    await bench.run_to_the_end()
    bench.want([task("b", name="a.png")])
    bench.go_on()
    new = picture()[:33] + _text_chunk() + picture()[33:]
    bench.provider.otherwise = Step(data=new)
    await bench.run_to_the_end()
    assert bench.image("a.png") == new
    paths = dict(bench.rows("SELECT t.prompt_id, s.path FROM assets s JOIN tasks t ON t.id = s.task_id"))
    assert paths["b"] == "job/images/a.png"
    assert paths["a"].startswith("job/superseded/a~")
    assert (bench.output / paths["a"]).read_bytes() == old


async def test_a_file_that_nobody_knows_is_moved_aside_too(make: Callable[..., Bench]) -> None:
    """What a person put there is not overwritten."""
    bench = make(["a"])
    place = bench.output / "job" / "images" / "a.png"
    place.write_bytes(b"mine")
    await bench.run_to_the_end()
    assert place.read_bytes() == picture()
    assert [path.read_bytes() for path in (bench.output / "job" / "superseded").iterdir()] == [b"mine"]


# -- real threads and the other event loop ------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_it_works_with_real_threads_and_real_time(anyio_backend: str, tmp_path: Path) -> None:
    """Images, retries, refusals, doubt and a fallback side by side, on either event loop."""
    with bench_at(tmp_path, list(LETTERS)) as bench:
        bench.policy = Policy(base_s=0.001)
        bench.provider.otherwise = Step(latency_s=0.0)
        quick: list[ProviderError] = [
            Retryable("oops", code="http_500"),
            RateLimited("slower", code="rate_limit_exceeded", retry_after_s=0.001),
            Lost("cut", code="connection_cut"),
            Refused("no", code="moderation_blocked"),
        ]
        bench.provider.steps = {prompt: [failing(error, 0.0)] for prompt, error in zip(LETTERS, quick, strict=False)}
        bench.provider.judge = lambda call: (
            failing(gone().error or RunnerError(""), 0.0) if (call.prompt == "z" and call.model == MODEL) else None
        )
        await bench.run_to_the_end(fallback_model=FALLBACK)
        assert bench.statuses() == {**dict.fromkeys(LETTERS, "done"), "d": "refused"}
        assert bench.provider.most_in_flight <= 4


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("immediate", [False, True])
async def test_it_stops_with_real_threads_and_real_time(anyio_backend: str, immediate: bool, tmp_path: Path) -> None:
    """What is in flight is finished, or given up and on record; nothing else begins."""
    with bench_at(tmp_path, list(LETTERS)) as bench:
        bench.provider.otherwise = Step(latency_s=30.0 if immediate else 0.05)

        def listen(event: events.Event) -> None:
            if isinstance(event, events.AttemptBegan) and event.attempt_id == 3:
                bench.stop.ask("interrupted")
            if immediate and len(bench.provider.calls) == 2 and not bench.stop.immediate:
                bench.stop.now()

        bench.listener = listen
        await bench.run(concurrency=3)
        assert set(bench.statuses().values()) == {"in_doubt" if immediate else "done", "planned"}
        bench.check_accounts()


async def _after(delay_s: float, action: Callable[[], None]) -> None:
    await anyio.sleep(delay_s)
    action()


def _text_chunk() -> bytes:
    """A PNG chunk that makes a file differ from its like."""
    body = b"tEXta\x00b"
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
