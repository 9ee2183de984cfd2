"""What choices come to: which of them count, and for what."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.report.results import Contest, results
from runner.rules.ranking import Tally
from tests.edges.ledger_support import NOW_MS, change, enrolled
from tests.engine.command_support import Desk
from tests.engine.review_support import Panel, open_panel, sweep


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Panel]:
    with open_panel(tmp_path) as opened:
        opened.make_all()
        yield opened


def _contest(panel: Panel, axis: str) -> Contest:
    return next(each for each in results(panel.house.ledger, panel.house.job).contests if each.axis == axis)


def test_a_verdict_counts_for_each_axis_in_which_the_two_differ(panel: Panel) -> None:
    """Wins, losses and ties for each axis, whichever image was on which side."""
    panel.choose("p0/medium-ink-1", "p0/low-ink-1", "left")
    panel.choose("p1/low-ink-1", "p1/medium-ink-1", "right")
    panel.choose("p2/low-ink-1", "p2/medium-ink-1", "left")
    panel.choose("p0/low-photo-1", "p0/medium-photo-1", "both")
    panel.choose("p1/low-photo-1", "p1/medium-photo-1", "neither")
    panel.choose("p2/low-ink-1", "p2/medium-photo-1", "right")
    quality, style = _contest(panel, "quality"), _contest(panel, "style")
    assert (quality.a, quality.b, quality.tally) == ("medium", "low", Tally(3, 1, 2))
    assert (style.a, style.b, style.tally) == ("photo", "ink", Tally(1, 0, 0))
    assert quality.tally.win_rate == 0.75


def test_the_price_is_the_difference_of_means(panel: Panel) -> None:
    """Of all done images with each value, judged or not; not of those that were free."""
    panel.choose("p0/medium-ink-1", "p0/low-ink-1")
    assert _contest(panel, "quality").difference_microusd == pytest.approx(6_000)
    # One that was taken over from another job has cost nothing here, and must not make its value look cheap.
    change(panel.house.ledger, "UPDATE attempts SET cost_microusd = 0 WHERE task_id = ?", panel.task("p1/low-ink-1"))
    assert _contest(panel, "quality").difference_microusd == pytest.approx(6_000)


def test_only_the_newest_word_of_a_person_counts(panel: Panel) -> None:
    """Of the same pair, whichever way round; another person's counts beside it."""
    panel.choose("p0/medium-ink-1", "p0/low-ink-1", "left")
    panel.choose("p0/low-ink-1", "p0/medium-ink-1", "left")
    panel.choose("p0/low-ink-1", "p0/medium-ink-1", "left", by="Bo")
    panel.star("p0/low-ink-1", 1)
    panel.star("p0/low-ink-1", 4)
    found = results(panel.house.ledger, panel.house.job)
    assert _contest(panel, "quality").tally == Tally(2, 0, 0)
    assert (found.verdicts, found.stars, found.repeated) == (2, 1, 2)
    assert found.value_stars["quality", "low"].mean == 4


def test_what_is_undone_or_changed_or_unwanted_is_left_out(panel: Panel) -> None:
    """And what was left out is counted, but for what a person took back."""
    panel.choose("p0/medium-ink-1", "p0/low-ink-1")
    panel.choose("p1/medium-ink-1", "p1/low-ink-1")
    panel.choose("p2/medium-ink-1", "p2/low-ink-1")
    panel.choose("p2/medium-photo-1", "p2/low-photo-1")
    ledger = panel.house.ledger
    ledger.reviews.undo(panel.house.job, "Ann", now_ms=NOW_MS)
    panel.replace("p0/low-ink-1")
    found = results(ledger, panel.house.job)
    assert (found.verdicts, found.left_out) == (2, 1)
    job = enrolled(ledger, sweep(2), name="sweep", digest="smaller")
    found = results(ledger, job)
    assert (found.verdicts, found.left_out) == (1, 2)


def test_stars_are_means_by_value_and_variant(panel: Panel) -> None:
    """Each person's stars count once for each image."""
    panel.star("p0/low-ink-1", 2)
    panel.star("p1/low-ink-1", 5)
    panel.star("p0/medium-photo-1", 4)
    panel.star("p0/low-ink-1", 4, by="Bo")
    found = results(panel.house.ledger, panel.house.job)
    told = {key: (each.mean, each.count) for key, each in found.value_stars.items()}
    assert told == {
        ("quality", "low"): (pytest.approx(11 / 3), 3),
        ("quality", "medium"): (4, 1),
        ("style", "ink"): (pytest.approx(11 / 3), 3),
        ("style", "photo"): (4, 1),
    }
    assert {tuple(dict(v).values()): each.count for v, each in found.variant_stars.items()} == {
        ("medium", "photo"): 1,
        ("low", "ink"): 3,
    }
    assert found.as_dict()["tile_stars"] == {
        str(panel.task("p0/low-ink-1")): 3.0,
        str(panel.task("p1/low-ink-1")): 5.0,
        str(panel.task("p0/medium-photo-1")): 4.0,
    }


def test_agreement_is_over_pairs_that_two_people_judged(panel: Panel) -> None:
    """Each two of them once, by which image won, not by which side."""
    for by, verdict in (("Ann", "left"), ("Bo", "left"), ("Cy", "right")):
        panel.choose("p0/medium-ink-1", "p0/low-ink-1", verdict, by=by)  # type: ignore[arg-type]  # a verdict
    panel.choose("p1/medium-ink-1", "p1/low-ink-1", "left", by="Ann")
    panel.choose("p1/low-ink-1", "p1/medium-ink-1", "right", by="Bo")
    panel.choose("p2/low-ink-1", "p2/medium-ink-1", "both", by="Bo")
    found = results(panel.house.ledger, panel.house.job)
    assert found.agreement == (4, 2)
    assert [(one.name, one.verdicts) for one in found.people] == [("Ann", 2), ("Bo", 3), ("Cy", 1)]
    alone = results(panel.house.ledger, panel.house.job, reviewer="Cy")
    assert (alone.verdicts, alone.agreement) == (1, (0, 0))


def test_the_ranking_is_of_variants_over_all_prompts(panel: Panel) -> None:
    """Prompt and sample are no part of a variant; every verdict between two of them counts."""
    for prompt in range(3):
        panel.choose(f"p{prompt}/medium-ink-1", f"p{prompt}/low-ink-1")
        panel.choose(f"p{prompt}/medium-photo-1", f"p{prompt}/medium-ink-1")
    ranking = results(panel.house.ledger, panel.house.job).ranking
    assert [(dict(each.item), each.tally) for each in ranking] == [
        ({"quality": "medium", "style": "photo"}, Tally(3, 0, 0)),
        ({"quality": "medium", "style": "ink"}, Tally(3, 3, 0)),
        ({"quality": "low", "style": "ink"}, Tally(0, 3, 0)),
    ]


@pytest.mark.parametrize(
    ("tally", "difference", "sentence"),
    [
        (Tally(41, 17), 6_000.0, "quality=medium beats low 71 % (58-81 %, n=58), +$0.006 an image"),
        (Tally(41, 17, 6), -6_000.0, "quality=medium beats low 71 % (58-81 %, n=58, 6 ties), -$0.006 an image"),
        (Tally(3, 2), None, "quality: no difference shown, medium over low 60 % (23-88 %, n=5)"),
        (Tally(0, 0, 2), None, "quality: no difference shown between medium and low (n=0, 2 ties)"),
        (Tally(2000, 0), None, "quality=medium beats low 100 % (100-100 %, n=2000)"),
    ],
)
def test_the_sentence(tally: Tally, difference: float | None, sentence: str) -> None:
    """What beats what, by how much, how sure that is, and what it costs; or that nothing is shown."""
    assert Contest("quality", "medium", "low", tally, difference).sentence() == sentence


def test_the_command_tells_it_as_a_table_and_as_lines(panel: Panel, desk: Desk) -> None:
    """Both from the same figures; JSON lines have a `type` each, and nothing that JSON does not know."""
    for prompt in range(3):
        panel.choose(f"p{prompt}/medium-ink-1", f"p{prompt}/low-ink-1")
    panel.star("p0/low-ink-1", 3, by="Bo\u202e")
    place = ("--output", str(panel.house.output))
    said = desk.call("results", "sweep", *place)
    assert said.code == 0
    assert "quality: no difference shown, medium over low 100 % (44-100 %, n=3), +$0.006 an image" in said.out
    assert "4 choices by Ann (3), Bo· (1)" in said.out
    lines = desk.call("results", "sweep", "--json", *place).entries
    types = [
        "results",
        *["reviewer"] * 2,
        "axis_result",
        *["variant_result"] * 2,
        *["value_stars"] * 2,
        "variant_stars",
    ]
    assert [line["type"] for line in lines] == types
    assert lines[3]["win_rate"] == 1.0
    assert lines[3]["difference_usd"] == pytest.approx(0.006)
    assert desk.call("results", "sweep", "--reviewer", "Ann", "--json", *place).entries[0]["choices"] == 3


def test_nothing_chosen_is_said_so(panel: Panel, desk: Desk) -> None:
    """A table of nothing would leave its reader guessing."""
    said = desk.call("results", "sweep", "--output", str(panel.house.output))
    assert (said.code, said.out) == (0, "sweep: nothing has been chosen yet: runner review sweep\n")
    said = desk.call("results", "sweep", "--reviewer", " Bo  Lee", "--output", str(panel.house.output))
    assert (said.code, said.out) == (0, "sweep: Bo Lee has chosen nothing yet: runner review sweep\n")
    assert desk.call("results", "sweep", "--reviewer", "\u202e", "--output", str(panel.house.output)).code == 2
    assert desk.call("results", "absent", "--output", str(panel.house.output)).code == 2


def test_everything_is_json(panel: Panel) -> None:
    """Neither infinity nor NaN, in any corner: the page reads it strictly."""
    panel.choose("p0/medium-ink-1", "p0/low-ink-1", "neither")
    told = results(panel.house.ledger, panel.house.job).as_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["axes"][0]["win_rate"] is None
    assert not math.isnan(told["ranking"][0]["chance"])


def test_a_stream_of_images_that_is_left_half_way_holds_no_snapshot(panel: Panel) -> None:
    """Whoever reads next sees what was written since, also while the one who left still holds the stream."""
    ledger, job = panel.house.ledger, panel.house.job
    with ledger.tiles(job) as left_half_way:
        assert next(left_half_way).quality == "low"
    panel.choose("p0/medium-ink-1", "p0/low-ink-1")
    assert results(ledger, job).verdicts == 1
    assert next(left_half_way, None) is None
