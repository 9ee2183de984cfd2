"""The script that a good programmer writes for a batch: the SDK, a JSONL file, one image for each line of the answer.

    python plain_batches.py submit BASE_URL FOLDER PROMPTS
    python plain_batches.py collect BASE_URL FOLDER BATCH_ID [file|lines] [flushed]

PROMPTS has a prompt in each line. What comes back is fetched into a file and read from there (`file`), or read line by
line as it comes (`lines`); never is all of it held. With `flushed` every image is flushed to the disk before the next.
One JSON line tells the id of the batch, or how many images there are.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from openai import OpenAI


def submit(client: OpenAI, folder: Path, prompts: Path) -> str:
    """Write the requests, send the file, have the batch created; its id."""
    path = folder / "requests.jsonl"
    with prompts.open() as texts, path.open("w") as file:
        for number, text in enumerate(texts):
            body = {"model": "gpt-image-2", "prompt": text.strip(), "size": "1024x1024", "quality": "low"}
            line = {"custom_id": f"{number:06d}", "method": "POST", "url": "/v1/images/generations", "body": body}
            file.write(json.dumps(line) + "\n")
    with path.open("rb") as requests:
        sent = client.files.create(file=requests, purpose="batch")
    batch = client.batches.create(
        input_file_id=sent.id,
        endpoint="/v1/images/generations",  # type: ignore[arg-type, unused-ignore] # not in the types of older SDKs
        completion_window="24h",
    )
    return batch.id


def results(client: OpenAI, folder: Path, file_id: str, way: str) -> Iterator[str | bytes]:
    """The lines of a file of results, one at a time."""
    with client.files.with_streaming_response.content(file_id) as answer:
        if way == "lines":
            yield from answer.iter_lines()
            return
        path = folder / "results.jsonl"
        answer.stream_to_file(path)
    with path.open("rb") as lines:
        yield from lines
    path.unlink()


def save(lines: Iterable[str | bytes], folder: Path, *, flushed: bool) -> int:
    """Write the image of each line; how many there were."""
    images = 0
    for line in lines:
        told = json.loads(line)
        if told["error"] or told["response"]["status_code"] != 200:
            continue
        image = base64.b64decode(told["response"]["body"]["data"][0]["b64_json"])
        with (folder / f"{told['custom_id']}.png").open("wb") as file:
            file.write(image)
            if flushed:
                file.flush()
                os.fsync(file.fileno())
        images += 1
    return images


def main() -> None:
    """The command line."""
    what, base_url, folder, about, *how = sys.argv[1:]
    client = OpenAI(base_url=base_url, api_key="sk-bench")
    if what == "submit":
        print(json.dumps({"batch": submit(client, Path(folder), Path(about))}))
        return
    batch = client.batches.retrieve(about)
    images = 0
    for file_id in (batch.output_file_id, batch.error_file_id):
        if file_id is not None:
            lines = results(client, Path(folder), file_id, (*how, "file")[0])
            images += save(lines, Path(folder), flushed="flushed" in how)
    print(json.dumps({"images": images}))


if __name__ == "__main__":
    main()
