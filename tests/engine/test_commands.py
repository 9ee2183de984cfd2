"""The command line as its users meet it: exit codes, streams, words, and what each command leaves behind."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runner.cli import main
from tests.engine.command_support import GOOD, KEY, KEY_VARIABLE, REFUSED, Desk, wait

SLOW = "[[fault:delay=30]] something slow"


# -- exit codes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "prompts", "options"),
    [
        (0, GOOD, ()),
        (0, GOOD, ("--limit", "1")),
        (4, [*GOOD, REFUSED], ()),
        (4, [*GOOD, "[[fault:status=500]] broken"], ()),
        (4, [*GOOD, "[[fault:cut]] lost"], ("--in-doubt", "hold")),
        (5, GOOD, ("--budget", "0.001")),
        (6, ["[[fault:insufficient_quota]]"], ()),
        (6, ["[[fault:invalid_api_key]]"], ()),
        (2, GOOD, ("--set", "matrix.quality=[hgih]")),
        (2, GOOD, ("--provider", "opanai")),
        (2, GOOD, ("--budget", "much")),
        (2, GOOD, ("--limit", "0")),
        (2, GOOD, ("--set", "novalue")),
        (2, GOOD, ("--ledger", "postgresql://host/db")),
    ],
)
def test_exit_codes_of_a_run(desk: Desk, code: int, prompts: list[object], options: tuple[str, ...]) -> None:
    """The table of exit codes, each with a reason in words; the summary says the same code."""
    said = desk.run(desk.manifest("codes", prompts), "--json", *options)
    assert said.code == code
    if code == 2:
        assert desk.requests() == 0
        assert said.err.strip()
    else:
        assert said.summary["exit_code"] == code
        assert said.summary["reason"]


def test_a_job_held_by_another_run_is_7_and_a_second_interrupt_ends_that_at_once(desk: Desk) -> None:
    """The second run names the first one's pid; the first ends at its second SIGINT, what it had sent is in doubt."""
    job = desk.manifest("held", [f"{SLOW} {n}" for n in range(5)])
    first = desk.start("run", job, *desk.to_peer, "--json")
    assert first.stdout
    while '"attempt_began"' not in first.stdout.readline():
        assert first.poll() is None
    second = desk.run(job)
    assert second.code == 7
    assert f"pid {first.pid}" in second.err
    assert "hint:" in second.err
    first.send_signal(signal.SIGINT)
    while '"stopping"' not in first.stdout.readline():
        assert first.poll() is None
    first.send_signal(signal.SIGINT)
    said = wait(first)
    assert said.code == 130
    assert said.summary["exit_code"] == 130
    assert said.summary["done"] == 0
    assert said.summary["in_doubt"] == said.summary["requests"] == 5 - said.summary["planned"] > 0
    assert said.summary["in_doubt_usd"] > 0


def test_the_first_interrupt_lets_what_is_in_flight_finish(desk: Desk) -> None:
    """130, nothing lost, and the next run makes only the rest."""
    job = desk.manifest("stopped", [f"[[fault:delay=0.7]] number {n}" for n in range(12)])
    process = desk.start("run", job, *desk.to_peer, "--json")
    assert process.stdout
    while '"attempt_began"' not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = wait(process)
    assert said.code == said.summary["exit_code"] == 130
    assert said.summary["in_doubt"] == said.summary["failed"] == 0
    assert 1 <= said.summary["done"] == said.summary["requests"] <= 5
    assert said.summary["planned"] == 12 - said.summary["done"]
    assert desk.run(job).code == 0
    assert desk.requests() == 12


@pytest.mark.parametrize("place", ["runner.cli.app.run_app", "runner.api.run"])
def test_an_interrupt_before_anything_began_is_130_without_a_traceback(desk: Desk, place: str) -> None:
    """Also while modules are being read, which takes a moment and is when one notices the wrong file."""

    def interrupted(*_args: object, **_named: object) -> None:
        raise KeyboardInterrupt

    desk.monkeypatch.setattr(place, interrupted)
    desk.monkeypatch.setattr("sys.argv", ["runner", "run", desk.manifest("early", GOOD)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert "Traceback" not in desk.capsys.readouterr().err


def test_an_unexpected_error_is_1_and_shows_no_traceback(desk: Desk) -> None:
    """Its cause is named, not the task group around it; RUNNER_DEBUG=1 lets it through."""

    def broken(*_args: object, **_named: object) -> None:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [ValueError("a broken thing")])

    desk.monkeypatch.setattr("runner.api.run", broken)
    job = desk.manifest("broken", GOOD)
    said = desk.run(job)
    assert said.code == 1
    assert "ValueError: a broken thing" in said.err
    assert "RUNNER_DEBUG=1" in said.err
    assert "Traceback" not in said.err
    desk.monkeypatch.setenv("RUNNER_DEBUG", "1")
    with pytest.raises(ExceptionGroup):
        desk.run(job)


# -- plan ---------------------------------------------------------------------------------------------


def test_plan_needs_no_key_and_writes_nothing(desk: Desk) -> None:
    """Not even the output folder is made, and nobody is asked."""
    desk.monkeypatch.delenv(KEY_VARIABLE)
    said = desk.call("plan", desk.manifest("plan", GOOD, samples=2))
    assert said.code == 0
    assert "4 images to make with openai" in said.out
    assert [path.name for path in desk.folder.iterdir()] == ["plan.yaml"]
    assert desk.requests() == 0


def test_plan_as_json_and_as_understood(desk: Desk) -> None:
    """Groups and totals for scripts; `--resolved` is a manifest that means the same."""
    job = desk.manifest("plan", GOOD, matrix={"quality": ["low", "medium"]}, settings={"size": "1024x1024"})
    *groups, total = desk.call("plan", job, "--json").entries
    assert [group["type"] for group in groups] == ["group", "group"]
    assert total["type"] == "plan"
    assert total["wanted"] == total["to_do"] == sum(group["to_do"] for group in groups) == 4
    assert 0 < total["expected_usd"] <= total["worst_usd"]
    Path("resolved.yaml").write_text(desk.call("plan", job, "--resolved", "--set", "samples=3").out)
    assert desk.call("plan", "resolved.yaml", "--json").entries[-1]["wanted"] == 12


def test_plan_knows_what_is_done(desk: Desk) -> None:
    """After a run with --limit, the plan is for the rest."""
    job = desk.manifest("part", GOOD)
    desk.run(job, "--limit", "1")
    plan = desk.call("plan", job, "--json").entries[-1]
    assert (plan["wanted"], plan["done"], plan["to_do"]) == (2, 1, 1)


# -- a job's life -------------------------------------------------------------------------------------


def test_a_second_run_sends_nothing_and_says_so(desk: Desk) -> None:
    """No request, exit code 0, and no attempt to reach anyone."""
    job = desk.manifest("twice", GOOD)
    assert desk.run(job).code == 0
    said = desk.run(job)
    assert said.code == 0
    assert "no request was sent" in said.out
    assert desk.requests() == 2


def test_a_job_is_known_by_its_name_from_anywhere(desk: Desk) -> None:
    """After the first run the name will do, whatever the working directory; `resume` is `run`."""
    desk.run(desk.manifest("named", GOOD), "--limit", "1")
    elsewhere = desk.folder / "elsewhere"
    elsewhere.mkdir()
    desk.monkeypatch.chdir(elsewhere)
    output = ("--output", str(desk.folder / "output"))
    assert desk.call("resume", "named", *desk.to_peer, *output).code == 0
    assert desk.requests() == 2
    for command in ("status", "costs", "export", "plan"):
        said = desk.call(command, "named", *output)
        assert said.code == 0, said.err
        assert said.out
    assert list(elsewhere.iterdir()) == []


def test_options_and_environment_say_where_things_go(desk: Desk) -> None:
    """`--output` and `--ledger` win over RUNNER_OUTPUT and RUNNER_LEDGER, those over the default."""
    job = desk.manifest("places", GOOD)
    desk.monkeypatch.setenv("RUNNER_OUTPUT", "from-env")
    desk.monkeypatch.setenv("RUNNER_LEDGER", "env.sqlite3")
    assert desk.run(job).code == 0
    assert len(list(Path("from-env/places/images").rglob("*.png"))) == 2
    assert Path("env.sqlite3").exists()
    assert desk.run(job, "--output", "told", "--ledger", "sqlite:///told.sqlite3").code == 0
    assert len(list(Path("told/places/images").rglob("*.png"))) == 2
    assert Path("told.sqlite3").exists()
    assert not Path("output").exists()
    assert desk.call("status", "--ledger", "told.sqlite3", "--json").entries[0]["done"] == 2


def test_set_and_limit_and_budget_shape_a_run(desk: Desk) -> None:
    """One image at a time by --limit, more by --set, and none above --budget; settled never passes the cap."""
    job = desk.manifest("shaped", GOOD)
    assert desk.run(job, "--set", "samples=2", "--limit", "3", "--json").summary["done"] == 3
    said = desk.run(job, "--set", "samples=4", "--budget", "0.014", "--json")
    assert said.code == 5
    assert 0 < said.summary["cost_usd"] <= 0.014
    assert said.summary["planned"] > 0
    assert "--budget" in said.summary["reason"]


def test_retry_plans_again_what_is_chosen(desk: Desk) -> None:
    """By status and by code, nothing else; without a choice it asks for one."""
    prompts = [GOOD[0], f"{REFUSED} 1", "[[fault:status=500]] 2", "[[fault:cut]] 3", "[[fault:invalid_request]] 4"]
    job = desk.manifest("again", prompts)
    assert desk.run(job, "--json").code == 4
    (status,) = desk.call("status", "again", "--json").entries
    counts = {name: status[name] for name in ("done", "refused", "failed", "in_doubt")}
    assert counts == {"done": 1, "refused": 2, "failed": 1, "in_doubt": 1}
    assert {problem["code"] for problem in status["problems"]} >= {"moderation_blocked", "connection_cut"}
    assert desk.call("retry", "again").code == 2
    assert desk.call("retry", "again", "--refused", "--code", "moderation_blocked", "--json").entries[0] == {
        "type": "retry",
        "job": "again",
        "planned_again": 1,
        "refused": 1,
    }
    said = desk.call("retry", "again", "--failed", "--in-doubt")
    assert "2 planned again (1 failed, 1 in doubt)" in said.out
    assert desk.call("retry", "again", "--failed").out.strip() == "nothing to retry"
    assert desk.call("status", "again", "--json").entries[0]["planned"] == 3


def test_two_jobs_share_a_ledger_at_the_same_time(desk: Desk) -> None:
    """Neither waits for the other's end, and both are complete."""
    jobs = [desk.manifest(name, [f"[[fault:delay=0.05]] {name} {n}" for n in range(15)]) for name in ("one", "two")]
    said = [wait(each) for each in [desk.start("run", job, *desk.to_peer, "--json") for job in jobs]]
    assert [each.code for each in said] == [0, 0]
    assert desk.requests() == 30
    spent = sum(each.summary["cost_microusd"] for each in said)
    assert spent == desk.peer.bill()["cost_microusd"]
    assert [entry["done"] for entry in desk.call("status", "--json").entries] == [15, 15]


# -- the views ----------------------------------------------------------------------------------------


def test_status_costs_and_export_tell_the_same(desk: Desk) -> None:
    """Counts and money agree with each other and with the simulator's bill."""
    assert desk.run(desk.manifest("views", [*GOOD, REFUSED], samples=2)).code == 4
    bill = desk.peer.bill()
    (status,) = desk.call("status", "views", "--json").entries
    assert status["type"] == "status"
    assert (status["done"], status["refused"], status["wanted"]) == (4, 2, 6)
    assert status["cost_microusd"] == bill["cost_microusd"]
    for by in ("job", "day", "model", "size", "quality"):
        *entries, total = desk.call("costs", "views", "--by", by, "--json").entries
        assert total["type"] == "total"
        assert sum(entry["cost_microusd"] for entry in entries) == total["cost_microusd"] == bill["cost_microusd"]
    text = desk.call("status", "views").out
    assert "4 of 6 done" in text
    assert "moderation_blocked" in text
    assert f"{bill['cost_microusd'] / 1e6:g}" in desk.call("costs").out


def test_a_job_is_found_by_the_path_that_it_was_run_from(desk: Desk) -> None:
    """Looking takes no more than its path: the manifest may be broken since, or need a catalog of its own."""
    path = desk.manifest("views", GOOD)
    assert desk.run(path).code == 0
    Path(path).write_text("prompts: [", "utf-8")
    (status,) = desk.call("status", path, "--json").entries
    assert (status["job"], status["done"]) == ("views", 2)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_export_has_a_row_for_every_wanted_image(desk: Desk, form: str) -> None:
    """In the manifest's order, with file, hash, tokens and cost; `--to` writes the same to a file."""
    assert desk.run(desk.manifest("rows", [*GOOD, REFUSED, 'quoted "text", with a comma'])).code == 4
    said = desk.call("export", "rows", "--format", form)
    if form == "csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(said.out)))
    else:
        rows = said.entries
    assert [row["prompt"] for row in rows] == [*GOOD, REFUSED, 'quoted "text", with a comma']
    assert [row["status"] for row in rows] == ["done", "done", "refused", "done"]
    names = ("job", "key", "prompt_id", "model", "size", "quality", "sample", "variant", "path", "sha256")
    money = ("attempts", "input_tokens", "output_tokens", "cost_microusd", "cost_usd", "price_version", "error_code")
    assert set(rows[0]) >= {*names, *money}
    served = {image for entry in desk.peer.entries() for image in entry["images"]}
    made = [row for row in rows if row["status"] == "done"]
    assert {row["sha256"] for row in made} == served
    assert all((Path("output") / row["path"]).is_file() for row in made)
    assert sum(int(row["cost_microusd"]) for row in rows) == desk.peer.bill()["cost_microusd"]
    assert rows[2]["error_code"] == "moderation_blocked"
    assert "4 rows" in said.err
    assert desk.call("export", "rows", "--format", form, "--to", "rows.out").out == ""
    assert Path("rows.out").read_text() == said.out


def test_views_of_nothing_say_what_to_do(desk: Desk) -> None:
    """Before the first run there is no ledger: 2 with a hint, and none is made by looking."""
    for words in (["status"], ["costs"], ["export", "job"], ["retry", "job", "--failed"]):
        said = desk.call(*words)
        assert said.code == 2
        assert "hint:" in said.err
    assert list(desk.folder.iterdir()) == []


def test_models_and_schema_are_data(desk: Desk) -> None:
    """Every model with its price and source; the schema is what the documentation has."""
    entries = desk.call("models", "--json").entries
    assert {entry["type"] for entry in entries} == {"model"}
    mini = [entry for entry in entries if entry["model"] == "gpt-image-1-mini" and entry["provider"] == "openai"]
    assert {entry["delivery"] for entry in mini} == {"online", "batch"}
    assert all(entry["source"] and entry["as_of"] for entry in entries)
    table = desk.call("models").out.splitlines()
    told = [tuple(line.split()[:3]) for line in table[1:]]
    assert len(set(told)) == len(told) == len(entries), "two lines that cannot be told apart"
    assert desk.call("models", "--source").out.startswith("#")
    assert json.loads(desk.call("schema").out)["type"] == "object"


def test_a_first_manifest_can_be_planned_and_is_not_overwritten(desk: Desk) -> None:
    """`init` writes what `plan` takes, under the name of its file; a second one leaves it alone."""
    assert desk.call("init", "jobs/my first.yaml").code == 0
    assert desk.call("plan", "jobs/my first.yaml", "--json").entries[-1]["job"] == "my-first"
    Path("jobs/my first.yaml").write_text("mine")
    said = desk.call("init", "jobs/my first.yaml")
    assert said.code == 2
    assert Path("jobs/my first.yaml").read_text() == "mine"
    assert desk.call("init", "jobs/first.txt").code == 2


def test_doctor_says_what_is_wrong(desk: Desk) -> None:
    """Well with the stand-in; without a key it fails and names the variable; nothing is paid and nothing made."""
    well = desk.call("doctor", "--model", "gpt-image-2", *desk.to_peer, "--json")
    assert well.code == 0
    assert {entry["name"]: entry["verdict"] for entry in well.entries} == dict.fromkeys(
        ("folder", "disk", "ledger", "key", "reach", "model", "clock"), "ok"
    )
    ill = desk.call("doctor")
    assert ill.code != 0
    assert "OPENAI_API_KEY" in ill.out
    assert desk.call("doctor", "--model", "no-such-model", *desk.to_peer).code != 0
    assert desk.call("doctor", "--base-url", "http://127.0.0.1:9/v1", "--api-key-env", KEY_VARIABLE).code != 0
    assert list(desk.folder.iterdir()) == []
    assert desk.peer.bill()["billed_requests"] == 0


def test_simulate_serves_until_it_is_told_to_end(desk: Desk) -> None:
    """Its URL is the one line on stdout; it ends with its parent, or by SIGINT with 0."""
    process = desk.start("simulate", "--port", "0", "--art", "flat", "--until-stdin-closes", stdin=subprocess.PIPE)
    assert process.stdout
    url = process.stdout.readline().strip()
    job = desk.manifest("simulated", GOOD)
    said = desk.call("run", job, "--provider", "simulator", "--base-url", url, "--json")
    assert said.code == 0
    assert said.summary["simulated"] is True
    assert said.summary["cost_usd"] == 0
    assert said.summary["simulated_cost_usd"] > 0
    ended = wait(process)
    assert (ended.code, ended.out) == (0, "")
    assert "/simulator/bill" in ended.err
    assert desk.call("simulate", "--fault", "nonsense").code == 2
    assert desk.call("simulate", "--latency", "long").code == 2


# -- what goes wrong before anything is sent ----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rnu"], "rnu"),
        (["run"], "job"),
        (["run", "job.yaml", "--frobnicate"], "--frobnicate"),
        (["run", "absent.yaml"], "absent.yaml"),
        (["run", "job.yaml", "--provider", "opanai"], "did you mean openai"),
        (["run", "job.yaml", "--set", "modle=x"], "did you mean model"),
        (["costs", "--by", "weekday"], "weekday"),
        (["run", "job.yaml", "--base-url", "nowhere", "--api-key-env", KEY_VARIABLE], "base URL"),
    ],
)
def test_a_wrong_word_is_2_and_named(desk: Desk, words: list[str], told: str) -> None:
    """Unknown commands, options, jobs, providers, keys: what was wrong, and often what was meant."""
    desk.manifest("job", GOOD)
    said = desk.call(*words)
    assert said.code == 2
    assert told.casefold() in said.err.casefold()
    assert said.out == ""
    assert desk.requests() == 0


def test_no_key_names_the_variable_and_the_way_without_one(desk: Desk) -> None:
    """Before anything is sent; also for a variable of one's own."""
    job = desk.manifest("keyless", GOOD)
    said = desk.call("run", job)
    assert said.code == 2
    assert "OPENAI_API_KEY" in said.err
    assert "--provider simulator" in said.err
    assert "MY_KEY" in desk.call("run", job, "--api-key-env", "MY_KEY").err
    assert "COMETAPI_KEY" in desk.call("run", job, "--provider", "cometapi", "--set", "model=gpt-image-1-mini").err


def test_plain_http_to_another_machine_needs_a_word(desk: Desk) -> None:
    """A key does not cross a network in the clear unless --insecure says so."""
    said = desk.call(
        "run", desk.manifest("plain", GOOD), "--base-url", "http://192.0.2.1/v1", "--api-key-env", KEY_VARIABLE
    )
    assert said.code == 2
    assert "--insecure" in said.err
    assert not list(Path("output").rglob("*.jsonl"))


def test_the_key_is_written_nowhere(desk: Desk) -> None:
    """Not in any output, the ledger, the log or the lock, nor needed as an argument; also when it was refused."""
    job = desk.manifest("secret", [*GOOD, REFUSED, "[[fault:invalid_api_key]]"])
    assert KEY not in " ".join(["run", job, *desk.to_peer])
    said = [desk.run(job, "--json"), desk.call("plan", job, "--resolved"), desk.call("doctor", *desk.to_peer)]
    said += [desk.call(*words) for words in (["status"], ["costs"], ["export", "secret"])]
    assert all(KEY not in each.out + each.err for each in said)
    files = desk.files()
    assert any(path.name == "ledger.sqlite3" for path in files)
    assert any(path.suffix == ".jsonl" for path in files)
    assert all(KEY.encode() not in path.read_bytes() for path in files)
