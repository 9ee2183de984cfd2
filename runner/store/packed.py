"""What the compressed texts and profiles of a PNG unpack to, measured while they stream by.

Owns where in a zTXt, iCCP or iTXt chunk the compressed part begins. Refuses to keep or to judge what is in it: what
does not unpack is left to whoever wants to read it, for it cannot become large.
"""

from __future__ import annotations

import zlib
from typing import Final

UNPACKED_MAX_BYTES: Final = 16 << 20
"""What those of one image may unpack to; a colour profile takes up to 4 MB."""
PACKED: Final = {
    b"zTXt": ("text", "byte"),
    b"iCCP": ("text", "byte"),
    b"iTXt": ("text", "flag", "byte", "text", "text"),
}
"""What comes before the compressed part of a chunk: texts that a zero ends, and single bytes."""
_STEP_BYTES: Final = 1 << 16


class Packed:
    """Measures one chunk; `unpacked_bytes` is what the others of its image came to before."""

    __slots__ = ("_before", "_decoder", "_unpacked_bytes")

    def __init__(self, kind: bytes, unpacked_bytes: int) -> None:
        self._before = list(PACKED[kind])
        self._decoder: zlib._Decompress | None = zlib.decompressobj()
        self._unpacked_bytes = unpacked_bytes

    def measure(self, part: memoryview) -> int:
        """Take the next bytes of the chunk; what all have unpacked to so far, not counted on far above the limit."""
        data = bytes(part)
        while self._before and data:
            step = self._before[0]
            end = data.find(0) if step == "text" else 0
            if end < 0:
                return self._unpacked_bytes
            if step == "flag" and not data[0]:
                self._decoder = None  # this text is not compressed
            del self._before[0]
            data = data[end + 1 :]
        while data and self._decoder is not None and self._unpacked_bytes <= UNPACKED_MAX_BYTES:
            try:
                self._unpacked_bytes += len(self._decoder.decompress(data, _STEP_BYTES))
            except zlib.error:
                self._decoder = None
                break
            data = b"" if self._decoder.eof else self._decoder.unconsumed_tail
        return self._unpacked_bytes
