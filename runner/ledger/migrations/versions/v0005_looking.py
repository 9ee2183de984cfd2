"""What people choose between images, and which images were made again from which."""

import sqlalchemy as sa
from alembic import op

from runner.ledger.tables import NUMBER

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "choices",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("job_id", NUMBER, nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("left_task", NUMBER, nullable=False),
        sa.Column("left_sha256", sa.String(), nullable=False),
        sa.Column("right_task", NUMBER, nullable=True),
        sa.Column("right_sha256", sa.String(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("stars", sa.Integer(), nullable=True),
        sa.Column("blind", sa.Boolean(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("undone_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("verdict IN ('left', 'right', 'both', 'neither', 'stars')", name="ck_choices_verdict"),
        sa.CheckConstraint("stars BETWEEN 1 AND 5", name="ck_choices_stars"),
        sa.CheckConstraint("(verdict = 'stars') = (stars IS NOT NULL)", name="ck_choices_kind"),
        sa.CheckConstraint("(verdict = 'stars') = (right_task IS NULL)", name="ck_choices_sides"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.ForeignKeyConstraint(["left_task"], ["tasks.id"]),
        sa.ForeignKeyConstraint(["right_task"], ["tasks.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token"),
    )
    op.create_index("ix_choices_job", "choices", ["job_id", "id"])
    op.create_table(
        "origins",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("task_id", NUMBER, nullable=False),
        sa.Column("origin_task", NUMBER, nullable=False),
        sa.Column("origin_sha256", sa.String(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"]),
        sa.ForeignKeyConstraint(["origin_task"], ["tasks.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("task_id", "origin_task", name="uq_origins_pair"),
    )
    op.create_index("ix_origins_origin", "origins", ["origin_task"])
