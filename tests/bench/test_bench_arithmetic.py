"""The benchmark's own arithmetic: what it enforces, draws, counts and judges. Nothing here is measured."""

from __future__ import annotations

import io
import math
import random
import struct
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles

import pytest
from PIL import Image

from tests.bench.latency import P50_S, P95_S, Latency
from tests.bench.part_limiter import used
from tests.bench.picture import SIDE, png
from tests.bench.report import BEYOND, MET, MISSED, Bar, Section, ratio, ratio_text, write
from tests.bench.windows import KINDS, Bucket, Fixed, Sliding, Window, admit


def impatient(window: Window, seconds: float, *, every_s: float) -> list[float]:
    """The instants at which a window lets through somebody who never stops asking."""
    instants = (step * every_s for step in range(round(seconds / every_s)))
    return [at for at in instants if admit([(window, 1.0)], at)[0] == 0]


def test_no_stretch_of_a_sliding_window_lets_through_more_than_its_share_and_each_its_whole_share() -> None:
    """Wherever a stretch of 2 s begins, 20 of 600 a minute pass: not 21, and over time not fewer."""
    passed = impatient(Sliding(600, 2), 12, every_s=0.01)
    assert max(sum(start < at <= start + 2 - 1e-6 for at in passed) for start in passed) <= 20
    assert len(passed) == 120


def test_a_fixed_window_begins_anew_and_so_lets_two_shares_pass_around_its_edge() -> None:
    """That is what a limiter which spreads its requests never needs."""
    window = Fixed(600, 2)
    late = [at for at in (1.9 + step * 0.001 for step in range(200)) if admit([(window, 1.0)], at)[0] == 0]
    assert sum(at < 2 for at in late) == 20
    assert sum(at >= 2 for at in late) == 20


def test_a_bucket_is_full_at_first_and_then_fills_at_the_rate() -> None:
    """20 at once, then 10 in each second, and after an hour of nothing no more than 20 at once."""
    bucket = Bucket(600, 2)
    assert sum(admit([(bucket, 1.0)], 0.0)[0] == 0 for _ in range(50)) == 20
    assert len(impatient(bucket, 10, every_s=0.01)) in range(98, 101)
    assert sum(admit([(bucket, 1.0)], 3600.0)[0] == 0 for _ in range(50)) == 20


@pytest.mark.parametrize("kind", KINDS.values())
def test_a_refusal_says_when_the_request_will_fit(kind: Callable[[float, float], Window]) -> None:
    """Just before that instant it is refused again, at that instant it passes; what never fits waits for ever."""
    window = kind(600, 1)
    dice, now = random.Random(5), 0.0
    for _ in range(300):
        wait_s = window.wait_s(now, 1.0)
        if wait_s > 0:
            assert window.wait_s(now + wait_s - 1e-4, 1.0) > 0
            now += wait_s + 1e-6
            assert window.wait_s(now, 1.0) == 0
        window.book(now, 1.0)
        now += dice.random() * 0.05
    assert window.wait_s(now, 11.0) == math.inf


def test_a_request_that_one_window_refuses_is_booked_in_none() -> None:
    """Images and tokens are one decision; the answer names the window that refuses."""
    images, tokens = Sliding(600, 1), Sliding(6000, 1)
    assert admit([(images, 1.0), (tokens, 90.0)], 0.0) == (0.0, 0)
    wait_s, index = admit([(images, 1.0), (tokens, 90.0)], 0.25)
    assert wait_s == pytest.approx(0.75)
    assert index == 1
    assert sum(admit([(images, 1.0)], 0.3)[0] == 0 for _ in range(20)) == 9


def test_latencies_have_the_median_and_the_95th_percentile_that_were_asked_for() -> None:
    """18 s and 46 s, scaled down; a fixed latency is that one."""
    latency, dice = Latency.scaled(1 / 50), random.Random(3)
    cuts = quantiles([latency.draw(dice) for _ in range(20_000)], n=100)
    assert cuts[49] == pytest.approx(P50_S / 50, rel=0.03)
    assert cuts[94] == pytest.approx(P95_S / 50, rel=0.05)
    assert Latency.fixed(0.2).draw(dice) == 0.2


@pytest.mark.parametrize("size_bytes", [31_000, 1_500_000, 3_000_000])
def test_the_picture_is_a_whole_png_of_the_size_that_was_asked_for(size_bytes: int) -> None:
    """Pillow checks its checksums and decodes it; its data lies in several chunks, and ends with IEND."""
    image = png(size_bytes)
    assert abs(len(image) - size_bytes) < 4000
    with Image.open(io.BytesIO(image)) as checked:
        checked.verify()
    with Image.open(io.BytesIO(image)) as opened:
        opened.load()
        assert opened.size == (SIDE, SIDE)
    kinds, at = [], 8
    while at < len(image):
        (length,) = struct.unpack_from(">I", image, at)
        kinds.append(image[at + 4 : at + 8])
        at += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    assert kinds[1:-1] == [b"IDAT"] * (len(kinds) - 2)
    assert size_bytes < 100_000 or len(kinds) > 10


def steady(per_s: float, seconds: float, *, burst: int = 0) -> dict[str, object]:
    """What a server saw that was asked at an even pace, after a burst."""
    accepted = [100.0] * burst + [100 + number / per_s for number in range(1, round(per_s * seconds) + 1)]
    return {"accepted": accepted, "last_begun": accepted[-1]}


def test_the_use_of_a_limit_is_what_passed_after_the_first_window() -> None:
    """An even pace at the limit uses all of it, at half of it half, and a burst at the start counts for nothing."""
    assert used(steady(10, 30), per_minute=600, window_s=1) == pytest.approx(100, abs=0.5)
    assert used(steady(5, 30), per_minute=600, window_s=1) == pytest.approx(50, abs=0.5)
    assert used(steady(5, 30, burst=500), per_minute=600, window_s=1) == pytest.approx(50, abs=0.5)
    assert used(steady(10, 30), per_minute=600, window_s=60) is None


def test_a_pace_at_the_limit_is_not_taken_for_more_than_the_limit() -> None:
    """Wherever between two images the first window ends: over all of these places it comes to 100 %."""
    found = [used(steady(10, 30), per_minute=600, window_s=5 + part / 100) for part in range(10)]
    assert sum(share or 0.0 for share in found) / len(found) == pytest.approx(100, abs=0.05)


def test_the_use_of_a_limit_ends_with_the_last_task_that_was_begun() -> None:
    """Stragglers that come after it (a task that had to wait) take nothing from the use."""
    stats = steady(10, 30)
    last = stats["last_begun"]
    assert isinstance(last, float)
    accepted = stats["accepted"]
    assert isinstance(accepted, list)
    accepted += [last + 1 + late for late in range(50)]
    assert used(stats, per_minute=600, window_s=1) == pytest.approx(100, abs=0.5)


def test_a_verdict_is_what_the_bar_says_in_either_direction() -> None:
    """At the bar is over it; a figure that must be large fails when it is small."""
    low, high = Bar(0.8, 0.55), Bar(98, 99.5, " %", at_most=False)
    assert [low.verdict(value) for value in (0.81, 0.8, 0.55)] == [MISSED, MET, BEYOND]
    assert [high.verdict(value) for value in (97.9, 98, 99.5)] == [MISSED, MET, BEYOND]
    assert Bar(300).verdict(1) == MET
    assert high.cells(99) == ["≥ 98 %", "≥ 99.5 %", MET]


def test_a_ratio_is_that_of_the_medians_and_tells_how_it_varied() -> None:
    """One round that went wrong changes the spread and not the ratio."""
    assert ratio([1, 2, 90], [4, 4, 5]) == 0.5
    assert ratio_text([1, 2, 90], [4, 4, 5]) == "0.50 (0.25 to 18.00)"
    assert ratio_text([1], [2]) == "0.50"


def test_a_table_takes_the_place_of_the_one_before_and_of_nothing_else(tmp_path: Path) -> None:
    """A part that was measured again changes its own table; a page without a place for it is an error."""
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- bench:one -->\nold\n<!-- /bench:one -->\nb\n<!-- bench:two -->\nkept\n<!-- /bench:two -->\n"
    )
    section = Section("one", "One", ("case", "figure"), [("x", r"1\2")], ["note"])
    write(page, section)
    write(page, section)
    text = page.read_text()
    assert text.count("| x | 1\\2 |") == 1
    assert "old" not in text
    assert text.startswith("a\n<!-- bench:one -->\n### One\n\nnote\n\n| case | figure |\n| --- | --- |\n")
    assert text.endswith("b\n<!-- bench:two -->\nkept\n<!-- /bench:two -->\n")
    with pytest.raises(ValueError, match="no markers for three"):
        write(page, Section("three", "Three", ()))
