"""Charts of spending and pace: the ledger's figures, real and simulated money apart, and two files that agree."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner.ledger import Cost, Job, Ledger
from runner.ledger.queries import DAY_MS
from runner.report.canvas import Png, Svg
from runner.report.charts import chart, draw, ticks
from tests.edges.ledger_support import (
    NOW_MS,
    begin,
    begin_run,
    change,
    enrolled,
    finish,
    make_tasks,
    open_ledger,
    write,
)
from tests.engine.command_support import GOOD, Desk

NOW = dt.datetime.fromtimestamp(NOW_MS / 1000, dt.UTC)
"""2026-11-18, 11:06:40."""
TODAY = "2026-11-18"
NAMESPACE = "{http://www.w3.org/2000/svg}"
REAL, SIMULATED, DOUBT, PACE = "#2f6fb7", "#8a8a93", "#e0a030", "#2e8b6f"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as it:
        yield it


Spend = Callable[..., Job]


@pytest.fixture
def spend(ledger: Ledger) -> Spend:
    """Makes images of a job, `days_ago`, each for so many micro-dollars, in a run of their own."""

    def make(
        count: int, *, days_ago: int = 0, microusd: int = 10_000, simulated: bool = False, name: str = "job"
    ) -> Job:
        known = ledger.job(name)
        wanted = count + (known.wanted if known else 0)
        job = enrolled(ledger, make_tasks(wanted, simulated=simulated), name=name, digest=f"d{wanted}")
        run_id = begin_run(ledger, job, simulated=simulated)
        at = NOW_MS - days_ago * DAY_MS
        for todo in ledger.todo(job, -1, count):
            finish(ledger, job, run_id, todo, cost=Cost(microusd, "usage"), simulated=simulated, now_ms=at)
        return job

    return make


def drawn(ledger: Ledger, job: Job | None = None, *, days: int = 30) -> ElementTree.Element:
    """The chart as SVG, parsed."""
    what = chart(ledger, job, days=days, now=NOW)
    assert what is not None
    return ElementTree.fromstring(draw(what, "svg"))  # our own


def texts(root: ElementTree.Element) -> list[str]:
    """Every text of a chart."""
    return [one.text or "" for one in root.iter(f"{NAMESPACE}text")]


def bars(root: ElementTree.Element, colour: str) -> dict[str, float]:
    """The heights of the bars of a colour, by what is told of them."""
    found = {}
    for box in root.iter(f"{NAMESPACE}rect"):
        title = box.find(f"{NAMESPACE}title")
        if box.get("fill") == colour and title is not None:
            found[title.text or ""] = float(box.get("height", ""))
    return found


def test_each_day_has_a_bar_as_high_as_what_it_has_cost(ledger: Ledger, spend: Spend) -> None:
    """By the day on which a request was begun, in UTC; days without any have none."""
    spend(3)
    spend(1, days_ago=2)
    found = bars(drawn(ledger), REAL)
    assert list(found) == ["2026-11-16: $0.01, 1 images", f"{TODAY}: $0.03, 3 images"]
    low, high = found.values()
    assert high == pytest.approx(3 * low, abs=0.02)
    assert "$0.04 spent, 4 images; all jobs, 2026-10-20 to 2026-11-18 (UTC)" in texts(drawn(ledger))


def test_a_day_begins_at_midnight_utc(ledger: Ledger, spend: Spend) -> None:
    spend(2)
    midnight = NOW_MS - NOW_MS % DAY_MS
    change(ledger, "UPDATE attempts SET begun_ms = ? WHERE id = 1", midnight)
    change(ledger, "UPDATE attempts SET begun_ms = ? WHERE id = 2", midnight - 1)
    assert list(bars(drawn(ledger), REAL)) == ["2026-11-17: $0.01, 1 images", f"{TODAY}: $0.01, 1 images"]


def test_real_and_simulated_money_never_meet(ledger: Ledger, spend: Spend) -> None:
    """Panels of their own, with scales of their own: a cent is no lower for what a simulator would have cost."""
    spend(1)
    alone = bars(drawn(ledger), REAL)
    spend(2, name="rehearsal", simulated=True, microusd=9_000_000)
    both = drawn(ledger)
    assert bars(both, REAL) == alone == {f"{TODAY}: $0.01, 1 images": 170.0}
    assert list(bars(both, SIMULATED)) == [f"{TODAY}: $18.00, 2 images"]
    told = texts(both)
    assert "Spending per day" in told
    assert "Simulated: what each day would have cost" in told
    assert any(one.startswith("$18.00 would have been spent, 2 images") for one in told)


def test_what_is_in_doubt_stands_on_top(ledger: Ledger, spend: Spend) -> None:
    """In another colour, which is explained; without doubt nothing needs to be."""
    job = spend(1)
    assert "in doubt" not in texts(drawn(ledger))
    job = enrolled(ledger, 2, digest="d2")
    attempt_id = begin(ledger, job, begin_run(ledger, job), ledger.todo(job, -1, 1)[0].task_id)
    with write(ledger) as connection:
        from runner.ledger import Answer, attempts

        attempts.lost(connection, attempt_id, task_id=2, answer=Answer(), try_again=False, now_ms=NOW_MS)
    root = drawn(ledger)
    told = f"{TODAY}: $0.01, 1 images, $0.015 in doubt"
    below, above = bars(root, REAL)[told], bars(root, DOUBT)[told]
    assert above == pytest.approx(1.5 * below, abs=0.02)
    tops = [float(box.get("y", "")) for box in root.iter(f"{NAMESPACE}rect") if box.get("fill") in (REAL, DOUBT)]
    tops = [top for top in tops if top > 40]  # without the legend's
    assert tops[0] == pytest.approx(tops[1] + above, abs=0.02)
    assert "in doubt" in texts(root)


def test_one_job_is_shown_without_the_others(ledger: Ledger, spend: Spend) -> None:
    job = spend(1)
    spend(4, name="other")
    assert list(bars(drawn(ledger, job), REAL)) == [f"{TODAY}: $0.01, 1 images"]
    assert list(bars(drawn(ledger), REAL)) == [f"{TODAY}: $0.05, 5 images"]
    assert any("job, run 1: 1 images" in one for one in texts(drawn(ledger, job)))
    assert any("other, run 2: 4 images" in one for one in texts(drawn(ledger)))


def test_the_days_that_are_asked_for_are_shown(ledger: Ledger, spend: Spend) -> None:
    """The first of them, and none before it."""
    spend(1, days_ago=6)
    spend(1, days_ago=7)
    root = drawn(ledger, days=7)
    assert list(bars(root, REAL)) == ["2026-11-12: $0.01, 1 images"]
    assert "$0.01 spent, 1 images; all jobs, 2026-11-12 to 2026-11-18 (UTC)" in texts(root)
    assert len(bars(drawn(ledger, days=8), REAL)) == 2


def test_minutes_of_the_newest_run_are_counted(ledger: Ledger, spend: Spend) -> None:
    """By when an image was there, empty minutes among them; a later run without images changes nothing."""
    job = spend(5)
    minute = NOW_MS - NOW_MS % 60_000
    for task_id, at_ms in ((1, 0), (2, 59_999), (3, 60_000), (4, 180_000), (5, 180_001)):
        change(ledger, "UPDATE attempts SET ended_ms = ? WHERE task_id = ?", minute + at_ms, task_id)
    begin_run(ledger, job)
    pace = ledger.nights.images_by_minute(None)
    assert pace is not None
    first = minute // 60_000
    assert pace.minutes == ((first, 2), (first + 1, 1), (first + 3, 2))
    root = drawn(ledger)
    assert list(bars(root, PACE)) == [
        f"{TODAY} 11:06: 2 images",
        f"{TODAY} 11:07: 1 images",
        f"{TODAY} 11:09: 2 images",
    ]
    assert "job, run 1: 5 images in 4 minutes, from 2026-11-18 11:06 (UTC)" in texts(root)
    assert "Images per minute of the newest run that brought any" in texts(root)


def test_minutes_of_a_long_run_are_put_together(ledger: Ledger, spend: Spend) -> None:
    """A night has more minutes than a page has room for bars, and no image is lost for that."""
    spend(3)
    change(ledger, "UPDATE attempts SET ended_ms = ended_ms + 600 * 60000 WHERE task_id = 3")
    root = drawn(ledger)
    assert "Images per 6 minutes of the newest run that brought any" in texts(root)
    counts = [int(told.split()[2]) for told in bars(root, PACE)]
    assert sorted(counts) == [1, 2]


def test_a_run_that_collects_a_batch_brings_its_images(ledger: Ledger, spend: Spend) -> None:
    """They count where they came home, and not where they were submitted."""
    job = spend(2)
    later = begin_run(ledger, job)
    change(
        ledger,
        "INSERT INTO batches (id, job_id, run_id, provider, simulated, token, endpoint, model, state, requests, bytes, "
        "output_read, error_read, created_ms) VALUES (1, 1, 1, 'openai', 0, 't', 'e', 'm', 'collected', 2, 1, 0, 0, 0)",
    )
    change(ledger, "UPDATE attempts SET batch_row = 1, collected_run = ?", later)
    pace = ledger.nights.images_by_minute(job)
    assert pace is not None
    assert (pace.run_id, sum(images for _, images in pace.minutes)) == (later, 2)
    seen = ledger.nights.night(job, later, glimpses=6)
    assert seen is not None
    assert [group.images for group in seen.groups] == [2]
    before = ledger.nights.night(job, 1, glimpses=6)
    assert before is not None
    assert before.groups == ()


def test_days_without_spending_say_so(ledger: Ledger, spend: Spend) -> None:
    """The pace of a run of long ago is still there to see."""
    spend(1, days_ago=40)
    told = texts(drawn(ledger))
    assert "nothing was spent in these days" in told
    assert any(one.startswith("Images per minute") for one in told)


def test_an_empty_ledger_has_no_chart(ledger: Ledger) -> None:
    assert chart(ledger, None, days=30, now=NOW) is None


@given(st.integers(0, 10**15))
def test_ticks_are_few_round_and_enough(highest: int) -> None:
    """From 0 to the first that is no lower than what is drawn, in equal steps of 1, 2 or 5."""
    found = ticks(highest)
    steps = {after - before for before, after in itertools.pairwise(found)}
    assert found[0] == 0
    assert found[-1] >= max(1, highest) > found[-2]
    assert 2 <= len(found) <= 6
    assert len(steps) == 1
    assert re.fullmatch("[125]0*", str(steps.pop()))


def test_labels_of_the_axis_do_not_touch(ledger: Ledger, spend: Spend) -> None:
    """However many days there are, the newest has its date."""
    spend(1)
    for days in (1, 7, 30, 90, 366):
        root = drawn(ledger, days=days)
        places = [
            float(one.get("x", ""))
            for one in root.iter(f"{NAMESPACE}text")
            if re.fullmatch(r"[A-Z][a-z][a-z] \d+", one.text or "")
        ]
        assert places
        assert all(after - before >= 60 for before, after in itertools.pairwise(places))
        assert "Nov 18" in texts(root)


def test_both_files_show_the_same(ledger: Ledger, spend: Spend) -> None:
    """Every bar of the SVG is in the PNG, in its colour, at twice its place."""
    spend(3)
    spend(2, days_ago=4)
    spend(1, name="rehearsal", simulated=True)
    what = chart(ledger, None, days=30, now=NOW)
    assert what is not None
    root = ElementTree.fromstring(draw(what, "svg"))  # our own
    with Image.open(io.BytesIO(draw(what, "png"))) as picture:
        assert picture.size == (2 * int(root.get("width", "")), 2 * int(root.get("height", "")))
        boxes = [box for box in root.iter(f"{NAMESPACE}rect") if box.find(f"{NAMESPACE}title") is not None]
        assert len(boxes) == 4
        for box in boxes:
            x, y, width, height = (float(box.get(name, "")) for name in ("x", "y", "width", "height"))
            pixel = picture.getpixel((round(2 * x + width), round(2 * y + height)))
            assert "#{:02x}{:02x}{:02x}".format(*pixel) == box.get("fill")  # type: ignore[misc]  # of an RGB picture


def test_texts_of_others_are_texts_in_a_chart() -> None:
    """A name cannot become markup."""
    page = Svg(100, 100, background="#ffffff", title="<a>")
    page.text(1, 1, "</text><script>alert(1)</script>", size=12, colour="#000000")
    page.rect(1, 1, 5, 5, "#000000", told='"<b>')
    root = ElementTree.fromstring(page.done())  # our own
    assert [one.tag.removeprefix(NAMESPACE) for one in root.iter()] == ["svg", "title", "rect", "text", "rect", "title"]
    assert texts(root) == ["</text><script>alert(1)</script>"]


def test_a_page_of_pixels_is_a_png() -> None:
    """With text in it: some pixels are dark."""
    page = Png(60, 20, background="#ffffff")
    page.text(30, 15, "Text", size=12, colour="#000000", anchor="middle")
    with Image.open(io.BytesIO(page.done())) as picture:
        assert (picture.format, picture.size) == ("PNG", (120, 40))
        lowest = picture.convert("L").getextrema()[0]
    assert lowest == 0


# -- the command --------------------------------------------------------------------------------


def test_costs_draws_a_chart(desk: Desk) -> None:
    """By its name's ending; what is printed is what is always printed."""
    desk.run(desk.manifest("spring", GOOD))
    plain = desk.call("costs").out
    for name, begins in (("costs.svg", b"<svg "), ("costs.PNG", b"\x89PNG")):
        said = desk.call("costs", "spring", "--chart", name, "--days", "7")
        assert (said.code, said.out) == (0, plain)
        assert f"the chart is in {name}" in said.err
        assert (desk.folder / name).read_bytes().startswith(begins)


def test_costs_says_why_there_is_no_chart(desk: Desk) -> None:
    """A form that it does not draw, a folder that is not there, and nothing to draw."""
    desk.run(desk.manifest("spring", GOOD))
    said = desk.call("costs", "--chart", "costs.pdf")
    assert (said.code, said.out) == (2, "")
    assert "neither an SVG nor a PNG" in said.err
    said = desk.call("costs", "--chart", "nowhere/costs.svg")
    assert said.code == 2
    assert "nowhere/costs.svg cannot be written: No such file" in said.err
    assert desk.call("costs", "--chart", "costs.svg", "--days", "0").code == 2
    with Ledger.open(desk.folder / "empty/ledger.sqlite3", create=True):
        pass
    said = desk.call("costs", "--chart", "costs.svg", "--output", "empty")
    assert said.code == 2
    assert "there is nothing to draw" in said.err
    assert not (desk.folder / "costs.svg").exists()
