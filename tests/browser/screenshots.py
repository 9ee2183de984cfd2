"""The pictures of the documentation: python -m tests.browser.screenshots

Makes a job with the embedded simulator, opens its gallery and its review in a browser, and writes docs/images/*.png.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tests.browser.support import browsing, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "docs" / "images"
JOB = "harbour-posters"
WINDOW = {"width": 1280, "height": 800}
PAINTED = (
    "[...document.querySelectorAll('.cell img, .stage img')].every((image) => image.complete && image.naturalWidth)"
)
COLOURS = 200


def main() -> None:
    """Make the job, and every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=TARGET, help="where the pictures go [default: docs/images]")
    target: Path = parser.parse_args().target
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        call(folder, "run", str(HERE / "showcase.yaml"), "--provider", "simulator", "--quiet")
        call(folder, "gallery", JOB, "--quiet")
        url = (Path(folder) / "output" / JOB / "gallery" / "index.html").as_uri()
        with browsing() as browser:
            for name, (shoot, options) in SHOTS.items():
                page = opened(browser, url, **options)
                shoot(page)
                save(page, target / f"{name}.png")
                page.context.close()
            review(browser, folder, target)
            promoted(browser, folder, url, target)


def call(folder: str, *arguments: str) -> None:
    """A command of `runner`, in a folder of its own."""
    subprocess.run([sys.executable, "-m", "runner", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def opened(browser: Browser, url: str, **options: Any) -> Page:
    """A page that stands still."""
    page = browser.new_context(**{"viewport": WINDOW, "reduced_motion": "reduce", **options}).new_page()
    page.goto(url)
    until(page, PAINTED)
    return page


def save(page: Page, path: Path) -> None:
    """The window as it is now, in few colours: a small file."""
    until(page, PAINTED)
    page.evaluate("document.querySelectorAll('.toast').forEach((toast) => toast.remove())")
    page.wait_for_timeout(150)  # for what is painted after it was loaded
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1024} KB")


def gallery(page: Page) -> None:
    """The matrix, two of its images picked."""
    for number in (1, 6):
        page.locator(".cell[data-id]").nth(number).focus()
        page.keyboard.press("p")
    page.evaluate("document.activeElement.blur(); document.getElementById('sheet').scrollTop = 0")


def grid(page: Page) -> None:
    """The plain grid with a filter."""
    page.click("[data-view=grid]")
    page.click("#opener")
    page.check("[data-facet=quality][data-value=medium]")
    page.evaluate("document.activeElement.blur()")


def lightbox(page: Page) -> None:
    """One image with all that is known of it."""
    page.locator(".cell[data-id]").nth(1).click()
    page.mouse.move(0, 0)


def compare(page: Page) -> None:
    """Four images side by side, zoomed in together."""
    for number in (8, 9, 10, 11):
        page.locator(".cell[data-id]").nth(number).focus()
        page.keyboard.press("Space")
    page.click("#compare-these")
    page.keyboard.press("+")
    page.mouse.move(0, 0)


def review(browser: Browser, folder: str, target: Path) -> None:
    """Two images to choose between, and what thirty choices have come to."""
    server = subprocess.Popen(
        [sys.executable, "-m", "runner", "review", JOB, "--as", "reviewer", "--no-open"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout
        page = opened(browser, server.stdout.readline().strip())
        page.click("#tab-review")
        until(page, "document.querySelectorAll('.stage img').length === 2")
        save(page, target / "review.png")
        for number in range(30):
            until(page, "document.querySelectorAll('.stage img').length === 2")
            page.keyboard.press(("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowRight")[number % 5])
            until(page, "(words) => document.body.innerText.includes(words)", f"{number + 1} of 48 judged")
        page.click("#tab-results")
        page.wait_for_timeout(500)
        save(page, target / "results.png")
    finally:
        server.terminate()
        server.wait()


def promoted(browser: Browser, folder: str, url: str, target: Path) -> None:
    """A winner beside what was made of it."""
    better = ["--model", "gpt-image-2", "--quality", "high", "--provider", "simulator"]
    call(folder, "promote", JOB, "--winners", "--top", "5", *better, "--quiet")
    page = opened(browser, url)
    page.click("#opener")
    page.check("[data-facet=promotion][data-value='made again']")
    page.locator(".cell[data-id]").first.click()
    page.get_by_role("button", name="Before / after").click()
    page.mouse.move(0, 0)
    save(page, target / "before-after.png")
    page.context.close()


SHOTS: dict[str, tuple[Callable[[Page], None], dict[str, Any]]] = {
    "gallery": (gallery, {}),
    "gallery-dark": (gallery, {"color_scheme": "dark"}),
    "grid": (grid, {}),
    "lightbox": (lightbox, {}),
    "compare": (compare, {"color_scheme": "dark"}),
    "narrow": (lambda _: None, {"viewport": {"width": 390, "height": 760}}),
}

if __name__ == "__main__":
    main()
