"""Whole runs through the Batch API: what is submitted, what a line means, what it costs, what is never paid twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runner.engine.batch.common import custom_id, told_of
from runner.ledger.types import Told
from runner.provider.batches import BatchInfo
from tests.edges.simulator_support import Peer, running
from tests.engine.batch_support import PROMPTS, Mill, hurry, of_type

COST = 2_963
"""What each of `PROMPTS` but the first costs in a batch, in micro-dollars; the simulator's own figure."""
GOOD = "An oak chair"


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat") as peer:
        yield peer


@pytest.fixture
def mill(
    server: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Mill]:
    server.call("POST", "/simulator/reset")
    hurry(monkeypatch)
    mill = Mill(tmp_path, server, monkeypatch, capsys)
    yield mill
    mill.faults()


# -- what is submitted ------------------------------------------------------------------------------


def test_every_image_comes_home_once_at_half_the_price(mill: Mill) -> None:
    """Results out of order, three batches: each image is there, and costs half of what it costs online."""
    said = mill.wait(mill.job(batch={"max_requests": 2}))
    assert said.code == 0
    cost = mill.all_home(5)
    assert mill.creates == 3
    assert [row["requests"] for row in mill.rows("SELECT requests FROM batches ORDER BY id")] == [2, 2, 1]
    assert said.summary["cost_microusd"] == cost
    assert (said.summary["made"], said.summary["requests"], said.summary["batches"]) == (5, 5, 0)
    online = mill.run(mill.manifest("day", [f"{prompt}!" for prompt in PROMPTS]), "--json")
    assert online.code == 0
    assert abs(online.summary["cost_microusd"] - 2 * cost) <= 2 * 5 * 10
    # Rounded once for each request, so that half is not always half to the micro-dollar.
    same = mill.wait(mill.job("again", [f"{prompt}!" for prompt in PROMPTS], edition="other"))
    assert abs(2 * same.summary["cost_microusd"] - online.summary["cost_microusd"]) <= 5
    assert mill.account()[1] == 0


def test_a_second_run_has_nothing_to_do(mill: Mill) -> None:
    """Law 3: no call to the provider at all."""
    job = mill.job()
    assert mill.wait(job).code == 0
    calls = mill.seen()["calls"]
    again = mill.wait(job)
    assert (again.code, again.summary["requests"], again.summary["made"]) == (0, 0, 0)
    assert mill.seen()["calls"] == calls
    mill.all_home(5)


def test_a_batch_has_one_model_and_one_endpoint(mill: Mill) -> None:
    """The API allows no more; the manifest may mix."""
    models = ["gpt-image-2", "gpt-image-1-mini"]
    job = mill.job(prompts=[GOOD, "A tin robot"], matrix={"model": models})
    assert mill.wait(job).code == 0
    mill.all_home(4)
    batches = mill.seen()["batches"]
    assert sorted(batch["model"] for batch in batches) == sorted(models)
    assert [batch["request_counts"]["total"] for batch in batches] == [2, 2]


@pytest.mark.parametrize("wait", ["--wait", "--no-wait"])
def test_a_limit_is_of_what_is_begun(mill: Mill, wait: str) -> None:
    """`--limit 3` puts three images into batches, the last of which is not full; the rest stays planned."""
    said = mill.run(mill.job(batch={"max_requests": 2}), wait, "--json", "--limit", "3")
    assert said.code == 0
    assert mill.creates == 2
    assert said.summary["planned"] == 2
    assert said.summary["done"] + said.summary["submitted"] == said.summary["requests"] == 3
    assert mill.collect("night").code == 0
    assert mill.run(mill.job(batch={"max_requests": 2}), "--wait").code == 0
    mill.all_home(5)


@pytest.mark.parametrize(
    "faults",
    [
        ["create_500:times=1"],
        ["create_500:times=1,value=before"],
        ["create_reset:times=1"],
        ["create_reset:times=1,value=before"],
        ["create_reset:times=1", "batches_late:times=1"],
        ["create_reset:times=1", "batches_500:times=2"],
        ["create_429:times=1"],
        ["upload_500:times=1"],
        ["retrieve_reset:times=2"],
        ["content_cut:times=2,value=0.4"],
        ["content_cut:times=1", "content_whole"],
    ],
    ids=" ".join,
)
def test_a_call_that_goes_wrong_creates_no_second_batch(mill: Mill, faults: list[str]) -> None:
    """Done or not done, with the answer lost: the batch is looked for, more than once, before it is created anew."""
    mill.faults(*faults)
    assert mill.wait(mill.job(retry={"attempts": 4, "base_s": 0.001})).code == 0
    mill.all_home(5)
    assert mill.creates == 1
    assert len(mill.rows("SELECT 1 FROM batches")) == 1


# -- money ------------------------------------------------------------------------------------------


def test_at_the_cap_what_fits_is_submitted(mill: Mill) -> None:
    """Law 4: exit code 5, and no more was reserved than the cap allows; what was under it is in a batch."""
    said = mill.submit(mill.job(), "--budget", "0.010")
    assert said.code == 5
    assert "budget" in said.summary["reason"]
    assert mill.creates == 1
    (reserved,) = mill.rows("SELECT SUM(reserved_microusd) AS sum, COUNT(*) AS n FROM attempts")
    assert reserved["n"] == 3 == said.summary["submitted"]
    assert reserved["sum"] <= 10_000
    assert said.summary["planned"] == 2
    mill.over()
    assert mill.collect("night").code == 0
    assert mill.account() == (said.summary["cost_microusd"] + mill.peer.bill()["cost_microusd"], 0)


def test_money_that_comes_free_is_used_by_a_run_that_waits(mill: Mill) -> None:
    """A request costs less than its worst case: what is left over pays for one more, as often as it does."""
    (one,) = of_type(mill.wait(mill.job("one", ["An oak chair 0"])), "batch_submitted")
    worst = one["reserved_microusd"]
    prompts = [f"An oak chair {n}" for n in range(40)]
    cap_microusd = worst * 38
    said = mill.wait(
        mill.job("many", prompts, edition="other", batch={"max_requests": 10}), "--budget", f"{cap_microusd / 1e6}"
    )
    made, spent = said.summary["made"], said.summary["cost_microusd"]
    assert spent <= cap_microusd
    assert said.code == (0 if made == 40 else 5)
    assert made >= 38
    assert mill.creates > 4, "the money that came free was used once more"


@pytest.mark.parametrize("per", ["day", "job"])
def test_an_open_batch_of_an_earlier_run_counts_against_the_cap(mill: Mill, per: str) -> None:
    """What the provider works on is reserved, whichever run has submitted it."""
    mill.faults("batch_stuck")
    job = mill.job(budget={"usd": 0.010, "per": per})
    assert mill.submit(job).code == 5
    again = mill.submit(job)
    assert (again.code, again.summary["requests"]) == (5, 0)
    assert of_type(again, "run_began")[0]["committed_microusd"] > 7_000
    assert mill.creates == 1


def test_a_cap_of_each_run_leaves_out_what_another_has_submitted(mill: Mill) -> None:
    """Per run means per run: the second one has all of it again."""
    mill.faults("batch_stuck")
    job = mill.job()
    assert mill.submit(job, "--budget", "0.010").code == 5
    again = mill.submit(job, "--budget", "0.010")
    assert (again.code, again.summary["requests"]) == (0, 2)
    assert mill.statuses() == {"submitted": 5}


# -- what a line means ------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", ["moderation", "moderation=output", "invalid_request"])
def test_a_refused_line_is_refused(mill: Mill, marker: str) -> None:
    """In whichever of the two files it stands: not billed, and left alone by the next run."""
    job = mill.job(prompts=[GOOD, f"[[fault:{marker}]] no"])
    said = mill.wait(job)
    assert said.code == 4
    assert mill.statuses() == {"done": 1, "refused": 1}
    assert mill.account() == (said.summary["cost_microusd"], 0)
    assert mill.creates == 1
    again = mill.wait(job)
    assert (again.code, again.summary["requests"]) == (4, 0)


def test_a_failed_line_is_tried_again_in_another_batch_until_it_goes_through(mill: Mill) -> None:
    """A 500 in a line is not billed, and says nothing about the next time."""
    said = mill.wait(mill.job(prompts=[GOOD, "[[fault:status=500*2]] late"], retry={"attempts": 5, "base_s": 0.001}))
    assert said.code == 0
    mill.all_home(2)
    assert mill.creates == 3


@pytest.mark.parametrize("kind", ["status=500", "status=503", "rate_limit"])
def test_a_line_that_always_fails_is_given_up_after_as_many_attempts_as_the_manifest_says(
    mill: Mill, kind: str
) -> None:
    """`retry.attempts` batches; in a line, "slower" is an attempt like any other."""
    job = mill.job(prompts=[GOOD, f"[[fault:{kind}]] never"], retry={"attempts": 3, "base_s": 0.001})
    said = mill.wait(job)
    assert said.code == 4
    assert mill.statuses() == {"done": 1, "failed": 1}
    assert mill.creates == 3
    assert mill.rows("SELECT outcome FROM attempts WHERE task_id = 2 ORDER BY id") == [
        {"outcome": "backoff"},
        {"outcome": "backoff"},
        {"outcome": "gave_up"},
    ]


@pytest.mark.parametrize(
    "kind", ["not_image", "wrong_size", "wrong_format", "truncated_image", "bad_base64", "no_data"]
)
def test_an_answer_without_a_usable_image_is_a_cost_and_is_tried_again(mill: Mill, kind: str) -> None:
    """Its usage was told: it is paid, and another batch brings the image."""
    job = mill.job(prompts=[GOOD, f"[[fault:{kind}*1]] odd"], retry={"billed_attempts": 3, "base_s": 0.001})
    said = mill.wait(job)
    assert said.code == 0
    mill.all_home(2)
    assert [row["outcome"] for row in mill.rows("SELECT outcome FROM attempts ORDER BY id")] == [
        "saved",
        "backoff",
        "saved",
    ]
    (bad,) = mill.rows("SELECT cost_microusd, doubt_microusd FROM attempts WHERE id = 2")
    assert bad["cost_microusd"] > 0
    assert bad["doubt_microusd"] is None


def test_images_that_are_never_usable_are_given_up_with_their_costs(mill: Mill) -> None:
    """`retry.billed_attempts` of them, each on the bill and on record."""
    job = mill.job(prompts=[GOOD, "[[fault:wrong_size]] odd"], retry={"billed_attempts": 2, "base_s": 0.001})
    said = mill.wait(job)
    assert said.code == 4
    assert mill.statuses() == {"done": 1, "failed": 1}
    assert mill.account() == (said.summary["cost_microusd"], 0)
    assert len(mill.peer.entries()) == 3


@pytest.mark.parametrize("kind", ["missing_usage", "zero_usage"])
def test_an_image_without_its_usage_is_kept_and_its_cost_estimated(mill: Mill, kind: str) -> None:
    """What was reserved counts as its cost: never less than the bill."""
    said = mill.wait(mill.job(prompts=[GOOD, f"[[fault:{kind}]] quiet"]))
    assert said.code == 0
    assert mill.statuses() == {"done": 2}
    (row,) = mill.rows("SELECT cost_microusd, reserved_microusd FROM attempts WHERE cost_basis = 'estimate'")
    assert row["cost_microusd"] == row["reserved_microusd"]
    billed, doubt = mill.account()
    assert (doubt, said.summary["cost_microusd"] >= billed) == (0, True)


@pytest.mark.parametrize("hold", [False, True])
def test_a_line_that_was_billed_and_never_came_is_in_doubt(mill: Mill, hold: bool) -> None:
    """The provider counts one more as completed than it has answered: tried again, or held for a person."""
    job = mill.job(prompts=[GOOD, "[[fault:missing_line*1]] lost"], retry={"billed_attempts": 3, "base_s": 0.001})
    said = mill.wait(job, *(["--in-doubt", "hold"] if hold else []))
    assert mill.statuses() == ({"done": 1, "in_doubt": 1} if hold else {"done": 2})
    assert said.code == (4 if hold else 0)
    billed, doubt = mill.account()
    (lost,) = mill.rows("SELECT * FROM attempts WHERE outcome = 'lost'")
    assert doubt == lost["doubt_microusd"] == lost["reserved_microusd"]
    assert said.summary["in_doubt_microusd"] == doubt
    assert said.summary["cost_microusd"] < billed <= said.summary["cost_microusd"] + doubt
    assert mill.creates == (1 if hold else 2)


def test_a_line_that_never_came_is_held_after_as_many_doubts_as_the_manifest_allows(mill: Mill) -> None:
    """It stays in doubt until the next run, which tries it once more."""
    job = mill.job(prompts=[GOOD, "[[fault:missing_line]] lost"], retry={"billed_attempts": 2, "base_s": 0.001})
    mill.later(minutes=11)  # the provider has had its time to name results of which there are none
    assert mill.wait(job).code == 4
    assert mill.statuses() == {"done": 1, "in_doubt": 1}
    assert mill.creates == 2
    assert mill.wait(job).code == 4
    assert mill.creates == 3
    assert mill.statuses() == {"done": 1, "in_doubt": 1}
    mill.account()


def test_results_that_are_not_named_yet_are_waited_for(mill: Mill) -> None:
    """A batch that is over and must have results is asked again: to take them for missing would doubt what is there."""
    job = mill.job(prompts=["[[fault:missing_line]] lost"], retry={"billed_attempts": 1})
    said = mill.wait(job)
    assert said.code == 6
    assert "not named yet" in said.err
    assert mill.statuses() == {"submitted": 1}
    mill.later(minutes=11)
    assert mill.collect("night").code == 4
    assert mill.statuses() == {"in_doubt": 1}
    mill.account()


@pytest.mark.parametrize(("told", "is_doubtful"), [("one less", False), ("as it is", True), ("nothing", True)])
def test_a_line_that_never_came_is_no_doubt_where_the_provider_counts_it_out(
    mill: Mill, monkeypatch: pytest.MonkeyPatch, told: str, is_doubtful: bool
) -> None:
    """Only if every image that it says it has completed has been seen; without a count everything is in doubt."""

    def miscounted(info: BatchInfo) -> Told:
        what = told_of(info)
        completed = {"one less": max(0, (what.completed or 0) - 1), "as it is": what.completed}.get(told)
        return replace(what, completed=completed)

    monkeypatch.setattr("runner.engine.batch.watching.told_of", miscounted)
    job = mill.job(
        prompts=[GOOD, "[[fault:missing_line=unbilled*1]] lost"], retry={"billed_attempts": 3, "base_s": 0.001}
    )
    assert mill.wait(job).code == 0
    billed, doubt = mill.account()
    (silent,) = mill.rows("SELECT * FROM attempts WHERE error_code = 'no_answer'")
    assert (silent["outcome"], silent["doubt_microusd"]) == (
        ("lost", silent["reserved_microusd"]) if is_doubtful else ("backoff", None)
    )
    assert (doubt > 0) is is_doubtful
    assert billed == sum(row["cost_microusd"] or 0 for row in mill.rows("SELECT cost_microusd FROM attempts"))
    assert mill.statuses() == {"done": 2}


def test_a_line_that_does_not_prove_whose_it_is_is_foreign(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number alone could be that of another ledger's request: without its task's hash nothing of it is believed."""
    monkeypatch.setattr(
        "runner.engine.batch.drafting.custom_id", lambda attempt_id, key: custom_id(attempt_id, "0" * 64)
    )
    said = mill.wait(mill.job(), "--in-doubt", "hold")
    assert said.code == 4
    assert mill.statuses() == {"in_doubt": 5}
    assert mill.images() == []
    assert mill.leftovers() == []


def test_a_line_that_comes_twice_is_saved_once(mill: Mill) -> None:
    """The second is passed over: one image, one cost, no file beside it."""
    said = mill.wait(mill.job(prompts=[GOOD, "[[fault:double_line]] twice", "A tin robot"]))
    assert said.code == 0
    mill.all_home(3)
    assert len(mill.images()) == 3
    assert len(of_type(said, "saved")) == 3


def test_a_line_that_cannot_be_read_is_in_doubt_and_takes_no_other_with_it(mill: Mill) -> None:
    """It is no JSON: it was billed, and tells no usage, or nobody can say whose it is."""
    job = mill.job(prompts=[GOOD, "[[fault:broken_line*1]] broken", "A tin robot"], retry={"billed_attempts": 3})
    said = mill.wait(job)
    assert said.code == 0
    assert mill.statuses() == {"done": 3}
    billed, doubt = mill.account()
    settled = sum(row["cost_microusd"] or 0 for row in mill.rows("SELECT cost_microusd FROM attempts"))
    assert settled <= billed <= settled + doubt
    assert mill.creates == 2


def test_a_line_that_stops_everyone_ends_the_run_after_what_has_come_is_home(mill: Mill) -> None:
    """A quota that is used up: exit code 6, the other images are saved, nothing is submitted after it."""
    said = mill.wait(mill.job(prompts=[GOOD, "[[fault:insufficient_quota]] no money", "A tin robot"]))
    assert said.code == 6
    assert mill.statuses() == {"done": 2, "planned": 1}
    assert mill.creates == 1
    assert mill.account()[1] == 0


# -- what a batch can come to -----------------------------------------------------------------------


def test_a_batch_that_fails_in_validation_costs_nothing_and_is_said(mill: Mill) -> None:
    """Another would fail as well: the run ends with the provider's words, and everything stays planned."""
    mill.faults("batch_fails:value=invalid_request")
    said = mill.submit(mill.job())
    assert said.code == 6
    assert "invalid_request" in said.summary["reason"]
    assert mill.statuses() == {"planned": 5}
    assert mill.account() == (0, 0)
    assert mill.states() == ["dissolved"]
    mill.faults()
    assert mill.wait(mill.job()).code == 0
    mill.all_home(5)


def test_a_line_that_fails_the_validation_is_refused_and_the_others_are_submitted_again(mill: Mill) -> None:
    """`errors.data` names the line; its task is the one that stands there."""
    mill.faults("batch_fails:value=invalid_value@2,times=1")
    said = mill.wait(mill.job())
    assert said.code == 4
    assert mill.statuses() == {"done": 4, "refused": 1}
    (refused,) = mill.rows("SELECT position FROM tasks WHERE status = 'refused'")
    assert refused["position"] == 1
    assert mill.creates == 2
    assert mill.account() == (said.summary["cost_microusd"], 0)


def test_a_full_queue_is_waited_for_with_smaller_batches(mill: Mill) -> None:
    """Refused twice in validation: half as large each time, and then all of it goes through."""
    mill.faults("batch_fails:value=token_limit_exceeded,times=2")
    said = mill.wait(mill.job(prompts=[f"An oak chair {n}" for n in range(8)]))
    assert said.code == 0
    mill.all_home(8)
    assert [row["requests"] for row in mill.rows("SELECT requests FROM batches ORDER BY id")][:3] == [8, 4, 2]
    assert len(of_type(said, "held")) == 2


def test_a_full_queue_ends_a_run_that_does_not_wait(mill: Mill) -> None:
    """It cannot submit what is left: exit code 6 with the provider's words, and the rest stays planned."""
    mill.faults("batch_fails:value=token_limit_exceeded,after=1")
    said = mill.submit(mill.job(batch={"max_requests": 2}))
    assert said.code == 6
    assert "queue is full" in said.summary["reason"]
    assert said.summary["planned"] == 3
    assert mill.account()[1] == 0


@pytest.mark.parametrize("rule", ["batch_expires:value=0.6,times=1", "batch_hides:times=1"])
def test_what_expired_is_not_billed_and_submitted_again(mill: Mill, rule: str) -> None:
    """With a line in the error file for each request that was not reached, or without one."""
    rules = [rule] if "expires" in rule else [rule, "batch_expires:value=0.6,times=1"]
    mill.faults(*rules)
    said = mill.wait(mill.job())
    assert said.code == 0
    mill.all_home(5)
    assert mill.creates == 2
    first, second = of_type(said, "batch_collected")
    assert (first["status"], first["saved"], first["planned"], first["in_doubt"]) == ("expired", 3, 2, 0)
    assert second["saved"] == 2


def test_a_run_ends_when_nothing_comes_of_its_batches(mill: Mill) -> None:
    """Every batch expires with nothing done: a run that waits does not go on for ever."""
    mill.faults("batch_expires:value=0")
    said = mill.wait(mill.job())
    assert said.code == 4
    assert mill.creates == 1
    assert mill.statuses() == {"planned": 5}
    assert mill.account() == (0, 0)


def test_results_that_cannot_be_read_today_are_read_tomorrow(mill: Mill) -> None:
    """A file that the provider does not find, although it is young: nothing is given up."""
    job = mill.job()
    mill.faults("content_gone")
    said = mill.wait(job)
    assert said.code != 0
    assert mill.statuses() == {"submitted": 5}
    mill.faults()
    assert mill.wait(job).code == 0
    mill.all_home(5)
    assert mill.creates == 1
