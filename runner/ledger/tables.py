"""The tables of the ledger.

Owns columns, keys, checks and indices. Refuses to query: rows never leave this package, and hot paths use these tables
through Core statements. Times are milliseconds since 1970 (UTC), money is micro-dollars.
It is long because the whole schema is here, and nothing else.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from runner.tasks import NOT_SENT, Status

STATUSES = ", ".join(f"'{status}'" for status in Status)
OUTCOMES = ("saved", "backoff", "refused", "gave_up", "lost")
BASES = ("usage", "estimate")
VERDICTS = ("left", "right", "both", "neither", "stars")
BATCH_STATES = ("preparing", "sealed", "uploaded", "creating", "submitted", "collected", "dissolved")


NUMBER = BigInteger().with_variant(Integer, "sqlite")
"""The type of what counts rows: SQLite numbers its rows by itself where it is INTEGER, which is as large there."""


def _id() -> Column[int]:
    return Column(NUMBER, primary_key=True)


def _link(target: str, *, nullable: bool = False, unique: bool | None = None) -> Column[int]:
    return Column(NUMBER, ForeignKey(target), nullable=nullable, unique=unique)


def _big(*, nullable: bool = False) -> Column[int]:
    return Column(BigInteger, nullable=nullable)


def _mark() -> Column[int]:
    return Column(Integer, nullable=False, server_default="0")


def _instant() -> Column[float]:
    """Seconds since 1970 by the clock that all who share the ledger go by."""
    return Column(Double, nullable=False, server_default="0")


def _text(*, nullable: bool = False) -> Column[str]:
    return Column(Text, nullable=nullable)


def _partial(name: str, where: str, *columns: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class JobRow(SQLModel, table=True):
    """A manifest's `name`; everything else hangs under it. `revision` counts the versions of what was wanted."""

    __tablename__ = "jobs"
    id: int | None = Field(default=None, sa_column=_id())
    name: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    manifest_path: str | None = Field(sa_column=_text(nullable=True))
    revision: int = Field(default=0)
    digest: str | None = Field(default=None, sa_column=_text(nullable=True))
    wanted: int = Field(default=0)
    created_ms: int = Field(sa_column=_big())
    tidied_revision: int = Field(default=0, sa_column=_mark())
    """The last revision of which every asset was seen under the name that the manifest gives it."""
    offered_run: int = Field(default=0, sa_column=Column(NUMBER, nullable=False, server_default="0"))
    """Every image that a run of another job up to this one has made was offered to what is planned here."""
    output: str | None = Field(default=None, sa_column=_text(nullable=True))
    """The URL of the object store that its files are in; NULL for the folder of whoever runs it."""


class RunRow(SQLModel, table=True):
    """One invocation of `runner run`."""

    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_job", "job_id", "id"),)
    id: int | None = Field(default=None, sa_column=_id())
    job_id: int = Field(sa_column=_link("jobs.id"))
    provider: str
    base_url: str | None = None
    simulated: bool
    host: str
    pid: int
    version: str
    manifest: str = Field(sa_column=_text())
    price_version: str
    started_ms: int = Field(sa_column=_big())
    ended_ms: int | None = Field(default=None, sa_column=_big(nullable=True))
    exit_code: int | None = None
    reason: str | None = Field(default=None, sa_column=_text(nullable=True))


class PromptRow(SQLModel, table=True):
    """The text of a prompt, kept once however many variants it has. `digest` is SHA-256 of the text, in hex."""

    __tablename__ = "prompts"
    id: int | None = Field(default=None, sa_column=_id())
    digest: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    text: str = Field(sa_column=_text())


class EditRow(SQLModel, table=True):
    """What tasks start from, kept once however many do; `digest` is SHA-256 of `spec` and `composite`, in hex.

    `spec` (JSON) is part of the tasks' keys: identities and sizes of the images and of the mask. `composite` is how the
    answers are pasted onto the original; NULL where they are not.
    """

    __tablename__ = "edits"
    id: int | None = Field(default=None, sa_column=_id())
    digest: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    spec: str = Field(sa_column=_text())
    composite: str | None = Field(default=None, sa_column=_text(nullable=True))


class InputRow(SQLModel, table=True):
    """Where a job finds an input of this identity, and how that is made of the file (`recipe`, JSON)."""

    __tablename__ = "inputs"
    __table_args__ = (UniqueConstraint("job_id", "identity", name="uq_inputs_job_identity"),)
    id: int | None = Field(default=None, sa_column=_id())
    job_id: int = Field(sa_column=_link("jobs.id"))
    identity: str = Field(sa_column=_text())
    recipe: str = Field(sa_column=_text())


class TaskRow(SQLModel, table=True):
    """One image that is, or once was, wanted by a job. It is wanted now when `revision` is the job's."""

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("key", "job_id", name="uq_tasks_key_job"),
        CheckConstraint(f"status IN ({STATUSES})", name="ck_tasks_status"),
        CheckConstraint("sample >= 1", name="ck_tasks_sample"),
        Index("ix_tasks_todo", "job_id", "revision", "status", "position"),
    )
    id: int | None = Field(default=None, sa_column=_id())
    job_id: int = Field(sa_column=_link("jobs.id"))
    key: str = Field(sa_column=_text())
    revision: int
    position: int
    status: str
    prompt_id: str = Field(sa_column=_text())
    prompt_row: int = Field(sa_column=_link("prompts.id"))
    model: str
    size: str
    quality: str
    background: str
    output_format: str
    output_compression: int | None = None
    moderation: str
    sample: int
    variant: str = Field(sa_column=_text())
    name: str = Field(sa_column=_text())
    error_code: str | None = Field(default=None, sa_column=_text(nullable=True))
    error_message: str | None = Field(default=None, sa_column=_text(nullable=True))
    edit_row: int | None = Field(default=None, sa_column=_link("edits.id", nullable=True))
    """NULL for an image that starts from nothing."""


class BatchRow(SQLModel, table=True):
    """Many requests that go to the provider as one file. `state` is how far it is here, `status` what is said there.

    `token` is in its metadata and in its file's name, so that it can be found again. `base_url` is NULL at a simulator
    that ends with its run. `output_read` and `error_read` are the bytes of the results that need not be read again.
    """

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint(f"state IN ({', '.join(repr(state) for state in BATCH_STATES)})", name="ck_batches_state"),
        _partial("ix_batches_open", "state NOT IN ('collected', 'dissolved')", "job_id"),
        Index("ix_batches_job", "job_id", "id"),
    )
    id: int | None = Field(default=None, sa_column=_id())
    job_id: int = Field(sa_column=_link("jobs.id"))
    run_id: int = Field(sa_column=_link("runs.id"))
    provider: str
    base_url: str | None = Field(default=None, sa_column=_text(nullable=True))
    simulated: bool
    token: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    endpoint: str
    model: str
    state: str
    status: str | None = None
    requests: int = Field(default=0)
    bytes: int = Field(default=0, sa_column=_big())
    input_file_id: str | None = Field(default=None, sa_column=_text(nullable=True))
    batch_id: str | None = Field(default=None, sa_column=_text(nullable=True))
    output_file_id: str | None = Field(default=None, sa_column=_text(nullable=True))
    error_file_id: str | None = Field(default=None, sa_column=_text(nullable=True))
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    output_read: int = Field(default=0, sa_column=_big())
    error_read: int = Field(default=0, sa_column=_big())
    created_ms: int = Field(sa_column=_big())
    submitted_ms: int | None = Field(default=None, sa_column=_big(nullable=True))
    expires_ms: int | None = Field(default=None, sa_column=_big(nullable=True))
    checked_ms: int | None = Field(default=None, sa_column=_big(nullable=True))
    ended_ms: int | None = Field(default=None, sa_column=_big(nullable=True))
    cancel_ms: int | None = Field(default=None, sa_column=_big(nullable=True))
    given_up_ms: int | None = Field(default=None, sa_column=_big(nullable=True))
    collected_ms: int | None = Field(default=None, sa_column=_big(nullable=True))
    error_code: str | None = Field(default=None, sa_column=_text(nullable=True))
    error_message: str | None = Field(default=None, sa_column=_text(nullable=True))


class RemoteFileRow(SQLModel, table=True):
    """An input that lies at a provider, to be named by its id until it expires (NULL: never)."""

    __tablename__ = "remote_files"
    __table_args__ = (UniqueConstraint("base_url", "identity", name="uq_remote_files_place"),)
    id: int | None = Field(default=None, sa_column=_id())
    base_url: str = Field(sa_column=_text())
    identity: str = Field(sa_column=_text())
    file_id: str = Field(sa_column=_text())
    created_ms: int = Field(sa_column=_big())
    expires_ms: int | None = Field(default=None, sa_column=_big(nullable=True))


class AttemptRow(SQLModel, table=True):
    """One request that may cost money; written before it leaves (law 1).

    `outcome` NULL means that it is under way, or that its run died. One with a `batch_row` is part of that batch, and
    `collected_run` is the run that heard of its end. `doubt_microusd` is what a lost attempt may have
    cost. `received_*` is what was complete on disk under a temporary name before the asset got its own.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        CheckConstraint(f"outcome IN ({', '.join(repr(o) for o in OUTCOMES)})", name="ck_attempts_outcome"),
        CheckConstraint(f"cost_basis IN ({', '.join(repr(b) for b in BASES)})", name="ck_attempts_cost_basis"),
        CheckConstraint("reserved_microusd >= 0", name="ck_attempts_reserved"),
        CheckConstraint("cost_microusd >= 0", name="ck_attempts_cost"),
        CheckConstraint("doubt_microusd >= 0", name="ck_attempts_doubt"),
        CheckConstraint("(outcome IS NULL) = (ended_ms IS NULL)", name="ck_attempts_ended"),
        Index("ix_attempts_task", "task_id"),
        # These have every column of the sums that are asked for, so that no attempt itself is read for them.
        Index("ix_attempts_spent", "job_id", "simulated", "begun_ms", "cost_microusd", "doubt_microusd"),
        Index(
            "ix_attempts_run",
            "run_id",
            "job_id",
            "simulated",
            "batch_row",
            "outcome",
            "cost_microusd",
            "doubt_microusd",
        ),
        _partial(
            "ix_attempts_collected",
            "collected_run IS NOT NULL",
            "collected_run",
            "job_id",
            "simulated",
            "outcome",
            "cost_microusd",
            "doubt_microusd",
        ),
        _partial("ix_attempts_batch", "batch_row IS NOT NULL", "batch_row", "outcome", "id"),
        _partial(
            "ix_attempts_doubt", "doubt_microusd IS NOT NULL", "job_id", "simulated", "ended_ms", "doubt_microusd"
        ),
        _partial("ix_attempts_unsent", f"error_code = '{NOT_SENT}'", "run_id", "error_code"),
        _partial("ix_attempts_edits", "input_image_tokens > 0", "simulated", "id"),
        # What a dead run left open is found without looking at anything else.
        _partial(
            "ix_attempts_open",
            "outcome IS NULL",
            "job_id",
            "batch_row",
            "id",
            "simulated",
            "begun_ms",
            "cost_microusd",
            "reserved_microusd",
            "outcome",
        ),
    )
    id: int | None = Field(default=None, sa_column=_id())
    task_id: int = Field(sa_column=_link("tasks.id"))
    run_id: int = Field(sa_column=_link("runs.id"))
    job_id: int = Field(sa_column=_link("jobs.id"))
    model: str
    simulated: bool
    begun_ms: int = Field(sa_column=_big())
    ended_ms: int | None = Field(default=None, sa_column=_big(nullable=True))
    outcome: str | None = None
    reserved_microusd: int = Field(sa_column=_big())
    cost_microusd: int | None = Field(default=None, sa_column=_big(nullable=True))
    cost_basis: str | None = None
    doubt_microusd: int | None = Field(default=None, sa_column=_big(nullable=True))
    price_version: str
    input_tokens: int | None = Field(default=None, sa_column=_big(nullable=True))
    input_text_tokens: int | None = Field(default=None, sa_column=_big(nullable=True))
    input_image_tokens: int | None = Field(default=None, sa_column=_big(nullable=True))
    output_tokens: int | None = Field(default=None, sa_column=_big(nullable=True))
    total_tokens: int | None = Field(default=None, sa_column=_big(nullable=True))
    usage_json: str | None = Field(default=None, sa_column=_text(nullable=True))
    request_id: str | None = Field(default=None, sa_column=_text(nullable=True))
    http_status: int | None = None
    latency_ms: int | None = Field(default=None, sa_column=_big(nullable=True))
    error_code: str | None = Field(default=None, sa_column=_text(nullable=True))
    error_message: str | None = Field(default=None, sa_column=_text(nullable=True))
    received_sha256: str | None = None
    received_bytes: int | None = Field(default=None, sa_column=_big(nullable=True))
    received_path: str | None = Field(default=None, sa_column=_text(nullable=True))
    batch_row: int | None = Field(default=None, sa_column=_link("batches.id", nullable=True))
    collected_run: int | None = Field(default=None, sa_column=_link("runs.id", nullable=True))


class AssetRow(SQLModel, table=True):
    """The image file of a task that is done. `path` is relative to the output folder.

    `reused_from` names the asset whose bytes were taken over without a request: itself, once that one is gone, and then
    `attempt_id` is the one that paid for it.
    """

    __tablename__ = "assets"
    __table_args__ = (
        CheckConstraint("bytes > 0", name="ck_assets_bytes"),
        CheckConstraint("length(sha256) = 64", name="ck_assets_sha256"),
        _partial("ix_assets_reused", "reused_from IS NOT NULL", "reused_from", "task_id"),
    )
    id: int | None = Field(default=None, sa_column=_id())
    task_id: int = Field(sa_column=_link("tasks.id", unique=True))
    attempt_id: int | None = Field(default=None, sa_column=_link("attempts.id", nullable=True))
    reused_from: int | None = Field(default=None, sa_column=_link("assets.id", nullable=True))
    path: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    sha256: str
    bytes: int = Field(sa_column=_big())
    format: str
    width: int
    height: int
    has_c2pa: bool
    model: str
    simulated: bool
    created_ms: int = Field(sa_column=_big())


class RenditionRow(SQLModel, table=True):
    """A file that was derived from an asset, and can be made again for nothing. `path` is as that of an asset.

    It is up to date while `recipe`, `asset_sha256` and `task_name` are what they would be now.
    """

    __tablename__ = "renditions"
    __table_args__ = (
        UniqueConstraint("task_id", "kind", name="uq_renditions_task_kind"),
        CheckConstraint("bytes > 0", name="ck_renditions_bytes"),
        Index("ix_renditions_path", "path"),
    )
    id: int | None = Field(default=None, sa_column=_id())
    task_id: int = Field(sa_column=_link("tasks.id"))
    kind: str
    recipe: str
    asset_sha256: str
    task_name: str = Field(sa_column=_text())
    path: str = Field(sa_column=_text())
    sha256: str
    bytes: int = Field(sa_column=_big())
    created_ms: int = Field(sa_column=_big())


class ChoiceRow(SQLModel, table=True):
    """What a person has said of two images, or of one (`stars`). The hashes are of what was seen.

    `token` is made by whoever asks, so that a choice that is sent twice counts once. One that was undone stays.
    """

    __tablename__ = "choices"
    __table_args__ = (
        CheckConstraint(f"verdict IN ({', '.join(repr(v) for v in VERDICTS)})", name="ck_choices_verdict"),
        CheckConstraint("stars BETWEEN 1 AND 5", name="ck_choices_stars"),
        CheckConstraint("(verdict = 'stars') = (stars IS NOT NULL)", name="ck_choices_kind"),
        CheckConstraint("(verdict = 'stars') = (right_task IS NULL)", name="ck_choices_sides"),
        Index("ix_choices_job", "job_id", "id"),
    )
    id: int | None = Field(default=None, sa_column=_id())
    job_id: int = Field(sa_column=_link("jobs.id"))
    token: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    reviewer: str = Field(sa_column=_text())
    left_task: int = Field(sa_column=_link("tasks.id"))
    left_sha256: str
    right_task: int | None = Field(default=None, sa_column=_link("tasks.id", nullable=True))
    right_sha256: str | None = None
    verdict: str
    stars: int | None = None
    blind: bool
    created_ms: int = Field(sa_column=_big())
    undone_ms: int | None = Field(default=None, sa_column=_big(nullable=True))


class OriginRow(SQLModel, table=True):
    """An image that was made again, on another model or larger, from a chosen one; both may be of any job."""

    __tablename__ = "origins"
    __table_args__ = (
        UniqueConstraint("task_id", "origin_task", name="uq_origins_pair"),
        Index("ix_origins_origin", "origin_task"),
    )
    id: int | None = Field(default=None, sa_column=_id())
    task_id: int = Field(sa_column=_link("tasks.id"))
    origin_task: int = Field(sa_column=_link("tasks.id"))
    origin_sha256: str
    created_ms: int = Field(sa_column=_big())


class CapRow(SQLModel, table=True):
    """What all jobs of this ledger together may spend in each period; there is one row, or none."""

    __tablename__ = "caps"
    __table_args__ = (
        CheckConstraint("id = 1", name="ck_caps_one"),
        CheckConstraint("microusd >= 0", name="ck_caps_amount"),
        CheckConstraint("per IN ('ever', 'day', 'month')", name="ck_caps_per"),
    )
    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    per: str
    microusd: int = Field(sa_column=_big())
    set_ms: int = Field(sa_column=_big())


class CapPeriodRow(SQLModel, table=True):
    """What counts against the cap in one period: of what was begun in it, costs, doubts, and what is reserved still."""

    __tablename__ = "cap_periods"
    __table_args__ = (UniqueConstraint("simulated", "start_ms", name="uq_cap_periods_start"),)
    id: int | None = Field(default=None, sa_column=_id())
    simulated: bool
    start_ms: int = Field(sa_column=_big())
    end_ms: int = Field(sa_column=_big())
    committed_microusd: int = Field(sa_column=_big())


class PaceRow(SQLModel, table=True):
    """The gates of one provider key, for every run that shares this ledger. `key` is a digest that does not tell it.

    `images`, `requests` and `tokens` are what goes through each gate in a minute: as much as the fastest living run
    believes in; NULL where none knows of such a limit. `lead_s` is how far ahead they book. `*_at` is the instant from
    which a gate owes nothing (GCRA), and `place_at` the one that was answered last. `broke`, `fall`, `passed` and
    `before` are a `rules.pacing.Tempo`, of which `recovery` and `whole` are the curve. It holds no facts: without its
    row it begins anew.
    """

    __tablename__ = "paces"
    id: int | None = Field(default=None, sa_column=_id())
    key: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    images: float | None = None
    requests: float | None = None
    tokens: float | None = None
    lead_s: float
    place_at: float = Field(sa_column=_instant())
    images_at: float = Field(sa_column=_instant())
    requests_at: float = Field(sa_column=_instant())
    tokens_at: float = Field(sa_column=_instant())
    hold_until: float = Field(sa_column=_instant())
    slowed_at: float = Field(sa_column=_instant())
    broke: float
    fall: float
    passed: float
    before: float
    recovery: float
    whole: float


class PacedRunRow(SQLModel, table=True):
    """A run that uses a key: what it believes of each gate, per minute, how far ahead it books; when it said so."""

    __tablename__ = "paced_runs"
    __table_args__ = (UniqueConstraint("pace_row", "run", name="uq_paced_runs_run"),)
    id: int | None = Field(default=None, sa_column=_id())
    pace_row: int = Field(sa_column=_link("paces.id"))
    run: str
    images: float | None = None
    requests: float | None = None
    tokens: float | None = None
    lead_s: float
    seen_at: float = Field(sa_column=_instant())


metadata = SQLModel.metadata
