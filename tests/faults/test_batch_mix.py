"""A short random mix of all faults of the Batch API; `python -m tests.faults.batch_mix` runs a long one."""

from __future__ import annotations

from pathlib import Path

from tests.edges.simulator_support import running
from tests.faults.batch_mix import RULES, mix


def test_a_mix_of_all_faults_in_batches_ends_as_the_table_says_and_adds_up(tmp_path: Path) -> None:
    """Every task in its state, every batch created once, and the ledger equal to the bill but for what is in doubt."""
    with running(art="flat", seed=7, faults=RULES) as peer:
        mixed = mix(tmp_path, peer, tasks=500, seed=7)
    assert mixed.account.unexplained_microusd == 0
    assert set(mixed.exit_codes[:-1]) == {6}
    # It was a mix: each state was met, something of every kind of money, and calls and batches that went wrong.
    assert set(mixed.states) == {"done", "failed", "refused", "in_doubt"}
    assert mixed.account.estimated > 0
    assert 0 < mixed.account.doubts_billed < mixed.account.in_doubt
    assert {"batch_expires", "content_cut", "create_reset", "create_500", "retrieve_500", "upload_500"} <= set(
        mixed.faults
    )
