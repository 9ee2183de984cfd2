"""Who is measured: the runner's own command and its peers, each asked for the same images in the same way.

Owns the command lines, the manifest, the environments, the scratch folders and the check that every image is there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.measure import Failed, Measured, run
from tests.bench.picture import png
from tests.bench.server import Settings, as_argument

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
INPUTS, INPUT_BYTES, INPUT_SIDE = "inputs", 5_000_000, 1300
FREE: dict[str, Any] = {"images_per_minute": 10**6, "requests_per_minute": 10**6, "tokens_per_minute": 10**9}
"""Limits that hold nobody back."""


@dataclass(frozen=True, slots=True)
class Homes:
    """The Pythons: the one that has the runner, the one that has its peers; and where images go meanwhile."""

    runner: Path
    peers: Path
    scratch: Path


@dataclass(frozen=True, slots=True)
class Order:
    """What every side is asked for."""

    images: int
    concurrency: int | None
    """None leaves it to the runner."""
    limits: Mapping[str, Any] | None = None
    """What the runner's manifest says of the server's limits."""
    inputs: int = 0
    """Pictures of 5 MB that go with each request."""
    renditions: tuple[Mapping[str, Any], ...] = ()
    """What the runner makes of each image."""
    options: tuple[str, ...] = ()
    """What else the runner's command is told."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it took, and what the server saw of it."""

    took: Measured
    images: int
    stats: dict[str, Any]

    @property
    def cpu_ms(self) -> float:
        """CPU time for each image that was wanted, start-up included."""
        return self.took.cpu_s * 1000 / max(1, self.images)


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """A server in a process of its own for the block; its URL, without a path."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.server", as_argument(settings)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        if not url:
            raise Failed("the benchmark's server did not start")
        yield url
    finally:
        process.communicate()


def stats_of(url: str) -> dict[str, Any]:
    """What the server has seen so far."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{url}/stats", timeout=30) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


@contextmanager
def folder(homes: Homes) -> Iterator[Path]:
    """A fresh folder on the disk that all sides share; what is in it goes at the end."""
    path = Path(tempfile.mkdtemp(dir=homes.scratch))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def manifest(order: Order) -> dict[str, Any]:
    """The job of an order, as the runner takes it."""
    limits = dict(FREE if order.limits is None else order.limits)
    if order.concurrency is not None:
        limits["concurrency"] = order.concurrency
    return {
        "name": "bench",
        "model": "gpt-image-2",  # one that is still served
        "prompts": [
            {"id": f"p{number:06d}", "text": f"A lighthouse at dusk, number {number:06d}"}
            for number in range(order.images)
        ],
        "settings": {"size": "1024x1024", "quality": "low"},
        "limits": limits,
        **({"edit": {"images": [f"{INPUTS}/*.png"]}} if order.inputs else {}),
        **({"renditions": list(order.renditions)} if order.renditions else {}),
    }


def environment(state: Path) -> dict[str, str]:
    """What a measured process gets to see: nothing of the caller's that changes where things go."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RUNNER_", "OPENAI_", "PYTHON", "LITELLM_")) and not name.upper().endswith("_PROXY")
    }
    return kept | {
        "OPENAI_API_KEY": "sk-bench",
        "XDG_STATE_HOME": str(state),
        "XDG_CACHE_HOME": str(state),
        "PYTHONPATH": str(ROOT),
    }


def _write_inputs(folder: Path, count: int) -> None:
    """So many pictures, no two of which are alike."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:02d}.png").write_bytes(png(INPUT_BYTES, seed=number, side=INPUT_SIDE))


def make(side: str, homes: Homes, settings: Settings, order: Order) -> Outcome:
    """Let one side make an order against a fresh server, and count what is there.

    Raises:
        Failed: it did not end well, or (without limits, where nothing may be lost) images are missing.
    """
    with serving(settings) as url, folder(homes) as scratch:
        environ = environment(scratch / "state")
        base_url = f"{url}/v1"
        _write_inputs(scratch / INPUTS, order.inputs)
        if side == "runner":
            job = scratch / "bench.yaml"
            job.write_text(json.dumps(manifest(order)))  # JSON is YAML
            told = ["--provider", "openai", "--base-url", base_url, "--output", str(scratch / "output"), *order.options]
            took = run(
                [homes.runner, "-m", "runner", "run", job, *told, "--json", "--quiet"],
                folder=scratch,
                environment=environ,
                codes=(0, 4),
            )
            images = sum(1 for _ in (scratch / "output" / "bench" / "images").rglob("*.png"))
        else:
            (scratch / "images").mkdir()
            script, *more = {
                "plain": ["plain.py"],
                "plain edits": ["plain_edits.py", str(scratch / INPUTS)],
                "plain+aiohttp": ["plain.py", "aiohttp"],
                "litellm": ["litellm_peer.py"],
                "floor": ["floor.py"],
            }[side]
            words: list[str | Path] = [base_url, scratch / "images", str(order.images), str(order.concurrency), *more]
            took = run([homes.peers, PEERS / script, *words], folder=scratch, environment=environ)
            images = sum(1 for _ in (scratch / "images").glob("*.png"))
        stats = stats_of(url)
    if images != order.images and settings.images_per_minute is settings.tokens_per_minute is None:
        raise Failed(f"{side} made {images} of {order.images} images")
    return Outcome(took, images, stats)
