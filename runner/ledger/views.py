"""What the ledger gives to whoever looks at images and judges them, and what they give to it: frozen values.

Money is micro-dollars, times are milliseconds since 1970 (UTC), paths are relative to the output folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runner.tasks import Status


@dataclass(frozen=True, slots=True)
class Tile:
    """A wanted task as it is looked at. Paths are relative to the output folder; `variant` is as in `Task`.

    `key` is the task's. `model` is the one that made the image, `wanted_model` the one that is asked for. Money is
    micro-dollars over all attempts. `thumbnail` is there only while it is up to date.
    """

    task_id: int
    key: str
    position: int
    name: str
    prompt_id: str
    prompt: str
    variant: tuple[tuple[str, str], ...]
    wanted_model: str
    size: str
    quality: str
    background: str
    output_format: str
    output_compression: int | None
    moderation: str
    sample: int
    status: Status
    error_code: str | None
    error_message: str | None
    model: str | None
    path: str | None
    sha256: str | None
    bytes: int | None
    width: int | None
    height: int | None
    simulated: bool | None
    created_ms: int | None
    has_edit: bool
    cost_microusd: int
    in_doubt_microusd: int
    composite: str | None
    thumbnail: str | None


@dataclass(frozen=True, slots=True)
class Relative:
    """The other side of a promotion: what an image of this job was made from (`before`), or what it became (`after`).

    `task_id` is the job's own task; all else is of the other one. `path` and `thumbnail` are None while it is not done.
    """

    task_id: int
    side: Literal["before", "after"]
    other_task: int
    job: str
    key: str
    prompt_id: str
    model: str
    size: str
    quality: str
    status: Status
    path: str | None
    width: int | None
    height: int | None
    thumbnail: str | None
    cost_microusd: int


Verdict = Literal["left", "right", "both", "neither", "stars"]


@dataclass(frozen=True, slots=True)
class NewChoice:
    """What a person says of two images, or of one by `stars` (1 to 5, and no `right`). `token` makes it count once."""

    reviewer: str
    left: int
    right: int | None
    verdict: Verdict
    stars: int | None
    blind: bool
    token: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice on record. `left` and `right` are tasks; `is_current` while their images are still those seen."""

    id: int
    reviewer: str
    left: int
    right: int | None
    verdict: Verdict
    stars: int | None
    blind: bool
    token: str
    created_ms: int
    is_current: bool
