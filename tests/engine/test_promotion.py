"""Finalists made again: what is asked for, what it may cost, and that it stands beside what it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.ledger import Ledger, NewChoice, Tile
from tests.engine.command_support import Desk, Said

PROMPTS = ["A lighthouse at dusk", 'Words {{ like }} these {% raw %} "and" <b>so</b>', "Ein Café, نص عربي"]
HIGH = ("--quality", "high")


def sweep(desk: Desk, **more: Any) -> list[Tile]:
    """Three prompts in two qualities, made; their tiles."""
    prompts = [{"id": f"p{n}", "text": "{{ words }}", "vars": {"words": text}} for n, text in enumerate(PROMPTS)]
    settings = {"size": "1024x1024"}
    manifest = desk.manifest("sweep", prompts, matrix={"quality": ["low", "medium"]}, settings=settings, **more)
    assert desk.run(manifest).code == 0
    return tiles(desk, "sweep")


def tiles(desk: Desk, name: str) -> list[Tile]:
    with ledger(desk) as it:
        job = it.job(name)
        assert job is not None
        with it.tiles(job) as stream:
            return list(stream)


def ledger(desk: Desk) -> Ledger:
    return Ledger.open(desk.folder / "output/ledger.sqlite3", create=True)


def promote(desk: Desk, *arguments: str) -> Said:
    return desk.call("promote", "sweep", *desk.to_peer, *arguments)


def pick(*some: Tile) -> list[str]:
    return [word for tile in some for word in ("--pick", tile.key[:10])]


def sent(desk: Desk) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = desk.peer.entries()
    return entries


def test_a_pick_is_made_again_on_another_model_and_linked(desk: Desk) -> None:
    """The very prompt, whatever is in it, once for each request that it comes to; the ledger knows its origins."""
    made = sweep(desk)
    asked = desk.requests()
    said = promote(desk, *pick(made[0], made[1], made[2], made[4]), *HIGH, "--model", "gpt-image-2", "--json")
    assert said.code == 0
    assert said.entries[0]["type"] == "promotion"
    name = said.entries[0]["job"]
    assert name == "sweep-gpt-image-2-high"
    assert (said.summary["done"], said.summary["requests"]) == (3, 3)
    assert desk.requests() == asked + 3
    finals = tiles(desk, name)
    assert [tile.prompt for tile in finals] == PROMPTS
    assert {(tile.model, tile.quality, tile.size) for tile in finals} == {("gpt-image-2", "high", "1024x1024")}
    with ledger(desk) as it:
        job = it.job(name)
        assert job is not None
        links = [(one.task_id, one.other_task) for one in it.relatives(job)]
    assert links == [
        (finals[0].task_id, made[0].task_id),
        (finals[0].task_id, made[1].task_id),
        (finals[1].task_id, made[2].task_id),
        (finals[2].task_id, made[4].task_id),
    ]


def test_again_pays_nothing_and_more_picks_join_those_before(desk: Desk) -> None:
    """Law 3; and what was promoted before stays wanted."""
    made = sweep(desk)
    promote(desk, *pick(made[0]), *HIGH)
    asked = desk.requests()
    said = promote(desk, *pick(made[0]), *HIGH, "--json")
    assert (said.code, said.summary["requests"], desk.requests()) == (0, 0, asked)
    said = promote(desk, *pick(made[3]), *HIGH, "--json")
    assert (said.code, said.summary["done"], said.summary["requests"]) == (0, 2, 1)
    assert len(tiles(desk, "sweep-high")) == 2


def test_winners_and_stars_are_made_again(desk: Desk) -> None:
    made = sweep(desk)
    with ledger(desk) as it:
        job = it.job("sweep")
        assert job is not None
        for n in range(2):
            choice = NewChoice("a", made[2 * n].task_id, made[2 * n + 1].task_id, "right", None, False, f"pair {n}")
            it.reviews.add(job, choice, now_ms=1)
        it.reviews.add(job, NewChoice("a", made[4].task_id, None, "stars", 4, False, "star"), now_ms=1)
    said = promote(desk, "--winners", *HIGH, "--plan", "--json")
    assert said.entries[0]["chosen"] == [made[1].key, made[3].key]
    said = promote(desk, "--winners", "--top", "1", *HIGH, "--plan", "--json")
    assert len(said.entries[0]["chosen"]) == 1
    said = promote(desk, "--min-stars", "3.5", *HIGH, "--json")
    assert said.entries[0]["chosen"] == [made[4].key]
    assert said.summary["done"] == 1


def test_a_plan_sends_and_keeps_nothing(desk: Desk) -> None:
    made = sweep(desk)
    asked = desk.requests()
    said = promote(desk, *pick(made[0]), *HIGH, "--plan")
    assert said.code == 0
    assert "sweep-high: 1 image of sweep" in said.out
    assert "expected $" in said.out
    assert desk.requests() == asked
    assert list((desk.folder / "output/sweep/promotions").iterdir()) == []
    with ledger(desk) as it:
        assert it.job("sweep-high") is None


def test_the_price_is_shown_before_anything_is_sent_and_the_budget_holds(desk: Desk) -> None:
    """Law 4: the origin's cap, or the one that is given; at the cap it ends with 5."""
    made = sweep(desk, budget={"usd": 1, "per": "job"})
    said = promote(desk, *pick(*made), *HIGH, "--budget", "0.25")
    assert said.code == 5
    assert said.out.index("expected $") < said.out.index("budget")
    finals = tiles(desk, "sweep-high")
    done = [tile for tile in finals if tile.path is not None]
    assert len(done) == 1
    assert sum(tile.cost_microusd for tile in finals) <= 250_000
    assert "usd: 1" in (desk.folder / "output/sweep/promotions/sweep-high.yaml").read_text()
    # It is a job like any other: resumed by its name.
    said = desk.run("sweep-high", "--json")
    assert (said.code, said.summary["done"]) == (0, 3)


def test_the_chosen_image_is_sent_along_when_it_is_to_be_edited(desk: Desk) -> None:
    made = sweep(desk)
    asked = len(sent(desk))
    said = promote(desk, *pick(made[0], made[1]), "--as-edit", *HIGH, "--json")
    assert (said.code, said.summary["done"]) == (0, 2)
    edits = sent(desk)[asked:]
    assert [entry["endpoint"] for entry in edits] == ["edits"] * 2


def test_what_would_be_made_as_it_is_is_refused(desk: Desk) -> None:
    made = sweep(desk)
    said = promote(desk, *pick(made[0]))
    assert said.code == 2
    assert "exactly as it is" in said.err
    assert "--quality" in said.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--winners"], "nothing of 'sweep' is chosen yet"),
        (["--pick", "ffffffffff"], "ffffffffff"),
        ([], "--winners, --min-stars N, or --pick"),
        (["--winners", "--min-stars", "3"], "--winners, --min-stars N, or --pick"),
        (["--pick", "p0/1024x1024-low-1.png", "--name", "sweep"], "another --name"),
        (["--pick", "p0/1024x1024-low-1.png", "--name", "a/b"], "a/b"),
        (["--pick", "p0/1024x1024-low-1.png", "--name", "../up"], "../up"),
        (["--pick", "p0/1024x1024-low-1.png", "--model", "gpt-image-9"], "gpt-image-9"),
        (["--pick", "p0/1024x1024-low-1.png", "--size", "7x7"], "7x7"),
    ],
)
def test_what_cannot_be_promoted_is_said_and_nothing_is_sent(desk: Desk, arguments: list[str], told: str) -> None:
    sweep(desk)
    asked = desk.requests()
    said = promote(desk, *arguments, *HIGH)
    assert (said.code, desk.requests()) == (2, asked)
    assert told in said.err
    assert "Traceback" not in said.err
    assert list(desk.folder.rglob("up*")) == []
    assert not (desk.folder / "output/sweep/promotions/a").exists()
    assert [path for path in desk.files() if path.suffix == ".yaml"] == []


def test_simulated_choices_are_not_made_again_for_money_by_an_oversight(desk: Desk) -> None:
    manifest = desk.manifest("sweep", ["A fox"])
    assert desk.call("run", manifest, "--provider", "simulator").code == 0
    (tile,) = tiles(desk, "sweep")
    asked = desk.requests()
    said = promote(desk, *pick(tile), *HIGH)
    assert (said.code, desk.requests()) == (2, asked)
    assert "for money" in said.err


def test_the_galleries_show_both_sides(desk: Desk) -> None:
    """The origin's page is brought up to date, and the new job has one, because the origin has."""
    made = sweep(desk)
    desk.call("gallery", "sweep")
    said = promote(desk, *pick(made[0]), *HIGH, "--json")
    assert (said.code, said.summary["done"]) == (0, 1)
    assert [entry["type"] for entry in said.entries].count("summary") == 1
    before = (desk.folder / "output/sweep/gallery/index.html").read_text()
    after = (desk.folder / "output/sweep-high/gallery/index.html").read_text()
    (final,) = tiles(desk, "sweep-high")
    assert final.path is not None
    assert made[0].path is not None
    assert f"../../{final.path}" in before
    assert f"../../{made[0].path}" in after


def test_a_promotion_whose_origin_is_gone_is_run_and_told(desk: Desk) -> None:
    manifest = {
        "name": "finals",
        "model": "gpt-image-2",
        "prompts": [{"id": "a", "text": "A fox"}],
        "settings": {"size": "1024x1024", "quality": "low"},
        "promotion": {"job": "gone", "origins": {"a": ["0" * 64]}},
    }
    path = Path(desk.folder / "finals.yaml")
    path.write_text(json.dumps(manifest))
    said = desk.run(str(path), "--json")
    assert (said.code, said.summary["done"]) == (0, 1)
    assert any("not on record in gone" in entry["message"] for entry in said.entries if entry["type"] == "warned")
