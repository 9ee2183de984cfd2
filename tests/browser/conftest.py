"""Fixtures of the tests in a browser. Where there is none, they are skipped with a plain message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.support import Opener, Watch, browsing, find_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the tests of a file: while Playwright is there, nothing else can have an event loop."""
    pytest.importorskip("playwright", reason="Playwright is not installed: `make browser-test` does that")
    if find_browser() is None:
        pytest.skip("there is no Chromium in PATH: `make browser-test` installs one, or name it in $RUNNER_BROWSER")
    with browsing() as found:
        yield found


@pytest.fixture
def opener(browser: Browser) -> Iterator[Opener]:
    """Opens pages; whatever one says on the console, or asks for elsewhere, fails the test.

    `origin` is whom it may ask: files, unless told otherwise. What it says with `expected` in it is to be said.
    """
    contexts = []
    watches = []

    def open_page(url: str, *, origin: str = "file://", expected: str | None = None, **options: Any) -> Page:
        context = browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 800}), **options)
        contexts.append(context)
        watches.append(Watch(origin, expected))
        page = watches[-1].over(context.new_page())
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [each for watch in watches for each in watch.complaints] == []
