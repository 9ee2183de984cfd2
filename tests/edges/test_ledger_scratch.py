"""What the scratch pad must hold: every second claim of a name or request is found, however far from the first."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator

import pytest

from runner.ledger import Scratch
from runner.planner import Clash


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    it = Scratch()
    yield it
    it.close()


def word(number: int, name: str | None = None) -> tuple[str, str, str]:
    """A claim: key, name and place."""
    key = hashlib.sha256(str(number).encode()).hexdigest()
    return key, name or f"{number}.png", f"job.yaml:{number}"


def test_different_names_and_requests_do_not_clash(scratch: Scratch) -> None:
    """Nothing is made up."""
    assert scratch.claim([word(n) for n in range(1000)]) == {}
    assert scratch.claim([word(n) for n in range(1000, 2000)]) == {}
    assert scratch.claim([]) == {}


def test_a_clash_inside_one_chunk_names_the_first_place(scratch: Scratch) -> None:
    """By its place in the chunk, and by what clashes: a request, or only a name."""
    clashes = scratch.claim([word(1), word(2), word(3, "1.png"), word(2)])
    assert clashes == {2: Clash("name", "job.yaml:1"), 3: Clash("request", "job.yaml:2")}


def test_a_clash_across_chunks_names_the_first_place(scratch: Scratch) -> None:
    """However many chunks lie between."""
    for start in range(0, 5000, 1000):
        assert scratch.claim([word(n) for n in range(start, start + 1000)]) == {}
    clashes = scratch.claim([word(9000), word(9001, "7.png"), word(4999)])
    assert clashes == {1: Clash("name", "job.yaml:7"), 2: Clash("request", "job.yaml:4999")}


def test_the_first_place_stays_the_first(scratch: Scratch) -> None:
    """A third claim is told of the first one, not of the second."""
    scratch.claim([word(1)])
    scratch.claim([(word(1)[0], "other.png", "job.yaml:50")])
    assert scratch.claim([(word(1)[0], "third.png", "job.yaml:60")]) == {0: Clash("request", "job.yaml:1")}


def test_a_name_is_no_request(scratch: Scratch) -> None:
    """A name that looks like a key clashes with no key; odd characters are only characters."""
    key = word(1)[0]
    assert scratch.claim([word(1), word(2, key), word(3, "ü/\udc80 '\";--.png")]) == {}
    assert scratch.claim([word(4, "ü/\udc80 '\";--.png")]) == {0: Clash("name", "job.yaml:3")}


def test_memory_does_not_grow_with_the_number_of_claims(scratch: Scratch) -> None:
    """Law 8: Python holds one chunk, and SQLite's cache is bounded."""

    def peak_bytes(first: int, chunks: int) -> int:
        tracemalloc.start()
        for start in range(first, first + chunks * 1000, 1000):
            scratch.claim([word(n) for n in range(start, start + 1000)])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    one = peak_bytes(0, 1)
    assert peak_bytes(1000, 20) < 2 * one
    assert scratch._database.execute("PRAGMA cache_size").fetchone() == (-32768,)
