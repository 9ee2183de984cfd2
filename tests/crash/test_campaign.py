"""All laws at once, over many seeds: the crash campaign that `make crash` runs for minutes, for half a minute."""

from __future__ import annotations

from pathlib import Path

from tests.crash.campaign import campaign

KILLS, SEED = 22, 6


def test_no_law_is_broken_by_a_short_campaign(tmp_path: Path) -> None:
    """Jobs of the dice, killed at named steps and at random instants, in recovery too, then resumed to their end.

    After each kill, and at each end: nothing done is asked for again, what was in flight is adopted or on record as in
    doubt, every image lies there once and as it was served, no cap is passed, and the ledger agrees with the bill.
    """
    told: list[str] = []
    totals = campaign(KILLS, SEED, tell=told.append, keep=tmp_path, peers=("small", "medium"))
    assert not totals.failed, "\n".join(told)
    assert totals.kills >= KILLS
    # It was no idle walk: images were under way at the kills, and some were saved from them.
    assert totals.counts["in flight at kills"] >= KILLS / 2
    assert totals.counts["batches"] > 0
    assert totals.counts["adopted"] > 0
    assert totals.counts["repeated"] > 0
    assert totals.by_phase["making images"] > 0
