"""What follows a run that has ended: the report is there, whoever is to hear of it does, and nothing of it counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.command_support import GOOD, REFUSED, Desk

TOLD = ["sh", "-c", 'cat >> told.jsonl; echo "$RUNNER_REPORT" >> reports']


def job(desk: Desk, prompts: list[str] = GOOD, **more: Any) -> str:
    return desk.manifest("night", prompts, **{"notify": {"command": TOLD}, **more})


def told(desk: Desk) -> list[dict[str, Any]]:
    path = desk.folder / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_tells_its_end_with_a_report_that_is_there(desk: Desk) -> None:
    said = desk.run(job(desk), "--json")
    assert said.code == 0
    (heard,) = told(desk)
    report = Path(heard["report"])
    assert report == desk.folder / "output/night/report.html"
    assert (desk.folder / "reports").read_text().strip() == str(report)
    assert "2 of 2" in report.read_text()
    assert {name: heard[name] for name in ("job", "done", "exit_code")} == {"job": "night", "done": 2, "exit_code": 0}
    types = [entry["type"] for entry in said.entries]
    assert types[-2:] == ["notified", "summary"]


@pytest.mark.parametrize(
    ("prompts", "more", "on", "code"),
    [
        (GOOD, {}, "failed", 0),
        ([*GOOD, REFUSED], {}, "failed", 4),
        (GOOD, {"budget": {"usd": 0}}, "budget", 5),
        ([*GOOD, REFUSED], {}, "done", 4),
    ],
)
def test_only_the_ends_that_are_asked_for_are_told(
    desk: Desk, prompts: list[str], more: dict[str, Any], on: str, code: int
) -> None:
    said = desk.run(job(desk, prompts, notify={"on": on, "command": TOLD}, **more))
    assert said.code == code
    expected = {"failed": 4, "budget": 5, "done": 0}[on] == code
    assert [heard["exit_code"] for heard in told(desk)] == ([code] if expected else [])


@pytest.mark.parametrize("command", [["false"], ["/nowhere/at/all"], ["sh", "-c", "exit 3"]])
def test_nobody_who_cannot_be_told_changes_the_end(desk: Desk, command: list[str]) -> None:
    said = desk.run(job(desk, notify={"command": command}), "--json")
    assert (said.code, said.summary["done"], said.summary["exit_code"]) == (0, 2, 0)
    assert any(command[0] in entry["message"] for entry in said.entries if entry["type"] == "warned")


def test_a_report_that_cannot_be_written_is_told_without_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("nobody foresaw this")

    monkeypatch.setattr("runner.closing._report", fail)
    said = desk.run(job(desk), "--json")
    assert said.code == 0
    assert [heard["report"] for heard in told(desk)] == [None]
    assert any("no report" in entry["message"] for entry in said.entries if entry["type"] == "warned")


def test_a_run_without_notify_leaves_no_report(desk: Desk) -> None:
    desk.run(desk.manifest("night", GOOD))
    assert not (desk.folder / "output/night/report.html").exists()


def test_collecting_tells_only_what_is_news(desk: Desk) -> None:
    """Cron collects every few hours: that no batch was over yet is told nobody, what has come home is."""
    collect = ("collect", "night", *desk.to_peer)
    desk.peer.call("POST", "/simulator/faults", {"rules": ["batch_stuck:times=1"]})
    assert desk.run(job(desk, delivery="batch"), "--no-wait").code == 0
    assert desk.call(*collect).code == 0
    assert [heard["submitted"] for heard in told(desk)] == [2]
    assert desk.run(job(desk, [*GOOD, "A mug"], delivery="batch"), "--no-wait").code == 0
    assert desk.call(*collect).code == 0
    assert [heard["made"] for heard in told(desk)] == [0, 1]
