"""The report of a night: what it says of a run, that it fits in a mail, and that nothing of others gets loose in it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from runner.errors import InputError
from runner.ledger import Answer, attempts
from runner.report.night import MAX_BYTES, night
from runner.tasks import Event
from tests.edges.ledger_support import (
    ANSWER,
    COST,
    NOW_MS,
    House,
    begin_run,
    change,
    file_of,
    make_edit,
    make_file,
    make_task,
    move_in,
    open_house,
    png,
    write,
)
from tests.engine.command_support import GOOD, REFUSED, Desk

NOW = dt.datetime(2026, 11, 23, 6, tzinfo=dt.UTC)
HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u202e{{ 7 * 7 }}"
_VOID = ("meta", "img", "br")


class Reader(HTMLParser):
    """Reads a document as a browser does: its texts, its tags, and whether each that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts += [" ".join(data.split())] if data.strip() else []

    @property
    def text(self) -> str:
        """All that is to be read."""
        return " | ".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every tag of one kind."""
        return [found for name, found in self.tags if name == tag]


def read(house: House, run_id: int | None = None, **more: Any) -> Reader:
    """The report of a run of the house's job."""
    return Reader(night(house.ledger, house.job, run_id, now=NOW, **more))


def end(house: House, code: int | None, reason: str | None = "so it is") -> None:
    """The run has ended, three minutes after it began; with no code it has not."""
    if code is not None:
        house.ledger.end_run(house.run_id, exit_code=code, reason=reason, now_ms=NOW_MS + 190_000)


def make_all(house: House, *, latency_ms: int = 850, size: str = "16x16") -> None:
    """Every task is done, each a bit slower than the one before, and a minute apart."""
    for number, todo in enumerate(house.todo()):
        attempt_id = house.begin(todo)
        sealed = house.receive(attempt_id, png(todo.task_id, size))
        file = house.store.path(todo.name)
        answer = replace(ANSWER, latency_ms=latency_ms + 1000 * number)
        with write(house.ledger) as connection:
            attempts.received(connection, attempt_id, answer=answer, cost=COST, file=file_of(sealed, file))
        house.store.place(attempt_id, file)
        with write(house.ledger) as connection:
            attempts.saved(
                connection,
                attempt_id,
                task_id=todo.task_id,
                file=file_of(sealed, file),
                model="gpt-image-1-mini",
                simulated=False,
                now_ms=NOW_MS + 60_000 * number,
            )


def fail(house: House, event: Event, code: str, message: str) -> None:
    """The next task is refused or given up."""
    todo = house.todo()[0]
    attempt_id = house.begin(todo)
    answer = Answer("req-9", 400, 10, code, message)
    with write(house.ledger) as connection:
        attempts.unsaved(
            connection, attempt_id, event, task_id=todo.task_id, answer=answer, cost=None, now_ms=NOW_MS + 1
        )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path, 4) as it:
        yield it


def test_a_good_night_is_told(house: House) -> None:
    """Counts, money, groups, the pace and the latency are those on record."""
    make_all(house)
    end(house, 0, "all that was wanted exists")
    told = read(house).text
    assert "job | 2026-11-18 11:06 UTC to 2026-11-18 11:09 UTC, 3m10s, with openai" in told
    assert "All that was wanted is there | all that was wanted exists | exit code 0" in told
    assert "runner gallery job --open" in told
    assert "made in this run | 4 images with 4 requests" in told
    assert "the job now | 4 of 4 done" in told
    assert "cost | $0.045 ($0.01125 an image)" in told
    assert "gpt-image-1-mini | 16x16 | low | 4 | 4 | $0.045" in told
    assert "A request took 2.4s on average" in told  # of 0.85, 1.85, 2.85 and 3.85 s
    assert "The slowest: | prompt-000003/16x16-low-1.png | 3.9s | prompt-000002" in told
    assert "the highest bar is 1 a minute" in told
    for absent in ("Simulated", "not done", "in doubt", "in batches", "saved by reuse", "Why images"):
        assert absent not in told


@pytest.mark.parametrize(
    ("code", "head", "command"),
    [
        (0, "Ended well, with more to make", "runner resume job"),
        (1, "Stopped by a fault", "runner verify job"),
        (2, "Stopped: something that it was given cannot be used", "runner plan job"),
        (4, "Ended, with images that were not made", "runner retry job --refused"),
        (5, "Stopped at the budget", "runner resume job --budget USD"),
        (6, "Stopped by the provider", "runner doctor"),
        (8, "Stopped at its time limit", "runner resume job"),
        (130, "Interrupted", "runner resume job"),
        (None, "Has not ended, or died without a word", "runner resume job"),
    ],
)
def test_every_end_has_its_words_and_what_to_do(house: House, code: int | None, head: str, command: str) -> None:
    fail(house, Event.REFUSED, "moderation_blocked", "no")
    end(house, code)
    told = read(house).text
    assert head in told
    assert command in told.partition("What to do next")[2].partition("Images")[0]


def test_what_went_wrong_is_counted_with_an_example(house: House) -> None:
    """Grouped, the most frequent first; planned again is what `retry` is told for."""
    for _ in range(2):
        fail(house, Event.REFUSED, "moderation_blocked", "the safety system said no")
    fail(house, Event.GAVE_UP, "server_error", "it broke")
    end(house, 4)
    told = read(house).text
    assert "not done | 1 planned, 1 failed, 2 refused" in told
    assert "2 | refused | moderation_blocked | the safety system said no | e.g. | prompt-000000" in told
    assert "1 | failed | server_error | it broke | e.g. | prompt-000002" in told
    assert "runner retry job --failed | runner retry job --refused | runner resume job" in told


def test_money_that_may_have_been_spent_is_told_apart(house: House) -> None:
    todo = house.todo()[0]
    attempt_id = house.begin(todo)
    with write(house.ledger) as connection:
        attempts.lost(connection, attempt_id, task_id=todo.task_id, answer=Answer(), try_again=False, now_ms=NOW_MS + 5)
    end(house, 4)
    assert "cost | $0.00 | in doubt | $0.015: possibly billed, counted against the cap" in read(house).text


def test_the_cap_of_the_manifest_is_told(house: House) -> None:
    change(house.ledger, "UPDATE runs SET manifest = 'name: x\nbudget:\n  usd: 12.50\n  per: day\n'")
    assert "cap in the manifest | $12.50 per day" in read(house).text


@pytest.mark.parametrize("manifest", ["", "[", "- a", "budget: 5", "budget: {usd: lots}", "budget: {usd: .nan}"])
def test_a_manifest_on_record_that_is_none_is_borne(house: House, manifest: str) -> None:
    change(house.ledger, "UPDATE runs SET manifest = ?", manifest)
    assert "cap in the manifest" not in read(house).text


def test_a_simulated_night_says_so(tmp_path: Path) -> None:
    """Nobody takes its amounts for money."""
    with open_house(tmp_path, [make_task("a", simulated=True)]) as house:
        change(house.ledger, "UPDATE runs SET simulated = 1, provider = 'simulator'")
        house.begin(house.todo()[0], simulated=True)
        told = read(house).text
    assert "Simulated. | No provider was asked and nothing was spent" in told
    assert "would have cost | $0.00" in told


def test_an_earlier_run_can_be_told_of(house: House) -> None:
    """By its number; what to do next is then for the later one to say."""
    make_all(house)
    end(house, 0)
    later = begin_run(house.ledger, house.job)
    assert "made in this run | 0 images with 0 requests" in read(house).text
    told = read(house, house.run_id).text
    assert "made in this run | 4 images with 4 requests" in told
    assert "A later run has gone on from here" in told
    with pytest.raises(InputError, match="has no run 99") as caught:
        read(house, 99)
    assert caught.value.hint == f"its newest runs are {later}, {house.run_id}"


def test_a_run_of_another_job_is_none_of_this(house: House, tmp_path: Path) -> None:
    other = move_in(house.ledger, tmp_path, 1, name="other")
    with pytest.raises(InputError, match=f"'job' has no run {other.run_id}"):
        read(house, other.run_id)


def test_what_reuse_has_saved_is_told(house: House, tmp_path: Path) -> None:
    make_all(house)
    other = move_in(house.ledger, tmp_path, 2, name="other")
    for item in next(house.ledger.reusable(other.job)):
        house.ledger.reuse(item, make_file(f"other/images/{item.name}", seed=item.task_id), now_ms=NOW_MS)
    assert "saved by reuse | $0.0225: 2 images of other jobs" in read(other).text
    change(house.ledger, "UPDATE runs SET simulated = 1 WHERE id = ?", other.run_id)
    assert "saved by reuse" not in read(other).text  # real money, and the run's is not


# -- pictures -----------------------------------------------------------------------------------


def test_small_pictures_are_in_the_document(house: House) -> None:
    """As data, so that a mail has them; one of each prompt first, and at most six."""
    make_all(house, size="300x200")
    images = read(house, store=house.store).all("img")
    assert len(images) == 4
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in images)
    assert images[0]["alt"] == "prompt-000003/16x16-low-1.png"
    assert read(house).all("img") == []


def test_pictures_whose_files_are_not_there_are_left_out(house: House, tmp_path: Path) -> None:
    """Gone, broken, or somewhere else: the report is made all the same, and shows nothing of other folders."""
    make_all(house)
    outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
    outside.write_bytes(png(9))
    files = sorted((house.output / "job/images").rglob("*.png"))
    files[0].unlink()
    files[1].write_bytes(b"no image")
    files[2].unlink()
    files[2].symlink_to(outside)
    assert len(read(house, store=house.store).all("img")) == 1
    change(house.ledger, "UPDATE assets SET path = ? WHERE task_id = 4", f"../{outside.name}")
    assert read(house, store=house.store).all("img") == []


def test_the_thumbnail_is_taken_where_there_is_one(house: House) -> None:
    """It is smaller; one of another image than the asset's is not shown."""
    make_all(house)
    change(
        house.ledger,
        "INSERT INTO renditions (task_id, kind, recipe, asset_sha256, task_name, path, sha256, bytes, created_ms) "
        "SELECT task_id, 'thumbnail', 'r', CASE task_id WHEN 1 THEN sha256 ELSE 'other' END, 'n', "
        "'job/gallery/thumbs/' || task_id || '.webp', sha256, 1, 0 FROM assets",
    )
    seen = house.ledger.nights.night(house.job, None, glimpses=6)
    assert seen is not None
    assert [glimpse.thumbnail for glimpse in seen.glimpses] == [None, None, None, "job/gallery/thumbs/1.webp"]


# -- in a mail ----------------------------------------------------------------------------------


def hostile(folder: Path) -> Iterator[House]:
    """A job in which every text of others is as bad and as long as it can be."""
    tasks = [
        make_task(f"{n}", size=f"{n}x{n}", name=f"{n}-{HOSTILE * 9}.png"[:900].replace("/", "_"), edit=make_edit(n))
        for n in range(1, 41)
    ]
    with open_house(folder, tasks) as house:
        for number in range(20):
            fail(house, Event.REFUSED, f"{number}{HOSTILE * 40}", HOSTILE * 400)
        change(house.ledger, "UPDATE runs SET manifest = ?", json.dumps({"description": HOSTILE * 90}))
        change(house.ledger, "UPDATE runs SET provider = ?, version = ?", HOSTILE, HOSTILE)
        end(house, 4, HOSTILE * 300)
        yield house


def test_nothing_of_others_gets_loose(tmp_path: Path) -> None:
    """Texts of the provider, of the manifest and of names are shown as texts: no tag, no address, no direction mark."""
    for house in hostile(tmp_path):
        found = read(house, store=house.store)
        assert {tag for tag, _ in found.tags} <= {
            "html", "head", "meta", "title", "body", "table", "tr", "td", "th", "div", "h1", "h2", "p", "b", "bdi",
            "br", "span",
        }  # fmt: skip
        assert HOSTILE[:40] in found.text
        assert "\u202e" not in found.text
        assert "49" not in found.text


def test_it_fits_in_a_mail_whatever_is_in_it(tmp_path: Path) -> None:
    """What is only nice to see goes first: here every text takes five times its room, and pictures are of noise."""
    with open_house(tmp_path, [make_task(f"{n}", size=f"{n}x{n}") for n in range(1, 15)]) as house:
        make_all(house, size="256x256")
        job = house.ledger.enrol(house.job, [make_task(f"bad {n}") for n in range(12)], digest="d2")
        house.job = job
        for number in range(12):
            fail(house, Event.REFUSED, f"{number}" + "'" * 400, "'" * 900)
        change(house.ledger, "UPDATE tasks SET name = ? || id, size = ? || size", "'" * 800, "'" * 300)
        end(house, 4, "&" * 900)
        text = night(house.ledger, house.job, now=NOW, store=house.store)
        assert MAX_BYTES * 3 / 4 < len(text.encode()) < MAX_BYTES
        assert "Why images of the job are not there" in text


def test_it_loads_nothing_and_runs_nothing(house: House) -> None:
    """No script, no style sheet, no address but that of the gallery, and a policy that allows no more."""
    make_all(house)
    end(house, 0)
    found = read(house, store=house.store, gallery="gallery/index.html")
    assert [one["href"] for one in found.all("a")] == ["gallery/index.html"]
    policy = next(one["content"] for one in found.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    for tag, attributes in found.tags:
        assert tag not in ("script", "link", "style", "iframe", "form")
        assert not [name for name in attributes if name.startswith("on")]
        assert "url(" not in (attributes.get("style") or "")
        assert not (attributes.get("src") or "data:").startswith("http")


def test_a_long_night_has_few_bars(house: House) -> None:
    """Ten hours are not six hundred bars."""
    make_all(house)
    change(house.ledger, "UPDATE attempts SET ended_ms = ended_ms + 600 * 60000 WHERE task_id = 4")
    found = read(house)
    assert len([one for one in found.all("td") if "title" in one]) <= 48
    assert "each is 13 minutes" in found.text


# -- the command --------------------------------------------------------------------------------


def test_the_command_writes_the_report(desk: Desk) -> None:
    """Of a whole run on the stand-in; to stdout, or to a file."""
    job = desk.manifest("spring", [*GOOD, REFUSED])
    assert desk.run(job).code == 4
    said = desk.call("report", "spring")
    assert said.code == 0
    told = Reader(said.out)
    assert "the job now | 2 of 3 done" in told.text
    assert "moderation_blocked" in told.text
    assert len(told.all("img")) == 2
    assert told.all("a") == []
    page = desk.folder / "output/spring/gallery/index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("a gallery")
    (desk.folder / "mails").mkdir()
    said = desk.call("report", job, "--to", "mails/night.html")
    assert (said.code, said.out) == (0, "")
    (link,) = Reader((desk.folder / "mails/night.html").read_text("utf-8")).all("a")
    assert link["href"] == "../output/spring/gallery/index.html"


def test_the_command_says_what_it_cannot_do(desk: Desk) -> None:
    desk.run(desk.manifest("spring", GOOD))
    said = desk.call("report", "spring", "--run", "7")
    assert said.code == 2
    assert "has no run 7" in said.err
    said = desk.call("report", "spring", "--to", "nowhere/night.html")
    assert said.code == 2
    assert "nowhere/night.html cannot be written: No such file" in said.err
    assert desk.call("report", "sprng").code == 2
