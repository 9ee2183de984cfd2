"""The gallery in a real browser, from a file, with the gallery of a real ledger: everything that a person can do there.

Every page is watched: an error on its console, or a request to anything but files, fails the test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from runner import catalog
from runner.manifest import expand, load
from runner.report.gallery import data
from tests.browser.support import Opener, Sight, sweep, until
from tests.edges.ledger_support import NOW_MS, change, make_task, move_in, open_house, open_ledger

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

LONG = "a very long prompt " * 1_600
HOSTILE = {
    "script": "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'></script>",
    "quotes": '"onload="window.hacked=3" \' ` </title></style><!-- ]]> &lt;b&gt; {{ 7 * 7 }} ${window.hacked=4}',
    "direction": "\u202egnihtyreve nrut\u202c \u05e9\u05dc\u05d5\u05dd and back \u2066isolated",
    "control": "a bell \x07, a line\u2028separator, a c1 \x9b31m and a private sign \ue000",
    "long": LONG,
}
PROMPTS = [("lighthouse", "A lighthouse at dusk"), ("bakery", "A bakery window, early"), *HOSTILE.items()]
"""Seven prompts in four variants: 28 images."""
CELLS = ".cell[data-id]"


@pytest.fixture(scope="module")
def sight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sight]:
    """A job of every kind of tile: done with and without a thumbnail, refused, failed, in doubt, planned, submitted."""
    with open_house(tmp_path_factory.mktemp("output"), sweep(PROMPTS), name="spring") as house:
        made = Sight(house)
        todo = {(each.prompt_id, each.request.size, each.request.quality): each for each in house.todo()}
        bad = {
            ("bakery", "16x16", "low"): ("refused", "moderation_blocked", "the <b>safety</b> system said no"),
            ("bakery", "16x16", "medium"): ("failed", "server_error", "it broke"),
            ("bakery", "24x16", "low"): ("in_doubt", "timeout", "no answer came"),
            ("bakery", "24x16", "medium"): ("submitted", None, None),
            ("long", "24x16", "medium"): ("planned", None, None),
        }
        for number, (where, each) in enumerate(todo.items()):
            if where not in bad:
                made.make(each, thumbnail=number % 2 == 0)
        for where, (status, code, message) in bad.items():
            change(
                house.ledger,
                "UPDATE tasks SET status = ?, error_code = ?, error_message = ? WHERE id = ?",
                *(status, code, message, todo[where].task_id),
            )
        made.paste(todo["lighthouse", "16x16", "medium"])

        again = make_task("A lighthouse at dusk", prompt_id="lighthouse", quality="high", name="we#ird?/50%-é.png")
        finals = Sight(move_in(house.ledger, house.output, [again], name="finals"))
        (better,) = finals.house.todo()
        finals.make(better)
        origins = {"lighthouse": [todo["lighthouse", "16x16", "low"].key]}
        assert house.ledger.link_origins(finals.job, origins, of_job="spring", now_ms=NOW_MS) == 1
        finals.write()
        yield made.write()


@pytest.fixture
def page(sight: Sight, opener: Opener) -> Page:
    return opener(sight.url)


def cell(page: Page, prompt_id: str, size: str = "16x16", quality: str = "low") -> Locator:
    """The tile of one image, by what the page knows of it."""
    words = "([id, size, quality]) => app.tiles.find((t) => t.prompt_id === id && t.settings.size === size"
    found = page.evaluate(f"{words} && t.settings.quality === quality).id", [prompt_id, size, quality])
    return page.locator(f'.cell[data-id="{found}"]')


def hash_of(page: Page) -> str:
    """The address's state, once it is written."""
    page.wait_for_timeout(250)
    return str(page.evaluate("location.hash"))


def settled(page: Page, count: str) -> None:
    """Wait until the page says that so many images are shown."""
    until(page, "(words) => document.getElementById('count').textContent.startsWith(words)", count)


# What is seen at first


def test_the_matrix_is_first_with_a_row_for_each_prompt(page: Page) -> None:
    """Rows are prompts, columns are variants with their values, count, cost, and cost of an image."""
    assert page.locator("[data-view=matrix]").get_attribute("aria-pressed") == "true"
    assert page.locator("#sheet").get_attribute("role") == "grid"
    assert page.locator("#sheet").get_attribute("aria-rowcount") == str(len(PROMPTS) + 1)
    assert page.locator("#sheet").get_attribute("aria-colcount") == "5"
    heads = page.locator(".columnhead").all_inner_texts()
    assert heads[0].split("\n") == ["16x16", "low", "7 images · $0.03", "$0.005 an image"]
    assert heads[3].split("\n")[:2] == ["24x16", "medium"]
    assert page.locator(".rowhead strong").first.inner_text() == "lighthouse"
    assert cell(page, "lighthouse").locator(".cost").inner_text() == "$0.005"
    assert cell(page, "lighthouse", quality="medium").locator(".cost").inner_text() == "$0.0113"


def test_every_image_is_painted(page: Page, sight: Sight) -> None:
    """Thumbnails where there are any, else the asset itself: beside the page, and nowhere else."""
    until(page, "[...document.querySelectorAll('.cell img')].every((image) => image.naturalWidth > 0)")
    sources = page.eval_on_selector_all(".cell img", "(all) => all.map((each) => each.getAttribute('src'))")
    assert any(source.startswith("../../spring/gallery/thumbs/") for source in sources)
    assert any(source.startswith("../../spring/images/") for source in sources)


def test_names_with_signs_of_urls_are_found(sight: Sight, opener: Opener) -> None:
    """`#`, `?` and `%` in a file's name are part of its name. One column alone is shown as a plain grid."""
    page = opener(sight.url.replace("/spring/", "/finals/"))
    assert page.locator("[data-view=grid]").get_attribute("aria-pressed") == "true"
    until(page, "document.querySelector('.cell img').naturalWidth === 16")


def test_what_has_no_image_says_why(page: Page) -> None:
    """Refused, failed, in doubt, submitted and planned tiles show their status, and the reason as text."""
    words = {
        ("16x16", "low"): ["refused", "moderation_blocked", "the <b>safety</b> system said no"],
        ("16x16", "medium"): ["failed", "server_error", "it broke"],
        ("24x16", "low"): ["in doubt", "timeout", "no answer came"],
        ("24x16", "medium"): ["in a batch"],
    }
    for (size, quality), told in words.items():
        assert cell(page, "bakery", size, quality).locator(".blank").inner_text().split("\n") == told
    assert "23 done" in page.locator("#facts").inner_text()
    cell(page, "bakery").click()
    assert "the <b>safety</b> system said no" in page.locator("#lightbox .trouble").inner_text()


def test_an_image_whose_file_is_gone_is_told_of(tmp_path: Path, opener: Opener) -> None:
    """A file that was removed by hand leaves its name, not a broken picture."""
    with open_house(tmp_path, sweep([("one", "one")]), name="spring") as house:
        sight = Sight(house)
        for todo in house.todo():
            sight.make(todo)
        (house.output / "spring" / "images" / todo.name).unlink()
        page = opener(sight.write().url, expected="ERR_FILE_NOT_FOUND")
        page.wait_for_selector(".blank.gone")
        assert page.locator(".blank.gone").count() == 1


def test_simulated_images_are_labelled(tmp_path: Path, opener: Opener) -> None:
    """A page of simulated images says so at its head; one of real images does not."""
    with open_house(tmp_path, 2, name="spring") as house:
        sight = Sight(house)
        for todo in house.todo():
            sight.make(todo)
        assert not opener(sight.write().url).locator("#simulated").count()
        change(house.ledger, "UPDATE assets SET simulated = 1")
        assert "Simulated" in opener(sight.write().url).locator("#simulated").inner_text()


# Arranging and finding


def test_axes_are_columns_or_rows_as_one_likes(page: Page) -> None:
    """An axis that is no column any more goes down; without any there is one column, and every image is still there."""
    page.click("#opener")
    page.uncheck("[data-axis=quality]")
    assert [head.split("\n")[0] for head in page.locator(".columnhead").all_inner_texts()] == ["16x16", "24x16"]
    assert page.locator("#sheet").get_attribute("aria-rowcount") == str(len(PROMPTS) * 2 + 1)
    assert page.locator(".rowhead").first.locator(".value").inner_text() == "low"
    page.uncheck("[data-axis=size]")
    assert page.locator("#sheet").get_attribute("aria-rowcount") == str(len(PROMPTS) * 4 + 1)
    assert page.locator(".columnhead").count() == 1
    hash_of(page)
    page.reload()
    assert page.locator("#sheet").get_attribute("aria-rowcount") == str(len(PROMPTS) * 4 + 1)


def test_samples_are_an_axis(tmp_path: Path, opener: Opener) -> None:
    """Several samples of one request stand side by side, and can be put below each other."""
    tasks = [make_task(f"prompt {n}", sample=sample) for n in range(2) for sample in (1, 2, 3)]
    with open_house(tmp_path, tasks, name="spring") as house:
        page = opener(Sight(house).write().url)
        assert [head.split("\n")[0] for head in page.locator(".columnhead").all_inner_texts()] == ["1", "2", "3"]
        page.click("#opener")
        page.uncheck("[data-axis=sample]")
        assert page.locator("#sheet").get_attribute("aria-rowcount") == "7"


def test_the_plain_grid_shows_the_same_images(page: Page) -> None:
    """In the manifest's order, with prompt and variant below each."""
    page.click("[data-view=grid]")
    assert page.locator(CELLS).first.locator(".title").inner_text() == "lighthouse"
    assert page.locator(CELLS).nth(1).locator(".clip").inner_text() == "16x16, medium"
    assert page.locator(".columnhead").count() == 0


def test_search_finds_prompts_ids_and_keys(page: Page) -> None:
    """Every word has to be there; case does not matter; what is not found says so and can be left again."""
    page.fill("#search", "LIGHT dusk")
    settled(page, "4 of 28 images")
    assert {text.split("\n")[0] for text in page.locator(".rowhead").all_inner_texts()} == {"lighthouse"}
    short = page.evaluate("app.tiles[5].short")
    page.fill("#search", short)
    settled(page, "1 of 28 images")
    page.fill("#search", "window.hacked=3")
    settled(page, "4 of 28 images")
    page.fill("#search", "nothing like it")
    settled(page, "0 of 28 images")
    assert page.locator(".empty").is_visible()
    page.locator(".empty button").click()
    settled(page, "28 images")


def test_filters_narrow_and_are_removed(page: Page) -> None:
    """Values of one filter widen it, two filters narrow it; each says how many images it has."""
    page.click("#opener")
    facet = page.locator("[data-facet=status]")
    assert facet.evaluate_all("(all) => all.map((each) => each.dataset.value)") == [
        "planned",
        "submitted",
        "done",
        "in_doubt",
        "failed",
        "refused",
    ]
    assert page.locator("label:has([data-facet=status][data-value=done]) .n").inner_text() == "23"
    page.check("[data-facet=status][data-value=refused]")
    settled(page, "1 of 28 images")
    page.check("[data-facet=status][data-value=failed]")
    settled(page, "2 of 28 images")
    page.check("[data-facet=quality][data-value=medium]")
    settled(page, "1 of 28 images")
    page.get_by_role("button", name="Remove the filter status").click()
    settled(page, "14 of 28 images")
    page.click("#clear")
    settled(page, "28 images")
    assert not page.locator("[data-facet]:checked").count()


def test_order_is_by_cost_or_as_in_the_manifest(page: Page) -> None:
    """Dearest first: all that cost the most are before all others; the manifest's order comes back."""
    page.click("[data-view=grid]")
    page.select_option("#sort", "dear")
    costs = page.evaluate("app.shownTiles().map((tile) => tile.cost)")
    assert costs == sorted(costs, reverse=True) and costs[0] == 11_250 and costs[-1] == 0
    page.select_option("#sort", "cheap")
    assert page.evaluate("app.shownTiles().map((tile) => tile.cost)") == sorted(costs)
    page.select_option("#sort", "manifest")
    assert page.evaluate("app.shownTiles().map((tile) => tile.index)") == list(range(28))


def test_stars_are_an_order_where_there_are_any(sight: Sight, opener: Opener) -> None:
    """A page with results offers it; one without does not."""
    first, second = 1, 3
    page = opener(sight.write(results={"tile_stars": {str(first): 2.5, str(second): 4.0}}).url)
    sight.write()
    page.click("[data-view=grid]")
    page.select_option("#sort", "stars")
    assert page.evaluate("app.shownTiles().slice(0, 2).map((tile) => tile.id)") == [second, first]
    assert page.locator(CELLS).first.locator(".stars").inner_text() == "★ 4.0"
    assert opener(sight.url).locator("#sort option[value=stars]").count() == 0


def test_a_reload_keeps_what_was_set(page: Page) -> None:
    """View, search, filters, order, size and an open image are in the address."""
    page.click("[data-view=grid]")
    page.fill("#search", "a")
    page.select_option("#sort", "dear")
    page.fill("#size", "264")
    page.click("#opener")
    page.check("[data-facet=size][data-value='24x16']")
    settled(page, "14 of 28")
    count = page.locator("#count").inner_text()
    page.locator(CELLS).nth(2).click()
    prompt = page.locator("#lightbox .place").inner_text()
    hash_of(page)
    page.reload()
    page.wait_for_selector("#lightbox[open]")
    assert page.locator("#lightbox .place").inner_text() == prompt
    page.keyboard.press("Escape")
    assert page.locator("#count").inner_text() == count
    assert page.locator("[data-view=grid]").get_attribute("aria-pressed") == "true"
    assert page.input_value("#search") == "a"
    assert page.input_value("#sort") == "dear"
    assert page.input_value("#size") == "264"
    assert page.locator(CELLS).first.locator(".thumb").evaluate("(each) => each.clientHeight") > 200


# One image large


def test_the_lightbox_goes_by_keys(page: Page) -> None:
    """Arrows, Home, End and Escape; the focus stays inside, and goes to the tile that was seen last."""
    cell(page, "lighthouse").click()
    place = page.locator("#lightbox .place")
    assert place.inner_text() == "1 of 28"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert place.inner_text() == "3 of 28"
    page.keyboard.press("ArrowLeft")
    assert place.inner_text() == "2 of 28"
    page.keyboard.press("End")
    assert place.inner_text() == "28 of 28"
    page.keyboard.press("ArrowRight")
    assert place.inner_text() == "28 of 28"
    page.keyboard.press("Home")
    assert place.inner_text() == "1 of 28"
    page.keyboard.press("ArrowRight")
    for _ in range(12):
        page.keyboard.press("Tab")
        inside = page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
        assert inside
    page.keyboard.press("Escape")
    assert not page.locator("#lightbox").is_visible()
    until(page, "Number(document.activeElement.dataset.id) === app.shownTiles()[1].id")


def test_the_lightbox_tells_everything(page: Page, sight: Sight) -> None:
    """The whole prompt, all settings, cost, model, file, id and key."""
    cell(page, "lighthouse", quality="medium").click()
    told = page.locator("#lightbox .facts").inner_text()
    with sight.ledger.tiles(sight.job) as tiles:
        tile = next(each for each in tiles if each.prompt_id == "lighthouse" and each.quality == "medium")
    words = [
        tile.prompt,
        tile.key,
        tile.key[:10],
        tile.name,
        "$0.01125",
        "gpt-image-1-mini",
        "medium",
        "16 \N{MULTIPLICATION SIGN} 16",
        "png",
    ]
    for word in words:
        assert word in told
    # With its composite beside it.
    assert page.locator("#lightbox figure").count() == 2
    until(page, "[...document.querySelectorAll('#lightbox .stage img')].every((each) => each.naturalWidth)")
    assert page.locator("#lightbox figcaption").all_inner_texts() == ["As it came", "Pasted onto the original"]


def test_zoom_by_keys_wheel_and_drag(page: Page) -> None:
    """It grows and shrinks between the whole image and sixteen times, and moves where it is larger than its place."""
    cell(page, "lighthouse").click()
    panes = page.locator("#lightbox .panes")
    assert panes.get_attribute("data-scale") == "1.000"
    page.keyboard.press("+")
    assert panes.get_attribute("data-scale") == "1.500"
    page.keyboard.press("-")
    page.keyboard.press("-")
    assert panes.get_attribute("data-scale") == "1.000"
    frame = page.locator("#lightbox .stage").bounding_box()
    assert frame
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    page.mouse.wheel(0, -200)
    until(page, "Number(document.querySelector('#lightbox .panes').dataset.scale) > 1.2")
    page.keyboard.press("+")
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] / 2 + 60, frame["y"] + frame["height"] / 2, steps=4)
    page.mouse.up()
    assert float(panes.get_attribute("data-x") or 0) == pytest.approx(60 / frame["width"], abs=0.01)
    page.keyboard.press("0")
    assert panes.get_attribute("data-x") == "0.000"
    for _ in range(12):
        page.keyboard.press("+")
    assert panes.get_attribute("data-scale") == "16.000"


def test_prompt_and_settings_are_copied(sight: Sight, opener: Opener, tmp_path: Path) -> None:
    """The prompt as it was sent; the settings as a manifest that asks for the very same image, whatever it says."""
    page = opener(sight.url, permissions=["clipboard-read", "clipboard-write"])
    for prompt_id in ("lighthouse", "script", "quotes", "direction", "control"):
        cell(page, prompt_id, "24x16").click()
        page.get_by_role("button", name="Copy prompt").click()
        page.wait_for_selector("#lightbox .toast")
        expected = dict(PROMPTS)[prompt_id]
        assert page.evaluate("navigator.clipboard.readText()") == expected
        page.get_by_role("button", name="Copy settings (YAML)").click()
        until(page, "navigator.clipboard.readText().then((text) => text.startsWith('model:'))")
        copied = page.evaluate("navigator.clipboard.readText()")
        page.keyboard.press("Escape")
        told = yaml.safe_load(copied)
        assert told["model"] == "gpt-image-1-mini" and told["settings"]["size"] == "24x16"
        if prompt_id == "control":
            # No manifest takes a bell, however it is written; YAML does.
            assert told["prompts"][0]["text"] == expected
            continue
        # The pictures of these tests are smaller than any model makes them.
        manifest = tmp_path / "again.yaml"
        manifest.write_text("name: again\n" + copied.replace("24x16", "1536x1024"), "utf-8")
        (task,) = expand(load(manifest, catalog=catalog.load()), simulated=False)
        wanted = make_task(expected, prompt_id=prompt_id, size="1536x1024")
        assert (task.key, task.prompt_id) == (wanted.key, prompt_id)


def test_before_and_after_are_seen(page: Page, sight: Sight, opener: Opener) -> None:
    """A promoted image shows what it became, and its successor what it was made from; both side by side."""
    assert cell(page, "lighthouse").locator(".kin").count() == 1
    cell(page, "lighthouse").click()
    family = page.locator("#lightbox .family")
    assert family.locator("strong").inner_text() == "After"
    assert "high" in family.inner_text() and "finals" in family.inner_text()
    family.get_by_role("button", name="Before / after").click()
    until(page, "[...document.querySelectorAll('#compare img')].every((each) => each.naturalWidth > 0)")
    captions = page.locator("#compare figcaption").all_inner_texts()
    assert captions[0].startswith("Before") and captions[1].startswith("After")
    page.keyboard.press("Escape")
    assert page.locator("#lightbox").is_visible()
    other = opener(sight.url.replace("/spring/", "/finals/"))
    other.locator(CELLS).click()
    assert other.locator("#lightbox .family strong").inner_text() == "Before"


# Several side by side


def test_compared_images_zoom_and_move_together(page: Page) -> None:
    """Two, and four: one zoom and one place for all, by wheel over any of them, by drag and by keys."""
    for many in (2, 4):
        chosen = [("lighthouse", "low"), ("lighthouse", "medium"), ("script", "low"), ("script", "medium")][:many]
        for prompt_id, quality in chosen:
            cell(page, prompt_id, quality=quality).focus()
            page.keyboard.press("Space")
        page.click("#compare-these")
        images = page.locator("#compare .stage img")
        assert images.count() == many
        assert len({box["y"] for box in (image.bounding_box() for image in images.all()) if box}) == many // 2
        frame = page.locator("#compare .stage").nth(many - 1).bounding_box()
        assert frame
        page.mouse.move(frame["x"] + frame["width"] * 0.75, frame["y"] + frame["height"] * 0.75)
        page.mouse.wheel(0, -300)
        until(page, "Number(document.querySelector('#compare .panes').dataset.scale) > 1.2")
        page.keyboard.press("ArrowLeft")
        transforms = set(images.evaluate_all("(all) => all.map((each) => each.style.transform)"))
        assert len(transforms) == 1 and "scale(1)" not in transforms.pop()
        page.keyboard.press("Escape")
        page.click("#let-go")
    assert page.locator("#tray").is_hidden()


def test_no_more_than_four_are_compared(page: Page) -> None:
    """A fifth is not taken, and the page says so; with a single one there is nothing to compare."""
    for number in range(5):
        page.locator(CELLS).nth(number).focus()
        page.keyboard.press("Space")
        if number == 0:
            assert page.locator("#compare-these").is_disabled()
    assert page.locator("#tray").inner_text().startswith("4 selected")
    assert "4 images can be compared at once" in page.locator(".toast").inner_text()
    page.keyboard.press("c")
    assert page.locator("#compare figure").count() == 4


# Picks


def test_picks_are_kept_and_copied(sight: Sight, opener: Opener) -> None:
    """Marked tiles outlive a reload, can be filtered by, and are copied as `runner promote` takes them."""
    page = opener(sight.url, permissions=["clipboard-read", "clipboard-write"])
    cell(page, "lighthouse").focus()
    page.keyboard.press("p")
    tile = cell(page, "script", quality="medium")
    tile.hover()
    tile.locator("[data-tool=pick]").click()
    shorts = page.evaluate(
        "app.tiles.filter((t) => ['lighthouse', 'script'].includes(t.prompt_id)).map((t) => t.short)"
    )
    page.reload()
    assert page.locator("#picked").inner_text() == "2 picked"
    page.click("#copy-ids")
    page.wait_for_selector(".toast")
    copied = page.evaluate("navigator.clipboard.readText()").split()
    assert copied[::2] == ["--pick", "--pick"]
    assert set(copied[1::2]) < set(shorts) and len(copied[1]) == 10
    page.click("#opener")
    page.check("[data-facet=picks][data-value=picked]")
    settled(page, "2 of 28")
    page.click("#unpick")
    settled(page, "0 of 28")
    page.get_by_role("button", name="Undo").click()
    settled(page, "2 of 28")


def test_it_works_where_nothing_is_remembered(sight: Sight, browser: Any, opener: Opener) -> None:
    """A browser that refuses its storage: picks last as long as the page."""
    page = opener("about:blank")
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('refused'); }});")
    page.goto(sight.url)
    cell(page, "lighthouse").focus()
    page.keyboard.press("p")
    assert page.locator("#picked").inner_text() == "1 picked"


# By keyboard alone, and for everyone


def test_everything_is_reached_by_keyboard(page: Page) -> None:
    """From the address to a filter, a tile, the lightbox and a comparison, without a mouse."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    focused = "[document.activeElement.dataset.row, document.activeElement.dataset.column]"
    assert page.evaluate(focused) == ["0", "0"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == ["2", "1"]
    assert page.locator(".cell[tabindex='0']").count() == 1
    page.keyboard.press("End")
    assert page.evaluate(focused) == ["2", "3"]
    page.keyboard.press("Control+End")
    assert page.evaluate(focused) == ["6", "3"]
    page.keyboard.press("Control+Home")
    assert page.evaluate(focused) == ["0", "0"]
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("c")
    assert page.locator("#compare figure").count() == 2
    page.keyboard.press("Escape")
    until(page, f"{focused}.join() === '0,1'")
    page.keyboard.press("Enter")
    assert page.locator("#lightbox .place").inner_text() == "2 of 28"
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("dusk")
    settled(page, "4 of 28")
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "opener"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("[data-facet]:checked").count() == 1


def test_controls_have_names_and_images_have_words(page: Page) -> None:
    """Every button, field and tile has an accessible name; every image says its prompt, variant and status."""
    page.click("#opener")
    cell(page, "lighthouse").focus()
    page.keyboard.press("Space")
    alts = page.eval_on_selector_all("img", "(all) => all.map((each) => each.alt)")
    assert alts and all(alts)
    assert "A lighthouse at dusk (16x16, low), done" in alts
    nameless = """() => [...document.querySelectorAll('button, input, select, [role=tab]')].filter((each) => {
        const label = each.getAttribute('aria-label') || each.labels?.[0]?.textContent || each.textContent;
        return !label.trim();
    }).map((each) => each.outerHTML)"""
    assert page.evaluate(nameless) == []
    page.locator(CELLS).first.click()
    assert page.evaluate(nameless) == []
    assert page.locator("html").get_attribute("lang") == "en"
    roles = "[...document.querySelectorAll('#sheet [role=row]')].every((row) => [...row.children].every((each) =>"
    assert page.evaluate(f"{roles} /^(gridcell|rowheader|columnheader)$/.test(each.getAttribute('role'))))")
    said = page.locator("#lightbox [aria-live]").inner_text()
    assert said.startswith("A lighthouse at dusk")


CONTRAST = """() => {
    const parts = (text) => text.match(/[\\d.]+/g).map(Number);
    const bright = (text) => {
        const [r, g, b] = parts(text).slice(0, 3).map((value) => {
            const share = value / 255;
            return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
        for (let each = node; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if ((parts(colour)[3] ?? 1) > 0.99) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const found = [];
    for (const node of document.querySelectorAll('body *')) {
        const own = [...node.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
        if (!own || !node.checkVisibility({opacityProperty: true})) continue;
        if (node.closest('script, noscript, :disabled')) continue;
        const [a, b] = [bright(getComputedStyle(node).color), bright(ground(node))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) found.push(`${node.className || node.tagName}: ${ratio.toFixed(2)}`);
    }
    const search = document.getElementById('search');
    if (getComputedStyle(search, '::placeholder').color !== getComputedStyle(document.querySelector('.soft')).color) {
        found.push('the words in the empty search');
    }
    return [...new Set(found)];
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_is_enough_in_both_themes(sight: Sight, opener: Opener, theme: str) -> None:
    """Every text that is seen stands out from its ground by 4.5 : 1, in the gallery and in the lightbox."""
    page = opener(sight.url, color_scheme=theme, reduced_motion="reduce")
    page.click("#opener")
    page.check("[data-facet=size][data-value='16x16']")
    page.locator(CELLS).nth(0).focus()
    page.keyboard.press("Space")
    page.keyboard.press("p")
    assert page.evaluate(CONTRAST) == []
    cell(page, "bakery").click()
    assert page.evaluate(CONTRAST) == []


def test_light_and_dark_follow_the_system_and_the_person(sight: Sight, opener: Opener) -> None:
    """The system's choice unless one has chosen; that is kept."""
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    page = opener(sight.url, color_scheme="dark")
    dark = page.evaluate(ground)
    assert dark != opener(sight.url, color_scheme="light").evaluate(ground)
    page.click("#theme")
    assert page.locator("#theme").get_attribute("aria-label") == "Colours: light"
    assert page.evaluate(ground) != dark
    page.reload()
    assert page.evaluate(ground) != dark
    page.click("#theme")
    assert page.evaluate(ground) == dark


@pytest.mark.parametrize("size", [(360, 640), (640, 400)])
def test_it_fits_a_small_window(sight: Sight, opener: Opener, size: tuple[int, int]) -> None:
    """360 pixels wide, and half a window as at 200 %: nothing sticks out, tiles are reached, touch targets large."""
    page = opener(sight.url, viewport={"width": size[0], "height": size[1]}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#opener").tap()
    assert page.locator("#sort").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    heights = page.locator(".tools button, .tools input[type=search]").evaluate_all(
        "(all) => all.map((e) => e.offsetHeight)"
    )
    assert min(heights) >= 44
    page.locator("#opener").tap()
    cell(page, "lighthouse").tap()
    assert page.locator("#lightbox .prompt").inner_text() == "A lighthouse at dusk"
    assert page.evaluate("document.getElementById('lightbox').scrollWidth <= innerWidth")
    frame = page.locator("#lightbox .stage").bounding_box()
    assert frame and frame["height"] > 150


def test_nothing_moves_where_motion_is_not_wanted(sight: Sight, opener: Opener) -> None:
    """No transition and no animation with `prefers-reduced-motion`."""
    page = opener(sight.url, reduced_motion="reduce")
    durations = "[...document.querySelectorAll('*')].map((each) => getComputedStyle(each).transitionDuration)"
    assert set(page.evaluate(durations)) == {"0s"}


def test_views_are_tabs(page: Page) -> None:
    """Several views are tabs, by mouse and by keys; after a click, the keys are the view's own and not the tabs'."""
    assert page.locator("#tabs").is_hidden()
    page.evaluate(
        """() => {
            window.keys = [];
            const node = app.el('section', {id: 'other'}, 'something else');
            app.addView({id: 'other', title: 'Other', node, key: (event) => window.keys.push(event.key)});
        }"""
    )
    page.click("#tab-other")
    assert page.locator("#other").is_visible() and page.locator("#gallery").is_hidden()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("window.keys") == ["ArrowRight"]
    page.locator("#tab-other").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#gallery").is_visible() and page.locator("#other").is_hidden()
    assert page.evaluate("document.activeElement.id") == "tab-gallery"
    assert page.locator("#tab-gallery").get_attribute("aria-selected") == "true"
    assert page.evaluate("window.keys") == ["ArrowRight"]


# Hostile words


def test_hostile_prompts_are_text(page: Page) -> None:
    """In the matrix, the lightbox and the comparison they are shown as they are, and nothing of them runs."""
    for prompt_id, prompt in HOSTILE.items():
        page.fill("#search", prompt_id)
        page.wait_for_timeout(200)
        tile = cell(page, prompt_id)
        tile.click()
        shown = page.locator("#lightbox .prompt")
        assert shown.evaluate("(each) => each.textContent") == prompt
        assert shown.get_attribute("dir") == "auto"
        page.keyboard.press("Escape")
    page.fill("#search", "")
    settled(page, "28 images")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('script').length") == 2
    # Text that runs the other way stays in its own place.
    assert page.locator(".rowhead bdi").count() >= page.locator(".rowhead").count() > 0


def test_markup_cannot_leave_the_data(sight: Sight) -> None:
    """In the file itself, no prompt can end the script that it stands in."""
    text = (sight.folder / "gallery" / "index.html").read_text("utf-8")
    head, _, rest = text.partition('<script type="application/json" id="data">')
    data, _, script = rest.partition("</script>")
    assert not set("<>&") & set(data)
    assert {row[3] for row in json.loads(data)["tiles"] if isinstance(row[3], str)} == {prompt for _, prompt in PROMPTS}
    assert script.count("</script>") == 1
    assert "hacked" not in head + script


# Many tiles


@pytest.mark.parametrize("shape", [(20_000, 1), (2_500, 8), (100, 200)])
def test_the_document_stays_small(tmp_path: Path, opener: Opener, shape: tuple[int, int]) -> None:
    """20,000 tiles: wherever one scrolls, the document has some hundred tiles at most, and the last is reached."""
    prompts, variants = shape
    tasks = (
        make_task(f"prompt {n}", quality=f"q{v}", prompt_id=f"p{n:05d}")
        for n in range(prompts)
        for v in range(variants)
    )
    with open_house(tmp_path, tasks, name="many") as house:
        page = opener(Sight(house).write().url)
    settled(page, "20,000 images")
    assert page.evaluate("app.tiles.length") == 20_000
    most = 0
    for view in ("matrix", "grid"):
        page.click(f"[data-view={view}]")
        shares = (0, 0.0001, *(n * 7 % 30 / 30 for n in range(30)), 1)
        # At random places, and along one line of the matrix.
        for down, across in [*((share, share) for share in shares), *((0.5, n / 20) for n in range(21))]:
            page.evaluate(
                """([down, across]) => new Promise((done) => {
                    const sheet = document.getElementById('sheet');
                    sheet.scrollTop = down * (sheet.scrollHeight - sheet.clientHeight);
                    sheet.scrollLeft = across * (sheet.scrollWidth - sheet.clientWidth);
                    requestAnimationFrame(() => requestAnimationFrame(done));
                })""",
                [down, across],
            )
            count = page.locator(CELLS).count()
            assert count > 0
            most = max(most, page.evaluate("document.querySelectorAll('*').length"))
            visible = page.evaluate(
                """() => {
                    const frame = document.getElementById('sheet').getBoundingClientRect();
                    const [x, y] = [frame.left + frame.width * 0.3, frame.top + frame.height * 0.3];
                    const at = document.elementFromPoint(x, y);
                    return !!at.closest('.cell, .rowhead');
                }"""
            )
            assert visible, f"nothing to see at {down}, {across} of the {view}"
        page.evaluate("document.querySelector('.cell').focus()")
        page.keyboard.press("Control+End")
        last = page.evaluate("app.shownTiles().at(-1).id")
        assert page.evaluate("Number(document.activeElement.dataset.id)") == last
        frame = page.locator(".cell:focus").bounding_box()
        assert frame and 0 < frame["y"] < 800 and frame["y"] + frame["height"] <= 801
        assert page.locator(".line").count() < 20
    assert most < 2_500


def test_a_grid_beyond_the_highest_element_is_scrolled_to_its_end(tmp_path: Path, opener: Opener) -> None:
    """60,000 images in one column are higher than a browser's elements can be: every row is reached all the same."""
    with open_ledger(tmp_path) as ledger:
        house = move_in(ledger, tmp_path, (make_task(f"p{n}") for n in range(60_000)), name="tall")
        page = opener(Sight(house).write().url, viewport={"width": 420, "height": 800})
    page.click("#opener")
    page.fill("#size", "384")
    page.click("#opener")
    assert page.locator("#sheet").get_attribute("aria-rowcount") == "60000"
    assert page.evaluate("document.getElementById('sheet').scrollHeight") <= 6_000_000
    page.evaluate("document.querySelector('.cell').focus()")
    for step in range(1, 6):
        page.keyboard.press("ArrowDown")
        assert page.evaluate("Number(document.activeElement.dataset.row)") == step
    page.keyboard.press("Control+End")
    assert page.evaluate("Number(document.activeElement.dataset.row)") == 59_999
    seen = []
    for _ in range(6):
        page.mouse.move(200, 600)
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(60)
        seen.append(page.evaluate("Number(document.getElementById('sheet').dataset.first)"))
    # Small steps of the wheel are small steps of the grid: no row is passed over.
    assert seen == sorted(seen, reverse=True) and seen[0] - seen[-1] < 12 and seen[-1] > 59_900
    page.evaluate("document.getElementById('sheet').scrollTop = 0")
    until(page, "document.getElementById('sheet').dataset.first === '0'")


def test_more_than_can_be_shown_is_told(tmp_path: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the first are shown, and the page says of how many."""
    monkeypatch.setitem(data.document.__kwdefaults__, "limit", 3)  # type: ignore[arg-type] # it has keyword defaults
    with open_house(tmp_path, 5, name="many") as house:
        page = opener(Sight(house).write().url)
    assert "the first 3 of 5 images" in page.locator("#facts").inner_text()
    assert page.evaluate("app.tiles.length") == 3
