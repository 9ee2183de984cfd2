"""A webhook's URL is nowhere: it is in the manifest, and neither ledger nor logs, neither outputs nor pages have it.

Whoever knows such a URL can post to a team's chat in its name. What is searched is everything that a run leaves or
says, but for the manifest itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.edges.secrets_support import search, search_folder
from tests.engine.command_support import GOOD, REFUSED, Desk, wait
from tests.engine.notifying_support import Hook, hooked

SECRET = "s3cr3t-p4th"


def spring(desk: Desk, folder: Path, **notify: object) -> str:
    """A manifest outside of the folder that is searched."""
    written = Path(desk.manifest("spring", [*GOOD, REFUSED], notify=notify))
    return str(written.rename(folder / "spring.yaml"))


def look(desk: Desk, job: str) -> None:
    """Every command that looks, and all that it says."""
    for command in (
        ("status", "spring"),
        ("status", "spring", "--json"),
        ("costs", "--json"),
        ("export", "spring", "--format", "jsonl"),
        ("plan", job, *desk.to_peer, "--resolved"),
        ("plan", job, *desk.to_peer, "--json"),
        ("report", "spring"),
        ("verify", "spring", "--json"),
        ("run", job, *desk.to_peer, "--set", "notify.timeout=x"),
    ):
        said = desk.call(*command)
        assert said.out + said.err
        search(" ".join(command), (said.out + said.err).encode(), SECRET)


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifests")


@pytest.mark.parametrize("status", [200, 404, 302])
def test_a_run_leaves_no_trace_of_its_webhook(desk: Desk, elsewhere: Path, status: int) -> None:
    """Whether it was told or not, in its lines, its log, its ledger and its report."""
    with hooked((status, {"Location": f"http://127.0.0.1:1/{SECRET}"})) as hook:
        job = spring(desk, elsewhere, webhook=hook.url)
        said = desk.run(job, "--json")
        assert said.summary["exit_code"] == 4
        assert [one["exit_code"] for one in hook.posted] == [4]
        kinds = [entry["type"] for entry in said.entries]
        assert kinds[-1] == "summary"
        assert kinds[-2] == ("notified" if status == 200 else "warned")
        search("the run", (said.out + said.err).encode(), SECRET)
        search("in words", "".join(desk.run(job).out).encode(), SECRET)
        look(desk, job)
    assert search_folder(desk.folder, SECRET) > 5
    assert "http://127.0.0.1" in _log(desk)


def _log(desk: Desk) -> str:
    return "".join(path.read_text() for path in sorted((desk.folder / "output/spring/logs").iterdir()))


def test_a_variable_leaves_no_trace_of_what_it_holds(
    desk: Desk, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the variable is on record, so that a batch that is collected later still tells."""
    with hooked() as hook:
        monkeypatch.setenv("SPRING_HOOK", hook.url)
        job = spring(desk, elsewhere, webhook="${SPRING_HOOK}")
        said = desk.run(job, "--json")
        search("the run", (said.out + said.err).encode(), SECRET)
        assert len(hook.posted) == 1
        assert "webhook: ${SPRING_HOOK}" in desk.call("plan", job, *desk.to_peer, "--resolved").out
        look(desk, job)
    search_folder(desk.folder, SECRET)


def test_a_webhook_on_the_command_line_leaves_no_trace(desk: Desk, elsewhere: Path) -> None:
    """`--set` is a place, and places are shown."""
    with hooked() as hook:
        job = spring(desk, elsewhere, command=["true"])
        for words in (("--set", f"notify.webhook={hook.url}"), ("--set", f"notify.webhok={hook.url}")):
            said = desk.run(job, *words, "--json")
            search(words[1], (said.out + said.err).encode(), SECRET)
        assert len(hook.posted) == 1
    search_folder(desk.folder, SECRET)


def test_a_process_that_tells_all_it_knows_does_not_tell_the_webhook(
    desk: Desk, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracebacks and warnings of every kind, in a process of its own."""
    for name, value in {"RUNNER_DEBUG": "1", "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "always"}.items():
        monkeypatch.setenv(name, value)
    with hooked(503, 200) as hook:
        job = spring(desk, elsewhere, webhook=hook.url)
        said = wait(desk.start("run", job, *desk.to_peer))
        assert said.code == 4
        assert len(hook.posted) == 2
        search("the process", (said.out + said.err).encode(), SECRET)
        for words in ("notify.on=x", f"notify.webhok={hook.url}", f"notify={hook.url}", f"notify.timeout={hook.url}"):
            said = wait(desk.start("run", job, *desk.to_peer, "--set", words))
            assert "Traceback" in said.err
            search(words, (said.out + said.err).encode(), SECRET)


# -- and that it is told at all -----------------------------------------------------------------


def _notified(hook: Hook) -> list[tuple[str, int]]:
    return [(entry["job"], entry["exit_code"]) for entry in hook.posted]


def test_a_run_tells_how_it_ended_and_ends_as_it_would(desk: Desk, elsewhere: Path) -> None:
    """Each time, with the report that lies beside the images; what goes wrong with it changes no exit code."""
    with hooked(200, 200, 400) as hook:
        command = [sys.executable, "-c", "import os, sys; sys.exit(open(os.environ['RUNNER_REPORT']).read(15))"]
        job = spring(desk, elsewhere, webhook=hook.url, command=command)
        said = desk.run(job, "--budget", "0", "--json")
        assert said.summary["exit_code"] == 5
        assert "<!DOCTYPE html>" in " ".join(one["message"] for one in said.entries if one["type"] == "warned")
        assert desk.run(job).code == 4
        assert desk.run(job, "--json").summary["exit_code"] == 4
    assert _notified(hook) == [("spring", 5), ("spring", 4), ("spring", 4)]
    report = Path(hook.posted[-1]["report"])
    assert report.samefile(desk.folder / "output/spring/report.html")
    assert "Ended, with images that were not made" in report.read_text("utf-8")


def test_a_run_that_tells_nobody_of_this_end_writes_its_report_all_the_same(desk: Desk, elsewhere: Path) -> None:
    """It is there at breakfast, whatever is told at night; a job without `notify` has none."""
    with hooked() as hook:
        job = spring(desk, elsewhere, webhook=hook.url, on="budget")
        assert desk.run(job).code == 4
        assert hook.posted == []
    assert (desk.folder / "output/spring/report.html").is_file()
    desk.run(desk.manifest("plain", GOOD))
    assert not (desk.folder / "output/plain/report.html").exists()


def test_the_record_of_a_run_has_the_host_alone(desk: Desk, elsewhere: Path) -> None:
    with hooked() as hook:
        job = spring(desk, elsewhere, webhook=hook.url)
        told = desk.call("plan", job, *desk.to_peer, "--resolved").out
        assert f"webhook: http://127.0.0.1:{hook.port}/…" in told
        (elsewhere / "again.yaml").write_text(told)
        said = desk.run(str(elsewhere / "again.yaml"), "--json")
        assert hook.posted == []
    messages = [entry["message"] for entry in said.entries if entry["type"] == "warned"]
    assert any("only this much of it is on record" in message for message in messages)
    assert json.dumps(said.summary)
