"""Reviewing in a real browser: choices by key and by mouse, what they come to, and what may go wrong meanwhile."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.ledger import Choice
from runner.report.results import results
from runner.tasks import task_key
from tests.browser.support import Opener, Sight, until
from tests.engine.review_support import Host, Panel, open_panel, sweep
from tests.engine.review_support import hosting as hosting_until_the_end

pytest.importorskip("playwright", reason="Playwright is not installed: `make browser-test` does that")
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "both": "ArrowUp", "neither": "ArrowDown"}
VERDICTS = ["left", "left", "right", "both", "left", "right", "neither", "left", "left", "right"]
Look = Callable[..., "Page"]
# A machine that is busy with other tests is slow, and not wrong.
expect.set_options(timeout=20_000)


@dataclass(frozen=True, slots=True)
class Asked:
    """A pair as a person sees it."""

    prompt_id: str
    left: dict[str, str]
    right: dict[str, str]


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Panel]:
    with open_panel(tmp_path, prompts=8) as opened:
        opened.make_all()
        yield opened


_pages: list[Page] = []


@contextmanager
def hosting(panel: Panel, **settings: Any) -> Iterator[Host]:
    """A review whose pages are closed before it ends: what they still ask for would be an error on their console."""
    with hosting_until_the_end(panel, **settings) as host:
        try:
            yield host
        finally:
            while _pages:
                _pages.pop().close()


@pytest.fixture
def look(opener: Opener) -> Look:
    """Opens a review's page, as Ann unless told otherwise, once there is something to judge."""

    def open_page(host: Host, *, name: str | None = "Ann", **options: Any) -> Page:
        page = opener(host.url, origin=host.origin, **options)
        _pages.append(page)
        if name is not None:
            begin(page, name)
        return page

    return open_page


def begin(page: Page, name: str) -> None:
    """Say who judges."""
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Begin").click()
    expect(page.locator("#judging")).to_be_visible()
    expect(page.locator("#judge-over")).to_be_hidden()


def seen(page: Page) -> Asked:
    """What is asked now, read from the page."""
    expect(page.locator("#judge-pair img")).to_have_count(2)
    prompt_id, *shared = page.locator("#judge-prompt p").first.inner_text().split(", ")
    labels = page.locator("#judge-pair figcaption").all_inner_texts()
    left, right = (dict(sorted({**_values(", ".join(shared)), **_values(label)}.items())) for label in labels)
    return Asked(prompt_id, left, right)


def judged(page: Page, done: int, total: int) -> None:
    """Wait until so many are judged."""
    expect(page.locator("#judge-progress")).to_have_text(f"{done} of {total} judged")


def recorded(page: Page, panel: Panel, count: int) -> list[Choice]:
    """The choices on record, once there are so many."""
    for _ in range(500):
        choices = list(panel.house.ledger.reviews.all(panel.house.job))
        if len(choices) == count:
            return choices
        page.wait_for_timeout(20)
    raise AssertionError(f"{len(choices)} choices are on record instead of {count}")


def _values(text: str) -> dict[str, str]:
    return dict(part.split("=") for part in text.split(", ") if part)


# -- thirty choices, and what they come to --------------------------------------------------------


def _wilson(wins: int, losses: int) -> tuple[float, float]:
    """The closed form, from the textbook."""
    n, z = wins + losses, 1.959963984540054
    p = wins / n
    root = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (p + z**2 / (2 * n) - root) / (1 + z**2 / n), (p + z**2 / (2 * n) + root) / (1 + z**2 / n)


def _strengths(games: list[tuple[str, str, float]]) -> dict[str, float]:
    """The chance of each against the average, by gradient ascent: a game is (one, other, what the one got of it)."""
    names = sorted({name for game in games for name in game[:2]})
    at = dict.fromkeys(names, 0.0)
    for _ in range(20_000):
        slope = {name: 0.5 * (0.5 - 1 / (1 + math.exp(-at[name]))) for name in names}
        for one, other, got in games:
            surplus = got - 1 / (1 + math.exp(at[other] - at[one]))
            slope[one] += surplus
            slope[other] -= surplus
        at = {name: at[name] + 0.1 * slope[name] for name in names}
    return {name: 1 / (1 + math.exp(-value)) for name, value in at.items()}


def test_thirty_choices_by_key_and_mouse_come_to_what_they_should(panel: Panel, look: Look) -> None:
    """Win rates, intervals and ranking are those of a computation of what was seen and pressed, not of the ledger."""
    games: list[tuple[Asked, str]] = []
    with hosting(panel) as host:
        page = look(host)
        for number in range(30):
            asked, verdict = seen(page), VERDICTS[number % len(VERDICTS)]
            # A preference of its own, so that there is something to find.
            if verdict in ("left", "right") and number % 3 and asked.left["quality"] != asked.right["quality"]:
                verdict = "left" if asked.left["quality"] == "medium" else "right"
            games.append((asked, verdict))
            if number % 2:
                page.keyboard.press(KEYS[verdict])
            else:
                page.locator(f'#judge-buttons [data-does="{verdict}"]').click()
            judged(page, number + 1, 32)
        recorded(page, panel, 30)
        page.get_by_role("tab", name="Results").click()
        expect(page.locator("#results caption").first).to_contain_text("What beats what")
        table = page.locator("#results table").first.locator("tbody tr").all_inner_texts()

    assert len({json.dumps([a.prompt_id, sorted([str(a.left), str(a.right)])]) for a, _ in games}) == 30
    told = results(panel.house.ledger, panel.house.job).as_dict()
    assert (told["verdicts"], told["left_out"], told["repeated"]) == (30, 0, 0)
    for axis in ("quality", "style"):
        wins: Counter[str] = Counter()
        ties = 0
        for asked, verdict in games:
            if asked.left[axis] != asked.right[axis]:
                ties += verdict in ("both", "neither")
                if verdict in ("left", "right"):
                    wins[getattr(asked, verdict)[axis]] += 1
        (found,) = (each for each in told["axes"] if each["axis"] == axis)
        assert (found["wins"], found["losses"], found["ties"]) == (wins[found["a"]], wins[found["b"]], ties)
        assert found["wins"] >= found["losses"]
        assert (found["low"], found["high"]) == pytest.approx(_wilson(found["wins"], found["losses"]), abs=1e-9)
        share = found["wins"] / (found["wins"] + found["losses"])
        assert any(axis in row and f"{math.floor(share * 100 + 0.5)} %" in row for row in table), table
        assert found["difference_usd"] == pytest.approx({"quality": 0.006, "style": 0}[axis] * (found["a"] != "low"))
    got = {"left": 1.0, "right": 0.0, "both": 0.5, "neither": 0.5}
    expected = _strengths([(str(asked.left), str(asked.right), got[verdict]) for asked, verdict in games])
    assert {str(each["variant"]): pytest.approx(each["chance"], abs=1e-5) for each in told["ranking"]} == expected
    for each in told["ranking"]:
        assert each["rank"] == 1 + sum(chance > each["chance"] + 1e-4 for chance in expected.values())


def test_a_reload_goes_on_where_one_stopped(panel: Panel, look: Look) -> None:
    """The person is known, the count stands, the same pair is asked; another browser of that person's finds it too."""
    with hosting(panel) as host:
        page = look(host)
        for count in range(1, 4):
            seen(page)
            page.keyboard.press("ArrowLeft")
            judged(page, count, 32)
        recorded(page, panel, 3)
        before = seen(page)
        page.reload()
        judged(page, 3, 32)
        assert seen(page) == before
        other = look(host)
        judged(other, 3, 32)
        assert seen(other) == before


def test_undo_by_key_and_by_button(panel: Panel, look: Look) -> None:
    """The pair is back, and what was said of it is not on record any more; with nothing left it says so."""
    with hosting(panel) as host:
        page = look(host)
        pairs = []
        for count in range(1, 4):
            pairs.append(seen(page))
            page.keyboard.press("ArrowRight")
            judged(page, count, 32)
        for count, way in ((2, "u"), (1, "Backspace"), (0, None)):
            if way:
                page.keyboard.press(way)
            else:
                page.get_by_role("button", name="Undo").click()
            judged(page, count, 32)
            assert seen(page) == pairs[count]
            recorded(page, panel, count)
        page.keyboard.press("u")
        expect(page.locator(".toast").last).to_contain_text("nothing to undo")


def test_a_key_that_is_held_chooses_once(panel: Panel, look: Look) -> None:
    """And keys that zoom or move choose nothing, nor does an arrow in the prompt or a letter in the name."""
    with hosting(panel) as host:
        page = look(host)
        seen(page)
        for _ in range(5):
            page.keyboard.down("ArrowLeft")
        page.keyboard.up("ArrowLeft")
        judged(page, 1, 32)
        seen(page)
        for key in ("+", "Shift+ArrowLeft", "Shift+ArrowUp", "-", "0", "5", "x"):
            page.keyboard.press(key)
        page.locator("#judge-prompt").focus()
        page.keyboard.press("ArrowDown")
        page.locator("#judge-who").click()
        page.get_by_label("Your name").press("u")
        page.get_by_label("Your name").press("ArrowLeft")
        recorded(page, panel, 1)


def test_both_images_zoom_as_one(panel: Panel, look: Look) -> None:
    """By key, and back with the next pair."""
    with hosting(panel) as host:
        page = look(host)
        seen(page)
        page.keyboard.press("+")
        moved = page.locator("#judge-pair img").evaluate_all("images => images.map(image => image.style.transform)")
        assert moved[0] == moved[1]
        assert "scale(1.5)" in moved[0]
        page.keyboard.press("ArrowLeft")
        judged(page, 1, 32)
        seen(page)
        expect(page.locator("#judge-pair .panes")).to_have_attribute("data-scale", "1.000")


def test_what_is_looked_at_stays(panel: Panel, look: Look) -> None:
    """Whatever order the server tells meanwhile: a pair that changes under one's eyes is chosen by mistake."""
    with hosting(panel) as host:
        page = look(host)

        def turned(route: Route) -> None:
            answer = route.fetch()
            said = answer.json()
            route.fulfill(response=answer, json={**said, "items": said["items"][::-1]})

        page.route("**/api/next?*", turned)
        for count in range(1, 4):
            seen(page)
            with page.expect_response("**/api/next?*") as answered:
                page.keyboard.press("ArrowLeft")
                judged(page, count, 32)
                before = seen(page)
            answered.value.finished()
            page.wait_for_timeout(50)
            assert seen(page) == before


def test_what_is_skipped_comes_at_the_end(panel: Panel, look: Look) -> None:
    """By key; and when nothing is left the page says so, and leads to the results."""
    with hosting(panel, axis="style") as host:
        page = look(host)
        first = seen(page)
        page.keyboard.press("s")
        expect(page.locator("#judge-progress")).to_have_text("0 of 16 judged, 1 skipped")
        for count in range(1, 16):
            assert seen(page) != first
            page.keyboard.press("ArrowUp")
            expect(page.locator("#judge-progress")).to_have_text(f"{count} of 16 judged, 1 skipped")
        expect(page.locator("#judge-prompt p").first).to_contain_text(first.prompt_id)
        assert seen(page) == first
        page.keyboard.press("ArrowUp")
        expect(page.locator("#judge-over h2")).to_have_text("All is judged")
        recorded(page, panel, 16)
        page.get_by_role("button", name="See the results").click()
        expect(page.locator("#results .sum")).to_contain_text("16 choices by Ann (16)")


def test_several_people_by_one_server(panel: Panel, look: Look) -> None:
    """Each has pairs, count and choices of their own, in one browser one after another, or in two at once."""
    with hosting(panel) as host:
        page, other = look(host), look(host, name="Bo")
        assert [seen(page), seen(other)].count(seen(page)) == 1
        page.keyboard.press("ArrowLeft")
        judged(page, 1, 32)
        judged(other, 0, 32)
        page.get_by_role("button", name="Change who is judging").click()
        begin(page, "  Cy   Lee ")
        judged(page, 0, 32)
        expect(page.locator("#judge-who")).to_have_text("as Cy Lee")
        seen(page)
        page.keyboard.press("ArrowLeft")
        judged(page, 1, 32)
        other.keyboard.press("ArrowLeft")
        assert sorted(choice.reviewer for choice in recorded(page, panel, 3)) == ["Ann", "Bo", "Cy Lee"]
        page.get_by_role("button", name="Change who is judging").click()
        begin(page, "Ann")
        judged(page, 1, 32)


def test_with_a_name_from_the_command_line_nobody_is_asked(panel: Panel, look: Look) -> None:
    """`--as` begins at once."""
    with hosting(panel, reviewer="Ann") as host:
        page = look(host, name=None)
        seen(page)
        expect(page.locator("#who")).to_be_hidden()


def test_a_name_that_cannot_be_one_is_told(panel: Panel, look: Look) -> None:
    """By the server, beside the field."""
    with hosting(panel) as host:
        page = look(host, name=None)
        expect(page.get_by_label("Your name")).to_be_focused()
        # A refusal is an error on the console; this one is asked for.
        page.evaluate("fetch = () => Promise.resolve({ok: false, status: 422, json: async () => ({error: 'no name'})})")
        page.get_by_label("Your name").fill("x")
        page.keyboard.press("Enter")
        expect(page.locator("#who-wrong")).to_have_text("no name")
        expect(page.locator("#judging")).to_be_hidden()


# -- stars ----------------------------------------------------------------------------------------


def test_stars_by_key_and_by_button(panel: Panel, look: Look) -> None:
    """One image at a time; their means are on the results page, and in a gallery that is written afterwards."""
    with hosting(panel, stars=True) as host:
        page = look(host)
        for count, (stars, way) in enumerate(((5, "key"), (2, "button"), (4, "key")), start=1):
            expect(page.locator("#judge-pair img")).to_have_count(1)
            if way == "key":
                page.keyboard.press(str(stars))
            else:
                page.get_by_role("button", name=f"{stars} stars").click()
            judged(page, count, 32)
        assert [choice.stars for choice in recorded(page, panel, 3)] == [5, 2, 4]
        page.get_by_role("tab", name="Results").click()
        expect(page.locator("#results caption")).to_contain_text("Stars")
        told = page.locator("#results tbody tr").all_inner_texts()
    expected = results(panel.house.ledger, panel.house.job).as_dict()["stars"]
    for each in expected:
        name = f"{each['axis']}={each['value']}"
        assert any(row.split()[0] == name and f"{each['mean']:.2f}" in row for row in told)


def test_a_gallery_shows_what_was_chosen(panel: Panel, opener: Opener) -> None:
    """From a file, without any server; without choices there is no such view."""
    sight = Sight(panel.house)
    page = opener(sight.write().url)
    expect(page.get_by_role("tab")).to_have_count(0)
    for prompt in range(8):
        panel.choose(f"p{prompt}/medium-ink-1", f"p{prompt}/low-ink-1", "left" if prompt else "both")
    panel.star("p0/low-ink-1", 3, by="Bo")
    page = opener(sight.write(results=results(panel.house.ledger, panel.house.job).as_dict()).url)
    page.get_by_role("tab", name="Results").click()
    expect(page.locator("#results .sum")).to_have_text("9 choices by Ann (8), Bo (1).")
    row = page.locator("#results table").first.locator("tbody tr").inner_text()
    assert re.split(r"\s*\t\s*", row.replace("\u00a0", " "))[-7:] == [
        "100 %",
        "65-100 %",
        "7",
        "0",
        "1",
        "+$0.006",
        "shown",
    ]
    page.wait_for_url("**tab=results**")
    page.reload()
    expect(page.locator("#results")).to_be_visible()


# -- blind ----------------------------------------------------------------------------------------


def test_blind_the_page_tells_nothing_before_the_choice(panel: Panel, look: Look, opener: Opener) -> None:
    """No label, key, name, number or price in the DOM, in an address, in a text for the blind or in an answer."""
    with panel.house.ledger.tiles(panel.house.job) as tiles:
        known = list(tiles)
    files = {(panel.house.output / (tile.path or "")).read_bytes(): tile for tile in known}
    answers: list[str] = []
    addresses: list[str] = []
    with hosting(panel, blind=True) as host:
        page = look(host, name=None)
        page.on("request", lambda request: addresses.append(request.url))
        page.on("response", lambda said: answers.append(said.text()) if "/media/" not in said.url else None)
        begin(page, "Ann")
        page.reload()
        shown = []
        for count in range(1, 13):
            expect(page.locator("#judge-pair img")).to_have_count(2)
            answers.append(page.content())
            urls = page.locator("#judge-pair img").evaluate_all("images => images.map(image => image.src)")
            sides = [host.get("/" + url.split("/", 3)[3].split("?")[0]).body for url in urls]
            shown.append([files[side].task_id for side in sides])
            page.keyboard.press("ArrowRight")
            judged(page, count, 32)
        choices = recorded(page, panel, 12)
        page.get_by_role("tab", name="Results").click()
        expect(page.locator("#results h2")).to_have_text("Not yet")
        expect(page.get_by_role("tab", name="Gallery")).to_have_count(0)
        page.wait_for_url("**tab=results**")
        page.reload()
        expect(page.locator("#results h2")).to_have_text("Not yet")

    assert [[choice.left, choice.right] for choice in choices] == shown
    assert all(choice.blind for choice in choices)
    assert {left < right for left, right in shown} == {True, False}
    told = re.sub(r"prompt \d+, (ink|photo)", "", "\n".join([*answers, *addresses]))
    # The page's own script speaks of qualities; what is told is all else.
    told = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", told, flags=re.DOTALL)
    for tile in known:
        assert tile.key[:10] not in told
        assert tile.name not in told
        assert f"media/{tile.task_id}?" not in told
    for word in ("low", "medium", "ink", "photo", "quality=", r"\$0"):
        assert not re.search(rf"\b{word}\b" if word.isalpha() else word, told), word


# -- what may go wrong ----------------------------------------------------------------------------


def test_while_the_server_is_gone_choices_are_kept(panel: Panel, browser: Browser) -> None:
    """The page says so, goes on with what it has, keeps the choices over a reload, and sends each once."""
    wrong: list[str] = []
    page = browser.new_page()
    _pages.append(page)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    with hosting(panel) as host:
        page.goto(host.url)
        begin(page, "Ann")
        seen(page)
        page.wait_for_load_state("networkidle")

        def lost(route: Route) -> None:
            # The server hears it, and its answer never arrives.
            if route.request.method == "POST":
                route.fetch()
            route.abort("connectionreset")

        page.route("**/api/**", lost)
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#judge-gone")).to_contain_text("1 choice is kept")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#judge-gone")).to_contain_text("2 choices are kept")
        page.keyboard.press("u")
        expect(page.locator(".toast").last).to_contain_text("nothing can be undone now")
        page.reload()
        expect(page.locator("#judge-gone")).to_contain_text("2 choices are kept")
        page.unroute("**/api/**")
        expect(page.locator("#judge-gone")).to_be_hidden()
        judged(page, 2, 32)
        first, second = recorded(page, panel, 2)
        assert [first.verdict, second.verdict] == ["left", "right"]
        seen(page)
        page.keyboard.press("ArrowUp")
        judged(page, 3, 32)
        recorded(page, panel, 3)
        # The ledger has it a moment before the page knows.
        until(page, "[null, 'null'].includes(localStorage.getItem('runner:choices:sweep:Ann'))")
    assert wrong == []


def test_a_choice_that_is_refused_is_told_and_dropped(panel: Panel, browser: Browser) -> None:
    """An image that went away meanwhile holds nothing up."""
    page = browser.new_page()
    _pages.append(page)
    with hosting(panel) as host:
        page.goto(host.url)
        begin(page, "Ann")
        seen(page)
        body = json.dumps({"error": "the job has no image 7", "hint": "open the page anew"})
        page.route("**/api/choices?*", lambda route: route.fulfill(status=422, body=body), times=1)
        page.keyboard.press("ArrowLeft")
        expect(page.locator(".toast").last).to_contain_text("was not taken: the job has no image 7")
        seen(page)
        page.keyboard.press("ArrowLeft")
        recorded(page, panel, 1)


HOSTILE = (
    "</script><script>document.title='hit'</script>",
    "<img src=x onerror=\"document.title='hit'\"> \"quoted\" 'and' `ticked` & &amp; <!--",
    "\u202eright to left\u202c \u2066isolate \u05e9\u05dc\u05d5\u05dd \u0000-less \u001b[31mred\u001b[0m \u2028\u2029",
    "x" * 30_000,
    "{{ 7*7 }} {% raw %} ${7*7} javascript:alert(1)",
)


def test_hostile_words_are_words(tmp_path: Path, look: Look) -> None:
    """Prompts, ids and names of people are shown as they are, letter by letter, and none of them runs."""
    tasks = []
    for task in sweep(len(HOSTILE), styles=("ink",)):
        number = int(task.prompt_id[1:])
        request = replace(task.request, prompt=HOSTILE[number])
        key = task_key(request, sample=1, edition=None, simulated=False)
        tasks.append(replace(task, request=request, key=key, prompt_id=f"<b>{number}</b>"))
    name = "<i>\"Ann\" & 'Bo'</i> \u05d0"
    with open_panel(tmp_path, tasks=tasks) as panel:
        panel.make_all()
        with hosting(panel) as host:
            page = look(host)
            page.get_by_role("button", name="Change who is judging").click()
            begin(page, name)
            found = set()
            for count in range(1, len(HOSTILE) + 1):
                expect(page.locator("#judge-pair img")).to_have_count(2)
                found.add(page.locator("#judge-prompt p[dir]").text_content())
                assert (page.locator("#judge-prompt p").first.text_content() or "").startswith("<b>")
                page.keyboard.press("ArrowLeft")
                judged(page, count, len(HOSTILE))
            assert found == set(HOSTILE)
            (choice, *_) = recorded(page, panel, len(HOSTILE))
            assert choice.reviewer == name
            page.get_by_role("tab", name="Results").click()
            expect(page.locator("#results .sum bdi")).to_have_text(name)
            assert page.title() != "hit"
            assert page.locator("b, i:not(.interval i), #views script").count() == 0


def test_the_page_is_for_everyone(panel: Panel, look: Look) -> None:
    """Every control has a name, every image a text, nothing is wider than a narrow screen, and keys alone do."""
    with hosting(panel) as host:
        page = look(host, viewport={"width": 360, "height": 740}, color_scheme="dark", reduced_motion="reduce")
        seen(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for image in page.locator("#judge-pair img").all():
            alt = image.get_attribute("alt") or ""
            assert alt.startswith(("Left, ", "Right, "))
            assert "prompt" in alt
        for control in page.locator("#review button:visible, #review input:visible").all():
            assert (control.get_attribute("aria-label") or control.inner_text()).strip()
        page.locator("#judge-who").focus()
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.dataset.does") == "both":
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        judged(page, 1, 32)
        assert [choice.verdict for choice in recorded(page, panel, 1)] == ["both"]
        expect(page.locator("#live")).to_contain_text("1 of 32 judged")
