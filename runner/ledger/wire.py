"""How values go to a PostgreSQL server and come back.

Owns what its texts cannot hold. A prompt or an error's message may have any character that Python knows, and none of
them may lose a run: NUL and halves of a surrogate pair are written as U+001A and four hexadecimal digits, and so is
U+001A itself; whoever reads gets back what was written.
"""

from __future__ import annotations

import re
from typing import Any

_ODD = re.compile("[\0\x1a\ud800-\udfff]")
_WRITTEN = re.compile("\x1a([0-9a-f]{4})")


def adapt(connection: Any) -> None:
    """Let a connection of psycopg's speak so; sums of integers are integers."""
    from psycopg.adapt import Dumper, Loader
    from psycopg.postgres import types

    class Words(Dumper):
        def dump(self, obj: str) -> bytes:
            return escaped(obj).encode()

    class ReadWords(Loader):
        def load(self, data: bytes | bytearray | memoryview) -> str:
            return unescaped(bytes(data).decode())

    class ReadNumber(Loader):
        def load(self, data: bytes | bytearray | memoryview) -> int | float:
            text = bytes(data)
            return int(text) if text.lstrip(b"-").isdigit() else float(text)

    adapters = connection.adapters
    adapters.register_dumper(str, Words)
    for name in ("text", "varchar"):
        adapters.register_loader(types[name].oid, ReadWords)
    adapters.register_loader(types["numeric"].oid, ReadNumber)


def escaped(text: str) -> str:
    """`text` as PostgreSQL can hold it."""
    return _ODD.sub(lambda odd: f"\x1a{ord(odd.group()):04x}", text)


def unescaped(text: str) -> str:
    """What `escaped` was given."""
    return _WRITTEN.sub(lambda written: chr(int(written.group(1), 16)), text) if "\x1a" in text else text
