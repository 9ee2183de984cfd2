"""The script that everyone writes, with pictures that go with each request: the SDK, `open`, a semaphore, `gather`.

    python plain_edits.py BASE_URL FOLDER IMAGES CONCURRENCY INPUTS

INPUTS is the folder of the pictures. One JSON line tells how many images there are, and the seconds.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from openai import AsyncOpenAI


async def main(base_url: str, folder: Path, images: int, concurrency: int, inputs: Path) -> None:
    """Ask for all images, `concurrency` at a time; those that failed are counted, not mourned."""
    client = AsyncOpenAI(base_url=base_url, api_key="sk-bench")
    semaphore = asyncio.Semaphore(concurrency)
    paths = sorted(inputs.iterdir())

    async def make(number: int) -> None:
        async with semaphore:
            with ExitStack() as stack:
                result = await client.images.edit(
                    model="gpt-image-2",
                    prompt=f"A lighthouse at dusk, number {number:06d}",
                    size="1024x1024",
                    quality="low",
                    image=[stack.enter_context(path.open("rb")) for path in paths],
                )
        assert result.data
        (folder / f"{number:06d}.png").write_bytes(base64.b64decode(result.data[0].b64_json or ""))

    began = time.monotonic()
    results = await asyncio.gather(*(make(number) for number in range(images)), return_exceptions=True)
    failed = sum(isinstance(result, BaseException) for result in results)
    print(json.dumps({"images": images - failed, "wall_s": time.monotonic() - began}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])))
