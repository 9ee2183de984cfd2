"""Who goes on: winners, those with stars, those that a person names, and how many of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import InputError
from runner.report.finalists import finalists
from tests.edges.ledger_support import change
from tests.engine.review_support import Panel, open_panel


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Panel]:
    with open_panel(tmp_path) as opened:
        opened.make_all(but=["p2/medium-photo-1.png"])
        yield opened


def _names(panel: Panel, **ways: object) -> list[str]:
    found = finalists(panel.house.ledger, panel.house.job, **ways)  # type: ignore[arg-type]  # its own arguments
    return [tile.name.removesuffix("-1.png") for tile in found]


def _key(panel: Panel, name: str) -> str:
    with panel.house.ledger.tiles(panel.house.job, [panel.task(name)]) as tiles:
        return next(tiles).key


def test_the_winner_of_a_prompt_has_the_best_record(panel: Panel) -> None:
    """Wins minus losses, and at least one win: a prompt whose images only tied has no winner."""
    panel.choose("p0/low-ink-1", "p0/low-photo-1")
    panel.choose("p0/low-ink-1", "p0/medium-ink-1")
    panel.choose("p0/medium-ink-1", "p0/medium-photo-1")
    panel.choose("p1/medium-photo-1", "p1/medium-ink-1", "right")
    panel.choose("p2/low-ink-1", "p2/low-photo-1", "both")
    assert _names(panel, winners=True) == ["p0/low-ink", "p1/medium-ink"]


def test_equal_records_are_decided_by_the_variants_strength_and_then_by_order(panel: Panel) -> None:
    """Two with one win each: the one whose variant does better elsewhere; among equal ones the first."""
    panel.choose("p0/low-ink-1", "p0/low-photo-1")
    panel.choose("p0/medium-photo-1", "p0/medium-ink-1")
    assert _names(panel, winners=True) == ["p0/low-ink"]
    panel.choose("p1/medium-photo-1", "p1/medium-ink-1")
    assert _names(panel, winners=True) == ["p0/medium-photo", "p1/medium-photo"]


def test_enough_stars(panel: Panel) -> None:
    """By the mean over people, the limit itself included."""
    panel.star("p0/low-ink-1", 5)
    panel.star("p0/low-ink-1", 2, by="Bo")
    panel.star("p1/low-ink-1", 3)
    panel.star("p1/medium-ink-1", 4)
    assert _names(panel, min_stars=3.5) == ["p0/low-ink", "p1/medium-ink"]
    assert _names(panel, min_stars=3.6) == ["p1/medium-ink"]
    assert _names(panel, min_stars=3.0, top=2) == ["p0/low-ink", "p1/medium-ink"]


def test_top_keeps_the_best_in_the_manifests_order(panel: Panel) -> None:
    """The best records of all prompts; told in the order of the manifest."""
    for other in ("low-photo", "medium-ink"):
        panel.choose("p1/low-ink-1", f"p1/{other}-1")
    panel.choose("p0/low-ink-1", "p0/low-photo-1")
    for other in ("low-photo", "medium-ink"):
        panel.choose("p2/low-ink-1", f"p2/{other}-1")
    assert _names(panel, winners=True, top=2) == ["p1/low-ink", "p2/low-ink"]


def test_picks_by_id_and_by_name(panel: Panel) -> None:
    """The head of a key in either case, or the file's name; each once, beside what else is chosen."""
    panel.star("p2/low-ink-1", 5)
    picks = [_key(panel, "p1/low-ink-1")[:10].upper(), "p0/medium-ink-1.png", _key(panel, "p1/low-ink-1")]
    assert _names(panel, picks=picks, min_stars=5) == ["p0/medium-ink", "p1/low-ink", "p2/low-ink"]
    assert _names(panel, picks=picks, top=1) == ["p1/low-ink"]


def test_a_pick_that_cannot_be_told_is_refused(panel: Panel) -> None:
    """Unknown, too short, of several, or not done: each says what to do instead."""
    first, second = panel.task("p0/low-ink-1"), panel.task("p1/low-ink-1")
    for task_id, rest in ((first, "0"), (second, "1")):
        key = f"abcdef0123{rest * 54}"
        change(panel.house.ledger, "UPDATE tasks SET key = ? WHERE id = ?", key, task_id)
    for pick, told, hint in (
        ("ffff000011", "wants no image", "gallery shows"),
        ("abc", "too short", "at least 4 digits"),
        ("abcdef0123", "names several images: abcdef0123000000 (p0/low-ink-1.png), abcdef0123111111", "more digits"),
        ("p2/medium-photo-1.png", "is planned", "runner run"),
        ("p9/none.png", "wants no image", "file name"),
    ):
        with pytest.raises(InputError) as caught:
            _names(panel, picks=[pick])
        assert told in caught.value.message
        assert hint in (caught.value.hint or "")
    assert _names(panel, picks=["abcdef01230"]) == ["p0/low-ink"]


def test_a_changed_image_wins_nothing(panel: Panel) -> None:
    """Choices of what was another image are left out here too."""
    panel.choose("p0/low-ink-1", "p0/low-photo-1")
    panel.replace("p0/low-ink-1")
    assert _names(panel, winners=True) == []
