"""The least that getting an image can cost in Python: raw sockets, one buffer, SIMD base64, one write.

    python floor.py BASE_URL FOLDER IMAGES CONCURRENCY

No checks, no retries, no records: this is a floor, not a way to work. One JSON line tells images and seconds.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# By name, because it lives in the environment of the peers alone, and types are checked in another.
pybase64: Any = importlib.import_module("pybase64")
_BUFFER_BYTES = 8 << 20
"""Room for any answer of the benchmark; pages that are never touched are never there."""


async def main(base_url: str, folder: Path, images: int, concurrency: int) -> None:
    """`concurrency` workers, each with a connection and a buffer of its own."""
    address = urlsplit(base_url)
    numbers = iter(range(images))

    async def work() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setblocking(False)
            await loop.sock_connect(connection, (address.hostname, address.port))
            buffer = memoryview(bytearray(_BUFFER_BYTES))
            for number in numbers:
                prompt = f"A lighthouse at dusk, number {number:06d}"
                body = json.dumps({"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024", "quality": "low"})
                await loop.sock_sendall(
                    connection,
                    f"POST {address.path}/images/generations HTTP/1.1\r\nhost: {address.netloc}\r\n"
                    f"content-length: {len(body)}\r\n\r\n{body}".encode(),
                )
                filled, whole = 0, len(buffer)
                start = 0
                while filled < whole:
                    filled += await loop.sock_recv_into(connection, buffer[filled:])
                    if not start:
                        head = bytes(buffer[:1024])
                        start = head.index(b'"b64_json":"') + 12
                        length = int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
                        whole = head.index(b"\r\n\r\n") + 4 + length
                tail = bytes(buffer[whole - 1024 : whole])
                image = pybase64.b64decode(buffer[start : whole - 1024 + tail.index(b'"')])
                descriptor = os.open(folder / f"{number:06d}.png", os.O_WRONLY | os.O_CREAT, 0o644)
                os.write(descriptor, image)
                os.close(descriptor)

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(min(concurrency, images))))
    print(json.dumps({"images": images, "wall_s": time.monotonic() - began}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
