"""The benchmark's server, sides and big ledger at their smallest: that they are what the tables say they are."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import sys
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner import Options
from runner import run as run_job
from runner.ledger import Ledger
from runner.tasks import Status
from tests.bench import big_job, part_batches, part_renditions, pixels
from tests.bench.measure import Failed, run
from tests.bench.server import Settings
from tests.bench.sides import Homes, Order, make, serving, stats_of


def ask(url: str, prompt: str) -> Any:
    """One request for an image, parsed."""
    body = json.dumps({"model": "gpt-image-2", "prompt": prompt}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/images/generations", body), timeout=30) as answer:
        return json.load(answer)


def test_the_server_answers_as_the_api_does_and_keeps_count() -> None:
    """A picture, then the usage, in the API's order; beyond the limit a 429 that says how long to wait."""
    with serving(Settings(image_bytes=31_000, images_per_minute=120, window_s=1, advice="all")) as url:
        told = ask(url, "one")
        assert list(told) == ["created", "background", "data", "output_format", "quality", "size", "usage"]
        Image.open(io.BytesIO(base64.b64decode(told["data"][0]["b64_json"]))).load()
        assert told["usage"]["total_tokens"] == told["usage"]["input_tokens"] + told["usage"]["output_tokens"]
        ask(url, "one")
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(url, "two")
        error = json.load(refused.value)["error"]
        refused.value.close()
        assert (refused.value.code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "input-images")
        assert "Please try again in " in error["message"]
        assert 0 < int(refused.value.headers["retry-after-ms"]) <= 1000
        stats = stats_of(url)
    assert (len(stats["accepted"]), len(stats["refused"])) == (2, 1)
    assert (stats["prompts"], stats["prompts_made"], stats["made_twice"]) == (2, 1, 1)


def test_sides_get_the_same_images(tmp_path: Path) -> None:
    """The runner's own command and the plain script: as many images, as many requests, and figures of each process."""
    homes = Homes(Path(sys.executable), Path(sys.executable), tmp_path)
    for side in ("runner", "plain"):
        outcome = make(side, homes, Settings(image_bytes=50_000, p50_s=0.05, p95_s=0.05), Order(6, 3))
        assert (outcome.images, outcome.stats["prompts_made"], outcome.stats["made_twice"]) == (6, 6, 0)
        assert outcome.stats["max_in_flight"] == 3
        assert outcome.took.cpu_s > 0
        assert outcome.took.peak_rss_bytes > 20e6
    assert list(tmp_path.iterdir()) == []


def test_sides_send_the_same_pictures(tmp_path: Path) -> None:
    """Both send every file with every request: as many bytes, but for the words of the form around them."""
    homes = Homes(Path(sys.executable), Path(sys.executable), tmp_path)
    sent = []
    for side in ("runner", "plain edits"):
        outcome = make(side, homes, Settings(image_bytes=50_000), Order(2, 2, inputs=2))
        assert (outcome.images, outcome.stats["prompts_made"]) == (2, 2)
        sent.append(outcome.stats["bytes_received"])
    assert min(sent) > 4 * 4_900_000
    assert abs(sent[0] - sent[1]) < 2_000


def test_what_ends_badly_is_no_figure(tmp_path: Path) -> None:
    """Neither a command that fails nor one that never ends."""
    with pytest.raises(Failed, match="ended with 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"], folder=tmp_path)
    with pytest.raises(Failed, match="ended with -9"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], folder=tmp_path, timeout_s=0.5)


def test_half_of_a_big_job_is_done_as_if_it_had_been_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger finds no fault with it, counts it, and goes on with the other half."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-bench")
    job, output = big_job.write(tmp_path, 200), tmp_path / "output"
    with serving(Settings(image_bytes=50_000)) as url:
        options = Options(provider="openai", base_url=f"{url}/v1", output=output, limit=1)
        assert run_job(job, options).made == 1
        assert big_job.finish_half(output / "ledger.sqlite3") == 100
        with Ledger.open(output / "ledger.sqlite3", create=False) as ledger:
            known = ledger.job("bench")
            assert known is not None
            assert ledger.statuses(known)[Status.DONE] == 100
            assert ledger.check(deep=True) == []
            with ledger.contradictions(known) as found:
                assert list(found) == []
        assert run_job(job, options).done == 101
        assert stats_of(url)["prompts"] == 2
    with closing(sqlite3.connect(output / "ledger.sqlite3")) as connection:
        query = "SELECT t.name, a.path FROM tasks t JOIN assets a ON a.task_id = t.id"
        assert {path == f"bench/images/{name}" for name, path in connection.execute(query)} == {True}


def test_sides_make_the_same_renditions(tmp_path: Path) -> None:
    """As many by the worker as by the loop, and of each picture the same sizes."""
    homes = Homes(Path(sys.executable), Path(sys.executable), tmp_path)
    told: list[str] = []
    section = part_renditions.rates(homes, 1, told.append, assets=2)
    assert len(section.rows) == 2 * len(part_renditions.CASES)
    assert len(told) == 2 * len(part_renditions.CASES)
    recipes = json.dumps(part_renditions.CASES[1].recipes)
    (tmp_path / "pictures").mkdir()
    pixels.main("draw", "1", str(tmp_path / "pictures"))
    sizes = []
    for side in part_renditions.SIDES:
        out = tmp_path / side
        out.mkdir()
        pixels.main(side, recipes, str(tmp_path / "pictures"), str(out))
        sizes.append({file.name: Image.open(io.BytesIO(file.read_bytes())).size for file in out.iterdir()})
    assert (
        sizes[0]
        == sizes[1]
        == {"0000-thumb.webp": (384, 384), "0000-card.jpg": (600, 400), "0000-icon.png": (128, 128)}
    )


def test_requests_are_counted_with_and_without_renditions(tmp_path: Path) -> None:
    """Their pace is what the server saw, their latency what the run told."""
    homes = Homes(Path(sys.executable), Path(sys.executable), tmp_path)
    told: list[str] = []
    section = part_renditions.requests(
        homes, 1, told.append, Order(6, 3), Settings(image_bytes=50_000, p50_s=0.05, p95_s=0.05)
    )
    assert [len(row) for row in section.rows] == [len(section.columns)] * 3
    assert len(told) == 2
    assert list(tmp_path.iterdir()) == []


def test_sides_bring_home_the_same_batch(tmp_path: Path) -> None:
    """The runner's own commands and the script in each of its ways: as many images, and every request submitted."""
    homes = Homes(Path(sys.executable), Path(sys.executable), tmp_path)
    load = part_batches.Load(images=6, megabytes=0.05, requests=7)
    told: list[str] = []
    section = part_batches.measure(homes, 1, load, told.append)
    assert [row[0] for row in section.rows] == [
        *(f"collect: {side}" for side in part_batches.SIDES),
        *(f"submit: {side}" for side in part_batches.SIDES[:2]),
    ]
    assert len(told) == len(section.rows)
    assert list(tmp_path.iterdir()) == []
