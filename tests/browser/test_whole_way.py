"""The whole way of a sweep, by the commands alone: made, seen, judged, made again, and seen beside its origin."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.browser.support import Opener, until

JOB = "sweep"
MANIFEST = {
    "name": JOB,
    "model": "gpt-image-2",
    "prompts": [
        {"id": f"p{n}", "text": "A <b>mug</b> number {{ n }}, {{ style }}", "vars": {"n": n}} for n in range(8)
    ],
    "matrix": {"style": ["watercolour", "photograph"], "quality": ["low", "medium"], "size": ["1024x1024"]},
}
KEYS = ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown")
BETTER = ("--model", "gpt-image-2.6-sunburst", "--quality", "high", "--provider", "simulator")


def call(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """A command's JSON lines."""
    command = [sys.executable, "-m", "runner", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_sweep_is_made_judged_and_its_five_best_made_again(tmp_path: Path, opener: Opener) -> None:
    """Thirty choices through the page; winners, by a count of their own, are the five that are promoted."""
    (tmp_path / "sweep.yaml").write_text(json.dumps(MANIFEST))
    call(tmp_path, "run", "sweep.yaml", "--provider", "simulator", "--json")
    (made,) = call(tmp_path, "gallery", JOB, "--json")
    gallery = (tmp_path / made["page"]).as_uri()
    page = opener(gallery)
    until(page, "document.querySelectorAll('.cell img').length > 4")
    assert "A <b>mug</b> number 0, watercolour" in page.inner_text("body")
    choose(tmp_path, opener)

    rows = {row["key"]: row for row in call(tmp_path, "export", JOB, "--format", "jsonl")}
    head, *lines = call(tmp_path, "results", JOB, "--json")
    assert head["choices"] == 30
    style = next(line for line in lines if line["type"] == "axis_result" and line["axis"] == "style")
    assert style["wins"] + style["losses"] + style["ties"] <= 30

    verdicts = chosen(tmp_path)
    wins = Counter(dict.fromkeys(rows, 0))
    for left, right, verdict in verdicts:
        if verdict in ("left", "right"):
            winner, loser = (left, right) if verdict == "left" else (right, left)
            wins[winner] += 1
            wins[loser] -= 1
    lines = call(tmp_path, "promote", JOB, "--winners", "--top", "5", *BETTER, "--json")
    promoted = lines[0]["chosen"]
    assert (len(promoted), len({rows[key]["prompt_id"] for key in promoted})) == (5, 5)
    assert lines[-1]["done"] == lines[-1]["requests"] == 5
    for key in promoted:
        rivals = [other for other in rows if rows[other]["prompt_id"] == rows[key]["prompt_id"]]
        assert wins[key] == max(wins[rival] for rival in rivals)
    before_and_after(opener, gallery)


def choose(folder: Path, opener: Opener) -> None:
    """Thirty choices by key."""
    command = [sys.executable, "-m", "runner", "review", JOB, "--as", "Ann", "--no-open"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        url = server.stdout.readline().strip()
        page = opener(url, origin=url.partition("?")[0])
        try:
            page.click("#tab-review")
            for number in range(30):
                until(page, "document.querySelectorAll('.stage img').length === 2")
                page.keyboard.press(KEYS[number % len(KEYS)])
                until(page, "(words) => document.body.innerText.includes(words)", f"{number + 1} of 32 judged")
            # The page counts a choice at once; it is on record a moment later.
            while len(chosen(folder)) < 30:
                page.wait_for_timeout(20)
        finally:
            page.close()
            server.terminate()


def chosen(folder: Path) -> list[tuple[str, str, str]]:
    """(left, right, verdict) of each choice, as another program would read it."""
    with closing(sqlite3.connect(folder / "output" / "ledger.sqlite3")) as database:
        return list(
            database.execute(
                "SELECT one.key, other.key, verdict FROM choices "
                "JOIN tasks one ON one.id = left_task JOIN tasks other ON other.id = right_task"
            )
        )


def before_and_after(opener: Opener, gallery: str) -> None:
    """The five that were made again, and one of them side by side with what became of it."""
    page = opener(gallery)
    page.click("#opener")
    page.check("[data-facet=promotion][data-value='made again']")
    until(page, "document.getElementById('count').innerText.startsWith('5 of 32 ')")
    page.locator(".cell[data-id]").first.click()
    page.get_by_role("button", name="Before / after").click()
    images = "[...[...document.querySelectorAll('dialog[open]')].at(-1).querySelectorAll('img')]"
    until(page, f"{images}.filter((image) => image.naturalWidth).length === 2")
    shown = page.locator("dialog[open]").last.inner_text()
    assert "Before" in shown
    assert "After" in shown
    assert "quality high" in shown
