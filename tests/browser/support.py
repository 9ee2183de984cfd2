"""What the browser's tests share: a browser, a page that is watched, and galleries of real ledgers with real images."""

from __future__ import annotations

import datetime as dt
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from runner.ledger import COMPOSITE, THUMBNAIL, Cost, Job, Ledger, Rendition, Todo
from runner.report.gallery import FileLinks, page
from runner.tasks import Task
from tests.edges.ledger_support import NOW_MS, House, make_task, png

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NOW = dt.datetime(2026, 11, 23, 4, 30, tzinfo=dt.UTC)
COSTS = {"low": Cost(5_000, "estimate"), "medium": Cost(11_250, "estimate")}


def find_browser() -> str | None:
    """The path of a Chromium: $RUNNER_BROWSER, or what is in PATH."""
    return os.environ.get("RUNNER_BROWSER") or next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browsing() -> Iterator[Browser]:
    """A Chromium without a window; raises where Playwright or the browser is absent."""
    from playwright.sync_api import sync_playwright

    path = find_browser()
    if path is None:
        raise FileNotFoundError("no Chromium in PATH")
    # As root it has no sandbox of its own, and refuses to start with one.
    arguments = [*ARGUMENTS, "--no-sandbox"] if os.geteuid() == 0 else [*ARGUMENTS]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watch:
    """What a page must not do, as it is seen to do it: errors on the console, requests to anywhere else."""

    origin: str
    expected: str | None = None
    complaints: list[str] = field(default_factory=list)

    def over(self, page: Page) -> Page:
        """The page, watched from now on."""
        page.on("console", lambda said: self._note(said.type in ("error", "warning"), f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self._note(True, f"error: {error}"))
        page.on("request", lambda request: self._note(not self._is_own(request.url), f"asked for {request.url}"))
        return page

    def _is_own(self, url: str) -> bool:
        return url.startswith((self.origin, "data:", "blob:"))

    def _note(self, is_wrong: bool, text: str) -> None:
        if is_wrong and (self.expected is None or self.expected not in text):
            self.complaints.append(text)


def until(page: Page, expression: str, argument: object = None) -> None:
    """Wait until this is true of a page. Playwright's own way is forbidden by the page's policy."""
    for _ in range(400):
        if page.evaluate(expression, argument):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"it did not come true: {expression} {argument if argument is not None else ''}")


Opener = Callable[..., "Page"]
"""Opens a URL in a page of a context of its own: `opener(url, **options of the context)`."""


@dataclass
class Sight:
    """A job with its gallery on disk."""

    house: House

    @property
    def ledger(self) -> Ledger:
        return self.house.ledger

    @property
    def job(self) -> Job:
        found = self.ledger.job(self.house.job.name)
        assert found
        return found

    @property
    def folder(self) -> Path:
        return self.house.output / self.job.name

    @property
    def url(self) -> str:
        return (self.folder / "gallery" / "index.html").as_uri()

    def make(self, todo: Todo, data: bytes | None = None, *, thumbnail: bool = False) -> None:
        """Make a task done, with a real image of its size; its price is by quality."""
        cost = COSTS.get(todo.request.quality, COSTS["low"])
        image = data or png(todo.task_id, todo.request.size)
        attempt_id = self.house.begin(todo)
        file = self.house.record(attempt_id, todo, self.house.receive(attempt_id, image), cost=cost)
        self.house.store.place(attempt_id, file.path)
        self.house.save(attempt_id, todo, file)
        if thumbnail:
            self.derive(todo, THUMBNAIL, f"gallery/thumbs/{todo.name}.webp", _small(image))

    def derive(self, todo: Todo, kind: str, path: str, data: bytes) -> None:
        """Put a derived file beside the asset, and on record."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        asset = self.house.asset(todo.task_id)
        assert asset
        made = Rendition(
            todo.task_id, kind, "r", asset["sha256"], todo.name, f"{self.job.name}/{path}", "0" * 64, len(data)
        )
        self.ledger.renditions.made([made], now_ms=NOW_MS)

    def paste(self, todo: Todo) -> None:
        """A composite of a task."""
        self.derive(todo, COMPOSITE, f"composites/{todo.name}", png(9_000, todo.request.size))

    def write(self, **more: Any) -> Sight:
        """Write the page anew."""
        target = self.folder / "gallery" / "index.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", encoding="utf-8") as stream:
            stream.writelines(page(self.ledger, self.job, links=FileLinks(), now=NOW, **more))
        return self


def sweep(prompts: Iterable[tuple[str, str]], **more: Any) -> Iterator[Task]:
    """Every (id, prompt) in two sizes and two qualities."""
    for prompt_id, prompt in prompts:
        for size in ("16x16", "24x16"):
            for quality in ("low", "medium"):
                yield make_task(prompt, prompt_id=prompt_id, size=size, quality=quality, **more)


def _small(image: bytes) -> bytes:
    target = io.BytesIO()
    Image.open(io.BytesIO(image)).save(target, "WEBP")
    return target.getvalue()
