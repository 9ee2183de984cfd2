"""All laws at once where a team works: a ledger on PostgreSQL, images in a bucket, and a second host that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.campaign import campaign
from tests.servers.postgres import ABSENT, programs

KILLS, SEED = 10, 6309

pytestmark = pytest.mark.skipif(programs() is None, reason=ABSENT)


def test_no_law_is_broken_by_a_short_campaign_on_a_server_and_a_bucket(tmp_path: Path) -> None:
    """As on one machine; connections with the ledger break too, and what a dead host had for itself is out of reach."""
    told: list[str] = []
    totals = campaign(KILLS, SEED, tell=told.append, keep=tmp_path, peers=("small", "medium"), on="postgres+s3")
    assert not totals.failed, "\n".join(told)
    assert totals.kills >= KILLS
    # It was no idle walk.
    assert totals.counts["in flight at kills"] > 0
    assert totals.counts["changes of host"] > 0
    assert totals.counts["connections cut"] > 0
    assert totals.by_phase["making images"] > 0
