"""Whole runs through the Python API against a simulator: what is made, what is not paid again, and what it cost."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import runner
from runner import Options
from runner.engine import events
from runner.engine.events import Event, Summary
from runner.engine.stop import Stop
from runner.errors import InputError, Locked, StopRun
from runner.ledger import Ledger
from tests.edges.simulator_support import Peer, running

MODEL, FALLBACK = "gpt-image-1-mini", "gpt-image-2.6-flare"
NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat") as it:
        yield it


@pytest.fixture
def peer(server: Peer, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """The simulator with an empty bill and no faults; asked directly, whatever the machine's own settings are."""
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy", "RUNNER_OUTPUT", "RUNNER_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    set_faults(server)
    server.call("POST", "/simulator/reset", key=None)
    return server


def set_faults(peer: Peer, *rules: str) -> None:
    assert peer.call("POST", "/simulator/faults", {"rules": rules}, key=None).status == 200


class House:
    """A folder with a manifest, an output folder and a simulator."""

    def __init__(self, folder: Path, peer: Peer) -> None:
        self.folder = folder
        self.peer = peer
        self.output = folder / "output"
        self.events: list[Event] = []
        self.requests = 0

    def write(self, text: str, name: str = "job") -> Path:
        """The manifest `name` with what follows its name."""
        path = self.folder / f"{name}.yaml"
        path.write_text(f"name: {name}\n{text}", "utf-8")
        return path

    def run(
        self,
        text: str | None = None,
        *,
        name: str = "job",
        listener: Callable[[Event], None] | None = None,
        stop: Stop | None = None,
        **options: Any,
    ) -> Summary:
        """One run; afterwards `requests` is how many requests the server saw during it."""
        path = self.write(text, name) if text is not None else self.folder / f"{name}.yaml"
        self.events = []

        def hear(event: Event) -> None:
            self.events.append(event)
            if listener is not None:
                listener(event)

        chosen = {"provider": "simulator", "base_url": self.peer.base_url, "output": self.output, **options}
        before = self.peer.bill()["requests"]
        summary = runner.run(path, Options(**chosen), listener=hear, stop=stop)
        self.requests = self.peer.bill()["requests"] - before
        assert summary.requests == self.requests
        return summary

    def files(self, part: str = "images", name: str = "job") -> dict[str, bytes]:
        """Every file below a folder of a job, by its path in it."""
        root = self.output / name / part
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.output / "ledger.sqlite3")) as connection:
            return connection.execute(query).fetchall()

    def log(self, run_id: int | None, name: str = "job") -> list[dict[str, Any]]:
        """The lines of a run's log."""
        path = self.output / name / "logs" / f"run-{run_id:06d}.jsonl"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def house(tmp_path: Path, peer: Peer) -> House:
    return House(tmp_path, peer)


def wanted(*prompts: str, sizes: str = "[1024x1024]", more: str = "") -> str:
    """A manifest of these prompts, all of low quality; a word is its own id."""
    entries = [{"id": prompt, "text": prompt} if prompt.isalpha() else prompt for prompt in prompts]
    return f"prompts: {json.dumps(entries)}\nmatrix: {{size: {sizes}, quality: [low]}}\n{more}"


def checksums(files: dict[str, bytes]) -> list[str]:
    return sorted(hashlib.sha256(data).hexdigest() for data in files.values())


# -- the first run, and the ones after it -------------------------------------------------------


def test_a_fresh_run_makes_what_is_wanted_and_knows_what_it_cost(house: House) -> None:
    """Every image is on disk as it was sent, and ledger and bill agree to the micro-dollar."""
    summary = house.run(wanted("one", "two", sizes="[1024x1024, 1536x1024]"))
    bill, entries = house.peer.bill(), house.peer.entries()
    assert (summary.exit_code, summary.wanted, summary.done, summary.made, summary.requests) == (0, 4, 4, 4, 4)
    assert (summary.planned, summary.failed, summary.refused, summary.in_doubt, summary.reused) == (0, 0, 0, 0, 0)
    assert (summary.job, summary.provider, summary.simulated, summary.problems) == ("job", "simulator", True, [])
    assert checksums(house.files()) == sorted(entry["images"][0] for entry in entries)
    assert set(house.files()) == {f"{p}/{s}-low-1.png" for p in ("one", "two") for s in ("1024x1024", "1536x1024")}
    assert summary.cost_microusd == bill["cost_microusd"] > 0
    assert (summary.cost_usd, summary.simulated_cost_usd) == (0, bill["cost_microusd"] / 1e6)
    assert sorted(house.rows("SELECT request_id, cost_microusd FROM attempts")) == sorted(
        (entry["request_id"], entry["cost_microusd"]) for entry in entries
    )
    assert Path(summary.images) == house.output / "job" / "images"
    assert Path(summary.ledger) == house.output / "ledger.sqlite3"
    assert house.files(".partial") == {}


def test_events_and_log_tell_the_same_story(house: House) -> None:
    """From the run's beginning to its summary, in order; the log is the events, as JSON."""
    summary = house.run(wanted("one", "two"))
    kinds = [type(event) for event in house.events if not isinstance(event, (events.Warned, events.Heartbeat))]
    assert kinds[0] is events.RunBegan
    assert kinds[-1] is events.Summary
    assert (kinds.count(events.AttemptBegan), kinds.count(events.Saved)) == (2, 2)
    log = [line for line in house.log(summary.run_id) if line["type"] != "warned"]
    assert log[0]["type"] == "run_began"
    assert len(log) == len(kinds)
    assert log[-1]["type"] == "summary"
    assert log[-1]["cost_microusd"] == summary.cost_microusd
    assert house.rows("SELECT exit_code, reason, ended_ms IS NOT NULL FROM runs") == [(0, summary.reason, 1)]


def test_a_second_run_asks_for_nothing(house: House) -> None:
    """Law 3: what is there is there. The job may be called by its name now."""
    house.run(wanted("one", "two"))
    before = house.files()
    summary = house.run()
    assert (summary.exit_code, summary.done, house.requests, summary.cost_microusd) == (0, 2, 0, 0)
    by_name = Options(provider="simulator", base_url=house.peer.base_url, output=house.output)
    assert runner.run("job", by_name).requests == 0
    assert house.files() == before
    assert summary.run_id == 2


@pytest.mark.parametrize(
    ("edited", "new"),
    [
        (wanted("one", "three"), 1),
        (wanted("one", "two", sizes="[1024x1024, 1024x1536]"), 2),
        (wanted("one", "two", more="samples: 2\n"), 2),
        (wanted("two", "one"), 0),
        (wanted("two"), 0),
    ],
    ids=["a prompt edited", "a size added", "samples raised", "another order", "a prompt removed"],
)
def test_only_what_is_new_in_an_edited_manifest_is_asked_for(house: House, edited: str, new: int) -> None:
    """A manifest can be edited freely: what was paid for is kept, what is new is made."""
    house.run(wanted("one", "two"))
    before = house.files()
    summary = house.run(edited)
    assert (house.requests, summary.made, summary.exit_code) == (new, new, 0)
    assert summary.done == summary.wanted
    assert before.items() <= house.files().items()


def test_another_edition_asks_for_everything_afresh(house: House) -> None:
    """On purpose; the earlier images are kept aside, not overwritten."""
    house.run(wanted("one", "two"))
    before = house.files()
    summary = house.run(wanted("one", "two", more="edition: second\n"))
    assert (summary.made, house.requests) == (2, 2)
    assert checksums(house.files("superseded")) == checksums(before)
    assert not set(checksums(house.files())) & set(checksums(before))
    assert len(house.rows("SELECT path FROM assets")) == 4


def test_a_new_name_moves_files_and_asks_for_nothing(house: House) -> None:
    """And the ledger knows where they are now."""
    house.run(wanted("one", "two"))
    before = house.files()
    summary = house.run(wanted("one", "two", more='output: {name: "all/{{ prompt_id }}"}\n'))
    assert (house.requests, summary.done) == (0, 2)
    assert set(house.files()) == {"all/one.png", "all/two.png"}
    assert checksums(house.files()) == checksums(before)
    assert sorted(house.rows("SELECT path FROM assets")) == [("job/images/all/one.png",), ("job/images/all/two.png",)]


def test_two_prompts_that_swap_their_names_swap_their_files(house: House) -> None:
    """Neither image is lost, nor paid for again."""
    text = (
        "prompts: [{{id: {}, text: a cat}}, {{id: {}, text: a dog}}]\nmatrix: {{size: [1024x1024], quality: [low]}}\n"
    )
    house.run(text.format("x", "y"))
    before = house.files()
    house.run(text.format("y", "x"))
    assert house.requests == 0
    x, y = "x/1024x1024-low-1.png", "y/1024x1024-low-1.png"
    assert house.files() == {x: before[y], y: before[x]}


def test_the_same_request_in_another_job_is_reused(house: House) -> None:
    """One request, one bill, two jobs; each has the file under its own name."""
    house.run(wanted("one", "two"))
    summary = house.run(wanted("two", "three"), name="other")
    assert (summary.reused, summary.made, house.requests) == (1, 1, 1)
    assert [event.name for event in house.events if isinstance(event, events.Reused)] == ["two/1024x1024-low-1.png"]
    assert house.files(name="other")["two/1024x1024-low-1.png"] == house.files()["two/1024x1024-low-1.png"]
    assert summary.cost_microusd < house.peer.bill()["cost_microusd"]


def test_a_simulated_image_never_counts_as_a_real_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as an image nor as money: after a rehearsal the real run makes everything, under its own cap."""
    monkeypatch.setenv("A_KEY", "sk-not-a-secret")
    text = wanted("one", "two", more="budget: {usd: 0.015, per: job}\nlimits: {images_per_minute: 6000}\n")
    rehearsal = house.run(text)
    real = house.run(provider="cometapi", api_key_env="A_KEY")
    assert (rehearsal.cost_usd, rehearsal.simulated_cost_usd > 0) == (0, True)
    assert (real.simulated, real.made, house.requests, real.exit_code) == (False, 2, 2, 0)
    assert real.cost_usd == real.cost_microusd / 1e6 > 0
    assert real.simulated_cost_usd == 0
    assert house.rows("SELECT simulated, count(*) FROM assets GROUP BY simulated") == [(0, 2), (1, 2)]
    assert checksums(house.files("superseded")) != checksums(house.files())
    assert house.run().requests == 0


# -- bounds -------------------------------------------------------------------------------------


def test_a_limit_bounds_one_run_and_the_next_goes_on(house: House) -> None:
    """`--limit 2` is for looking before paying for the rest."""
    text = wanted("one", "two", "three", "four", "five")
    first = house.run(text, limit=2)
    assert (first.made, first.planned, first.exit_code, first.reason) == (2, 3, 0, "the limit of this run is reached")
    second = house.run()
    assert (second.made, second.done, house.requests) == (3, 5, 3)


@pytest.mark.parametrize("per", ["day", "month", "job"])
def test_a_cap_counts_what_earlier_runs_have_spent(house: House, monkeypatch: pytest.MonkeyPatch, per: str) -> None:
    """The runs of one period share a cap; a new day or month begins afresh, a job never does."""
    clock = [NOON]
    for module in ("wiring", "session", "invocation"):
        monkeypatch.setattr(f"runner.{module}.now", lambda: clock[0])
    more = f"budget: {{usd: 0.010, per: {per}}}\nlimits: {{concurrency: 1}}\n"
    first = house.run(wanted("a", "b", "c", "d", "e", "f", more=more))
    assert (first.exit_code, first.made) == (5, 3)
    assert "budget" in first.reason
    clock[0] += dt.timedelta(hours=1)
    second = house.run()
    assert (second.exit_code, second.made, house.requests) == (5, 0, 0)
    clock[0] += dt.timedelta(days={"day": 1}.get(per, 20))
    third = house.run()
    assert (third.exit_code, third.made) == ((5, 0) if per == "job" else (0, 3))
    assert house.peer.bill()["cost_microusd"] <= (10_000 if per == "job" else 20_000)


def test_a_budget_of_the_command_line_is_the_one_that_counts(house: House) -> None:
    """It replaces the manifest's amount, for a run as for a job."""
    summary = house.run(wanted("a", "b", more="budget: {usd: 0, per: job}\n"), budget_usd=Decimal("0.02"))
    assert (summary.made, summary.exit_code) == (2, 0)
    began = next(event for event in house.events if isinstance(event, events.RunBegan))
    assert began.cap_microusd == 20_000


def test_an_interrupt_ends_the_run_and_the_next_goes_on(house: House) -> None:
    """Exit code 130; in the end every image was made and billed once."""
    stop = Stop()

    def listener(event: Event) -> None:
        if isinstance(event, events.AttemptBegan):
            stop.ask("interrupted")

    text = wanted("one", "two", "three", "four", more="limits: {concurrency: 2}\n")
    first = house.run(text, listener=listener, stop=stop)
    assert first.exit_code == 130
    assert 1 <= first.made <= 2
    second = house.run()
    assert (second.done, second.exit_code, house.peer.bill()["images"]) == (4, 0, 4)


def test_a_job_that_is_held_is_not_run_twice(house: House) -> None:
    """The second run says who holds it, and sends nothing."""
    path = house.write(wanted("one"))
    options = Options(provider="simulator", base_url=house.peer.base_url, output=house.output)
    with (
        Ledger.open(options.ledger_place, create=True) as ledger,
        ledger.lock("job", now=NOON),
        pytest.raises(Locked),
    ):
        runner.run(path, options)
    assert house.peer.bill()["requests"] == 0


def test_a_real_provider_without_a_key_is_an_error_before_anything_is_sent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the variable, and how to try without one."""
    monkeypatch.delenv("COMETAPI_KEY", raising=False)
    with pytest.raises(InputError) as caught:
        house.run(wanted("one"), provider="cometapi")
    assert "COMETAPI_KEY" in str(caught.value)
    assert "--provider simulator" in str(caught.value)


# -- a provider that misbehaves -----------------------------------------------------------------

RETRY = "retry: {base_s: 0.001, billed_attempts: 3, attempts: 5}\nlimits: {concurrency: 4}\n"


def test_the_cost_is_the_servers_bill_through_every_fault_that_tells_its_usage(house: House) -> None:
    """Retries, refusals and unusable answers: what was billed is on record as a cost, and nothing else is."""
    faults = [
        "status=500*2",
        "rate_limit=0*2",
        "bad_base64*1",
        "no_data*1",
        "wrong_size*2",
        "not_image*1",
        "gzip",
        "url",
    ]
    prompts = [f"[[fault:{fault}]] picture {number}" for number, fault in enumerate(faults)]
    summary = house.run(wanted(*prompts, "[[fault:moderation]]", "[[fault:bad_base64]]", "good", more=RETRY))
    bill = house.peer.bill()
    assert (summary.done, summary.refused, summary.failed, summary.exit_code) == (len(faults) + 1, 1, 1, 4)
    assert summary.cost_microusd == bill["cost_microusd"]
    assert summary.in_doubt_microusd == 0
    assert {problem["code"] for problem in summary.problems} == {"moderation_blocked", "bad_base64"}
    assert set(checksums(house.files())) <= {image for entry in house.peer.entries() for image in entry["images"]}


def test_what_may_have_been_billed_covers_what_was(house: House) -> None:
    """Answers that did not arrive, or did not say: cost and doubt together are never below the bill."""
    faults = ["cut*1", "reset*1", "reset_body*1", "empty*1", "truncated_json*1", "missing_usage", "zero_usage"]
    prompts = [f"[[fault:{fault}]] picture {number}" for number, fault in enumerate(faults)]
    summary = house.run(wanted(*prompts, "[[fault:reset=unbilled*1]]", more=RETRY))
    assert (summary.done, summary.exit_code) == (len(faults) + 1, 0)
    assert summary.in_doubt_microusd > 0
    assert summary.cost_microusd + summary.in_doubt_microusd >= house.peer.bill()["cost_microusd"]
    assert house.rows("SELECT count(*) FROM attempts WHERE cost_basis = 'estimate'") == [(2,)]


def test_a_task_in_doubt_is_held_or_tried_again_by_the_next_run(house: House) -> None:
    """`--in-doubt hold` leaves it for a person; without it the next run pays once more."""
    text = wanted("[[fault:cut*1]] one", more=RETRY)
    first = house.run(text, hold_doubt=True)
    assert (first.in_doubt, first.exit_code, house.requests) == (1, 4, 1)
    assert (house.run(hold_doubt=True).in_doubt, house.requests) == (1, 0)
    last = house.run()
    assert (last.done, last.exit_code, house.requests) == (1, 0, 1)
    assert last.job_in_doubt_usd > 0


def test_a_provider_that_stops_the_run_is_named_and_nothing_is_paid_twice(house: House) -> None:
    """Exit code 6 with the provider's reason; once the account is in order, the rest is made."""
    set_faults(house.peer, "insufficient_quota:after=2")
    text = wanted("a", "b", "c", "d", "e", more="limits: {concurrency: 1}\n")
    first = house.run(text)
    assert (first.exit_code, first.made, first.planned, house.requests) == (6, 2, 3, 3)
    assert "quota" in first.reason
    assert house.rows("SELECT exit_code FROM runs") == [(6,)]
    set_faults(house.peer)
    second = house.run()
    assert (second.exit_code, second.done, house.peer.bill()["images"]) == (0, 5, 5)


# -- models that end ----------------------------------------------------------------------------

SHUT_DOWN = f"""
providers: {{simulator: {{enforces_shutdown: true}}}}
models: {{{MODEL}: {{lifecycle: {{openai: {{shutdown: 2026-01-01, source: runner}}}}}}}}
"""


def test_a_model_past_its_date_hands_over_to_the_fallback(house: House) -> None:
    """From the first request on; the tasks stay what they were, so that nothing is paid again."""
    catalog = house.folder / "catalog.yaml"
    catalog.write_text(SHUT_DOWN, "utf-8")
    text = wanted("one", "two", more=f"fallback_model: {FALLBACK}\n")
    assert house.run(text, limit=1).made == 1
    summary = house.run(catalog=catalog)
    assert (summary.made, summary.done, summary.exit_code) == (1, 2, 0)
    assert [entry["model"] for entry in house.peer.entries()] == [MODEL, FALLBACK]
    assert house.rows("SELECT model FROM assets ORDER BY id") == [(MODEL,), (FALLBACK,)]
    assert summary.cost_microusd == house.peer.entries()[1]["cost_microusd"]
    assert any(FALLBACK in event.message for event in house.events if isinstance(event, events.Warned))


def test_a_model_past_its_date_without_a_fallback_sends_nothing(house: House) -> None:
    """The error names the line to change and the successor."""
    catalog = house.folder / "catalog.yaml"
    catalog.write_text(SHUT_DOWN, "utf-8")
    with pytest.raises(StopRun) as caught:
        house.run(wanted("one", more=f"model: {MODEL}\n"), catalog=catalog)
    assert "job.yaml:" in caught.value.message
    assert FALLBACK in str(caught.value)
    assert house.peer.bill()["requests"] == 0


def test_a_model_that_is_not_found_hands_over_to_the_fallback(house: House) -> None:
    """In the middle of a run, before its announced date: the provider's word counts."""
    set_faults(house.peer, "model_not_found:after=1,times=1")
    text = wanted("a", "b", "c", more=f"fallback_model: {FALLBACK}\nlimits: {{concurrency: 1}}\n")
    summary = house.run(text)
    assert (summary.done, summary.exit_code, house.requests) == (3, 0, 4)
    assert [entry["model"] for entry in house.peer.entries()] == [MODEL, FALLBACK, FALLBACK]
    assert summary.cost_microusd == house.peer.bill()["cost_microusd"]
    assert house.rows("SELECT model, count(*) FROM assets GROUP BY model ORDER BY model") == [(MODEL, 1), (FALLBACK, 2)]


def test_a_model_that_is_not_found_without_a_fallback_stops_the_run(house: House) -> None:
    """Exit code 6, with what to write into the manifest."""
    set_faults(house.peer, "model_not_found")
    summary = house.run(wanted("a", "b", more="limits: {concurrency: 1}\n"))
    assert (summary.exit_code, summary.made, house.requests) == (6, 0, 1)
    assert "fallback_model" in summary.reason


# -- the embedded simulator ---------------------------------------------------------------------


def test_a_run_brings_its_own_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key and without a base URL: the first thing that anybody tries."""
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "job.yaml"
    path.write_text("name: job\n" + wanted("one"), "utf-8")
    summary = runner.run(path, Options(provider="simulator", output=tmp_path / "output"))
    assert (summary.exit_code, summary.made, summary.simulated) == (0, 1, True)
