"""Requests in flight and the open files that they take: what a run asks the system for, and what it does with less."""

from __future__ import annotations

import resource

from runner.rules.concurrency import MOST, descriptors_for, places_for, start_for
from tests.engine.command_support import GOOD, Desk, Said, wait

LIMITS = {"images_per_minute": 600}


def run_with(desk: Desk, *, soft: int, hard: int, limits: dict[str, int]) -> Said:
    """A run in a process of its own that may have so many files open, and may allow itself more up to `hard`."""
    job = desk.manifest("files", GOOD, limits=limits)

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return wait(desk.start("run", job, *desk.to_peer, "--json", preexec_fn=before))


def test_a_run_raises_its_own_limit_of_open_files_as_far_as_it_may(desk: Desk) -> None:
    """Many systems give 1,024, and allow more to whoever asks: nothing is said, and no place is lost."""
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], descriptors_for(MOST))
    said = run_with(desk, soft=200, hard=hard, limits=LIMITS)
    began = next(entry for entry in said.entries if entry["type"] == "run_began")
    assert (said.code, said.summary["done"]) == (0, 2)
    assert began["concurrency"] == min(start_for(600), places_for(hard))
    assert hard < descriptors_for(start_for(600)) or "open files" not in said.out


def test_with_fewer_open_files_fewer_requests_are_in_flight_and_it_is_said_once(desk: Desk) -> None:
    """The images are made all the same; what the manifest asks for is no exception."""
    for limits in (LIMITS, {**LIMITS, "concurrency": 300}):
        said = run_with(desk, soft=200, hard=200, limits=limits)
        warnings = [entry["message"] for entry in said.entries if entry["type"] == "warned"]
        assert [text for text in warnings if "open files" in text] == [
            f"{limits.get('concurrency', start_for(600))} requests in flight need "
            f"{descriptors_for(limits.get('concurrency', start_for(600)))} open files, and this process may have "
            "fewer: 36 are in flight at most (ulimit -n raises that)"
        ]
        began = next(entry for entry in said.entries if entry["type"] == "run_began")
        assert began["concurrency"] == 36
        assert said.code == 0
