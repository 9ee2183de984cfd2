"""What happens in a run, as values: the progress bar, `--json` and the log all listen to the same ones.

Owns the vocabulary. Amounts are micro-dollars, times are seconds. `name` is the file's name in the manifest's words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RunBegan:
    """Everything is ready and the first request may leave."""

    job: str
    run_id: int
    provider: str
    simulated: bool
    wanted: int
    done: int
    to_do: int
    images_per_minute: float | None
    concurrency: int
    cap_microusd: int | None
    committed_microusd: int
    delivery: str = "online"
    submitted: int = 0
    """Tasks that the provider works on in batches already."""


@dataclass(frozen=True, slots=True)
class Reused:
    """A task is done without a request: another job has made this very image."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Adopted:
    """An image that a dead run had received was found whole and taken over."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class FoundInDoubt:
    """A dead run had sent this request; the provider may have billed it."""

    name: str
    in_doubt_microusd: int


@dataclass(frozen=True, slots=True)
class AttemptBegan:
    """A request is on record and leaves."""

    name: str
    attempt_id: int
    model: str
    reserved_microusd: int


@dataclass(frozen=True, slots=True)
class Saved:
    """An image is done: on disk and on record."""

    name: str
    attempt_id: int
    path: str
    prompt_id: str
    model: str
    bytes: int
    latency_s: float | None
    """From the request to the whole image; None for one that came in a batch."""
    cost_microusd: int
    cost_basis: str
    batch: int | None = None
    """The batch that it came in, by its number in the ledger."""


@dataclass(frozen=True, slots=True)
class Composed:
    """The masked part of an image was pasted onto its original: a file beside it, at `path`."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class RenderingBegan:
    """Renditions are about to be made of so many images, by themselves and not beside a run."""

    job: str
    images: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """Renditions of an image, or its thumbnail, were made: files beside it, by their kinds."""

    name: str
    kinds: list[str]


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A request brought no image. `retry_in_s` None means that it is not tried again in this run."""

    name: str
    attempt_id: int
    status: str
    code: str
    message: str
    http_status: int | None
    request_id: str | None
    cost_microusd: int
    in_doubt_microusd: int
    retry_in_s: float | None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class BatchSubmitted:
    """The provider has a batch: `batch` is its number in the ledger, `batch_id` the provider's own name for it."""

    batch: int
    batch_id: str
    model: str
    endpoint: str
    requests: int
    reserved_microusd: int
    expires: str | None
    """When it is given up by the provider: ISO 8601, UTC."""
    found: bool
    """Whether it had been submitted before, by a run that died."""


@dataclass(frozen=True, slots=True)
class BatchWaits:
    """How far a batch is, by the provider's own count."""

    batch: int
    batch_id: str
    status: str
    requests: int
    completed: int
    failed: int
    age_s: float


@dataclass(frozen=True, slots=True)
class BatchCollected:
    """A batch is over and all that it brought is on disk and on record. The counts are of its requests."""

    batch: int
    batch_id: str
    status: str
    saved: int
    refused: int
    failed: int
    planned: int
    in_doubt: int
    cost_microusd: int
    in_doubt_microusd: int


@dataclass(frozen=True, slots=True)
class BatchNotRun:
    """The provider did not take a batch, or none of it was run: its requests are planned again, or refused."""

    batch: int
    batch_id: str | None
    code: str
    message: str
    requests: int


@dataclass(frozen=True, slots=True)
class Held:
    """Nobody leaves for a while: the provider said "slower", or (`outage`) it has been failing for everyone."""

    wait_s: float
    message: str
    outage: bool = False


@dataclass(frozen=True, slots=True)
class Warned:
    """Something a person should know, and that stops nothing."""

    message: str


@dataclass(frozen=True, slots=True)
class Notified:
    """Someone was told how the run ended: `by` is `command` or `webhook`, `to` the program or `https://host/…`."""

    by: str
    to: str
    tries: int


@dataclass(frozen=True, slots=True)
class Stopping:
    """No further request leaves; what is in flight is finished, or, with `immediate`, given up as in doubt."""

    reason: str
    in_flight: int
    immediate: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A second has passed: a display can be brought up to date. Neither logged nor printed."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended. Counts are of the tasks that are wanted; `requests` and money without `job_` are this run's.

    `in_doubt_` is what this run put on record as in doubt: its own requests, and those that a dead run had left open.

    Of a simulated run the money is in the `simulated_` fields, and the others are 0: nothing real was spent.
    """

    job: str
    run_id: int | None
    provider: str
    simulated: bool
    wanted: int
    done: int
    made: int
    reused: int
    planned: int
    failed: int
    refused: int
    in_doubt: int
    requests: int
    cost_usd: float
    in_doubt_usd: float
    simulated_cost_usd: float
    simulated_in_doubt_usd: float
    cost_microusd: int
    in_doubt_microusd: int
    job_cost_usd: float
    job_in_doubt_usd: float
    elapsed_s: float
    exit_code: int
    reason: str
    images: str
    ledger: str
    composites: int = 0
    """Made in this run; `composites_failed` could not be."""
    composites_failed: int = 0
    renditions: int = 0
    """Made in this run, the gallery's thumbnails among them; `renditions_failed` could not be."""
    renditions_failed: int = 0
    submitted: int = 0
    """Of the wanted tasks, those that the provider works on in a batch: they are no longer `planned`."""
    batches: int = 0
    """Of this job that are not collected yet."""
    problems: list[dict[str, object]] = field(default_factory=list)


Event = (
    RunBegan
    | Reused
    | Adopted
    | FoundInDoubt
    | AttemptBegan
    | Saved
    | Composed
    | RenderingBegan
    | Rendered
    | AttemptFailed
    | BatchSubmitted
    | BatchWaits
    | BatchCollected
    | BatchNotRun
    | Held
    | Warned
    | Notified
    | Stopping
    | Heartbeat
    | Summary
)
Listener = Callable[[Event], None]
