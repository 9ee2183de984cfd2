"""The script that everyone writes: the SDK, a semaphore, `gather`, `b64decode`, write.

    python plain.py BASE_URL FOLDER IMAGES CONCURRENCY [aiohttp]

One JSON line tells how many images there are, and the seconds. Runs by its path in any environment that has `openai`;
with `aiohttp` it takes the SDK's other HTTP client instead of the default one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from pathlib import Path

from openai import AsyncOpenAI, DefaultAioHttpClient


async def main(base_url: str, folder: Path, images: int, concurrency: int, transport: str) -> None:
    """Ask for all images, `concurrency` at a time; those that failed are counted, not mourned."""
    http_client = DefaultAioHttpClient() if transport == "aiohttp" else None
    client = AsyncOpenAI(base_url=base_url, api_key="sk-bench", http_client=http_client)
    semaphore = asyncio.Semaphore(concurrency)

    async def make(number: int) -> None:
        async with semaphore:
            result = await client.images.generate(
                model="gpt-image-2",
                prompt=f"A lighthouse at dusk, number {number:06d}",
                size="1024x1024",
                quality="low",
            )
        assert result.data
        (folder / f"{number:06d}.png").write_bytes(base64.b64decode(result.data[0].b64_json or ""))

    began = time.monotonic()
    results = await asyncio.gather(*(make(number) for number in range(images)), return_exceptions=True)
    failed = sum(isinstance(result, BaseException) for result in results)
    await client.close()
    print(json.dumps({"images": images - failed, "wall_s": time.monotonic() - began}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), (*sys.argv[5:], "")[0]))
