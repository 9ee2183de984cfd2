"""Runs on a cluster whose nodes share no folder but a bucket: each puts there what it has received and made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster_support import Nodes, Start, cluster, held_against_the_bill, read_until, rows
from tests.engine.command_support import Desk, wait
from tests.servers.s3 import S3, s3

RAY = ("--engine", "ray")
CARD = {"name": "card", "width": 40, "height": 24, "fit": "cover"}
RETRY = {"attempts": 3, "billed_attempts": 3, "base_s": 0.001, "max_s": 0.002}
SLOW = [f"[[fault:delay=1.5]] A harbour, number {number}" for number in range(24)]


@pytest.fixture(scope="module")
def server_of_objects() -> Iterator[S3]:
    with s3() as server:
        yield server


@pytest.fixture(scope="module")
def nodes(server_of_objects: S3, state_folder: Path, cache_folder: Path) -> Iterator[Nodes]:
    """A cluster whose nodes have keys for the bucket in their environment, as the driver has."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server_of_objects.environment().items():
            patch.setenv(name, value)
        with cluster() as them:
            yield them


def test_images_and_renditions_go_from_the_nodes_into_the_bucket(desk: Desk, server_of_objects: S3) -> None:
    """Whole and on record, the ledger is the bill, no temporary file is left, and a second run sends nothing."""
    bucket = server_of_objects.bucket()
    prompts = [f"A lighthouse, number {number}" for number in range(12)]
    job = desk.manifest("lights", prompts, renditions=[CARD], output={"dir": f"{bucket}/nightly"})
    said = desk.run(job, *RAY, "--json")
    assert (said.code, said.summary["made"], said.summary["renditions"]) == (0, 12, 12)
    assert rows(desk, "SELECT sum(cost_microusd) FROM attempts") == [(desk.peer.bill()["cost_microusd"],)]
    assert desk.call("verify", "lights", "--deep").code == 0
    assert not [path for path in desk.files() if path.suffix in (".png", ".webp")]
    again = desk.run(job, *RAY, "--json")
    assert (again.code, again.summary["requests"], desk.requests()) == (0, 0, 12)
    more = desk.manifest(
        "lights", prompts, renditions=[CARD, {**CARD, "name": "wide"}], output={"dir": f"{bucket}/nightly"}
    )
    assert desk.call("render", more, *RAY, "--json").entries[-1]["renditions"] == 12


def test_a_node_dies_with_images_that_are_not_in_the_bucket_yet(
    desk: Desk, nodes: Nodes, start: Start, server_of_objects: S3
) -> None:
    """What it was receiving is in doubt and made again; all is there in the end, and all that was paid on record."""
    job = desk.manifest(
        "harbour",
        SLOW,
        retry=RETRY,
        limits={"images_per_minute": 1_000_000, "concurrency": 9},
        output={"dir": server_of_objects.bucket()},
    )
    process = start(desk, job)
    read_until(process, "saved", 6)
    nodes.kill(nodes.others[0])
    said = wait(process)
    assert (said.code, said.summary["done"], said.summary["in_doubt"]) == (0, len(SLOW), 0)
    assert rows(desk, "SELECT count(*) > 0 FROM attempts WHERE error_code = 'node_died'") == [(1,)]
    held_against_the_bill(desk)
    assert desk.call("verify", "harbour", "--deep").code == 0
