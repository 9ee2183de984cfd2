"""Has this word been seen before? For a million words, without a million words in memory.

Owns files that vanish with the process. They are how a plan finds two tasks with one file name or one request, wherever
in a manifest they stand: `Sieve` tells quickly that there are none, as there are none in nearly every manifest; where
it cannot, `Scratch` finds the first of them, with both places.
"""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from runner.errors import LedgerError
from runner.planner import Clash

_HELD: Final = 1 << 16
"""Hashes in memory before they are written."""
_COMPARED: Final = 1 << 18
"""About as many hashes are compared at a time."""


class Sieve:
    """Takes claims and answers none; `passed` says in the end whether that was right.

    It keeps a hash of 64 bits of each word, in a file, so that two words can be taken for one, but never one for two.
    """

    def __init__(self) -> None:
        with _told():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # `close` is this class's own
        self._hashes = array("q")
        self._count = 0

    def claim(self, keys: Sequence[str], names: Sequence[str], place: Callable[[int], str]) -> Mapping[int, Clash]:
        """Claim these keys and folded names. A key is never a name: it has no ending."""
        del place
        self._hashes.extend(map(hash, keys))
        self._hashes.extend(map(hash, names))
        if len(self._hashes) >= _HELD:
            self._write()
        return {}

    def passed(self) -> bool:
        """Whether all words that were claimed are different; False can be wrong, once in a great many times."""
        self._write()
        with _told():
            self._file.flush()
        parts = 1
        while self._count > parts * _COMPARED:
            parts *= 2
        return all(self._differ(part, parts - 1) for part in range(parts))

    def close(self) -> None:
        """Drop everything."""
        self._file.close()

    def _write(self) -> None:
        with _told():
            self._hashes.tofile(self._file)
        self._count += len(self._hashes)
        del self._hashes[:]

    def _differ(self, part: int, mask: int) -> bool:
        """Whether the hashes that end in the bits of `part` are all different."""
        self._file.seek(0)
        seen: set[int] = set()
        count = 0
        while block := self._file.read(_HELD * self._hashes.itemsize):
            hashes = array("q", block)
            mine = [each for each in hashes if each & mask == part] if mask else hashes
            seen.update(mine)
            count += len(mine)
            if len(seen) != count:
                return False
        return True


class Scratch:
    """Claims of names and keys, each clash with both its places; an instance for each pass over the tasks."""

    def __init__(self) -> None:
        # An empty name is a private file that SQLite deletes on close; nothing in it needs to survive anything.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("PRAGMA cache_size = -32768")
        self._database.execute("CREATE TABLE seen (word BLOB PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def claim(self, keys: Sequence[str], names: Sequence[str], place: Callable[[int], str]) -> Mapping[int, Clash]:
        """Claim these keys and folded names; the clashes with earlier ones, by index."""
        clashes: dict[int, Clash] = {}
        words: dict[bytes, str] = {}
        requests = [b"k" + bytes.fromhex(key)[:16] for key in keys]
        files = [
            b"n" + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest() for name in names
        ]
        found = self._seen([*requests, *files])
        for index, pair in enumerate(zip(requests, files, strict=True)):
            here = place(index)
            # A request that is there twice has one name twice as well; saying which request is more to the point.
            for kind, word in zip(("request", "name"), pair, strict=True):
                first = words.get(word) or found.get(word)
                if first is not None:
                    clashes.setdefault(index, Clash(kind, first))
                words[word] = here
        self._database.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", words.items())
        return clashes

    def close(self) -> None:
        """Drop everything."""
        self._database.close()

    def _seen(self, words: Sequence[bytes]) -> dict[bytes, str]:
        marks = ",".join("?" * len(words))
        # The text is made of question marks alone.
        return dict(self._database.execute(f"SELECT word, place FROM seen WHERE word IN ({marks})", words))  # noqa: S608


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"a temporary file in {tempfile.gettempdir()} cannot be written: {error.strerror}",
            hint="make space there, or name another folder in TMPDIR, then run again: nothing was changed",
        ) from None
