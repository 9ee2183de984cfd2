"""What a large gallery costs in a browser: python -m tests.browser.measure --tiles 20000

Builds a ledger with that many done tasks, whose images and thumbnails are hard links of a few, and prints one line for
each shape of the matrix. Times are of this machine, now.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image, ImageDraw

from runner.ledger import THUMBNAIL, Ledger, attempts
from runner.tasks import Task
from tests.browser.support import Sight, browsing
from tests.edges.ledger_support import (
    ANSWER,
    COST,
    NOW_MS,
    House,
    make_file,
    make_task,
    move_in,
    open_ledger,
    to_begin,
    write,
)

DISTINCT = 24
SCROLL = """() => new Promise((done) => {
    const sheet = document.getElementById('sheet');
    const frames = [];
    let before = performance.now();
    let left = 180;
    const step = (now) => {
        frames.push(now - before);
        before = now;
        sheet.scrollTop += 120;
        left -= 1;
        if (left > 0) requestAnimationFrame(step);
        else {
            const late = frames.filter((each) => each > 34).length;
            done({longest: Math.max(...frames.slice(2)), frames: frames.length, late});
        }
    };
    requestAnimationFrame(step);
})"""
JUMPS = """() => new Promise((done) => {
    const sheet = document.getElementById('sheet');
    let most = 0;
    let left = 40;
    const step = () => {
        most = Math.max(most, document.querySelectorAll('*').length);
        sheet.scrollTop = (sheet.scrollHeight - sheet.clientHeight) * ((left * 7919) % 41) / 41;
        left -= 1;
        if (left > 0) requestAnimationFrame(step);
        else done(most);
    };
    requestAnimationFrame(step);
})"""
# Kept by the page from its first moment: when an image was first there to be painted (the frame after it was loaded),
# and how long the main thread was blocked.
WATCH = """
window.seen = {first: null, blocked: 0};
new PerformanceObserver((list) => list.getEntries().forEach((each) => {
    window.seen.blocked = Math.max(window.seen.blocked, each.duration);
})).observe({type: 'longtask', buffered: true});
new MutationObserver((all) => all.forEach((each) => each.addedNodes.forEach((node) => {
    node.querySelectorAll?.('.cell img').forEach((image) => {
        image.addEventListener('load', () => requestAnimationFrame(() => {
            window.seen.first ??= performance.now();
        }), {once: true});
    });
}))).observe(document, {childList: true, subtree: true});
"""


def main() -> None:
    """Measure each shape, and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--shapes", default="1,8,200", help="variants of each prompt, for each measurement")
    arguments = parser.parse_args()
    for variants in (int(each) for each in arguments.shapes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            print(told(variants, measured(Path(folder), arguments.tiles, variants)), flush=True)


def measured(folder: Path, tiles: int, variants: int) -> dict[str, Any]:
    """The figures of one shape; times are milliseconds, sizes bytes."""
    with built(folder, tiles, variants) as sight:
        start = time.perf_counter()
        sight.write()
        written_s = time.perf_counter() - start
    index = sight.folder / "gallery" / "index.html"
    with browsing() as browser:
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.add_init_script(WATCH)
        page.goto(sight.url)
        while page.evaluate("window.seen.first") is None:
            page.wait_for_timeout(20)
        first_ms = page.evaluate("window.seen.first")
        blocked_ms = page.evaluate("window.seen.blocked")
        nodes = page.evaluate("document.querySelectorAll('*').length")
        view = page.locator("[data-view][aria-pressed=true]").inner_text()
        frames = page.evaluate(SCROLL)
        most_nodes = page.evaluate(JUMPS)
        session = page.context.new_cdp_session(page)
        session.send("HeapProfiler.collectGarbage")
        heap_bytes = session.send("Runtime.getHeapUsage")["usedSize"]
        return {
            "view": view,
            "tiles": tiles,
            "write_ms": written_s * 1000,
            "index_bytes": index.stat().st_size,
            "first_ms": first_ms,
            "blocked_ms": blocked_ms,
            "nodes": nodes,
            "most_nodes": most_nodes,
            "heap_bytes": heap_bytes,
            **frames,
        }


def told(variants: int, found: dict[str, Any]) -> str:
    """One line of figures."""
    return (
        f"{found['tiles'] // variants:,} x {variants} ({found['view']}): page written in {found['write_ms']:,.0f} ms, "
        f"{found['index_bytes'] / 1e6:.1f} MB; first thumbnail after {found['first_ms']:,.0f} ms "
        f"(longest task {found['blocked_ms']:,.0f} ms); {found['nodes']:,} nodes, {found['most_nodes']:,} at most; "
        f"heap {found['heap_bytes'] / 1e6:.0f} MB; scrolling {found['frames']} frames, longest "
        f"{found['longest']:.0f} ms, {found['late']} over 34 ms"
    )


@contextmanager
def built(folder: Path, tiles: int, variants: int) -> Iterator[Sight]:
    """A job with so many done tasks, each with an image and a thumbnail."""
    with open_ledger(folder) as ledger:
        house = move_in(ledger, folder, _tasks(tiles, variants), name="large")
        pictures = _pictures(folder)
        after = -1
        numbers = itertools.count()
        while some := ledger.todo(house.job, after, 1000):
            after = some[-1].position
            _finish(ledger, house, some)
            for todo in some:
                image, thumbnail = pictures[next(numbers) % DISTINCT]
                for source, target in (
                    (image, folder / "large" / "images" / todo.name),
                    (thumbnail, folder / "large" / "gallery" / "thumbs" / f"{todo.name}.webp"),
                ):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(source, target)
        yield Sight(house)
    shutil.rmtree(folder / "pictures")


def _tasks(tiles: int, variants: int) -> Iterator[Task]:
    for number in range(tiles // variants):
        prompt = f"A harbour town at dusk, number {number}: wet cobblestones, long shadows, one warm lamp in a window"
        for variant in range(variants):
            yield make_task(prompt, prompt_id=f"harbour-{number:05d}", size="1024x1024", quality=f"q{variant}")


def _finish(ledger: Ledger, house: House, some: list[Any]) -> None:
    """Make these done in one transaction; their files are put there by hand."""
    with write(ledger) as connection:
        for todo in some:
            attempt = attempts.begin(connection, to_begin(house.job, house.run_id, todo.task_id))
            assert isinstance(attempt, int)
            file = make_file(f"large/images/{todo.name}", seed=todo.task_id)
            attempts.received(connection, attempt, answer=ANSWER, cost=COST, file=file)
            attempts.saved(
                connection,
                attempt,
                task_id=todo.task_id,
                file=file,
                model="gpt-image-1-mini",
                simulated=True,
                now_ms=NOW_MS,
            )
            connection.execute(
                sa.text(
                    "INSERT INTO renditions "
                    "(task_id, kind, recipe, asset_sha256, task_name, path, sha256, bytes, created_ms) "
                    "VALUES (:task, :kind, 'r', :asset, :name, :path, '0', 1, 1)"
                ),
                {
                    "task": todo.task_id,
                    "kind": THUMBNAIL,
                    "asset": file.sha256,
                    "name": todo.name,
                    "path": f"large/gallery/thumbs/{todo.name}.webp",
                },
            )


def _pictures(folder: Path) -> list[tuple[Path, Path]]:
    """Images of a megapixel with their thumbnails, a few of them."""
    place = folder / "pictures"
    place.mkdir()
    found = []
    for number in range(DISTINCT):
        picture = Image.effect_noise((1024, 1024), 60).convert("RGB")
        colour = (number * 10 % 255, number * 37 % 255, number * 91 % 255)
        ImageDraw.Draw(picture).ellipse((200, 200, 824, 824), fill=colour)
        image, thumbnail = place / f"{number}.png", place / f"{number}.webp"
        picture.save(image, compress_level=1)
        picture.resize((384, 384)).save(thumbnail, quality=80)
        found.append((image, thumbnail))
    return found


if __name__ == "__main__":
    main()
