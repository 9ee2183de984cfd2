"""Has this word been seen before? For a million words, without a million words in memory.

Owns a temporary database that vanishes with the process. It is how a plan finds two tasks with one file name or one
request, wherever in a manifest they stand.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence

from runner.planner import Clash


class Scratch:
    """Claims of names and keys; an instance for each pass over the tasks."""

    def __init__(self) -> None:
        # An empty name is a private file that SQLite deletes on close; nothing in it needs to survive anything.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("PRAGMA cache_size = -32768")
        self._database.execute("CREATE TABLE seen (word BLOB PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def claim(self, chunk: Sequence[tuple[str, str, str]]) -> Mapping[int, Clash]:
        """Claim (key, folded name, place) for each; the clashes with earlier ones, by index in `chunk`."""
        clashes: dict[int, Clash] = {}
        words: dict[bytes, str] = {}
        keys = [b"k" + bytes.fromhex(key)[:16] for key, _, _ in chunk]
        names = [
            b"n" + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            for _, name, _ in chunk
        ]
        found = self._seen([*keys, *names])
        for index, (_, _, place) in enumerate(chunk):
            # A request that is there twice has one name twice as well; saying which request is more to the point.
            for kind, word in (("request", keys[index]), ("name", names[index])):
                first = words.get(word) or found.get(word)
                if first is not None:
                    clashes.setdefault(index, Clash(kind, first))
                words[word] = place
        self._database.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", words.items())
        return clashes

    def close(self) -> None:
        """Drop everything."""
        self._database.close()

    def _seen(self, words: Sequence[bytes]) -> dict[bytes, str]:
        marks = ",".join("?" * len(words))
        # The text is made of question marks alone.
        return dict(self._database.execute(f"SELECT word, place FROM seen WHERE word IN ({marks})", words))  # noqa: S608
