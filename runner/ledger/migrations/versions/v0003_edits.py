"""Edits: what tasks start from, where a job finds its inputs, and files that are derived from assets."""

import sqlalchemy as sa
from alembic import op

from runner.ledger.tables import NUMBER

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "edits",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("composite", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "inputs",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("job_id", NUMBER, nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "identity", name="uq_inputs_job_identity"),
    )
    op.create_table(
        "renditions",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("task_id", NUMBER, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("asset_sha256", sa.String(), nullable=False),
        sa.Column("task_name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("bytes > 0", name="ck_renditions_bytes"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("task_id", "kind", name="uq_renditions_task_kind"),
    )
    op.create_index("ix_renditions_path", "renditions", ["path"])
    op.create_index(
        "ix_attempts_edits",
        "attempts",
        ["simulated", "id"],
        sqlite_where=sa.text("input_image_tokens > 0"),
        postgresql_where=sa.text("input_image_tokens > 0"),
    )
    op.add_column(
        "tasks", sa.Column("edit_row", NUMBER, sa.ForeignKey("edits.id"), nullable=True), inline_references=True
    )
