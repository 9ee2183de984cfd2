"""What a plan says of batch delivery, through the command line, and what an invocation makes of its options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from runner import invocation
from runner.cli import options
from runner.invocation import Options
from runner.ledger import Ledger, Spending
from runner.rules.pricing import UNTRIED
from runner.tasks import Edit, ImageRequest, Input
from tests.engine.command_support import GOOD, Desk

FLARE = "gpt-image-2.6-flare"


def plan(desk: Desk, job: str, *words: str) -> dict[str, Any]:
    """The totals of `runner plan --json`."""
    return desk.call("plan", job, "--json", *words).entries[-1]


def known_to_the_ledger(job: str) -> None:
    """As if the job had been run before."""
    with Ledger.open(Options().ledger_place, create=True) as ledger:
        ledger.make_job(job, manifest_path=f"{job}.yaml", now_ms=0)


def test_the_plan_shows_both_prices_and_says_which_is_chosen(desk: Desk) -> None:
    """A person sees what batch would save before asking for it, and what online costs after."""
    job = desk.manifest("both", GOOD, limits={"images_per_minute": 1})
    online, batch = desk.call("plan", job), desk.call("plan", job, "--delivery", "batch")
    both = "online $0.011865 in at least 2m00s; batch $0.005933 within 24 h; chosen: "
    assert both + "online\n" in online.out
    assert both + "batch\n" in batch.out
    assert "2 images to make with openai, at least 2m00s at the allowed rate" in online.out
    assert "2 images to make with openai, in 1 batch, within 24 h" in batch.out
    assert "expected $0.011865," in online.out
    assert "expected $0.005933," in batch.out
    assert "made online" not in online.out + batch.out


def test_the_plan_as_json_has_both_offers(desk: Desk) -> None:
    job = desk.manifest("json", GOOD, limits={"images_per_minute": 1}, delivery="batch", batch={"max_requests": 1})
    told = plan(desk, job)
    assert (told["delivery"], told["batches"], told["duration_s"], told["within_s"]) == ("batch", 2, None, 86_400)
    assert told["offers"] == {
        "online": {
            "expected_microusd": 11_865,
            "worst_microusd": told["offers"]["online"]["worst_microusd"],
            "expected_usd": 0.011865,
            "worst_usd": told["offers"]["online"]["worst_usd"],
            "at_least_s": 120,
            "within_s": None,
        },
        "batch": {
            "expected_microusd": told["expected_microusd"],
            "worst_microusd": told["worst_microusd"],
            "expected_usd": told["expected_usd"],
            "worst_usd": told["worst_usd"],
            "at_least_s": None,
            "within_s": 86_400,
        },
    }
    assert told["expected_microusd"] == 5_933
    assert plan(desk, job, "--delivery", "online")["delivery"] == "online", "the command line wins"
    assert (
        plan(desk, job, "--provider", "cometapi", "--delivery", "online", "--set", "model=gpt-image-1-mini")["offers"]
        == {}
    )


def test_what_falls_back_is_told_with_the_most_that_it_can_come_to(desk: Desk) -> None:
    """At most half the price is not the whole truth where what is late is made online."""
    job = desk.manifest("late", GOOD, delivery="batch", batch={"fall_back": "online", "after": "20h"})
    told = plan(desk, job)
    assert told["falls_back"]
    dearest = told["offers"]["online"]["worst_usd"]
    assert f"what no batch delivers is made online: ${dearest} at most" in desk.call("plan", job).out


@pytest.mark.parametrize(
    ("words", "place", "says"),
    [
        ((), "job.yaml:3:8: ", f"{FLARE} is not known to be served in batches"),
        (("--provider", "cometapi"), "job.yaml:4:1: ", "cometapi is not known to have the Batch API"),
        (
            ("--set", "delivery=batch", "--provider", "cometapi"),
            "--set delivery=batch: ",
            "cometapi is not known to have the Batch API",
        ),
        (("--delivery", "batch", "--provider", "cometapi"), "", "cometapi is not known to have the Batch API"),
        (("--delivery", "batch"), "job.yaml:3:8: ", f"{FLARE} is not known to be served in batches"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_no_batch_can_be_of_is_refused_before_anything_is_sent(
    desk: Desk, command: str, words: tuple[str, ...], place: str, says: str
) -> None:
    """Exit code 2, the line of the model or of the delivery, and what to do."""
    Path("job.yaml").write_text(f"name: a\nprompts: [A cat]\nmodel: {FLARE}\ndelivery: batch\n")
    said = desk.call(command, "job.yaml", *words, *(desk.to_peer if command == "run" else ()))
    assert said.code == 2
    assert f"error: {place}delivery by batch: {says}" in said.err
    assert "hint:" in said.err
    assert "--catalog" in said.err
    assert desk.requests() == 0


def test_what_the_hint_says_helps(desk: Desk) -> None:
    """A catalog of one's own with the three things that the hints name, and the same job is planned."""
    Path("job.yaml").write_text(
        "name: a\nprompts: [A cat]\nmodel: gpt-image-1-mini\nprovider: cometapi\ndelivery: batch\n"
    )
    Path("own.yaml").write_text(
        "providers: {cometapi: {batch: true}}\n"
        "prices: [{provider: cometapi, model: gpt-image-1-mini, delivery: batch, text_in: 3, cached_text_in: 3, "
        "image_in: 3, cached_image_in: 3, image_out: 12, source: cometapi-prices}]\n"
    )
    assert desk.call("plan", "job.yaml").code == 2
    assert list(plan(desk, "job.yaml", "--catalog", "own.yaml")["offers"]) == ["online", "batch"]


def test_a_budget_that_the_batches_do_not_fit_into_is_warned_of(desk: Desk) -> None:
    """Nothing of a batch is settled before it is over: what counts is the worst case of all of it, at its own price."""
    job = desk.manifest("cap", GOOD)
    told = plan(desk, job, "--delivery", "batch")
    worst = told["worst_usd"]
    (warning,) = plan(desk, job, "--delivery", "batch", "--budget", f"{worst - 0.000001:.6f}")["warnings"]
    assert f"${worst} would be reserved for the batches" in warning
    assert plan(desk, job, "--delivery", "batch", "--budget", f"{worst:.6f}")["warnings"] == []
    (warning,) = plan(desk, job, "--budget", f"{worst:.6f}")["warnings"]
    assert "are expected" in warning, "online it is the expected price, and twice as much"


def test_what_was_submitted_is_neither_to_do_nor_paid_for_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 3: the provider has it."""
    from runner.planner import Known
    from runner.tasks import Status

    job = desk.manifest("half", GOOD)
    known_to_the_ledger("half")
    monkeypatch.setattr(
        Ledger, "lookup", lambda self, job: lambda keys: {keys[0]: Known(Status.SUBMITTED)} if keys else {}
    )
    told = plan(desk, job, "--delivery", "batch")
    assert (told["submitted"], told["to_do"], told["batches"]) == (1, 1, 1)
    assert "1 are in batches that the provider has: see `runner status half`" in desk.call("plan", job).out


# -- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wait", "terminal", "waits"), [
    (None, True, True), (None, False, False), (True, False, True), (False, True, False),
])  # fmt: skip
def test_a_run_waits_at_a_terminal_and_leaves_in_cron(
    wait: bool | None, terminal: bool, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is told."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert options.gather(wait=wait).wait is waits


def test_options_say_nothing_of_the_delivery_unless_they_are_asked() -> None:
    """Python's default leaves it to the manifest, and does not wait."""
    assert (Options().delivery, Options().wait) == (None, False)
    assert options.gather().delivery is None
    assert options.gather(delivery=options.Delivery.BATCH).delivery == "batch"
    assert options.gather(delivery=options.Delivery.ONLINE).delivery == "online"


@pytest.mark.parametrize(
    ("asked", "written", "fall_back", "delivery", "falls_back"),
    [
        (None, None, None, "online", False),
        (None, "batch", None, "batch", False),
        (None, "batch", "online", "batch", True),
        ("batch", None, "online", "batch", True),
        ("batch", "online", None, "batch", False),
        ("online", "batch", "online", "online", False),
    ],
)
def test_the_models_are_those_of_the_delivery(
    desk: Desk, asked: Any, written: str | None, fall_back: str | None, delivery: str, falls_back: bool
) -> None:
    """The fallback of online is not that of a batch; what falls back online has models of its own."""
    more: dict[str, object] = {"delivery": written} if written else {}
    more |= {"batch": {"fall_back": fall_back}} if fall_back else {}
    job = desk.manifest("who", GOOD, fallback_model=FLARE, **more)
    request = invocation.prepare(job, Options(delivery=asked), None)
    assert request.delivery == delivery
    assert request.models.fallback == (FLARE if delivery == "online" else None)
    assert (request.online_models is not None) == falls_back
    if request.online_models is not None:
        assert request.online_models.fallback == FLARE


def test_a_quoter_has_the_prices_and_models_of_its_delivery(desk: Desk) -> None:
    """Half the price in a batch; calibrated alike; and online the models that are asked there."""
    job = desk.manifest("quotes", GOOD, delivery="batch", batch={"fall_back": "online"})
    request = invocation.prepare(job, Options(), None)
    asked = ImageRequest("A cat", "gpt-image-2", "1024x1024", "low", edit=Edit((Input("0" * 64, 512, 512),)))
    seen = {"gpt-image-2": UNTRIED}
    batch = invocation.quoter_for(request, "batch", seen).quote(asked)
    online = invocation.quoter_for(request, "online", seen).quote(asked)
    assert online.tokens == batch.tokens
    assert abs(online.expected_microusd - 2 * batch.expected_microusd) <= 3
    assert invocation.quoter_for(request, "online", seen).effective_models == {"gpt-image-2"}


def test_what_submitted_batches_reserve_counts_against_the_cap(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 4: money that a batch may still cost is not there for another request."""
    job = desk.manifest("reserved", GOOD)
    known_to_the_ledger("reserved")
    monkeypatch.setattr(Ledger, "spending", lambda self, job, *, simulated, since_ms: Spending(10, 20, 30))
    words = Options(overrides=("budget={usd: 0.0001, per: day}",))
    with Ledger.open(Options().ledger_place, create=False) as ledger:
        budget = invocation.budget_for(invocation.prepare(job, words, ledger), words, ledger, ledger.job("reserved"))
    assert (budget.reserved_microusd, budget.committed_microusd, budget.left_microusd) == (30, 60, 40)
