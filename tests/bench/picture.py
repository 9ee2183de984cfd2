"""A PNG of a wanted size in bytes: real chunks, right checksums, data that no compressor makes smaller.

Owns the bytes of the one picture that a benchmark's server sends. Refuses to know how it is sent.
"""

from __future__ import annotations

import random
import struct
import zlib

SIDE = 1024
"""Width and height in pixels."""
IDAT_BYTES = 32 << 10
_BLACK_ROW_BYTES = 3
"""What is left of a black row when it is packed."""


def png(size_bytes: int, *, seed: int = 1, idat_bytes: int = IDAT_BYTES, side: int = SIDE) -> bytes:
    """A square RGB picture of about `size_bytes` (within 4 KB): noise from the top, then black rows.

    Raises:
        ValueError: one row of noise is more than that, or noise in every row less.
    """
    row_bytes = 1 + 3 * side
    rows = round((size_bytes - side * _BLACK_ROW_BYTES) / (row_bytes - _BLACK_ROW_BYTES))
    if not 1 <= rows <= side:
        raise ValueError(f"a picture of {side}x{side} pixels has no {size_bytes} bytes")
    noise = random.Random(seed)
    raw = b"".join(b"\0" + noise.randbytes(row_bytes - 1) for _ in range(rows)) + bytes(row_bytes * (side - rows))
    packed = zlib.compress(raw, 6)
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [packed[start : start + idat_bytes] for start in range(0, len(packed), idat_bytes)]
    chunks = [_chunk(b"IHDR", head), *(_chunk(b"IDAT", part) for part in parts), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
