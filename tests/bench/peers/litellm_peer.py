"""The same script with `litellm.aimage_generation`.

    python litellm_peer.py BASE_URL FOLDER IMAGES CONCURRENCY

One JSON line tells how many images there are, and the seconds.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its prices come with it; a benchmark asks no one for newer ones
# By name, because it lives in the environment of the peers alone, and types are checked in another.
litellm: Any = importlib.import_module("litellm")


async def main(base_url: str, folder: Path, images: int, concurrency: int) -> None:
    """Ask for all images, `concurrency` at a time; those that failed are counted, not mourned."""
    semaphore = asyncio.Semaphore(concurrency)

    async def make(number: int) -> None:
        async with semaphore:
            result = await litellm.aimage_generation(
                model="openai/gpt-image-2",
                prompt=f"A lighthouse at dusk, number {number:06d}",
                size="1024x1024",
                quality="low",
                api_base=base_url,
                api_key="sk-bench",
            )
        (folder / f"{number:06d}.png").write_bytes(base64.b64decode(result.data[0].b64_json))

    began = time.monotonic()
    results = await asyncio.gather(*(make(number) for number in range(images)), return_exceptions=True)
    failed = sum(isinstance(result, BaseException) for result in results)
    print(json.dumps({"images": images - failed, "wall_s": time.monotonic() - began}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
