"""The gallery's data and page without a browser: what is written, that it streams, and that nothing in it is markup."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from runner.ledger import Relative, Tile
from runner.report.gallery import FileLinks, page
from runner.report.gallery.data import FIELDS, document
from runner.tasks import Status
from tests.edges.ledger_support import begin_run, change, enrolled, finish, make_task, open_ledger

NOW = dt.datetime(2026, 11, 23, 5, 0, tzinfo=dt.UTC)
HEAD = {"job": "spring", "results": None}


def tile(number: int = 1, **changes: Any) -> Tile:
    """A done tile; `number` is in its prompt, its id, its key and its names."""
    plain = Tile(
        task_id=number,
        key=f"{number:064x}",
        position=number,
        name=f"p{number}.png",
        prompt_id=f"p{number}",
        prompt=f"prompt {number}",
        variant=(("style", "ink"), ("quality", "low")),
        wanted_model="gpt-image-2",
        size="1024x1024",
        quality="low",
        background="auto",
        output_format="png",
        output_compression=None,
        moderation="auto",
        sample=1,
        status=Status.DONE,
        error_code=None,
        error_message=None,
        model="gpt-image-2",
        path=f"spring/images/p{number}.png",
        sha256="a" * 64,
        bytes=1_000,
        width=1024,
        height=1024,
        simulated=False,
        created_ms=1_795_000_000_000,
        has_edit=False,
        cost_microusd=5_000,
        in_doubt_microusd=0,
        composite=None,
        thumbnail=None,
    )
    return replace(plain, **changes)


def read(*tiles: Tile, relatives: tuple[Relative, ...] = ()) -> Any:
    """The document of these tiles, parsed."""
    return json.loads("".join(document(HEAD, tiles, relatives, FileLinks())))


def rows(found: Any) -> list[dict[str, Any]]:
    """The rows of a document, by the names of their fields."""
    return [dict(zip(found["fields"], row, strict=False)) for row in found["tiles"]]


def test_a_row_has_what_the_page_shows() -> None:
    """Every field by its name; what is nothing at the end of a row is not written."""
    first, second = rows(
        read(tile(), tile(2, status=Status.REFUSED, path=None, error_code="no", error_message="<why>"))
    )
    assert first == {
        "id": 1,
        "key": f"{1:064x}",
        "prompt_id": "p1",
        "prompt": "prompt 1",
        "variant": 0,
        "sample": 1,
        "status": list(Status).index(Status.DONE),
        "name": "p1.png",
        "image": "../../spring/images/p1.png",
        "thumbnail": None,
        "cost": 5_000,
        "width": 1024,
        "height": 1024,
        "bytes": 1_000,
        "model": 0,
        "created": "2026-11-18T11:06:40+00:00",
    }
    assert (second["error_code"], second["error"], second["image"]) == ("no", "<why>", None)


def test_texts_that_are_shared_are_written_once() -> None:
    """A prompt and an id stand where they are first met, and are numbers after that; so are equal settings."""
    found = rows(read(tile(), tile(2, prompt="prompt 1", prompt_id="p1"), tile(3), tile(4, prompt="prompt 3")))
    assert [row["prompt"] for row in found] == ["prompt 1", 0, "prompt 3", 1]
    assert [row["prompt_id"] for row in found] == ["p1", 0, "p3", "p4"]
    assert [row["variant"] for row in found] == [0, 0, 0, 0]


def test_axes_are_what_the_matrix_and_the_settings_differ_in() -> None:
    """The matrix's own in its order, with one value too; of other settings those that differ; no value is no place."""
    found = read(
        tile(),
        tile(2, variant=(("style", "oil"), ("quality", "low")), size="1536x1024"),
        tile(3, variant=(("quality", "high"),), quality="high"),
    )
    assert found["axes"] == [
        {"name": "style", "values": ["ink", "oil"]},
        {"name": "quality", "values": ["low", "high"]},
        {"name": "size", "values": ["1024x1024", "1536x1024"]},
    ]
    assert [variant["at"] for variant in found["variants"]] == [[0, 0, 0], [1, 0, 1], [None, 1, 0]]
    assert found["variants"][0]["settings"] == {
        "model": "gpt-image-2",
        "size": "1024x1024",
        "quality": "low",
        "background": "auto",
        "output_format": "png",
        "output_compression": None,
        "moderation": "auto",
    }


def test_an_axis_of_ones_own_may_be_called_as_a_setting_is_not() -> None:
    """An empty value of an axis is a value, and not the absence of one."""
    found = read(tile(variant=(("season", ""),)), tile(2, variant=(("season", "winter"),)))
    assert found["axes"][0] == {"name": "season", "values": ["", "winter"]}
    assert [variant["at"][0] for variant in found["variants"]] == [0, 1]


@pytest.mark.parametrize(
    ("simulated", "word"), [((False, False), "none"), ((True, False), "some"), ((True, True), "all"), ((None,), "none")]
)
def test_the_page_knows_what_is_simulated(simulated: tuple[bool | None, ...], word: str) -> None:
    """Of the images that are there: none, some, or all."""
    assert read(*(tile(number, simulated=each) for number, each in enumerate(simulated)))["simulated"] == word


def test_a_relative_leads_to_the_other_job() -> None:
    """Before and after are named with the other job's file."""
    other = Relative(
        1, "after", 7, "finals", "f" * 64, "p1", "gpt-image-2", "1024x1024", "high", Status.DONE,
        "finals/images/p1.png", 1024, 1024, None, 40_000,
    )  # fmt: skip
    (found,) = read(tile(), relatives=(other,))["relatives"]
    assert (found["side"], found["image"], found["status"]) == ("after", "../../finals/images/p1.png", "done")
    assert found["cost"] == 40_000


NAMES = ["a#b.png", "50%25.png", "what?.png", "é/日本 語.png", "a&b='c'.png", "\u202egnp.png", "<img>.png"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_becomes_an_address(name: str) -> None:
    """Relative, plain ASCII, nothing in it ends the path, and decoded it is the name again."""
    address = FileLinks().image(tile(path=f"spring/images/{name}"))
    assert address is not None
    assert re.fullmatch(r"\.\./\.\./spring/images/[A-Za-z0-9._~/%-]+", address)
    assert unquote(address) == f"../../spring/images/{name}"
    assert FileLinks().thumbnail(tile()) is None


def test_nothing_in_the_data_is_markup() -> None:
    """Whatever stands in a text: only ASCII is written, and no sign that HTML knows."""
    prompt = "</script><!-- & \u2028 \u2029 \u202e \x00 \ud800 'x' \"y\""
    text = "".join(document(HEAD, [tile(prompt=prompt, error_message=prompt)], (), FileLinks()))
    assert text.isascii() and not set("<>&") & set(text)
    assert not re.search("[\x00-\x1f\x7f]", text)
    assert rows(json.loads(text))[0]["prompt"] == prompt


def test_it_is_written_tile_by_tile() -> None:
    """Memory holds no tile (law 8): 20,000 prompts of 4,000 letters are 80 MB, and pass through less than 8 MB."""

    def many() -> Iterator[Tile]:
        return (tile(number, prompt=f"{number} " * 700) for number in range(20_000))

    tracemalloc.start()
    try:
        size = sum(map(len, document(HEAD, many(), (), FileLinks())))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 60_000_000
    assert peak < 8_000_000


def test_no_more_than_the_limit_is_read() -> None:
    """Tiles beyond it are not asked for, and the page can tell that there are more."""
    asked = []

    def many() -> Iterator[Tile]:
        for number in range(10):
            asked.append(number)
            yield tile(number)

    found = json.loads("".join(document({**HEAD, "wanted": 10}, many(), (), FileLinks(), limit=4)))
    assert (found["shown"], found["wanted"], asked) == (4, 10, [0, 1, 2, 3])


def test_the_fields_are_those_that_the_script_reads() -> None:
    """The page's script asks for every field by a name that is written."""
    from importlib.resources import files

    script = (files("runner.report.gallery") / "pages" / "base.js").read_text("utf-8")
    asked = set(re.findall(r"read\('(\w+)'\)", script))
    assert asked == set(FIELDS)


def made(folder: Path, **more: Any) -> str:
    """The page of a small job with hostile words."""
    with open_ledger(folder) as ledger:
        job = enrolled(ledger, [make_task("</script><script>hacked()</script>", prompt_id="one"), make_task("two")])
        run_id = begin_run(ledger, job)
        for todo in ledger.todo(job, -1, 10):
            finish(ledger, job, run_id, todo)
        change(ledger, "UPDATE jobs SET name = 'a<b>&c'")
        found = ledger.job("a<b>&c")
        assert found
        return "".join(page(ledger, found, links=FileLinks(), now=NOW, **more))


def test_the_policy_allows_this_very_script_and_style_and_nothing_else(tmp_path: Path) -> None:
    """The hashes are those of what stands in the page; there is no other script or style, no handler, no `style=`."""
    text = made(tmp_path)
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    rules = dict(rule.split(" ", 1) for rule in policy.replace("&#39;", "'").split("; "))
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", text, re.S)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)

    def of(body: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'",
        "img-src": "'self' file: data:",
        "style-src": of(style),
        "script-src": of(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert json.loads(data)["job"] == "a<b>&c"
    markup = text.replace(data, "").replace(script, "").replace(style, "")
    assert not re.search(r"\s(?:on\w+|style)\s*=", markup)
    assert not re.search(r"\s(?:src|href)=(?!\"data:)", markup)
    assert "<bdi>a&lt;b&gt;&amp;c</bdi>" in markup
    assert "innerHTML" not in script and "eval(" not in script and "http" not in script + style


def test_only_a_review_may_ask_its_server(tmp_path: Path) -> None:
    """`connect-src` is there with `review`, and what was given reaches the page as it is."""
    given = {"reviewer": "</script>", "blind": True}
    text = made(tmp_path, review=given, results={"axes": []})
    assert "connect-src &#39;self&#39;" in text
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[0])
    assert (data["review"], data["results"]) == (given, {"axes": []})


def test_a_blind_page_names_no_image(tmp_path: Path) -> None:
    """Without tiles it has neither prompts, nor settings, nor addresses of images."""
    text = made(tmp_path, review={"blind": True}, has_tiles=False)
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[0])
    assert (data["tiles"], data["variants"], data["axes"], data["relatives"]) == ([], [], [], [])
    assert "images/" not in text
