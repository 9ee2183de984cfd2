"""What it costs to bring a batch home, and to submit one: the runner's own commands against a script with the SDK.

Owns the order of the steps, which sides there are and what their rows say. Both sides ask the same server, in turn.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.measure import Failed, Measured, run
from tests.bench.report import NO_BAR, Bar, Section, ratio_text
from tests.bench.sides import FREE, PEERS, ROOT, Homes, environment, folder, stats_of

MEMORY = Bar(150, None, " MB")
"""Peak memory of bringing home 2,000 images, as it is wanted."""
SIDES = ("runner", "plain batches", "plain batches, by lines", "plain batches, flushed")
_WAYS = {SIDES[1]: ("file",), SIDES[2]: ("lines",), SIDES[3]: ("file", "flushed")}


@dataclass(frozen=True, slots=True)
class Load:
    """How large it is: images to collect, of so many megabytes each; requests to submit."""

    images: int = 2_000
    megabytes: float = 1.5
    requests: int = 50_000


FULL = Load()
SMALL = Load(images=400, requests=10_000)
"""Enough to see whether something has become worse, where the whole benchmark runs."""


def measure(homes: Homes, rounds: int, load: Load, tell: Callable[[str], None]) -> Section:
    """Every side in turn, `rounds` times: first all of the collecting, then all of the submitting."""
    collected: dict[str, list[Measured]] = defaultdict(list)
    submitted: dict[str, list[Measured]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for side in SIDES:
            took = collect(side, homes, load)
            collected[side].append(took)
            _say(tell, f"round {number}, collecting {load.images}: {side}", took, load.images)
    for number in range(1, rounds + 1):
        for side in SIDES[:2]:
            took = _submit(side, homes, load)
            submitted[side].append(took)
            _say(tell, f"round {number}, submitting {load.requests}: {side}", took, load.requests)
    title = f"A batch of {load.images:,} images of {load.megabytes:g} MB, and one of {load.requests:,} requests"
    columns = ("", "seconds", "CPU for each", "peak memory", "bar", "", "rate", "runner's CPU / its")
    section = Section("batches", title, columns)
    for what, sides, count, bar in (
        ("collect", collected, load.images, MEMORY),
        ("submit", submitted, load.requests, None),
    ):
        for side, turns in sides.items():
            section.rows.append(_row(f"{what}: {side}", turns, sides["runner"], count, bar))
    return section


def _row(name: str, took: Sequence[Measured], ours: Sequence[Measured], count: int, bar: Bar | None) -> list[str]:
    wall_s, peak_mb = median(one.wall_s for one in took), median(one.peak_rss_bytes / 1e6 for one in took)
    cpu_ms = median(one.cpu_s for one in took) * 1000 / count
    is_ours = took is ours
    told, _, verdict = bar.cells(peak_mb) if bar and is_ours else NO_BAR
    against = "" if is_ours else ratio_text([one.cpu_s for one in ours], [one.cpu_s for one in took])
    return [
        name,
        f"{wall_s:.1f}",
        f"{cpu_ms:.2f} ms",
        f"{peak_mb:.0f} MB",
        told,
        verdict,
        f"{count / wall_s:,.0f}/s",
        against,
    ]


def _say(tell: Callable[[str], None], what: str, took: Measured, count: int) -> None:
    tell(
        f"{what}: {took.wall_s:.1f} s, {took.cpu_s * 1000 / count:.2f} ms CPU for each, "
        f"{took.peak_rss_bytes / 1e6:.0f} MB"
    )


# -- one side ---------------------------------------------------------------------------------------


def collect(side: str, homes: Homes, load: Load) -> Measured:
    """Submit a batch, have it be over at once, and measure how it is brought home.

    Raises:
        Failed: it did not end well, or an image is missing.
    """
    with _serving(load.megabytes) as url, folder(homes) as scratch:
        submit = _submitted(side, homes, scratch, url, load.images)
        _post(f"{url}/over")
        if side == "runner":
            took = _runner(homes, scratch, "collect", "bench", "--output", scratch / "output", "--json", "--quiet")
            images = sum(1 for _ in (scratch / "output" / "bench" / "images").rglob("*.png"))
        else:
            batch = json.loads(submit.stdout)["batch"]
            took = _plain(homes, scratch, "collect", f"{url}/v1", scratch / "images", batch, *_WAYS[side])
            images = sum(1 for _ in (scratch / "images").glob("*.png"))
        sent = stats_of(url)["images_sent"]
    if (images, sent) != (load.images, load.images):
        raise Failed(f"{side} brought home {images} of {load.images} images, of which {sent} were sent")
    return took


def _submit(side: str, homes: Homes, load: Load) -> Measured:
    """Measure how one large batch is written, sent and created.

    Raises:
        Failed: it did not end well, or a request is missing.
    """
    with _serving(0.05) as url, folder(homes) as scratch:
        took = _submitted(side, homes, scratch, url, load.requests)
        sent = stats_of(url)["requests"]
    if sent != load.requests:
        raise Failed(f"{side} submitted {sent} of {load.requests} requests")
    return took


def _submitted(side: str, homes: Homes, scratch: Path, url: str, requests: int) -> Measured:
    prompts = scratch / "prompts.txt"
    prompts.write_text("".join(f"A lighthouse at dusk, number {number:06d}\n" for number in range(requests)))
    if side == "runner":
        job = scratch / "bench.yaml"
        job.write_text(json.dumps(_manifest(requests)))  # JSON is YAML
        told = ("--provider", "openai", "--base-url", f"{url}/v1", "--output", scratch / "output", "--json", "--quiet")
        return _runner(homes, scratch, "run", job, "--no-wait", *told)
    (scratch / "images").mkdir()
    return _plain(homes, scratch, "submit", f"{url}/v1", scratch / "images", prompts)


def _manifest(requests: int) -> dict[str, Any]:
    return {
        "name": "bench",
        "model": "gpt-image-2",
        "prompts": [{"file": "prompts.txt"}],
        "settings": {"size": "1024x1024", "quality": "low"},
        "delivery": "batch",
        "batch": {"max_requests": requests},
        "limits": FREE,
    }


def _runner(homes: Homes, scratch: Path, *words: str | Path) -> Measured:
    environ = environment(scratch / "state")
    return run([homes.runner, "-m", "runner", *words], folder=scratch, environment=environ)


def _plain(homes: Homes, scratch: Path, *words: str | Path) -> Measured:
    environ = environment(scratch / "state")
    return run([homes.peers, PEERS / "plain_batches.py", *words], folder=scratch, environment=environ)


# -- the server -------------------------------------------------------------------------------------


@contextmanager
def _serving(megabytes: float) -> Iterator[str]:
    """A Batch API in a process of its own for the block; its URL, without a path."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.batch_server", str(round(megabytes * 1e6))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        if not url:
            raise Failed("the benchmark's Batch API did not start")
        yield url
    finally:
        process.communicate()


def _post(url: str) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(urllib.request.Request(url, b"{}"), timeout=30) as answer:
        answer.read()
