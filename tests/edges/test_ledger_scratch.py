"""What must be found among all tasks of a job: every second claim of a name or request, however far from the first."""

from __future__ import annotations

import hashlib
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import pytest

from runner.errors import LedgerError
from runner.ledger import Scratch, Sieve, scratch
from runner.planner import Clash

Word = tuple[str, str, str]


@pytest.fixture
def pad() -> Iterator[Scratch]:
    with closing(Scratch()) as it:
        yield it


def word(number: int, name: str | None = None) -> Word:
    """A claim: key, name and place."""
    key = hashlib.sha256(str(number).encode()).hexdigest()
    return key, name or f"{number}.png", f"job.yaml:{number}"


def claim(pad: Scratch | Sieve, words: Sequence[Word]) -> Mapping[int, Clash]:
    """Claim these, as a plan does."""
    return pad.claim([key for key, _, _ in words], [name for _, name, _ in words], lambda index: words[index][2])


def test_different_names_and_requests_do_not_clash(pad: Scratch) -> None:
    """Nothing is made up."""
    assert claim(pad, [word(n) for n in range(1000)]) == {}
    assert claim(pad, [word(n) for n in range(1000, 2000)]) == {}
    assert claim(pad, []) == {}


def test_a_clash_inside_one_chunk_names_the_first_place(pad: Scratch) -> None:
    """By its place in the chunk, and by what clashes: a request, or only a name."""
    clashes = claim(pad, [word(1), word(2), word(3, "1.png"), word(2)])
    assert clashes == {2: Clash("name", "job.yaml:1"), 3: Clash("request", "job.yaml:2")}


def test_a_clash_across_chunks_names_the_first_place(pad: Scratch) -> None:
    """However many chunks lie between."""
    for start in range(0, 5000, 1000):
        assert claim(pad, [word(n) for n in range(start, start + 1000)]) == {}
    clashes = claim(pad, [word(9000), word(9001, "7.png"), word(4999)])
    assert clashes == {1: Clash("name", "job.yaml:7"), 2: Clash("request", "job.yaml:4999")}


def test_the_first_place_stays_the_first(pad: Scratch) -> None:
    """A third claim is told of the first one, not of the second."""
    claim(pad, [word(1)])
    claim(pad, [(word(1)[0], "other.png", "job.yaml:50")])
    assert claim(pad, [(word(1)[0], "third.png", "job.yaml:60")]) == {0: Clash("request", "job.yaml:1")}


def test_a_name_is_no_request(pad: Scratch) -> None:
    """A name that looks like a key clashes with no key; odd characters are only characters."""
    key = word(1)[0]
    assert claim(pad, [word(1), word(2, key), word(3, "ü/\udc80 '\";--.png")]) == {}
    assert claim(pad, [word(4, "ü/\udc80 '\";--.png")]) == {0: Clash("name", "job.yaml:3")}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and comparisons in pieces, as with a great many words."""
    monkeypatch.setattr(scratch, "_HELD", 64)
    monkeypatch.setattr(scratch, "_COMPARED", 100)


def sieved(*chunks: Sequence[Word]) -> bool:
    """Whether all of these pass."""
    with closing(Sieve()) as sieve:
        for chunk in chunks:
            assert claim(sieve, chunk) == {}
        return sieve.passed()


def test_a_sieve_lets_different_words_pass(small: None) -> None:
    """Nearly every manifest is such a one, and needs no second look; nothing at all passes too."""
    assert sieved()
    assert sieved([word(n) for n in range(1000)], [word(n) for n in range(1000, 1500)])


@pytest.mark.parametrize("second", [word(3), word(2000, "3.png"), (word(3)[0], "other.png", "x")])
@pytest.mark.parametrize("between", [0, 1, 40, 900])
def test_a_sieve_holds_back_every_word_that_comes_twice(small: None, second: Word, between: int) -> None:
    """A request, a name, or both, in one chunk or far apart: two images would be paid for, or one would be lost."""
    many = [word(n) for n in range(between + 4)]
    assert sieved(many)
    assert not sieved(many, [second])
    assert not sieved([*many, second])


@pytest.mark.parametrize("make", [Scratch, Sieve])
def test_memory_does_not_grow_with_the_number_of_claims(
    make: Callable[[], Scratch | Sieve], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 8: Python holds one chunk, and SQLite's cache is bounded."""
    monkeypatch.setattr(scratch, "_HELD", 2000)
    monkeypatch.setattr(scratch, "_COMPARED", 2000)
    with closing(make()) as pad:

        def peak_bytes(first: int, chunks: int) -> int:
            tracemalloc.start()
            for start in range(first, first + chunks * 1000, 1000):
                claim(pad, [word(n) for n in range(start, start + 1000)])
            if isinstance(pad, Sieve):
                assert pad.passed()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return peak

        one = peak_bytes(0, 1)
        assert peak_bytes(1000, 20) < 2 * one
        if isinstance(pad, Scratch):
            assert pad._database.execute("PRAGMA cache_size").fetchone() == (-32768,)


def test_a_folder_of_temporary_files_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words to act on."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with pytest.raises(LedgerError, match="/nowhere/at/all cannot be written") as caught:
        Sieve()
    assert "TMPDIR" in (caught.value.hint or "")
