"""Batches from one command line to the next: submitted, left, collected, cancelled, and whatever happens in between."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import LedgerError
from runner.ledger import Ledger
from tests.edges import disk_support
from tests.edges.simulator_support import Peer, running
from tests.engine.batch_support import PROMPTS, Mill, edited, hurry, of_type, picture, until, warnings
from tests.engine.command_support import KEY_VARIABLE, wait

TIME_S = 0.6
"""How long a batch takes at the provider of these tests: long enough to leave before it is over."""


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat", batch_time_s=TIME_S) as peer:
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


# -- left in the evening, collected in the morning --------------------------------------------------


def test_submitted_by_one_run_and_collected_by_another_command(mill: Mill) -> None:
    """Exit code 0 both times; in between the images are submitted, afterwards there is nothing to do."""
    left = mill.submit(mill.job())
    assert (left.code, left.summary["reason"]) == (0, "submitted, collect later")
    assert (left.summary["submitted"], left.summary["batches"], left.summary["done"]) == (5, 1, 0)
    early = mill.collect("night")
    assert (early.code, early.summary["submitted"]) == (0, 5)
    mill.over()
    home = mill.collect("night")
    assert (home.code, home.summary["made"], home.summary["requests"]) == (0, 5, 0)
    cost = mill.all_home(5)
    assert home.summary["cost_microusd"] == cost
    assert left.summary["cost_microusd"] == 0
    calls = mill.seen()["calls"]
    assert mill.collect("night").code == 0
    assert mill.seen()["calls"] == calls
    said = mill.call("collect")
    assert (said.code, said.out) == (0, "no batches are under way\n")


def test_one_command_collects_every_job(mill: Mill) -> None:
    """Each with its own manifest; a job without a batch is left alone."""
    assert mill.run(mill.manifest("online", ["A tin robot"])).code == 0
    for name in ("first", "second"):
        assert mill.submit(mill.job(name, [f"{prompt} of {name}" for prompt in PROMPTS[:2]])).code == 0
    mill.over(2)
    said = mill.collect()
    assert said.code == 0
    assert [entry["job"] for entry in of_type(said, "summary")] == ["first", "second"]
    mill.all_home(5)
    assert mill.creates == 2


def test_what_keeps_one_job_from_being_collected_keeps_no_other(mill: Mill) -> None:
    """Results that are missing, or a run that holds the job: said, with its exit code, and the others come home."""
    for name in ("first", "second", "third"):
        assert mill.submit(mill.job(name, [f"{prompt} of {name}" for prompt in PROMPTS[:2]])).code == 0
    mill.over(3)
    mill.faults(f"content_gone:match={mill.seen()['batches'][1]['output_file_id']}")
    with (
        Ledger.open(Path("output/ledger.sqlite3"), create=False) as ledger,
        ledger.lock("first", now=dt.datetime.now(dt.UTC)),
    ):
        said = mill.collect()
    assert said.code == 7
    assert "first is not collected" in warnings(said)
    assert [(entry["job"], entry["exit_code"]) for entry in of_type(said, "summary")] == [("second", 6), ("third", 0)]
    mill.faults()
    assert mill.collect().code == 0
    mill.all_home(6)
    assert mill.creates == 3


@pytest.mark.parametrize("fate", ["deleted", "broken", "renamed"])
def test_a_batch_is_collected_whatever_became_of_its_manifest(mill: Mill, fate: str) -> None:
    """Its last run knows what it was; that is said."""
    job = Path(mill.job())
    assert mill.submit(str(job)).code == 0
    mill.over()
    if fate == "deleted":
        job.unlink()
    elif fate == "broken":
        job.write_text("name: [")
    else:
        job.write_text(json.dumps({**json.loads(job.read_text()), "name": "day"}))
    said = mill.collect("night")
    assert said.code == 0
    assert "by the manifest of its last run" in warnings(said) + said.err
    mill.all_home(5)


def test_a_batch_is_collected_after_its_model_was_shut_down(mill: Mill) -> None:
    """`run` refuses it, `collect` brings it home at the exact price."""
    job = mill.job()
    assert mill.submit(job).code == 0
    mill.over()
    Path("catalog.yaml").write_text(
        "models:\n  gpt-image-2:\n    lifecycle: {openai: {shutdown: 2026-11-01, source: openai-models}}\n"
    )
    assert mill.run(job, "--catalog", "catalog.yaml").code == 6
    said = mill.collect("night", "--catalog", "catalog.yaml")
    assert said.code == 0, said.err + said.out
    mill.all_home(5)


def test_a_batch_elsewhere_is_never_submitted_a_second_time(mill: Mill) -> None:
    """Another base URL: the images wait for the provider that has them, and it is said."""
    job = mill.job()
    assert mill.submit(job).code == 0
    mill.over()
    with running(art="flat") as other:
        options = ("--base-url", other.base_url, "--api-key-env", KEY_VARIABLE)
        for delivery in ("batch", "online"):
            said = mill.call("run", job, *options, "--json", "--wait", "--delivery", delivery)
            assert said.code == 0
            assert said.summary["submitted"] == 5
            assert mill.peer.base_url in warnings(said)
        assert other.bill()["requests"] == 0
    assert mill.collect("night").code == 0
    mill.all_home(5)


def test_what_is_no_longer_wanted_is_kept_and_used_when_it_is_again(mill: Mill) -> None:
    """An edited manifest: paid for, it lies in superseded/; when the manifest goes back nothing is asked for."""
    job = mill.job()
    assert mill.submit(job).code == 0
    with edited(job, prompts=list(PROMPTS[:2])):
        mill.over()
        said = mill.wait(job)
        assert said.code == 0
        assert (said.summary["done"], said.summary["requests"]) == (2, 0)
        assert len(mill.images()) == 2
        assert len(mill.images(folder="superseded")) == 3
        mill.all_home(5)
    back = mill.wait(job)
    assert (back.code, back.summary["requests"], back.summary["done"]) == (0, 0, 5)
    assert len(mill.images()) == 5
    mill.all_home(5)
    assert mill.creates == 1


def test_what_came_late_and_was_cut_off_lies_there_once(mill: Mill) -> None:
    """It had its name, and was not on record yet: the next run knows it by its bytes, and makes no copy."""
    job = mill.job()
    assert mill.submit(job).code == 0
    mill.over()
    with edited(job, prompts=["Something else"]):
        with mill.monkeypatch.context() as patched:
            patched.setattr("runner.ledger.batches.batching.saved", _broken)
            assert mill.wait(job).code == 1
        lay = mill.images(folder="superseded")
        assert lay
        assert mill.wait(job).code == 0
    assert set(lay) <= set(mill.images(folder="superseded"))
    assert len(mill.images(folder="superseded")) == 5
    mill.all_home(6)


def _broken(*_: object, **__: object) -> None:
    raise LedgerError("the ledger cannot be written", hint="make room")


def test_what_is_wanted_again_while_it_is_in_a_batch_is_not_submitted_again(mill: Mill) -> None:
    """Removed and put back before the batch was over: nothing has happened."""
    job = mill.job()
    assert mill.submit(job).code == 0
    with edited(job, prompts=list(PROMPTS[:1])):
        assert mill.submit(job).summary["submitted"] == 1
    assert mill.submit(job).code == 0
    mill.over()
    assert mill.collect("night").code == 0
    mill.all_home(5)
    assert len(mill.images()) == 5
    assert mill.creates == 1


def test_online_with_open_batches_asks_for_nothing_that_is_in_them(mill: Mill) -> None:
    """`--delivery online`: what is over is collected first, what is not stays submitted, the rest is made online."""
    job = mill.job()
    assert mill.submit(job, "--limit", "2").code == 0
    before = mill.run(job, "--delivery", "online", "--json")
    assert before.code == 0
    assert before.summary["submitted"] + before.summary["done"] == 5
    mill.over()
    after = mill.run(job, "--delivery", "online", "--json")
    assert (after.code, after.summary["done"]) == (0, 5)
    mill.all_home(5)
    assert mill.peer.bill()["by_delivery"]["online"]["images"] == 3
    assert mill.peer.bill()["by_delivery"]["batch"]["images"] == 2


def test_what_another_job_has_made_is_taken_over_once_its_batch_is_home(mill: Mill) -> None:
    """Law 3 between jobs: the images of a batch serve another job, and cost nothing there."""
    assert mill.submit(mill.job("first")).code == 0
    mill.over()
    assert mill.collect("first").code == 0
    said = mill.wait(mill.job("second"))
    assert (said.code, said.summary["reused"], said.summary["requests"]) == (0, 5, 0)
    assert mill.statuses() == {"done": 10}
    assert mill.creates == 1
    assert len(mill.peer.entries()) == 5


def test_what_is_in_a_batch_is_not_taken_over_from_another_job(mill: Mill) -> None:
    """It is paid for already: it comes home from its own batch, and no task has two images."""
    first = mill.job("first")
    assert mill.submit(first).code == 0
    assert mill.run(mill.manifest("second", PROMPTS)).code == 0
    mill.over()
    assert mill.collect("first").code == 0
    assert mill.wait(first).summary["requests"] == 0
    mill.all_home(10)


# -- interrupted ------------------------------------------------------------------------------------


def test_an_interrupt_during_the_wait_loses_nothing(mill: Mill) -> None:
    """130 at once; the batch goes on at the provider, and the next command collects it."""
    mill.faults("batch_stuck:value=in_progress")
    job = mill.job()
    process = mill.start("run", job, *mill.to_peer, "--wait", "--json")
    assert process.stdout
    while '"batch_waits"' not in process.stdout.readline():
        assert process.poll() is None
    held = mill.wait(job)
    assert held.code == 7, "another run of the job is refused meanwhile"
    process.send_signal(signal.SIGINT)
    said = wait(process)
    assert (said.code, said.summary["submitted"], said.summary["in_doubt"]) == (130, 5, 0)
    assert mill.call("cancel", "night", "--api-key-env", KEY_VARIABLE).code == 0
    mill.faults()
    mill.over()
    assert mill.wait(job).code == 0
    mill.all_home(5)
    assert mill.creates == 2


def test_the_time_of_a_run_is_over_during_the_wait(mill: Mill) -> None:
    """`--max-duration`: everything is on its way, so that is no failure."""
    mill.faults("batch_stuck")
    job = mill.job()
    said = mill.wait(job, "--max-duration", "1s")
    assert (said.code, said.summary["submitted"]) == (0, 5)
    assert mill.statuses() == {"submitted": 5}


def test_an_outage_during_the_wait_ends_nothing(mill: Mill) -> None:
    """A provider that does not answer for a while is asked again later: the night goes on."""
    job = mill.job(retry={"attempts": 2, "base_s": 0.01, "max_s": 0.02})
    mill.submit(job)
    mill.faults("retrieve_500:times=9")
    said = mill.wait(job)
    assert said.code == 0
    assert "is asked again later" in said.err
    assert mill.creates == len(mill.states())
    mill.account()


def test_a_provider_that_does_not_answer_at_all_ends_a_run_that_does_not_wait(mill: Mill) -> None:
    """Exit code 6; what is submitted stays submitted, and is collected when the provider is back."""
    job = mill.job(retry={"attempts": 2, "base_s": 0.01, "max_s": 0.02})
    mill.submit(job)
    mill.over()
    mill.faults("retrieve_500")
    assert mill.collect("night").code == 6
    assert mill.statuses() == {"submitted": len(PROMPTS)}
    mill.faults()
    assert mill.collect("night").code == 0
    assert mill.statuses() == {"done": len(PROMPTS)}


def test_a_person_who_cancels_is_heard_by_a_run_that_waits(mill: Mill) -> None:
    """`runner cancel` while a run holds the job: it collects what was made, and does not submit the rest again."""
    mill.faults("batch_stuck")
    process = mill.start("run", mill.job(), *mill.to_peer, "--wait", "--json")
    assert process.stdout
    while '"batch_waits"' not in process.stdout.readline():
        assert process.poll() is None
    said = mill.call("cancel", "night", "--api-key-env", KEY_VARIABLE, "--json")
    assert said.code == 0
    (entry,) = said.entries
    assert (entry["requests"], entry["forgotten"]) == (5, False)
    assert entry["status"] in ("cancelling", "cancelled")
    ended = wait(process)
    assert ended.code == 0
    assert ended.summary["planned"] == 5
    assert mill.creates == 1
    assert mill.account() == (0, 0)


@pytest.fixture(scope="module")
def large() -> Iterator[Peer]:
    with running(art="flat", payload_kb=3000, batch_time_s=TIME_S) as peer:
        yield peer


def test_a_disk_that_fills_up_while_a_batch_is_collected(large: Peer, mill: Mill) -> None:
    """An error of the disk, nothing half done; with room again the rest comes home, and nothing is asked twice."""
    mill.peer = large
    assert mill.submit(mill.job()).code == 0
    mill.over()
    arguments = disk_support.command(
        ["collect", "night", "--api-key-env", KEY_VARIABLE, "--quiet"], file_bytes=2_000_000
    )
    full = subprocess.run(arguments, cwd=mill.folder, capture_output=True, text=True, timeout=60)
    assert full.returncode == 1
    assert "hint:" in full.stdout + full.stderr
    assert "Traceback" not in full.stderr
    assert mill.statuses() == {"submitted": 5}
    assert mill.images() == []
    assert mill.collect("night").code == 0
    mill.all_home(5)
    assert mill.creates == 1


def test_a_folder_that_may_not_be_written_while_a_batch_is_collected(mill: Mill) -> None:
    """Found when its image has come: said, and with the right to write there the rest comes home."""
    prefix = disk_support.powerless()
    assert mill.submit(mill.job(output={"name": "{{ prompt_id }}/image"})).code == 0
    mill.over()
    name = mill.rows("SELECT name FROM tasks WHERE position = 2")[0]["name"]
    folder = (mill.folder / "output/night/images" / name).parent
    folder.mkdir(parents=True)
    arguments = disk_support.command(["collect", "night", "--api-key-env", KEY_VARIABLE, "--quiet"], prefix=prefix)
    with disk_support.modes({folder: 0o555}):
        ended = subprocess.run(arguments, cwd=mill.folder, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert folder.name in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert mill.statuses()["submitted"] >= 1
    assert mill.collect("night").code == 0
    mill.all_home(5)
    assert mill.creates == 1


# -- cancelled and forgotten ------------------------------------------------------------------------


def test_what_a_cancelled_batch_has_made_is_brought_home(mill: Mill) -> None:
    """Half of it was made and is paid; the rest is planned, and the next run submits it."""
    job = mill.job(prompts=[*PROMPTS[:3], "something slow", "something as slow"])
    mill.faults("delay:value=30,match=slow")
    assert mill.submit(job).code == 0
    until(lambda: mill.seen()["batches"][0]["request_counts"]["completed"] >= 1)
    assert mill.call("cancel", "night", "--api-key-env", KEY_VARIABLE).code == 0
    mill.over()
    mill.faults()
    said = mill.collect("night")
    assert said.code == 0
    made = said.summary["made"]
    assert 1 <= made <= 3
    assert said.summary["planned"] == 5 - made
    assert mill.account() == (said.summary["cost_microusd"], 0)
    assert mill.wait(job).code == 0
    mill.all_home(5)


@pytest.mark.parametrize("tells", [False, True])
def test_a_batch_that_somebody_else_cancelled(mill: Mill, tells: bool) -> None:
    """At the provider's own site, with a line for what was not reached or without: planned again, nothing billed."""
    mill.faults("batch_stuck", *(["batch_tells"] if tells else []))
    job = mill.job()
    assert mill.submit(job).code == 0
    batch_id = mill.seen()["batches"][0]["id"]
    mill.peer.call("POST", f"/v1/batches/{batch_id}/cancel")
    mill.over()
    mill.faults()
    said = mill.collect("night")
    (collected,) = of_type(said, "batch_collected")
    assert (collected["status"], collected["planned"], collected["in_doubt"]) == ("cancelled", 5, 0)
    assert mill.wait(job).code == 0
    mill.all_home(5)


def test_a_batch_that_nobody_knows_is_given_up_only_when_a_person_says_so(mill: Mill) -> None:
    """The key of another project, or all was deleted: the images stay submitted until `--forget`, then in doubt."""
    job = mill.job()
    assert mill.submit(job).code == 0
    mill.peer.call("POST", "/simulator/reset")
    mill.change("UPDATE batches SET submitted_ms = submitted_ms - 3600000")
    said = mill.wait(job)
    assert said.code == 0
    assert "knows no batch" in warnings(said)
    assert mill.statuses() == {"submitted": 5}
    asked = mill.call("cancel", "night", "--api-key-env", KEY_VARIABLE)
    assert "--forget" in asked.out
    assert mill.statuses() == {"submitted": 5}
    told = mill.call("cancel", "night", "--api-key-env", KEY_VARIABLE, "--forget")
    assert told.code == 0
    assert "in doubt" in told.out
    assert mill.statuses() == {"in_doubt": 5}
    (doubt,) = mill.rows("SELECT SUM(doubt_microusd) AS doubt, SUM(reserved_microusd) AS reserved FROM attempts")
    assert doubt["doubt"] == doubt["reserved"] > 0
    assert mill.wait(job).code == 0
    assert mill.statuses() == {"done": 5}
    assert mill.creates == 1


def test_a_batch_of_a_simulator_that_has_ended_can_be_given_up(mill: Mill) -> None:
    """Nobody can be asked about it: `cancel` says so, and `--forget` does as it says."""
    mill.faults("batch_stuck")
    assert mill.call("run", mill.job(), *mill.to_peer, "--no-wait", "--provider", "simulator").code == 0
    mill.change("UPDATE batches SET base_url = NULL")
    assert "--forget" in mill.call("cancel", "night").out
    assert mill.statuses() == {"submitted": 5}
    assert "given up" in mill.call("cancel", "night", "--forget").out
    assert mill.statuses() == {"in_doubt": 5}


def test_cancel_with_nothing_under_way(mill: Mill) -> None:
    """Exit code 0, in words; an unknown job is 2."""
    assert mill.wait(mill.job()).code == 0
    said = mill.call("cancel", "night", "--api-key-env", KEY_VARIABLE)
    assert (said.code, said.out) == (0, "no batches are under way\n")
    unknown = mill.call("cancel", "nihgt", "--api-key-env", KEY_VARIABLE)
    assert unknown.code == 2
    assert "night" in unknown.err


# -- results that are gone --------------------------------------------------------------------------


def test_results_that_were_deleted_after_a_month_are_in_doubt(mill: Mill) -> None:
    """They were paid, and nobody can bring them home: in doubt, and made again by the next run."""
    job = mill.job()
    assert mill.submit(job).code == 0
    mill.over()
    mill.faults("content_gone")
    mill.later(days=28)
    assert mill.collect("night").code == 6
    assert mill.statuses() == {"submitted": 5}
    mill.later(days=31)
    said = mill.collect("night")
    assert said.summary["in_doubt"] == 5
    assert said.code == 4
    mill.account()


def test_a_batch_whose_results_are_missing_keeps_no_other_from_coming_home(mill: Mill) -> None:
    """They are young, and may be there tomorrow: said, exit code not 0, and the other batch is collected."""
    job = mill.job(batch={"max_requests": 3})
    assert mill.submit(job).code == 0
    mill.over(2)
    first = mill.seen()["batches"][0]["output_file_id"]
    mill.faults(f"content_gone:match={first}")
    said = mill.wait(job)
    assert said.code == 6
    assert "batch 1 cannot be read now" in warnings(said)
    assert mill.statuses() == {"done": 2, "submitted": 3}
    mill.faults()
    assert mill.wait(job).code == 0
    mill.all_home(5)
    assert mill.creates == 2


# -- falling back -----------------------------------------------------------------------------------

FALLS = {"fall_back": "online"}


def test_what_no_batch_delivered_is_made_online(mill: Mill) -> None:
    """Expired lines go online at the online price; a refused one goes nowhere."""
    mill.faults("batch_expires:value=0.6,times=1")
    said = mill.wait(mill.job(batch=FALLS))
    assert said.code == 0
    mill.all_home(5)
    bill = mill.peer.bill()["by_delivery"]
    assert (bill["batch"]["images"], bill["online"]["images"]) == (3, 2)
    assert mill.creates == 1


def test_what_was_in_no_batch_is_not_made_online(mill: Mill) -> None:
    """A batch that failed in validation ran nothing: its images wait for another, at half the price."""
    mill.faults("batch_fails:value=invalid_request")
    job = mill.job(batch=FALLS)
    assert mill.wait(job).code == 6
    assert mill.peer.bill()["images"] == 0
    mill.faults()
    assert mill.collect("night").code == 0
    assert mill.peer.bill()["images"] == 0
    assert mill.wait(job).code == 0
    mill.all_home(5)
    assert set(mill.peer.bill()["by_delivery"]) == {"batch"}


def test_a_batch_that_takes_too_long_is_cancelled_and_finished_online(mill: Mill) -> None:
    """`after`: what it has made is brought home, the rest is made online; nothing twice."""
    mill.faults("batch_stuck")
    job = mill.job(batch={**FALLS, "after": "1h"})
    assert mill.submit(job).code == 0
    assert mill.submit(job).summary["submitted"] == 5
    mill.change("UPDATE batches SET submitted_ms = submitted_ms - 3600000")
    said = mill.submit(job)
    assert said.code == 0
    mill.all_home(5)
    assert mill.seen()["calls"]["cancel"] == 1
    assert set(mill.peer.bill()["by_delivery"]) == {"online"}


def test_a_run_that_waits_gives_up_what_takes_too_long(mill: Mill) -> None:
    """The same within one run: it waits, cancels, collects, and asks for the rest online."""
    mill.faults("batch_stuck")
    job = mill.job(batch={**FALLS, "after": "1h"})
    assert mill.submit(job).code == 0
    mill.later(hours=2)
    said = mill.wait(job)
    assert said.code == 0
    mill.all_home(5)
    (collected,) = of_type(said, "batch_collected")
    assert (collected["status"], collected["planned"]) == ("cancelled", 5)
    assert mill.peer.bill()["by_delivery"]["online"]["images"] == 5


def test_what_a_person_has_cancelled_is_not_made_online(mill: Mill) -> None:
    """They have ended it: it is not to cost twice as much instead."""
    mill.faults("batch_stuck")
    assert mill.submit(mill.job(batch=FALLS)).code == 0
    assert mill.call("cancel", "night", "--api-key-env", KEY_VARIABLE).code == 0
    mill.over()
    said = mill.collect("night")
    assert (said.code, said.summary["planned"]) == (0, 5)
    assert mill.account() == (0, 0)


def test_a_limit_holds_for_both_ways_together(mill: Mill) -> None:
    """`--limit 3`: three images are begun, whichever way; what no batch delivered waits for the next run."""
    mill.faults("batch_expires:value=0.34,times=1")
    job = mill.job(batch=FALLS)
    said = mill.wait(job, "--limit", "3")
    assert said.summary["requests"] == 3
    assert (said.summary["made"], said.summary["planned"]) == (1, 4)
    assert mill.wait(job).code == 0
    mill.all_home(5)


def test_collect_finishes_online_what_no_batch_delivered(mill: Mill) -> None:
    """In the morning, by `runner collect` alone."""
    mill.faults("batch_expires:value=0.4,times=1")
    job = mill.job(batch=FALLS)
    assert mill.submit(job).code == 0
    mill.over()
    said = mill.collect("night")
    assert said.code == 0
    mill.all_home(5)
    assert mill.peer.bill()["by_delivery"]["online"]["images"] == 3


# -- what is told -----------------------------------------------------------------------------------


def test_status_tells_of_batches(mill: Mill) -> None:
    """Their state, age and deadline, what is reserved for them; in words and as JSON."""
    mill.faults("batch_stuck")
    assert mill.submit(mill.job()).code == 0
    (entry,) = mill.call("status", "night", "--json").entries
    assert entry["submitted"] == 5
    (batch,) = entry["batches"]
    assert (batch["state"], batch["status"], batch["requests"]) == ("submitted", "in_progress", 5)
    assert batch["batch_id"] == mill.seen()["batches"][0]["id"]
    assert 0 <= batch["age_s"] < 60
    left = dt.datetime.fromisoformat(batch["expires"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=23, minutes=58) < left <= dt.timedelta(hours=24)
    assert (batch["ended"], batch["collect_soon"]) == (None, False)
    (reserved,) = mill.rows("SELECT SUM(reserved_microusd) AS sum FROM attempts")
    assert entry["reserved_microusd"] == reserved["sum"]
    text = mill.call("status", "night").out
    for part in ("5 submitted", "in progress", "0 of 5 completed", batch["batch_id"], batch["expires"], "reserved"):
        assert part in text


def test_status_warns_of_results_that_will_be_deleted(mill: Mill) -> None:
    """Twenty days after the end of a batch; not before."""
    assert mill.submit(mill.job()).code == 0
    mill.over()
    day_ms = 86_400_000
    now_ms = int(dt.datetime.now(dt.UTC).timestamp() * 1000)
    for days, warns in ((19, False), (21, True)):
        mill.change("UPDATE batches SET status = 'completed', ended_ms = ?", now_ms - days * day_ms)
        said = mill.call("status", "night")
        assert ("collect night" in said.err) is warns
        (entry,) = mill.call("status", "night", "--json").entries
        assert entry["batches"][0]["collect_soon"] is warns
        assert entry["batches"][0]["kept_until"] is not None


def test_the_records_of_a_job_with_an_open_batch_are_in_order(mill: Mill) -> None:
    """`verify` and `costs` before and after: no complaint, the money as it is on the bill."""
    mill.faults("batch_stuck:value=finalizing")
    job = mill.job()
    assert mill.submit(job).code == 0
    assert mill.call("verify", "night").code == 0
    (reserved,) = mill.rows("SELECT SUM(reserved_microusd) AS sum FROM attempts")
    open_ = mill.call("costs", "--json").entries[0]
    assert (open_["cost_microusd"], open_["images"], open_["open_microusd"]) == (0, 0, reserved["sum"])
    until(lambda: mill.seen()["batches"][0]["status"] == "finalizing")
    assert mill.call("cancel", "night", "--api-key-env", KEY_VARIABLE).code == 0
    mill.over()
    assert mill.collect("night").code == 0
    cost = mill.all_home(5)
    assert mill.call("verify", "night").code == 0
    over = mill.call("costs", "--json").entries[0]
    assert (over["cost_microusd"], over["images"], over["open_microusd"]) == (cost, 5, 0)


def test_a_run_tells_of_its_batches_in_its_log_and_its_words(mill: Mill) -> None:
    """What was submitted, how far it was, what came of it: the same in the log as on stdout."""
    said = mill.wait(mill.job())
    kinds = ["batch_submitted", "batch_waits", "saved", "batch_collected"]
    assert [kind for kind in kinds if of_type(said, kind)] == kinds
    (log,) = (mill.folder / "output/night/logs").glob("*.jsonl")
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert [{**entry, "time": None} for entry in logged] == [{**entry, "time": None} for entry in said.entries]
    (submitted,) = of_type(said, "batch_submitted")
    assert (submitted["requests"], submitted["found"]) == (5, False)
    (collected,) = of_type(said, "batch_collected")
    assert (collected["saved"], collected["cost_microusd"]) == (5, said.summary["cost_microusd"])
    words = mill.run(mill.job("day", [f"{prompt}!" for prompt in PROMPTS]), "--no-wait")
    assert "submitted, collect later" in words.out
    assert "collect day" in words.out


# -- a simulator that ends with its run -------------------------------------------------------------


def test_a_run_with_the_embedded_simulator_waits(mill: Mill) -> None:
    """It ends with the run, and whatever it was asked for with it: so that it is waited for in any case."""
    job = mill.job(prompts=PROMPTS[:2])
    for options in (("--no-wait",), ()):
        said = mill.call("run", job, "--provider", "simulator", "--json", *options)
        assert said.code == 0
        assert said.summary["done"] == 2
    assert said.summary["requests"] == 0
    assert said.summary["cost_usd"] == 0


def test_a_batch_of_a_simulator_that_died_with_its_run_is_said_and_made_again(mill: Mill) -> None:
    """Nothing real was spent; what it may have made is lost, on record, and asked for once more."""
    job = mill.job(prompts=[*PROMPTS[:2], "[[fault:delay=60*1]] slow"], retry={"billed_attempts": 3})
    process = mill.start("run", job, "--provider", "simulator", "--json")
    assert process.stdout
    while '"batch_waits"' not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert mill.statuses() == {"submitted": 3}
    with edited(job, prompts=list(PROMPTS[:2])):
        said = mill.call("run", job, "--provider", "simulator", "--json")
    assert said.code == 0
    assert "ended with the simulator" in warnings(said)
    assert said.summary["done"] == 2
    assert said.summary["cost_usd"] == said.summary["in_doubt_usd"] == 0
    assert said.summary["simulated_in_doubt_usd"] > 0


# -- edits ------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(mill: Mill) -> Path:
    """Three bases and a style."""
    for number, colour in enumerate(("tomato", "teal", "gold")):
        picture(mill.folder / f"assets/base-{number}.png", colour)
    picture(mill.folder / "assets/style.jpg", "navy")
    return mill.folder / "assets"


def edits(mill: Mill, name: str = "shop", prompts: tuple[str, ...] = ("brass", "snow"), **more: object) -> str:
    """Each picture in each prompt, within a box, in the style of another: three inputs for each request."""
    edit = {"references": ["assets/style.jpg"], "mask": {"box": [30, 20, 60, 50], "feather": 4}, "composite": True}
    return mill.job(
        name,
        [{"id": prompt, "text": f"{{{{ image.stem }}}} in {prompt}"} for prompt in prompts],
        edit=edit,
        matrix={"image": ["assets/base-*.png"]},
        output={"name": "{{ image.stem }}/{{ prompt_id }}"},
        **more,
    )


def test_each_input_is_sent_once_however_many_batches_name_it(mill: Mill, pictures: Path) -> None:
    """Three bases, a style and a mask: five uploads for twelve requests in four batches and two runs."""
    job = edits(mill, batch={"max_requests": 3})
    said = mill.wait(job)
    assert said.code == 0
    mill.all_home(6)
    assert mill.seen()["uploads"]["vision"] == 5
    assert mill.creates == 2
    for entry in mill.peer.entries():
        assert len(entry["inputs"]) == 2
        assert entry["mask"] is not None
    assert said.summary["composites"] == 6
    assert len(mill.images("shop", "composites")) == 6
    more = edits(mill, prompts=("brass", "snow", "ivy", "coal"), batch={"max_requests": 3})
    assert mill.wait(more).code == 0
    mill.all_home(12)
    assert mill.seen()["uploads"]["vision"] == 5


@pytest.mark.parametrize("gone", ["one", "all", "expired"])
def test_an_input_that_lies_there_no_longer_is_sent_again(mill: Mill, pictures: Path, gone: str) -> None:
    """Deleted at the provider, or to expire before the batch would be over."""
    assert mill.wait(edits(mill)).code == 0
    vision = [file["id"] for file in mill.seen()["files"] if file["purpose"] == "vision"]
    if gone == "expired":
        mill.change("UPDATE remote_files SET expires_ms = created_ms + 86400000")
    for file_id in {"one": vision[:1], "all": vision, "expired": []}[gone]:
        assert mill.peer.call("DELETE", f"/v1/files/{file_id}").status == 200
    assert mill.wait(edits(mill, prompts=("brass", "snow", "ivy"))).code == 0
    mill.all_home(9)
    assert mill.seen()["uploads"]["vision"] == 5 + {"one": 1, "all": 5, "expired": 5}[gone]


def test_composites_are_made_by_the_command_that_collects(mill: Mill, pictures: Path) -> None:
    """What is pasted needs no request: `collect` makes it as a run does."""
    assert mill.submit(edits(mill)).code == 0
    mill.over()
    said = mill.collect("shop")
    assert (said.code, said.summary["composites"]) == (0, 6)
    mill.all_home(6)


def test_an_input_that_is_gone_from_the_disk_ends_the_run_before_anything_is_submitted(
    mill: Mill, pictures: Path
) -> None:
    """Exit code 2 with its name; nothing is on its way, and everything is planned."""
    job = edits(mill)
    mill.faults("upload_500:value=before")
    assert mill.submit(job).code == 6
    assert mill.statuses() == {"planned": 6}
    mill.faults()
    (pictures / "style.jpg").unlink()
    said = mill.submit(job)
    assert said.code == 2
    assert "style.jpg" in said.err + said.out
    assert mill.creates == 0
    assert mill.statuses() == {"planned": 6}
