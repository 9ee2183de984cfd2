"""Files and batches of a simulator over plain HTTP, for the tests of the simulator."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tests.edges.simulator_support import Answer, Peer, form, order

GENERATIONS: Final = "/v1/images/generations"
EDITS: Final = "/v1/images/edits"
OVER = ("failed", "completed", "expired", "cancelled")
_PATIENCE_S = 60


def line(custom_id: str, prompt: str = "A lighthouse at dusk", *, url: str = GENERATIONS, **more: Any) -> bytes:
    """One line of an input file."""
    document = {"custom_id": custom_id, "method": "POST", "url": url, "body": order(prompt, **more)}
    return json.dumps(document).encode() + b"\n"


def lines_of(prompts: Iterable[str], **more: Any) -> bytes:
    """An input file: a line for each prompt, with custom_ids that count from 0."""
    return b"".join(line(f"line-{number}", prompt, **more) for number, prompt in enumerate(prompts))


def upload(peer: Peer, data: bytes, *, purpose: str = "batch", filename: str = "input.jsonl", **fields: str) -> Answer:
    """One upload as a form."""
    kind, body = form([("purpose", purpose), *fields.items(), ("file", data)])
    return peer.call(
        "POST", "/v1/files", body.replace(b'filename="upload"', f'filename="{filename}"'.encode()), kind=kind
    )


def uploaded(peer: Peer, data: bytes, **more: str) -> str:
    """The id of a file that was uploaded just now."""
    answer = upload(peer, data, **more)
    assert answer.status == 200, answer.body
    file_id: str = answer.json["id"]
    return file_id


def create(peer: Peer, input_file_id: str, *, endpoint: str = GENERATIONS, **more: Any) -> Answer:
    """One creation of a batch."""
    asked = {"input_file_id": input_file_id, "endpoint": endpoint, "completion_window": "24h", **more}
    return peer.call("POST", "/v1/batches", asked)


def submitted(peer: Peer, data: bytes, **more: Any) -> str:
    """The id of a batch of these lines."""
    answer = create(peer, uploaded(peer, data), **more)
    assert answer.status == 200, answer.body
    batch_id: str = answer.json["id"]
    return batch_id


def retrieved(peer: Peer, batch_id: str) -> Any:
    """What the API tells of a batch."""
    answer = peer.call("GET", f"/v1/batches/{batch_id}")
    assert answer.status == 200, answer.body
    return answer.json


def awaited(peer: Peer, batch_id: str, statuses: Sequence[str] = OVER) -> Any:
    """What the API tells of a batch once it has one of these statuses."""
    deadline = time.monotonic() + _PATIENCE_S
    while (batch := retrieved(peer, batch_id))["status"] not in statuses:
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)
    return batch


def finished(peer: Peer, data: bytes, **more: Any) -> Any:
    """A batch of these lines, once it is over."""
    return awaited(peer, submitted(peer, data, **more))


def content(peer: Peer, file_id: str) -> bytes:
    """A file's bytes."""
    answer = peer.call("GET", f"/v1/files/{file_id}/content")
    assert answer.status == 200, answer.body
    return answer.body


def results(peer: Peer, batch: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """The lines of a batch's output file and of its error file, in their order."""
    names = ("output_file_id", "error_file_id")
    files = [content(peer, batch[name]) if name in batch else b"" for name in names]
    output, errors = ([json.loads(each) for each in file.splitlines()] for file in files)
    return output, errors


def by_id(lines: Iterable[Any]) -> dict[str, Any]:
    """Lines by their custom_id; none is there twice."""
    found: dict[str, Any] = {}
    for each in lines:
        assert each["custom_id"] not in found
        found[each["custom_id"]] = each
    return found


def shots(answer: Mapping[str, Any]) -> list[bytes]:
    """The image files of a line."""
    return [base64.b64decode(each["b64_json"], validate=True) for each in answer["response"]["body"]["data"]]


def rule(peer: Peer, *rules: str) -> None:
    """Puts these fault rules in the place of all others."""
    assert peer.call("POST", "/simulator/faults", {"rules": rules}).status == 200
