"""Whole runs that start from images: what is sent, paid, pasted and made again, and what a change on disk does."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw

from runner.engine.renditions import Renderer
from runner.errors import LedgerError
from runner.inputs import pasting
from tests.edges.simulator_support import Peer, running
from tests.engine.command_support import Desk, Said

BOX = [30, 20, 60, 50]
"""What is to be changed of each picture: x, y, width, height."""


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running() as it:
        yield it


@pytest.fixture
def desk(server: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    server.call("POST", "/simulator/faults", {"rules": []}, key=None)
    server.call("POST", "/simulator/reset", key=None)
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for number, colour in enumerate(("tomato", "teal", "gold")):
        picture(tmp_path / f"assets/base-{number}.png", colour)
    picture(tmp_path / "assets/style.jpg", "navy")
    return Desk(tmp_path, server, monkeypatch, capsys)


def picture(path: Path, colour: str, *, size: tuple[int, int] = (128, 128)) -> None:
    """A picture with something in it."""
    path.parent.mkdir(exist_ok=True)
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    ImageDraw.Draw(image).ellipse((size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2), fill=colour)
    image.save(path)


def job(desk: Desk, name: str = "shop", *, feather: int = 4, what: str = "{{ image.stem }}", **more: Any) -> str:
    """Three pictures, each in two prompts, within a box, in the style of a fourth."""
    edit = {"references": ["assets/style.jpg"], "mask": {"box": BOX, "feather": feather}, "composite": True}
    return desk.manifest(
        name,
        [{"id": "one", "text": f"{what} in brass"}, {"id": "two", "text": f"{what} in snow"}],
        edit=edit,
        matrix={"image": ["assets/base-*.png"]},
        output={"name": "{{ image.stem }}/{{ prompt_id }}"},
        **more,
    )


def rows(desk: Desk, query: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(desk.folder / "output/ledger.sqlite3")) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query)]


def pasted(desk: Desk, name: str) -> None:
    """Outside the box the original, inside the answer, at the original's size; on record as it lies there."""
    path = desk.folder / f"output/shop/composites/{name}.png"
    composite = Image.open(path)
    original = Image.open(desk.folder / f"assets/{name.split('/')[0]}.png")
    answer = Image.open(desk.folder / f"output/shop/images/{name}.png").convert("RGB").resize(original.size, 1)
    assert composite.size == original.size
    x, y, width, height = BOX
    outside = ImageChops.difference(composite.convert("RGB"), original)
    outside.paste((0, 0, 0), (x, y, x + width, y + height))
    assert outside.getbbox() is None
    deep = (x + 5, y + 5, x + width - 5, y + height - 5)
    assert composite.convert("RGB").crop(deep).tobytes() == answer.crop(deep).tobytes()
    (row,) = rows(desk, f"SELECT r.* FROM renditions r WHERE path = 'shop/composites/{name}.png'")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]


NAMES = [f"base-{number}/{prompt}" for number in range(3) for prompt in ("one", "two")]


def summary(said: Said) -> dict[str, Any]:
    assert said.code == 0, said.err
    return said.summary


def test_a_bulk_edit_is_made_paid_and_pasted_once(desk: Desk) -> None:
    """Law 3 and law 6: the bill says the same, and a second run neither sends nor pastes anything."""
    told = summary(desk.run(job(desk), "--json"))
    assert (told["made"], told["done"], told["requests"], told["composites"]) == (6, 6, 6, 6)
    bill = desk.peer.bill()
    assert (
        bill["cost_microusd"]
        == told["cost_microusd"]
        == rows(desk, "SELECT sum(cost_microusd) s FROM attempts")[0]["s"]
    )
    assert bill["input_image_tokens"] == rows(desk, "SELECT sum(input_image_tokens) s FROM attempts")[0]["s"] > 0
    for entry in desk.peer.entries():
        assert [each["format"] for each in entry["inputs"]] == ["png", "jpeg"]
        assert entry["mask"] is not None
    for name in NAMES:
        pasted(desk, name)
    again = summary(desk.run(job(desk), "--json"))
    assert (again["requests"], again["composites"], desk.requests()) == (0, 0, 6)


def test_what_is_sent_are_the_very_files(desk: Desk) -> None:
    """Nothing that need not be changed is: the bytes that the bill lists are those on disk."""
    summary(desk.run(job(desk), "--json"))
    ours = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (desk.folder / "assets").iterdir()}
    sent = {each["sha256"] for entry in desk.peer.entries() for each in entry["inputs"]}
    assert sent == ours


def test_the_plan_has_the_inputs_in_its_price_and_the_ledger_corrects_it(desk: Desk) -> None:
    path = job(desk)
    before = desk.call("plan", path, "--json").entries[-1]
    assert before["input_images"] == 12
    made = summary(desk.run(path, "--json"))
    assert made["cost_microusd"] <= before["worst_microusd"]
    with closing(sqlite3.connect(desk.folder / "output/ledger.sqlite3")) as database, database:
        database.execute("UPDATE attempts SET input_image_tokens = input_image_tokens * 2")
    after = desk.call("plan", path, "--json", "--set", "edition=again").entries[-1]
    assert after["expected_microusd"] > before["expected_microusd"] * 1.3
    assert after["worst_microusd"] > before["worst_microusd"] * 1.3


def test_a_renamed_file_makes_nothing_and_a_changed_pixel_makes_its_own_again(desk: Desk) -> None:
    """Law 3. (Where the name is in the prompt, it is another prompt.)"""
    path = job(desk, what="it")
    summary(desk.run(path, "--json"))
    (desk.folder / "assets/base-1.png").rename(desk.folder / "assets/base-9.png")
    told = summary(desk.run(path, "--json"))
    assert (told["requests"], told["done"]) == (0, 6)
    assert (desk.folder / "output/shop/images/base-9/one.png").is_file(), "it has moved to its new name"
    assert (desk.folder / "output/shop/composites/base-9/one.png").is_file()
    assert not list((desk.folder / "output/shop/composites").glob("base-1/*")), "and its composite with it"
    image = Image.open(desk.folder / "assets/base-0.png")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(desk.folder / "assets/base-0.png")
    told = summary(desk.run(path, "--json"))
    assert (told["requests"], told["done"]) == (2, 6)


def test_another_feather_makes_composites_again_and_no_image(desk: Desk) -> None:
    summary(desk.run(job(desk), "--json"))
    told = summary(desk.run(job(desk, feather=0), "--json"))
    assert (told["requests"], told["composites"]) == (0, 6)
    pasted(desk, NAMES[0])
    told = summary(desk.run(job(desk, feather=0), "--json"))
    assert told["composites"] == 0


def test_composites_that_an_earlier_run_did_not_come_to_are_made(desk: Desk) -> None:
    """They are free, and nothing is sent for them."""
    summary(desk.run(job(desk), "--json"))
    with closing(sqlite3.connect(desk.folder / "output/ledger.sqlite3")) as database, database:
        database.execute("DELETE FROM renditions WHERE path LIKE '%base-0/one.png'")
    told = summary(desk.run(job(desk), "--json"))
    assert (told["requests"], told["composites"]) == (0, 1)
    pasted(desk, "base-0/one")


def test_composites_that_were_removed_or_cut_are_made_again(desk: Desk) -> None:
    """Whoever wants them anew has only to delete them."""
    summary(desk.run(job(desk), "--json"))
    folder = desk.folder / "output/shop/composites"
    (folder / "base-0/one.png").unlink()
    (folder / "base-2/two.png").write_bytes(b"cut")
    told = summary(desk.run(job(desk), "--json"))
    assert (told["requests"], told["composites"]) == (0, 2)
    for name in NAMES:
        pasted(desk, name)


def test_an_input_that_is_gone_is_refused_before_anything_is_sent(desk: Desk) -> None:
    """Law 1's other side: what cannot be sent is not put on record either."""
    path = job(desk)
    summary(desk.run(path, "--json", "--limit", "2"))
    (desk.folder / "assets/style.jpg").unlink()
    said = desk.run(path, "--json")
    assert said.code == 2
    assert "style.jpg" in said.err
    assert "shop.yaml:1:" in said.err, "with its line"
    assert desk.requests() == 2


def test_an_input_that_changes_while_the_run_goes_on_ends_it_unpaid(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was planned is what is paid for: another picture under the old name is not sent as if it were it."""
    from runner.engine.pool import Pool

    original = Pool._feed

    async def feed(self: Pool, start: Any) -> None:
        picture(desk.folder / "assets/base-2.png", "white")
        await original(self, start)

    monkeypatch.setattr(Pool, "_feed", feed)
    said = desk.run(job(desk, limits={"concurrency": 1}), "--json")
    assert said.code == 2
    assert "base-2.png has changed" in said.summary["reason"]
    assert "base-2" not in {entry["prompt"].split()[0] for entry in desk.peer.entries()}
    assert rows(desk, "SELECT count(*) n FROM attempts WHERE outcome IS NULL") == [{"n": 0}]
    monkeypatch.undo()


def test_a_composite_that_cannot_be_made_is_told_and_costs_nothing(desk: Desk) -> None:
    """The image is there and paid for; the exit code says that something which was asked for is not."""
    path = job(desk)
    summary(desk.run(path, "--json", "--limit", "5"))
    with closing(sqlite3.connect(desk.folder / "output/ledger.sqlite3")) as database, database:
        database.execute("UPDATE edits SET composite = replace(composite, 'base-0', 'nobody'), digest = 'x' || digest")
    said = desk.run(path, "--json")
    assert said.code == 4
    assert (said.summary["composites_failed"], said.summary["done"]) == (2, 6)
    warned = [entry["message"] for entry in said.entries if entry["type"] == "warned"]
    assert any("nobody" in message for message in warned)


@pytest.mark.parametrize(
    "command",
    [["/nowhere/python"], ["false"], ["sh", "-c", "echo nonsense; cat > /dev/null"], ["sh", "-c", "echo 7; cat"]],
)
def test_no_trouble_with_pasting_ends_a_run(desk: Desk, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Law 3: what is in flight is paid for. A process that cannot be begun, dies, or says nonsense costs composites."""
    monkeypatch.setattr("runner.renditions.worker.COMMAND", command)
    said = desk.run(job(desk, what="{{ image.stem }} [[fault:delay=0.3]]"), "--json")
    assert said.code == 4
    assert (said.summary["done"], said.summary["in_doubt"], said.summary["composites_failed"]) == (6, 0, 6)
    monkeypatch.undo()


@pytest.mark.parametrize("error", [ValueError("nobody foresaw this"), LedgerError("the ledger is held")])
def test_nothing_that_goes_wrong_beside_the_requests_cancels_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Law 3, whatever is broken: six images are made, none is in doubt, and the exit code says that it was not all."""

    async def run(_self: Renderer) -> None:
        raise error

    monkeypatch.setattr(Renderer, "run", run)
    said = desk.run(job(desk), "--json")
    assert (said.code, said.summary["done"], said.summary["in_doubt"]) == (4, 6, 0)
    assert any(str(error) in entry["message"] for entry in said.entries if entry["type"] == "warned")


def test_the_outcome_is_told_in_words(desk: Desk) -> None:
    said = desk.run(job(desk))
    assert said.code == 0
    assert "6 composites were made" in said.out
    plan = desk.call("plan", job(desk), "--set", "edition=x", "--provider", "openai")
    assert "12 input images" in plan.out


def test_composites_are_made_while_the_run_goes_on(desk: Desk) -> None:
    """The first is there long before the last image is: nobody waits for all of them at the end."""
    slow = "{{ image.stem }} [[fault:delay=0.6]]"
    summary(desk.run(job(desk, what=slow, limits={"concurrency": 1}), "--json"))
    (log,) = (desk.folder / "output/shop/logs").iterdir()
    kinds = [json.loads(line)["type"] for line in log.read_text().splitlines()]
    assert kinds.index("composed") < len(kinds) - 1 - kinds[::-1].index("saved")


def test_an_export_says_what_each_image_was_made_from(desk: Desk) -> None:
    summary(desk.run(job(desk), "--json"))
    lines = desk.call("export", "shop", "--format", "jsonl").entries
    assert [(line["inputs"], line["mask"], line["composite"]) for line in lines if line["prompt_id"] == "one"] == [
        ([f"assets/base-{n}.png", "assets/style.jpg"], f"box {BOX}", f"shop/composites/base-{n}/one.png")
        for n in range(3)
    ]
    assert all(line["input_image_tokens"] > 0 for line in lines)
    text = desk.call("export", "shop").out
    assert "assets/base-0.png|assets/style.jpg" in text


def test_the_log_has_each_composite(desk: Desk) -> None:
    summary(desk.run(job(desk), "--json"))
    (log,) = (desk.folder / "output/shop/logs").iterdir()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["path"] for line in lines if line["type"] == "composed"} == {
        f"shop/composites/{name}.png" for name in NAMES
    }


def test_another_job_takes_over_an_edit_and_pastes_its_own(desk: Desk) -> None:
    """The same request from the same pictures under other names, in another job: nothing is paid for it."""
    summary(desk.run(job(desk), "--json"))
    (desk.folder / "assets").rename(desk.folder / "pictures")
    text = Path(job(desk, "other")).read_text().replace("assets/", "pictures/")
    (desk.folder / "other.yaml").write_text(text)
    told = summary(desk.run("other.yaml", "--json"))
    assert (told["requests"], told["reused"], told["composites"]) == (0, 6, 6)


def test_a_worker_says_what_is_wrong_and_goes_on(desk: Desk) -> None:
    """One process pastes many: a bad one must not spoil what follows it."""
    import subprocess

    from runner.inputs import Inputs, Mask
    from runner.renditions import worker

    answer = desk.folder / "assets/base-1.png"
    recipe = Inputs(desk.folder).composite("assets/base-0.png", Mask(box=(1, 2, 30, 40)))
    good = worker.pasting(desk.folder, recipe, answer)
    questions = [worker.pasting(desk.folder, "nonsense", answer), b"[]\n", good]
    told = subprocess.run(worker.COMMAND, input=b"".join(questions), capture_output=True, check=True).stdout
    first, second, head, data = told.split(b"\n", 3)
    assert "cannot be read" in json.loads(first)["error"]
    assert "error" in json.loads(second)
    assert json.loads(head) == {"bytes": [len(data)]}
    assert data == pasting.paste(desk.folder, recipe, answer)
