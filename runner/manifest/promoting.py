"""The key `promotion`: which images the prompts of a manifest are to be made again from. `runner promote` writes it.

Owns its shape. Refuses to know whether there are such images: the ledger does.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from runner.manifest.mappings import mapping_of
from runner.manifest.parts import Part, Text
from runner.manifest.problems import Wrong, convert_at, shown
from runner.manifest.values import as_text, safe_job_name

_KEY = re.compile(r"[0-9a-f]{64}")


def _origins(raw: object) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for prompt_id, keys in mapping_of(raw, "`origins`").items():
        listed = keys if isinstance(keys, (list, tuple)) else [keys]
        found[str(prompt_id)] = tuple(
            convert_at((str(prompt_id), index), _key, key) if isinstance(keys, (list, tuple)) else _key(key)
            for index, key in enumerate(listed)
        )
    return found


def _key(raw: object) -> str:
    text = as_text(raw)
    if not isinstance(text, str) or _KEY.fullmatch(text) is None:
        raise Wrong(f"{shown(text)} is not the key of an image", hint="64 hex digits, as `runner export` has them")
    return text


class Promotion(Part):
    """Where the prompts of this manifest come from, so that what was made can be put beside its origin."""

    job: Annotated[Text, AfterValidator(safe_job_name)] = Field(description="the job that has the original images")
    origins: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_origins)] = Field(
        default={}, description="by prompt id: the keys of the images that it is made again from"
    )
