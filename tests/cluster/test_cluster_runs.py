"""Whole runs on a cluster: the same images, bill and record as on one machine, with the same faults on the way."""

from __future__ import annotations

import hashlib
import signal
from typing import Any

import pytest

from tests.cluster.cluster_support import Nodes, Start, accounts, held_against_the_bill, read_until, rows
from tests.engine.command_support import GOOD, KEY, REFUSED, Desk, wait
from tests.engine.test_edits import BOX, picture

CARD = {"name": "card", "width": 40, "height": 24, "fit": "cover"}
RAY = ("--engine", "ray")
MANY = [f"A lighthouse, number {number}" for number in range(24)]
ODD = [
    *GOOD,
    REFUSED,
    "[[fault:rate_limit*1]] slower",
    "[[fault:status=500*1]] not now",
    "[[fault:not_image]] no image",
    "[[fault:wrong_size]] another size",
    "[[fault:cut*1]] cut off",
    "[[fault:truncated_image*1]] half of it",
    "[[fault:missing_usage]] says nothing",
]
"""One of each way in which a request can end."""


def outcomes(desk: Desk, folder: str) -> list[tuple[Any, ...]]:
    """What is on record of all attempts, but for when and which."""
    return rows(
        desk,
        "SELECT t.prompt_id, t.status, a.outcome, a.error_code, a.error_message, a.http_status, a.cost_microusd, "
        "a.cost_basis, a.doubt_microusd, a.usage_json, a.request_id IS NULL FROM attempts a "
        "JOIN tasks t ON t.id = a.task_id ORDER BY t.prompt_id, a.id",
        folder=folder,
    )


def test_a_run_on_a_cluster_is_paid_once_and_leaves_what_a_local_one_leaves(desk: Desk, nodes: Nodes) -> None:
    """Images whole and byte for byte the provider's, the ledger is the bill, and a second run sends nothing."""
    job = desk.manifest("many", MANY)
    said = desk.run(job, *RAY, "--json")
    assert (said.code, said.summary["made"], said.err.count("Traceback")) == (0, len(MANY), 0)
    assert accounts(desk) == (desk.peer.bill()["cost_microusd"], 0)
    assert desk.requests() == len(MANY)
    assert desk.call("verify", "many", "--deep").code == 0
    assert not list((desk.folder / "output/many/.partial").iterdir())
    again = desk.run(job, *RAY, "--json")
    assert (again.code, again.summary["requests"], desk.requests()) == (0, 0, len(MANY))


def test_every_end_of_a_request_is_on_record_as_in_a_local_run(desk: Desk) -> None:
    """Errors come back from the nodes with all that they say: code, status, usage, request id, what was billed."""
    retry = {"attempts": 2, "billed_attempts": 2, "rate_limited_attempts": 2, "base_s": 0.001, "max_s": 0.002}
    job = desk.manifest("odd", ODD, retry=retry)
    here = desk.run(job, "--json", "--output", "here")
    desk.peer.call("POST", "/simulator/reset")
    there = desk.run(job, "--json", "--output", "there", *RAY)
    assert here.code == there.code == 4
    assert outcomes(desk, "here") == outcomes(desk, "there")
    assert len({line[3] for line in outcomes(desk, "there")}) >= 6


def test_stdout_carries_nothing_but_the_run(desk: Desk) -> None:
    """Whatever Ray has to say is in its own log files: each line of stdout is the run's, and stderr is what it was."""
    process = desk.start("run", desk.manifest("quiet", GOOD), *desk.to_peer, *RAY, "--json", "--quiet")
    said = wait(process)
    assert (said.code, said.err) == (0, "")
    assert said.summary["made"] == 2


def test_the_key_is_in_no_file_of_the_cluster_and_of_the_run(desk: Desk, nodes: Nodes) -> None:
    """It goes to the nodes in a call, and neither Ray's logs nor what the run leaves has it."""
    assert desk.run(desk.manifest("secret", ODD), *RAY).code == 4
    files = [file for file in (*nodes.logs.rglob("*"), *(desk.folder / "output").rglob("*")) if file.is_file()]
    assert len(files) > 20
    for file in files:
        assert KEY.encode() not in file.read_bytes(), file


def test_pictures_that_go_with_requests_are_brought_to_the_nodes(desk: Desk) -> None:
    """Edits with a mask, references and composites: the bill counts the inputs, and the composites are made."""
    for number, colour in enumerate(("tomato", "teal")):
        picture(desk.folder / f"assets/base-{number}.png", colour)
    picture(desk.folder / "assets/style.jpg", "navy")
    edit = {"references": ["assets/style.jpg"], "mask": {"box": BOX, "feather": 4}, "composite": True}
    told: dict[str, Any] = {"matrix": {"image": ["assets/base-*.png"]}, "edit": edit}
    said = desk.run(desk.manifest("shop", ["in brass", "in snow", "in glass"], **told), *RAY, "--json")
    assert (said.code, said.summary["made"], said.summary["composites"]) == (0, 6, 6)
    bill = desk.peer.bill()
    assert bill["input_image_tokens"] > 0
    assert accounts(desk) == (bill["cost_microusd"], 0)


def test_the_first_interrupt_finishes_what_is_in_flight(desk: Desk, start: Start) -> None:
    """As in a local run: what has left is waited for and kept, nothing further leaves, and nothing is in doubt."""
    job = desk.manifest("gentle", [f"[[fault:delay=2]] {prompt}" for prompt in MANY])
    process = start(desk, job)
    read_until(process, "attempt_began", 4)
    process.send_signal(signal.SIGINT)
    said = wait(process)
    assert said.code == 130
    assert 4 <= said.summary["done"] < len(MANY)
    assert accounts(desk) == (desk.peer.bill()["cost_microusd"], 0)


def test_the_second_interrupt_gives_up_what_is_in_flight(desk: Desk, start: Start) -> None:
    """It is on record as in doubt, the nodes are told, and the next run goes on."""
    job = desk.manifest("hurried", [f"[[fault:delay=60]] {prompt}" for prompt in GOOD])
    process = start(desk, job)
    read_until(process, "attempt_began", 2)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        _ = process.stdout.readline() if process.stdout else ""
    said = wait(process)
    assert said.code == 130
    assert rows(desk, "SELECT error_code, count(*) FROM attempts GROUP BY 1") == [("interrupted", 2)]
    assert accounts(desk)[1] > 0
    held_against_the_bill(desk)


@pytest.mark.parametrize("options", [RAY, ()], ids=["ray", "local"])
def test_renditions_are_the_same_wherever_they_are_made(desk: Desk, options: tuple[str, ...]) -> None:
    """Made beside the requests: the files are on record with the bytes that they have."""
    said = desk.run(desk.manifest("cards", MANY[:6], renditions=[CARD]), *options, "--json")
    assert (said.code, said.summary["renditions"], said.summary["renditions_failed"]) == (0, 6, 0)
    for path, sha256 in rows(desk, "SELECT path, sha256 FROM renditions"):
        assert _sha256(desk, path) == sha256


def test_render_makes_on_the_cluster_what_is_lacking(desk: Desk) -> None:
    """The same bytes as this machine makes, under the same names, and only what is not there."""
    job = desk.manifest("cards", MANY[:6])
    assert desk.run(job).code == 0
    job = desk.manifest("cards", MANY[:6], renditions=[CARD, {"name": "tiny", "width": 16, "format": "jpeg"}])
    assert desk.call("render", job, *RAY, "--json").entries[-1]["renditions"] == 12
    below = desk.folder / "output/cards/renditions"
    there = {file.relative_to(below): file.read_bytes() for file in below.rglob("*.*")}
    assert len(there) == 12
    assert desk.call("render", job, *RAY, "--json").entries[-1]["renditions"] == 0
    for file in there:
        (below / file).unlink()
    assert desk.call("render", job, "--json").entries[-1]["renditions"] == 12
    assert {file: (below / file).read_bytes() for file in there} == there


def _sha256(desk: Desk, path: str) -> str:
    return hashlib.sha256((desk.folder / "output" / path).read_bytes()).hexdigest()
