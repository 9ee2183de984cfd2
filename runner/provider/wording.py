"""What a request says, in the API's own words: as parameters, and as one line of a batch's input file.

Owns what is left out (whatever is the API's default) and how a line is written. Refuses to send anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from runner.tasks import API_DEFAULTS, ImageRequest

ENDPOINTS = ("/v1/images/generations", "/v1/images/edits")
"""What a batch can be of: images, and images that start from images."""

# Half a surrogate pair cannot be written as UTF-8. The others end a line for whoever splits text as Unicode has it.
_ESCAPED = re.compile("[\ud800-\udfff\x85\u2028\u2029]")


def words_of(request: ImageRequest) -> dict[str, Any]:
    """The parameters that differ from the API's defaults, by their names; prompt, model and pictures are not in it."""
    return {name: value for name, default in API_DEFAULTS.items() if (value := getattr(request, name)) != default}


def batch_line(
    custom_id: str, request: ImageRequest, *, model: str, images: Sequence[str] = (), mask: str | None = None
) -> bytes:
    """One line of an input file, with its line break. `images` and `mask` are ids of uploaded files (an edit's)."""
    body: dict[str, Any] = {"model": model, "prompt": request.prompt, **words_of(request)}
    edit = request.edit
    if edit is not None:
        assert len(images) == len(edit.images), "every image of an edit is named by its file"
        assert (mask is None) == (edit.mask is None), "a mask is named by its file"
        body["images"] = [{"file_id": image} for image in images]
        if mask is not None:
            body["mask"] = {"file_id": mask}
        if edit.fidelity is not None:
            body["input_fidelity"] = edit.fidelity
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINTS[edit is not None], "body": body}
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() + b"\n"
