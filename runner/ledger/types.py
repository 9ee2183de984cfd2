"""What the ledger takes and gives: frozen values, so that rows never leave the package.

Money is micro-dollars, times are milliseconds since 1970 (UTC).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from runner.errors import Usage
from runner.tasks import Edit, ImageRequest, Source, Status

By = Literal["job", "day", "model", "size", "quality"]
"""What spending can be grouped by."""


class Nonsense(Exception):
    """A value on record that nobody has written: the ledger is damaged."""


def status_of(text: str) -> Status:
    """The status that a row says; raises Nonsense."""
    try:
        return Status(text)
    except ValueError:
        raise Nonsense(f"{text!r} is no status") from None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the ledger knows it."""

    id: int
    name: str
    manifest_path: str | None
    revision: int
    digest: str | None
    wanted: int
    output: str | None = None
    """The URL below which its files lie, None for a folder."""


@dataclass(frozen=True, slots=True)
class RunStart:
    """What is written down about a run when it begins."""

    provider: str
    base_url: str | None
    simulated: bool
    host: str
    pid: int
    version: str
    manifest: str
    price_version: str


@dataclass(frozen=True, slots=True)
class Todo:
    """A task that is free to be begun."""

    task_id: int
    position: int
    key: str
    prompt_id: str
    sample: int
    request: ImageRequest
    name: str
    sources: tuple[Source, ...] = ()
    """Those of the edit's images, and its mask's after them."""


@dataclass(frozen=True, slots=True)
class Begin:
    """An attempt that is about to be made."""

    task_id: int
    run_id: int
    job_id: int
    model: str
    simulated: bool
    reserved_microusd: int
    price_version: str
    now_ms: int


class Hindrance(StrEnum):
    """Why a request may not be begun; nothing of it is on record then."""

    SUPERSEDED = "superseded"
    """A newer run of the same job is on record: this one has lost the job."""
    ELSEWHERE = "elsewhere"
    """Another job has made this very image since, or its run is making it now."""
    CAPPED = "capped"
    """The ledger's cap could be passed."""


CapPer = Literal["ever", "day", "month"]
"""The periods of a ledger's cap."""


@dataclass(frozen=True, slots=True)
class Cap:
    """What all jobs of a ledger together may spend in each period."""

    per: CapPer
    microusd: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What counts against the cap in the period that began at `start_ms`: costs, doubts, and what is reserved."""

    simulated: bool
    start_ms: int
    microusd: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What an attempt was billed: from its `usage`, or, where none was told, an estimate."""

    microusd: int
    basis: str
    usage: Usage | None = None
    usage_json: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """How an attempt's request went, whatever came of it."""

    request_id: str | None = None
    http_status: int | None = None
    latency_ms: int | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class File:
    """An asset's file. `path` is relative to the output folder."""

    path: str
    sha256: str
    bytes: int
    format: str
    width: int
    height: int
    has_c2pa: bool


@dataclass(frozen=True, slots=True)
class Orphan:
    """A task that a dead run left running, with its open attempt and what that had received."""

    task_id: int
    name: str
    request: ImageRequest
    attempt_id: int
    model: str
    simulated: bool
    reserved_microusd: int
    cost_microusd: int | None
    received_sha256: str | None
    received_path: str | None


@dataclass(frozen=True, slots=True)
class Reusable:
    """A planned task whose very image another job has made."""

    task_id: int
    position: int
    name: str
    asset_id: int
    file: File
    model: str
    simulated: bool
    output: str | None = None
    """The URL that `file.path` is relative to, None for a folder."""


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A done task whose asset does not lie under the name that the manifest now gives it."""

    task_id: int
    position: int
    name: str
    asset_id: int
    file: File


@dataclass(frozen=True, slots=True)
class Wanting:
    """A done task whose composite is not there or not up to date; `old_path` is that of one that is to be replaced.

    `digest` is that of `recipe` among other things, and is put on record with what was made.
    """

    asset_id: int
    task_id: int
    name: str
    path: str
    sha256: str
    digest: str
    recipe: str
    old_path: str | None


@dataclass(frozen=True, slots=True)
class Lacking:
    """A done task some of whose renditions are not there or not up to date, by their kinds.

    `old_paths` has, by kind, those that are to be replaced.
    """

    asset_id: int
    task_id: int
    name: str
    path: str
    sha256: str
    kinds: tuple[str, ...]
    old_paths: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rendition:
    """A file that was derived from an asset. `path` is relative to the output folder.

    `recipe` is a digest of how it was made; `asset_sha256` and `task_name` tell of what, and under which name.
    """

    task_id: int
    kind: str
    recipe: str
    asset_sha256: str
    task_name: str
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What an edit took: the model that was asked, what it started from, and the image tokens that were billed."""

    model: str
    edit: Edit
    input_image_tokens: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """An asset with the task that it is of. `wanted` is whether the job still wants that; `name` is the task's."""

    asset_id: int
    task_id: int
    job: str
    name: str
    status: Status
    wanted: bool
    file: File


@dataclass(frozen=True, slots=True)
class Paid:
    """What an asset's image was asked for, and what that cost, whichever job paid; None where that is not known."""

    asset_id: int
    request: ImageRequest
    simulated: bool
    cost_microusd: int | None
    reserved_microusd: int | None


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two things on record that cannot both be true. `name` is the task's, where it is about one."""

    job: str
    name: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Spending:
    """What counts against a cap. `reserved_microusd` is set aside for what the provider works on in batches."""

    settled_microusd: int
    in_doubt_microusd: int
    reserved_microusd: int = 0


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch that is about to be filled with tasks; `base_url` None at a simulator that ends with its run."""

    job_id: int
    run_id: int
    provider: str
    base_url: str | None
    simulated: bool
    token: str
    endpoint: str
    model: str
    price_version: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it is on record: `state` is how far it is here, `status` the provider's own word for it.

    The states in their order: preparing, sealed, uploaded, creating, submitted, collected; or dissolved.
    """

    id: int
    job_id: int
    run_id: int
    provider: str
    base_url: str | None
    simulated: bool
    token: str
    endpoint: str
    model: str
    state: str
    status: str | None
    requests: int
    bytes: int
    input_file_id: str | None
    batch_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    total: int | None
    completed: int | None
    failed: int | None
    output_read: int
    error_read: int
    created_ms: int
    submitted_ms: int | None
    expires_ms: int | None
    checked_ms: int | None
    ended_ms: int | None
    cancel_ms: int | None
    """When a person has asked for its end; `given_up_ms` is when a run has, because it took too long."""
    given_up_ms: int | None
    collected_ms: int | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """What the provider has said of a batch. Times are milliseconds since 1970."""

    status: str
    output_file_id: str | None
    error_file_id: str | None
    total: int | None
    completed: int | None
    failed: int | None
    expires_ms: int | None
    ended_ms: int | None


@dataclass(frozen=True, slots=True)
class Member:
    """One request of a batch whose answer is not known yet. `wanted` is whether the job still wants its image."""

    attempt_id: int
    task_id: int
    batch: int
    run_id: int
    key: str
    name: str
    prompt_id: str
    wanted: bool
    request: ImageRequest
    model: str
    simulated: bool
    reserved_microusd: int
    begun_ms: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch's requests; money in micro-dollars. Nobody has worked on `untried` ones."""

    saved: int
    refused: int
    failed: int
    planned: int
    in_doubt: int
    cost_microusd: int
    in_doubt_microusd: int
    untried: int = 0
