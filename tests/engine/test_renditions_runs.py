"""Renditions in whole runs: made beside the requests, by themselves, again when anything of them changes; galleries."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.engine.renditions import Renderer
from runner.errors import LedgerError
from runner.ledger import Renditions
from tests.engine.command_support import GOOD, Desk, Said

CARD = {"name": "card", "width": 40, "height": 24, "fit": "cover"}
TINY = {"name": "tiny", "width": 16, "format": "jpeg"}


def job(desk: Desk, *renditions: dict[str, Any], prompts: list[str] = GOOD, **more: Any) -> str:
    return desk.manifest("cards", prompts, renditions=list(renditions), **more)


def derived(desk: Desk, folder: str = "renditions") -> dict[str, bytes]:
    """The files below a folder of the job, by their paths in it."""
    below = desk.folder / "output/cards" / folder
    return {
        path.relative_to(below).as_posix(): path.read_bytes() for path in sorted(below.rglob("*")) if path.is_file()
    }


def rendered(said: Said) -> int:
    return sum(len(entry["kinds"]) for entry in said.entries if entry["type"] == "rendered")


def test_a_run_makes_the_renditions_of_its_images(desk: Desk) -> None:
    """Each in its own folder under the image's name; the asset stays what it was, and the summary counts them."""
    said = desk.run(job(desk, CARD, TINY), "--json")
    assert (said.code, said.summary["renditions"], said.summary["renditions_failed"]) == (0, 4, 0)
    assert rendered(said) == 4
    found = derived(desk)
    assets = derived(desk, "images")
    cards = {f"card/{Path(name).with_suffix('.webp')}" for name in assets}
    assert found.keys() == cards | {f"tiny/{Path(name).with_suffix('.jpg')}" for name in assets}
    for name in found:
        with Image.open(desk.folder / "output/cards/renditions" / name) as image:
            assert image.size == ((40, 24) if name.startswith("card") else (16, 16))
    assert desk.requests() == 2


def test_nothing_is_made_twice_while_it_is_on_its_way(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that comes while others are looked through is found then, or the next time: not both times."""
    keep = Renderer._keep

    def slowly(self: Renderer, some: Any) -> Any:
        time.sleep(0.4)
        return keep(self, some)

    monkeypatch.setattr(Renderer, "_keep", slowly)
    # Whatever is there is newer than what was asked for before.
    monkeypatch.setattr(Renditions, "newest_asset", lambda _self: 0)
    prompts = [f"number {n} [[fault:delay={n / 10}]]" for n in range(6)]
    said = desk.run(job(desk, CARD, prompts=prompts), "--json")
    assert (said.code, said.summary["renditions"], said.summary["renditions_failed"], rendered(said)) == (0, 6, 0, 6)


def test_another_run_makes_none_again(desk: Desk) -> None:
    manifest = job(desk, CARD)
    desk.run(manifest)
    before = derived(desk)
    said = desk.run(manifest, "--json")
    assert (said.code, said.summary["renditions"], rendered(said)) == (0, 0, 0)
    assert derived(desk) == before


def test_render_makes_what_is_lacking_free_and_offline(desk: Desk) -> None:
    """No request leaves, no key is needed; a second call has nothing to do; a removed file comes back as it was."""
    desk.run(job(desk))
    asked = desk.requests()
    manifest = job(desk, CARD)
    desk.monkeypatch.delenv("DESK_KEY")
    said = desk.call("render", manifest, "--json")
    assert said.code == 0
    (entry,) = said.entries
    assert (entry["renditions"], entry["renditions_failed"]) == (2, 0)
    before = derived(desk)
    assert len(before) == 2
    assert desk.call("render", "cards", "--json").entries[0]["renditions"] == 0
    gone = sorted(before)[0]
    (desk.folder / "output/cards/renditions" / gone).unlink()
    assert desk.call("render", "cards", "--json").entries[0]["renditions"] == 1
    assert derived(desk) == before
    assert desk.requests() == asked


def test_a_changed_recipe_makes_only_what_it_has_changed(desk: Desk) -> None:
    """Another size of one rendition leaves the other alone; another format takes the place of the old file."""
    desk.run(job(desk, CARD, TINY))
    before = derived(desk)
    manifest = job(desk, {**CARD, "width": 50}, TINY)
    assert desk.call("render", manifest, "--json").entries[0]["renditions"] == 2
    after = derived(desk)
    assert sorted(after) == sorted(before)
    assert {name for name in after if after[name] != before[name]} == {
        name for name in after if name.startswith("card")
    }
    manifest = job(desk, {**CARD, "width": 50, "format": "png"}, TINY)
    assert desk.call("render", manifest, "--json").entries[0]["renditions"] == 2
    assert sorted(name for name in derived(desk) if name.startswith("card")) == sorted(
        str(Path(name).with_suffix(".png")) for name in before if name.startswith("card")
    )
    assert desk.requests() == 2


def test_a_recipe_changes_no_image(desk: Desk) -> None:
    """Law 3: with other renditions the manifest wants the same images, and nothing is sent."""
    desk.run(job(desk, CARD))
    said = desk.run(job(desk, TINY), "--json")
    assert (said.code, said.summary["requests"], said.summary["renditions"]) == (0, 0, 2)
    assert desk.requests() == 2


def test_an_image_with_a_new_name_has_its_renditions_there(desk: Desk) -> None:
    desk.run(job(desk, CARD))
    before = derived(desk)
    said = desk.run(job(desk, CARD, output={"name": "new/{{ prompt_id }}"}), "--json")
    assert (said.code, said.summary["requests"]) == (0, 0)
    after = derived(desk)
    assert all(name.startswith("card/new/") for name in after)
    assert sorted(after.values()) == sorted(before.values())


def test_two_images_that_differ_in_their_ending_alone_have_a_rendition_each(desk: Desk) -> None:
    """`a.png` and `a.jpg` are both cut to a WebP: neither takes the other's place, now or at the next run."""
    manifest = job(
        desk,
        CARD,
        prompts=GOOD[:1],
        matrix={"output_format": ["png", "jpeg"]},
        output={"name": "same"},
    )
    said = desk.run(manifest, "--json")
    assert (said.code, said.summary["done"], said.summary["renditions"]) == (0, 2, 2)
    before = derived(desk)
    assert len(before) == 2
    assert desk.call("render", "cards", "--json").entries[0]["renditions"] == 0
    assert derived(desk) == before


def test_render_says_what_to_do_where_no_renditions_are_asked_for(desk: Desk) -> None:
    desk.run(job(desk))
    said = desk.call("render", "cards")
    assert said.code == 2
    assert "asks for no renditions" in said.err
    assert "renditions: [{name: card" in said.err
    assert desk.call("render", "unknown").code == 2


def test_an_image_that_is_damaged_costs_its_rendition_and_no_other(desk: Desk) -> None:
    desk.run(job(desk))
    first, *_ = sorted((desk.folder / "output/cards/images").rglob("*.png"))
    first.write_bytes(b"no image")
    said = desk.call("render", job(desk, CARD), "--json")
    assert said.code == 4
    assert (said.entries[0]["renditions"], said.entries[0]["renditions_failed"]) == (1, 1)
    assert first.parent.name in said.err


@pytest.mark.parametrize(
    "command",
    [["/nowhere/python"], ["false"], ["sh", "-c", "echo nonsense; cat > /dev/null"], ["sh", "-c", "echo 7; cat"]],
)
def test_no_trouble_with_renditions_ends_a_run(desk: Desk, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Law 3: what is in flight is paid for. The images are there, the exit code says that it was not all."""
    monkeypatch.setattr("runner.renditions.worker.COMMAND", command)
    said = desk.run(job(desk, CARD, prompts=["a [[fault:delay=0.3]]", "b"]), "--json")
    assert (said.code, said.summary["done"], said.summary["in_doubt"]) == (4, 2, 0)
    assert said.summary["renditions_failed"] == 2


def test_the_disk_that_refuses_renditions_costs_nothing_else(desk: Desk) -> None:
    """A folder in the place of `renditions/card` that cannot be one: told, counted, and the images are done."""
    (desk.folder / "output/cards").mkdir(parents=True)
    (desk.folder / "output/cards/renditions").write_text("in the way")
    said = desk.run(job(desk, CARD), "--json")
    assert (said.code, said.summary["done"], said.summary["renditions_failed"]) == (4, 2, 2)


def test_nothing_is_written_through_a_planted_link(desk: Desk, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    desk.run(job(desk))
    (desk.folder / "output/cards/renditions").symlink_to(elsewhere)
    said = desk.call("render", job(desk, CARD))
    assert said.code == 1
    assert "symbolic link" in said.err
    assert list(elsewhere.iterdir()) == []


def test_a_job_that_is_run_is_not_rendered_beside_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that write the same files would be in each other's way: the second is told who holds the job."""
    manifest = job(desk, CARD)
    desk.run(manifest)
    codes: list[int] = []
    run = Renderer.run

    async def rivalled(self: Renderer) -> None:
        codes.append(desk.call("render", "cards").code)
        await run(self)

    monkeypatch.setattr(Renderer, "run", rivalled)
    desk.call("render", manifest)
    assert codes == [7]


# -- the gallery ------------------------------------------------------------------------------------


def page(desk: Desk) -> str:
    return (desk.folder / "output/cards/gallery/index.html").read_text(encoding="utf-8")


def test_a_gallery_is_written_with_its_thumbnails(desk: Desk) -> None:
    desk.run(job(desk))
    said = desk.call("gallery", "cards", "--json")
    assert said.code == 0
    (entry,) = said.entries
    assert (entry["thumbnails"], entry["thumbnails_failed"], entry["busy"]) == (2, 0, False)
    assert Path(entry["page"]) == Path("output/cards/gallery/index.html")
    assert len(derived(desk, "gallery/thumbs")) == 2
    assert GOOD[0] in page(desk)
    assert desk.call("gallery", "cards", "--json").entries[0]["thumbnails"] == 0
    assert desk.call("gallery", "cards").out.strip() == "output/cards/gallery/index.html"


def test_a_gallery_that_is_there_is_kept_up_to_date_by_runs(desk: Desk) -> None:
    """And a job without one gets none: a million thumbnails are nobody's by accident."""
    desk.run(job(desk, prompts=GOOD[:1]))
    assert not (desk.folder / "output/cards/gallery").exists()
    desk.call("gallery", "cards")
    assert GOOD[1] not in page(desk)
    said = desk.run(job(desk), "--json")
    assert (said.code, said.summary["renditions"]) == (0, 1)
    assert GOOD[1] in page(desk)
    assert len(derived(desk, "gallery/thumbs")) == 2


def test_a_gallery_of_a_job_that_runs_is_written_without_thumbnails(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks in meanwhile sees what is there, and is told that the rest comes by another call."""
    desk.run(job(desk))
    said: list[Said] = []
    run = Renderer.run

    async def rivalled(self: Renderer) -> None:
        said.append(desk.call("gallery", "cards", "--json"))
        await run(self)

    monkeypatch.setattr(Renderer, "run", rivalled)
    desk.run(job(desk, CARD))
    assert (said[0].code, said[0].entries[0]["busy"], said[0].entries[0]["thumbnails"]) == (0, True, 0)
    assert "call this again" in said[0].err
    assert GOOD[0] in page(desk)


def test_a_gallery_that_cannot_be_written_costs_a_warning(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images are made and paid for: nothing that goes wrong with a page changes how the run ended."""

    def fail(*_: object) -> None:
        raise ValueError("nobody foresaw this")

    desk.run(job(desk, prompts=GOOD[:1]))
    desk.call("gallery", "cards")
    monkeypatch.setattr("runner.rendering.write_gallery", fail)
    said = desk.run(job(desk), "--json")
    assert (said.code, said.summary["done"]) == (0, 2)
    (warned,) = (entry["message"] for entry in said.entries if entry["type"] == "warned")
    assert "gallery" in warned
    assert "nobody foresaw this" in warned


def test_a_gallery_is_not_written_through_a_link(desk: Desk) -> None:
    """As with every folder of a job: said before anything is sent."""
    desk.run(job(desk, prompts=GOOD[:1]))
    desk.call("gallery", "cards")
    folder = desk.folder / "output/cards/gallery"
    folder.symlink_to(folder.rename(desk.folder / "kept"))
    said = desk.run(job(desk))
    assert said.code == 1
    assert "symbolic link" in said.err
    assert desk.requests() == 1


def test_thumbnails_that_cannot_be_made_are_told(desk: Desk) -> None:
    desk.run(job(desk))
    for asset in (desk.folder / "output/cards/images").rglob("*.png"):
        asset.write_bytes(b"no image")
    said = desk.call("gallery", "cards", "--json")
    assert said.code == 0
    assert json.loads(said.out)["thumbnails_failed"] == 2
    assert "2 thumbnails could not be made" in said.err


def test_a_ledger_that_fails_meanwhile_is_told_as_what_it_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as an unexpected error: what several tasks end in is unpacked."""

    def fail(*_: object) -> None:
        raise LedgerError("the ledger is held")

    desk.run(job(desk))
    monkeypatch.setattr(Renditions, "newest_asset", fail)
    said = desk.call("render", job(desk, CARD))
    assert said.code == LedgerError.exit_code
    assert "error: the ledger is held" in said.err
