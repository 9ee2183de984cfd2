"""A short random mix of all faults; `make faults` runs the long one."""

from __future__ import annotations

from pathlib import Path

from tests.edges.simulator_support import running
from tests.faults.mix import STOPS, mix, rules


def test_a_mix_of_all_faults_ends_as_the_table_says_and_adds_up(tmp_path: Path) -> None:
    """Every task in its state, every file, and the ledger's cost equal to the bill but for what is in doubt."""
    with running(art="flat", seed=7, faults=rules()) as peer:
        mixed = mix(tmp_path, peer, tasks=150, seed=7)
    assert mixed.account.unexplained_microusd == 0
    assert mixed.exit_codes == [6] * len(STOPS) + [4]
    # It was a mix: each state was met, and something of every kind of money.
    assert set(mixed.states) == {"done", "failed", "refused", "in_doubt"}
    assert mixed.account.estimated > 0
    assert 0 < mixed.account.doubts_billed < mixed.account.in_doubt
