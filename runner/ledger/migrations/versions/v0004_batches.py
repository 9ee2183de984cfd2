"""Batches: what goes to the provider as one file, and inputs that lie there."""

import sqlalchemy as sa
from alembic import op

from runner.ledger.tables import NUMBER

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATES = "'preparing', 'sealed', 'uploaded', 'creating', 'submitted', 'collected', 'dissolved'"


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("job_id", NUMBER, nullable=False),
        sa.Column("run_id", NUMBER, nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=True),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=True),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=True),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("output_file_id", sa.Text(), nullable=True),
        sa.Column("error_file_id", sa.Text(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("completed", sa.Integer(), nullable=True),
        sa.Column("failed", sa.Integer(), nullable=True),
        sa.Column("output_read", sa.BigInteger(), nullable=False),
        sa.Column("error_read", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("submitted_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("checked_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("cancel_ms", sa.BigInteger(), nullable=True),
        sa.Column("given_up_ms", sa.BigInteger(), nullable=True),
        sa.Column("collected_ms", sa.BigInteger(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.CheckConstraint(f"state IN ({_STATES})", name="ck_batches_state"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token"),
    )
    is_open = sa.text("state NOT IN ('collected', 'dissolved')")
    op.create_index("ix_batches_open", "batches", ["job_id"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_index("ix_batches_job", "batches", ["job_id", "id"])
    op.create_table(
        "remote_files",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("base_url", "identity", name="uq_remote_files_place"),
    )
    for name, target in (("batch_row", "batches.id"), ("collected_run", "runs.id")):
        op.add_column("attempts", sa.Column(name, NUMBER, sa.ForeignKey(target), nullable=True), inline_references=True)
    money = ["outcome", "cost_microusd", "doubt_microusd"]
    op.drop_index("ix_attempts_run", "attempts")
    op.create_index("ix_attempts_run", "attempts", ["run_id", "job_id", "simulated", "batch_row", *money])
    op.drop_index("ix_attempts_open", "attempts")
    open_columns = [
        "job_id",
        "batch_row",
        "id",
        "simulated",
        "begun_ms",
        "cost_microusd",
        "reserved_microusd",
        "outcome",
    ]
    for index, where, columns in (
        ("ix_attempts_collected", "collected_run IS NOT NULL", ["collected_run", "job_id", "simulated", *money]),
        ("ix_attempts_batch", "batch_row IS NOT NULL", ["batch_row", "outcome", "id"]),
        ("ix_attempts_open", "outcome IS NULL", open_columns),
    ):
        op.create_index(index, "attempts", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
